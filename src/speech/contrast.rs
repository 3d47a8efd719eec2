//! How a turn sounds against its speaker's turns before: a voice is loud or high only beside itself, for
//! telephones, rooms and people differ more than moods do.

use crate::event::Contrast;
use crate::event::Prosody;

/// How many turns must be known before one can stand out.
const TURNS_MIN: u32 = 3;
/// How many turns the usual voice is the mean of, later ones counting more.
const TURNS_REMEMBERED: u32 = 10;
/// Turns with less speech than this tell nothing, in milliseconds.
const SPOKEN_MIN_MS: u64 = 500;

/// One speaker's usual voice in a call.
#[derive(Debug, Clone, Default)]
pub struct UsualVoice {
    turns: u32,
    energy_db: f32,
    /// In semitones above 1 Hz.
    pitch: f32,
}

impl UsualVoice {
    /// Hears how a turn that is over sounded, and returns how that differs from the turns before; `None` when
    /// it is too short, has no pitch, or too few came before.
    pub fn hear(&mut self, prosody: &Prosody) -> Option<Contrast> {
        let hertz = prosody.pitch_hz.filter(|_| prosody.spoken_ms >= SPOKEN_MIN_MS)?;
        let (louder_db, higher) = (prosody.energy_db - self.energy_db, 12.0 * hertz.log2() - self.pitch);
        let is_known = self.turns >= TURNS_MIN;
        self.turns = (self.turns + 1).min(TURNS_REMEMBERED);
        // The mean of all turns at first, then slowly forgetting.
        let weight = 1.0 / self.turns as f32;
        self.energy_db += louder_db * weight;
        self.pitch += higher * weight;
        let tenths = |value: f32| (value * 10.0).round() / 10.0;
        is_known.then(|| Contrast { louder_db: tenths(louder_db), higher: tenths(higher) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prosody(energy_db: f32, pitch_hz: Option<f32>, spoken_ms: u64) -> Prosody {
        Prosody { energy_db, pitch_hz, pitch_range: 3.0, pauses: 0, spoken_ms, contrast: None }
    }

    #[test]
    fn a_turn_is_compared_with_the_mean_of_those_before() {
        let mut usual = UsualVoice::default();
        for energy_db in [-30.0, -32.0, -28.0] {
            assert_eq!(usual.hear(&prosody(energy_db, Some(150.0), 2_000)), None);
        }
        let octave = usual.hear(&prosody(-20.0, Some(300.0), 2_000));
        assert_eq!(octave, Some(Contrast { louder_db: 10.0, higher: 12.0 }));
        let back = usual.hear(&prosody(-30.0, Some(150.0), 2_000)).unwrap();
        assert_eq!(back, Contrast { louder_db: -2.5, higher: -3.0 }, "the loud turn counts now");
    }

    #[test]
    fn what_is_short_or_unvoiced_neither_counts_nor_stands_out() {
        let mut usual = UsualVoice::default();
        (0..9).for_each(|_| assert_eq!(usual.hear(&prosody(-3.0, Some(400.0), 300)), None));
        (0..9).for_each(|_| assert_eq!(usual.hear(&prosody(-3.0, None, 3_000)), None));
        (0..3).for_each(|_| assert_eq!(usual.hear(&prosody(-30.0, Some(150.0), 2_000)), None));
        assert_eq!(
            usual.hear(&prosody(-30.0, Some(150.0), 2_000)),
            Some(Contrast { louder_db: 0.0, higher: 0.0 })
        );
    }
}
