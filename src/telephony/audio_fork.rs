//! FreeSWITCH `mod_audio_fork` and jambonz `listen`: one text of metadata, then linear audio as binary messages.
//!
//! The metadata is whatever the dialplan wrote; what jambonz writes there is understood. FreeSWITCH sends
//! no metadata at all if it was given none, so a call that is named beforehand may begin with audio.
//! Messages: `mod_audio_fork`'s README, jambonz-feature-server's `lib/tasks/listen.js`.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Word;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Heard;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::WireError;
use crate::telephony::fields::listed;
use crate::telephony::fields::quoted;
use crate::telephony::fields::text_of;
use crate::telephony::parameters::is_secret;

/// The largest metadata that is kept, in bytes of JSON.
const METADATA_MAX_BYTES: usize = 8 * 1024;
/// The rates that FreeSWITCH or jambonz can be told to send.
const RATES_HZ: [u32; 6] = [8_000, 16_000, 24_000, 32_000, 48_000, 64_000];
/// What the metadata may call the call; the first one that is there counts.
const CALL_KEYS: [&str; 6] = ["callSid", "call_sid", "callId", "call_id", "callid", "uuid"];
/// The events that a last text names. It is whatever `uuid_audio_fork … stop` was given.
const END_EVENTS: [&str; 6] = ["stop", "end", "hangup", "close", "closed", "disconnect"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Neither metadata nor audio yet.
    Waiting,
    Open,
    Over,
}

/// One forked call, the server's side.
#[derive(Debug)]
pub struct AudioFork {
    format: AudioFormat,
    call: Option<String>,
    stage: Stage,
    /// Whether the metadata asks for what was said.
    wants_transcription: bool,
}

impl AudioFork {
    /// Makes the wire of one connection.
    ///
    /// `format` is the audio's form where the metadata names none; its first speaker is the one on the
    /// channel that is forked. `call` names the call, whatever the metadata calls it.
    pub fn new(format: AudioFormat, call: Option<String>) -> AudioFork {
        AudioFork { format, call, stage: Stage::Waiting, wants_transcription: false }
    }

    fn hear_text(&mut self, text: &str) -> Result<Heard, WireError> {
        if self.stage == Stage::Over {
            return Err(WireError::OutOfPlace("a text after the end".to_owned()));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| WireError::Malformed(error.to_string()))?;
        let none = Map::new();
        let fields = value.as_object().unwrap_or(&none);
        let event = text_of(fields, "event").or_else(|| text_of(fields, "type")).unwrap_or_default();
        match self.stage {
            // Never taken for metadata, which is kept: keys spell card numbers.
            Stage::Waiting if event == "dtmf" => Err(WireError::TooEarly("a key")),
            Stage::Waiting => self.open(value),
            _ if event == "dtmf" => Ok(Happening::Key.into()),
            _ if END_EVENTS.contains(&event.as_str()) => {
                self.stage = Stage::Over;
                Ok(Happening::Closed { reason: "hangup".to_owned() }.into())
            }
            _ => Ok(Heard::default()),
        }
    }

    fn open(&mut self, metadata: Value) -> Result<Heard, WireError> {
        let none = Map::new();
        let fields = metadata.as_object().unwrap_or(&none);
        let named = CALL_KEYS.iter().find_map(|key| text_of(fields, key));
        let call = self.call.clone().or(named);
        let call = call.ok_or_else(|| WireError::Malformed("the metadata names no call".to_owned()))?;
        match format_of(self.format, fields) {
            Ok(format) => self.format = format,
            Err(error) => {
                self.stage = Stage::Over;
                return Err(error);
            }
        }
        self.stage = Stage::Open;
        self.wants_transcription = fields.get("transcription") == Some(&Value::Bool(true));
        // Who calls out calls the customer.
        let number = if text_of(fields, "direction").as_deref() == Some("outbound") { "to" } else { "from" };
        let opening = Opening {
            call,
            agent: text_of(fields, "agent"),
            customer: ["customer", number, "callerName"].iter().find_map(|key| text_of(fields, key)),
            language: text_of(fields, "language"),
            knowledge: names_of(fields.get("knowledge")),
            speaker: only_speaker(self.format, text_of(fields, "mixType").as_deref() == Some("mixed")),
            metadata: bounded(metadata),
            ..Opening::default()
        };
        Ok(Happening::Opened(opening).into())
    }

    fn hear_audio(&mut self, bytes: &[u8]) -> Result<Heard, WireError> {
        let mut heard = Heard::default();
        match (self.stage, &self.call) {
            (Stage::Open, _) => {}
            (Stage::Over, _) => return Err(WireError::OutOfPlace("audio".to_owned())),
            (Stage::Waiting, None) => return Err(WireError::TooEarly("audio")),
            (Stage::Waiting, Some(call)) => {
                let speaker = only_speaker(self.format, false);
                let opening = Opening { call: call.clone(), speaker, ..Opening::default() };
                heard.happenings.push(Happening::Opened(opening));
            }
        }
        if !bytes.len().is_multiple_of(self.format.frame_bytes()) {
            return Err(WireError::Malformed(format!("{} bytes are no whole samples", bytes.len())));
        }
        self.stage = Stage::Open;
        if !bytes.is_empty() {
            heard.happenings.push(Happening::Audio { format: self.format, bytes: bytes.to_vec() });
        }
        Ok(heard)
    }
}

impl Wire for AudioFork {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        message.check_size()?;
        match message {
            Message::Text(text) => self.hear_text(text),
            Message::Binary(bytes) => self.hear_audio(bytes),
        }
    }

    fn hangs_up_by_closing(&self) -> bool {
        true
    }

    /// `Draining` has no words: FreeSWITCH would not come back to another server.
    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        match news {
            News::Refused(why) => vec![disconnect(), Frame::close(1008, why)],
            News::Finished => vec![disconnect(), Frame::close(1000, "the call is over")],
            News::Segment(segment, words) if self.wants_transcription => vec![transcription(segment, words)],
            News::Segment(..) | News::Opened | News::Cards(_) | News::Draining => Vec::new(),
        }
    }

    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        let code = match error {
            WireError::UnknownAudio(_) => 1003,
            WireError::TooLarge { .. } => 1009,
            _ => return Vec::new(),
        };
        vec![disconnect(), Frame::close(code, &error.to_string())]
    }
}

/// Returns the form that the metadata names; what it leaves out is as before.
fn format_of(given: AudioFormat, fields: &Map<String, Value>) -> Result<AudioFormat, WireError> {
    let mut format = given;
    if let Some(rate) = fields.get("sampleRate") {
        let number = rate.as_u64().or_else(|| rate.as_str()?.parse().ok());
        let known = RATES_HZ.into_iter().find(|known| Some(u64::from(*known)) == number);
        format.rate_hz = known.ok_or_else(|| unknown("a sampleRate of", rate))?;
    }
    if let Some(mix) = fields.get("mixType") {
        let (first, second) = match given.channels {
            Channels::One(Speaker::Customer) => (Speaker::Customer, Speaker::Agent),
            Channels::One(Speaker::Agent) => (Speaker::Agent, Speaker::Customer),
            Channels::Two(first, second) => (first, second),
        };
        format.channels = match mix.as_str() {
            Some("mono" | "mixed") => Channels::One(first),
            Some("stereo") => Channels::Two(first, second),
            _ => return Err(unknown("a mixType of", mix)),
        };
    }
    Ok(format)
}

/// Returns who alone is heard; nobody is alone in two channels, or where two are mixed into one.
fn only_speaker(format: AudioFormat, is_mixed: bool) -> Option<Speaker> {
    match format.channels {
        Channels::One(speaker) if !is_mixed => Some(speaker),
        Channels::One(_) | Channels::Two(..) => None,
    }
}

fn unknown(what: &str, value: &Value) -> WireError {
    WireError::UnknownAudio(format!("{what} {}", quoted(&value.to_string())))
}

fn transcription(segment: &Segment, words: Option<&[Word]>) -> Frame {
    let mut data = json!({
        "id": segment.id,
        "speaker": segment.speaker,
        "text": segment.text,
        "start_ms": segment.start_ms,
        "end_ms": segment.end_ms,
        "final": segment.is_final,
    });
    if let Some(words) = words {
        data["words"] = json!(words);
    }
    Frame::Text(json!({ "type": "transcription", "data": data }).to_string())
}

fn disconnect() -> Frame {
    Frame::Text(json!({ "type": "disconnect" }).to_string())
}

/// Reads names from a list of texts, or from one text with commas.
fn names_of(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).flat_map(listed).collect(),
        Some(Value::String(text)) => listed(text),
        _ => Vec::new(),
    }
}

/// Returns the metadata without what looks like a secret; of metadata that is too large only its size.
fn bounded(mut metadata: Value) -> Value {
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|name, _| !is_secret(name));
    }
    let bytes = metadata.to_string().len();
    if bytes > METADATA_MAX_BYTES { json!({ "metadata_bytes": bytes }) } else { metadata }
}

#[cfg(test)]
mod tests;
