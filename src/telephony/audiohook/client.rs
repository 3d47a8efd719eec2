//! The client's side of AudioHook, pure: for load generators and tests that play a call.
//!
//! Makes a client's messages with its numbers and positions, and reads a server's. Sending is the caller's.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Session;
use super::message;
use super::message::CloseReason;
use super::message::Media;
use super::message::NULL_UUID;
use super::message::Open;
use super::message::Participant;
use super::message::duration_text;
use super::message::duration_us;
use crate::telephony::WireError;

/// What a server says.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerSays {
    /// Audio may be sent.
    Opened {
        /// The chosen form of audio; nothing where the server wants none.
        media: Option<Media>,
        /// Whether the client waits for `resume` first.
        start_paused: bool,
        /// The server's languages, when they were asked for.
        languages: Option<Vec<String>>,
    },
    /// The answer to the ping of this number.
    Pong(u64),
    /// The language is changed.
    Updated,
    /// Please stop sending audio.
    Pause,
    /// Please send audio again.
    Resume,
    /// Something was recognised or found.
    Event(Vec<EntitySaid>),
    /// Please close.
    Disconnect {
        /// `completed`, `unauthorized` or `error`.
        reason: String,
        /// Why, for people.
        info: Option<String>,
    },
    /// Please close and come back to another server.
    Reconnect {
        /// Why, for people.
        info: Option<String>,
    },
    /// The session is over; the client closes the connection.
    Closed,
}

/// One entity of an `event` message.
#[derive(Debug, Clone, PartialEq)]
pub enum EntitySaid {
    /// Somebody said something.
    Transcript(TranscriptSaid),
    /// Passages for the agent, each as the server wrote it.
    Suggestions(Vec<Value>),
    /// A kind that is not read here.
    Other(String),
}

/// A stretch of speech with the words of its first alternative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptSaid {
    /// Names the utterance.
    pub id: String,
    /// 0 is the customer, 1 the agent.
    pub channel: u8,
    /// Whether it will not change any more.
    pub is_final: bool,
    /// Where it starts, in microseconds.
    pub offset_us: u64,
    /// How long it is, in microseconds.
    pub duration_us: u64,
    /// What was said.
    pub text: String,
    /// The words: text, start and length in microseconds.
    pub tokens: Vec<(String, u64, u64)>,
}

/// One session as its client sees it.
#[derive(Debug, Clone)]
pub struct Client {
    session: Session,
    /// The client's last number.
    sequence: u64,
    /// The server's last number.
    server_sequence: u64,
    position_us: u64,
    media: Option<Media>,
}

impl Client {
    /// Returns a client that has said nothing.
    pub fn new(session: Session) -> Client {
        Client { session, sequence: 0, server_sequence: 0, position_us: 0, media: None }
    }

    /// Makes `open`; the organization is the session's.
    pub fn open(&mut self, mut open: Open) -> String {
        open.organization_id.clone_from(&self.session.organization);
        self.say("open", open)
    }

    /// Makes the `open` that only tries the connection.
    pub fn probe(&mut self, media: Vec<Media>) -> String {
        let participant = Participant { id: NULL_UUID.to_owned(), ..Participant::default() };
        let conversation_id = NULL_UUID.to_owned();
        self.open(Open { conversation_id, participant, media, ..Open::default() })
    }

    /// Makes `ping`, with the last round trip in microseconds where one is known.
    pub fn ping(&mut self, round_trip_us: Option<u64>) -> String {
        match round_trip_us {
            Some(us) => self.say("ping", json!({ "rtt": duration_text(us) })),
            None => self.say("ping", json!({})),
        }
    }

    /// Makes `update` to a BCP 47 language tag.
    pub fn update(&mut self, language: &str) -> String {
        self.say("update", json!({ "language": language }))
    }

    /// Makes `paused`.
    pub fn paused(&mut self) -> String {
        self.say("paused", json!({}))
    }

    /// Makes `resumed` after a pause of so many microseconds, and moves the position over it.
    pub fn resumed(&mut self, paused_us: u64) -> String {
        self.left_out("resumed", paused_us)
    }

    /// Makes `discarded` for audio of so many microseconds, and moves the position over it.
    pub fn discarded(&mut self, discarded_us: u64) -> String {
        self.left_out("discarded", discarded_us)
    }

    /// Makes `error` with a code as in HTTP.
    pub fn error(&mut self, code: u16, message: &str) -> String {
        self.say("error", json!({ "code": code, "message": message }))
    }

    /// Makes `close`.
    pub fn close(&mut self, reason: CloseReason) -> String {
        self.say("close", json!({ "reason": reason }))
    }

    /// Moves the position over so many bytes of audio in the chosen form.
    pub fn audio_sent(&mut self, bytes: usize) {
        if let Some(format) = self.media.as_ref().and_then(Media::audio_format) {
            let samples = (bytes / format.frame_bytes()) as u64;
            self.position_us += samples * 1_000_000 / u64::from(format.rate_hz);
        }
    }

    /// Returns where the client stands in the audio, in microseconds.
    pub fn position_us(&self) -> u64 {
        self.position_us
    }

    /// Returns the number of the last message that was made.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the chosen form of audio, once `opened` was read.
    pub fn media(&self) -> Option<&Media> {
        self.media.as_ref()
    }

    /// Reads a server's message.
    ///
    /// # Errors
    /// When it breaks the protocol: too long, not the form, another session's, or a number that was not due.
    pub fn read(&mut self, text: &str) -> Result<ServerSays, WireError> {
        message::check_length(text)?;
        let envelope: ServerEnvelope = message::parse(text)?;
        if envelope.version != "2" {
            return Err(message::malformed("version must be \"2\""));
        }
        if envelope.id != self.session.id {
            return Err(WireError::Foreign("the id is not the session's".to_owned()));
        }
        let expected = self.server_sequence + 1;
        if envelope.seq != expected {
            return Err(WireError::OutOfSequence { expected, got: envelope.seq });
        }
        if envelope.clientseq > self.sequence {
            return Err(WireError::OutOfSequence { expected: self.sequence, got: envelope.clientseq });
        }
        self.server_sequence = envelope.seq;
        let said = envelope.says()?;
        if let ServerSays::Opened { media, .. } = &said {
            self.media.clone_from(media);
        }
        Ok(said)
    }

    fn left_out(&mut self, kind: &str, us: u64) -> String {
        let start = duration_text(self.position_us);
        let text = self.say(kind, json!({ "start": start, "discarded": duration_text(us) }));
        self.position_us += us;
        text
    }

    fn say(&mut self, kind: &str, parameters: impl Serialize) -> String {
        self.sequence += 1;
        let mut outgoing = message::outgoing(&self.session.id, kind, self.sequence, parameters);
        outgoing.serverseq = Some(self.server_sequence);
        outgoing.position = Some(duration_text(self.position_us));
        outgoing.text()
    }
}

#[derive(Deserialize)]
struct ServerEnvelope {
    version: String,
    id: String,
    #[serde(rename = "type")]
    kind: String,
    seq: u64,
    clientseq: u64,
    parameters: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenedParameters {
    media: Vec<Media>,
    #[serde(default)]
    start_paused: bool,
    #[serde(default)]
    supported_languages: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Farewell {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    info: Option<String>,
}

#[derive(Deserialize)]
struct EventParameters {
    entities: Vec<RawEntity>,
}

#[derive(Deserialize)]
struct RawEntity {
    #[serde(rename = "type")]
    kind: String,
    data: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTranscript {
    id: String,
    channel_id: u8,
    is_final: bool,
    offset: String,
    duration: String,
    alternatives: Vec<RawAlternative>,
}

#[derive(Deserialize)]
struct RawAlternative {
    interpretations: Vec<RawInterpretation>,
}

#[derive(Deserialize)]
struct RawInterpretation {
    transcript: String,
    tokens: Vec<RawToken>,
}

#[derive(Deserialize)]
struct RawToken {
    value: String,
    offset: String,
    duration: String,
}

impl ServerEnvelope {
    fn says(self) -> Result<ServerSays, WireError> {
        let parameters = Value::Object(self.parameters);
        Ok(match self.kind.as_str() {
            "opened" => {
                let opened: OpenedParameters = message::parameters_of("opened", parameters)?;
                if opened.media.len() > 1 {
                    return Err(message::malformed("opened must choose one of the media"));
                }
                ServerSays::Opened {
                    media: opened.media.into_iter().next(),
                    start_paused: opened.start_paused,
                    languages: opened.supported_languages,
                }
            }
            "pong" => ServerSays::Pong(self.clientseq),
            "updated" => ServerSays::Updated,
            "pause" => ServerSays::Pause,
            "resume" => ServerSays::Resume,
            "closed" => ServerSays::Closed,
            "disconnect" => {
                let Farewell { reason, info } = message::parameters_of("disconnect", parameters)?;
                ServerSays::Disconnect { reason, info }
            }
            "reconnect" => {
                let Farewell { info, .. } = message::parameters_of("reconnect", parameters)?;
                ServerSays::Reconnect { info }
            }
            "event" => {
                let event: EventParameters = message::parameters_of("event", parameters)?;
                ServerSays::Event(event.entities.into_iter().map(entity).collect::<Result<_, _>>()?)
            }
            _ => return Err(message::malformed("unknown type")),
        })
    }
}

fn entity(raw: RawEntity) -> Result<EntitySaid, WireError> {
    Ok(match raw.kind.as_str() {
        "transcript" => EntitySaid::Transcript(transcript(message::parameters_of("transcript", raw.data)?)?),
        "agentassist" => match raw.data.get("suggestions") {
            Some(Value::Array(suggestions)) => EntitySaid::Suggestions(suggestions.clone()),
            _ => EntitySaid::Suggestions(Vec::new()),
        },
        _ => EntitySaid::Other(raw.kind),
    })
}

fn transcript(raw: RawTranscript) -> Result<TranscriptSaid, WireError> {
    let us = |text: &str| duration_us(text).ok_or_else(|| message::malformed("a time must be PT<seconds>S"));
    let best = raw.alternatives.into_iter().next().and_then(|best| best.interpretations.into_iter().next());
    let RawInterpretation { transcript: text, tokens } = best
        .ok_or_else(|| message::malformed("a transcript must have an alternative with an interpretation"))?;
    let tokens = tokens.into_iter().map(|token| Ok((token.value, us(&token.offset)?, us(&token.duration)?)));
    Ok(TranscriptSaid {
        id: raw.id,
        channel: raw.channel_id,
        is_final: raw.is_final,
        offset_us: us(&raw.offset)?,
        duration_us: us(&raw.duration)?,
        text,
        tokens: tokens.collect::<Result<_, WireError>>()?,
    })
}
