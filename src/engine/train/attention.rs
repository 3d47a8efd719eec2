//! Attention of one-pass block diffusion, `[noised ‖ clean]`, and its gradient (BD3-LM, arXiv 2503.09573).
//!
//! A document of n tokens is there twice. A noised block sees itself and the clean blocks before
//! it; a clean block sees itself and the clean blocks before it. Scores are computed block by
//! block and thrown away; the backward pass computes them again.

use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::simd::multiversion;
use crate::engine::ops::softmax::softmax;

/// The sizes of attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
    /// Block length.
    pub block: usize,
    /// How products are rounded.
    pub precision: Precision,
}

/// One half of a document, noised or clean: rows of `[tokens, heads · width]`.
#[derive(Debug, Clone, Copy)]
pub struct Half<'a> {
    /// Queries; empty when nobody needs this half's output.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// The gradients of one half.
#[derive(Debug)]
pub struct HalfGradient<'a> {
    /// Of the queries.
    pub dq: &'a mut [f32],
    /// Of the keys.
    pub dk: &'a mut [f32],
    /// Of the values.
    pub dv: &'a mut [f32],
}

/// The queries of one block and head with the keys that they see.
struct Sight {
    /// The first query row of the half.
    from: usize,
    /// Query rows.
    rows: usize,
    /// How many clean keys are seen, from the document's start.
    clean: usize,
    /// Whether the noised block itself is seen too.
    own: bool,
}

fn sights(tokens: usize, block: usize, noised: bool) -> impl Iterator<Item = Sight> {
    (0..tokens).step_by(block).map(move |from| {
        let rows = block.min(tokens - from);
        Sight { from, rows, clean: if noised { from } else { from + rows }, own: noised }
    })
}

/// Writes the attention output of both halves: `noised_out`, and `clean_out` when `clean.q` is there.
pub fn forward(heads: Heads, noised: Half, clean: Half, noised_out: &mut [f32], clean_out: &mut [f32]) {
    let mut scores = Vec::new();
    for (half, out, is_noised) in [(noised, noised_out, true), (clean, clean_out, false)] {
        let tokens = half.q.len() / (heads.queries * heads.width);
        for head in 0..heads.queries {
            for sight in sights(tokens, heads.block, is_noised) {
                probabilities(heads, head, &sight, half, clean, &mut scores);
                weigh_values(heads, head, &sight, half, clean, &scores, out);
            }
        }
    }
}

/// Adds the gradients of keys and values, replaces those of queries; `out` and `dout` are as in [`forward`].
#[allow(clippy::too_many_arguments)]
pub fn backward(
    heads: Heads,
    noised: Half,
    clean: Half,
    outs: [&[f32]; 2],
    douts: [&[f32]; 2],
    noised_gradient: HalfGradient,
    clean_gradient: HalfGradient,
) {
    let (q_stride, k_stride, width) = (heads.queries * heads.width, heads.keys * heads.width, heads.width);
    let scale = 1.0 / (width as f32).sqrt();
    let HalfGradient { dq: clean_dq, dk: clean_dk, dv: clean_dv } = clean_gradient;
    let HalfGradient { dq: noised_dq, dk: noised_dk, dv: noised_dv } = noised_gradient;
    let (mut p, mut dp) = (Vec::new(), Vec::new());
    for (half, out, dout, dq, is_noised) in
        [(noised, outs[0], douts[0], noised_dq, true), (clean, outs[1], douts[1], clean_dq, false)]
    {
        let tokens = half.q.len() / q_stride;
        for head in 0..heads.queries {
            let key_at = head / (heads.queries / heads.keys) * width;
            for sight in sights(tokens, heads.block, is_noised) {
                probabilities(heads, head, &sight, half, clean, &mut p);
                let seen = sight.clean + if sight.own { sight.rows } else { 0 };
                let q_at = sight.from * q_stride + head * width;
                let own_at = sight.from * k_stride + key_at;
                let q = View::strided(&half.q[q_at..], sight.rows, width, q_stride);
                let d = View::strided(&dout[q_at..], sight.rows, width, q_stride);
                let probability = View::new(&p, sight.rows, seen);
                // dV += Pᵀ·dO and dP = dO·Vᵀ, for the clean keys and for the own block.
                dp.resize(sight.rows * seen, 0.0);
                if sight.clean > 0 {
                    let columns = View { columns: sight.clean, ..probability };
                    let v = View::strided(&clean.v[key_at..], sight.clean, width, k_stride);
                    heads.precision.matmul(
                        &mut clean_dv[key_at..],
                        k_stride,
                        columns.transposed(),
                        d,
                        1.0,
                        Write::Add,
                    );
                    heads.precision.matmul(&mut dp, seen, d, v.transposed(), 1.0, Write::Replace);
                }
                if sight.own {
                    let columns = View { data: &p[sight.clean..], columns: sight.rows, ..probability };
                    let v = View::strided(&half.v[own_at..], sight.rows, width, k_stride);
                    heads.precision.matmul(
                        &mut noised_dv[own_at..],
                        k_stride,
                        columns.transposed(),
                        d,
                        1.0,
                        Write::Add,
                    );
                    heads.precision.matmul(
                        &mut dp[sight.clean..],
                        seen,
                        d,
                        v.transposed(),
                        1.0,
                        Write::Replace,
                    );
                }
                // dS = P ∘ (dP − rowsum(dO ∘ O)) · scale.
                for row in 0..sight.rows {
                    let at = q_at + row * q_stride;
                    let along: f32 =
                        out[at..at + width].iter().zip(&dout[at..at + width]).map(|(a, b)| a * b).sum();
                    let range = row * seen..(row + 1) * seen;
                    softmax_backward(&mut dp[range.clone()], &p[range], along, scale);
                }
                // dQ = dS·K and dK += dSᵀ·Q.
                let ds = View::new(&dp, sight.rows, seen);
                if sight.clean > 0 {
                    let columns = View { columns: sight.clean, ..ds };
                    let k = View::strided(&clean.k[key_at..], sight.clean, width, k_stride);
                    heads.precision.matmul(&mut dq[q_at..], q_stride, columns, k, 1.0, Write::Replace);
                    heads.precision.matmul(
                        &mut clean_dk[key_at..],
                        k_stride,
                        columns.transposed(),
                        q,
                        1.0,
                        Write::Add,
                    );
                }
                if sight.own {
                    let columns = View { data: &dp[sight.clean..], columns: sight.rows, ..ds };
                    let k = View::strided(&half.k[own_at..], sight.rows, width, k_stride);
                    let write = if sight.clean > 0 { Write::Add } else { Write::Replace };
                    heads.precision.matmul(&mut dq[q_at..], q_stride, columns, k, 1.0, write);
                    heads.precision.matmul(
                        &mut noised_dk[own_at..],
                        k_stride,
                        columns.transposed(),
                        q,
                        1.0,
                        Write::Add,
                    );
                }
            }
        }
    }
}

/// Fills `p` with the softmax over the seen keys, `[rows, seen]`.
fn probabilities(heads: Heads, head: usize, sight: &Sight, half: Half, clean: Half, p: &mut Vec<f32>) {
    let (q_stride, k_stride, width) = (heads.queries * heads.width, heads.keys * heads.width, heads.width);
    let key_at = head / (heads.queries / heads.keys) * width;
    let scale = 1.0 / (width as f32).sqrt();
    let seen = sight.clean + if sight.own { sight.rows } else { 0 };
    p.resize(sight.rows * seen, 0.0);
    let q = View::strided(&half.q[sight.from * q_stride + head * width..], sight.rows, width, q_stride);
    if sight.clean > 0 {
        let k = View::strided(&clean.k[key_at..], sight.clean, width, k_stride);
        heads.precision.matmul(p, seen, q, k.transposed(), scale, Write::Replace);
    }
    if sight.own {
        let k = View::strided(&half.k[sight.from * k_stride + key_at..], sight.rows, width, k_stride);
        heads.precision.matmul(&mut p[sight.clean..], seen, q, k.transposed(), scale, Write::Replace);
    }
    for row in p.chunks_exact_mut(seen) {
        softmax(row);
    }
}

fn weigh_values(
    heads: Heads,
    head: usize,
    sight: &Sight,
    half: Half,
    clean: Half,
    p: &[f32],
    out: &mut [f32],
) {
    let (q_stride, k_stride, width) = (heads.queries * heads.width, heads.keys * heads.width, heads.width);
    let key_at = head / (heads.queries / heads.keys) * width;
    let seen = sight.clean + if sight.own { sight.rows } else { 0 };
    let out = &mut out[sight.from * q_stride + head * width..];
    let probability = View::new(p, sight.rows, seen);
    if sight.clean > 0 {
        let v = View::strided(&clean.v[key_at..], sight.clean, width, k_stride);
        heads.precision.matmul(
            out,
            q_stride,
            View { columns: sight.clean, ..probability },
            v,
            1.0,
            Write::Replace,
        );
    }
    if sight.own {
        let v = View::strided(&half.v[sight.from * k_stride + key_at..], sight.rows, width, k_stride);
        let own = View { data: &p[sight.clean..], columns: sight.rows, ..probability };
        heads.precision.matmul(
            out,
            q_stride,
            own,
            v,
            1.0,
            if sight.clean > 0 { Write::Add } else { Write::Replace },
        );
    }
}

multiversion! {
    fn softmax_backward(dp: &mut [f32], p: &[f32], along: f32, scale: f32) {
        for (d, p) in dp.iter_mut().zip(p) {
            *d = p * (*d - along) * scale;
        }
    }
}
