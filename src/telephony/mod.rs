//! The wires of the carriers, pure: bytes and texts in, what happened and what to answer out.
//!
//! One file for each wire. A [`Wire`] holds no socket, no clock and no audio longer than a frame:
//! whoever drives it (`server::carriers`) reads the socket, hands every message to [`Wire::hear`],
//! does what the [`Happening`]s say, and asks [`Wire::tell`] for the frames of its own news.
//! Positions come from the bytes that were received, never from what the sender's clock says.

pub mod assemblyai;
pub mod audio_fork;
pub mod audiohook;
pub mod audiosocket;
pub mod chan_websocket;
pub mod contact_lens;
pub mod deepgram;
mod fields;
pub mod lca;
mod mistakes;
mod parameters;
mod segments;
pub mod twilio;
pub mod vonage;

use serde_json::Value;

use crate::event::Card;
use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Word;
pub use crate::speech::audio::Encoding;

/// The largest message that a wire reads, in bytes: a second of stereo audio at 48 kHz, and room.
pub const MESSAGE_MAX_BYTES: usize = 256 * 1024;

/// Who is heard in which channel; samples of two channels alternate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channels {
    /// One channel, one speaker.
    One(Speaker),
    /// Two channels, in this order.
    Two(Speaker, Speaker),
}

impl Channels {
    /// Returns how many there are.
    pub fn count(self) -> usize {
        match self {
            Channels::One(_) => 1,
            Channels::Two(..) => 2,
        }
    }
}

/// The form of a stretch of audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AudioFormat {
    /// How samples are written.
    pub encoding: Encoding,
    /// Samples of one channel in a second.
    pub rate_hz: u32,
    /// Who is heard where.
    pub channels: Channels,
}

impl AudioFormat {
    /// Returns the bytes of one sample of all channels.
    pub fn frame_bytes(&self) -> usize {
        self.encoding.sample_bytes() * self.channels.count()
    }
}

/// What a carrier says about a call that begins. Empty or missing: the configuration decides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Opening {
    /// The carrier's name of the call, the same each time it comes back.
    pub call: String,
    /// The agent's user name.
    pub agent: Option<String>,
    /// The customer, as the carrier names them: a number or a name.
    pub customer: Option<String>,
    /// BCP 47 language tag.
    pub language: Option<String>,
    /// Knowledge bases to search.
    pub knowledge: Vec<String>,
    /// Whether people write instead of speaking.
    pub is_chat: bool,
    /// The only speaker that this connection brings, where the carrier sends each over one of its own.
    pub speaker: Option<Speaker>,
    /// Whatever else is worth finding again.
    pub metadata: Value,
}

/// What a message means for the call.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    /// The call begins; nothing else comes before it.
    Opened(Opening),
    /// The carrier only tries the connection: no call is opened, nothing is stored.
    Probed,
    /// Audio that follows what came before in the same channels; always whole samples of all of them.
    Audio {
        /// Its form.
        format: AudioFormat,
        /// The samples.
        bytes: Vec<u8>,
    },
    /// A stretch of the call that was not sent, in milliseconds: it counts in the timeline.
    Skipped(u64),
    /// The call is put on hold (or paused) or goes on.
    Hold(bool),
    /// The customer pressed a key. Which one is nobody's business: keys spell card numbers.
    Key,
    /// The carrier recognised speech itself; a later one of the same id replaces a partial one.
    Segment {
        /// What was said, not redacted.
        segment: Segment,
        /// The words with their times, where known.
        words: Option<Vec<Word>>,
    },
    /// An earlier segment was somebody else's.
    Revised {
        /// The segment's id.
        segment: String,
        /// Who really spoke.
        speaker: Speaker,
    },
    /// The language changed to this BCP 47 tag.
    Language(String),
    /// The carrier ended the call.
    Closed {
        /// `hangup`, `transferred`, `error`, …
        reason: String,
    },
}

/// What goes back to the carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A text message.
    Text(String),
    /// A binary message; on TCP, bytes.
    Binary(Vec<u8>),
    /// The end of the connection: a websocket close code and why.
    Close(u16, String),
}

/// The most bytes of a websocket's closing reason (RFC 6455, section 5.5).
const REASON_MAX_BYTES: usize = 123;

impl Frame {
    /// Returns the end of the connection, with as much of the reason as a websocket takes.
    pub fn close(code: u16, reason: &str) -> Frame {
        Frame::Close(code, reason[..reason.floor_char_boundary(REASON_MAX_BYTES)].to_owned())
    }
}

/// A message of a carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message; on TCP, whatever bytes came, cut anywhere.
    Binary(&'a [u8]),
}

impl Message<'_> {
    /// Checks that the message is not larger than any wire reads.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] above [`MESSAGE_MAX_BYTES`].
    fn check_size(&self) -> Result<(), WireError> {
        let bytes = match self {
            Message::Text(text) => text.len(),
            Message::Binary(bytes) => bytes.len(),
        };
        match bytes {
            0..=MESSAGE_MAX_BYTES => Ok(()),
            _ => Err(WireError::TooLarge { bytes, limit: MESSAGE_MAX_BYTES }),
        }
    }
}

/// What hearing a message came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// What it means, in order.
    pub happenings: Vec<Happening>,
    /// What is answered at once.
    pub replies: Vec<Frame>,
}

impl From<Happening> for Heard {
    fn from(happening: Happening) -> Heard {
        Heard { happenings: vec![happening], replies: Vec::new() }
    }
}

impl From<Frame> for Heard {
    fn from(reply: Frame) -> Heard {
        Heard { happenings: Vec::new(), replies: vec![reply] }
    }
}

/// What the service has to say to a carrier; most wires have words for few of these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum News<'a> {
    /// The call that [`Happening::Opened`] asked for is open.
    Opened,
    /// The call cannot be opened.
    Refused(&'a str),
    /// Something was said, redacted, with the times of its words where known.
    Segment(&'a Segment, Option<&'a [Word]>),
    /// Passages that answer the customer.
    Cards(&'a [Card]),
    /// The server goes down and wants the carrier to come back to another.
    Draining,
    /// The call is over and its last event on disk.
    Finished,
}

/// Says why a message breaks its wire's rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not the form that the wire has.
    #[error("cannot read the message: {0}")]
    Malformed(String),
    /// The message is larger than the wire allows.
    #[error("the message has {bytes} bytes, {limit} are allowed")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Audio, or anything else, before the call began.
    #[error("{0} came before the call was started")]
    TooEarly(&'static str),
    /// The call began already, or is over.
    #[error("{0} came when it may not")]
    OutOfPlace(String),
    /// A numbered message is missing or came twice.
    #[error("message {got} came where {expected} was due")]
    OutOfSequence {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// Audio in a form that is not taken.
    #[error("audio of this form is not taken: {0}")]
    UnknownAudio(String),
    /// The message is about something else than this connection: a wrong id or track.
    #[error("the message does not belong here: {0}")]
    Foreign(String),
}

impl WireError {
    /// Returns the code that programs act on.
    pub fn code(&self) -> &'static str {
        match self {
            WireError::Malformed(_) => "malformed",
            WireError::TooLarge { .. } => "message_too_large",
            WireError::TooEarly(_) => "too_early",
            WireError::OutOfPlace(_) => "out_of_place",
            WireError::OutOfSequence { .. } => "out_of_sequence",
            WireError::UnknownAudio(_) => "unknown_audio",
            WireError::Foreign(_) => "foreign",
        }
    }
}

/// One connection of a carrier.
pub trait Wire: Send {
    /// Reads one message.
    ///
    /// # Errors
    /// When the message breaks the wire's rules; the wire can be asked for [`Wire::refusal`] then, and
    /// heard on: what came before still holds.
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError>;

    /// Returns what the carrier is told of this; nothing where the wire has no words for it.
    fn tell(&mut self, news: News<'_>) -> Vec<Frame>;

    /// Returns whether closing the connection in good order is how the carrier hangs up.
    fn hangs_up_by_closing(&self) -> bool {
        false
    }

    /// Returns whether the carrier was told to go and leaves by itself.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Returns what the wire still holds of a connection that is gone without an end.
    fn rest(&mut self) -> Vec<Happening> {
        Vec::new()
    }

    /// Returns what the carrier is told of its mistake, in its own codes; with a [`Frame::Close`] the
    /// connection ends, without one it goes on.
    fn refusal(&mut self, error: &WireError) -> Vec<Frame>;
}
