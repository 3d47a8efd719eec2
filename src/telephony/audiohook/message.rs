//! The messages of AudioHook version 2, typed: what a client says, and the envelope that a server answers in.
//!
//! Source: the protocol types that Genesys publishes; times are whole microseconds here, `PT…S` on the wire.

#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Map;
use serde_json::Value;

use crate::event::Speaker;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Encoding;
use crate::telephony::WireError;

/// The longest text message either side may send, in characters as JavaScript counts them.
pub const TEXT_MAX_CHARS: usize = 65_535;
/// The UUID that stands for "no conversation" and "no participant": the client only tries the connection.
pub const NULL_UUID: &str = "00000000-0000-0000-0000-000000000000";
/// The one sample rate of the protocol, in hertz.
pub const RATE_HZ: u32 = 8000;
/// The longest stretch that a client may say it left out, in microseconds: a day.
pub const SPAN_MAX_US: u64 = 24 * 60 * 60 * 1_000_000;
/// The version that every message names.
const VERSION: &str = "2";
/// The most sessions that an `open` may continue.
const CONTINUED_MAX: usize = 32;
/// The most media offers of an `open`.
const OFFERS_MAX: usize = 32;
/// The longest language tag, in bytes (RFC 5646, section 4.4.1).
const LANGUAGE_MAX_BYTES: usize = 35;

/// One form in which a client can send audio, or in which a server wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// `audio`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `PCMU` or `L16`.
    pub format: String,
    /// `external` (the customer) and `internal` (the agent), in the order of the samples.
    pub channels: Vec<String>,
    /// Samples of one channel in a second.
    pub rate: u32,
}

impl Media {
    /// Returns an offer of this encoding and these channels at 8000 Hz.
    pub fn new(format: &str, channels: &[&str]) -> Media {
        let channels = channels.iter().map(|&channel| channel.to_owned()).collect();
        Media { kind: "audio".to_owned(), format: format.to_owned(), channels, rate: RATE_HZ }
    }

    /// Returns the form of the audio, or nothing where it is none that the protocol knows.
    pub fn audio_format(&self) -> Option<AudioFormat> {
        let encoding = match self.format.as_str() {
            "PCMU" => Encoding::Mulaw,
            "L16" => Encoding::Linear16,
            _ => return None,
        };
        let names: Vec<&str> = self.channels.iter().map(String::as_str).collect();
        let channels = match names.as_slice() {
            ["external", "internal"] => Channels::Two(Speaker::Customer, Speaker::Agent),
            ["internal", "external"] => Channels::Two(Speaker::Agent, Speaker::Customer),
            ["external"] => Channels::One(Speaker::Customer),
            ["internal"] => Channels::One(Speaker::Agent),
            _ => return None,
        };
        let is_known = self.kind == "audio" && self.rate == RATE_HZ;
        is_known.then_some(AudioFormat { encoding, rate_hz: RATE_HZ, channels })
    }
}

/// Returns the best offer and its form: both speakers before one, the customer first before the agent
/// first, and then the client's own order.
pub fn choose(offers: &[Media]) -> Option<(&Media, AudioFormat)> {
    let rank = |format: &AudioFormat| match format.channels {
        Channels::Two(Speaker::Customer, _) => 0,
        Channels::Two(..) => 1,
        Channels::One(_) => 2,
    };
    let known = offers.iter().filter_map(|offer| offer.audio_format().map(|format| (offer, format)));
    known.min_by_key(|(_, format)| rank(format))
}

/// The party outside the contact center.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Participant {
    /// A UUID.
    pub id: String,
    /// The calling number.
    #[serde(default)]
    pub ani: String,
    /// The caller's name, as the network tells it.
    #[serde(default)]
    pub ani_name: String,
    /// The number that was called.
    #[serde(default)]
    pub dnis: String,
}

/// A session that a new one goes on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinuedSession {
    /// Its UUID.
    pub id: String,
    /// The last number of the server that its client saw.
    pub serverseq: u64,
    /// The last number of its client.
    pub clientseq: u64,
}

/// What begins a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// The organization's UUID.
    pub organization_id: String,
    /// The conversation's UUID: the call.
    pub conversation_id: String,
    /// The party outside.
    pub participant: Participant,
    /// The forms of audio to choose from, best first.
    pub media: Vec<Media>,
    /// BCP 47 language tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Whether the client wants to know the server's languages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_languages: Option<bool>,
    /// The sessions that this one goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continued_sessions: Option<Vec<ContinuedSession>>,
    /// What the integration's administrator wrote down for the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_config: Option<Map<String, Value>>,
}

impl Open {
    /// Returns whether the client only tries the connection.
    pub fn is_probe(&self) -> bool {
        self.conversation_id == NULL_UUID && self.participant.id == NULL_UUID
    }
}

/// Audio that is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it starts by the client's clock, in microseconds.
    pub start_us: u64,
    /// How long it is, in microseconds, at most [`SPAN_MAX_US`].
    pub discarded_us: u64,
}

/// A client's complaint.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Fault {
    /// 400, 405, 408, 409, 413, 415, 429, 500 or 503, as in HTTP.
    pub code: u16,
    /// What went wrong.
    pub message: String,
}

/// Why a client closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CloseReason {
    /// The call is over.
    End,
    /// Something went wrong.
    Error,
    /// The server asked for it by `disconnect`.
    Disconnect,
    /// The server asked for it by `reconnect`.
    Reconnect,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq)]
pub enum ClientSays {
    /// Begins the session.
    Open(Box<Open>),
    /// Wants an answer.
    Ping,
    /// The language is another one from now on.
    Update {
        /// BCP 47 language tag.
        language: String,
    },
    /// No audio from now on.
    Paused,
    /// Audio again.
    Resumed(Span),
    /// Audio that is not sent.
    Discarded(Span),
    /// A key was pressed. Which one is not read.
    Dtmf,
    /// Something went wrong on the client's side.
    Error(Fault),
    /// Ends the session.
    Close(CloseReason),
}

/// A client's message, its parameters not yet read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ClientEnvelope {
    version: String,
    /// The session.
    pub id: String,
    /// Which message.
    #[serde(rename = "type")]
    pub kind: String,
    /// The client's number of it, from 1.
    #[serde(rename = "seq")]
    pub sequence: u64,
    /// The last number of the server that the client saw.
    #[serde(rename = "serverseq")]
    pub server_sequence: u64,
    position: String,
    parameters: Map<String, Value>,
}

#[derive(Deserialize)]
struct SpanParameters {
    start: String,
    discarded: String,
}

#[derive(Deserialize)]
struct UpdateParameters {
    language: String,
}

#[derive(Deserialize)]
struct CloseParameters {
    reason: CloseReason,
}

impl ClientEnvelope {
    /// Reads a text's envelope.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] and [`WireError::Malformed`].
    pub fn read(text: &str) -> Result<ClientEnvelope, WireError> {
        check_length(text)?;
        let envelope: ClientEnvelope = parse(text)?;
        if envelope.version != VERSION {
            return Err(malformed("version must be \"2\""));
        }
        duration_us(&envelope.position).ok_or_else(|| malformed("position must be PT<seconds>S"))?;
        Ok(envelope)
    }

    /// Reads the parameters.
    ///
    /// # Errors
    /// [`WireError::Malformed`], with nothing of the parameters' texts in it.
    pub fn says(self) -> Result<ClientSays, WireError> {
        let parameters = Value::Object(self.parameters);
        Ok(match self.kind.as_str() {
            "open" => ClientSays::Open(Box::new(check_open(parameters_of("open", parameters)?)?)),
            "ping" => ClientSays::Ping,
            "update" => {
                let UpdateParameters { language } = parameters_of("update", parameters)?;
                check_language(&language)?;
                ClientSays::Update { language }
            }
            "paused" => ClientSays::Paused,
            "resumed" => ClientSays::Resumed(check_span(parameters_of("resumed", parameters)?)?),
            "discarded" => ClientSays::Discarded(check_span(parameters_of("discarded", parameters)?)?),
            "dtmf" => ClientSays::Dtmf,
            "error" => ClientSays::Error(parameters_of("error", parameters)?),
            "close" => ClientSays::Close(parameters_of::<CloseParameters>("close", parameters)?.reason),
            other => {
                let shown: String = other.chars().take(40).collect();
                return Err(malformed(&format!("unknown type {shown:?}")));
            }
        })
    }
}

fn check_open(open: Open) -> Result<Open, WireError> {
    let uuids = [
        ("organizationId", &open.organization_id),
        ("conversationId", &open.conversation_id),
        ("participant.id", &open.participant.id),
    ];
    for (field, uuid) in uuids {
        if !is_uuid(uuid) {
            return Err(malformed(&format!("{field} must be a UUID")));
        }
    }
    if open.media.len() > OFFERS_MAX {
        return Err(malformed(&format!("{} media, {OFFERS_MAX} are allowed", open.media.len())));
    }
    let continued = open.continued_sessions.as_deref().unwrap_or_default();
    if continued.len() > CONTINUED_MAX {
        return Err(malformed(&format!(
            "{} continuedSessions, {CONTINUED_MAX} are allowed",
            continued.len()
        )));
    }
    if !continued.iter().all(|session| is_uuid(&session.id)) {
        return Err(malformed("continuedSessions[].id must be a UUID"));
    }
    if let Some(language) = &open.language {
        check_language(language)?;
    }
    Ok(open)
}

fn check_language(language: &str) -> Result<(), WireError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if language.is_empty() || language.len() > LANGUAGE_MAX_BYTES || !language.bytes().all(is_allowed) {
        return Err(malformed("language must be a BCP 47 tag"));
    }
    Ok(())
}

fn check_span(parameters: SpanParameters) -> Result<Span, WireError> {
    let start_us = duration_us(&parameters.start).ok_or_else(|| malformed("start must be PT<seconds>S"))?;
    let discarded_us =
        duration_us(&parameters.discarded).ok_or_else(|| malformed("discarded must be PT<seconds>S"))?;
    if discarded_us > SPAN_MAX_US {
        return Err(malformed("discarded is longer than a day"));
    }
    Ok(Span { start_us, discarded_us })
}

/// Refuses a text that is longer than the protocol allows.
pub(super) fn check_length(text: &str) -> Result<(), WireError> {
    // A text has at least as many bytes as UTF-16 units, so most are not counted.
    if text.len() > TEXT_MAX_CHARS && text.encode_utf16().count() > TEXT_MAX_CHARS {
        return Err(WireError::TooLarge { bytes: text.len(), limit: TEXT_MAX_CHARS });
    }
    Ok(())
}

/// Reads JSON; the error names the field or the place, never the text.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, WireError> {
    serde_json::from_str(text).map_err(|error| malformed(&described(&error)))
}

/// Reads a message's parameters; the error names the field, never its text.
pub(super) fn parameters_of<T: DeserializeOwned>(kind: &str, parameters: Value) -> Result<T, WireError> {
    serde_json::from_value(parameters)
        .map_err(|error| malformed(&format!("parameters of {kind}: {}", described(&error))))
}

/// Says what is wrong without what was sent: serde quotes the values that it does not like.
fn described(error: &serde_json::Error) -> String {
    let told = error.to_string();
    if told.starts_with("missing field") || told.starts_with("duplicate field") {
        return told.chars().take(60).collect();
    }
    told.split(['"', '`']).next().unwrap_or_default().trim_end().to_owned()
}

pub(super) fn malformed(what: &str) -> WireError {
    WireError::Malformed(what.to_owned())
}

/// Returns whether a text has the form of a UUID, in either case of letters.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Reads `PT<seconds>S` into microseconds, what is finer cut off; nothing for another form or more than
/// 999,999,999 seconds.
pub fn duration_us(text: &str) -> Option<u64> {
    let seconds = text.strip_prefix("PT")?.strip_suffix('S')?;
    let (whole, fraction) = match seconds.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None if seconds.is_empty() => return None,
        None => (seconds, ""),
    };
    let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() > 9 || fraction.len() > 32 || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let micros = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
    Some(whole * 1_000_000 + micros.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// Writes microseconds as `PT<seconds>S`, no zeros at the end.
pub fn duration_text(us: u64) -> String {
    let (whole, fraction) = (us / 1_000_000, us % 1_000_000);
    if fraction == 0 {
        return format!("PT{whole}S");
    }
    let digits = format!("{fraction:06}");
    format!("PT{whole}.{}S", digits.trim_end_matches('0'))
}

/// A message as it goes out; the two sides differ in what they acknowledge.
#[derive(Serialize)]
pub(super) struct Outgoing<'a, P: Serialize> {
    pub version: &'static str,
    pub id: &'a str,
    #[serde(rename = "type")]
    pub kind: &'a str,
    pub seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clientseq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serverseq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    pub parameters: P,
}

impl<P: Serialize> Outgoing<'_, P> {
    /// Returns the message's text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("texts, numbers and lists of them are always JSON")
    }
}

/// Returns the start of a message of either side.
pub(super) fn outgoing<'a, P: Serialize>(
    id: &'a str,
    kind: &'a str,
    seq: u64,
    parameters: P,
) -> Outgoing<'a, P> {
    Outgoing { version: VERSION, id, kind, seq, clientseq: None, serverseq: None, position: None, parameters }
}
