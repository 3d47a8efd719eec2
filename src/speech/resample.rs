//! From one rate to another, most often to 16 kHz, a piece at a time: a polyphase filter of windowed sinc.
//!
//! The ratio is a fraction `up/down` in lowest terms; output sample `n` lies at input time
//! `n · down/up` and is a sum over 24 input samples around it, weighted by one of `up` phases.
//! The delay of half the filter is taken off: output begins where input does.

use std::collections::VecDeque;
use std::f64::consts::PI;

use crate::engine::ops::simd::multiversion;

/// The rate that speech is recognised at, in samples a second.
pub const RATE_HZ: u32 = 16_000;
/// Input samples that an output sample is made from, when the rate rises; more when it falls.
const TAPS: usize = 24;
/// How many output samples of a phase are summed side by side.
const NEIGHBOURS: usize = 32;
/// The pass band's share of the lower of both Nyquist frequencies.
const PASS: f64 = 0.94;

/// A stream of samples that changes its rate.
#[derive(Debug)]
pub struct Resampler {
    up: usize,
    down: usize,
    taps: usize,
    /// `up` phases of `taps` weights.
    phases: Vec<f32>,
    /// Input that later output still needs, from input position `first` on.
    kept: VecDeque<f32>,
    /// The phase of the next output sample, in `1/up` of an input sample after the window's middle.
    phase: usize,
}

impl Resampler {
    /// Returns a stream from `rate_hz` to [`RATE_HZ`].
    pub fn new(rate_hz: u32) -> Resampler {
        Resampler::between(rate_hz, RATE_HZ)
    }

    /// Returns a stream from one rate to another, both in samples a second.
    pub fn between(from_hz: u32, to_hz: u32) -> Resampler {
        let common = greatest_common_divisor(from_hz, to_hz);
        let (up, down) = ((to_hz / common) as usize, (from_hz / common) as usize);
        // A falling rate needs a lower and so a longer filter.
        let fall = (down as f64 / up as f64).max(1.0);
        let taps = ((TAPS as f64 * fall).ceil() as usize).next_multiple_of(8);
        let cutoff = PASS / fall;
        let mut phases = Vec::with_capacity(up * taps);
        for phase in 0..up {
            let weights: Vec<f64> = (0..taps)
                .map(|tap| {
                    let distance = tap as f64 - (taps / 2 - 1) as f64 - phase as f64 / up as f64;
                    let window = 0.5 + 0.5 * (2.0 * PI * distance / taps as f64).cos();
                    cutoff * sinc(cutoff * distance) * window
                })
                .collect();
            let sum: f64 = weights.iter().sum();
            phases.extend(weights.iter().map(|weight| (weight / sum) as f32));
        }
        // The first output sample's window begins before the input does.
        let kept = std::iter::repeat_n(0.0, taps / 2 - 1).collect();
        Resampler { up, down, taps, phases, kept, phase: 0 }
    }

    /// Takes input and appends the output that it completes.
    pub fn take(&mut self, input: &[f32], output: &mut Vec<f32>) {
        if self.up == self.down {
            output.extend_from_slice(input);
            return;
        }
        self.kept.extend(input);
        let kept = self.kept.make_contiguous();
        let spent = if self.down == 1 {
            // A telephone's rate: the same phases for every input sample.
            rise(kept, &self.phases, self.taps, output)
        } else {
            let step = Step { up: self.up, down: self.down, phase: self.phase };
            let (spent, phase) = filter(kept, &self.phases, self.taps, step, output);
            self.phase = phase;
            spent
        };
        self.kept.drain(..spent.min(self.kept.len()));
    }
}

/// How a stream steps from one output sample to the next, and the phase it stands at.
#[derive(Debug, Clone, Copy)]
struct Step {
    up: usize,
    down: usize,
    phase: usize,
}

multiversion! {
    /// Appends every output sample whose window is whole, as many for each input sample as there are phases;
    /// returns the input samples that are spent. Sums of neighbours are made side by side.
    fn rise(kept: &[f32], phases: &[f32], taps: usize, output: &mut Vec<f32>) -> usize {
        let (up, count) = (phases.len() / taps, (kept.len() + 1).saturating_sub(taps));
        let start = output.len();
        output.resize(start + count * up, 0.0);
        for (phase, weights) in phases.chunks_exact(taps).enumerate() {
            for from in (0..count).step_by(NEIGHBOURS) {
                let mut sums = [0.0f32; NEIGHBOURS];
                let sums = &mut sums[..NEIGHBOURS.min(count - from)];
                for (tap, weight) in weights.iter().enumerate() {
                    for (sum, sample) in sums.iter_mut().zip(&kept[from + tap..]) {
                        *sum += weight * sample;
                    }
                }
                let places = output[start + from * up + phase..].iter_mut().step_by(up);
                places.zip(sums).for_each(|(place, sum)| *place = *sum);
            }
        }
        count
    }
}

multiversion! {
    /// Appends every output sample whose window is whole; returns the input samples that are spent and the
    /// phase that comes next.
    fn filter(kept: &[f32], phases: &[f32], taps: usize, step: Step, output: &mut Vec<f32>) -> (usize, usize) {
        let (mut at, mut phase) = (0, step.phase);
        while at + taps <= kept.len() {
            output.push(dot(&kept[at..][..taps], &phases[phase * taps..][..taps]));
            phase += step.down;
            at += phase / step.up;
            phase %= step.up;
        }
        (at, phase)
    }
}

/// Returns the sum of products, in eight sums that the compiler makes one register of.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (mut eights_a, mut eights_b) = (a.chunks_exact(8), b.chunks_exact(8));
    for (x, y) in (&mut eights_a).zip(&mut eights_b) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    let rest: f32 = eights_a.remainder().iter().zip(eights_b.remainder()).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate_hz: u32, tone_hz: f64, seconds: f64) -> Vec<f32> {
        let count = (f64::from(rate_hz) * seconds) as usize;
        (0..count).map(|n| (2.0 * PI * tone_hz * n as f64 / f64::from(rate_hz)).sin() as f32).collect()
    }

    fn power(samples: &[f32]) -> f32 {
        samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32
    }

    #[test]
    fn a_tone_stays_the_tone_at_every_rate() {
        for rate in [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000] {
            let mut output = Vec::new();
            Resampler::new(rate).take(&tone(rate, 1_000.0, 0.5), &mut output);
            let wanted = tone(RATE_HZ, 1_000.0, 0.5);
            let middle = 800..7_000;
            let error: Vec<f32> = middle.clone().map(|n| output[n] - wanted[n]).collect();
            assert!(power(&error) < 1e-5, "{rate} Hz: error {}", power(&error));
        }
    }

    #[test]
    fn what_the_lower_rate_cannot_hold_is_gone() {
        let mut output = Vec::new();
        Resampler::new(48_000).take(&tone(48_000, 11_000.0, 0.5), &mut output);
        assert!(power(&output[500..7_000]) < 1e-4, "{}", power(&output[500..7_000]));
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let input = tone(8_000, 440.0, 0.3);
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        Resampler::new(8_000).take(&input, &mut whole);
        let mut resampler = Resampler::new(8_000);
        for piece in input.chunks(7) {
            resampler.take(piece, &mut pieces);
        }
        assert_eq!(whole, pieces);
    }
}
