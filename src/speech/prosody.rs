//! How a turn sounded, whatever its words: loudness, pitch, pauses. A frame at a time, nothing kept.
//!
//! Pitch is the lag of the highest normalised autocorrelation (Rabiner 1977) of 32 ms at 4 kHz, which is
//! enough for voices from 65 to 400 Hz and cheap enough for a thousand calls at once.

use crate::engine::ops::simd::multiversion;
use crate::event::Prosody;
use crate::speech::activity::FRAME;
use crate::speech::activity::FRAME_MS;
use crate::speech::resample::dot;

/// Samples of a frame at 4 kHz.
const SLOW_FRAME: usize = FRAME / 4;
/// Samples of the window at 4 kHz.
const WINDOW: usize = 2 * SLOW_FRAME;
/// The lags that are tried, in samples at 4 kHz: 400 Hz down to 65.
const LAGS: std::ops::Range<usize> = 10..62;
const LAG_COUNT: usize = LAGS.end - LAGS.start;
/// How much of itself a frame must repeat to have a pitch.
const VOICED: f32 = 0.55;
/// How long a gap must be to count as a pause, in milliseconds.
const PAUSE_MS: u64 = 250;
/// One bin of the pitch histogram is a quarter of a semitone above 60 Hz.
const BINS: usize = 136;
const BINS_A_SEMITONE: f32 = 4.0;
const LOWEST_HZ: f32 = 60.0;

/// What a turn has sounded like so far.
#[derive(Debug)]
pub struct ProsodyMeter {
    /// The last 32 ms at 4 kHz, and what they become.
    window: [f32; WINDOW],
    power: f64,
    frames: u64,
    pitches: Box<[u16; BINS]>,
    gap_frames: u64,
    pauses: u32,
}

impl Default for ProsodyMeter {
    fn default() -> ProsodyMeter {
        ProsodyMeter {
            window: [0.0; WINDOW],
            power: 0.0,
            frames: 0,
            pitches: Box::new([0; BINS]),
            gap_frames: 0,
            pauses: 0,
        }
    }
}

impl ProsodyMeter {
    /// Hears a frame of 256 samples at 16 kHz of a turn; `is_speech`: it is none of its pauses.
    pub fn hear(&mut self, frame: &[f32], is_speech: bool) {
        self.window.copy_within(SLOW_FRAME.., 0);
        for (slow, fast) in self.window[SLOW_FRAME..].iter_mut().zip(frame.chunks_exact(4)) {
            *slow = fast.iter().sum::<f32>() / 4.0;
        }
        if !is_speech {
            self.gap_frames += 1;
            return;
        }
        if self.frames > 0 && self.gap_frames * FRAME_MS >= PAUSE_MS {
            self.pauses += 1;
        }
        self.gap_frames = 0;
        self.frames += 1;
        self.power += frame.iter().map(|&sample| f64::from(sample) * f64::from(sample)).sum::<f64>();
        if let Some(hz) = pitch(&self.window) {
            let bin = (12.0 * BINS_A_SEMITONE * (hz / LOWEST_HZ).log2()) as usize;
            let count = &mut self.pitches[bin.min(BINS - 1)];
            *count = count.saturating_add(1);
        }
    }

    /// Returns what the turn sounded like.
    pub fn finish(&self) -> Prosody {
        let samples = (self.frames.max(1) * FRAME as u64) as f64;
        let energy_db = 10.0 * (self.power / samples).max(1e-10).log10();
        let (low, high) = (self.pitch_at(0.1), self.pitch_at(0.9));
        Prosody {
            energy_db: (energy_db * 10.0).round() as f32 / 10.0,
            pitch_hz: self.pitch_at(0.5).map(|bin| hertz(bin).round()),
            pitch_range: low.zip(high).map_or(0.0, |(low, high)| (high - low) as f32 / BINS_A_SEMITONE),
            pauses: self.pauses,
            spoken_ms: self.frames * FRAME_MS,
            contrast: None,
        }
    }

    /// Returns the bin below which this share of the pitches lies.
    fn pitch_at(&self, share: f32) -> Option<usize> {
        let all: u32 = self.pitches.iter().map(|&count| u32::from(count)).sum();
        let wanted = (all as f32 * share) as u32;
        let mut below = 0;
        self.pitches.iter().position(|&count| {
            below += u32::from(count);
            below > wanted
        })
    }
}

/// Returns the middle of a bin.
fn hertz(bin: usize) -> f32 {
    LOWEST_HZ * 2f32.powf((bin as f32 + 0.5) / (12.0 * BINS_A_SEMITONE))
}

multiversion! {
    /// Returns how much a window repeats itself after each lag of [`LAGS`], from −1 to 1.
    fn correlations(window: &[f32; WINDOW], before: &[f32; WINDOW + 1]) -> [f32; LAG_COUNT] {
        let mut values = [0.0; LAG_COUNT];
        for (lag, value) in LAGS.zip(&mut values) {
            let product = dot(&window[lag..], &window[..WINDOW - lag]);
            let energies = (before[WINDOW] - before[lag]) * before[WINDOW - lag];
            *value = product / energies.max(1e-18).sqrt();
        }
        values
    }
}

/// Returns the pitch of a window at 4 kHz, if it has one.
fn pitch(window: &[f32; WINDOW]) -> Option<f32> {
    // The energy of all samples before each.
    let mut before = [0.0f32; WINDOW + 1];
    for (at, sample) in window.iter().enumerate() {
        before[at + 1] = before[at] + sample * sample;
    }
    let values = correlations(window, &before);
    let best = values.iter().copied().fold(0.0, f32::max);
    if best < VOICED {
        return None;
    }
    // The first peak that is nearly the highest: later ones are multiples of the period.
    let is_peak = |i: usize| {
        values[i] > best * 0.9
            && (i == 0 || values[i] >= values[i - 1])
            && values.get(i + 1).is_none_or(|next| values[i] >= *next)
    };
    let at = (0..values.len()).find(|&i| is_peak(i))?;
    let lag = LAGS.start + at;
    // Between samples, the top of the parabola through the three values around the peak.
    let (before, top) = (values[at.saturating_sub(1)], values[at]);
    let after = values.get(at + 1).copied().unwrap_or(top);
    let bend = before - 2.0 * top + after;
    let shift = if bend.abs() < 1e-6 { 0.0 } else { (0.5 * (before - after) / bend).clamp(-0.5, 0.5) };
    Some(4_000.0 / (lag as f32 + shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    /// A voice-like tone: a fundamental and its harmonics.
    fn voice(hz: impl Fn(f32) -> f32, seconds: f32, loudness: f32) -> Vec<f32> {
        let mut phase = 0.0;
        (0..(seconds * 16_000.0) as usize)
            .map(|n| {
                phase += hz(n as f32 / 16_000.0) / 16_000.0;
                loudness * (1..5).map(|h| (TAU * phase * h as f32).sin() / h as f32).sum::<f32>()
            })
            .collect()
    }

    fn heard(samples: &[f32]) -> Prosody {
        let mut meter = ProsodyMeter::default();
        for frame in samples.chunks_exact(FRAME) {
            meter.hear(frame, frame.iter().any(|s| s.abs() > 1e-4));
        }
        meter.finish()
    }

    #[test]
    fn the_pitch_of_low_and_high_voices_is_found() {
        for hz in [90.0, 120.0, 180.0, 240.0, 320.0] {
            let found = heard(&voice(|_| hz, 1.0, 0.2)).pitch_hz.unwrap();
            assert!((found / hz - 1.0).abs() < 0.03, "{hz} Hz was heard as {found}");
        }
    }

    #[test]
    fn a_lively_voice_has_a_wider_range_and_a_loud_one_more_energy() {
        let flat = heard(&voice(|_| 150.0, 2.0, 0.05));
        let lively = heard(&voice(|t| 150.0 * (1.0 + 0.3 * (TAU * 0.7 * t).sin()), 2.0, 0.2));
        assert!(lively.pitch_range > flat.pitch_range + 4.0, "{flat:?} {lively:?}");
        assert!((lively.energy_db - flat.energy_db - 12.0).abs() < 0.5, "{flat:?} {lively:?}");
    }

    #[test]
    fn pauses_are_counted_and_not_spoken() {
        let mut samples = voice(|_| 150.0, 0.64, 0.2);
        samples.extend(std::iter::repeat_n(0.0, 16_000 / 2));
        samples.extend(voice(|_| 150.0, 0.64, 0.2));
        let prosody = heard(&samples);
        assert_eq!(prosody.pauses, 1);
        assert!((1_200..1_350).contains(&prosody.spoken_ms), "{prosody:?}");
    }

    #[test]
    fn noise_has_no_pitch() {
        let mut state = 1u32;
        let noise: Vec<f32> = (0..16_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect();
        let mut meter = ProsodyMeter::default();
        noise.chunks_exact(FRAME).for_each(|frame| meter.hear(frame, true));
        let voiced: u32 = meter.pitches.iter().map(|&c| u32::from(c)).sum();
        assert!(voiced < 6, "{voiced} of 62 frames have a pitch");
    }
}
