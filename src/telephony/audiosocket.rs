//! Asterisk AudioSocket: a TCP stream of `kind`, `length` (big-endian) and payload, one speaker each.
//!
//! The stream may be cut anywhere, so at most one unfinished frame is kept. The frames that a load
//! generator sends are made here as well. Kinds: Asterisk's `res_audiosocket.h`.

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

/// The bytes of kind and length before each payload.
const HEADER_BYTES: usize = 3;
/// The largest payload of whole samples: one byte less than the length field can say.
const AUDIO_MAX_BYTES: usize = 65_534;

const KIND_HANGUP: u8 = 0x00;
const KIND_UUID: u8 = 0x01;
const KIND_DTMF: u8 = 0x03;
/// The first of the kinds of audio; the others follow it in the order of [`RATES_HZ`].
const KIND_AUDIO: u8 = 0x10;
const KIND_ERROR: u8 = 0xFF;

/// The sample rates of the kinds from [`KIND_AUDIO`] on.
const RATES_HZ: [u32; 9] = [8_000, 12_000, 16_000, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing but the UUID may come.
    Waiting,
    Open,
    Over,
}

/// One AudioSocket connection, the server's side.
///
/// One read of the stream can hold good and bad frames. The good ones are never lost for the bad ones:
/// the first error is then held and returned by the next [`Wire::hear`] that brings nothing else.
#[derive(Debug)]
pub struct AudioSocket {
    speaker: Speaker,
    stage: Stage,
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// What has come of the present frame's payload, at most 65,535 bytes.
    payload: Vec<u8>,
    held: Option<WireError>,
}

impl AudioSocket {
    /// Makes the wire of one connection that carries this speaker.
    pub fn new(speaker: Speaker) -> AudioSocket {
        AudioSocket {
            speaker,
            stage: Stage::Waiting,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            payload: Vec::new(),
            held: None,
        }
    }

    /// Moves bytes from `rest` into the present frame and returns the frame once it is complete.
    fn take_frame(&mut self, rest: &mut &[u8]) -> Option<(u8, Vec<u8>)> {
        while self.header_bytes < HEADER_BYTES {
            let (first, others) = rest.split_first()?;
            self.header[self.header_bytes] = *first;
            self.header_bytes += 1;
            *rest = others;
        }
        let [kind, high, low] = self.header;
        let missing = usize::from(u16::from_be_bytes([high, low])) - self.payload.len();
        let (taken, others) = rest.split_at(missing.min(rest.len()));
        self.payload.extend_from_slice(taken);
        *rest = others;
        if taken.len() < missing {
            return None;
        }
        self.header_bytes = 0;
        Some((kind, std::mem::take(&mut self.payload)))
    }

    /// Returns what a complete frame means; nothing for one that is skipped.
    fn read(&mut self, kind: u8, payload: Vec<u8>) -> Result<Option<Happening>, WireError> {
        if self.stage == Stage::Waiting {
            return self.open(kind, &payload).map(Some);
        }
        match kind {
            KIND_HANGUP => Ok(Some(self.close("hangup"))),
            KIND_ERROR => Ok(Some(self.close("error"))),
            KIND_UUID => Err(WireError::OutOfPlace("a second UUID".to_owned())),
            KIND_DTMF if payload.len() == 1 => Ok(Some(Happening::Key)),
            KIND_DTMF => Err(WireError::Malformed(format!("a key of {} bytes", payload.len()))),
            _ => match rate_of(kind) {
                Some(rate_hz) => self.audio(rate_hz, payload),
                None => Ok(None),
            },
        }
    }

    /// Reads the first frame. Whoever does not begin with a UUID speaks another protocol: nothing that
    /// follows is read.
    fn open(&mut self, kind: u8, payload: &[u8]) -> Result<Happening, WireError> {
        self.stage = Stage::Over;
        if kind != KIND_UUID {
            return Err(WireError::TooEarly(match kind {
                KIND_HANGUP => "a hangup",
                KIND_DTMF => "a key",
                KIND_ERROR => "an error",
                _ if rate_of(kind).is_some() => "audio",
                _ => "an unknown frame",
            }));
        }
        let id = <[u8; 16]>::try_from(payload)
            .map_err(|_| WireError::Malformed(format!("a UUID of {} bytes", payload.len())))?;
        self.stage = Stage::Open;
        let speaker = Some(self.speaker);
        Ok(Happening::Opened(Opening { call: uuid_text(&id), speaker, ..Opening::default() }))
    }

    fn audio(&self, rate_hz: u32, bytes: Vec<u8>) -> Result<Option<Happening>, WireError> {
        if !bytes.len().is_multiple_of(Encoding::Linear16.sample_bytes()) {
            return Err(WireError::Malformed(format!("{} bytes are no whole samples", bytes.len())));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let channels = Channels::One(self.speaker);
        let format = AudioFormat { encoding: Encoding::Linear16, rate_hz, channels };
        Ok(Some(Happening::Audio { format, bytes }))
    }

    fn close(&mut self, reason: &str) -> Happening {
        self.stage = Stage::Over;
        Happening::Closed { reason: reason.to_owned() }
    }
}

impl Wire for AudioSocket {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        let Message::Binary(bytes) = message else {
            return Err(WireError::Malformed("a text on a wire of bytes".to_owned()));
        };
        if self.stage == Stage::Over {
            return Err(WireError::OutOfPlace("a frame after the end".to_owned()));
        }
        let mut rest = bytes;
        let mut heard = Heard::default();
        while self.stage != Stage::Over {
            let Some((kind, payload)) = self.take_frame(&mut rest) else { break };
            match self.read(kind, payload) {
                Ok(happening) => heard.happenings.extend(happening),
                Err(error) => {
                    self.held.get_or_insert(error);
                }
            }
        }
        match self.held.take() {
            Some(error) if heard.happenings.is_empty() => Err(error),
            held => {
                self.held = held;
                Ok(heard)
            }
        }
    }

    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        let (code, reason) = match news {
            News::Finished => (1000, "the call is over"),
            News::Draining => (1001, "the server is stopping"),
            News::Refused(why) => (1008, why),
            News::Opened | News::Segment(..) | News::Cards(_) => return Vec::new(),
        };
        vec![Frame::Binary(hangup()), Frame::Close(code, reason.to_owned())]
    }

    /// AudioSocket has no words for mistakes: a bad frame within a call is passed over.
    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        match self.stage {
            Stage::Open => Vec::new(),
            Stage::Waiting | Stage::Over => {
                vec![Frame::Binary(hangup()), Frame::Close(1002, error.to_string())]
            }
        }
    }
}

fn rate_of(kind: u8) -> Option<u32> {
    RATES_HZ.get(usize::from(kind.checked_sub(KIND_AUDIO)?)).copied()
}

fn frame(kind: u8, payload: &[u8], frames: &mut Vec<u8>) {
    // Callers pass at most AUDIO_MAX_BYTES, which the length field can say.
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    frames.push(kind);
    frames.extend_from_slice(&length.to_be_bytes());
    frames.extend_from_slice(&payload[..usize::from(length)]);
}

/// Returns the frame that begins a call.
pub fn uuid(id: [u8; 16]) -> Vec<u8> {
    let mut frames = Vec::new();
    frame(KIND_UUID, &id, &mut frames);
    frames
}

/// Returns the frames that carry these 16-bit little-endian samples of one channel, several if they do
/// not fit in one; none at a rate that AudioSocket has no kind for (see `res_audiosocket.h`).
pub fn audio(rate_hz: u32, bytes: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    if let Some(kind) = (KIND_AUDIO..).zip(RATES_HZ).find(|(_, rate)| *rate == rate_hz) {
        for chunk in bytes.chunks(AUDIO_MAX_BYTES) {
            frame(kind.0, chunk, &mut frames);
        }
    }
    frames
}

/// Returns the frame that ends a call.
pub fn hangup() -> Vec<u8> {
    vec![KIND_HANGUP, 0, 0]
}

/// Returns a UUID in its hyphenated form, in lower case: what the call is named.
pub fn uuid_text(id: &[u8; 16]) -> String {
    let [a, b, c, d, e] = [&id[..4], &id[4..6], &id[6..8], &id[8..10], &id[10..]].map(hex::encode);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Reads a UUID in its hyphenated form, in either case; nothing if it is none.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
        return None;
    }
    let mut id = [0; 16];
    hex::decode_to_slice(groups.concat(), &mut id).ok()?;
    Some(id)
}

/// Draws a UUID of version 4 (RFC 9562).
pub fn drawn_uuid() -> [u8; 16] {
    let mut id: [u8; 16] = rand::random();
    id[6] = id[6] & 0x0F | 0x40;
    id[8] = id[8] & 0x3F | 0x80;
    id
}

#[cfg(test)]
mod tests;
