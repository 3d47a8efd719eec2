//! When the customer raises their voice: a turn much louder and higher than their own turns before.

use crate::event::Speaker;
use crate::speech::listener::Turn;

/// How many turns must be known before one can stand out.
const TURNS_MIN: u32 = 3;
/// How much louder, in decibels, and how much higher, in semitones, than one's usual turn is raised.
const LOUDER_DB: f32 = 6.0;
const HIGHER_SEMITONES: f32 = 2.0;
/// Turns shorter than this tell nothing, in milliseconds of speech.
const SPOKEN_MIN_MS: u64 = 500;
/// How long after a raised voice the next is told, in milliseconds of the call.
const CALM_MS: u64 = 60_000;

/// The customer's usual voice in one call.
#[derive(Debug, Default)]
pub(super) struct Loudness {
    turns: u32,
    energy_db: f32,
    /// The usual pitch, in semitones above 1 Hz.
    pitch: f32,
    told_ms: Option<u64>,
}

impl Loudness {
    /// Hears a turn that is over and returns whether people should know how it sounded.
    pub fn is_raised(&mut self, turn: &Turn) -> bool {
        let prosody = &turn.prosody;
        let Some(hertz) = prosody.pitch_hz.filter(|_| prosody.spoken_ms >= SPOKEN_MIN_MS) else {
            return false;
        };
        if turn.speaker != Speaker::Customer {
            return false;
        }
        let pitch = 12.0 * hertz.log2();
        let stands_out = self.turns >= TURNS_MIN
            && prosody.energy_db > self.energy_db + LOUDER_DB
            && pitch > self.pitch + HIGHER_SEMITONES;
        self.turns += 1;
        // The mean of all turns at first, then slowly forgetting.
        let weight = 1.0 / self.turns.min(10) as f32;
        self.energy_db += (prosody.energy_db - self.energy_db) * weight;
        self.pitch += (pitch - self.pitch) * weight;
        let is_calm = self.told_ms.is_none_or(|told| turn.start_ms >= told + CALM_MS);
        if stands_out && is_calm {
            self.told_ms = Some(turn.start_ms);
        }
        stands_out && is_calm
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Prosody;

    fn turn(speaker: Speaker, start_ms: u64, energy_db: f32, pitch_hz: f32) -> Turn {
        let prosody =
            Prosody { energy_db, pitch_hz: Some(pitch_hz), pitch_range: 3.0, pauses: 0, spoken_ms: 2_000 };
        Turn { number: 1, speaker, start_ms, end_ms: start_ms + 2_000, prosody, samples: Vec::new() }
    }

    #[test]
    fn a_loud_and_high_turn_after_quiet_ones_is_raised_once_a_minute() {
        let mut loudness = Loudness::default();
        for n in 0..4 {
            assert!(!loudness.is_raised(&turn(Speaker::Customer, n * 5_000, -30.0, 150.0)));
        }
        assert!(!loudness.is_raised(&turn(Speaker::Customer, 20_000, -20.0, 150.0)), "only louder");
        assert!(!loudness.is_raised(&turn(Speaker::Agent, 22_000, -10.0, 250.0)), "the agent's is not told");
        assert!(loudness.is_raised(&turn(Speaker::Customer, 25_000, -18.0, 200.0)));
        assert!(!loudness.is_raised(&turn(Speaker::Customer, 30_000, -16.0, 210.0)), "told just now");
        assert!(loudness.is_raised(&turn(Speaker::Customer, 90_000, -10.0, 260.0)));
    }
}
