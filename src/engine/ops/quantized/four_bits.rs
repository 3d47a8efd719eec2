//! Weights of 4 bits: sixteen levels, closer to one another near zero, where most weights are.
//!
//! The levels are those that lose least of normally distributed weights in groups of 32 (found by
//! Lloyd's algorithm with scales refitted, rounded to bytes). Error of a weight, relative to all,
//! on normal weights and on those of the bundled model, at bits a weight with its scale:
//!
//! | | bits | normal | bundled |
//! |---|---|---|---|
//! | even steps, −7 to 7 | 4.5 | 9.7 % | 11.0 % |
//! | even steps, −8 to 7 | 4.5 | 8.6 % | 9.7 % |
//! | even steps from a minimum | 5.0 | 7.8 % | 8.3 % |
//! | even steps, −8 to 7, scale searched | 4.5 | 8.1 % | 9.3 % |
//! | these levels, scale searched | 4.5 | 7.5 % | 8.2 % |

use half::bf16;

use crate::engine::ops::quantized::GROUP;
use crate::engine::ops::quantized::OFFSET;
use crate::engine::ops::simd::multiversion;

/// What the sixteen codes stand for, before the scale.
const LEVELS: [i32; 16] = [-127, -100, -81, -64, -50, -37, -24, -12, 0, 12, 25, 38, 52, 67, 86, 110];
/// The scales that are tried: the largest weight over the largest level times these.
const TRIED: [f32; 3] = [0.85, 0.95, 1.05];

/// The levels as unsigned bytes.
pub const UNSIGNED: [u8; 16] = {
    let mut unsigned = [0; 16];
    let mut i = 0;
    while i < 16 {
        unsigned[i] = (LEVELS[i] + OFFSET) as u8;
        i += 1;
    }
    unsigned
};

/// For each level but the first: the middle to the one below and the distance from it.
const STEPS: [(f32, f32); 15] = {
    let mut steps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (below, above) = (LEVELS[i] as f32, LEVELS[i + 1] as f32);
        steps[i] = ((below + above) / 2.0, above - below);
        i += 1;
    }
    steps
};

/// Returns the level that is nearest to a weight over its scale.
#[inline(always)]
fn nearest(v: f32) -> f32 {
    let mut level = LEVELS[0] as f32;
    for (middle, step) in STEPS {
        level += if v > middle { step } else { 0.0 };
    }
    level
}

multiversion! {
    /// Writes the codes of a group of weights and returns their scale.
    ///
    /// Of a few scales, each refitted by least squares to the levels it leads to, the one that loses least.
    pub fn quantize(codes: &mut [u8; GROUP], weights: &[f32; GROUP]) -> bf16 {
        let mut extreme = 0.0_f32;
        for w in weights {
            extreme = if w.abs() > extreme.abs() { *w } else { extreme };
        }
        let (mut best, mut least) = (bf16::ZERO, f32::INFINITY);
        for tried in TRIED {
            let inverse = LEVELS[0] as f32 / (extreme * tried);
            let (mut along, mut squares) = ([0.0_f32; 8], [0.0_f32; 8]);
            for weights in weights.chunks_exact(8) {
                for (lane, w) in weights.iter().enumerate() {
                    let level = nearest(w * inverse);
                    along[lane] += w * level;
                    squares[lane] += level * level;
                }
            }
            let scale = bf16::from_f32(along.iter().sum::<f32>() / squares.iter().sum::<f32>());
            let inverse = 1.0 / scale.to_f32();
            if !inverse.is_finite() {
                continue;
            }
            let mut error = [0.0_f32; 8];
            for weights in weights.chunks_exact(8) {
                for (lane, w) in weights.iter().enumerate() {
                    let lost = w - nearest(w * inverse) * scale.to_f32();
                    error[lane] += lost * lost;
                }
            }
            let error = error.iter().sum::<f32>();
            if error < least {
                (best, least) = (scale, error);
            }
        }
        let inverse = if best == bf16::ZERO { 0.0 } else { 1.0 / best.to_f32() };
        codes.fill(0);
        for (middle, _) in STEPS {
            for (code, w) in codes.iter_mut().zip(weights) {
                *code += u8::from(w * inverse > middle);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::weights::random::normal;

    #[test]
    fn every_level_is_its_own_nearest_and_nothing_is_nothing() {
        for level in LEVELS {
            assert_eq!(nearest(level as f32), level as f32);
        }
        let mut codes = [9; GROUP];
        assert_eq!(quantize(&mut codes, &[0.0; GROUP]), bf16::ZERO);
        assert_eq!(codes.map(|code| LEVELS[code as usize]), [0; GROUP]);
    }

    #[test]
    fn normal_weights_lose_a_fourteenth() {
        let (mut lost, mut all) = (0.0, 0.0);
        let mut weights = [0.0; GROUP];
        for group in 0..2_000 {
            normal(7, group, &mut weights);
            let mut codes = [0; GROUP];
            let scale = quantize(&mut codes, &weights).to_f32();
            for (w, code) in weights.iter().zip(codes) {
                let error = w - LEVELS[code as usize] as f32 * scale;
                lost += f64::from(error * error);
                all += f64::from(w * w);
            }
        }
        let share = (lost / all).sqrt();
        assert!((0.070..0.078).contains(&share), "{share}");
    }
}
