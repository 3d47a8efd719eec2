//! RMS norm: `y = x / sqrt(mean(x²) + eps) · w` over the last axis (arXiv 1910.07467), and its gradient.

use crate::engine::ops::simd::multiversion;

multiversion! {
    /// Writes the norm of every row of `x` `[n, width]` to `y`; `weight` is `[width]`.
    pub fn rms_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let inverse = inverse_root(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * inverse * w;
            }
        }
    }
}

multiversion! {
    /// Adds the gradients of [`rms_norm`]: `dx += …`, `dweight += …`.
    pub fn rms_norm_backward(dx: &mut [f32], dweight: &mut [f32], dy: &[f32], x: &[f32], weight: &[f32], eps: f32) {
        let width = weight.len();
        for ((dx, dy), x) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(width)).zip(x.chunks_exact(width)) {
            let inverse = inverse_root(x, eps);
            let along = weighted_product(dy, x, weight) * inverse * inverse / width as f32;
            for ((((dx, dy), x), w), dw) in dx.iter_mut().zip(dy).zip(x).zip(weight).zip(dweight.iter_mut()) {
                *dx += inverse * (dy * w - along * x);
                *dw += dy * x * inverse;
            }
        }
    }
}

/// Returns Σ dy·x·w, summed in eight lanes likewise.
#[inline(always)]
fn weighted_product(dy: &[f32], x: &[f32], weight: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (dys, xs, ws) = (dy.chunks_exact(8), x.chunks_exact(8), weight.chunks_exact(8));
    let rest = dys.remainder().iter().zip(xs.remainder()).zip(ws.remainder());
    let rest: f32 = rest.map(|((dy, x), w)| dy * x * w).sum();
    for ((dy, x), w) in dys.zip(xs).zip(ws) {
        for (((lane, dy), x), w) in lanes.iter_mut().zip(dy).zip(x).zip(w) {
            *lane += dy * x * w;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Returns `1 / sqrt(mean(x²) + eps)`, summed in eight lanes so that the compiler may vectorise.
#[inline(always)]
fn inverse_root(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let chunks = x.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().map(|v| v * v).sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += v * v;
        }
    }
    let sum = lanes.iter().sum::<f32>() + rest;
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backward_agrees_with_finite_differences() {
        let x: Vec<f32> = (0..22).map(|i| ((i * 7 % 11) as f32 - 5.0) * 0.3).collect();
        let weight: Vec<f32> = (0..11).map(|i| 0.5 + i as f32 * 0.1).collect();
        let dy: Vec<f32> = (0..22).map(|i| (i as f32 * 0.37).sin()).collect();
        let loss = |x: &[f32], w: &[f32]| -> f64 {
            let mut y = vec![0.0; x.len()];
            rms_norm(&mut y, x, w, 1e-6);
            y.iter().zip(&dy).map(|(a, b)| f64::from(a * b)).sum()
        };
        let (mut dx, mut dw) = (vec![0.0; 22], vec![0.0; 11]);
        rms_norm_backward(&mut dx, &mut dw, &dy, &x, &weight, 1e-6);
        let h = 1e-2;
        for i in 0..22 {
            let (mut up, mut down) = (x.clone(), x.clone());
            up[i] += h;
            down[i] -= h;
            let numeric = (loss(&up, &weight) - loss(&down, &weight)) / f64::from(2.0 * h);
            assert!((numeric - f64::from(dx[i])).abs() < 2e-3, "dx[{i}]: {numeric} and {}", dx[i]);
        }
        for i in 0..11 {
            let (mut up, mut down) = (weight.clone(), weight.clone());
            up[i] += h;
            down[i] -= h;
            let numeric = (loss(&x, &up) - loss(&x, &down)) / f64::from(2.0 * h);
            assert!((numeric - f64::from(dw[i])).abs() < 2e-3, "dw[{i}]: {numeric} and {}", dw[i]);
        }
    }
}
