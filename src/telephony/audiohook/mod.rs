//! AudioHook version 2, by which Genesys Cloud sends the audio of a call and gets its transcript back.
//!
//! Genesys is the client: one websocket, JSON texts and raw audio. It closes the connection itself once it
//! has read `closed`, also after it was told to `disconnect`, so [`AudioHook`] ends none with a
//! [`Frame::Close`]; the driver closes when the client does not. Signatures of the upgrade are in [`signature`].

pub mod client;
mod languages;
pub mod message;
mod opening;
pub mod signature;
mod transcript;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde::Serialize;
use serde_json::json;

use self::languages::with_regions;
use self::message::ClientEnvelope;
use self::message::ClientSays;
use self::message::CloseReason;
use self::message::Fault;
use self::message::Media;
use self::message::NULL_UUID;
use self::message::Open;
use self::message::Span;
use self::opening::CustomConfig;
use self::opening::opening;
use crate::event::Card;
use crate::event::Segment;
use crate::event::Word;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Heard;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Wire;
use crate::telephony::WireError;

/// The longest text of `info` in what is sent, in characters.
const INFO_MAX_CHARS: usize = 200;
/// How many told final segments are remembered, so that none is told twice.
const TOLD_MAX: usize = 512;

/// What the upgrade's headers say. An empty field is one that was not there, and is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// `Audiohook-Session-Id`: every message must carry it.
    pub id: String,
    /// `Audiohook-Organization-Id`: `open` must carry it.
    pub organization: String,
    /// `Audiohook-Correlation-Id`: what Genesys' support asks for.
    pub correlation: String,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was said.
    Fresh,
    /// `open` was heard, `opened` not told yet.
    Opening,
    /// `opened` was told.
    Open,
    /// `close` was heard, `closed` not told yet.
    Closing,
    /// `disconnect` was told.
    Disconnected,
    /// `closed` was told.
    Closed,
}

/// One session of a client.
///
/// `open` is [`Happening::Opened`], and `opened` goes out on [`News::Opened`]; a probe is
/// [`Happening::Probed`] instead and `opened` its answer. `close` is [`Happening::Closed`], whatever came
/// before it, and `closed` goes out on [`News::Finished`]. A call that the service finishes first is
/// disconnected by that news; the client's `close` and another such news follow.
#[derive(Debug)]
pub struct AudioHook {
    session: Session,
    languages: Vec<String>,
    stage: Stage,
    /// Whether there is a call that `close` ends: opened, not a probe, not refused.
    has_call: bool,
    is_probe: bool,
    is_paused: bool,
    is_draining: bool,
    wants_partials: bool,
    wants_agent_assist: bool,
    wants_languages: bool,
    conversation: String,
    language: Option<String>,
    media: Option<(Media, AudioFormat)>,
    /// The last number of the client.
    client_sequence: u64,
    /// The last number of this side.
    sequence: u64,
    /// The bytes of a sample that was cut, fewer than a sample of all channels.
    rest: Vec<u8>,
    /// How much audio was received or left out, in microseconds.
    position_us: u64,
    /// What was left out and not passed on yet, less than a millisecond.
    skipped_us: u64,
    drift_ms: i64,
    fault: Option<Fault>,
    /// The utterance ids of the last final segments.
    told: VecDeque<String>,
}

impl AudioHook {
    /// Returns a session that has not begun.
    pub fn new(session: Session) -> AudioHook {
        AudioHook {
            session,
            languages: Vec::new(),
            stage: Stage::Fresh,
            has_call: false,
            is_probe: false,
            is_paused: false,
            is_draining: false,
            wants_partials: false,
            wants_agent_assist: false,
            wants_languages: false,
            conversation: String::new(),
            language: None,
            media: None,
            client_sequence: 0,
            sequence: 0,
            rest: Vec::new(),
            position_us: 0,
            skipped_us: 0,
            drift_ms: 0,
            fault: None,
            told: VecDeque::new(),
        }
    }

    /// Sets the BCP 47 tags that a client is told when it asks which languages are understood; none at first.
    pub fn with_languages(mut self, languages: Vec<String>) -> AudioHook {
        self.languages = languages;
        self
    }

    /// Returns how much of the call's audio was received or left out, in milliseconds.
    pub fn position_ms(&self) -> u64 {
        self.position_us / 1000
    }

    /// Returns how far the client's clock was ahead of the received bytes when it last left something out,
    /// in milliseconds; the bytes count.
    pub fn drift_ms(&self) -> i64 {
        self.drift_ms
    }

    /// Returns the client's last complaint; its text is the client's, up to 200 characters.
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn hear_text(&mut self, text: &str) -> Result<Heard, WireError> {
        let envelope = ClientEnvelope::read(text)?;
        self.check_envelope(&envelope)?;
        // From here on the number is used up, whatever the parameters say.
        self.client_sequence = envelope.sequence;
        match envelope.says()? {
            ClientSays::Open(open) => self.open(*open),
            ClientSays::Ping => Ok(self.answer("pong", json!({})).into()),
            ClientSays::Close(reason) => self.close(reason),
            ClientSays::Error(fault) => {
                let message = transcript::shortened(&fault.message, INFO_MAX_CHARS);
                self.fault = Some(Fault { message, ..fault });
                Ok(Heard::default())
            }
            ClientSays::Update { language } => self.update(language),
            ClientSays::Paused => self.pause(),
            ClientSays::Resumed(span) => self.resume(span),
            ClientSays::Discarded(span) => self.discard(span),
            ClientSays::Dtmf => Ok(unanswered(self.only_in_call("dtmf", vec![Happening::Key])?)),
        }
    }

    fn check_envelope(&mut self, envelope: &ClientEnvelope) -> Result<(), WireError> {
        let is_unnamed = self.session.id.is_empty() || self.session.id == NULL_UUID;
        if is_unnamed && message::is_uuid(&envelope.id) {
            self.session.id.clone_from(&envelope.id);
        }
        if !envelope.id.eq_ignore_ascii_case(&self.session.id) {
            return Err(WireError::Foreign("the id is not the session's".to_owned()));
        }
        let expected = self.client_sequence + 1;
        if envelope.sequence != expected {
            return Err(WireError::OutOfSequence { expected, got: envelope.sequence });
        }
        if envelope.server_sequence > self.sequence {
            return Err(WireError::OutOfSequence { expected: self.sequence, got: envelope.server_sequence });
        }
        Ok(())
    }

    fn open(&mut self, open: Open) -> Result<Heard, WireError> {
        if self.stage != Stage::Fresh {
            return Err(WireError::OutOfPlace("open".to_owned()));
        }
        let organization = &self.session.organization;
        if !organization.is_empty() && !open.organization_id.eq_ignore_ascii_case(organization) {
            return Err(WireError::Foreign("organizationId is not the header's".to_owned()));
        }
        let config = CustomConfig::read(open.custom_config.as_ref())?;
        let chosen = message::choose(&open.media).map(|(media, format)| (media.clone(), format));
        let is_probe = open.is_probe();
        if chosen.is_none() && !(is_probe && open.media.is_empty()) {
            return Err(WireError::UnknownAudio(
                "none of the media, PCMU or L16 at 8000 is needed".to_owned(),
            ));
        }
        self.media = chosen;
        self.is_probe = is_probe;
        self.wants_partials = config.partials;
        self.wants_agent_assist = config.agent_assist;
        self.wants_languages = open.supported_languages.unwrap_or(false);
        self.conversation.clone_from(&open.conversation_id);
        self.language.clone_from(&open.language);
        self.stage = Stage::Opening;
        if is_probe {
            return Ok(Heard { happenings: vec![Happening::Probed], replies: self.opened() });
        }
        self.has_call = true;
        let speaker = self.media.as_ref().and_then(|(_, format)| match format.channels {
            Channels::One(speaker) => Some(speaker),
            Channels::Two(..) => None,
        });
        Ok(Happening::Opened(opening(&self.session, open, config, speaker)).into())
    }

    /// Tells `opened`; the client may send audio from then on.
    fn opened(&mut self) -> Vec<Frame> {
        self.stage = Stage::Open;
        let mut parameters = json!({
            "media": self.media.iter().map(|(media, _)| media).collect::<Vec<_>>(),
            "startPaused": false,
        });
        if self.wants_languages {
            parameters["supportedLanguages"] = json!(with_regions(&self.languages));
        }
        vec![self.answer("opened", parameters)]
    }

    fn close(&mut self, reason: CloseReason) -> Result<Heard, WireError> {
        if matches!(self.stage, Stage::Closing | Stage::Closed) {
            return Err(WireError::OutOfPlace("close".to_owned()));
        }
        let reason = match reason {
            CloseReason::End => "hangup",
            CloseReason::Error => "error",
            CloseReason::Disconnect => "disconnect",
            CloseReason::Reconnect => "reconnect",
        };
        self.rest.clear();
        self.stage = Stage::Closing;
        Ok(Happening::Closed { reason: reason.to_owned() }.into())
    }

    fn closed(&mut self) -> Vec<Frame> {
        self.stage = Stage::Closed;
        vec![self.answer("closed", json!({}))]
    }

    fn update(&mut self, language: String) -> Result<Heard, WireError> {
        let happenings = self.only_in_call("update", vec![Happening::Language(language.clone())])?;
        self.language = Some(language);
        Ok(Heard { happenings, replies: vec![self.answer("updated", json!({}))] })
    }

    /// Some clients say it twice: once for themselves, once for their source.
    fn pause(&mut self) -> Result<Heard, WireError> {
        let news = if self.is_paused { Vec::new() } else { vec![Happening::Hold(true)] };
        let happenings = self.only_in_call("paused", news)?;
        self.is_paused = true;
        self.rest.clear();
        Ok(unanswered(happenings))
    }

    fn resume(&mut self, span: Span) -> Result<Heard, WireError> {
        self.only_in_call("resumed", Vec::new())?;
        // The pause counts as hold up to its end.
        let mut happenings = self.skip(span);
        if self.is_paused {
            happenings.push(Happening::Hold(false));
        }
        self.is_paused = false;
        Ok(unanswered(self.only_in_call("resumed", happenings)?))
    }

    fn discard(&mut self, span: Span) -> Result<Heard, WireError> {
        self.only_in_call("discarded", Vec::new())?;
        let happenings = self.skip(span);
        Ok(unanswered(self.only_in_call("discarded", happenings)?))
    }

    /// Moves the position over what was left out; less than a millisecond waits for the next time.
    fn skip(&mut self, span: Span) -> Vec<Happening> {
        let (start_ms, position_ms) = (span.start_us / 1000, self.position_us / 1000);
        self.drift_ms = start_ms.cast_signed().saturating_sub(position_ms.cast_signed());
        self.position_us = self.position_us.saturating_add(span.discarded_us);
        self.rest.clear();
        let skipped_us = self.skipped_us + span.discarded_us;
        self.skipped_us = skipped_us % 1000;
        match skipped_us / 1000 {
            0 => Vec::new(),
            skipped_ms => vec![Happening::Skipped(skipped_ms)],
        }
    }

    /// Returns the happenings where there is a call for them, none in a probe or once it was told to go.
    fn only_in_call(&self, kind: &'static str, news: Vec<Happening>) -> Result<Vec<Happening>, WireError> {
        match self.stage {
            Stage::Fresh => Err(WireError::TooEarly(kind)),
            Stage::Opening | Stage::Open if self.has_call => Ok(news),
            // What was on its way when the server said `disconnect`.
            Stage::Opening | Stage::Open | Stage::Disconnected => Ok(Vec::new()),
            Stage::Closing | Stage::Closed => Err(WireError::OutOfPlace(kind.to_owned())),
        }
    }

    fn hear_audio(&mut self, bytes: &[u8]) -> Result<Heard, WireError> {
        Message::Binary(bytes).check_size()?;
        let format = match (self.stage, &self.media) {
            (Stage::Fresh | Stage::Opening, _) => return Err(WireError::TooEarly("audio")),
            // What was on its way when the server said `disconnect`.
            (Stage::Disconnected, _) => return Ok(Heard::default()),
            // A probe tries that too, and is of no call.
            (Stage::Open, _) if self.is_probe => return Ok(Heard::default()),
            (Stage::Open, Some((_, format))) => *format,
            _ => return Err(WireError::OutOfPlace("audio".to_owned())),
        };
        // A client that pauses must not send; what it sends was not agreed to and is not listened to.
        if self.is_paused {
            return Ok(Heard::default());
        }
        let mut samples = std::mem::take(&mut self.rest);
        samples.extend_from_slice(bytes);
        self.rest = samples.split_off(samples.len() - samples.len() % format.frame_bytes());
        if samples.is_empty() {
            return Ok(Heard::default());
        }
        let frames = (samples.len() / format.frame_bytes()) as u64;
        let audio_us = frames * 1_000_000 / u64::from(format.rate_hz);
        self.position_us = self.position_us.saturating_add(audio_us);
        Ok(Happening::Audio { format, bytes: samples }.into())
    }

    /// Makes this side's next message.
    fn answer(&mut self, kind: &str, parameters: impl Serialize) -> Frame {
        self.sequence += 1;
        let mut outgoing = message::outgoing(&self.session.id, kind, self.sequence, parameters);
        outgoing.clientseq = Some(self.client_sequence);
        Frame::Text(outgoing.text())
    }

    fn event(&mut self, entity: impl Serialize) -> Frame {
        self.answer("event", json!({ "entities": [entity] }))
    }

    fn disconnect(&mut self, reason: &str, info: Option<&str>) -> Vec<Frame> {
        if matches!(self.stage, Stage::Closing | Stage::Closed | Stage::Disconnected) {
            return Vec::new();
        }
        self.stage = Stage::Disconnected;
        self.rest.clear();
        let mut parameters = json!({ "reason": reason });
        if let Some(info) = info {
            parameters["info"] = json!(transcript::shortened(info, INFO_MAX_CHARS));
        }
        vec![self.answer("disconnect", parameters)]
    }

    fn reconnect(&mut self) -> Vec<Frame> {
        self.is_draining = true;
        // Before `opened` the client would take it for an error; it is told right after.
        if self.stage != Stage::Open || !self.has_call {
            return Vec::new();
        }
        vec![self.answer("reconnect", json!({ "info": "the server is stopping" }))]
    }

    /// Whether `event` messages are read by somebody: until `closed` is told.
    fn takes_events(&self) -> bool {
        self.has_call && matches!(self.stage, Stage::Open | Stage::Closing)
    }

    fn tell_segment(&mut self, segment: &Segment, words: Option<&[Word]>) -> Vec<Frame> {
        if !self.takes_events() || (!segment.is_final && !self.wants_partials) {
            return Vec::new();
        }
        let id = transcript::utterance_id(&self.conversation, &segment.id, 0);
        if self.told.contains(&id) {
            return Vec::new();
        }
        if segment.is_final {
            self.told.push_back(id);
            if self.told.len() > TOLD_MAX {
                self.told.pop_front();
            }
        }
        let language = self.language.clone();
        let entities = transcript::transcripts(&self.conversation, language.as_deref(), segment, words);
        entities.iter().map(|entity| self.event(entity)).collect()
    }

    fn tell_cards(&mut self, cards: &[Card]) -> Vec<Frame> {
        if !self.takes_events() || !self.wants_agent_assist || cards.is_empty() {
            return Vec::new();
        }
        let entities = transcript::articles(&self.conversation, self.sequence, cards);
        entities.iter().map(|entity| self.event(entity)).collect()
    }
}

impl Wire for AudioHook {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        match message {
            Message::Text(text) => self.hear_text(text),
            Message::Binary(bytes) => self.hear_audio(bytes),
        }
    }

    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        match news {
            News::Opened if self.stage == Stage::Opening => {
                let mut frames = self.opened();
                if self.is_draining {
                    frames.extend(self.reconnect());
                }
                frames
            }
            News::Opened => Vec::new(),
            News::Refused(why) => {
                let frames = self.disconnect("error", Some(why));
                self.has_call = false;
                if self.stage == Stage::Closing { self.closed() } else { frames }
            }
            News::Segment(segment, words) => self.tell_segment(segment, words),
            News::Cards(cards) => self.tell_cards(cards),
            News::Draining if self.is_draining => Vec::new(),
            News::Draining => self.reconnect(),
            News::Finished if self.stage == Stage::Closing => self.closed(),
            News::Finished => {
                let frames = if self.has_call { self.disconnect("completed", None) } else { Vec::new() };
                self.has_call = false;
                frames
            }
        }
    }

    fn is_leaving(&self) -> bool {
        self.stage == Stage::Disconnected
    }

    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        let code = match error {
            WireError::Malformed(_) => 400,
            WireError::TooEarly(_)
            | WireError::OutOfPlace(_)
            | WireError::OutOfSequence { .. }
            | WireError::Foreign(_) => 409,
            WireError::TooLarge { .. } => 413,
            WireError::UnknownAudio(_) => 415,
        };
        // The client answers with `close` and waits for `closed`.
        self.disconnect("error", Some(&format!("{code} {error}")))
    }
}

fn unanswered(happenings: Vec<Happening>) -> Heard {
    Heard { happenings, replies: Vec::new() }
}
