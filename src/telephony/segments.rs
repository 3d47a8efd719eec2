//! What the streams of recognised speech share: how their JSON is read, the limits of a segment, and the
//! words for a forwarder.

use serde_json::Value;
use serde_json::json;

use crate::event::Segment;
use crate::event::Word;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::WireError;

/// The longest text of one segment, in Unicode scalar values; as the intake of calls has it.
pub(super) const TEXT_MAX_CHARS: usize = 10_000;
/// The most word times of one segment; as the intake of calls has it.
pub(super) const WORDS_MAX: usize = 5_000;
/// The longest name of anything, in bytes; as the intake of calls has it.
pub(super) const NAME_MAX_BYTES: usize = 200;
/// The longest name that [`say`] takes, in bytes: it may put the number of a piece behind it.
pub(super) const ID_MAX_BYTES: usize = NAME_MAX_BYTES - 16;
/// The latest time in a call, in milliseconds: a day; as the intake of calls has it.
pub(super) const TIME_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Returns the JSON of a message; bytes are taken for text.
///
/// # Errors
/// [`WireError::TooLarge`] above [`crate::telephony::MESSAGE_MAX_BYTES`], [`WireError::Malformed`] where it is no JSON;
/// the error names a line and a column, never the text.
pub(super) fn read(message: Message<'_>) -> Result<Value, WireError> {
    message.check_size()?;
    let bytes = match message {
        Message::Text(text) => text.as_bytes(),
        Message::Binary(bytes) => bytes,
    };
    serde_json::from_slice(bytes).map_err(|error| WireError::Malformed(error.to_string()))
}

/// Returns a field's text.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

/// Returns a field's truth; false where it is missing.
pub(super) fn is(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// Returns a time in milliseconds, `unit_ms` for each unit, moved into the day that a call may last.
pub(super) fn time_ms(value: Option<&Value>, unit_ms: f64) -> Option<u64> {
    let time = value.and_then(Value::as_f64).filter(|time| !time.is_nan())?;
    // Casting a float saturates, and the product lies within a day.
    Some((time * unit_ms).clamp(0.0, TIME_MAX_MS as f64).round() as u64)
}

/// Returns a number from 0 to 1, if it is one.
pub(super) fn share(value: Option<&Value>) -> Option<f32> {
    let share = value.and_then(Value::as_f64).filter(|share| (0.0..=1.0).contains(share))?;
    Some(share as f32)
}

/// Pushes a segment within the limits that the intake of calls has.
///
/// A final text that is too long is cut between words: the pieces go by the id, then by the id with
/// `.2`, `.3`, …, share the time by their lengths and have no word times. A partial one is shown as
/// far as its first piece. A final one without text is nothing.
pub(super) fn say(segment: Segment, mut words: Vec<Word>, happenings: &mut Vec<Happening>) {
    let start_ms = segment.start_ms.min(TIME_MAX_MS);
    let end_ms = segment.end_ms.clamp(start_ms, TIME_MAX_MS);
    if segment.is_final && segment.text.trim().is_empty() {
        return;
    }
    let pieces = cut(&segment.text);
    if pieces.len() > 1 {
        words.clear();
    }
    words.truncate(WORDS_MAX);
    let mut words = (!words.is_empty()).then_some(words);
    let total_bytes = segment.text.len().max(1) as u64;
    let mut said_bytes = 0;
    let shown = if segment.is_final { pieces.len() } else { 1 };
    for (index, piece) in pieces.into_iter().take(shown).enumerate() {
        let id = if index == 0 { segment.id.clone() } else { format!("{}.{}", segment.id, index + 1) };
        let at_ms = |bytes: u64| start_ms + (end_ms - start_ms) * bytes / total_bytes;
        let piece_start_ms = at_ms(said_bytes);
        said_bytes += piece.len() as u64;
        let piece_end_ms = if shown == 1 { end_ms } else { at_ms(said_bytes) };
        let segment = Segment {
            id,
            speaker: segment.speaker,
            text: piece.trim().to_owned(),
            start_ms: piece_start_ms,
            end_ms: piece_end_ms,
            is_final: segment.is_final,
        };
        if !segment.is_final || !segment.text.is_empty() {
            happenings.push(Happening::Segment { segment, words: words.take() });
        }
    }
}

/// Cuts a text into pieces of at most [`TEXT_MAX_CHARS`], behind a space where there is one.
fn cut(mut text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while let Some((limit, _)) = text.char_indices().nth(TEXT_MAX_CHARS) {
        let space = text[..limit].char_indices().rev().find(|(_, c)| c.is_whitespace());
        let end = space.map_or(limit, |(at, c)| at + c.len_utf8());
        let (piece, rest) = text.split_at(end);
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

/// Tells a forwarder the news that it can act on: a call that is refused or over, a server that goes down.
pub(super) fn tell(news: News<'_>) -> Vec<Frame> {
    match news {
        News::Refused(why) => {
            let error = json!({"type": "error", "code": "refused", "message": why});
            vec![Frame::Text(error.to_string()), Frame::Close(1008, "refused".to_owned())]
        }
        News::Draining => vec![Frame::Text(json!({"type": "draining"}).to_string())],
        News::Finished => vec![Frame::Close(1000, "finished".to_owned())],
        News::Opened | News::Segment(..) | News::Cards(_) => Vec::new(),
    }
}

/// Tells a forwarder of its mistake as the service's own sockets do; the connection goes on.
pub(super) fn refuse(error: &WireError) -> Vec<Frame> {
    let message = json!({"type": "error", "code": error.code(), "message": error.to_string()});
    vec![Frame::Text(message.to_string())]
}
