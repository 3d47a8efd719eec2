//! What people are told of a line beside the words: measures as they stand, alerts, mistakes of its carrier.

use std::time::Duration;
use std::time::Instant;

use crate::assist::counters::count;
use crate::assist::line::Line;
use crate::assist::line::SILENT_AFTER;
use crate::event::Event;
use crate::event::Severity;
use crate::event::Speaker;
use crate::event::Voice;
use crate::monitor::arousal;
use crate::speech::listener::Turn;
use crate::speech::talk::Noted;
use crate::telephony::WireError;

/// From how far behind on people are told, and below which they may be told again.
const LAG_ALERT: Duration = Duration::from_secs(5);
const LAG_CALM: Duration = Duration::from_secs(2);
/// Every how many interruptions of one speaker people are told.
const INTERRUPTIONS_ALERT: u32 = 3;
/// How long after a raised voice the next is told, in milliseconds of the call.
const RAISED_CALM_MS: u64 = 60_000;
/// How many of a carrier's mistakes of one kind people are told of in a call.
const MISTAKES_TOLD: usize = 8;

impl Line {
    /// Marks a carrier's mistake in the call, once for each kind.
    pub async fn mark(&mut self, error: &WireError) {
        count(&self.calls.parts().counters.wire_errors);
        let code = error.code();
        if self.mistakes.len() >= MISTAKES_TOLD || self.mistakes.contains(&code) {
            return;
        }
        self.mistakes.push(code);
        // The error's own text may hold what the carrier sent.
        let message = format!("the carrier's stream is faulty: {}", code.replace('_', " "));
        self.alert("carrier", Severity::Warning, message).await;
    }

    pub(super) async fn note(&mut self, noted: Noted) {
        match noted {
            Noted::DeadAir { ms, severity } => {
                let message = format!("nobody has spoken for {} seconds", ms / 1_000);
                self.alert("dead_air", severity, message).await;
            }
            Noted::Interruption { by } => {
                let voice = self.voice();
                let (who, times) = match by {
                    Speaker::Customer => ("customer", voice.customer_interruptions),
                    Speaker::Agent => ("agent", voice.agent_interruptions),
                };
                if times % INTERRUPTIONS_ALERT == 0 {
                    let message = format!("the {who} has interrupted {times} times");
                    self.alert("interruption", Severity::Warning, message).await;
                }
            }
        }
    }

    /// Tells that the customer raises their voice, once a minute at most.
    pub(super) async fn watch_voice(&mut self, turn: &Turn) {
        let is_raised = turn.prosody.contrast.is_some_and(arousal::is_raised);
        let is_calm = self.raised_ms.is_none_or(|told| turn.start_ms >= told + RAISED_CALM_MS);
        if turn.speaker == Speaker::Customer && is_raised && is_calm {
            self.raised_ms = Some(turn.start_ms);
            let message = "the customer raises their voice".to_owned();
            self.alert("raised_voice", Severity::Warning, message).await;
        }
    }

    /// Says once that nobody here speaks the call's language.
    pub(super) async fn mark_language(&mut self, is_final: bool) {
        if is_final && !self.mistakes.contains(&"language") {
            self.mistakes.push("language");
            let language = self.open.as_ref().map(|open| open.language.clone()).unwrap_or_default();
            let message = format!("the speech model does not speak {language:?}: there is no transcript");
            self.alert("language", Severity::Warning, message).await;
        }
    }

    pub(super) async fn watch_lag(&mut self) {
        let lag = self.lag();
        if lag >= LAG_ALERT && !self.is_lag_told {
            self.is_lag_told = true;
            let message = format!("recognition is {} seconds behind", lag.as_secs());
            self.alert("lag", Severity::Warning, message).await;
        } else if lag < LAG_CALM {
            self.is_lag_told = false;
        }
    }

    pub(super) async fn alert(&mut self, kind: &str, severity: Severity, message: String) {
        let Some(open) = &self.open else { return };
        let alert = Event::Alert { kind: kind.to_owned(), severity, message, segment: None };
        open.feed.settle_sensed(vec![alert]).await;
    }

    /// Returns how long the oldest turn that is over has waited for its words.
    fn lag(&self) -> Duration {
        self.asked.front().map_or(Duration::ZERO, Instant::elapsed)
    }

    pub(super) fn show_voice(&self) {
        if self.has_audio
            && let Some(open) = &self.open
        {
            open.feed.show_sensed(Event::Voice(self.voice()));
        }
    }

    pub(super) fn voice(&self) -> Voice {
        let (meter, before) = (self.listener.meter(), &self.before);
        let is_heard = self.heard_at.elapsed() < SILENT_AFTER;
        let speakers = [Speaker::Customer, Speaker::Agent];
        let speaking = speakers.into_iter().zip(meter.speaking).filter(|(_, speaks)| *speaks && is_heard);
        Voice {
            speaking: speaking.map(|(speaker, _)| speaker).collect(),
            on_hold: meter.is_on_hold,
            silence_ms: meter.silence_ms,
            overlap_ms: before.overlap_ms + meter.overlap_ms,
            customer_ms: before.customer_ms + meter.speaking_ms[0],
            agent_ms: before.agent_ms + meter.speaking_ms[1],
            customer_interruptions: before.customer_interruptions + meter.interruptions[0],
            agent_interruptions: before.agent_interruptions + meter.interruptions[1],
            hold_ms: before.hold_ms + meter.hold_ms,
            heard_ms: self.open.as_ref().map_or(0, |open| open.offset_ms) + self.listener.now_ms(),
            lag_ms: self.lag().as_millis() as u64,
            recognised: self.speech.recogniser.is_some(),
        }
    }
}
