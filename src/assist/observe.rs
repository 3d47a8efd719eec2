//! A segment to what is seen in it at once: redaction, speech rate, sensitive terms, alerts.
//!
//! Nothing here waits. What takes a model comes later, through [`Observer::emotion`].

use std::collections::BTreeMap;

use crate::assist::intake::Spoken;
use crate::event::Emotion;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Trend;

/// The monitors of one call.
#[derive(Debug, Default)]
pub(super) struct Observer {}

impl Observer {
    /// Returns the events of a final segment, the segment itself first.
    pub fn segment(&mut self, spoken: Spoken) -> Vec<Event> {
        vec![Event::Segment(spoken.segment)]
    }

    /// Returns a partial segment as it may be shown.
    pub fn partial(&mut self, segment: Segment) -> Segment {
        segment
    }

    /// Returns the events of an emotion reading.
    pub fn emotion(&mut self, segment: String, _end_ms: u64, scores: BTreeMap<Emotion, f32>) -> Vec<Event> {
        let likeliest = scores.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let Some((&label, _)) = likeliest else { return Vec::new() };
        let valence = scores.iter().map(|(emotion, p)| emotion.valence() * p).sum();
        let speaker = Speaker::Customer;
        vec![Event::Emotion { segment, speaker, label, scores, valence, trend: Trend::Steady }]
    }

    /// Folds an event of the log in, after a restart.
    pub fn recover(&mut self, _envelope: &Envelope) {}
}
