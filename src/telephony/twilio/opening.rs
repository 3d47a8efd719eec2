//! Reads the message `start`: whose call it is, which tracks come and in what form.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::event::Speaker;
use crate::telephony::Encoding;
use crate::telephony::Opening;
use crate::telephony::WireError;
use crate::telephony::fields::quoted;
use crate::telephony::parameters::Parameters;
use crate::telephony::twilio::Dialect;

/// The longest id of a call, a stream or an account, in bytes.
const ID_MAX_BYTES: usize = 256;
/// What Plivo puts before the name of every header.
const PLIVO_PREFIX: &str = "x-ph-";

/// What `start` settles for the whole stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Start {
    /// The stream's id; empty where the carrier gives none.
    pub stream: String,
    /// How the samples of every track are written.
    pub encoding: Encoding,
    /// Samples in a second.
    pub rate_hz: u32,
    /// Whose tracks are announced; none when the carrier does not say.
    pub tracks: Vec<Speaker>,
    /// Whose call it is.
    pub opening: Opening,
}

/// Reads the object `start`, the stream's id and the headers that stand beside it.
///
/// # Errors
/// [`WireError::Malformed`] without an id or with unknown tracks, [`WireError::UnknownAudio`] when the
/// dialect does not have the form of the audio.
pub(super) fn read(
    dialect: Dialect,
    start: &Value,
    beside: Option<&str>,
    headers: Option<&Value>,
) -> Result<Start, WireError> {
    let stream = id(start, &["streamSid", "stream_sid", "streamId", "stream_id"])?;
    let stream = stream.or(beside).unwrap_or_default();
    let call = id(start, &["callSid", "call_sid", "callId", "call_id", "call_control_id"])?.unwrap_or(stream);
    let account = id(start, &["accountSid", "account_sid", "accountId", "account_id", "user_id"])?;
    if call.is_empty() || stream.len() > ID_MAX_BYTES {
        return Err(WireError::Malformed("start has no id of the call or the stream".to_owned()));
    }
    let (encoding, rate_hz) = audio(dialect, first(start, &["mediaFormat", "media_format"]))?;
    let parameters = parameters(start, headers);
    let mut metadata = Map::new();
    metadata.insert("carrier".to_owned(), json!(dialect.as_str()));
    for (name, value) in [("account", account), ("stream", Some(stream))] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            metadata.insert(name.to_owned(), json!(value));
        }
    }
    if !parameters.rest.is_empty() {
        metadata.insert("parameters".to_owned(), Value::Object(parameters.rest));
    }
    let from = start.get("from").and_then(Value::as_str).filter(|from| !from.is_empty());
    Ok(Start {
        stream: stream.to_owned(),
        encoding,
        rate_hz,
        tracks: tracks(start.get("tracks"))?,
        opening: Opening {
            call: call.to_owned(),
            agent: parameters.agent,
            customer: parameters.customer.or_else(|| from.map(str::to_owned)),
            language: parameters.language,
            knowledge: parameters.knowledge,
            metadata: Value::Object(metadata),
            // One connection brings every track.
            ..Opening::default()
        },
    })
}

/// Returns who is heard on a track: inbound is what the carrier hears from the caller, outbound what it
/// plays to them.
pub(super) fn speaker(track: &str) -> Option<Speaker> {
    match track.strip_suffix("_track").unwrap_or(track) {
        "inbound" => Some(Speaker::Customer),
        "outbound" => Some(Speaker::Agent),
        _ => None,
    }
}

fn first<'a>(object: &'a Value, names: &[&str]) -> Option<&'a Value> {
    names.iter().filter_map(|name| object.get(name)).find(|value| !value.is_null())
}

fn id<'a>(object: &'a Value, names: &[&str]) -> Result<Option<&'a str>, WireError> {
    let Some(value) = first(object, names) else { return Ok(None) };
    match value.as_str() {
        Some(text) if text.len() > ID_MAX_BYTES => {
            Err(WireError::Malformed(format!("an id has {} bytes, {ID_MAX_BYTES} are allowed", text.len())))
        }
        Some("") => Ok(None),
        Some(text) => Ok(Some(text)),
        None => Err(WireError::Malformed("an id is no text".to_owned())),
    }
}

fn tracks(names: Option<&Value>) -> Result<Vec<Speaker>, WireError> {
    let names = names.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut tracks = Vec::new();
    for name in names {
        let both = [Speaker::Customer, Speaker::Agent];
        let named = match name.as_str() {
            Some("both" | "both_tracks") => both.to_vec(),
            other => other.and_then(speaker).into_iter().collect(),
        };
        for speaker in named {
            if !tracks.contains(&speaker) {
                tracks.push(speaker);
            }
        }
    }
    if tracks.is_empty() && !names.is_empty() {
        return Err(WireError::Malformed("start names no known track".to_owned()));
    }
    Ok(tracks)
}

fn parameters(start: &Value, headers: Option<&Value>) -> Parameters {
    let mut parameters = Parameters::default();
    let custom = first(start, &["customParameters", "custom_parameters"]);
    for (name, value) in custom.and_then(Value::as_object).into_iter().flatten() {
        parameters.add(name, value);
    }
    match headers {
        Some(Value::Object(headers)) => add_headers(&mut parameters, headers),
        Some(Value::String(text)) => match serde_json::from_str::<Map<String, Value>>(text) {
            Ok(headers) => add_headers(&mut parameters, &headers),
            Err(_) => add_headers(&mut parameters, &loose_headers(text)),
        },
        _ => {}
    }
    parameters
}

fn add_headers(parameters: &mut Parameters, headers: &Map<String, Value>) {
    for (name, value) in headers {
        let has_prefix = name.get(..PLIVO_PREFIX.len()).is_some_and(|p| p.eq_ignore_ascii_case(PLIVO_PREFIX));
        parameters.add(if has_prefix { &name[PLIVO_PREFIX.len()..] } else { name }, value);
    }
}

/// Reads `{name: value, name: value}` without quotes; a piece without a colon belongs to the value before.
fn loose_headers(text: &str) -> Map<String, Value> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
    let mut pairs: Vec<(String, String)> = Vec::new();
    for piece in inner.split(',') {
        match (piece.split_once(':'), pairs.last_mut()) {
            (Some((name, value)), _) => pairs.push((name.trim().to_owned(), value.trim().to_owned())),
            (None, Some((_, value))) => {
                value.push(',');
                value.push_str(piece.trim());
            }
            (None, None) => {}
        }
    }
    pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
}

/// Returns how the samples are written and how many there are in a second.
fn audio(dialect: Dialect, format: Option<&Value>) -> Result<(Encoding, u32), WireError> {
    let unknown = |what: &str, value: &Value| {
        Err(WireError::UnknownAudio(format!("{what} {}", quoted(&value.to_string()))))
    };
    let format = format.unwrap_or(&Value::Null);
    let mut rate = first(format, &["sampleRate", "sample_rate"]).cloned();
    let mut encoding = dialect.usual_encoding();
    if let Some(value) = format.get("encoding").filter(|value| !value.is_null()) {
        let mut parts = value.as_str().unwrap_or_default().split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        encoding = encoding_of(name);
        if !encoding.is_some_and(|encoding| dialect.has(encoding)) {
            return unknown("encoding", value);
        }
        if let Some(named) = parts.find_map(|part| part.strip_prefix("rate=")) {
            let named = json!(named);
            if rate.as_ref().is_some_and(|rate| number(rate) != number(&named)) {
                return unknown("two rates, one in", value);
            }
            rate = Some(named);
        }
    }
    let Some(encoding) = encoding else {
        return Err(WireError::UnknownAudio("no encoding is named".to_owned()));
    };
    let rate = rate.unwrap_or(json!(8000));
    let rate_hz = match (encoding, number(&rate)) {
        (_, Some(8000)) => 8000,
        (Encoding::Linear16, Some(16_000)) => 16_000,
        (Encoding::Linear16, Some(24_000)) => 24_000,
        _ => return unknown("rate", &rate),
    };
    match format.get("channels") {
        None | Some(Value::Null) => Ok((encoding, rate_hz)),
        Some(channels) if number(channels) == Some(1) => Ok((encoding, rate_hz)),
        Some(channels) => unknown("channels", channels),
    }
}

fn encoding_of(name: &str) -> Option<Encoding> {
    match name.to_ascii_lowercase().as_str() {
        "audio/x-mulaw" | "audio/mulaw" | "audio/pcmu" | "mulaw" | "pcmu" => Some(Encoding::Mulaw),
        "audio/x-alaw" | "audio/alaw" | "audio/pcma" | "alaw" | "pcma" => Some(Encoding::Alaw),
        // Exotel names the way the samples are packed in place of their form.
        "audio/x-l16" | "audio/l16" | "audio/pcm" | "l16" | "pcm" | "base64" => Some(Encoding::Linear16),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}
