//! Muon for matrices, AdamW for the rest (arXiv 2502.16982, 1711.05101), and the learning-rate schedule.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::ops::matmul::Precision;
use crate::engine::ops::simd::multiversion;
use crate::engine::train::muon::orthogonalise;

/// The optimizer's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// The highest learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment of vectors and tables.
    pub beta1: f32,
    /// Decay of their second moment.
    pub beta2: f32,
    /// Decay of the momentum of matrices.
    pub momentum: f32,
    /// Weight decay of matrices and tables.
    pub weight_decay: f32,
    /// The largest norm of a gradient.
    pub clip: f32,
    /// How the products of a matrix's step are rounded.
    pub precision: Precision,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        OptimizerConfig {
            learning_rate: 2e-3,
            beta1: 0.9,
            beta2: 0.95,
            momentum: 0.95,
            weight_decay: 0.1,
            clip: 1.0,
            precision: Precision::F32,
        }
    }
}

/// How a tensor moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// AdamW without decay: norms and other vectors.
    Vector,
    /// AdamW with decay: embeddings and routers, whose rows are met one by one.
    Table,
    /// Muon: every other matrix.
    Matrix {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
}

/// The moments of every parameter, and how each moves.
#[derive(Debug, Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// First moments.
    pub first: Vec<f32>,
    /// Second moments; those of matrices stay 0.
    pub second: Vec<f32>,
    /// Every tensor in the order in which it lies.
    tensors: Vec<(Range<usize>, Rule)>,
}

/// Numbers handled at once, small enough to stay in a core's cache.
const PIECE: usize = 1 << 16;
/// The root mean square of a Muon step at learning rate 1, which is AdamW's too (arXiv 2502.16982).
const MATRIX_STEP: f32 = 0.2;

impl Optimizer {
    /// Makes moments for tensors that lie one behind the other from 0.
    pub fn new(config: OptimizerConfig, tensors: Vec<(Range<usize>, Rule)>) -> Optimizer {
        let len = tensors.last().map_or(0, |(range, _)| range.end);
        Optimizer { config, first: vec![0.0; len], second: vec![0.0; len], tensors }
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
        let rate = c.learning_rate * rate;
        let kept = 1.0 - rate * c.weight_decay;
        let ranges = || self.tensors.iter().map(|(range, _)| range.len());
        let all = split(parameters, ranges())
            .into_par_iter()
            .zip(split(gradients, ranges()))
            .zip(split(&mut self.first, ranges()))
            .zip(split(&mut self.second, ranges()))
            .zip(&self.tensors);
        all.for_each(|((((p, g), m), v), (_, rule))| {
            if *rule != Rule::Vector {
                p.iter_mut().for_each(|p| *p *= kept);
            }
            match *rule {
                Rule::Matrix { rows, columns } => {
                    move_matrix(p, g, m, (rows, columns), c, rate);
                }
                Rule::Vector | Rule::Table => p
                    .par_chunks_mut(PIECE)
                    .zip(g.par_chunks_mut(PIECE))
                    .zip(m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE)))
                    .for_each(|((p, g), (m, v))| move_piece(p, g, m, v, update)),
            }
        });
        norm
    }
}

/// Splits numbers into parts of the given lengths.
fn split(mut data: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut parts = Vec::new();
    for length in lengths {
        let (part, rest) = data.split_at_mut(length);
        parts.push(part);
        data = rest;
    }
    parts
}

/// Muon with Nesterov momentum; the size of the gradient does not matter, so it needs no clipping.
fn move_matrix(
    p: &mut [f32],
    g: &mut [f32],
    m: &mut [f32],
    (rows, columns): (usize, usize),
    config: OptimizerConfig,
    rate: f32,
) {
    let momentum = config.momentum;
    for (g, m) in g.iter_mut().zip(m) {
        *m = momentum * *m + (1.0 - momentum) * *g;
        *g = momentum * *m + (1.0 - momentum) * *g;
    }
    orthogonalise(g, rows, columns, config.precision);
    let rate = rate * MATRIX_STEP * (rows.max(columns) as f32).sqrt();
    for (p, g) in p.iter_mut().zip(g) {
        *p -= rate * *g;
        *g = 0.0;
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
    fn quadratics_are_minimised_by_either_rule() {
        let config = OptimizerConfig { learning_rate: 0.05, weight_decay: 0.0, ..OptimizerConfig::default() };
        for rule in [Rule::Vector, Rule::Matrix { rows: 1, columns: 2 }] {
            let mut optimizer = Optimizer::new(config, vec![(0..2, rule)]);
            let mut p = vec![3.0, -2.0];
            for step in 1..=2000 {
                let mut g = vec![2.0 * (p[0] - 1.0), 8.0 * (p[1] + 0.5)];
                let rate = 1.0 - step as f32 / 2001.0;
                optimizer.step(&mut p, &mut g, step, rate);
                assert_eq!(g, [0.0, 0.0]);
            }
            assert!((p[0] - 1.0).abs() < 0.02 && (p[1] + 0.5).abs() < 0.02, "{rule:?}: {p:?}");
        }
    }
}
