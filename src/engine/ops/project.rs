//! Products of rows with rows in f32, `y = x·wᵀ`, for what is too small or too delicate to be
//! quantised: a router.
//!
//! Each product is summed in eight lanes along the whole row. A general matrix product divides
//! its sums by the shape of what it is given, so a row's would depend on the rows beside it.
#![allow(unsafe_code)]

/// Rows of the weight that one pass over a row serves.
const TOGETHER: usize = 4;
/// Sums of one product.
const LANES: usize = 8;

/// Writes the products of each row of `x` `[rows, input]` with each of `w` `[outputs, input]` to
/// `y` `[rows, outputs]`.
pub fn project(y: &mut [f32], x: &[f32], w: &[f32], input: usize) {
    let outputs = w.len() / input;
    for (first, w) in (0..outputs).step_by(TOGETHER).zip(w.chunks(TOGETHER * input)) {
        let count = w.len() / input;
        // The last few are computed with one of them repeated.
        let rows: [&[f32]; TOGETHER] = std::array::from_fn(|i| &w[i.min(count - 1) * input..][..input]);
        for (y, x) in y.chunks_exact_mut(outputs).zip(x.chunks_exact(input)) {
            let products = products(x, rows);
            y[first..first + count].copy_from_slice(&products[..count]);
        }
    }
}

/// Returns the products of `x` with rows as long as it is.
fn products(x: &[f32], w: [&[f32]; TOGETHER]) -> [f32; TOGETHER] {
    assert!(w.iter().all(|w| w.len() == x.len()), "rows of one length");
    let sums = lanes(x, w);
    let whole = x.len() / LANES * LANES;
    std::array::from_fn(|i| {
        let rest: f32 = x[whole..].iter().zip(&w[i][whole..]).map(|(x, w)| x * w).sum();
        sums[i].iter().sum::<f32>() + rest
    })
}

/// Returns the sums of every eighth product, without what is left after the last eight.
fn lanes(x: &[f32], w: [&[f32]; TOGETHER]) -> [[f32; LANES]; TOGETHER] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the features were just detected, and the caller has rows of one length.
        return unsafe { lanes_avx2(x, w) };
    }
    let mut sums = [[0.0; LANES]; TOGETHER];
    for (sums, w) in sums.iter_mut().zip(w) {
        for (x, w) in x.chunks_exact(LANES).zip(w.chunks_exact(LANES)) {
            sums.iter_mut().zip(x.iter().zip(w)).for_each(|(sum, (x, w))| *sum += x * w);
        }
    }
    sums
}

/// [`lanes`] with AVX2 and FMA.
///
/// # Safety
/// Needs the features; the rows of `w` are as long as `x`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn lanes_avx2(x: &[f32], w: [&[f32]; TOGETHER]) -> [[f32; LANES]; TOGETHER] {
    use std::arch::x86_64::*;
    let mut sums = [_mm256_setzero_ps(); TOGETHER];
    for at in (0..x.len() / LANES * LANES).step_by(LANES) {
        // SAFETY: eight more are within every row.
        unsafe {
            let x = _mm256_loadu_ps(x.as_ptr().add(at));
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = _mm256_fmadd_ps(x, _mm256_loadu_ps(w.as_ptr().add(at)), *sum);
            }
        }
    }
    sums.map(|sum| {
        let mut lanes = [0.0; LANES];
        // SAFETY: the array is one register wide.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
        lanes
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
