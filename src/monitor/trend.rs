//! Where the customer's emotion is going, and when somebody should look. Pure folds: the same
//! readings always give the same trend and the same alerts.

use crate::event::Emotion;
use crate::event::Severity;
use crate::event::Trend;

/// How much of a new valence goes into the mood now.
const FAST_SHARE: f32 = 0.45;
/// How much of a new valence goes into the mood as it was.
const SLOW_SHARE: f32 = 0.15;
/// How far the two moods must part before the trend leaves steady.
const ENTER: f32 = 0.18;
/// How close they must come before it is steady again; the gap to [`ENTER`] keeps it from flickering.
const LEAVE: f32 = 0.08;
/// How long after an alert the next one of the same severity must wait.
pub const ALERT_COOLDOWN_MS: u64 = 120_000;

/// The fold of a call's valences.
///
/// Two exponential means follow the valence, one fast, one slow; their difference is the direction.
/// A call begins as neutral, so that a customer who starts angry is falling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EmotionTrend {
    /// The smoothed valence, −1 to 1.
    pub valence: f32,
    /// Where it is going.
    pub trend: Trend,
    slow: f32,
}

impl Default for EmotionTrend {
    fn default() -> EmotionTrend {
        EmotionTrend { valence: 0.0, trend: Trend::Steady, slow: 0.0 }
    }
}

impl EmotionTrend {
    /// Returns the trend after one more reading; a valence that is no number changes nothing.
    #[must_use]
    pub fn after(self, valence: f32) -> EmotionTrend {
        if !valence.is_finite() {
            return self;
        }
        let valence = valence.clamp(-1.0, 1.0);
        let fast = self.valence + FAST_SHARE * (valence - self.valence);
        let slow = self.slow + SLOW_SHARE * (valence - self.slow);
        let rise = fast - slow;
        let trend = match self.trend {
            Trend::Rising if rise > LEAVE => Trend::Rising,
            Trend::Falling if rise < -LEAVE => Trend::Falling,
            _ if rise > ENTER => Trend::Rising,
            _ if rise < -ENTER => Trend::Falling,
            _ => Trend::Steady,
        };
        EmotionTrend { valence: fast, trend, slow }
    }
}

/// Decides when the customer's emotion is worth an alert: angry or frustrated, and falling. Once,
/// then not again for [`ALERT_COOLDOWN_MS`] unless it gets worse.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmotionAlerts {
    last: Option<(u64, Severity)>,
}

impl EmotionAlerts {
    /// Returns the severity of the alert to raise for a reading at `at_ms` from the call's start.
    pub fn hear(&mut self, label: Emotion, trend: Trend, at_ms: u64) -> Option<Severity> {
        let severity = match (label, trend) {
            (Emotion::Angry, Trend::Falling) => Severity::Critical,
            (Emotion::Frustrated, Trend::Falling) => Severity::Warning,
            _ => return None,
        };
        let is_quiet = self.last.is_some_and(|(last_ms, last_severity)| {
            at_ms < last_ms.saturating_add(ALERT_COOLDOWN_MS) && severity <= last_severity
        });
        if is_quiet {
            return None;
        }
        self.last = Some((at_ms, severity));
        Some(severity)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fold(valences: &[f32]) -> EmotionTrend {
        valences.iter().fold(EmotionTrend::default(), |trend, &valence| trend.after(valence))
    }

    #[test]
    fn a_customer_who_starts_angry_is_falling() {
        assert_eq!(fold(&[-1.0]).trend, Trend::Falling);
    }

    #[test]
    fn relief_after_anger_is_rising() {
        assert_eq!(fold(&[-1.0, -1.0, -1.0, 0.0, 1.0]).trend, Trend::Rising);
    }

    #[test]
    fn an_alert_is_raised_once_and_again_when_it_gets_worse() {
        let mut alerts = EmotionAlerts::default();
        let falling = Trend::Falling;
        assert_eq!(alerts.hear(Emotion::Frustrated, falling, 1_000), Some(Severity::Warning));
        assert_eq!(alerts.hear(Emotion::Frustrated, falling, 2_000), None);
        assert_eq!(alerts.hear(Emotion::Angry, falling, 3_000), Some(Severity::Critical));
        assert_eq!(alerts.hear(Emotion::Angry, falling, 4_000), None);
        assert_eq!(alerts.hear(Emotion::Angry, Trend::Rising, 200_000), None);
        assert_eq!(alerts.hear(Emotion::Angry, falling, 200_000), Some(Severity::Critical));
    }

    proptest! {
        #[test]
        fn valence_stays_in_range(valences in prop::collection::vec(prop::num::f32::ANY, 0..60)) {
            let trend = fold(&valences);
            prop_assert!((-1.0..=1.0).contains(&trend.valence));
        }

        #[test]
        fn a_constant_mood_comes_to_rest(valence in -1.0f32..=1.0) {
            prop_assert_eq!(fold(&[valence; 60]).trend, Trend::Steady);
        }

        #[test]
        fn a_small_wobble_never_leaves_steady(valences in prop::collection::vec(-0.15f32..=0.15, 0..60)) {
            let mut trend = EmotionTrend::default();
            for valence in valences {
                trend = trend.after(valence);
                prop_assert_eq!(trend.trend, Trend::Steady);
            }
        }

        #[test]
        fn alerts_of_one_severity_keep_their_distance(times in prop::collection::vec(0u64..1_000_000, 1..80)) {
            let mut times = times;
            times.sort_unstable();
            let mut alerts = EmotionAlerts::default();
            let raised: Vec<u64> = times
                .into_iter()
                .filter(|&at_ms| alerts.hear(Emotion::Angry, Trend::Falling, at_ms).is_some())
                .collect();
            prop_assert!(!raised.is_empty());
            prop_assert!(raised.windows(2).all(|pair| pair[1] - pair[0] >= ALERT_COOLDOWN_MS));
        }
    }
}
