//! Softmax of one row.

use crate::engine::ops::simd::exp;
use crate::engine::ops::simd::multiversion;

multiversion! {
    /// Replaces a row of scores by its softmax.
    pub fn softmax(row: &mut [f32]) {
        let largest = largest(row);
        let mut sum = 0.0;
        for s in row.iter_mut() {
            *s = exp(*s - largest);
            sum += *s;
        }
        let inverse = 1.0 / sum;
        for s in row.iter_mut() {
            *s *= inverse;
        }
    }
}

multiversion! {
    /// Returns the sum of e^(s − largest) over a row, in eight lanes.
    pub fn sum_of_exponentials(row: &[f32], largest: f32) -> f32 {
        let mut lanes = [0.0_f32; 8];
        let chunks = row.chunks_exact(8);
        let rest: f32 = chunks.remainder().iter().map(|s| exp(s - largest)).sum();
        for chunk in chunks {
            for (lane, s) in lanes.iter_mut().zip(chunk) {
                *lane += exp(s - largest);
            }
        }
        lanes.iter().sum::<f32>() + rest
    }
}

/// Returns the largest of a row, in eight lanes.
#[inline(always)]
pub fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = row.chunks_exact(8);
    let mut best = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, s) in lanes.iter_mut().zip(chunk) {
            *lane = if *s > *lane { *s } else { *lane };
        }
    }
    for lane in lanes {
        best = best.max(lane);
    }
    best
}
