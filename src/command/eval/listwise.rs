//! The listwise fit of a linear model: weights under which the softmax over a list's items comes near to the shares
//! that they should have.
//!
//! The loss is the mean cross-entropy over lists (Cao et al., "Learning to rank: from pairwise approach to listwise
//! approach", ICML 2007, section 4) with a small decay of the weights. It is convex, so Newton's method ends in its
//! only minimum. Nothing is drawn at random.

use std::array;

use crate::assist::quote::features::FEATURES;

/// What holds the weights of rare features close to nothing: this times half of their square is added to the loss.
const DECAY: f64 = 0.001;
/// The fit ends where a step promises to gain less; a weight's third decimal matters more.
const LEAST_GAIN: f64 = 1e-12;
/// No fit needs nearly as many.
const MOST_STEPS: usize = 100;

/// What a feature counts, or what belongs to it, in the order of the features.
pub(super) type Vector = [f64; FEATURES];

/// Items with what the softmax over them should be.
pub(super) struct List {
    /// Of each item.
    pub features: Vec<Vector>,
    /// They add up to 1; none where that is not known.
    pub targets: Vec<f64>,
}

impl List {
    /// Returns the logarithms of the softmax over the items.
    pub fn log_chances(&self, weights: &Vector) -> Vec<f64> {
        let sums: Vec<f64> = self.features.iter().map(|features| dot(weights, features)).collect();
        let most = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let all = most + sums.iter().map(|sum| (sum - most).exp()).sum::<f64>().ln();
        sums.into_iter().map(|sum| sum - all).collect()
    }
}

/// Returns the sum of the products.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The mean cross-entropy of lists with the decay of the weights, and its first and second derivatives.
struct Loss {
    value: f64,
    slope: Vector,
    curve: [Vector; FEATURES],
}

impl Loss {
    fn of(lists: &[&List], weights: &Vector) -> Loss {
        let value = DECAY / 2.0 * dot(weights, weights);
        let mut loss =
            Loss { value, slope: weights.map(|weight| DECAY * weight), curve: [[0.0; FEATURES]; FEATURES] };
        for (i, row) in loss.curve.iter_mut().enumerate() {
            row[i] = DECAY;
        }
        for list in lists {
            loss.add(list, weights, 1.0 / lists.len() as f64);
        }
        loss
    }

    /// Adds a part of one list's: the slope is what the softmax has too much of each feature, the curve is the
    /// covariance of the features under it.
    fn add(&mut self, list: &List, weights: &Vector, part: f64) {
        let log_chances = list.log_chances(weights);
        let chances: Vec<f64> = log_chances.iter().map(|log_chance| part * log_chance.exp()).collect();
        self.value -= part * dot(&list.targets, &log_chances);
        let mean: Vector = array::from_fn(|i| {
            let expected = chances.iter().zip(&list.features).map(|(chance, features)| chance * features[i]);
            expected.sum::<f64>() / part
        });
        for ((features, chance), target) in list.features.iter().zip(&chances).zip(&list.targets) {
            let apart: Vector = array::from_fn(|i| features[i] - mean[i]);
            for (i, row) in self.curve.iter_mut().enumerate() {
                self.slope[i] += (chance - part * target) * features[i];
                for (cell, other) in row.iter_mut().zip(&apart) {
                    *cell += chance * apart[i] * other;
                }
            }
        }
    }
}

/// Returns the weights of the least loss over lists that have targets, by Newton's method; a step is halved where it
/// leads too far.
pub(super) fn fit(lists: &[&List]) -> Vector {
    let mut weights = [0.0; FEATURES];
    let mut loss = Loss::of(lists, &weights);
    let mut size = 1.0;
    for _ in 0..MOST_STEPS {
        let step = solve(loss.curve, loss.slope);
        if dot(&step, &loss.slope) < LEAST_GAIN {
            break;
        }
        let next: Vector = array::from_fn(|i| weights[i] - size * step[i]);
        let there = Loss::of(lists, &next);
        if there.value < loss.value {
            (weights, loss, size) = (next, there, 1.0);
        } else {
            size /= 2.0;
        }
    }
    weights
}

/// Returns what `curve` takes to `slope`, by elimination. The decay makes the curve positive definite, so that no
/// pivot is nothing.
fn solve(mut curve: [Vector; FEATURES], mut slope: Vector) -> Vector {
    for at in 0..FEATURES {
        let (pivot, right) = (curve[at], slope[at]);
        for below in at + 1..FEATURES {
            let factor = curve[below][at] / pivot[at];
            curve[below].iter_mut().zip(&pivot).for_each(|(cell, above)| *cell -= factor * above);
            slope[below] -= factor * right;
        }
    }
    for at in (0..FEATURES).rev() {
        let known = dot(&curve[at][at + 1..], &slope[at + 1..]);
        slope[at] = (slope[at] - known) / curve[at][at];
    }
    slope
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a list of which every number differs.
    fn list(items: usize, seed: f64) -> List {
        let feature = |at: usize, i: usize| (seed + 7.0 * at as f64 + 1.3 * (i * i) as f64).sin();
        let features = (0..items).map(|at| array::from_fn(|i| feature(at, i))).collect();
        let all = (items * (items + 1) / 2) as f64;
        List { features, targets: (1..=items).map(|at| at as f64 / all).collect() }
    }

    fn moved(weights: &Vector, at: usize, by: f64) -> Vector {
        array::from_fn(|i| weights[i] + if i == at { by } else { 0.0 })
    }

    #[test]
    fn derivatives_agree_with_finite_differences() {
        const BY: f64 = 1e-5;
        let (a, b) = (list(4, 0.3), list(3, 2.1));
        let lists = [&a, &b];
        let weights: Vector = array::from_fn(|i| (i as f64).cos() / 2.0);
        let loss = Loss::of(&lists, &weights);
        for at in 0..FEATURES {
            let up = Loss::of(&lists, &moved(&weights, at, BY));
            let down = Loss::of(&lists, &moved(&weights, at, -BY));
            let slope = (up.value - down.value) / (2.0 * BY);
            assert!((slope - loss.slope[at]).abs() < 1e-8, "{at}: {slope} {}", loss.slope[at]);
            for i in 0..FEATURES {
                let curve = (up.slope[i] - down.slope[i]) / (2.0 * BY);
                assert!((curve - loss.curve[at][i]).abs() < 1e-8, "{at} {i}: {curve}");
            }
        }
    }

    #[test]
    fn a_fit_ends_where_the_loss_is_flat() {
        let lists: Vec<List> = (0..6).map(|at| list(3 + at % 3, at as f64)).collect();
        let lists: Vec<&List> = lists.iter().collect();
        let weights = fit(&lists);
        let slope = Loss::of(&lists, &weights).slope;
        assert!(slope.iter().all(|slope| slope.abs() < 1e-5), "{slope:?}");
        assert_eq!(weights, fit(&lists), "the same each time");
    }

    #[test]
    fn a_fit_puts_the_right_item_first_where_one_feature_tells_it() {
        let toy = |right: usize| {
            let mut list = list(4, right as f64);
            list.features.iter_mut().enumerate().for_each(|(at, features)| {
                features[2] = if at == right { 1.0 } else { 0.0 };
            });
            list.targets = (0..4).map(|at| if at == right { 1.0 } else { 0.0 }).collect();
            list
        };
        let lists: Vec<List> = (0..4).map(toy).collect();
        let weights = fit(&lists.iter().collect::<Vec<&List>>());
        for (right, list) in lists.iter().enumerate() {
            let chances = list.log_chances(&weights);
            let others = chances.iter().enumerate().filter(|(at, _)| *at != right);
            assert!(others.map(|(_, chance)| *chance).all(|chance| chance < chances[right]), "{chances:?}");
        }
        assert!(weights[2] > 1.0, "{weights:?}");
    }
}
