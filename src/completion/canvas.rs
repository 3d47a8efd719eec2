//! What stands and what the model writes, as tokens; and what the tokens read as, as they settle.
//!
//! What stands is never read back from tokens, so it stays as it was to the byte whatever the
//! tokenizer does. What is written is text as far as it is settled: characters of which not all
//! bytes are there yet are held back, and so is what may become a stop text.

use std::ops::Range;

use crate::completion::chat::Prompt;
use crate::engine::config::Attention;
use crate::engine::handle::Snapshot;
use crate::engine::sequence::Form;
use crate::engine::tokenizer::MASK_CHAR;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::tokenizer::TokenizerError;

/// What the tokenizer gives for bytes that are no whole character.
const BROKEN_CHAR: char = '\u{fffd}';

/// A stretch of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Stands as it is.
    Fixed(String),
    /// The model writes up to this many tokens.
    Open(usize),
}

/// A prompt and parts, laid out as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    /// The tokens before the first that is written.
    pub prompt: Vec<u32>,
    /// What follows: tokens that stand, and `None` where the model writes.
    pub tokens: Vec<Option<u32>>,
    /// What the model wants of it; its block length is the request's.
    pub form: Form,
    /// How many tokens were given, without what fills the last block.
    pub given: usize,
    holes: Vec<Hole>,
    is_open_ended: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Hole {
    /// Where it is in the canvas's tokens.
    range: Range<usize>,
    /// Whether the space before its first word stands before the hole already.
    drops_space: bool,
}

/// What ends texts, and what is masked.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The id of a masked token.
    pub mask: u32,
    /// Ids that end a text.
    pub ends: &'a [u32],
    /// Texts that end a text before them.
    pub stop: &'a [String],
}

/// What the model wrote into one open part, as it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Written {
    /// What will not change; it only grows.
    pub text: String,
    /// What follows in the block being denoised and may change; each masked token is one [`MASK_CHAR`].
    pub tentative: String,
    /// Tokens of the settled text.
    pub tokens: usize,
    /// Whether nothing more comes.
    pub is_complete: bool,
    /// Whether it is complete because the model ended it or a stop text came, not for its length.
    pub is_ended: bool,
    /// The mean of the logarithms of the confidences of its tokens, its end included.
    pub mean_log_probability: f32,
}

impl Written {
    /// Returns why it ended, in OpenAI's words.
    pub fn finish_reason(&self) -> &'static str {
        if self.is_ended { "stop" } else { "length" }
    }
}

impl Canvas {
    /// Lays out parts after a prompt.
    ///
    /// A token of a word holds the space before it. Where a fixed part ends with a space that space
    /// is left to the open part's first token, and taken off again when that is read.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn new(
        prompt: &Prompt,
        parts: &[Part],
        tokenizer: &Tokenizer,
        form: Form,
    ) -> Result<Canvas, TokenizerError> {
        let mut all: Vec<Option<u32>> = prompt.ids.iter().copied().map(Some).collect();
        let mut holes = Vec::new();
        let mut drops_space = prompt.begins_with_space || prompt.ids.is_empty();
        for (i, part) in parts.iter().enumerate() {
            match part {
                Part::Fixed(text) => {
                    let is_before_hole = matches!(parts.get(i + 1), Some(Part::Open(_)));
                    let kept = text.strip_suffix(' ').filter(|_| is_before_hole);
                    let mut ids = Vec::new();
                    tokenizer.encode(kept.unwrap_or(text), &mut ids)?;
                    all.extend(ids.into_iter().map(Some));
                    drops_space = if text.is_empty() { drops_space } else { kept.is_some() };
                }
                Part::Open(tokens) => {
                    holes.push(Hole { range: all.len()..all.len() + tokens, drops_space });
                    all.resize(all.len() + tokens, None);
                    drops_space = false;
                }
            }
        }
        let given = all.iter().flatten().count();
        let is_open_ended = matches!(parts.last(), Some(Part::Open(_))) && holes.len() == 1;
        if !matches!(parts.last(), Some(Part::Open(_))) && form.attention == Attention::BlockCausal {
            // Nobody reads the rest of the last block, so nobody waits for it.
            let end = all.len();
            for i in end..end.next_multiple_of(form.block) {
                all.push(Some(if i == end { form.end_of_text } else { form.pad }));
            }
        }
        let first = holes.first().map_or(all.len(), |hole| hole.range.start);
        let tokens = all.split_off(first);
        for hole in &mut holes {
            hole.range = hole.range.start - first..hole.range.end - first;
        }
        let prompt = all.into_iter().flatten().collect();
        Ok(Canvas { prompt, tokens, form, given, holes, is_open_ended })
    }

    /// Returns whether the one open part is the last, so that the model may end the text.
    pub fn is_open_ended(&self) -> bool {
        self.is_open_ended
    }

    /// Returns what stands in each open part of the canvas as the engine gives it.
    pub fn read(&self, snapshot: &Snapshot, reading: Reading<'_>) -> Vec<Written> {
        let settled = if snapshot.is_done { snapshot.canvas.len() } else { snapshot.settled };
        // Where the block being denoised ends: with full attention blocks count from the prompt's end.
        let first = if self.form.attention == Attention::Full { 0 } else { self.prompt.len() };
        let block_end = ((first + settled) / self.form.block + 1) * self.form.block - first;
        self.holes.iter().map(|hole| hole.read(snapshot, settled, block_end, reading)).collect()
    }
}

impl Hole {
    fn read(&self, snapshot: &Snapshot, settled: usize, block_end: usize, reading: Reading<'_>) -> Written {
        let ids = snapshot.canvas.get(self.range.clone()).unwrap_or(&[]);
        let confidences = snapshot.confidences.get(self.range.clone()).unwrap_or(&[]);
        let settled = settled.clamp(self.range.start, self.range.end) - self.range.start;
        let settled = settled.min(ids.len());
        let is_over = |id: &u32| reading.ends.contains(id) || *id == reading.mask;
        let end = ids[..settled].iter().position(is_over);
        let kept = &ids[..end.unwrap_or(settled)];
        let mut is_ended = end.is_some();
        let mut is_complete = is_ended || settled == self.range.len();

        let whole = self.without_space(reading.tokenizer.decode(kept));
        let stop = reading.stop.iter().filter_map(|stop| whole.find(stop.as_str())).min();
        is_ended |= stop.is_some();
        is_complete |= stop.is_some();
        let length = match stop {
            Some(at) => at,
            None if is_complete => whole.len(),
            None => certain(&whole, reading.stop),
        };
        let mut tentative = String::new();
        if !is_complete {
            let visible = block_end.clamp(self.range.start, self.range.end) - self.range.start;
            tentative.push_str(&whole[length..]);
            tentative.push_str(&reading.tokenizer.decode_masked(
                &ids[settled..visible.max(settled)],
                reading.mask,
                reading.ends,
            ));
            if whole.is_empty() {
                tentative = self.without_space(tentative);
            }
            tentative = tentative.replace(BROKEN_CHAR, &MASK_CHAR.to_string());
        }
        let counted = &confidences[..confidences.len().min(kept.len() + usize::from(end.is_some()))];
        let logs: f32 = counted.iter().map(|confidence| confidence.max(1e-9).ln()).sum();
        let mut text = whole;
        text.truncate(length);
        Written {
            text,
            tentative,
            tokens: kept.len(),
            is_complete,
            is_ended,
            mean_log_probability: logs / counted.len().max(1) as f32,
        }
    }

    fn without_space(&self, mut text: String) -> String {
        if self.drops_space && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }
}

/// Returns how much of a text that goes on will stay: not a character in the making, not what may
/// become a stop text.
fn certain(text: &str, stops: &[String]) -> usize {
    let text = text.trim_end_matches(BROKEN_CHAR);
    let beginning = |stop: &String| {
        let ends = stop.char_indices().skip(1).map(|(at, _)| at);
        ends.filter(|at| text.ends_with(&stop[..*at])).max().unwrap_or(0)
    };
    text.len() - stops.iter().map(beginning).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sequence::CacheMode;

    const MASK: u32 = 0;
    const END: u32 = 1;

    fn tokenizer() -> Tokenizer {
        let texts = ["dear customer your order is on the way and it costs nothing"];
        Tokenizer::train(texts.into_iter(), 300, &["<|mask|>", "<|end|>", "<|pad|>"]).expect("trains")
    }

    fn ids(text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        tokenizer().encode(text, &mut ids).expect("encodes");
        ids
    }

    const BLOCKS: Form = Form {
        attention: Attention::BlockCausal,
        block: 8,
        cache: CacheMode::Exact,
        logits_shift: 0,
        mask: MASK,
        end_of_text: END,
        pad: 2,
    };
    const FULL: Form = Form { attention: Attention::Full, ..BLOCKS };

    fn canvas(parts: &[Part]) -> Canvas {
        Canvas::new(&Prompt::default(), parts, &tokenizer(), BLOCKS).expect("is laid out")
    }

    fn read(canvas: &Canvas, written: &[u32], settled: usize, stop: &[&str]) -> Vec<Written> {
        let mut open = written.iter().copied();
        let fill = |token: &Option<u32>| token.unwrap_or_else(|| open.next().unwrap_or(MASK));
        let ids: Vec<u32> = canvas.tokens.iter().map(fill).collect();
        let confidences = vec![0.5; ids.len()];
        let snapshot = Snapshot { canvas: ids, confidences, settled, ..Snapshot::default() };
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        canvas.read(&snapshot, Reading { tokenizer: &tokenizer(), mask: MASK, ends: &[END, 2], stop: &stop })
    }

    #[test]
    fn the_space_before_a_hole_is_written_with_the_word_and_read_once() {
        let canvas =
            canvas(&[Part::Fixed("dear ".into()), Part::Open(9), Part::Fixed(", your order".into())]);
        assert_eq!(canvas.prompt, ids("dear"));
        assert_eq!(canvas.given, ids("dear").len() + ids(", your order").len());
        let customer = ids(" customer");
        let mut written = customer.clone();
        written.push(END);
        let found = read(&canvas, &written, canvas.tokens.len(), &[]).remove(0);
        assert_eq!((found.text.as_str(), found.tokens), ("customer", customer.len()));
        assert!(found.is_complete && found.is_ended);
        assert!((found.mean_log_probability - 0.5_f32.ln()).abs() < 1e-6);
        let whole = (canvas.prompt.len() + canvas.tokens.len()).is_multiple_of(8);
        assert!(whole && canvas.tokens.last() == Some(&Some(2)) && !canvas.is_open_ended());
    }

    #[test]
    fn settled_text_only_grows_and_ends_as_the_whole_does() {
        let text = "dear €uro 😀 customer STOPPING the STOP now";
        let written = ids(text);
        let canvas = canvas(&[Part::Open(written.len())]);
        assert!(canvas.is_open_ended());
        for stop in [&[][..], &["STOP now"], &["STOPPED", "customer"]] {
            let mut before = String::new();
            for settled in 0..=written.len() {
                let found = read(&canvas, &written, settled, stop).remove(0);
                assert!(found.text.starts_with(&before), "{before:?} became {:?}", found.text);
                assert!(!found.text.contains(BROKEN_CHAR) && !found.tentative.contains(BROKEN_CHAR));
                before = found.text;
                if found.is_complete {
                    assert_eq!(found.is_ended, !stop.is_empty());
                    break;
                }
            }
            let expected = match stop {
                [] => text,
                ["STOP now"] => "dear €uro 😀 customer STOPPING the ",
                _ => "dear €uro 😀 ",
            };
            assert_eq!(before, expected);
        }
    }

    #[test]
    fn the_block_under_way_is_shown_with_its_masks_and_no_further() {
        let canvas = canvas(&[Part::Fixed("dear".into()), Part::Open(20)]);
        let before = canvas.prompt.len();
        let mut written = vec![MASK; 20];
        written[1] = ids(" order")[0];
        let found = read(&canvas, &written, 0, &[]).remove(0);
        let shown = tokenizer().decode(&written[1..2]);
        let masks = "░".repeat(8 - before % 8 - 2);
        assert_eq!(found.tentative, format!("░{shown}{masks}"));
        assert!(found.text.is_empty() && !found.is_complete);
    }

    #[test]
    fn with_full_attention_blocks_begin_behind_the_prompt_and_nothing_is_filled_up() {
        let parts = [Part::Fixed("dear".into()), Part::Open(20), Part::Fixed(" order".into())];
        let canvas = Canvas::new(&Prompt::default(), &parts, &tokenizer(), FULL).expect("is laid out");
        assert_eq!(canvas.tokens.len(), 20 + ids(" order").len());
        let found = read(&canvas, &[], 0, &[]).remove(0);
        assert_eq!(found.tentative, "░".repeat(8));
    }
}
