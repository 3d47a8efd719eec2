//! Who speaks when: speaking time, overlap, interruptions, silence and hold of one call.
//!
//! Definitions (those that products of the field use, see docs/voice.md): an overlap counts from 500 ms
//! on; it is an interruption by whoever began later once it lasts 1,000 ms, so "uh-huh" is none; dead air
//! warns at 10 s and alerts at 20 s in which nobody speaks, hold excluded, once anybody has spoken.

use crate::event::Severity;
use crate::event::Speaker;

/// From how long on both at once count as overlap, in milliseconds.
const OVERLAP_MS: u64 = 500;
/// From how long on an overlap is an interruption, in milliseconds.
const INTERRUPTION_MS: u64 = 1_000;
/// How long nobody must speak for a warning and for an alert, in milliseconds.
const DEAD_AIR_MS: [(u64, Severity); 2] = [(10_000, Severity::Warning), (20_000, Severity::Critical)];

/// Something worth telling people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    /// Somebody cut the other off.
    Interruption {
        /// Who began to speak while the other spoke.
        by: Speaker,
    },
    /// Nobody has spoken for this long.
    DeadAir {
        /// In milliseconds.
        ms: u64,
        /// How much it matters.
        severity: Severity,
    },
}

/// The measures of one call so far. Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TalkMeter {
    /// Who speaks now: customer, agent.
    pub speaking: [bool; 2],
    /// How long each has spoken: customer, agent.
    pub speaking_ms: [u64; 2],
    /// How often each cut the other off: customer, agent.
    pub interruptions: [u32; 2],
    /// How long both spoke at once.
    pub overlap_ms: u64,
    /// How long nobody has spoken now.
    pub silence_ms: u64,
    /// Whether the call is on hold.
    pub is_on_hold: bool,
    /// How long it was.
    pub hold_ms: u64,
    /// When each began the stretch that goes on, in milliseconds of the call.
    began_ms: [u64; 2],
    now_ms: u64,
    both_ms: u64,
    has_spoken: bool,
}

/// Returns a speaker's place in the arrays of this module.
pub fn index(speaker: Speaker) -> usize {
    match speaker {
        Speaker::Customer => 0,
        Speaker::Agent => 1,
    }
}

impl TalkMeter {
    /// Lets `ms` pass in which these spoke.
    pub fn pass(&mut self, ms: u64, speaking: [bool; 2]) -> Option<Noted> {
        for (i, &is_speaking) in speaking.iter().enumerate() {
            if is_speaking && !self.speaking[i] {
                self.began_ms[i] = self.now_ms;
            }
            if is_speaking {
                self.speaking_ms[i] += ms;
            }
        }
        self.now_ms += ms;
        self.speaking = speaking;
        if self.is_on_hold {
            self.hold_ms += ms;
        }
        if speaking == [true, true] {
            return self.pass_together(ms);
        }
        self.both_ms = 0;
        if speaking == [false, false] {
            return self.pass_silent(ms);
        }
        self.silence_ms = 0;
        self.has_spoken = true;
        None
    }

    /// Returns how much of the call was measured, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Puts the call on hold, or goes on with it.
    pub fn hold(&mut self, is_on_hold: bool) {
        self.is_on_hold = is_on_hold;
        self.silence_ms = 0;
    }

    fn pass_together(&mut self, ms: u64) -> Option<Noted> {
        self.silence_ms = 0;
        self.has_spoken = true;
        let before = self.both_ms;
        self.both_ms += ms;
        if self.both_ms >= OVERLAP_MS {
            self.overlap_ms += if before < OVERLAP_MS { self.both_ms } else { ms };
        }
        if before < INTERRUPTION_MS && self.both_ms >= INTERRUPTION_MS {
            let by = if self.began_ms[0] > self.began_ms[1] { Speaker::Customer } else { Speaker::Agent };
            self.interruptions[index(by)] += 1;
            return Some(Noted::Interruption { by });
        }
        None
    }

    fn pass_silent(&mut self, ms: u64) -> Option<Noted> {
        if self.is_on_hold {
            return None;
        }
        let before = self.silence_ms;
        self.silence_ms += ms;
        let reached = |&(limit, _): &(u64, Severity)| before < limit && self.silence_ms >= limit;
        let (_, severity) = *DEAD_AIR_MS.iter().rfind(|dead_air| reached(dead_air))?;
        self.has_spoken.then_some(Noted::DeadAir { ms: self.silence_ms, severity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUSTOMER: [bool; 2] = [true, false];
    const AGENT: [bool; 2] = [false, true];
    const BOTH: [bool; 2] = [true, true];
    const NOBODY: [bool; 2] = [false, false];

    fn run(meter: &mut TalkMeter, script: &[([bool; 2], u64)]) -> Vec<Noted> {
        let frames = script.iter().flat_map(|&(who, ms)| (0..ms / 20).map(move |_| who));
        frames.filter_map(|who| meter.pass(20, who)).collect()
    }

    #[test]
    fn a_short_yes_is_no_interruption_and_a_long_word_is_one() {
        let mut meter = TalkMeter::default();
        assert_eq!(run(&mut meter, &[(AGENT, 2_000), (BOTH, 400), (AGENT, 1_000), (BOTH, 800)]), []);
        assert_eq!(meter.overlap_ms, 800);
        let noted = run(&mut meter, &[(AGENT, 1_000), (BOTH, 1_500), (CUSTOMER, 500)]);
        assert_eq!(noted, [Noted::Interruption { by: Speaker::Customer }]);
        assert_eq!((meter.interruptions, meter.overlap_ms), ([1, 0], 2_300));
        assert_eq!(meter.speaking_ms, [400 + 800 + 1_500 + 500, 2_000 + 400 + 1_000 + 800 + 1_000 + 1_500]);
    }

    #[test]
    fn dead_air_warns_once_and_alerts_once() {
        let mut meter = TalkMeter::default();
        assert_eq!(run(&mut meter, &[(NOBODY, 30_000)]), [], "nobody has spoken yet");
        let noted = run(&mut meter, &[(CUSTOMER, 1_000), (NOBODY, 30_000)]);
        let severities: Vec<Severity> = noted
            .iter()
            .map(|noted| match noted {
                Noted::DeadAir { severity, .. } => *severity,
                Noted::Interruption { .. } => panic!("{noted:?}"),
            })
            .collect();
        assert_eq!(severities, [Severity::Warning, Severity::Critical]);
    }

    #[test]
    fn hold_is_no_dead_air() {
        let mut meter = TalkMeter::default();
        run(&mut meter, &[(AGENT, 1_000), (NOBODY, 5_000)]);
        meter.hold(true);
        assert_eq!(run(&mut meter, &[(NOBODY, 60_000)]), []);
        meter.hold(false);
        assert_eq!((meter.silence_ms, meter.hold_ms), (0, 60_000));
        assert_eq!(run(&mut meter, &[(NOBODY, 9_000)]), []);
    }
}
