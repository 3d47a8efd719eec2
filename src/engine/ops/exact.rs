//! The operations of a forward pass with sums in 64 bits, for comparing with references.
//!
//! Routing chooses between experts that may differ by less than a 32-bit sum's error; whoever
//! wants the reference's choice must not lose it to the order of a sum. Plain loops, no tricks.

use crate::engine::kv_cache::PAGE;
use crate::engine::ops::attention::HeadPage;
use crate::engine::ops::attention::Queries;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;

/// [`crate::engine::ops::matmul::matmul`] with each element summed in 64 bits.
pub fn matmul(dst: &mut [f32], dst_stride: usize, a: View, b: View, scale: f32, write: Write) {
    for i in 0..a.rows {
        for j in 0..b.columns {
            let (a_row, b_column) = (i * a.row_stride, j * b.column_stride);
            let product = |k: usize| {
                f64::from(a.data[a_row + k * a.column_stride])
                    * f64::from(b.data[b_column + k * b.row_stride])
            };
            let sum: f64 = (0..a.columns).map(product).sum::<f64>() * f64::from(scale);
            let y = &mut dst[i * dst_stride + j];
            *y = match write {
                Write::Replace => sum as f32,
                Write::Add => (f64::from(*y) + sum) as f32,
            };
        }
    }
}

/// [`crate::engine::ops::project::project`] with each product summed in 64 bits.
pub fn project(y: &mut [f32], x: &[f32], w: &[f32], input: usize) {
    let (rows, outputs) = (x.len() / input, w.len() / input);
    let w = View::new(w, outputs, input).transposed();
    matmul(y, outputs, View::new(x, rows, input), w, 1.0, Write::Replace);
}

/// [`crate::engine::ops::attention::attend`] with scores and sums in 64 bits.
pub fn attend(out: &mut [f32], out_stride: usize, q: Queries, pages: &[HeadPage], end: usize) {
    let head_dim = q.head_dim;
    let scale = 1.0 / (head_dim as f64).sqrt();
    for (row, head) in (0..q.rows).flat_map(|row| (0..q.heads).map(move |head| (row, head))) {
        let query = &q.data[row * q.stride + head * head_dim..][..head_dim];
        let mut weights: Vec<f32> = (0..end)
            .map(|at| {
                let keys = pages[at / PAGE].keys[at % PAGE..].iter().step_by(PAGE);
                let sum: f64 = query.iter().zip(keys).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                (sum * scale) as f32
            })
            .collect();
        softmax(&mut weights);
        for d in 0..head_dim {
            let value = |at: usize| f64::from(pages[at / PAGE].values[at % PAGE * head_dim + d]);
            let sum: f64 = weights.iter().enumerate().map(|(at, w)| f64::from(*w) * value(at)).sum();
            out[row * out_stride + head * head_dim + d] = sum as f32;
        }
    }
}

/// [`crate::engine::ops::norm::rms_norm`] with the mean in 64 bits.
pub fn rms_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let width = weight.len();
    for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let squares: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let inverse = 1.0 / (squares / width as f64 + f64::from(eps)).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = (f64::from(*x) * inverse * f64::from(*w)) as f32;
        }
    }
}

/// [`crate::engine::ops::softmax::softmax`] in 64 bits.
pub fn softmax(row: &mut [f32]) {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f64> = row.iter().map(|s| f64::from(s - largest).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    for (s, e) in row.iter_mut().zip(exponentials) {
        *s = (e / sum) as f32;
    }
}

/// [`crate::engine::ops::swiglu::swiglu`] in 64 bits.
pub fn swiglu(hidden: &mut [f32], gate_up: &[f32], width: usize) {
    for (hidden, row) in hidden.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
        let (gate, up) = row.split_at(width);
        for ((h, g), u) in hidden.iter_mut().zip(gate).zip(up) {
            let g = f64::from(*g);
            *h = (g / (1.0 + (-g).exp()) * f64::from(*u)) as f32;
        }
    }
}
