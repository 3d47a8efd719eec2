//! Deepgram's live transcription: the events of `/v1/listen`, as a forwarder sends them.
//!
//! Deepgram settles what it heard piece by piece and says apart from that when somebody has finished.
//! Each channel has one running segment: the settled pieces, and behind them what may still change.

use serde_json::Value;

use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Word;
use crate::telephony::Channels;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Heard;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::WireError;
use crate::telephony::fields::quoted;
use crate::telephony::segments::TEXT_MAX_CHARS;
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

/// The longest part of Deepgram's request id that segments are named by, in bytes.
const STREAM_MAX_BYTES: usize = 64;
/// Milliseconds in the unit of Deepgram's times.
const SECOND_MS: f64 = 1000.0;

/// The transcription of one call.
///
/// With [`Channels::Two`] the channel tells who speaks. With [`Channels::One`] the number at each word
/// does, where Deepgram tells voices apart: whoever is heard first is the speaker of the channel (an
/// agent usually greets, so that is the one to configure), every other voice is the other person. A
/// result in which the voice changes is split there.
///
/// A segment ends with `speech_final`, `from_finalize`, `UtteranceEnd`, a change of the voice, an error
/// of Deepgram, or when it would pass the limits of a segment; the call ends with `Metadata`, which
/// Deepgram sends last, or with a `CloseStream` of the forwarder's own. What has not settled by then is
/// taken as it stands. Segments are named by Deepgram's request id, the channel and their number, which
/// begins at the millisecond where the channel is first heard: a forwarder that comes back in the
/// middle of a transcription uses no name twice.
///
/// A forwarder that opens a new transcription within the call sends on: the request id changes, and
/// the times of the new one begin where the last one ended.
///
/// Source: Deepgram API reference, "Live Audio", and the guides "Endpointing" and "Utterance End".
pub struct Deepgram {
    /// What the call opens with; gone when it is open.
    opening: Option<Opening>,
    channels: Channels,
    /// The request id of the transcription; empty until one is known.
    stream: String,
    /// The request id of the one before.
    former: Option<String>,
    /// Where in the call the transcription began, in milliseconds.
    offset_ms: u64,
    /// The end of the latest speech, in milliseconds from the call's start.
    latest_ms: u64,
    /// The number of the voice that was heard first.
    first_voice: Option<u64>,
    runs: [Run; 2],
    is_closed: bool,
}

/// What runs in a channel.
#[derive(Default)]
struct Run {
    /// The number of the running segment.
    number: u64,
    /// The settled pieces that wait for the end of the speech.
    settled: Option<Piece>,
    /// What was recognised behind them and may still change.
    unsettled: Vec<Piece>,
    /// One past the highest number that partial text is shown under.
    shown_until: u64,
    /// The stretch of the last settled result, as Deepgram has it, in milliseconds.
    stretch: Option<(u64, u64)>,
}

/// A stretch of one speaker's words.
#[derive(Debug, Clone)]
struct Piece {
    speaker: Speaker,
    text: String,
    words: Vec<Word>,
    start_ms: u64,
    end_ms: u64,
}

impl Piece {
    /// Puts another stretch behind this one.
    fn append(&mut self, next: Piece) {
        if !self.text.is_empty() && !next.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(&next.text);
        self.words.extend(next.words);
        self.start_ms = self.start_ms.min(next.start_ms);
        self.end_ms = self.end_ms.max(next.end_ms);
    }

    /// Returns whether another stretch may follow in the same segment.
    fn has_room_for(&self, next: &Piece) -> bool {
        self.speaker == next.speaker
            && self.text.chars().count() + 1 + next.text.chars().count() <= TEXT_MAX_CHARS
            && self.words.len() + next.words.len() <= WORDS_MAX
    }

    fn say(self, id: String, is_final: bool, happenings: &mut Vec<Happening>) {
        let Piece { speaker, text, words, start_ms, end_ms } = self;
        say(Segment { id, speaker, text, start_ms, end_ms, is_final }, words, happenings);
    }
}

impl Deepgram {
    /// Returns the wire of a call whose channels are these.
    pub fn new(opening: Opening, channels: Channels) -> Deepgram {
        Deepgram {
            opening: Some(opening),
            channels,
            stream: String::new(),
            former: None,
            offset_ms: 0,
            latest_ms: 0,
            first_voice: None,
            runs: Default::default(),
            is_closed: false,
        }
    }

    fn open(&mut self, happenings: &mut Vec<Happening>) {
        happenings.extend(self.opening.take().map(Happening::Opened));
    }

    /// Takes what was recognised in one stretch of one channel.
    fn take_results(&mut self, results: &Value, happenings: &mut Vec<Happening>) -> Result<(), WireError> {
        let channel = self.channel(results.get("channel_index"))?;
        let request = results.get("metadata").and_then(|metadata| text(metadata, "request_id"));
        self.follow_stream(request, happenings)?;
        self.open(happenings);
        let ends_speech = is(results, "speech_final") || is(results, "from_finalize");
        let is_settled = ends_speech || is(results, "is_final");

        let start_ms = time_ms(results.get("start"), SECOND_MS);
        let duration_ms = time_ms(results.get("duration"), SECOND_MS);
        let stretch = start_ms.zip(duration_ms).map(|(start_ms, ms)| (start_ms, start_ms + ms));
        let is_known = match (stretch, self.runs[channel].stretch) {
            // What lies within the last settled result is that one again, or a late guess at it.
            (Some((start, end)), Some((last_start, last_end))) => {
                start < end && last_start <= start && end <= last_end
            }
            _ => false,
        };
        let run = &mut self.runs[channel];
        if let (Some(start_ms), None, 0) = (start_ms, run.stretch, run.shown_until) {
            run.number = run.number.max(start_ms);
        }
        if !is_known {
            let pieces = self.pieces(results, channel, stretch);
            if is_settled {
                self.runs[channel].stretch = stretch;
                self.runs[channel].unsettled.clear();
                for piece in pieces {
                    self.settle(channel, piece, happenings);
                }
            } else {
                self.runs[channel].unsettled = pieces;
            }
        }
        if ends_speech {
            self.end_segment(channel, happenings);
        }
        self.show(channel, happenings);
        Ok(())
    }

    fn channel(&self, index: Option<&Value>) -> Result<usize, WireError> {
        let index = index.and_then(|index| index.get(0)).and_then(Value::as_u64).unwrap_or(0);
        match usize::try_from(index) {
            Ok(channel) if channel < self.channels.count() => Ok(channel),
            _ => Err(WireError::Foreign(format!("channel {index}"))),
        }
    }

    /// Notices that Deepgram was called anew: its times and its numbers of voices begin again.
    fn follow_stream(
        &mut self,
        request: Option<&str>,
        happenings: &mut Vec<Happening>,
    ) -> Result<(), WireError> {
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
        let stream: String =
            request.unwrap_or_default().chars().filter(is_allowed).take(STREAM_MAX_BYTES).collect();
        if stream.is_empty() || stream == self.stream {
            return Ok(());
        }
        if self.former.as_ref() == Some(&stream) {
            return Err(WireError::Foreign(format!("request {}", quoted(&stream))));
        }
        if !self.stream.is_empty() {
            self.end_all(happenings);
            self.former = Some(std::mem::take(&mut self.stream));
            self.offset_ms = self.latest_ms;
            self.first_voice = None;
            // The numbers go on: names stay unique whatever the request ids are.
            self.runs = self.runs.each_ref().map(|run| Run { number: run.number, ..Run::default() });
        }
        self.stream = stream;
        Ok(())
    }

    /// Returns the stretches of a result, each of one speaker.
    fn pieces(&mut self, results: &Value, channel: usize, stretch: Option<(u64, u64)>) -> Vec<Piece> {
        let best = results.get("channel").and_then(|channel| channel.get("alternatives")?.get(0));
        let transcript = best.and_then(|best| text(best, "transcript")).unwrap_or_default().trim();
        let listed = best.and_then(|best| best.get("words")).and_then(Value::as_array);
        let (from_ms, until_ms) = match stretch {
            Some((start_ms, end_ms)) => (self.in_call(start_ms), self.in_call(end_ms)),
            None => (self.latest_ms, self.latest_ms),
        };
        let mut pieces: Vec<Piece> = Vec::new();
        let mut speaker = self.speaker(channel);
        for listed in listed.into_iter().flatten().take(WORDS_MAX) {
            let Some(word) = text(listed, "punctuated_word").or_else(|| text(listed, "word")) else {
                continue;
            };
            let start_ms = time_ms(listed.get("start"), SECOND_MS).map_or(from_ms, |ms| self.in_call(ms));
            let end_ms = time_ms(listed.get("end"), SECOND_MS).map_or(start_ms, |ms| self.in_call(ms));
            let end_ms = end_ms.max(start_ms);
            if let Some(voice) = listed.get("speaker").and_then(Value::as_u64) {
                speaker = self.speaker_of(voice).unwrap_or(speaker);
            }
            let confidence = share(listed.get("confidence"));
            let words = vec![Word { text: word.to_owned(), start_ms, end_ms, confidence }];
            let piece = Piece { speaker, text: word.to_owned(), words, start_ms, end_ms };
            match pieces.last_mut() {
                Some(last) if last.speaker == speaker => last.append(piece),
                _ => pieces.push(piece),
            }
        }
        match pieces.as_mut_slice() {
            [] => {
                let text = transcript.to_owned();
                pieces.push(Piece { speaker, text, words: Vec::new(), start_ms: from_ms, end_ms: until_ms });
            }
            // The transcript knows better where spaces belong.
            [only] if !transcript.is_empty() => transcript.clone_into(&mut only.text),
            _ => {}
        }
        pieces.retain(|piece| !piece.text.trim().is_empty());
        let end_ms = pieces.iter().map(|piece| piece.end_ms).max().unwrap_or(0);
        self.latest_ms = self.latest_ms.max(end_ms);
        pieces
    }

    /// Returns where in the call a time of the transcription lies.
    fn in_call(&self, ms: u64) -> u64 {
        self.offset_ms.saturating_add(ms).min(TIME_MAX_MS)
    }

    /// Returns who speaks in a channel as far as it tells.
    fn speaker(&self, channel: usize) -> Speaker {
        match (self.channels, channel) {
            (Channels::One(speaker), _) => {
                self.runs[channel].settled.as_ref().map_or(speaker, |running| running.speaker)
            }
            (Channels::Two(first, _), 0) => first,
            (Channels::Two(_, second), _) => second,
        }
    }

    /// Returns whose voice a number is; nothing where the channels tell.
    fn speaker_of(&mut self, voice: u64) -> Option<Speaker> {
        let Channels::One(first) = self.channels else { return None };
        if *self.first_voice.get_or_insert(voice) == voice {
            return Some(first);
        }
        Some(match first {
            Speaker::Agent => Speaker::Customer,
            Speaker::Customer => Speaker::Agent,
        })
    }

    /// Puts a settled piece behind the running segment, or ends that and begins the next.
    fn settle(&mut self, channel: usize, piece: Piece, happenings: &mut Vec<Happening>) {
        if self.runs[channel].settled.as_ref().is_some_and(|running| !running.has_room_for(&piece)) {
            self.end_segment(channel, happenings);
        }
        match &mut self.runs[channel].settled {
            Some(running) => running.append(piece),
            empty => *empty = Some(piece),
        }
    }

    /// Says the running segment for good. Without any text it goes on under its number.
    fn end_segment(&mut self, channel: usize, happenings: &mut Vec<Happening>) {
        if let Some(piece) = self.runs[channel].settled.take() {
            let number = self.runs[channel].number;
            piece.say(self.id(channel, number), true, happenings);
            self.runs[channel].number += 1;
        }
    }

    /// Ends what runs in all channels, with what has not settled.
    fn end_all(&mut self, happenings: &mut Vec<Happening>) {
        for channel in 0..self.channels.count() {
            for piece in std::mem::take(&mut self.runs[channel].unsettled) {
                self.settle(channel, piece, happenings);
            }
            self.end_segment(channel, happenings);
            self.show(channel, happenings);
        }
    }

    /// Shows what runs in a channel, each speaker's part under the number that it will have, and
    /// empties what was shown before and is no more.
    fn show(&mut self, channel: usize, happenings: &mut Vec<Happening>) {
        let run = &self.runs[channel];
        let mut running: Vec<Piece> = run.settled.iter().cloned().collect();
        for piece in &run.unsettled {
            match running.last_mut() {
                Some(last) if last.has_room_for(piece) => last.append(piece.clone()),
                _ => running.push(piece.clone()),
            }
        }
        let (first, shown_before) = (run.number, run.shown_until);
        let shown_until = first + running.len() as u64;
        for (number, piece) in (first..).zip(running) {
            piece.say(self.id(channel, number), false, happenings);
        }
        let speaker = self.speaker(channel);
        let (start_ms, end_ms) = (self.latest_ms, self.latest_ms);
        for number in shown_until..shown_before {
            let gone = Piece { speaker, text: String::new(), words: Vec::new(), start_ms, end_ms };
            gone.say(self.id(channel, number), false, happenings);
        }
        self.runs[channel].shown_until = shown_until;
    }

    fn id(&self, channel: usize, number: u64) -> String {
        let stream = if self.stream.is_empty() { "deepgram" } else { &self.stream };
        format!("{stream}-{channel}-{number}")
    }
}

impl Wire for Deepgram {
    fn hear(&mut self, message: Message<'_>) -> Result<Heard, WireError> {
        let event = read(message)?;
        let Some(kind) = text(&event, "type") else {
            return Err(WireError::Malformed("the event has no type".to_owned()));
        };
        let mut heard = Heard::default();
        let happenings = &mut heard.happenings;
        match kind {
            "Results" if self.is_closed => return Err(WireError::OutOfPlace(kind.to_owned())),
            _ if self.is_closed => {}
            "Results" => self.take_results(&event, happenings)?,
            "UtteranceEnd" => {
                let channel = self.channel(event.get("channel"))?;
                self.open(happenings);
                self.end_segment(channel, happenings);
                self.show(channel, happenings);
            }
            "SpeechStarted" => self.open(happenings),
            "Metadata" if self.former.is_some() && self.former.as_deref() == text(&event, "request_id") => {}
            "Metadata" | "CloseStream" => {
                self.open(happenings);
                self.end_all(happenings);
                self.is_closed = true;
                happenings.push(Happening::Closed { reason: "hangup".to_owned() });
            }
            // The transcription broke, not the call: the forwarder may begin another.
            "Error" => self.end_all(happenings),
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
        self.end_all(&mut happenings);
        happenings
    }
}

#[cfg(test)]
mod tests;
