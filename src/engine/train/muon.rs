//! The nearest orthogonal matrix of a momentum, which is the step of Muon (arXiv 2502.16982).
//!
//! A step of one size in every direction of a matrix, instead of one that follows its few strong
//! directions, needs about half of AdamW's tokens for the same loss. Five Newton–Schulz iterations
//! bring all singular values near 1; they are products only.

use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;

/// Coefficients of x ↦ ax + bx³ + cx⁵, chosen to lift small singular values fast.
pub const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Iterations; more change nothing that training would notice.
pub const ITERATIONS: usize = 5;

/// Replaces a matrix by about the nearest one whose singular values are all 1.
pub fn orthogonalise(matrix: &mut [f32], rows: usize, columns: usize, precision: Precision) {
    let norm = matrix.iter().map(|v| v * v).sum::<f32>().sqrt();
    let inverse = 1.0 / (norm + 1e-7);
    matrix.iter_mut().for_each(|v| *v *= inverse);
    // The Gram matrix of the smaller side: XXᵀ for a wide X, XᵀX for a tall one.
    let side = rows.min(columns);
    let [a, b, c] = QUINTIC;
    let (mut gram, mut step) = (vec![0.0; side * side], vec![0.0; side * side]);
    let mut next = vec![0.0; matrix.len()];
    for _ in 0..ITERATIONS {
        let x = View::new(matrix, rows, columns);
        let (left, right) = if rows <= columns { (x, x.transposed()) } else { (x.transposed(), x) };
        precision.matmul(&mut gram, side, left, right, 1.0, Write::Replace);
        step.copy_from_slice(&gram);
        step.iter_mut().for_each(|v| *v *= b);
        let square = View::new(&gram, side, side);
        precision.matmul(&mut step, side, square, square, c, Write::Add);
        let step = View::new(&step, side, side);
        let (left, right) = if rows <= columns { (step, x) } else { (x, step) };
        next.copy_from_slice(matrix);
        next.iter_mut().for_each(|v| *v *= a);
        precision.matmul(&mut next, columns, left, right, 1.0, Write::Add);
        matrix.copy_from_slice(&next);
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn all_directions_come_out_about_as_long() {
        let mut rng = StdRng::seed_from_u64(3);
        for (rows, columns) in [(6, 6), (5, 12), (12, 5)] {
            // One direction many times stronger than the noise.
            let mut matrix: Vec<f32> = (0..rows * columns)
                .map(|i| 10.0 * ((i / columns) as f32 - 2.0) + rng.random::<f32>() - 0.5)
                .collect();
            orthogonalise(&mut matrix, rows, columns, Precision::F32);
            let side = rows.min(columns);
            let mut gram = vec![0.0; side * side];
            let x = View::new(&matrix, rows, columns);
            let (left, right) = if rows <= columns { (x, x.transposed()) } else { (x.transposed(), x) };
            Precision::F32.matmul(&mut gram, side, left, right, 1.0, Write::Replace);
            let trace: f32 = (0..side).map(|i| gram[i * side + i]).sum();
            let square: f32 = gram.iter().map(|v| v * v).sum();
            // The number of equally long directions that would give these sums.
            assert!(trace * trace / square > 0.7 * side as f32, "{rows}x{columns}: {gram:?}");
            assert!((0.5..1.5).contains(&(trace / side as f32)), "{rows}x{columns}: {trace}");
        }
    }
}
