//! AdamW with gradient clipping over one flat array (arXiv 1711.05101), and its learning-rate schedule.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::ops::simd::multiversion;

/// The optimizer's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// The highest learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Weight decay of matrices.
    pub weight_decay: f32,
    /// The largest norm of a gradient.
    pub clip: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        AdamWConfig { learning_rate: 2e-3, beta1: 0.9, beta2: 0.95, weight_decay: 0.1, clip: 1.0 }
    }
}

/// The moments of every parameter.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: AdamWConfig,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments.
    pub second: Vec<f32>,
    decayed: Vec<Range<usize>>,
}

/// Numbers handled at once, small enough to stay in a core's cache.
const PIECE: usize = 1 << 16;

impl AdamW {
    /// Makes moments for `len` parameters, of which those in `decayed` (ascending ranges) decay.
    pub fn new(config: AdamWConfig, len: usize, decayed: Vec<Range<usize>>) -> AdamW {
        AdamW { config, first: vec![0.0; len], second: vec![0.0; len], decayed }
    }

    /// Moves the parameters against their gradients, which are cleared; returns the gradient's norm before clipping.
    ///
    /// `step` counts from 1; `rate` is the share of the highest learning rate.
    pub fn step(&mut self, parameters: &mut [f32], gradients: &mut [f32], step: u64, rate: f32) -> f32 {
        let square: f64 = gradients
            .par_chunks(PIECE)
            .map(|g| g.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>())
            .sum();
        let norm = square.sqrt() as f32;
        let c = self.config;
        let clip = if norm > c.clip { c.clip / norm } else { 1.0 };
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let update = Update {
            clip,
            beta1: c.beta1,
            beta2: c.beta2,
            rate: c.learning_rate * rate / (1.0 - c.beta1.powi(exponent)),
            root: 1.0 / (1.0 - c.beta2.powi(exponent)),
        };
        let decay = c.learning_rate * rate * c.weight_decay;
        for range in &self.decayed {
            parameters[range.clone()]
                .par_chunks_mut(PIECE)
                .for_each(|p| p.iter_mut().for_each(|p| *p -= decay * *p));
        }
        parameters
            .par_chunks_mut(PIECE)
            .zip(gradients.par_chunks_mut(PIECE))
            .zip(self.first.par_chunks_mut(PIECE).zip(self.second.par_chunks_mut(PIECE)))
            .for_each(|((p, g), (m, v))| move_piece(p, g, m, v, update));
        norm
    }
}

#[derive(Clone, Copy)]
struct Update {
    clip: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    root: f32,
}

multiversion! {
    fn move_piece(p: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32], u: Update) {
        for (((p, g), m), v) in p.iter_mut().zip(g.iter_mut()).zip(m.iter_mut()).zip(v.iter_mut()) {
            let gradient = *g * u.clip;
            *g = 0.0;
            *m = u.beta1 * *m + (1.0 - u.beta1) * gradient;
            *v = u.beta2 * *v + (1.0 - u.beta2) * gradient * gradient;
            *p -= u.rate * *m / ((*v * u.root).sqrt() + 1e-8);
        }
    }
}

/// Warm-up, a plateau and a linear decay to a twentieth: a function of the step only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Steps of warm-up.
    pub warm_up: u64,
    /// Steps of decay at the end.
    pub decay: u64,
    /// All steps.
    pub steps: u64,
}

impl Schedule {
    /// Returns the share of the highest learning rate at a step, which counts from 1.
    pub fn rate(&self, step: u64) -> f32 {
        let up = (step as f32 / self.warm_up.max(1) as f32).min(1.0);
        let left = self.steps.saturating_sub(step) as f32;
        let down = (left / self.decay.max(1) as f32).clamp(0.05, 1.0);
        up.min(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_warms_up_stays_and_decays() {
        let schedule = Schedule { warm_up: 10, decay: 100, steps: 1000 };
        assert_eq!(schedule.rate(5), 0.5);
        assert_eq!(schedule.rate(500), 1.0);
        assert_eq!(schedule.rate(950), 0.5);
        assert_eq!(schedule.rate(1000), 0.05);
    }

    #[test]
    fn a_quadratic_is_minimised() {
        let config = AdamWConfig { learning_rate: 0.05, weight_decay: 0.0, ..AdamWConfig::default() };
        let mut optimizer = AdamW::new(config, 2, vec![]);
        let mut p = vec![3.0, -2.0];
        for step in 1..=500 {
            let mut g = vec![2.0 * (p[0] - 1.0), 8.0 * (p[1] + 0.5)];
            optimizer.step(&mut p, &mut g, step, 1.0);
            assert_eq!(g, [0.0, 0.0]);
        }
        assert!((p[0] - 1.0).abs() < 0.02 && (p[1] + 0.5).abs() < 0.02, "{p:?}");
    }
}
