//! The head and its loss for chosen rows only: logits, weighted cross-entropy, gradients; no logits are kept.

use rayon::prelude::*;

use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::softmax::softmax;

/// Rows whose logits are in memory at once, for each thread.
const ROWS_AT_ONCE: usize = 64;

/// What a chosen row must predict.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// The row among the noised rows.
    pub row: usize,
    /// The token that stands there.
    pub token: u32,
    /// How much it counts.
    pub weight: f32,
}

/// The loss of some rows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Sum over rows of weight times cross-entropy, in nats.
    pub weighted: f64,
    /// Sum of weights.
    pub weight: f64,
    /// Sum of unweighted cross-entropy, in nats.
    pub nats: f64,
    /// How many rows' argmax is the target.
    pub hits: usize,
    /// Number of rows.
    pub rows: usize,
}

impl Loss {
    /// Returns the sum of two losses.
    pub fn plus(self, other: Loss) -> Loss {
        Loss {
            weighted: self.weighted + other.weighted,
            weight: self.weight + other.weight,
            nats: self.nats + other.nats,
            hits: self.hits + other.hits,
            rows: self.rows + other.rows,
        }
    }
}

/// Gradients to add to, times `scale`: of the normed rows `[n, hidden]` and of the head `[vocabulary, hidden]`.
#[derive(Debug)]
pub struct LossGradient<'a> {
    /// Of the rows.
    pub rows: &'a mut [f32],
    /// Of the head.
    pub head: &'a mut [f32],
    /// What the loss is multiplied by.
    pub scale: f32,
}

/// Returns the loss of `targets` over rows `x` `[n, hidden]` with head `[vocabulary, hidden]`; adds its gradients.
pub fn cross_entropy(
    precision: Precision,
    x: &[f32],
    head: &[f32],
    hidden: usize,
    targets: &[Target],
    gradient: Option<LossGradient>,
) -> Loss {
    let vocabulary = head.len() / hidden;
    let wants_gradient = gradient.as_ref().map(|g| g.scale);
    let share = targets.len().div_ceil(rayon::current_num_threads()).max(1);
    let parts: Vec<(Loss, Vec<f32>, Vec<f32>)> = targets
        .par_chunks(share)
        .map(|targets| {
            let mut loss = Loss::default();
            let mut drows = vec![0.0; if wants_gradient.is_some() { targets.len() * hidden } else { 0 }];
            let mut dhead = vec![0.0; if wants_gradient.is_some() { head.len() } else { 0 }];
            let mut logits = vec![0.0; ROWS_AT_ONCE * vocabulary];
            let mut rows = Vec::with_capacity(ROWS_AT_ONCE * hidden);
            for (i, some) in targets.chunks(ROWS_AT_ONCE).enumerate() {
                rows.clear();
                for target in some {
                    rows.extend_from_slice(&x[target.row * hidden..(target.row + 1) * hidden]);
                }
                let logits = &mut logits[..some.len() * vocabulary];
                precision.linear(logits, &rows, head, hidden, vocabulary);
                for (row, target) in logits.chunks_exact_mut(vocabulary).zip(some) {
                    let token = target.token as usize;
                    softmax(row);
                    let nats = -f64::from(row[token].max(1e-30)).ln();
                    loss.weighted += f64::from(target.weight) * nats;
                    loss.weight += f64::from(target.weight);
                    loss.nats += nats;
                    loss.rows += 1;
                    loss.hits += usize::from(row.iter().all(|p| *p <= row[token]));
                    if let Some(scale) = wants_gradient {
                        row[token] -= 1.0;
                        let factor = target.weight * scale;
                        row.iter_mut().for_each(|p| *p *= factor);
                    }
                }
                if wants_gradient.is_some() {
                    let drows = &mut drows[i * ROWS_AT_ONCE * hidden..][..some.len() * hidden];
                    precision.linear_input_gradient(drows, logits, head, hidden, vocabulary, Write::Replace);
                    precision.linear_weight_gradient(&mut dhead, logits, &rows, hidden, vocabulary);
                }
            }
            (loss, drows, dhead)
        })
        .collect();
    if let Some(gradient) = gradient {
        for ((_, drows, dhead), targets) in parts.iter().zip(targets.chunks(share)) {
            for (target, d) in targets.iter().zip(drows.chunks_exact(hidden)) {
                let row = &mut gradient.rows[target.row * hidden..(target.row + 1) * hidden];
                row.iter_mut().zip(d).for_each(|(row, d)| *row += d);
            }
            gradient.head.par_iter_mut().zip(dhead).with_min_len(1 << 16).for_each(|(g, d)| *g += d);
        }
    }
    parts.into_iter().map(|(loss, ..)| loss).fold(Loss::default(), Loss::plus)
}
