//! The canvas of a draft: fixed parts that stand verbatim, open parts that the model writes.
//!
//! The text of a fixed part is kept as characters, so what is quoted, or what an edit does not
//! touch, comes out exactly as it went in whatever the tokenizer does.

use std::ops::Range;

use crate::engine::tokenizer::Tokenizer;
use crate::engine::tokenizer::TokenizerError;

/// A stretch of the canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Stands as it is.
    Fixed {
        /// Its characters.
        text: String,
        /// Whether it is quoted from a card.
        is_quote: bool,
    },
    /// The model writes here; space around its words is taken off.
    Open {
        /// How many tokens.
        tokens: usize,
        /// Whether a space parts it from what stands before.
        is_spaced: bool,
    },
}

/// Parts laid out as tokens.
#[derive(Debug, Clone)]
pub struct Canvas {
    /// The parts and where their tokens are.
    pub parts: Vec<(Part, Range<usize>)>,
    /// Tokens, `None` where the model writes.
    pub tokens: Vec<Option<u32>>,
}

/// A canvas as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// What will not change.
    pub text: String,
    /// What follows it and may.
    pub tentative: String,
    /// Quoted stretches of both together, in Unicode scalar values.
    pub quotes: Vec<(usize, usize)>,
}

impl Canvas {
    /// Lays out parts.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(parts: Vec<Part>, tokenizer: &Tokenizer) -> Result<Canvas, TokenizerError> {
        let mut canvas = Canvas { parts: Vec::new(), tokens: Vec::new() };
        let mut parts = parts.into_iter().peekable();
        while let Some(part) = parts.next() {
            let start = canvas.tokens.len();
            match &part {
                Part::Fixed { text, .. } => {
                    // A word's token holds the space before it, so the model does not see that one.
                    let is_before_open = matches!(parts.peek(), Some(Part::Open { .. }));
                    let mut ids = Vec::new();
                    tokenizer.encode(if is_before_open { text.trim_end() } else { text }, &mut ids)?;
                    canvas.tokens.extend(ids.into_iter().map(Some));
                }
                Part::Open { tokens, .. } => canvas.tokens.resize(start + tokens, None),
            }
            canvas.parts.push((part, start..canvas.tokens.len()));
        }
        Ok(canvas)
    }

    /// Returns the token ranges that the model writes.
    pub fn open(&self) -> impl Iterator<Item = Range<usize>> {
        self.parts
            .iter()
            .filter(|(part, _)| matches!(part, Part::Open { .. }))
            .map(|(_, range)| range.clone())
    }

    /// Returns the text of `ids`, the canvas as the engine gave it, of which the first `settled` are final.
    ///
    /// An end of text in an open part ends that part.
    pub fn render(
        &self,
        ids: &[u32],
        settled: usize,
        tokenizer: &Tokenizer,
        mask: u32,
        end: u32,
    ) -> Rendered {
        let mut rendered = Rendered::default();
        let mut chars = 0;
        for (part, range) in &self.parts {
            let mut piece = match part {
                // The very first character of a draft is the space before its first word.
                Part::Fixed { text, .. } if chars == 0 => text.trim_start().to_owned(),
                Part::Fixed { text, .. } => text.clone(),
                Part::Open { .. } => {
                    let ids = ids.get(range.clone()).unwrap_or(&[]);
                    tokenizer.decode_masked(ids, mask, &[end]).trim().to_owned()
                }
            };
            if matches!(part, Part::Open { is_spaced: true, .. }) && chars > 0 && !piece.is_empty() {
                piece.insert(0, ' ');
            }
            let length = piece.chars().count();
            if let Part::Fixed { is_quote: true, text } = part {
                let margin = text.chars().take_while(|c| c.is_whitespace()).count().min(length);
                let margin = if chars == 0 { 0 } else { margin };
                rendered.quotes.push((chars + margin, chars + length));
            }
            chars += length;
            if range.end <= settled && rendered.tentative.is_empty() {
                rendered.text.push_str(&piece);
            } else {
                rendered.tentative.push_str(&piece);
            }
        }
        rendered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::tokenizer::MASK_CHAR;

    fn tokenizer() -> Tokenizer {
        let texts = ["it costs twenty five euros a month and no more"];
        Tokenizer::train(texts.into_iter(), 300, &["<|mask|>", "<|end|>"]).expect("trains")
    }

    #[test]
    fn fixed_parts_come_out_verbatim_and_masks_are_shown() {
        let tokenizer = tokenizer();
        let quote = " “Ünïcode” – stays 25 €.".to_owned();
        let open = |tokens| Part::Open { tokens, is_spaced: true };
        let parts = vec![open(2), Part::Fixed { text: quote, is_quote: true }, open(3)];
        let canvas = Canvas::new(parts, &tokenizer).expect("lays out");
        let mut ids: Vec<u32> = canvas.tokens.iter().map(|t| t.unwrap_or(0)).collect();
        let before = canvas.render(&ids, 0, &tokenizer, 0, 1);
        assert_eq!(before.tentative, "░░ “Ünïcode” – stays 25 €. ░░░");
        assert_eq!(before.quotes, [(3, 26)]);
        let mut hello = Vec::new();
        tokenizer.encode(" it", &mut hello).expect("encodes");
        let last = ids.len() - 3;
        ids[0] = hello[0];
        ids[1] = hello[0];
        ids[last..].copy_from_slice(&[hello[0], 1, 0]);
        let after = canvas.render(&ids, ids.len(), &tokenizer, 0, 1);
        assert!(after.text.contains("“Ünïcode” – stays 25 €."), "{after:?}");
        assert!(!after.text.contains(MASK_CHAR) && after.tentative.is_empty());
    }
}
