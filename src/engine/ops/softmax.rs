//! Softmax of one row.

use crate::engine::ops::simd::exp;
use crate::engine::ops::simd::multiversion;

multiversion! {
    /// Replaces a row of scores by its softmax, summed in eight lanes: one sum would wait for itself.
    pub fn softmax(row: &mut [f32]) {
        let largest = largest(row);
        let mut lanes = [0.0_f32; 8];
        let mut chunks = row.chunks_exact_mut(8);
        for chunk in &mut chunks {
            for (lane, s) in lanes.iter_mut().zip(chunk) {
                *s = exp(*s - largest);
                *lane += *s;
            }
        }
        let mut sum = lanes.iter().sum::<f32>();
        for s in chunks.into_remainder() {
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

/// The largest of some scores and what the others are beside it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Peak {
    /// Where the first of the largest is.
    pub at: usize,
    /// The largest.
    pub value: f32,
    /// The sum of e^(s − largest); nothing when all are −∞.
    pub sum: f32,
}

multiversion! {
    /// Returns the peak of a row.
    pub fn peak(row: &[f32]) -> Peak {
        let value = largest(row);
        let mut at = u32::MAX;
        for (i, s) in row.iter().enumerate() {
            at = at.min(if *s == value { i as u32 } else { u32::MAX });
        }
        let sum = if value == f32::NEG_INFINITY { 0.0 } else { sum_of_exponentials(row, value) };
        // Nothing is equal to what is not a number.
        Peak { at: if at == u32::MAX { 0 } else { at as usize }, value, sum }
    }
}

/// Returns the entropy in nats of the softmax of a row with its largest score and the sum of
/// exponentials above: `ln Z − Σ p·(s − largest)`. Scores of −∞ count for nothing.
pub fn entropy(row: &[f32], largest: f32, sum: f32) -> f32 {
    let below = row.iter().map(|s| s - largest).filter(|d| d.is_finite());
    let weighted: f64 = below.map(|d| f64::from(exp(d)) * f64::from(d)).sum();
    (f64::from(sum).ln() - weighted / f64::from(sum)) as f32
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_that_of_the_distribution() {
        let check = |row: &[f32], expected: f32| {
            let best = largest(row);
            let found = entropy(row, best, sum_of_exponentials(row, best));
            assert!((found - expected).abs() < 1e-5, "{row:?}: {found}, expected {expected}");
        };
        check(&[3.0; 8], 8.0_f32.ln());
        check(&[1.0, 1.0, f32::NEG_INFINITY], 2.0_f32.ln());
        check(&[0.0, 3.0_f32.ln()], -(0.25 * 0.25_f32.ln() + 0.75 * 0.75_f32.ln()));
    }
}
