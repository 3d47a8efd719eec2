//! A finished draft and the spans to rewrite as parts of a canvas: what stays, to the character, and
//! what the model writes anew.

use crate::assist::canvas::Part;
use crate::assist::draft::EditRequest;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::tokenizer::TokenizerError;

/// The parts of a rewrite, and what each open one must not begin with.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// The whole text, kept and open.
    pub parts: Vec<Part>,
    /// For each open part the tokens that the old words began with: others are wanted.
    pub old: Vec<Vec<u32>>,
}

impl Rewrite {
    /// Cuts the draft at its spans. White space at the edges of a span stays as it is.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(request: &EditRequest, tokenizer: &Tokenizer) -> Result<Rewrite, TokenizerError> {
        let text: Vec<char> = request.text.chars().collect();
        let spans: Vec<(usize, usize)> = request.spans.iter().map(|span| words_of(&text, *span)).collect();
        let stays = kept(&text, &spans);
        let mut wanted: Vec<&str> =
            request.must_include.iter().map(|t| t.trim()).filter(|t| !stays.contains(t)).collect();
        let mut rewrite = Rewrite::default();
        let mut from = 0;
        for (start, end) in spans {
            rewrite.keep(&text, from..start, &request.quotes);
            let old: String = text[start..end].iter().collect();
            let (mut plain, mut spaced) = (Vec::new(), Vec::new());
            tokenizer.encode(&old, &mut plain)?;
            tokenizer.encode(&format!(" {old}"), &mut spaced)?;
            let tokens = spaced.len().clamp(1, request.max_tokens.unwrap_or(usize::MAX).max(1));
            rewrite.parts.push(Part::Open { tokens, is_spaced: false });
            rewrite.old.push(plain.first().into_iter().chain(spaced.first()).copied().collect());
            // What must be said is said in the first span.
            for text in wanted.drain(..) {
                rewrite.parts.push(Part::Fixed { text: format!(" {text}"), is_quote: false });
            }
            from = end;
        }
        rewrite.keep(&text, from..text.len(), &request.quotes);
        Ok(rewrite)
    }

    /// Adds a stretch that stays; the quotes that it holds whole stay quotes.
    fn keep(&mut self, text: &[char], range: std::ops::Range<usize>, quotes: &[(usize, usize)]) {
        let mut from = range.start;
        let held = quotes.iter().filter(|(start, end)| range.start <= *start && *end <= range.end);
        for &(start, end) in held {
            self.fix(&text[from..start], false);
            self.fix(&text[start..end], true);
            from = end;
        }
        self.fix(&text[from..range.end], false);
    }

    fn fix(&mut self, text: &[char], is_quote: bool) {
        if !text.is_empty() {
            self.parts.push(Part::Fixed { text: text.iter().collect(), is_quote });
        }
    }
}

/// Returns the span without the white space at its edges.
fn words_of(text: &[char], (start, end): (usize, usize)) -> (usize, usize) {
    let old = &text[start..end];
    let before = old.iter().take_while(|c| c.is_whitespace()).count();
    let after = old[before..].iter().rev().take_while(|c| c.is_whitespace()).count();
    (start + before, end - after)
}

/// Returns what stands outside the spans; a line break stands for each of them.
fn kept(text: &[char], spans: &[(usize, usize)]) -> String {
    let mut stays = String::new();
    let mut from = 0;
    for &(start, end) in spans {
        stays.extend(&text[from..start]);
        stays.push('\n');
        from = end;
    }
    stays.extend(&text[from..]);
    stays
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assist::draft::DraftRequest;

    fn request(text: &str, spans: &[(usize, usize)]) -> EditRequest {
        EditRequest {
            context: DraftRequest {
                turns: vec![],
                cards: vec![],
                instruction: None,
                claim: Default::default(),
            },
            text: text.to_owned(),
            quotes: vec![],
            spans: spans.to_vec(),
            must_include: vec![],
            forbid: vec![],
            max_tokens: None,
        }
    }

    fn tokenizer() -> Tokenizer {
        let texts = ["we can pay the whole bill in parts today"];
        Tokenizer::train(texts.into_iter(), 300, &["<|mask|>", "<|end|>"]).expect("trains")
    }

    /// The kept characters, with `_` for each open part.
    fn shape(rewrite: &Rewrite) -> String {
        rewrite.parts.iter().fold(String::new(), |shape, part| match part {
            Part::Fixed { text, .. } => shape + text,
            Part::Open { .. } => shape + "_",
        })
    }

    #[test]
    fn what_is_outside_the_spans_stays_to_the_character() {
        let tokenizer = tokenizer();
        let edit = request("we can  pay today", &[(2, 6), (8, 12)]);
        let rewrite = Rewrite::new(&edit, &tokenizer).expect("cuts");
        assert_eq!(shape(&rewrite), "we _  _ today");
        assert_eq!(rewrite.old.len(), 2);
    }

    #[test]
    fn what_must_be_included_counts_only_outside_the_spans() {
        let tokenizer = tokenizer();
        let mut edit = request("we can pay today", &[(3, 6)]);
        edit.must_include = vec!["can".to_owned(), "today".to_owned()];
        assert_eq!(shape(&Rewrite::new(&edit, &tokenizer).expect("cuts")), "we _ can pay today");
    }

    #[test]
    fn untouched_quotes_stay_quotes() {
        let tokenizer = tokenizer();
        let mut edit = request("we can pay the bill today", &[(0, 2)]);
        edit.quotes = vec![(0, 6), (7, 19)];
        let rewrite = Rewrite::new(&edit, &tokenizer).expect("cuts");
        let quoted: Vec<&str> = rewrite
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Fixed { text, is_quote: true } => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(quoted, ["pay the bill"], "the first was cut by the span");
        assert_eq!(shape(&rewrite), "_ can pay the bill today");
    }
}
