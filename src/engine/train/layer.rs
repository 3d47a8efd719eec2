//! One layer's activations, and its attention half: projection, QK norm, rotation, documents side by side.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::model::llada2::Llada2Config;
use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::norm::rms_norm;
use crate::engine::ops::norm::rms_norm_backward;
use crate::engine::ops::rope::Rope;
use crate::engine::ops::rope::Turn;
use crate::engine::train::attention;
use crate::engine::train::attention::Half;
use crate::engine::train::attention::HalfGradient;
use crate::engine::train::attention::Heads;
use crate::engine::train::batch::Batch;
use crate::engine::train::experts;
use crate::engine::train::layout::LayerLayout;

/// What the backward pass needs of one layer; n rows, of which the last layer computes half.
#[derive(Debug, Default)]
pub(super) struct Activations {
    /// `[n, hidden]` input of the layer.
    pub(super) x: Vec<f32>,
    /// `[n, hidden]` after the input norm.
    pub(super) normed: Vec<f32>,
    /// `[n, (heads + 2·kv_heads)·head_dim]` before the QK norm.
    pub(super) qkv: Vec<f32>,
    /// `[n, heads·head_dim]` queries, normed and turned.
    pub(super) q: Vec<f32>,
    /// `[n, kv_heads·head_dim]` keys, normed and turned.
    pub(super) k: Vec<f32>,
    /// `[n, kv_heads·head_dim]` values.
    pub(super) v: Vec<f32>,
    /// `[n, heads·head_dim]` attention output.
    pub(super) attended: Vec<f32>,
    /// `[n, hidden]` after attention.
    pub(super) middle: Vec<f32>,
    /// `[n, hidden]` after the second norm.
    pub(super) post: Vec<f32>,
    pub(super) saved: experts::Saved,
}

impl Activations {
    /// Returns how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        let Activations { x, normed, qkv, q, k, v, attended, middle, post, saved } = self;
        let rows = [x, normed, qkv, q, k, v, attended, middle, post];
        rows.iter().map(|rows| 4 * rows.capacity()).sum::<usize>() + saved.bytes()
    }
}

/// Projects rows to queries, keys and values; rows from `rows` on to keys and values only.
pub(super) fn project(
    config: &Llada2Config,
    precision: Precision,
    weight: &[f32],
    at: &mut Activations,
    rows: usize,
) {
    let (hidden, width) = (config.hidden_size, config.qkv_width());
    let queries = config.num_attention_heads * config.head_dim;
    let all = at.normed.len() / hidden;
    resize(&mut at.qkv, rows * width + (all - rows) * (width - queries));
    let (with_queries, without) = at.qkv.split_at_mut(rows * width);
    precision.parallel_linear(with_queries, &at.normed[..rows * hidden], weight, hidden, width);
    if all > rows {
        precision.parallel_linear(
            without,
            &at.normed[rows * hidden..],
            &weight[queries * hidden..],
            hidden,
            width - queries,
        );
    }
}

#[allow(clippy::too_many_arguments)]
pub(super) fn project_backward(
    config: &Llada2Config,
    precision: Precision,
    layer: &LayerLayout,
    parameters: &[f32],
    gradients: &mut [f32],
    at: &Activations,
    rows: usize,
    dqkv: &[f32],
    dn: &mut [f32],
) {
    let (hidden, width) = (config.hidden_size, config.qkv_width());
    let queries = config.num_attention_heads * config.head_dim;
    let (weight, gradient) = (&parameters[layer.qkv.clone()], &mut gradients[layer.qkv.clone()]);
    let (with_queries, without) = dqkv.split_at(rows * width);
    let (dn_with, dn_without) = dn.split_at_mut(rows * hidden);
    let (n_with, n_without) = at.normed.split_at(rows * hidden);
    precision.parallel_linear_weight_gradient(gradient, with_queries, n_with, hidden, width);
    precision.parallel_linear_input_gradient(dn_with, with_queries, weight, hidden, width, Write::Replace);
    if !without.is_empty() {
        let rest = width - queries;
        precision.parallel_linear_weight_gradient(
            &mut gradient[queries * hidden..],
            without,
            n_without,
            hidden,
            rest,
        );
        precision.parallel_linear_input_gradient(
            dn_without,
            without,
            &weight[queries * hidden..],
            hidden,
            rest,
            Write::Replace,
        );
    }
}

/// Where the heads of one row are in `qkv`: the query part (empty from `rows` on), keys, values.
fn parts(config: &Llada2Config, row: usize, rows: usize) -> (Range<usize>, Range<usize>, Range<usize>) {
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let width = config.qkv_width();
    if row < rows {
        let start = row * width;
        (
            start..start + queries,
            start + queries..start + queries + keys,
            start + queries + keys..start + width,
        )
    } else {
        let start = rows * width + (row - rows) * 2 * keys;
        (start..start, start..start + keys, start + keys..start + 2 * keys)
    }
}

/// Returns the position of every row of a batch.
fn positions(batch: &Batch) -> Vec<usize> {
    let once = batch.documents.iter().flat_map(|d| 0..d.len());
    once.clone().chain(once).collect()
}

/// Fills `q`, `k` and `v` from `qkv`: norm of each head, then rotation.
pub(super) fn turn_heads(
    config: &Llada2Config,
    rope: &Rope,
    query_norm: &[f32],
    key_norm: &[f32],
    batch: &Batch,
    at: &mut Activations,
    rows: usize,
) {
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let positions = positions(batch);
    resize(&mut at.q, rows * queries);
    resize(&mut at.k, positions.len() * keys);
    resize(&mut at.v, positions.len() * keys);
    let turn = |out: &mut [f32], raw: &[f32], norm: &[f32], position: usize| {
        rms_norm(out, raw, norm, config.rms_norm_eps);
        for head in out.chunks_exact_mut(config.head_dim) {
            rope.turn(head, position, Turn::Forward);
        }
    };
    let qkv = &at.qkv;
    at.q.par_chunks_mut(queries).enumerate().with_min_len(64).for_each(|(row, q)| {
        turn(q, &qkv[parts(config, row, rows).0], query_norm, positions[row]);
    });
    at.k.par_chunks_mut(keys).zip(at.v.par_chunks_mut(keys)).enumerate().with_min_len(64).for_each(
        |(row, (k, v))| {
            let (_, key, value) = parts(config, row, rows);
            turn(k, &qkv[key], key_norm, positions[row]);
            v.copy_from_slice(&qkv[value]);
        },
    );
}

/// Takes the gradients in `dqkv` from turned heads back to raw ones.
#[allow(clippy::too_many_arguments)]
pub(super) fn turn_heads_back(
    config: &Llada2Config,
    rope: &Rope,
    parameters: &[f32],
    gradients: &mut [f32],
    layer: &LayerLayout,
    batch: &Batch,
    at: &Activations,
    rows: usize,
    dqkv: &mut [f32],
) {
    let positions = positions(batch);
    let mut raw = Vec::new();
    for (row, position) in positions.iter().enumerate() {
        let (query, key, _) = parts(config, row, rows);
        for (range, norm) in [(query, &layer.query_norm), (key, &layer.key_norm)] {
            if range.is_empty() {
                continue;
            }
            let d = &mut dqkv[range.clone()];
            for head in d.chunks_exact_mut(config.head_dim) {
                rope.turn(head, *position, Turn::Back);
            }
            raw.clear();
            raw.resize(d.len(), 0.0);
            let weight = &parameters[norm.clone()];
            let dweight = &mut gradients[norm.clone()];
            rms_norm_backward(&mut raw, dweight, d, &at.qkv[range], weight, config.rms_norm_eps);
            d.copy_from_slice(&raw);
        }
    }
}

/// Cuts arrays of rows into one part for each document, noised and clean; `empty` where a half is not there.
pub(super) fn attend(heads: Heads, batch: &Batch, at: &mut Activations, rows: usize) {
    let tokens = batch.clean.len();
    let width = heads.queries * heads.width;
    let Activations { q, k, v, attended, .. } = at;
    let (mut noised_out, mut clean_out) = attended.split_at_mut(tokens * width);
    let has_clean = rows > tokens;
    let mut work = Vec::new();
    for document in &batch.documents {
        let (noised, rest) = noised_out.split_at_mut(document.len() * width);
        noised_out = rest;
        let (clean, rest) = clean_out.split_at_mut(if has_clean { document.len() * width } else { 0 });
        clean_out = rest;
        work.push((document.clone(), noised, clean));
    }
    work.into_par_iter().for_each(|(document, noised_out, clean_out)| {
        let (noised, clean) = halves(heads, tokens, has_clean, &document, q, k, v);
        attention::forward(heads, noised, clean, noised_out, clean_out);
    });
}

/// Returns the noised and the clean half of one document.
fn halves<'a>(
    heads: Heads,
    tokens: usize,
    has_clean: bool,
    document: &Range<usize>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
) -> (Half<'a>, Half<'a>) {
    let (qw, kw) = (heads.queries * heads.width, heads.keys * heads.width);
    let (a, b) = (document.start, document.end);
    let (c, d) = (tokens + a, tokens + b);
    let noised = Half { q: &q[a * qw..b * qw], k: &k[a * kw..b * kw], v: &v[a * kw..b * kw] };
    let clean_q = if has_clean { &q[c * qw..d * qw] } else { &[] };
    (noised, Half { q: clean_q, k: &k[c * kw..d * kw], v: &v[c * kw..d * kw] })
}

/// Returns the gradient of `qkv`, still of turned heads.
pub(super) fn attend_backward(
    config: &Llada2Config,
    heads: Heads,
    batch: &Batch,
    at: &Activations,
    rows: usize,
    dattended: &[f32],
) -> Vec<f32> {
    let tokens = batch.clean.len();
    let has_clean = rows > tokens;
    let (qw, kw) = (heads.queries * heads.width, heads.keys * heads.width);
    let parts_of: Vec<_> = batch
        .documents
        .par_iter()
        .map(|document| {
            let n = document.len();
            let clean_rows = if has_clean { n } else { 0 };
            let (noised, clean) = halves(heads, tokens, has_clean, document, &at.q, &at.k, &at.v);
            let mut d = [vec![0.0; n * qw], vec![0.0; n * kw], vec![0.0; n * kw]];
            let mut dc = [vec![0.0; clean_rows * qw], vec![0.0; n * kw], vec![0.0; n * kw]];
            let start = tokens + document.start;
            let a = document.start * qw..document.end * qw;
            let b = if has_clean { start * qw..(start + n) * qw } else { 0..0 };
            let [dq, dk, dv] = &mut d;
            let [cdq, cdk, cdv] = &mut dc;
            attention::backward(
                heads,
                noised,
                clean,
                [&at.attended[a.clone()], &at.attended[b.clone()]],
                [&dattended[a], &dattended[b]],
                HalfGradient { dq, dk, dv },
                HalfGradient { dq: cdq, dk: cdk, dv: cdv },
            );
            (d, dc)
        })
        .collect();
    let mut dqkv = vec![0.0; at.qkv.len()];
    for (document, (d, dc)) in batch.documents.iter().zip(&parts_of) {
        for (half, [dq, dk, dv]) in [d, dc].into_iter().enumerate() {
            for i in 0..document.len() {
                let (query, key, value) = parts(config, half * tokens + document.start + i, rows);
                if !query.is_empty() {
                    dqkv[query].copy_from_slice(&dq[i * qw..(i + 1) * qw]);
                }
                dqkv[key].copy_from_slice(&dk[i * kw..(i + 1) * kw]);
                dqkv[value].copy_from_slice(&dv[i * kw..(i + 1) * kw]);
            }
        }
    }
    dqkv
}

pub(super) fn heads(config: &Llada2Config, precision: Precision) -> Heads {
    Heads {
        queries: config.num_attention_heads,
        keys: config.num_key_value_heads,
        width: config.head_dim,
        block: config.block_length(),
        precision,
    }
}

pub(super) fn resize(data: &mut Vec<f32>, len: usize) {
    data.resize(len, 0.0);
}
