//! Asterisk `chan_websocket`: control texts in words or in JSON, and audio as binary messages of one speaker.
//!
//! Asterisk says `MEDIA_START` first; its first character decides in which of the two forms it is
//! answered. Events and commands: Asterisk's `channels/chan_websocket.c`.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::event::Speaker;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Encoding;
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

/// The largest channel variables that are kept, in bytes of JSON.
const METADATA_MAX_BYTES: usize = 8 * 1024;

/// How control texts are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    /// `HANGUP`.
    Plain,
    /// `{"command":"HANGUP"}`.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No `MEDIA_START` yet.
    Waiting,
    /// Audio comes in this form.
    Open(AudioFormat),
    Over,
}

/// One connection of an Asterisk channel, the server's side.
#[derive(Debug)]
pub struct ChanWebsocket {
    speaker: Speaker,
    control: Control,
    stage: Stage,
}

impl ChanWebsocket {
    /// Makes the wire of one connection; it carries this speaker unless the channel variable `speaker`
    /// says otherwise.
    pub fn new(speaker: Speaker) -> ChanWebsocket {
        ChanWebsocket { speaker, control: Control::Plain, stage: Stage::Waiting }
    }

    fn hear_text(&mut self, text: &str) -> Result<Heard, WireError> {
        let (control, event) = read_control(text)?;
        let name = text_of(&event, "event").unwrap_or_default();
        if self.stage == Stage::Over {
            return Err(WireError::OutOfPlace(quoted(&name)));
        }
        match (name.as_str(), self.stage) {
            ("MEDIA_START", Stage::Waiting) => self.start(control, &event),
            ("MEDIA_START", _) => Err(WireError::OutOfPlace("a second MEDIA_START".to_owned())),
            // An answer to a command that Asterisk could not follow: the call itself is well.
            ("ERROR", _) => {
                let why = text_of(&event, "error_text").unwrap_or_default();
                Err(WireError::OutOfPlace(format!("the ERROR {:?}", quoted(&why))))
            }
            ("DTMF_END", Stage::Waiting) => Err(WireError::TooEarly("a key")),
            ("DTMF_END", _) => Ok(Happening::Key.into()),
            // MEDIA_XOFF, MEDIA_XON, STATUS and the like are about audio that is sent to Asterisk.
            _ => Ok(Heard::default()),
        }
    }

    fn start(&mut self, control: Control, event: &Map<String, Value>) -> Result<Heard, WireError> {
        // Kept even when the form of the audio is refused, so that Asterisk understands the HANGUP.
        self.control = control;
        let none = Map::new();
        let variables = event.get("channel_variables").and_then(Value::as_object).unwrap_or(&none);
        // Each speaker has a channel of its own: a variable may say which call both are.
        let call = variable(variables, "call").or_else(|| text_of(event, "channel_id"));
        let call = call.or_else(|| text_of(event, "connection_id"));
        let call =
            call.ok_or_else(|| WireError::Malformed("neither channel_id nor connection_id".to_owned()))?;
        let name = text_of(event, "format").unwrap_or_default();
        let Some((encoding, rate_hz)) = format_of(&name) else {
            self.stage = Stage::Over;
            return Err(WireError::UnknownAudio(quoted(&name)));
        };
        let speaker = match variable(variables, "speaker").as_deref() {
            Some("customer") => Speaker::Customer,
            Some("agent") => Speaker::Agent,
            _ => self.speaker,
        };
        self.stage = Stage::Open(AudioFormat { encoding, rate_hz, channels: Channels::One(speaker) });
        let opening = Opening {
            call,
            agent: variable(variables, "agent"),
            customer: variable(variables, "customer"),
            language: variable(variables, "language"),
            knowledge: variable(variables, "knowledge").map(|list| listed(&list)).unwrap_or_default(),
            speaker: Some(speaker),
            metadata: metadata_of(event, variables),
            ..Opening::default()
        };
        Ok(Happening::Opened(opening).into())
    }

    fn hear_audio(&self, bytes: &[u8]) -> Result<Heard, WireError> {
        let format = match self.stage {
            Stage::Waiting => return Err(WireError::TooEarly("audio")),
            Stage::Over => return Err(WireError::OutOfPlace("audio".to_owned())),
            Stage::Open(format) => format,
        };
        if !bytes.len().is_multiple_of(format.frame_bytes()) {
            return Err(WireError::Malformed(format!("{} bytes are no whole samples", bytes.len())));
        }
        if bytes.is_empty() {
            return Ok(Heard::default());
        }
        Ok(Happening::Audio { format, bytes: bytes.to_vec() }.into())
    }

    fn command(&self, name: &str) -> Frame {
        Frame::Text(match self.control {
            Control::Plain => name.to_owned(),
            Control::Json => json!({ "command": name }).to_string(),
        })
    }
}

impl Wire for ChanWebsocket {
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

    /// `Draining` has no words: a hangup would end the call that the people are having.
    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        match news {
            News::Opened => vec![self.command("ANSWER")],
            News::Finished => vec![self.command("HANGUP"), Frame::close(1000, "the call is over")],
            News::Refused(why) => vec![self.command("HANGUP"), Frame::close(1008, why)],
            News::Segment(..) | News::Cards(_) | News::Draining => Vec::new(),
        }
    }

    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        let code = match error {
            WireError::UnknownAudio(_) => 1003,
            WireError::TooLarge { .. } => 1009,
            _ => return Vec::new(),
        };
        vec![self.command("HANGUP"), Frame::close(code, &error.to_string())]
    }
}

/// Reads a control text in either form into its fields; `event` is the event's name.
fn read_control(text: &str) -> Result<(Control, Map<String, Value>), WireError> {
    let text = text.trim();
    if text.starts_with('{') {
        let fields = serde_json::from_str(text).map_err(|error| WireError::Malformed(error.to_string()))?;
        return Ok((Control::Json, fields));
    }
    let mut fields = Map::new();
    let (name, mut rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
        // Not repeated: it may hold a digit that somebody pressed.
        return Err(WireError::Malformed("the text begins with no event".to_owned()));
    }
    fields.insert("event".to_owned(), name.into());
    while let Some((key, after)) = rest.trim_start().split_once(':') {
        // The last field of ERROR, and the only one with spaces in it.
        let end = if key == "error_text" { None } else { after.find(char::is_whitespace) };
        let (value, others) = after.split_at(end.unwrap_or(after.len()));
        fields.insert(key.to_owned(), value.into());
        rest = others;
    }
    Ok((Control::Plain, fields))
}

/// Returns what Asterisk means by the name of a format, if it is one that is taken.
fn format_of(name: &str) -> Option<(Encoding, u32)> {
    Some(match name {
        "ulaw" => (Encoding::Mulaw, 8_000),
        "alaw" => (Encoding::Alaw, 8_000),
        "slin" => (Encoding::Linear16, 8_000),
        "slin12" => (Encoding::Linear16, 12_000),
        "slin16" => (Encoding::Linear16, 16_000),
        "slin24" => (Encoding::Linear16, 24_000),
        "slin32" => (Encoding::Linear16, 32_000),
        "slin44" => (Encoding::Linear16, 44_100),
        "slin48" => (Encoding::Linear16, 48_000),
        "slin96" => (Encoding::Linear16, 96_000),
        "slin192" => (Encoding::Linear16, 192_000),
        _ => return None,
    })
}

/// Returns the channel's names and variables; of variables that are too large only their size.
fn metadata_of(event: &Map<String, Value>, variables: &Map<String, Value>) -> Value {
    let mut metadata = Map::new();
    for key in ["connection_id", "channel"] {
        if let Some(text) = text_of(event, key).filter(|text| text.len() <= METADATA_MAX_BYTES / 8) {
            metadata.insert(key.to_owned(), text.into());
        }
    }
    let variables: Map<String, Value> =
        variables.clone().into_iter().filter(|(name, _)| !is_secret(name)).collect();
    let bytes = Value::from(variables.clone()).to_string().len();
    if bytes > METADATA_MAX_BYTES / 2 {
        metadata.insert("channel_variables_bytes".to_owned(), bytes.into());
    } else if !variables.is_empty() {
        metadata.insert("channel_variables".to_owned(), variables.into());
    }
    metadata.into()
}

/// Returns a channel variable whatever the case of its name; the dialplan writes most of them in capitals.
fn variable(variables: &Map<String, Value>, name: &str) -> Option<String> {
    let (key, _) = variables.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    text_of(variables, key)
}

#[cfg(test)]
mod tests;
