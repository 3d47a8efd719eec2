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
    /// The model writes, and some texts of the request stand in what it writes.
    Cut(Vec<Piece>),
}

/// A stretch of what the model writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The model writes up to this many tokens.
    Open(usize),
    /// Stands as it is.
    Held(String),
}

impl Part {
    /// Returns what the part is made of, as if it were cut, if the model writes there.
    pub fn pieces(&self) -> Option<Vec<Piece>> {
        match self {
            Part::Fixed(_) => None,
            Part::Open(tokens) => Some(vec![Piece::Open(*tokens)]),
            Part::Cut(pieces) => Some(pieces.clone()),
        }
    }
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
    /// The parts again, with where their tokens are.
    laid: Vec<Laid>,
    is_open_ended: bool,
}

/// A part as it was laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Laid {
    Fixed(String),
    Span(Span),
}

/// A part that the model writes in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Span {
    /// Whether the space before its first word stands before it already.
    drops_space: bool,
    stretches: Vec<Stretch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stretch {
    Hole(Hole),
    Held(String),
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
    /// Of how many tokens that is.
    pub counted: usize,
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
        let mut laid: Vec<Laid> = Vec::new();
        let mut drops_space = prompt.begins_with_space || prompt.ids.is_empty();
        let is_open = |part: Option<&Part>| match part {
            Some(Part::Open(_)) => true,
            Some(Part::Cut(pieces)) => matches!(pieces.first(), Some(Piece::Open(_))),
            _ => false,
        };
        for (i, part) in parts.iter().enumerate() {
            let Some(pieces) = part.pieces() else {
                if let Part::Fixed(text) = part {
                    drops_space = lay(text, drops_space, is_open(parts.get(i + 1)), tokenizer, &mut all)?;
                    laid.push(Laid::Fixed(text.clone()));
                }
                continue;
            };
            let mut span = Span { drops_space, stretches: Vec::new() };
            for (j, piece) in pieces.iter().enumerate() {
                match piece {
                    Piece::Open(tokens) => {
                        let range = all.len()..all.len() + tokens;
                        span.stretches.push(Stretch::Hole(Hole { range, drops_space }));
                        all.resize(all.len() + tokens, None);
                        drops_space = false;
                    }
                    Piece::Held(text) => {
                        let is_before_hole = matches!(pieces.get(j + 1), Some(Piece::Open(_)));
                        drops_space = lay(text, drops_space, is_before_hole, tokenizer, &mut all)?;
                        span.stretches.push(Stretch::Held(text.clone()));
                    }
                }
            }
            laid.push(Laid::Span(span));
        }
        let given = all.iter().flatten().count();
        let spans = laid.iter().filter(|laid| matches!(laid, Laid::Span(_))).count();
        let is_open_ended = matches!(parts.last(), Some(Part::Open(_))) && spans == 1;
        if !matches!(parts.last(), Some(Part::Open(_))) && form.attention == Attention::BlockCausal {
            // Nobody reads the rest of the last block, so nobody waits for it.
            let end = all.len();
            for i in end..end.next_multiple_of(form.block) {
                all.push(Some(if i == end { form.end_of_text } else { form.pad }));
            }
        }
        let first = all[prompt.ids.len()..].iter().position(Option::is_none);
        let first = first.map_or(all.len(), |at| prompt.ids.len() + at);
        let tokens = all.split_off(first);
        let mut canvas =
            Canvas { prompt: all.into_iter().flatten().collect(), tokens, form, given, laid, is_open_ended };
        for hole in canvas.holes_mut() {
            // An empty hole may stand before the first token that is written.
            hole.range = hole.range.start.saturating_sub(first)..hole.range.end.saturating_sub(first);
        }
        Ok(canvas)
    }

    fn holes_mut(&mut self) -> impl Iterator<Item = &mut Hole> {
        let spans = self.laid.iter_mut().filter_map(|laid| match laid {
            Laid::Span(span) => Some(span),
            Laid::Fixed(_) => None,
        });
        spans.flat_map(|span| &mut span.stretches).filter_map(|stretch| match stretch {
            Stretch::Hole(hole) => Some(hole),
            Stretch::Held(_) => None,
        })
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
        let spans = self.laid.iter().filter_map(|laid| match laid {
            Laid::Span(span) => Some(span),
            Laid::Fixed(_) => None,
        });
        spans.map(|span| span.read(|hole| hole.read(snapshot, settled, block_end, reading))).collect()
    }

    /// Returns the bytes of the whole text, each with the place in the canvas of the token that wrote
    /// it, if one did.
    pub fn bytes(&self, snapshot: &Snapshot, reading: Reading<'_>) -> (Vec<u8>, Vec<Option<usize>>) {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        let mut push = |text: &[u8], place: Option<usize>| {
            bytes.extend_from_slice(text);
            places.resize(bytes.len(), place);
            bytes.ends_with(b" ")
        };
        let mut is_spaced = false;
        for laid in &self.laid {
            let span = match laid {
                Laid::Fixed(text) => {
                    is_spaced = push(text.as_bytes(), None);
                    continue;
                }
                Laid::Span(span) => span,
            };
            for stretch in &span.stretches {
                match stretch {
                    Stretch::Held(text) => {
                        let text = text.strip_prefix(' ').filter(|_| is_spaced).unwrap_or(text);
                        is_spaced = push(text.as_bytes(), None);
                    }
                    Stretch::Hole(hole) => {
                        let mut drops_space = hole.drops_space;
                        for place in hole.kept(snapshot, reading) {
                            let text = reading.tokenizer.bytes(snapshot.canvas[place]).unwrap_or_default();
                            let text = text.strip_prefix(b" ").filter(|_| drops_space).unwrap_or(&text);
                            is_spaced = push(text, Some(place));
                            drops_space &= text.is_empty();
                        }
                    }
                }
            }
        }
        (bytes, places)
    }
}

/// Appends the tokens of a text that stands; returns whether its last space is left to what follows.
fn lay(
    text: &str,
    drops_space: bool,
    is_before_hole: bool,
    tokenizer: &Tokenizer,
    all: &mut Vec<Option<u32>>,
) -> Result<bool, TokenizerError> {
    let kept = text.strip_suffix(' ').filter(|_| is_before_hole);
    let mut ids = Vec::new();
    tokenizer.encode(kept.unwrap_or(text), &mut ids)?;
    all.extend(ids.into_iter().map(Some));
    Ok(if text.is_empty() { drops_space } else { kept.is_some() })
}

impl Span {
    /// Puts together what stands in it: what follows something that may change may change too.
    fn read(&self, read: impl Fn(&Hole) -> Written) -> Written {
        let mut joined = Written { is_complete: true, ..Written::default() };
        let (mut logs, mut counted) = (0.0, 0);
        for stretch in &self.stretches {
            let written = match stretch {
                Stretch::Hole(hole) => read(hole),
                Stretch::Held(text) => {
                    // The space may stand there already, before the span or written by the model.
                    let before = joined.text.clone() + &joined.tentative;
                    let is_spaced = before.ends_with(' ') || (before.is_empty() && self.drops_space);
                    let text = text.strip_prefix(' ').filter(|_| is_spaced).unwrap_or(text);
                    Written { text: text.to_owned(), is_complete: true, ..Written::default() }
                }
            };
            logs += written.mean_log_probability * written.counted as f32;
            counted += written.counted;
            if joined.is_complete {
                joined.text.push_str(&written.text);
                joined.tentative = written.tentative;
            } else {
                joined.tentative.push_str(&(written.text + &written.tentative));
            }
            joined.tokens += written.tokens;
            joined.is_complete &= written.is_complete;
            joined.is_ended |= written.is_ended;
        }
        joined.mean_log_probability = logs / counted.max(1) as f32;
        joined.counted = counted;
        joined
    }
}

impl Hole {
    /// Returns the places of the canvas that were written before the end of the text.
    fn kept(&self, snapshot: &Snapshot, reading: Reading<'_>) -> Range<usize> {
        let ids = snapshot.canvas.get(self.range.clone()).unwrap_or(&[]);
        let is_over = |id: &u32| reading.ends.contains(id) || *id == reading.mask;
        let kept = ids.iter().position(is_over).unwrap_or(ids.len());
        self.range.start..self.range.start + kept
    }

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
            counted: counted.len(),
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
mod tests;
