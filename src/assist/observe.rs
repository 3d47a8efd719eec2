//! A segment to what is seen in it at once: redaction, sensitive terms, speech rate, alerts.
//!
//! Nothing here waits. What takes a model comes later, through [`Observer::emotion`]. All of it is
//! a fold: after a restart the log is given in again. What was removed is not in the log, so a
//! number that a restart cut in two is judged by its second half alone.

use std::collections::BTreeMap;

use crate::assist::intake::Spoken;
use crate::event::Channel;
use crate::event::Emotion;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Prosody;
use crate::event::Segment;
use crate::event::Severity;
use crate::event::Speaker;
use crate::event::TermAction;
use crate::event::Word;
use crate::monitor::arousal;
use crate::monitor::redact;
use crate::monitor::redact::Redactor;
use crate::monitor::sensitive::FoundTerm;
use crate::monitor::sensitive::SharedTermLists;
use crate::monitor::speech_rate::SpeechRates;
use crate::monitor::trend::EmotionAlerts;
use crate::monitor::trend::EmotionTrend;

/// The monitors of one call.
#[derive(Debug)]
pub(super) struct Observer {
    terms: SharedTermLists,
    redactor: Redactor,
    rates: SpeechRates,
    trend: EmotionTrend,
    alerts: EmotionAlerts,
    /// Typed calls have no speech rate.
    channel: Channel,
    /// The latest segment's end, in milliseconds from the call's start.
    end_ms: u64,
    /// The customer's latest segment that was heard, and how far they raised their voice in it.
    raised: Option<(String, f32)>,
}

impl Observer {
    /// Returns monitors that have heard nothing.
    pub fn new(terms: SharedTermLists) -> Observer {
        Observer {
            terms,
            redactor: Redactor::new(),
            rates: SpeechRates::default(),
            trend: EmotionTrend::default(),
            alerts: EmotionAlerts::default(),
            channel: Channel::Voice,
            end_ms: 0,
            raised: None,
        }
    }

    /// Tells how the people talk.
    pub fn set_channel(&mut self, channel: Channel) {
        self.channel = channel;
    }

    /// Returns the events of a final segment, the segment itself first.
    pub fn segment(&mut self, spoken: Spoken) -> Vec<Event> {
        let Spoken { segment, words, prosody, .. } = spoken;
        self.end_ms = self.end_ms.max(segment.end_ms);
        let redacted = self.redactor.redact_final(heard(&segment));
        let (redacted, terms) = self.terms.load().apply(redacted);
        let spoken_ms = prosody.map(|prosody| prosody.spoken_ms);
        let rate = self.rate(&segment, &words.unwrap_or_default(), spoken_ms);

        let speaker = segment.speaker;
        let id = segment.id.clone();
        let mut events = vec![Event::Segment(Segment { text: redacted.text, ..segment })];
        for span in redacted.spans {
            events.push(Event::Sensitive {
                segment: id.clone(),
                category: span.category.as_str().to_owned(),
                term: span.category.placeholder().to_owned(),
                start: span.start,
                end: span.end,
                severity: span.category.severity(),
                action: TermAction::Redact,
            });
        }
        for term in terms {
            let alert = (term.action != TermAction::Redact).then(|| term_alert(&id, speaker, &term));
            let FoundTerm { category, term, start, end, severity, action } = term;
            let segment = id.clone();
            events.push(Event::Sensitive { segment, category, term, start, end, severity, action });
            events.extend(alert);
        }
        events.extend(rate);
        if let Some(prosody) = prosody {
            self.hear_voice(&id, speaker, &prosody);
            events.push(Event::Prosody { segment: id, speaker, prosody });
        }
        events
    }

    /// Returns a partial segment as it may be shown.
    pub fn partial(&self, segment: Segment) -> Segment {
        let redacted = self.redactor.redact_partial(heard(&segment));
        let (redacted, _) = self.terms.load().apply(redacted);
        Segment { text: redacted.text, ..segment }
    }

    /// Returns what somebody wrote in the call as it may be stored and shown.
    pub fn written(&self, text: &str) -> String {
        let (redacted, _) = self.terms.load().apply(self.redactor.redact_written(text));
        redacted.text
    }

    /// Returns the events of an emotion reading of the customer.
    pub fn emotion(&mut self, segment: String, mut scores: BTreeMap<Emotion, f32>) -> Vec<Event> {
        if let Some((_, raised)) = self.raised.as_ref().filter(|(heard, _)| *heard == segment) {
            arousal::lean(&mut scores, *raised);
        }
        let likeliest = scores.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let Some((&label, _)) = likeliest else { return Vec::new() };
        let expected: f32 = scores.iter().map(|(emotion, p)| emotion.valence() * p).sum();
        let valence = expected.clamp(-1.0, 1.0);
        self.trend = self.trend.after(valence);
        let trend = self.trend.trend;
        let alert = self.alerts.hear(label, trend, self.end_ms).map(|severity| Event::Alert {
            kind: "emotion".to_owned(),
            severity,
            message: format!("the customer is {} and it gets worse", label.as_str()),
            segment: Some(segment.clone()),
        });
        let speaker = Speaker::Customer;
        let mut events = vec![Event::Emotion { segment, speaker, label, scores, valence, trend }];
        events.extend(alert);
        events
    }

    /// Folds an event of the log in, after a restart.
    pub fn recover(&mut self, envelope: &Envelope) {
        match &envelope.event {
            Event::CallOpened { channel, .. } => self.channel = *channel,
            Event::Segment(segment) => {
                self.end_ms = self.end_ms.max(segment.end_ms);
                self.redactor.redact_final(heard(segment));
                self.rate(segment, &[], None);
            }
            Event::Prosody { segment, speaker, prosody } => self.hear_voice(segment, *speaker, prosody),
            Event::Emotion { label, valence, .. } => {
                self.trend = self.trend.after(*valence);
                self.alerts.hear(*label, self.trend.trend, self.end_ms);
            }
            _ => {}
        }
    }

    fn hear_voice(&mut self, segment: &str, speaker: Speaker, prosody: &Prosody) {
        if let (Speaker::Customer, Some(contrast)) = (speaker, prosody.contrast) {
            self.raised = Some((segment.to_owned(), arousal::raised(contrast)));
        }
    }

    fn rate(&mut self, segment: &Segment, words: &[Word], spoken_ms: Option<u64>) -> Option<Event> {
        if self.channel == Channel::Chat {
            return None;
        }
        self.rates.hear(segment.speaker, &segment.text, (segment.start_ms, segment.end_ms), words, spoken_ms)
    }
}

fn heard(segment: &Segment) -> redact::Spoken<'_> {
    redact::Spoken {
        speaker: segment.speaker,
        text: &segment.text,
        start_ms: segment.start_ms,
        end_ms: segment.end_ms,
    }
}

fn term_alert(segment: &str, speaker: Speaker, term: &FoundTerm) -> Event {
    let who = match speaker {
        Speaker::Customer => "the customer",
        Speaker::Agent => "the agent",
    };
    let category = term.category.replace('_', " ");
    let severity: Severity = term.severity;
    Event::Alert {
        kind: "term".to_owned(),
        severity,
        message: format!("{category}: {who} said “{}”", term.term),
        segment: Some(segment.to_owned()),
    }
}
