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

impl Rule {
    /// Returns how many second moments `len` numbers have: Muon needs none.
    pub fn second(self, len: usize) -> usize {
        if matches!(self, Rule::Matrix { .. }) { 0 } else { len }
    }
}

/// The moments of some tensors, and how each moves.
#[derive(Debug, Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// First moments, one tensor behind the other.
    first: Vec<f32>,
    /// Second moments likewise; matrices have none.
    second: Vec<f32>,
    /// The tensors in the order in which they lie; what lies between them is another rank's.
    tensors: Vec<(Range<usize>, Rule)>,
}

/// Where the gradients of an optimizer's tensors are.
#[derive(Debug)]
pub enum Gradients<'a> {
    /// Within those of all parameters.
    Within(&'a mut [f32]),
    /// By themselves, one tensor behind the other.
    Apart(&'a mut [f32]),
}

/// Numbers handled at once, small enough to stay in a core's cache.
const PIECE: usize = 1 << 16;
/// The root mean square of a Muon step at learning rate 1, which is AdamW's too (arXiv 2502.16982).
const MATRIX_STEP: f32 = 0.2;

impl Optimizer {
    /// Makes moments for tensors in the order in which they lie.
    pub fn new(config: OptimizerConfig, tensors: Vec<(Range<usize>, Rule)>) -> Optimizer {
        let first = tensors.iter().map(|(range, _)| range.len()).sum();
        let second = tensors.iter().map(|(range, rule)| rule.second(range.len())).sum();
        Optimizer { config, first: vec![0.0; first], second: vec![0.0; second], tensors }
    }

    /// Returns the constants.
    pub fn config(&self) -> OptimizerConfig {
        self.config
    }

    /// Returns the tensors in the order in which they lie.
    pub fn tensors(&self) -> &[(Range<usize>, Rule)] {
        &self.tensors
    }

    /// Returns all first moments and all second ones, one tensor behind the other.
    pub fn all_moments(&self) -> [&[f32]; 2] {
        [&self.first, &self.second]
    }

    /// Returns the same to be replaced.
    pub fn all_moments_mut(&mut self) -> [&mut [f32]; 2] {
        [&mut self.first, &mut self.second]
    }

    /// Returns how many moments there are.
    pub fn moment_count(&self) -> usize {
        self.first.len() + self.second.len()
    }

    /// Returns the first and second moments of every tensor; the second of matrices are empty.
    pub fn moments(&mut self) -> Vec<(&mut [f32], &mut [f32])> {
        let firsts = split(&mut self.first, self.tensors.iter().map(|(range, _)| range.len()));
        let seconds = self.tensors.iter().map(|(range, rule)| rule.second(range.len()));
        firsts.into_iter().zip(split(&mut self.second, seconds)).collect()
    }

    /// Returns the sum of the squares of the tensors' gradients.
    pub fn square(&self, gradients: Gradients) -> f64 {
        let pieces: Vec<&mut [f32]> = self.cut_gradients(gradients);
        let sum = |g: &[f32]| g.iter().map(|g| f64::from(*g) * f64::from(*g)).sum::<f64>();
        // Collected and summed in the order in which they lie, so that a run repeats to the bit.
        let squares: Vec<f64> = pieces.par_iter().flat_map(|g| g.par_chunks(PIECE)).map(sum).collect();
        squares.into_iter().sum()
    }

    /// Moves the tensors against their gradients, which are cleared.
    pub fn step(&mut self, parameters: &mut [f32], gradients: Gradients, update: Update) {
        let precision = self.config.precision;
        let parameters = cut(parameters, self.tensors.iter().map(|(range, _)| range.clone()));
        let gradients = self.cut_gradients(gradients);
        let rules: Vec<Rule> = self.tensors.iter().map(|(_, rule)| *rule).collect();
        let all = parameters.into_par_iter().zip(gradients).zip(self.moments()).zip(rules);
        all.for_each(|(((p, g), (m, v)), rule)| {
            if rule != Rule::Vector {
                p.iter_mut().for_each(|p| *p *= update.kept);
            }
            match rule {
                Rule::Matrix { rows, columns } => move_matrix(p, g, m, (rows, columns), precision, update),
                Rule::Vector | Rule::Table => p
                    .par_chunks_mut(PIECE)
                    .zip(g.par_chunks_mut(PIECE))
                    .zip(m.par_chunks_mut(PIECE).zip(v.par_chunks_mut(PIECE)))
                    .for_each(|((p, g), (m, v))| move_piece(p, g, m, v, update)),
            }
        });
    }

    fn cut_gradients<'a>(&self, gradients: Gradients<'a>) -> Vec<&'a mut [f32]> {
        match gradients {
            Gradients::Within(all) => cut(all, self.tensors.iter().map(|(range, _)| range.clone())),
            Gradients::Apart(own) => split(own, self.tensors.iter().map(|(range, _)| range.len())),
        }
    }
}

/// Cuts ranges that follow one another, perhaps with gaps, out of numbers.
fn cut(mut data: &mut [f32], ranges: impl Iterator<Item = Range<usize>>) -> Vec<&mut [f32]> {
    let mut parts = Vec::new();
    let mut at = 0;
    for range in ranges {
        let (part, rest) = data[range.start - at..].split_at_mut(range.len());
        parts.push(part);
        data = rest;
        at = range.end;
    }
    parts
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
    precision: Precision,
    update: Update,
) {
    let momentum = update.momentum;
    for (g, m) in g.iter_mut().zip(m) {
        *m = momentum * *m + (1.0 - momentum) * *g;
        *g = momentum * *m + (1.0 - momentum) * *g;
    }
    orthogonalise(g, rows, columns, precision);
    let rate = update.matrix_rate(rows, columns);
    for (p, g) in p.iter_mut().zip(g) {
        *p -= rate * *g;
        *g = 0.0;
    }
}

/// The numbers of one step: `TrainUpdate` in `kernels/train/optimizer.cu`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Update {
    /// Multiplies gradients whose norm is too large.
    pub clip: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second.
    pub beta2: f32,
    /// The learning rate, over what the first moment lacks after few steps.
    pub rate: f32,
    /// One over what the second moment lacks.
    pub root: f32,
    /// What weight decay leaves.
    pub kept: f32,
    /// Decay of the momentum of matrices.
    pub momentum: f32,
    /// The learning rate as it is.
    pub plain_rate: f32,
}

impl Update {
    /// Returns what multiplies the orthogonal step of a matrix.
    pub fn matrix_rate(&self, rows: usize, columns: usize) -> f32 {
        self.plain_rate * MATRIX_STEP * (rows.max(columns) as f32).sqrt()
    }
}

impl OptimizerConfig {
    /// Returns the numbers of a step, which counts from 1; `norm` is that of all gradients, `rate` the share of the
    /// highest learning rate.
    pub fn update(&self, norm: f32, step: u64, rate: f32) -> Update {
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let plain_rate = self.learning_rate * rate;
        Update {
            clip: if norm > self.clip { self.clip / norm } else { 1.0 },
            beta1: self.beta1,
            beta2: self.beta2,
            rate: plain_rate / (1.0 - self.beta1.powi(exponent)),
            root: 1.0 / (1.0 - self.beta2.powi(exponent)),
            kept: 1.0 - plain_rate * self.weight_decay,
            momentum: self.momentum,
            plain_rate,
        }
    }
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
                optimizer.step(&mut p, Gradients::Within(&mut g), config.update(1.0, step, rate));
                assert_eq!(g, [0.0, 0.0]);
            }
            assert!((p[0] - 1.0).abs() < 0.02 && (p[1] + 0.5).abs() < 0.02, "{rule:?}: {p:?}");
        }
    }

    #[test]
    fn owners_of_parts_move_them_as_one_owner_of_all_does() {
        let config = OptimizerConfig::default();
        let matrix = Rule::Matrix { rows: 2, columns: 3 };
        let tensors = vec![(0..4, Rule::Table), (4..10, matrix), (10..13, Rule::Vector), (13..19, matrix)];
        // A table may be cut, and an owner's pieces need not be neighbours.
        let owners = [
            vec![(0..1, Rule::Table), (4..10, matrix)],
            vec![(1..4, Rule::Table), (10..13, Rule::Vector), (13..19, matrix)],
        ];
        let mut whole = Optimizer::new(config, tensors);
        let mut parts = owners.clone().map(|tensors| Optimizer::new(config, tensors));
        assert_eq!(parts.iter().map(Optimizer::moment_count).sum::<usize>(), whole.moment_count());
        let (mut p, mut q) = ([0.5_f32; 19], [0.5_f32; 19]);
        for step in 1..=3 {
            let gradient: Vec<f32> = (0..19).map(|i| ((i * 7 + step * 3) % 11) as f32 - 5.0).collect();
            let mut g = gradient.clone();
            let square = whole.square(Gradients::Within(&mut g));
            let update = config.update(square.sqrt() as f32, step as u64, 1.0);
            whole.step(&mut p, Gradients::Within(&mut g), update);
            let mut own: Vec<Vec<f32>> = owners
                .iter()
                .map(|tensors| {
                    tensors.iter().flat_map(|(range, _)| gradient[range.clone()].to_vec()).collect()
                })
                .collect();
            let norms: f64 =
                parts.iter().zip(&mut own).map(|(part, g)| part.square(Gradients::Apart(g))).sum();
            assert_eq!(norms, square);
            for (part, g) in parts.iter_mut().zip(&mut own) {
                part.step(&mut q, Gradients::Apart(g), update);
                assert!(g.iter().all(|g| *g == 0.0));
            }
            assert_eq!(p, q, "step {step}");
        }
    }
}
