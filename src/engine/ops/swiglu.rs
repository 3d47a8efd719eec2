//! Gated activation `silu(gate) · up` over rows of `[gate | up]`, and its gradient (arXiv 2002.05202).

use crate::engine::ops::simd::multiversion;
use crate::engine::ops::simd::sigmoid;

multiversion! {
    /// Writes `silu(g) · u` of each row `[g | u]` of `gate_up` `[n, 2·width]` to `hidden` `[n, width]`.
    pub fn swiglu(hidden: &mut [f32], gate_up: &[f32], width: usize) {
        for (hidden, row) in hidden.chunks_exact_mut(width).zip(gate_up.chunks_exact(2 * width)) {
            let (gate, up) = row.split_at(width);
            for ((h, g), u) in hidden.iter_mut().zip(gate).zip(up) {
                *h = g * sigmoid(*g) * u;
            }
        }
    }
}

multiversion! {
    /// Replaces `gate_up` by its gradient, given `dhidden`.
    pub fn swiglu_backward(gate_up: &mut [f32], dhidden: &[f32], width: usize) {
        for (row, dhidden) in gate_up.chunks_exact_mut(2 * width).zip(dhidden.chunks_exact(width)) {
            let (gate, up) = row.split_at_mut(width);
            for ((g, u), dh) in gate.iter_mut().zip(up).zip(dhidden) {
                let s = sigmoid(*g);
                let silu = *g * s;
                let dgate = dh * *u * (s + silu * (1.0 - s));
                *u = dh * silu;
                *g = dgate;
            }
        }
    }
}
