//! What a sender may say to a call, its limits, and the named refusals.

use chrono::DateTime;
use chrono::Utc;
use serde::Deserialize;

use crate::event::CallId;
use crate::event::Channel;
use crate::event::Prosody;
use crate::event::Segment;
use crate::event::Word;

/// The longest text of one segment, in Unicode scalar values: ten minutes of fast speech.
pub const TEXT_MAX_CHARS: usize = 10_000;
/// The most word times of one segment.
pub const WORDS_MAX: usize = 5_000;
/// The longest name of an agent, a customer, a language, a base or a segment, in bytes.
pub const NAME_MAX_BYTES: usize = 200;
/// The most knowledge bases of a call.
pub const BASES_MAX: usize = 32;
/// The largest metadata, in bytes of JSON.
pub const METADATA_MAX_BYTES: usize = 8 * 1024;
/// The latest time in a call: a day.
pub const TIME_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Says why a message was refused. The call goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not JSON, or not the fields that the type needs.
    #[error("cannot read the message: {0}")]
    Malformed(String),
    /// A type that nobody knows.
    #[error("unknown type {0:?}, expected start, segment or end")]
    UnknownType(String),
    /// A field's value is not allowed.
    #[error("{field}: {why}")]
    InvalidField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A segment's text is too long.
    #[error("the text has {chars} characters, {TEXT_MAX_CHARS} are allowed")]
    TextTooLong {
        /// How many it has.
        chars: usize,
    },
    /// A final segment says nothing.
    #[error("the text is empty")]
    EmptyText,
    /// A segment's times are impossible.
    #[error("bad times: {0}")]
    BadTimes(String),
    /// A new segment comes after one with a higher number is on disk.
    #[error("seq {seq} comes after seq {last}, which is already on disk")]
    OutOfOrder {
        /// The segment's number.
        seq: u64,
        /// The highest durable number.
        last: u64,
    },
    /// Nobody opened such a call.
    #[error("no call {0}")]
    NoSuchCall(CallId),
    /// The call is over.
    #[error("call {call} is over; start a new call under another name")]
    CallClosed {
        /// The call.
        call: CallId,
        /// The highest sender's number that is durable.
        resume_after: u64,
    },
    /// Another socket feeds the call now.
    #[error("another socket feeds this call now")]
    TakenOver,
    /// No such draft, or it is not finished.
    #[error("no finished draft {0}")]
    NoSuchDraft(String),
    /// The server goes down; the call can be resumed when it is back.
    #[error("the server is stopping, resume later")]
    Stopping,
    /// The log cannot be written: nothing of the message is durable.
    #[error("the call's log cannot be written, resume later")]
    NotDurable,
}

impl Refusal {
    /// Returns the code that programs act on.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => "malformed",
            Refusal::UnknownType(_) => "unknown_type",
            Refusal::InvalidField { .. } => "invalid_field",
            Refusal::TextTooLong { .. } => "text_too_long",
            Refusal::EmptyText => "empty_text",
            Refusal::BadTimes(_) => "bad_times",
            Refusal::OutOfOrder { .. } => "out_of_order",
            Refusal::NoSuchCall(_) | Refusal::NoSuchDraft(_) => "not_found",
            Refusal::CallClosed { .. } => "call_closed",
            Refusal::TakenOver => "taken_over",
            Refusal::Stopping => "stopping",
            Refusal::NotDurable => "not_durable",
        }
    }
}

/// Opens or resumes a call.
#[derive(Debug, Clone, Deserialize)]
pub struct Start {
    /// The call's name.
    pub call: CallId,
    /// The agent's user name.
    pub agent: String,
    /// The customer as the sender names them.
    #[serde(default)]
    pub customer: Option<String>,
    /// Voice or chat.
    pub channel: Channel,
    /// BCP 47 language tag.
    #[serde(default = "english")]
    pub language: String,
    /// When the call began; the present when missing.
    #[serde(default = "Utc::now")]
    pub started_at: DateTime<Utc>,
    /// The knowledge bases to search; all of the tenant's when missing.
    #[serde(default)]
    pub knowledge: Option<Vec<String>>,
    /// Whatever the sender wants to find again.
    #[serde(default)]
    pub metadata: serde_json::Value,
}

/// A segment as the sender has it: not redacted.
#[derive(Debug, Clone, Deserialize)]
pub struct Spoken {
    /// The sender's number, from 1.
    pub seq: u64,
    /// What was said.
    #[serde(flatten)]
    pub segment: Segment,
    /// The words with their times, when the sender knows them.
    #[serde(default)]
    pub words: Option<Vec<Word>>,
    /// How it sounded, where we heard it ourselves.
    #[serde(skip)]
    pub prosody: Option<Prosody>,
}

/// Ends a call.
#[derive(Debug, Clone, Deserialize)]
pub struct End {
    /// Why.
    #[serde(default = "hangup")]
    pub reason: String,
}

/// A message of a sender.
#[derive(Debug, Clone)]
pub enum Incoming {
    /// Opens or resumes a call.
    Start(Start),
    /// Somebody said something.
    Segment(Spoken),
    /// The call ended.
    End(End),
}

/// The fields that tell which message it is and which number a refusal names.
#[derive(Debug, Default, Deserialize)]
struct Head {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    seq: Option<u64>,
}

/// Reads one message and checks every limit; a refusal comes with the message's number, if it has one.
///
/// # Errors
/// The named refusal.
pub fn read(text: &str) -> Result<Incoming, (Refusal, Option<u64>)> {
    let head: Head = serde_json::from_str(text).map_err(|error| (malformed(&error), None))?;
    let seq = head.seq;
    let incoming = match head.kind.as_deref() {
        Some("start") => parse::<Start>(text).and_then(check_start).map(Incoming::Start),
        Some("segment") => parse::<Spoken>(text).and_then(check_segment).map(Incoming::Segment),
        Some("end") => parse::<End>(text).and_then(check_end).map(Incoming::End),
        Some(other) => Err(Refusal::UnknownType(other.chars().take(40).collect())),
        None => Err(Refusal::Malformed("the field type is missing".to_owned())),
    };
    incoming.map_err(|refusal| (refusal, seq))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> Refusal {
    Refusal::Malformed(error.to_string())
}

/// Checks the limits of a start.
pub(super) fn check_start(start: Start) -> Result<Start, Refusal> {
    check_name("agent", &start.agent)?;
    check_name("language", &start.language)?;
    if let Some(customer) = &start.customer {
        check_name("customer", customer)?;
    }
    let bases = start.knowledge.as_deref().unwrap_or_default();
    if bases.len() > BASES_MAX {
        return Err(invalid("knowledge", format!("{} bases, {BASES_MAX} are allowed", bases.len())));
    }
    for base in bases {
        check_name("knowledge", base)?;
    }
    let metadata_bytes = start.metadata.to_string().len();
    if metadata_bytes > METADATA_MAX_BYTES {
        return Err(invalid("metadata", format!("{metadata_bytes} bytes, {METADATA_MAX_BYTES} are allowed")));
    }
    Ok(start)
}

/// Checks the limits of a segment.
pub(super) fn check_segment(spoken: Spoken) -> Result<Spoken, Refusal> {
    let Spoken { seq, segment, words, prosody: _ } = &spoken;
    if *seq == 0 || i64::try_from(*seq).is_err() {
        return Err(invalid("seq", "must be from 1 to 2^63 - 1".to_owned()));
    }
    check_name("id", &segment.id)?;
    let chars = segment.text.chars().count();
    if chars > TEXT_MAX_CHARS {
        return Err(Refusal::TextTooLong { chars });
    }
    if segment.is_final && segment.text.trim().is_empty() {
        return Err(Refusal::EmptyText);
    }
    check_times(segment.start_ms, segment.end_ms)?;
    if let Some(words) = words {
        if words.len() > WORDS_MAX {
            return Err(invalid("words", format!("{} words, {WORDS_MAX} are allowed", words.len())));
        }
        for word in words {
            check_times(word.start_ms, word.end_ms)?;
        }
    }
    Ok(spoken)
}

fn check_end(end: End) -> Result<End, Refusal> {
    check_name("reason", &end.reason)?;
    Ok(end)
}

fn check_times(start_ms: u64, end_ms: u64) -> Result<(), Refusal> {
    if end_ms < start_ms {
        return Err(Refusal::BadTimes(format!("the end {end_ms} ms is before the start {start_ms} ms")));
    }
    if end_ms > TIME_MAX_MS {
        return Err(Refusal::BadTimes(format!("the end {end_ms} ms is later than {TIME_MAX_MS} ms")));
    }
    Ok(())
}

fn check_name(field: &'static str, name: &str) -> Result<(), Refusal> {
    if name.trim().is_empty() {
        return Err(invalid(field, "must not be empty".to_owned()));
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(invalid(field, format!("{} bytes, {NAME_MAX_BYTES} are allowed", name.len())));
    }
    Ok(())
}

fn invalid(field: &'static str, why: String) -> Refusal {
    Refusal::InvalidField { field, why }
}

fn english() -> String {
    "en".to_owned()
}

fn hangup() -> String {
    "hangup".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, seq: Option<u64>) {
        match read(text) {
            Ok(incoming) => panic!("{text} was accepted as {incoming:?}"),
            Err((refusal, named)) => assert_eq!((refusal.code(), named), (code, seq), "{text}"),
        }
    }

    #[test]
    fn every_bad_message_is_refused_by_name() {
        check("{", "malformed", None);
        check("[]", "malformed", None);
        check(r#"{"seq":3}"#, "malformed", Some(3));
        check(r#"{"type":"dance","seq":3}"#, "unknown_type", Some(3));
        check(r#"{"type":"start","agent":"a","channel":"voice","call":"a b"}"#, "malformed", None);
        check(r#"{"type":"start","agent":" ","channel":"voice","call":"a"}"#, "invalid_field", None);
        check(r#"{"type":"end","reason":""}"#, "invalid_field", None);
        let segment = |seq: u64, text: &str, start: i64, end: i64| {
            format!(
                r#"{{"type":"segment","seq":{seq},"id":"s","speaker":"agent","text":"{text}","start_ms":{start},"end_ms":{end},"final":true}}"#
            )
        };
        assert!(read(&segment(1, "hello", 0, 10)).is_ok());
        check(&segment(0, "hello", 0, 10), "invalid_field", Some(0));
        check(&segment(1, "  ", 0, 10), "empty_text", Some(1));
        check(&segment(1, "hello", 20, 10), "bad_times", Some(1));
        check(&segment(1, "hello", -20, 10), "malformed", Some(1));
        check(&segment(1, "hello", 0, 100_000_000), "bad_times", Some(1));
        check(&segment(1, &"x".repeat(TEXT_MAX_CHARS + 1), 0, 10), "text_too_long", Some(1));
    }
}
