//! Turns on their way to words, and words on their way into the call.

use std::time::Instant;

use futures_util::FutureExt;
use futures_util::StreamExt;

use crate::assist::calls::Acknowledgement;
use crate::assist::intake;
use crate::assist::intake::Refusal;
use crate::assist::intake::Spoken;
use crate::assist::line::LAST_WORDS;
use crate::assist::line::Line;
use crate::assist::line::Open;
use crate::event::Prosody;
use crate::event::Segment;
use crate::event::Severity;
use crate::event::Word;
use crate::speech::listener::Turn;
use crate::speech::talk::index;
use crate::speech::whisper::Recognised;
use crate::speech::whisper::Request;

impl Line {
    /// Has a turn recognised, so far or in whole.
    pub(super) async fn ask(&mut self, mut turn: Turn, is_final: bool) {
        let (Some(open), Some(recogniser)) = (&self.open, &self.speech.recogniser) else { return };
        if !recogniser.speaks(&open.language) {
            return self.mark_language(is_final).await;
        }
        turn.start_ms += open.offset_ms;
        turn.end_ms += open.offset_ms;
        let recognition = recogniser.ask(Request {
            turn: (self.number, turn.number),
            samples: std::mem::take(&mut turn.samples),
            start_ms: turn.start_ms,
            language: open.language.clone(),
            is_final,
        });
        let answer = async move { (turn, recognition.await.ok()) }.boxed();
        if is_final {
            self.asked.push_back(Instant::now());
            self.finals.push_back(answer);
        } else {
            self.partials.push(answer);
        }
    }

    /// Says a turn's words, or takes back what was shown of them.
    pub(super) async fn say(&mut self, turn: Turn, recognised: Option<Recognised>) {
        self.asked.pop_front();
        self.said[index(turn.speaker)] = turn.number;
        if recognised.is_some() {
            self.is_refusal_told = false;
        } else if !std::mem::replace(&mut self.is_refusal_told, true) {
            let message = "speech is not recognised: too much waits, or the recogniser failed".to_owned();
            self.alert("lag", Severity::Warning, message).await;
        }
        let Some(open) = &self.open else { return };
        let id = open.id_of(&turn);
        match recognised.filter(|recognised| !recognised.words.is_empty()) {
            Some(recognised) => {
                let said = segment(id, &turn, recognised.text(), true);
                self.say_segment(said, Some(recognised.words), Some(turn.prosody)).await;
            }
            None => open.feed.show(segment(id, &turn, String::new(), false)),
        }
    }

    /// Shows a turn's words so far.
    pub(super) fn show(&mut self, turn: &Turn, recognised: Option<Recognised>) {
        let (Some(open), Some(recognised)) = (&self.open, recognised) else { return };
        // The final text may be there already.
        if turn.number > self.said[index(turn.speaker)] && !recognised.words.is_empty() {
            open.feed.show(segment(open.id_of(turn), turn, recognised.text(), false));
        }
    }

    /// Passes a segment on that the carrier recognised.
    pub(super) async fn pass_on(&mut self, segment: Segment, words: Option<Vec<Word>>) {
        let Some(open) = &self.open else { return };
        if segment.is_final {
            self.say_segment(segment, words, None).await;
        } else if let Ok(checked) =
            intake::check_segment(Spoken { seq: 1, segment, words: None, prosody: None })
        {
            open.feed.show(checked.segment);
        }
    }

    async fn say_segment(&mut self, segment: Segment, words: Option<Vec<Word>>, prosody: Option<Prosody>) {
        let Some(open) = &mut self.open else { return };
        if open.feed.attached.known.contains(&segment.id) {
            // The carrier came back and says it again.
            return;
        }
        let spoken = Spoken { seq: open.seq + 1, segment, words, prosody };
        let spoken = match intake::check_segment(spoken) {
            Ok(spoken) => spoken,
            Err(refusal) => {
                self.logged.push_back(std::future::ready(Err(refusal)).boxed());
                return;
            }
        };
        open.seq += 1;
        if let (Some(news), Some(words)) = (&mut open.news, &spoken.words) {
            news.remember(&spoken.segment, words);
        }
        let acknowledgement: Acknowledgement = open.feed.say(spoken).await;
        // An actor that drops the question has failed before it was on disk.
        let logged = async move { acknowledgement.await.unwrap_or(Err(Refusal::NotDurable)) };
        self.logged.push_back(logged.boxed());
    }

    /// Lets go of a call that another line has taken: the words of what this one heard still reach it.
    pub(super) fn hand_over(&mut self) {
        let (open, mut finals) = (self.open.take(), std::mem::take(&mut self.finals));
        self.asked.clear();
        self.partials.clear();
        self.logged.clear();
        let Some(open) = open.filter(|_| !finals.is_empty()) else { return };
        // Who drains waits for this too.
        let draining = self.calls.draining();
        tokio::spawn(async move {
            let saying = async {
                while let Some((turn, recognised)) = finals.next().await {
                    let Some(recognised) = recognised.filter(|recognised| !recognised.words.is_empty())
                    else {
                        continue;
                    };
                    let segment = segment(open.id_of(&turn), &turn, recognised.text(), true);
                    let (words, prosody) = (Some(recognised.words), Some(turn.prosody));
                    let spoken = Spoken { seq: 1, segment, words, prosody };
                    if let Ok(spoken) = intake::check_segment(spoken) {
                        open.feed.say_late(spoken).await;
                    }
                }
            };
            if tokio::time::timeout(LAST_WORDS, saying).await.is_err() {
                tracing::warn!("words of a line that was taken over came too late");
            }
            drop(draining);
        });
    }
}

impl Open {
    /// Returns what the segment of a turn is called.
    fn id_of(&self, turn: &Turn) -> String {
        format!("{}{}", self.prefix, turn.number)
    }
}

fn segment(id: String, turn: &Turn, text: String, is_final: bool) -> Segment {
    Segment { id, speaker: turn.speaker, text, start_ms: turn.start_ms, end_ms: turn.end_ms, is_final }
}
