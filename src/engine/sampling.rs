//! Which token a position would take when a request asks for chance: temperature, top-k, top-p, seed.
//!
//! The number drawn depends on seed, position and pass only, so an answer does not depend on what
//! else is in the batch, and the same seed gives the same answer again. Without [`Sampling`] the
//! runner takes the likeliest token, which is the default.

use crate::engine::mixing::GOLDEN;
use crate::engine::mixing::mixed;
use crate::engine::ops::softmax::largest;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divides the logits; above 0.
    pub temperature: f32,
    /// Only the likeliest tokens that together have this probability are drawn from; 1 for all.
    pub top_p: f32,
    /// Only so many of the likeliest tokens are drawn from; 0 for all.
    pub top_k: usize,
    /// Two requests with the same seed draw the same numbers.
    pub seed: u64,
}

impl Sampling {
    /// Draws a token of one row of logits; returns it with its probability among those drawn from,
    /// which is the confidence that LLaDA2's published decoder uses too.
    pub fn draw(&self, logits: &[f32], position: usize, pass: usize) -> (u32, f32) {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: u32| logits[id as usize];
        // Ties fall to the lower id, so that the order is one and the same everywhere.
        let likelier = |a: &u32, b: &u32| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b));
        if self.top_k > 0 && self.top_k < ids.len() {
            ids.select_nth_unstable_by(self.top_k - 1, likelier);
            ids.truncate(self.top_k);
        }
        ids.sort_unstable_by(likelier);
        let best = largest(logits);
        let weight = |id: &u32| ((logit(*id) - best) / self.temperature).exp();
        let mut weights: Vec<f32> = ids.iter().map(weight).collect();
        if self.top_p < 1.0 {
            let enough = self.top_p * weights.iter().sum::<f32>();
            let mut sum = 0.0;
            let kept = weights.iter().take_while(|w| {
                let is_kept = sum < enough;
                sum += **w;
                is_kept
            });
            let kept = kept.count().max(1);
            weights.truncate(kept);
        }
        let total: f32 = weights.iter().sum();
        let mut left = uniform(self.seed, position as u64, pass as u64) * total;
        let mut drawn = 0;
        for (i, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            drawn = i;
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        (ids[drawn], weights[drawn] / total)
    }
}

/// Returns a number of [0, 1) that depends on all three.
fn uniform(seed: u64, position: u64, pass: u64) -> f32 {
    let mut state = seed;
    for part in [position, pass] {
        state = mixed(state.wrapping_add(GOLDEN) ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93));
    }
    // The 24 highest bits: as many as an f32 holds exactly.
    (mixed(state) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, f32::NEG_INFINITY, 1.0];

    fn shares(sampling: Sampling) -> [f32; 5] {
        let mut counts = [0; 5];
        for position in 0..20_000 {
            counts[sampling.draw(&LOGITS, position, position % 7).0 as usize] += 1;
        }
        counts.map(|count| count as f32 / 20_000.0)
    }

    fn check(sampling: Sampling, expected: [f32; 5]) {
        let found = shares(sampling);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.015, "{found} instead of {expected} of {sampling:?}");
        }
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let all = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 7 };
        // e^0, e^2, e^1, nothing, e^1 over their sum.
        check(all, [0.0723, 0.5345, 0.1966, 0.0, 0.1966]);
        check(Sampling { temperature: 0.5, ..all }, [0.0142, 0.7758, 0.1050, 0.0, 0.1050]);
        check(Sampling { top_k: 2, ..all }, [0.0, 0.7311, 0.2689, 0.0, 0.0]);
        check(Sampling { top_p: 0.6, ..all }, [0.0, 0.7311, 0.2689, 0.0, 0.0]);
        check(Sampling { top_p: 0.1, ..all }, [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_seed_the_position_and_the_pass_decide() {
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 7 };
        let logits = [0.0; 1000];
        let drawn = sampling.draw(&logits, 3, 2);
        assert_eq!(drawn, sampling.draw(&logits, 3, 2));
        assert!((drawn.1 - 1e-3).abs() < 1e-6, "each of a thousand equal tokens");
        for other in [
            sampling.draw(&logits, 4, 2),
            sampling.draw(&logits, 3, 3),
            Sampling { seed: 8, ..sampling }.draw(&logits, 3, 2),
        ] {
            assert_ne!(drawn.0, other.0);
        }
    }
}
