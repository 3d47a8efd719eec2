//! Twilio Media Streams, and the carriers that send the same messages in other words: Telnyx, Plivo,
//! Exotel, SignalWire and Talkdesk.
//!
//! JSON texts only: `connected`, `start`, then `media`, `dtmf` and `mark`, then `stop`; what their
//! `timestamp` says is not read. Nothing is ever sent back, for a stream that only listens takes any
//! message as an error. Source: twilio.com/docs/voice/media-streams/websocket-messages.

mod message;
mod opening;
mod order;
pub mod signature;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;
use serde::Deserialize;
use serde::Serialize;
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
use crate::telephony::Wire;
use crate::telephony::WireError;
use crate::telephony::fields::quoted;
use crate::telephony::mistakes::Mistakes;
use crate::telephony::twilio::message::Envelope;
use crate::telephony::twilio::opening::Start;
use crate::telephony::twilio::order::Order;
use crate::telephony::twilio::order::Repeats;

/// The account that the load generator's streams name.
const NO_ACCOUNT: &str = "AC00000000000000000000000000000000";
/// How the payloads are written; some senders leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whose words the messages are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Twilio: `streamSid`, µ-law.
    Twilio,
    /// Telnyx: `stream_id`, `PCMU` or `PCMA`, in no sure order.
    Telnyx,
    /// Plivo: `streamId`, µ-law or linear, its headers for parameters.
    Plivo,
    /// Exotel: `stream_sid`, linear, one track without a name.
    Exotel,
    /// SignalWire and Talkdesk: as Twilio.
    #[serde(alias = "talkdesk")]
    SignalWire,
}

impl Dialect {
    /// All dialects.
    pub const ALL: [Dialect; 5] =
        [Dialect::Twilio, Dialect::Telnyx, Dialect::Plivo, Dialect::Exotel, Dialect::SignalWire];

    /// Returns the name as the configuration writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Twilio => "twilio",
            Dialect::Telnyx => "telnyx",
            Dialect::Plivo => "plivo",
            Dialect::Exotel => "exotel",
            Dialect::SignalWire => "signalwire",
        }
    }

    /// Returns the encoding of a stream that names none; Telnyx has two and says nothing of a default.
    fn usual_encoding(self) -> Option<Encoding> {
        match self {
            Dialect::Twilio | Dialect::SignalWire => Some(Encoding::Mulaw),
            Dialect::Plivo | Dialect::Exotel => Some(Encoding::Linear16),
            Dialect::Telnyx => None,
        }
    }

    fn has(self, encoding: Encoding) -> bool {
        match self {
            Dialect::Twilio | Dialect::SignalWire | Dialect::Telnyx => encoding != Encoding::Linear16,
            Dialect::Plivo => encoding != Encoding::Alaw,
            Dialect::Exotel => encoding == Encoding::Linear16,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says that a text names no [`Dialect`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dialect {0:?}, expected twilio, telnyx, plivo, exotel or signalwire")]
pub struct DialectError(String);

impl FromStr for Dialect {
    type Err = DialectError;

    fn from_str(text: &str) -> Result<Dialect, DialectError> {
        if text == "talkdesk" {
            return Ok(Dialect::SignalWire);
        }
        let named = Dialect::ALL.into_iter().find(|dialect| dialect.as_str() == text);
        named.ok_or_else(|| DialectError(quoted(text)))
    }
}

/// One stream.
///
/// Keeps ids, sixteen numbers to know repeats, and for Telnyx at most eight frames, or a second of
/// audio, of each track that wait for an earlier one.
#[derive(Debug)]
pub struct Twilio {
    dialect: Dialect,
    stage: Stage,
    mistakes: Mistakes,
}

#[derive(Debug)]
enum Stage {
    Waiting,
    Streaming(Box<Stream>),
    Over,
}

#[derive(Debug)]
struct Stream {
    start: Start,
    repeats: Repeats,
    /// The orders by the chunk numbers of the customer and the agent, and by the messages' numbers for
    /// frames that have no other; used for Telnyx alone.
    orders: [Option<Order>; 3],
}

impl Twilio {
    /// Returns a stream that has not begun.
    pub fn new(dialect: Dialect) -> Twilio {
        Twilio { dialect, stage: Stage::Waiting, mistakes: Mistakes::default() }
    }

    fn read(&mut self, text: &str) -> Result<Heard, WireError> {
        Message::Text(text).check_size()?;
        let envelope = message::read(text)?;
        match (envelope.event.as_ref(), &mut self.stage) {
            ("connected", Stage::Waiting) => Ok(Heard::default()),
            ("start", Stage::Waiting) => self.start(&envelope),
            ("media", Stage::Waiting) => Err(WireError::TooEarly("audio")),
            ("dtmf", Stage::Waiting) => Err(WireError::TooEarly("a key")),
            ("stop", Stage::Waiting) => Err(WireError::TooEarly("the end")),
            ("media" | "dtmf" | "stop", Stage::Streaming(stream)) if !stream.is_named_by(&envelope) => {
                Err(WireError::Foreign("another stream's id".to_owned()))
            }
            ("media", Stage::Streaming(stream)) => stream.media(self.dialect, &envelope),
            ("dtmf", Stage::Streaming(_)) => Ok(Happening::Key.into()),
            ("stop", Stage::Streaming(stream)) => {
                let mut happenings = stream.waiting();
                happenings.push(Happening::Closed { reason: "hangup".to_owned() });
                self.stage = Stage::Over;
                Ok(Heard { happenings, replies: Vec::new() })
            }
            // Echoes of what a two-way stream plays, and Telnyx's own errors: nothing for a listener.
            ("mark" | "clear" | "played" | "playedStream" | "clearedAudio" | "error", _) => {
                Ok(Heard::default())
            }
            (event @ ("connected" | "start" | "media" | "dtmf" | "stop"), _) => {
                Err(WireError::OutOfPlace(event.to_owned()))
            }
            (other, _) => Err(WireError::Malformed(format!("unknown event {:?}", quoted(other)))),
        }
    }

    fn start(&mut self, envelope: &Envelope<'_>) -> Result<Heard, WireError> {
        let Some(start) = &envelope.start else {
            return Err(WireError::Malformed("the object start is missing".to_owned()));
        };
        let start = opening::read(self.dialect, start, envelope.stream(), envelope.extra_headers.as_ref())?;
        let happening = Happening::Opened(start.opening.clone());
        let stream = Stream { start, repeats: Repeats::default(), orders: [None, None, None] };
        self.stage = Stage::Streaming(Box::new(stream));
        Ok(happening.into())
    }
}

impl Wire for Twilio {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        let heard = match message {
            Message::Text(text) => self.read(text),
            Message::Binary(_) => Err(WireError::Malformed("a binary message".to_owned())),
        };
        self.mistakes.note(&heard);
        heard
    }

    fn rest(&mut self) -> Vec<Happening> {
        match &mut self.stage {
            Stage::Streaming(stream) => stream.waiting(),
            _ => Vec::new(),
        }
    }

    /// Returns nothing: whatever is sent to a stream that only listens is an error to the carrier.
    fn tell(&mut self, _news: News<'_>) -> Vec<Frame> {
        Vec::new()
    }

    /// Returns the end of the connection when there is no use in hearing on; nothing else, for there are no
    /// words for mistakes.
    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        let is_silent = matches!(error, WireError::UnknownAudio(_)) && matches!(self.stage, Stage::Waiting);
        self.mistakes.refusal(error, is_silent)
    }
}

impl Stream {
    fn is_named_by(&self, envelope: &Envelope<'_>) -> bool {
        let named = envelope.stream().unwrap_or_default();
        named.is_empty() || self.start.stream.is_empty() || named == self.start.stream
    }

    fn media(&mut self, dialect: Dialect, envelope: &Envelope<'_>) -> Result<Heard, WireError> {
        let Some(media) = &envelope.media else {
            return Err(WireError::Malformed("the object media is missing".to_owned()));
        };
        let speaker = self.speaker(media.track.as_deref())?;
        let bytes = self.samples(&media.payload)?;
        let (sequence, chunk) = (envelope.sequence(), media.chunk.0);
        if let (Some(sequence), Some(chunk)) = (sequence, chunk)
            && self.repeats.is_repeat(sequence, chunk, speaker, &media.payload)
        {
            return Ok(Heard::default());
        }
        if bytes.is_empty() {
            return Ok(Heard::default());
        }
        let frame = order::Frame { speaker, bytes };
        let (index, number, first) = match (dialect, chunk, sequence) {
            // The first chunk is 1; a sender that begins with 0 is believed.
            (Dialect::Telnyx, Some(chunk), _) => {
                (usize::from(speaker == Speaker::Agent), chunk, Some(chunk.min(1)))
            }
            (Dialect::Telnyx, None, Some(sequence)) => (2, sequence, None),
            _ => return Ok(self.audio(frame).into()),
        };
        let max_bytes = self.second_bytes();
        let order = self.orders[index].get_or_insert_with(|| Order::new(first, max_bytes));
        match order.take(number, frame) {
            Ok(frames) => {
                let happenings = frames.into_iter().map(|frame| self.audio(frame)).collect();
                Ok(Heard { happenings, replies: Vec::new() })
            }
            Err(expected) => Err(WireError::OutOfSequence { expected, got: number }),
        }
    }

    fn speaker(&self, track: Option<&str>) -> Result<Speaker, WireError> {
        let tracks = self.start.tracks.as_slice();
        let Some(track) = track else {
            return match tracks {
                [] => Ok(Speaker::Customer),
                [only] => Ok(*only),
                _ => Err(WireError::Malformed("media names no track".to_owned())),
            };
        };
        let speaker = opening::speaker(track).filter(|named| tracks.is_empty() || tracks.contains(named));
        speaker.ok_or_else(|| WireError::Foreign(format!("track {:?}", quoted(track))))
    }

    fn samples(&self, payload: &str) -> Result<Vec<u8>, WireError> {
        let limit = self.second_bytes();
        // Four characters hold three bytes, and no more than two characters are padding.
        let at_least = (payload.len() / 4 * 3).saturating_sub(2);
        if at_least > limit {
            return Err(WireError::TooLarge { bytes: at_least, limit });
        }
        let Ok(bytes) = BASE64.decode(payload) else {
            return Err(WireError::Malformed("the payload is not base64".to_owned()));
        };
        if bytes.len() > limit {
            return Err(WireError::TooLarge { bytes: bytes.len(), limit });
        }
        if !bytes.len().is_multiple_of(self.start.encoding.sample_bytes()) {
            return Err(WireError::Malformed("the payload ends within a sample".to_owned()));
        }
        Ok(bytes)
    }

    fn second_bytes(&self) -> usize {
        // At most 24,000 samples of two bytes.
        self.start.rate_hz as usize * self.start.encoding.sample_bytes()
    }

    fn audio(&self, frame: order::Frame) -> Happening {
        let Start { encoding, rate_hz, .. } = self.start;
        let format = AudioFormat { encoding, rate_hz, channels: Channels::One(frame.speaker) };
        Happening::Audio { format, bytes: frame.bytes }
    }

    /// Returns the audio that still waits for something earlier.
    fn waiting(&mut self) -> Vec<Happening> {
        let waiting: Vec<order::Frame> = self.orders.iter_mut().flatten().flat_map(Order::flush).collect();
        waiting.into_iter().map(|frame| self.audio(frame)).collect()
    }
}

/// Returns the first message that Twilio sends.
pub fn connected() -> String {
    json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}).to_string()
}

/// Returns Twilio's `start`, whose number is 1: 8 kHz µ-law on the named tracks (`inbound`, `outbound`).
pub fn start(call: &str, stream: &str, tracks: &[&str], parameters: &[(&str, &str)]) -> String {
    let custom: Map<String, Value> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "event": "start",
        "sequenceNumber": "1",
        "start": {
            "accountSid": NO_ACCOUNT,
            "streamSid": stream,
            "callSid": call,
            "tracks": tracks,
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": custom,
        },
        "streamSid": stream,
    })
    .to_string()
}

/// Returns a piece of one track's audio, usually 160 bytes; `chunk` counts the track's pieces from 1,
/// `sequence` all messages of the stream.
pub fn media(
    sequence: u64,
    stream: &str,
    track: &str,
    chunk: u64,
    timestamp_ms: u64,
    mulaw: &[u8],
) -> String {
    json!({
        "event": "media",
        "sequenceNumber": sequence.to_string(),
        "media": {
            "track": track,
            "chunk": chunk.to_string(),
            "timestamp": timestamp_ms.to_string(),
            "payload": BASE64.encode(mulaw),
        },
        "streamSid": stream,
    })
    .to_string()
}

/// Returns the last message of a stream.
pub fn stop(sequence: u64, call: &str, stream: &str) -> String {
    json!({
        "event": "stop",
        "sequenceNumber": sequence.to_string(),
        "stop": {"accountSid": NO_ACCOUNT, "callSid": call},
        "streamSid": stream,
    })
    .to_string()
}
