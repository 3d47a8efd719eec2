//! The outer form of a message, in the words of every dialect.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::de::Visitor;
use serde_json::Value;

use crate::telephony::WireError;

/// Reads a message.
///
/// # Errors
/// [`WireError::Malformed`], which says where the text broke and never what stands there.
pub(super) fn read(text: &str) -> Result<Envelope<'_>, WireError> {
    serde_json::from_str(text).map_err(|error: serde_json::Error| {
        let what = if error.is_data() { "a field is missing or of a wrong type" } else { "no JSON" };
        WireError::Malformed(format!("{what}, line {} column {}", error.line(), error.column()))
    })
}

/// A message of any dialect; the same thing has up to four names, and a sender may use two of them.
#[derive(Debug, Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    #[serde(default, rename = "streamSid")]
    twilio_stream: Option<Cow<'a, str>>,
    #[serde(default, rename = "stream_id")]
    telnyx_stream: Option<Cow<'a, str>>,
    #[serde(default, rename = "streamId")]
    plivo_stream: Option<Cow<'a, str>>,
    #[serde(default, rename = "stream_sid")]
    exotel_stream: Option<Cow<'a, str>>,
    #[serde(default, rename = "sequenceNumber")]
    twilio_sequence: Number,
    #[serde(default, rename = "sequence_number")]
    telnyx_sequence: Number,
    #[serde(default)]
    /// What the stream is, not read yet.
    pub start: Option<Value>,
    #[serde(default, borrow)]
    pub media: Option<Media<'a>>,
    #[serde(default)]
    /// Plivo's parameters.
    pub extra_headers: Option<Value>,
}

impl Envelope<'_> {
    /// Returns the stream's id, where the message names it.
    pub(super) fn stream(&self) -> Option<&str> {
        let names = [&self.twilio_stream, &self.telnyx_stream, &self.plivo_stream, &self.exotel_stream];
        names.into_iter().flatten().next().map(Cow::as_ref)
    }

    /// Returns the message's number, where it has one.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.twilio_sequence.0.or(self.telnyx_sequence.0)
    }
}

/// A piece of audio.
#[derive(Debug, Deserialize)]
pub(super) struct Media<'a> {
    #[serde(default)]
    pub track: Option<Cow<'a, str>>,
    #[serde(default)]
    pub chunk: Number,
    #[serde(borrow)]
    /// The samples in base64.
    pub payload: Cow<'a, str>,
}

/// A number that may be written as a text; whatever else stands there is none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Number(pub Option<u64>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
        Ok(Number(Some(number)))
    }

    fn visit_i64<E>(self, _negative: i64) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_f64<E>(self, _broken: f64) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_bool<E>(self, _truth: bool) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_unit<E>(self) -> Result<Number, E> {
        Ok(Number(None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Number, E> {
        Ok(Number(text.trim().parse().ok()))
    }
}
