//! AssemblyAI's streaming transcription, version 3: the events of `/v3/ws`, as a forwarder sends them.
//!
//! A turn is a segment: partial while it grows, final when it ends. Later corrections of who spoke
//! come under the segment's id.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Word;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Heard;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::WireError;
use crate::telephony::segments::TIME_MAX_MS;
use crate::telephony::segments::WORDS_MAX;
use crate::telephony::segments::is;
use crate::telephony::segments::read;
use crate::telephony::segments::refuse;
use crate::telephony::segments::say;
use crate::telephony::segments::share;
use crate::telephony::segments::tell;
use crate::telephony::segments::text;
use crate::telephony::segments::time_ms;

/// How many turns are remembered for corrections: a day of a turn every twenty seconds.
const TURNS_MAX: usize = 4_096;
/// The longest part of the session's id that segments are named by, in bytes.
const SESSION_MAX_BYTES: usize = 64;
/// The longest label of a speaker that is told from others, in characters.
const LABEL_MAX_CHARS: usize = 40;

/// The transcription of one call.
///
/// With formatting on, a turn comes twice when it ends: plain at once, and some hundred milliseconds
/// later with capitals, digits and punctuation, which people and the redaction read better. So the
/// plain one is shown as partial and the formatted one is final, as soon as it is known that there is
/// one: `Begin` says so, or an earlier turn had one. Otherwise the plain one is final at once, and a
/// formatted repeat is ignored. A turn whose formatted text is lost is final as it is when the next
/// one begins, and formatting counts as off from there.
///
/// Where turns are labelled, whoever is heard first is the constructor's speaker (an agent usually
/// greets) and every other label the other person; a turn without a label, or with `UNKNOWN`, is the
/// constructor's speaker's.
///
/// The call ends with `Termination`. An `Error` ends the turn that runs, not the call: the forwarder
/// may begin another session, whose times go on where the last one ended. A `Warning` means nothing.
/// Segments are named by the session's id and the turn's order.
///
/// Source: AssemblyAI documentation, "Streaming API", "Message sequence" and "Streaming diarization".
pub struct AssemblyAi {
    /// What the call opens with; gone when it is open.
    opening: Option<Opening>,
    speaker: Speaker,
    /// The session's id; empty until one is known.
    session: String,
    /// How many sessions have begun.
    sessions: u64,
    /// Where in the call the session began, in milliseconds.
    offset_ms: u64,
    /// The end of the latest speech, in milliseconds from the call's start.
    latest_ms: u64,
    /// Whether a turn is said to come again, formatted.
    is_formatting: bool,
    /// The label that was heard first.
    first_label: Option<String>,
    /// The latest turns by their order.
    turns: BTreeMap<u64, Said>,
    /// The newest turn while it is not final.
    running: Option<Running>,
    is_closed: bool,
}

/// What was said of a turn.
#[derive(Debug, Clone, Copy)]
struct Said {
    speaker: Speaker,
    is_final: bool,
    /// Whether partial text stands under its name.
    is_shown: bool,
}

/// A turn that is not final.
struct Running {
    order: u64,
    segment: Segment,
    words: Vec<Word>,
    /// Whether it has ended and only its formatted text is due.
    has_ended: bool,
}

impl AssemblyAi {
    /// Returns the wire of a call; `speaker` is who speaks, or who speaks first where turns are labelled.
    pub fn new(opening: Opening, speaker: Speaker) -> AssemblyAi {
        AssemblyAi {
            opening: Some(opening),
            speaker,
            session: String::new(),
            sessions: 0,
            offset_ms: 0,
            latest_ms: 0,
            is_formatting: false,
            first_label: None,
            turns: BTreeMap::new(),
            running: None,
            is_closed: false,
        }
    }

    fn open(&mut self, happenings: &mut Vec<Happening>) {
        happenings.extend(self.opening.take().map(Happening::Opened));
    }

    /// Begins a session: the first one, or another after that broke.
    fn begin(&mut self, begin: &Value, happenings: &mut Vec<Happening>) {
        self.open(happenings);
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let id = text(begin, "id").unwrap_or_default();
        let session: String = id.chars().filter(is_allowed).take(SESSION_MAX_BYTES).collect();
        if session.is_empty() || session == self.session {
            return;
        }
        self.end_running(happenings);
        self.session = session;
        self.sessions += 1;
        self.offset_ms = self.latest_ms;
        self.first_label = None;
        self.turns.clear();
        self.is_formatting = begin.get("configuration").is_some_and(|set| is(set, "format_turns"));
    }

    /// Takes a turn as far as it has come.
    fn take_turn(&mut self, turn: &Value, happenings: &mut Vec<Happening>) -> Result<(), WireError> {
        let Some(order) = turn.get("turn_order").and_then(Value::as_u64) else {
            return Err(WireError::Malformed("the turn has no turn_order".to_owned()));
        };
        self.open(happenings);
        if self.running.as_ref().is_some_and(|running| running.order < order) {
            self.is_formatting &= !self.running.as_ref().is_some_and(|running| running.has_ended);
            self.end_running(happenings);
        }
        let is_formatted = is(turn, "end_of_turn") && is(turn, "turn_is_formatted");
        self.is_formatting |= is_formatted;
        let said = self.turns.get(&order).copied();
        let is_forgotten =
            self.turns.len() == TURNS_MAX && self.turns.keys().next().is_some_and(|oldest| order < *oldest);
        let label = text(turn, "speaker_label");
        if is_forgotten || said.is_some_and(|said| said.is_final) {
            self.revise(order, label, happenings);
            return Ok(());
        }
        let known = said.map(|said| said.speaker);
        let speaker = self.speaker_of(label).or(known).unwrap_or(self.speaker);
        let (segment, words) = self.segment(turn, order, speaker);
        let has_ended = is(turn, "end_of_turn");
        let is_final = has_ended && (is_formatted || !self.is_formatting);
        if self.running.as_ref().is_some_and(|running| running.order == order) {
            self.running = None;
        }
        if is_final {
            self.finish(order, segment, words, happenings);
            return Ok(());
        }
        let is_shown = !segment.text.is_empty();
        if is_shown || said.is_some_and(|said| said.is_shown) {
            say(segment.clone(), words.clone(), happenings);
        }
        self.remember(order, Said { speaker, is_final: false, is_shown });
        // A turn older than the one that runs is final when it comes so, or stays as it is.
        if self.running.is_none() {
            self.running = Some(Running { order, segment, words, has_ended });
        }
        Ok(())
    }

    /// Returns a turn as a partial segment, with its words.
    fn segment(&mut self, turn: &Value, order: u64, speaker: Speaker) -> (Segment, Vec<Word>) {
        let listed = turn.get("words").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut words = Vec::new();
        let mut unsettled = Vec::new();
        for listed in listed.iter().take(WORDS_MAX) {
            let Some(word) = text(listed, "text").map(str::trim).filter(|word| !word.is_empty()) else {
                continue;
            };
            let start_ms = time_ms(listed.get("start"), 1.0).map(|ms| self.in_call(ms));
            let start_ms = start_ms.unwrap_or(self.latest_ms);
            let end_ms =
                time_ms(listed.get("end"), 1.0).map_or(start_ms, |ms| self.in_call(ms)).max(start_ms);
            let confidence = share(listed.get("confidence"));
            words.push(Word { text: word.to_owned(), start_ms, end_ms, confidence });
            if listed.get("word_is_final").and_then(Value::as_bool) == Some(false) {
                unsettled.push(word);
            }
        }
        let mut transcript = text(turn, "transcript").unwrap_or_default().trim().to_owned();
        // The transcript leaves out the words that may still change, with some models.
        let settled = words.len() - unsettled.len();
        if !is(turn, "end_of_turn") && transcript.split_whitespace().count() <= settled {
            for word in unsettled {
                if !transcript.is_empty() {
                    transcript.push(' ');
                }
                transcript.push_str(word);
            }
        }
        let start_ms = words.iter().map(|word| word.start_ms).min().unwrap_or(self.latest_ms);
        let end_ms = words.iter().map(|word| word.end_ms).max().unwrap_or(start_ms);
        self.latest_ms = self.latest_ms.max(end_ms);
        let id = self.id(order);
        (Segment { id, speaker, text: transcript, start_ms, end_ms, is_final: false }, words)
    }

    /// Returns where in the call a time of the session lies.
    fn in_call(&self, ms: u64) -> u64 {
        self.offset_ms.saturating_add(ms).min(TIME_MAX_MS)
    }

    /// Returns whose label this is; nothing where it names nobody.
    fn speaker_of(&mut self, label: Option<&str>) -> Option<Speaker> {
        let label: String = label?.chars().take(LABEL_MAX_CHARS).collect();
        if label.is_empty() || label.eq_ignore_ascii_case("unknown") {
            return None;
        }
        let is_first = *self.first_label.get_or_insert_with(|| label.clone()) == label;
        Some(match (is_first, self.speaker) {
            (true, speaker) => speaker,
            (false, Speaker::Agent) => Speaker::Customer,
            (false, Speaker::Customer) => Speaker::Agent,
        })
    }

    /// Corrects who spoke in a turn, if that is news.
    fn revise(&mut self, order: u64, label: Option<&str>, happenings: &mut Vec<Happening>) {
        let Some(speaker) = self.speaker_of(label) else { return };
        let segment = self.id(order);
        let Some(said) = self.turns.get_mut(&order) else { return };
        if said.speaker == speaker {
            return;
        }
        said.speaker = speaker;
        if said.is_final {
            happenings.push(Happening::Revised { segment, speaker });
        }
        // One that is not final is said again with its speaker.
        if let Some(running) = self.running.as_mut().filter(|running| running.order == order) {
            running.segment.speaker = speaker;
        }
    }

    /// Ends the turn that runs, with what there is of it.
    fn end_running(&mut self, happenings: &mut Vec<Happening>) {
        if let Some(Running { order, segment, words, .. }) = self.running.take() {
            self.finish(order, segment, words, happenings);
        }
    }

    /// Says a turn for good; one without text is emptied where it was shown, and may still come.
    fn finish(&mut self, order: u64, segment: Segment, words: Vec<Word>, happenings: &mut Vec<Happening>) {
        let speaker = segment.speaker;
        let is_final = !segment.text.is_empty();
        if is_final || self.turns.get(&order).is_some_and(|said| said.is_shown) {
            say(Segment { is_final, ..segment }, words, happenings);
        }
        self.remember(order, Said { speaker, is_final, is_shown: is_final });
    }

    fn remember(&mut self, order: u64, said: Said) {
        self.turns.insert(order, said);
        if self.turns.len() > TURNS_MAX {
            self.turns.pop_first();
        }
    }

    fn id(&self, order: u64) -> String {
        let session = if self.session.is_empty() { "assemblyai" } else { &self.session };
        match self.sessions {
            0 | 1 => format!("{session}-{order}"),
            // A session's id that comes again makes no name twice.
            sessions => format!("{session}.{sessions}-{order}"),
        }
    }
}

impl Wire for AssemblyAi {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        let event = read(message)?;
        let kind = match text(&event, "type") {
            Some(kind) => kind,
            // An error of AssemblyAI has no type in some versions.
            None if event.get("error").is_some() => "Error",
            None => return Err(WireError::Malformed("the event has no type".to_owned())),
        };
        let mut heard = Heard::default();
        let happenings = &mut heard.happenings;
        match kind {
            "Begin" | "Turn" if self.is_closed => return Err(WireError::OutOfPlace(kind.to_owned())),
            "Begin" => self.begin(&event, happenings),
            "Turn" => self.take_turn(&event, happenings)?,
            _ if self.is_closed => {}
            "SpeakerRevision" => {
                for revision in event.get("revisions").and_then(Value::as_array).into_iter().flatten() {
                    if let Some(order) = revision.get("turn_order").and_then(Value::as_u64) {
                        self.revise(order, text(revision, "speaker_label"), happenings);
                    }
                }
            }
            "SpeechStarted" => self.open(happenings),
            "Error" => self.end_running(happenings),
            "Termination" => {
                self.open(happenings);
                self.end_running(happenings);
                self.is_closed = true;
                happenings.push(Happening::Closed { reason: "hangup".to_owned() });
            }
            _ => {}
        }
        Ok(heard)
    }

    fn tell(&mut self, news: News<'_>) -> Vec<Frame> {
        tell(news)
    }

    fn refusal(&mut self, error: &WireError) -> Vec<Frame> {
        refuse(error)
    }

    fn rest(&mut self) -> Vec<Happening> {
        let mut happenings = Vec::new();
        self.end_running(&mut happenings);
        happenings
    }
}

#[cfg(test)]
mod tests;
