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
use crate::engine::train::batch::Sight;
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
    match batch.sight {
        Sight::Paired => once.clone().chain(once).collect(),
        Sight::Single(_) => once.collect(),
    }
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
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let (query_norm, key_norm) = (&parameters[layer.query_norm.clone()], &parameters[layer.key_norm.clone()]);
    let back = |d: &mut [f32], raw: &[f32], position: usize, norm: &[f32], dnorm: &mut [f32]| {
        for head in d.chunks_exact_mut(config.head_dim) {
            rope.turn(head, position, Turn::Back);
        }
        let turned = d.to_vec();
        d.fill(0.0);
        rms_norm_backward(d, dnorm, &turned, raw, norm, config.rms_norm_eps);
    };
    // Rows with queries, then rows without; each a part for every thread.
    let (with, without) = dqkv.split_at_mut(rows * config.qkv_width());
    let (raw_with, raw_without) = at.qkv.split_at(with.len());
    let (positions_with, positions_without) = positions.split_at(rows);
    let parts = [
        (with, raw_with, positions_with, config.qkv_width(), queries),
        (without, raw_without, positions_without, 2 * keys, 0),
    ];
    for (d, raw, positions, width, queries) in parts {
        let count = positions.len().div_ceil(rayon::current_num_threads()).max(1);
        let pieces = d.par_chunks_mut(count * width).zip(raw.par_chunks(count * width));
        let norms: Vec<[Vec<f32>; 2]> = pieces
            .zip(positions.par_chunks(count))
            .map(|((d, raw), positions)| {
                let [mut dquery, mut dkey] = [vec![0.0; config.head_dim], vec![0.0; config.head_dim]];
                let of_rows = d.chunks_exact_mut(width).zip(raw.chunks_exact(width)).zip(positions);
                for ((d, raw), position) in of_rows {
                    let (dq, rest) = d.split_at_mut(queries);
                    back(dq, &raw[..queries], *position, query_norm, &mut dquery);
                    let key = &raw[queries..queries + keys];
                    back(&mut rest[..keys], key, *position, key_norm, &mut dkey);
                }
                [dquery, dkey]
            })
            .collect();
        for [dquery, dkey] in norms {
            add(&mut gradients[layer.query_norm.clone()], &dquery);
            add(&mut gradients[layer.key_norm.clone()], &dkey);
        }
    }
}

/// [`rms_norm_backward`], rows split over the threads.
pub(super) fn norm_backward(
    dx: &mut [f32],
    dweight: &mut [f32],
    dy: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
) {
    let width = weight.len();
    let count = (dy.len() / width).div_ceil(rayon::current_num_threads()).max(1) * width;
    let pieces = dx.par_chunks_mut(count).zip(dy.par_chunks(count)).zip(x.par_chunks(count));
    let parts: Vec<Vec<f32>> = pieces
        .map(|((dx, dy), x)| {
            let mut dweight = vec![0.0; width];
            rms_norm_backward(dx, &mut dweight, dy, x, weight, eps);
            dweight
        })
        .collect();
    parts.iter().for_each(|part| add(dweight, part));
}

/// Adds the first `y.len()` numbers of `x` to `y`.
pub(super) fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

/// Writes the attention output of every document; clean rows have none in the last layer.
pub(super) fn attend(heads: Heads, batch: &Batch, at: &mut Activations, rows: usize) {
    let tokens = batch.noised.len();
    let width = heads.queries * heads.width;
    let Activations { q, k, v, attended, .. } = at;
    let (mut first_out, mut second_out) = attended.split_at_mut(tokens * width);
    let mut work = Vec::new();
    for document in &batch.documents {
        let (first, rest) = first_out.split_at_mut(document.len() * width);
        first_out = rest;
        let (second, rest) = second_out.split_at_mut(if rows > tokens { document.len() * width } else { 0 });
        second_out = rest;
        work.push((document.clone(), first, second));
    }
    work.into_par_iter().for_each(|(document, first_out, second_out)| {
        let streams = streams(batch, rows, &document);
        let (noised, clean) = halves(heads, &streams, q, k, v);
        match batch.sight {
            Sight::Paired => attention::forward(heads, noised, clean, first_out, second_out),
            Sight::Single(_) => attention::forward(heads, noised, clean, second_out, first_out),
        }
    });
}

/// The rows of one document: those that see the clean stream beside their own block, and the clean
/// stream itself. Where there is one stream it is the clean one.
struct Streams {
    noised: Range<usize>,
    clean: Range<usize>,
    /// Whether somebody needs the clean stream's output.
    has_clean_queries: bool,
}

fn streams(batch: &Batch, rows: usize, document: &Range<usize>) -> Streams {
    let tokens = batch.noised.len();
    match batch.sight {
        Sight::Paired => Streams {
            noised: document.clone(),
            clean: tokens + document.start..tokens + document.end,
            has_clean_queries: rows > tokens,
        },
        Sight::Single(_) => Streams { noised: 0..0, clean: document.clone(), has_clean_queries: true },
    }
}

impl Streams {
    fn clean_queries(&self) -> Range<usize> {
        if self.has_clean_queries { self.clean.clone() } else { 0..0 }
    }
}

/// Returns rows of width `width`.
fn of_rows(rows: &Range<usize>, width: usize) -> Range<usize> {
    rows.start * width..rows.end * width
}

/// Returns the noised and the clean half of one document.
fn halves<'a>(
    heads: Heads,
    streams: &Streams,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
) -> (Half<'a>, Half<'a>) {
    let (qw, kw) = (heads.queries * heads.width, heads.keys * heads.width);
    let half = |queries: &Range<usize>, keys: &Range<usize>| Half {
        q: &q[of_rows(queries, qw)],
        k: &k[of_rows(keys, kw)],
        v: &v[of_rows(keys, kw)],
    };
    (half(&streams.noised, &streams.noised), half(&streams.clean_queries(), &streams.clean))
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
    let (qw, kw) = (heads.queries * heads.width, heads.keys * heads.width);
    let zeros = |queries: &Range<usize>, keys: &Range<usize>| {
        [vec![0.0; queries.len() * qw], vec![0.0; keys.len() * kw], vec![0.0; keys.len() * kw]]
    };
    let parts_of: Vec<_> = batch
        .documents
        .par_iter()
        .map(|document| {
            let streams = streams(batch, rows, document);
            let (noised, clean) = halves(heads, &streams, &at.q, &at.k, &at.v);
            let queries = streams.clean_queries();
            let mut d = zeros(&streams.noised, &streams.noised);
            let mut dc = zeros(&queries, &streams.clean);
            let (a, b) = (of_rows(&streams.noised, qw), of_rows(&queries, qw));
            let [dq, dk, dv] = &mut d;
            let [cdq, cdk, cdv] = &mut dc;
            attention::backward(
                heads,
                [noised, clean],
                [&at.attended[a.clone()], &at.attended[b.clone()]],
                [&dattended[a], &dattended[b]],
                [HalfGradient { dq, dk, dv }, HalfGradient { dq: cdq, dk: cdk, dv: cdv }],
            );
            [(streams.noised, d), (streams.clean, dc)]
        })
        .collect();
    let mut dqkv = vec![0.0; at.qkv.len()];
    for (range, [dq, dk, dv]) in parts_of.iter().flatten() {
        for (i, row) in range.clone().enumerate() {
            let (query, key, value) = parts(config, row, rows);
            if !query.is_empty() {
                dqkv[query].copy_from_slice(&dq[i * qw..(i + 1) * qw]);
            }
            dqkv[key].copy_from_slice(&dk[i * kw..(i + 1) * kw]);
            dqkv[value].copy_from_slice(&dv[i * kw..(i + 1) * kw]);
        }
    }
    dqkv
}

pub(super) fn heads(config: &Llada2Config, precision: Precision, sight: Sight) -> Heads {
    Heads {
        queries: config.num_attention_heads,
        keys: config.num_key_value_heads,
        width: config.head_dim,
        block: match sight {
            Sight::Paired => config.block_length(),
            Sight::Single(block) => block,
        },
        precision,
    }
}

pub(super) fn resize(data: &mut Vec<f32>, len: usize) {
    data.resize(len, 0.0);
}
