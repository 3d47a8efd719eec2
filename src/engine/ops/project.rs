//! Products of rows with rows in f32, `y = x·wᵀ`, for what is too small or too delicate to be
//! quantised: a router.
//!
//! Each product is summed in eight lanes along the whole row. A general matrix product divides
//! its sums by the shape of what it is given, so a row's would depend on the rows beside it.

use crate::engine::ops::simd::multiversion;

/// Rows of the weight that one pass over a row serves.
const TOGETHER: usize = 4;
/// Sums of one product.
const LANES: usize = 8;

multiversion! {
    /// Writes the products of each row of `x` `[rows, input]` with each of `w` `[outputs, input]` to
    /// `y` `[rows, outputs]`.
    pub fn project(y: &mut [f32], x: &[f32], w: &[f32], input: usize) {
        let outputs = w.len() / input;
        for (first, w) in (0..outputs).step_by(TOGETHER).zip(w.chunks(TOGETHER * input)) {
            let count = w.len() / input;
            // The last few are computed with one of them repeated.
            let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &w[i.min(count - 1) * input..][..input]);
            for (y, x) in y.chunks_exact_mut(outputs).zip(x.chunks_exact(input)) {
                let products = dot(x, rows);
                y[first..first + count].copy_from_slice(&products[..count]);
            }
        }
    }
}

#[inline(always)]
fn dot(x: &[f32], w: [&[f32]; TOGETHER]) -> [f32; TOGETHER] {
    let mut sums = [[0.0_f32; LANES]; TOGETHER];
    let whole = x.len() / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        let x = &x[at..at + LANES];
        for (sums, w) in sums.iter_mut().zip(w) {
            for ((sum, x), w) in sums.iter_mut().zip(x).zip(&w[at..at + LANES]) {
                *sum += x * w;
            }
        }
    }
    std::array::from_fn(|i| {
        let rest: f32 = x[whole..].iter().zip(&w[i][whole..]).map(|(x, w)| x * w).sum();
        sums[i].iter().sum::<f32>() + rest
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::exact;
    use crate::engine::ops::testing::numbers;

    #[test]
    fn it_agrees_with_sums_in_64_bits_and_rows_with_themselves_alone() {
        for (rows, input, outputs) in [(1, 7, 5), (67, 1030, 64), (3, 8, 4), (20, 100, 33)] {
            let (x, w) = (numbers(rows * input, 1.0, 1), numbers(outputs * input, 1.0, 2));
            let (mut found, mut expected) = (vec![9.0; rows * outputs], vec![9.0; rows * outputs]);
            project(&mut found, &x, &w, input);
            exact::project(&mut expected, &x, &w, input);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{found} and {expected}");
            }
            for (x, found) in x.chunks_exact(input).zip(found.chunks_exact(outputs)) {
                let mut alone = vec![9.0; outputs];
                project(&mut alone, x, &w, input);
                assert_eq!(alone, found);
            }
        }
    }
}
