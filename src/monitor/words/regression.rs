//! Logistic regression in which every class counts the same.
//!
//! It is convex and is brought to its minimum, so that what comes out depends on the rows alone:
//! `½|w|² + C·Σ weight·loss`, by L-BFGS (Nocedal and Wright, "Numerical Optimization", 2006, algorithm 7.5).

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::monitor::words::grams::Sparse;

/// What the loss counts against the size of the weights.
const C: f32 = 1.0;
/// The most steps of the minimiser.
const STEPS: usize = 100;
/// It ends when the gradient's length is this share of the first one's.
const SMALL_GRADIENT: f32 = 2e-3;
/// Steps it remembers.
const MEMORY: usize = 8;
/// Rows whose gradient is summed in one task.
const ROWS_AT_ONCE: usize = 4096;

/// A trained regression.
#[derive(Debug, Clone, PartialEq)]
pub struct Regression {
    /// `[features + 1, classes]`; the last row is added whatever the text.
    pub weights: Vec<f32>,
    /// How many classes there are.
    pub classes: usize,
}

impl Regression {
    /// Trains on texts of `features` numbers and their classes; a class without rows is never said.
    pub fn train(rows: Vec<(&Sparse, usize)>, features: usize, classes: usize) -> Regression {
        let mut counts = vec![0_usize; classes];
        rows.iter().for_each(|(_, class)| counts[*class] += 1);
        let occurring = counts.iter().filter(|count| **count > 0).count();
        let weight = |count: &usize| C * rows.len() as f32 / (occurring * count).max(1) as f32;
        let problem = Problem {
            weights: counts.iter().map(weight).collect(),
            absent: counts.iter().map(|count| *count == 0).collect(),
            rows,
            features,
        };
        let mut weights = minimise((features + 1) * classes, |weights| problem.gradient(weights));
        for class in (0..classes).filter(|class| problem.absent[*class]) {
            weights[features * classes + class] = f32::NEG_INFINITY;
        }
        Regression { weights, classes }
    }

    /// Returns the logarithm of each class's probability, up to a constant.
    pub fn scores(&self, sparse: &Sparse) -> Vec<f32> {
        scores(&self.weights, sparse, self.classes)
    }
}

/// What is minimised.
struct Problem<'a> {
    rows: Vec<(&'a Sparse, usize)>,
    /// What a row of each class counts.
    weights: Vec<f32>,
    absent: Vec<bool>,
    features: usize,
}

impl Problem<'_> {
    /// Returns the value at some weights, and the gradient.
    fn gradient(&self, at: &[f32]) -> (f64, Vec<f32>) {
        let classes = self.weights.len();
        let tasks = self.rows.par_chunks(ROWS_AT_ONCE).map(|rows| {
            let mut gradient = vec![0.0_f32; at.len()];
            let mut value = 0.0_f64;
            for (sparse, class) in rows {
                let mut scores = scores(at, sparse, classes);
                for (score, absent) in scores.iter_mut().zip(&self.absent) {
                    *score = if *absent { f32::NEG_INFINITY } else { *score };
                }
                let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f32 = scores.iter().map(|score| (score - highest).exp()).sum();
                value += f64::from(self.weights[*class] * (sum.ln() + highest - scores[*class]));
                for (c, score) in scores.iter_mut().enumerate() {
                    let probability = (*score - highest).exp() / sum;
                    *score = self.weights[*class] * (probability - f32::from(u8::from(c == *class)));
                }
                let bias = (self.features as u32, 1.0);
                for (feature, x) in sparse.iter().copied().chain([bias]) {
                    let row = &mut gradient[feature as usize * classes..][..classes];
                    row.iter_mut().zip(&scores).for_each(|(g, error)| *g += error * x);
                }
            }
            (value, gradient)
        });
        // Summed in their order, for the same bits on any number of threads.
        let tasks: Vec<(f64, Vec<f32>)> = tasks.collect();
        let mut gradient = vec![0.0_f32; at.len()];
        let mut value = 0.0;
        for (of_task, slopes) in &tasks {
            value += of_task;
            gradient.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        let sized = self.features * classes;
        for (slope, weight) in gradient[..sized].iter_mut().zip(at) {
            *slope += weight;
            value += 0.5 * f64::from(weight * weight);
        }
        (value, gradient)
    }
}

fn scores(weights: &[f32], sparse: &[(u32, f32)], classes: usize) -> Vec<f32> {
    let mut scores = weights[weights.len() - classes..].to_vec();
    for (feature, x) in sparse {
        let row = &weights[*feature as usize * classes..][..classes];
        scores.iter_mut().zip(row).for_each(|(score, weight)| *score += weight * x);
    }
    scores
}

/// Returns where a smooth convex function of `size` numbers is least.
fn minimise(size: usize, function: impl Fn(&[f32]) -> (f64, Vec<f32>)) -> Vec<f32> {
    let mut at = vec![0.0_f32; size];
    let (mut value, mut gradient) = function(&at);
    let enough = SMALL_GRADIENT * dot(&gradient, &gradient).sqrt();
    // Step, change of the gradient, and one over their product.
    let mut steps: VecDeque<(Vec<f32>, Vec<f32>, f32)> = VecDeque::new();
    for _ in 0..STEPS {
        if dot(&gradient, &gradient).sqrt() <= enough {
            break;
        }
        let mut direction = descent(&gradient, &steps);
        let mut slope = dot(&direction, &gradient);
        if slope >= 0.0 {
            steps.clear();
            direction = gradient.iter().map(|g| -g).collect();
            slope = -dot(&gradient, &gradient);
        }
        let mut length = if steps.is_empty() { 1.0 / (-slope).sqrt() } else { 1.0 };
        let found = loop {
            let next: Vec<f32> = at.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let (next_value, next_gradient) = function(&next);
            // Armijo's rule.
            if next_value <= value + 1e-4 * f64::from(length * slope) {
                break Some((next, next_value, next_gradient));
            }
            length *= 0.5;
            if length < 1e-6 {
                break None;
            }
        };
        // Nothing lower is left that these numbers can tell apart.
        let Some((next, next_value, next_gradient)) = found else { break };
        let step: Vec<f32> = next.iter().zip(&at).map(|(new, old)| new - old).collect();
        let change: Vec<f32> = next_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        let product = dot(&step, &change);
        if product > 0.0 {
            steps.push_back((step, change, 1.0 / product));
            if steps.len() > MEMORY {
                steps.pop_front();
            }
        }
        (at, value, gradient) = (next, next_value, next_gradient);
    }
    at
}

/// Returns where to go: the gradient, turned by what the last steps tell of the curvature.
fn descent(gradient: &[f32], steps: &VecDeque<(Vec<f32>, Vec<f32>, f32)>) -> Vec<f32> {
    let mut direction: Vec<f32> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(steps.len());
    for (step, change, inverse) in steps.iter().rev() {
        let share = inverse * dot(step, &direction);
        direction.iter_mut().zip(change).for_each(|(d, c)| *d -= share * c);
        shares.push(share);
    }
    if let Some((_, change, inverse)) = steps.back() {
        let scale = 1.0 / (inverse * dot(change, change));
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for ((step, change, inverse), share) in steps.iter().zip(shares.iter().rev()) {
        let over = share - inverse * dot(change, &direction);
        direction.iter_mut().zip(step).for_each(|(d, s)| *d += over * s);
    }
    direction
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minimum_of_a_bowl_is_found() {
        let least = [3.0_f32, -2.0, 0.5];
        let steep = [1.0_f32, 10.0, 100.0];
        let bowl = |at: &[f32]| {
            let off: Vec<f32> = at.iter().zip(least).map(|(x, least)| x - least).collect();
            let value = off.iter().zip(steep).map(|(d, k)| 0.5 * f64::from(k * d * d)).sum();
            (value, off.iter().zip(steep).map(|(d, k)| k * d).collect())
        };
        for (found, expected) in minimise(3, bowl).iter().zip(least) {
            assert!((found - expected).abs() < 0.02, "{found}, not {expected}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_value() {
        let texts = [vec![(0, 1.0), (1, 0.5)], vec![(1, 1.0)], vec![(0, -1.0)]];
        let rows = texts.iter().zip([0, 2, 2]).collect();
        let problem =
            Problem { rows, weights: vec![1.0, 1.0, 2.0], absent: vec![false, true, false], features: 2 };
        let at = [0.3_f32, 0.0, -0.2, 0.5, 0.0, 0.1, 0.2, 0.0, -0.1];
        let (_, gradient) = problem.gradient(&at);
        for i in 0..at.len() {
            let moved = |by: f32| {
                let mut at = at;
                at[i] += by;
                problem.gradient(&at).0
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[i])).abs() < 1e-3, "{i}: {slope} {}", gradient[i]);
        }
    }
}
