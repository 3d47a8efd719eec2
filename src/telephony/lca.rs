//! The websocket of Amazon's Live Call Analytics: a START text, interleaved stereo audio, an END text.
//!
//! The left channel is the customer and the right one the agent. The public client sends its WAV file
//! from the first byte on, so a header before the audio is read and dropped, wherever it is cut. Format:
//! `lca-websocket-stack/source/app/src/lca.ts` (channel 0 is CUSTOMER) and `utilities/websocket-client`.

use serde_json::Map;
use serde_json::Value;

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

/// The longest phone number that is kept beside the call, in bytes.
const NUMBER_MAX_BYTES: usize = 200;
/// The longest WAV header that is read. The plain one has 44 bytes; tools add notes of a few hundred.
const WAV_HEADER_MAX_BYTES: usize = 16 * 1024;
/// The rates that are taken: those of telephones and sound cards from 8 to 48 kHz, which is what the
/// recogniser behind LCA takes. Not every number between: an odd rate makes resampling very dear.
const RATES_HZ: [u32; 9] = [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// No START yet.
    Waiting,
    /// The call has this name and audio comes in this form.
    Open {
        call: String,
        format: AudioFormat,
    },
    Over,
}

/// One connection of an LCA client, the server's side.
#[derive(Debug)]
pub struct Lca {
    stage: Stage,
    /// Whether it is known if the audio began with a WAV header.
    is_past_header: bool,
    /// What cannot be used before more comes: a part of a WAV header, or of a sample.
    kept: Vec<u8>,
}

impl Lca {
    /// Makes the wire of one connection.
    pub fn new() -> Lca {
        Lca { stage: Stage::Waiting, is_past_header: false, kept: Vec::new() }
    }

    fn hear_text(&mut self, text: &str) -> Result<Heard, WireError> {
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|_| WireError::Malformed("no JSON object".to_owned()))?;
        let event = text_of(&fields, "callEvent").unwrap_or_default();
        match (event.as_str(), &self.stage) {
            (_, Stage::Over) => Err(WireError::OutOfPlace("a text after the end".to_owned())),
            ("START", Stage::Waiting) => self.start(&fields),
            ("START", Stage::Open { .. }) => Err(WireError::OutOfPlace("a second START".to_owned())),
            ("END", Stage::Waiting) => Err(WireError::TooEarly("END")),
            ("END", Stage::Open { call, .. }) => {
                if text_of(&fields, "callId").is_some_and(|named| named != *call) {
                    return Err(WireError::Foreign("the END of another call".to_owned()));
                }
                self.end();
                Ok(Happening::Closed { reason: "hangup".to_owned() }.into())
            }
            ("", _) => Err(WireError::Malformed("the field callEvent is missing".to_owned())),
            // SPEAKER_CHANGE and other events of LCA's siblings.
            _ => Ok(Heard::default()),
        }
    }

    fn start(&mut self, fields: &Map<String, Value>) -> Result<Heard, WireError> {
        let call = text_of(fields, "callId");
        let call = call.ok_or_else(|| WireError::Malformed("the field callId is missing".to_owned()))?;
        let rate = fields.get("samplingRate");
        let rate = rate.and_then(|rate| rate.as_u64().or_else(|| rate.as_str()?.parse().ok()));
        let known = RATES_HZ.into_iter().find(|known| Some(u64::from(*known)) == rate);
        let Some(rate_hz) = known else {
            self.end();
            return Err(WireError::UnknownAudio("a samplingRate that nobody uses".to_owned()));
        };
        let channels = Channels::Two(Speaker::Customer, Speaker::Agent);
        let format = AudioFormat { encoding: Encoding::Linear16, rate_hz, channels };
        self.stage = Stage::Open { call: call.clone(), format };
        let mut metadata = Map::new();
        if let Some(number) = text_of(fields, "toNumber").filter(|number| number.len() <= NUMBER_MAX_BYTES) {
            metadata.insert("to_number".to_owned(), number.into());
        }
        let opening = Opening {
            call,
            agent: text_of(fields, "agentId"),
            customer: text_of(fields, "fromNumber"),
            metadata: metadata.into(),
            ..Opening::default()
        };
        Ok(Happening::Opened(opening).into())
    }

    fn hear_audio(&mut self, bytes: &[u8]) -> Result<Heard, WireError> {
        let format = match &self.stage {
            Stage::Waiting => return Err(WireError::TooEarly("audio")),
            Stage::Over => return Err(WireError::OutOfPlace("audio".to_owned())),
            Stage::Open { format, .. } => *format,
        };
        let mut audio = std::mem::take(&mut self.kept);
        audio.extend_from_slice(bytes);
        if !self.is_past_header {
            match wav_header(&audio, format.rate_hz) {
                Header::Bytes(bytes) => {
                    self.is_past_header = true;
                    audio.drain(..bytes);
                }
                Header::Unfinished => {
                    self.kept = audio;
                    return Ok(Heard::default());
                }
                Header::Wrong(why) => {
                    self.end();
                    return Err(WireError::UnknownAudio(why));
                }
            }
        }
        self.kept = audio.split_off(audio.len() - audio.len() % format.frame_bytes());
        if audio.is_empty() {
            return Ok(Heard::default());
        }
        Ok(Happening::Audio { format, bytes: audio }.into())
    }

    fn end(&mut self) {
        self.stage = Stage::Over;
        self.kept = Vec::new();
    }
}

impl Default for Lca {
    fn default() -> Lca {
        Lca::new()
    }
}

impl Wire for Lca {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        message.check_size()?;
        match message {
            Message::Text(text) => self.hear_text(text),
            Message::Binary(bytes) => self.hear_audio(bytes),
        }
    }

    /// LCA's server says nothing to its clients: the end of the connection is all there is.
    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        match news {
            News::Refused(why) => vec![Frame::close(1008, why)],
            News::Finished => vec![Frame::close(1000, "the call is over")],
            News::Opened | News::Segment(..) | News::Cards(_) | News::Draining => Vec::new(),
        }
    }

    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        match error {
            WireError::UnknownAudio(_) => vec![Frame::close(1003, &error.to_string())],
            WireError::TooLarge { .. } => vec![Frame::close(1009, &error.to_string())],
            _ => Vec::new(),
        }
    }
}

/// What the first bytes of audio are.
#[derive(Debug, PartialEq, Eq)]
enum Header {
    /// A header of this many bytes; 0 if there is none.
    Bytes(usize),
    /// More must come before it can be said; never with more than [`WAV_HEADER_MAX_BYTES`].
    Unfinished,
    /// A header that cannot be read, or of other audio than START promised.
    Wrong(String),
}

/// Reads a WAV header, chunk by chunk: what stands before the audio is not always 44 bytes, and two
/// bytes too many or too few would swap the speakers.
fn wav_header(bytes: &[u8], rate_hz: u32) -> Header {
    for (at, expected) in [(0, b"RIFF"), (8, b"WAVE")] {
        let known = bytes.get(at..).unwrap_or_default();
        let known = &known[..known.len().min(4)];
        if !expected.starts_with(known) {
            return Header::Bytes(0);
        }
        if known.len() < 4 {
            return Header::Unfinished;
        }
    }
    let mut at = 12;
    while let Some(&[a, b, c, d, s0, s1, s2, s3]) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        at += 8;
        match &[a, b, c, d] {
            b"data" => return Header::Bytes(at),
            b"fmt " => match bytes.get(at..).and_then(|rest| rest.first_chunk()) {
                Some(fields) => {
                    if let Err(why) = check_wav_format(fields, rate_hz) {
                        return Header::Wrong(why);
                    }
                }
                None => return Header::Unfinished,
            },
            _ => {}
        }
        let size = usize::try_from(u32::from_le_bytes([s0, s1, s2, s3])).unwrap_or(usize::MAX);
        // A chunk of odd size is followed by one byte that does not count.
        at = at.saturating_add(size).saturating_add(size % 2);
        // Room for the next chunk's name and size, and for the 16 bytes that are read of a form.
        if at > WAV_HEADER_MAX_BYTES - 24 {
            return Header::Wrong("a WAV header without audio".to_owned());
        }
    }
    Header::Unfinished
}

/// Checks the first 16 bytes of a `fmt ` chunk: form, channels, rate, bytes a second, bytes a sample, bits.
fn check_wav_format(fields: &[u8; 16], rate_hz: u32) -> Result<(), String> {
    let [f0, f1, c0, c1, r0, r1, r2, r3, .., b0, b1] = *fields;
    let (form, channels, bits) =
        (u16::from_le_bytes([f0, f1]), u16::from_le_bytes([c0, c1]), u16::from_le_bytes([b0, b1]));
    let rate = u32::from_le_bytes([r0, r1, r2, r3]);
    // 1 is linear PCM; 0xFFFE says that the form follows, and with 16 bits it is linear as well.
    if !matches!(form, 1 | 0xFFFE) || (channels, bits, rate) != (2, 16, rate_hz) {
        return Err(format!("a WAV file of form {form}, {channels} channels, {bits} bits, {rate} Hz"));
    }
    Ok(())
}

/// Returns a field's text; a number's digits as well, for some clients send phone numbers as such.
fn text_of(fields: &Map<String, Value>, key: &str) -> Option<String> {
    match fields.get(key)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
