//! Amazon Connect Contact Lens: the events of its real-time analysis stream, as a forwarder sends them.
//!
//! A message is an event, a Kinesis record that holds one as base64, or an array of either.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use serde_json::Value;
use sha2::Digest;
use sha2::Sha256;

use crate::event::CallId;
use crate::event::Segment;
use crate::event::Speaker;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Heard;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::WireError;
use crate::telephony::fields::quoted;
use crate::telephony::segments::ID_MAX_BYTES;
use crate::telephony::segments::NAME_MAX_BYTES;
use crate::telephony::segments::TEXT_MAX_CHARS;
use crate::telephony::segments::TIME_MAX_MS;
use crate::telephony::segments::read;
use crate::telephony::segments::refuse;
use crate::telephony::segments::say;
use crate::telephony::segments::tell;
use crate::telephony::segments::text;
use crate::telephony::segments::time_ms;

/// How many transcripts are remembered as sent. Kinesis repeats what is seconds old, not hours.
const SENT_MAX: usize = 1_000;
/// How deep an event may lie: an array, a Lambda's `Records` and their array, a record, `kinesis`, `data`.
const WRAPS_MAX: usize = 6;

/// The analysis of one contact, of voice (version 1.0.0) or chat (2.0.0).
///
/// Utterances are partial segments under the name of the transcript that replaces them. An event of
/// another contact is [`WireError::Foreign`]. What cannot be read does not stop the rest of its
/// message: the forwarder is told, and only a message that brings nothing at all is an error.
/// A chat's first message is at 0 ms.
///
/// Source: Amazon Connect administrator guide, "Data model for conversational analytics segment
/// streams" for voice and for chat.
pub struct ContactLens {
    /// What the call opens with; gone when it is open.
    opening: Option<Opening>,
    /// The contact, from its first event on.
    contact: Option<String>,
    /// The names of the latest transcripts that were sent.
    sent: VecDeque<String>,
    /// What the customer and the agent are saying.
    saying: [Saying; 2],
    /// When a chat's first message came, in milliseconds since 1970.
    epoch_ms: Option<i64>,
    /// The end of the latest segment.
    latest_ms: u64,
    is_closed: bool,
}

/// The utterances of a transcript that is not there yet.
#[derive(Default)]
struct Saying {
    /// The transcript's name.
    transcript: String,
    /// The utterances by where they begin, in milliseconds: a later one from the same place replaces it.
    utterances: BTreeMap<u64, String>,
}

impl ContactLens {
    /// Returns the wire of a contact. Where `opening.call` is empty, the contact's id names the call.
    pub fn new(opening: Opening) -> ContactLens {
        ContactLens {
            opening: Some(opening),
            contact: None,
            sent: VecDeque::new(),
            saying: Default::default(),
            epoch_ms: None,
            latest_ms: 0,
            is_closed: false,
        }
    }

    /// Takes one event; returns whether it ends the contact, and why.
    fn take(
        &mut self,
        event: &Value,
        happenings: &mut Vec<Happening>,
    ) -> Result<Option<&'static str>, WireError> {
        let kind = text(event, "EventType").or_else(|| text(event, "StreamingEventType"));
        let Some(kind) = kind else {
            return Err(WireError::Malformed("an event has no EventType".to_owned()));
        };
        if !matches!(kind, "STARTED" | "SEGMENTS" | "COMPLETED" | "FAILED") {
            return Ok(None);
        }
        self.check_contact(event)?;
        let segments = event.get("Segments").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if self.is_closed {
            let is_late = segments.iter().any(|segment| segment.get("Transcript").is_some());
            return if is_late { Err(WireError::OutOfPlace("a transcript".to_owned())) } else { Ok(None) };
        }
        if let Some(opening) = self.opening.take() {
            happenings.push(Happening::Opened(self.opened(opening, event)));
        }
        let mut problem = None;
        for segment in segments {
            let taken = if let Some(utterance) = segment.get("Utterance") {
                self.take_utterance(utterance, happenings)
            } else if let Some(transcript) = segment.get("Transcript") {
                self.take_transcript(transcript, happenings)
            } else {
                // Categories, issues, summaries, attachments: judgements are made here.
                Ok(())
            };
            problem = problem.or(taken.err());
        }
        match (kind, problem) {
            ("COMPLETED", _) => Ok(Some("hangup")),
            ("FAILED", _) => Ok(Some("error")),
            (_, Some(problem)) => Err(problem),
            (_, None) => Ok(None),
        }
    }

    /// Binds the connection to the contact of its first event.
    fn check_contact(&mut self, event: &Value) -> Result<(), WireError> {
        let contact = text(event, "ContactId").filter(|contact| !contact.is_empty());
        match (contact, &self.contact) {
            (Some(contact), Some(bound)) if contact != bound => {
                Err(WireError::Foreign(format!("contact {}", quoted(contact))))
            }
            (Some(contact), None) => {
                if contact.parse::<CallId>().is_err() {
                    return Err(WireError::Malformed(format!("ContactId {:?}", quoted(contact))));
                }
                self.contact = Some(contact.to_owned());
                Ok(())
            }
            (None, None) if self.opening.as_ref().is_some_and(|opening| opening.call.is_empty()) => {
                Err(WireError::Malformed("the event has no ContactId".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the opening with what the event says of the contact.
    fn opened(&self, mut opening: Opening, event: &Value) -> Opening {
        if let (true, Some(contact)) = (opening.call.is_empty(), &self.contact) {
            opening.call.clone_from(contact);
        }
        if opening.language.is_none() {
            let settings = event.get("StreamingSettings").unwrap_or(event);
            let language = text(settings, "LanguageCode").or_else(|| text(event, "LanguageCode"));
            let is_name = |tag: &&str| !tag.trim().is_empty() && tag.len() <= NAME_MAX_BYTES;
            opening.language = language.filter(is_name).map(str::to_owned);
        }
        opening.is_chat |= text(event, "Channel") == Some("CHAT");
        opening
    }

    fn take_utterance(&mut self, spoken: &Value, happenings: &mut Vec<Happening>) -> Result<(), WireError> {
        let Some(speaker) = role(spoken)? else { return Ok(()) };
        let name = text(spoken, "TranscriptId").or_else(|| text(spoken, "Id")).filter(|id| !id.is_empty());
        let (Some(name), Some(content)) = (name, text(spoken, "PartialContent")) else {
            return Err(WireError::Malformed("an utterance lacks its id or its content".to_owned()));
        };
        let id = short_id(name);
        if self.sent.contains(&id) {
            return Ok(());
        }
        let (begin_ms, end_ms) = self.times(spoken);
        let saying = &mut self.saying[speaker as usize];
        if saying.transcript != id {
            *saying = Saying { transcript: id.clone(), utterances: BTreeMap::new() };
        }
        // An utterance replaces what it reaches back over, and goes on where it does not.
        saying.utterances.split_off(&begin_ms);
        let held: usize = saying.utterances.values().map(String::len).sum();
        if held + content.len() <= TEXT_MAX_CHARS {
            saying.utterances.insert(begin_ms, content.to_owned());
        }
        let start_ms = saying.utterances.keys().next().copied().unwrap_or(begin_ms);
        let mut text = saying.utterances.values().map(|said| said.trim()).collect::<Vec<_>>().join(" ");
        if text.is_empty() {
            content.trim().clone_into(&mut text);
        }
        say(Segment { id, speaker, text, start_ms, end_ms, is_final: false }, Vec::new(), happenings);
        Ok(())
    }

    fn take_transcript(&mut self, spoken: &Value, happenings: &mut Vec<Happening>) -> Result<(), WireError> {
        let Some(speaker) = role(spoken)? else { return Ok(()) };
        // A chat's form or picture is JSON for machines.
        if text(spoken, "ContentType").is_some_and(|form| !form.starts_with("text/")) {
            return Ok(());
        }
        let name = text(spoken, "Id").filter(|id| !id.is_empty());
        let (Some(name), Some(content)) = (name, text(spoken, "Content")) else {
            return Err(WireError::Malformed("a transcript lacks its id or its content".to_owned()));
        };
        let id = short_id(name);
        if self.sent.contains(&id) {
            return Ok(());
        }
        let (start_ms, end_ms) = self.times(spoken);
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back(id.clone());
        if self.saying[speaker as usize].transcript == id {
            self.saying[speaker as usize] = Saying::default();
        }
        let text = content.trim().to_owned();
        say(Segment { id, speaker, text, start_ms, end_ms, is_final: true }, Vec::new(), happenings);
        Ok(())
    }

    /// Returns start and end from the contact's start; what is missing follows what came before.
    fn times(&mut self, spoken: &Value) -> (u64, u64) {
        let absolute = spoken.get("Time").and_then(|time| text(time, "AbsoluteTime"));
        let absolute = absolute.and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        let sent_ms = absolute.map(|time| {
            let at_ms = time.timestamp_millis();
            let epoch_ms = *self.epoch_ms.get_or_insert(at_ms);
            u64::try_from(at_ms.saturating_sub(epoch_ms)).unwrap_or(0).min(TIME_MAX_MS)
        });
        let begin_ms = time_ms(spoken.get("BeginOffsetMillis"), 1.0).or(sent_ms);
        let end_ms = time_ms(spoken.get("EndOffsetMillis"), 1.0);
        let begin_ms = begin_ms.or(end_ms).unwrap_or(self.latest_ms);
        let end_ms = end_ms.unwrap_or(begin_ms).max(begin_ms);
        self.latest_ms = self.latest_ms.max(end_ms);
        (begin_ms, end_ms)
    }
}

impl Wire for ContactLens {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        let mut events = Vec::new();
        let mut problem = unpack(read(message)?, WRAPS_MAX, &mut events).err();
        let mut happenings = Vec::new();
        let mut ended = None;
        for event in &events {
            match self.take(event, &mut happenings) {
                Ok(reason) => ended = ended.or(reason),
                Err(error) => problem = problem.or(Some(error)),
            }
        }
        // The end waits for the rest of its message: records of one batch may come in any order.
        if let Some(reason) = ended {
            self.is_closed = true;
            happenings.push(Happening::Closed { reason: reason.to_owned() });
        }
        match problem {
            Some(problem) if happenings.is_empty() => Err(problem),
            problem => Ok(Heard { happenings, replies: problem.iter().flat_map(refuse).collect() }),
        }
    }

    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        tell(news)
    }

    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        refuse(error)
    }
}

/// Takes the events out of arrays and Kinesis records; what cannot be read is left out and named.
fn unpack(value: Value, wraps_left: usize, events: &mut Vec<Value>) -> Result<(), WireError> {
    let Some(wraps_left) = wraps_left.checked_sub(1) else {
        return Err(WireError::Malformed("records lie too deep in one another".to_owned()));
    };
    let mut problem = None;
    match value {
        Value::Array(values) => {
            for value in values {
                problem = problem.or(unpack(value, wraps_left, events).err());
            }
        }
        Value::Object(mut fields) => {
            let inner = ["Records", "records", "kinesis"].iter().find_map(|name| fields.remove(*name));
            if let Some(inner) = inner {
                return unpack(inner, wraps_left, events);
            }
            match fields.get("data").or_else(|| fields.get("Data")).and_then(Value::as_str) {
                Some(data) => return unpack(decode(data)?, wraps_left, events),
                None => events.push(Value::Object(fields)),
            }
        }
        _ => problem = Some(WireError::Malformed("an event is no object".to_owned())),
    }
    problem.map_or(Ok(()), Err)
}

fn decode(data: &str) -> Result<Value, WireError> {
    let bytes = STANDARD.decode(data).map_err(|error| WireError::Malformed(format!("data: {error}")))?;
    read(Message::Binary(&bytes))
}

/// Returns who spoke; nothing for a supervisor, a bot and the system, who are no party of a call.
fn role(spoken: &Value) -> Result<Option<Speaker>, WireError> {
    match text(spoken, "ParticipantRole").or_else(|| text(spoken, "ParticipantId")) {
        Some("AGENT") => Ok(Some(Speaker::Agent)),
        Some("CUSTOMER") => Ok(Some(Speaker::Customer)),
        Some(_) => Ok(None),
        None => Err(WireError::Malformed("a segment has no ParticipantRole".to_owned())),
    }
}

/// Returns a name that leaves room for the number of a piece; a longer one goes by its hash.
fn short_id(name: &str) -> String {
    if name.len() <= ID_MAX_BYTES { name.to_owned() } else { hex::encode(Sha256::digest(name)) }
}

#[cfg(test)]
pub(super) mod tests;
