//! The training form of LLaDA2: one pass over `[noised ‖ clean]`, forward and backward by hand.
//!
//! Activations live in plain vectors that are reused from step to step. The clean half exists to
//! give keys and values to the noised one, so in the last layer it has no queries and no experts.
//! Every gradient is checked against finite differences in the tests.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::config::ModelConfig;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::matmul::parallel_linear;
use crate::engine::ops::matmul::parallel_linear_input_gradient;
use crate::engine::ops::matmul::parallel_linear_weight_gradient;
use crate::engine::ops::norm::rms_norm;
use crate::engine::ops::norm::rms_norm_backward;
use crate::engine::ops::rope::Rope;
use crate::engine::ops::rope::Turn;
use crate::engine::ops::route::Routing;
use crate::engine::train::attention;
use crate::engine::train::attention::Half;
use crate::engine::train::attention::HalfGradient;
use crate::engine::train::attention::Heads;
use crate::engine::train::experts;
use crate::engine::train::experts::Shape;
use crate::engine::train::experts::Weights;
use crate::engine::train::layout::LayerLayout;
use crate::engine::train::layout::Layout;
use crate::engine::train::loss;
use crate::engine::train::loss::Loss;
use crate::engine::train::loss::LossGradient;
use crate::engine::train::loss::Target;

/// Documents of whole blocks, one behind the other, noised and clean.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The tokens with masks, `[tokens]`.
    pub noised: Vec<u32>,
    /// The tokens as they are, `[tokens]`.
    pub clean: Vec<u32>,
    /// Where each document lies; lengths are multiples of the block.
    pub documents: Vec<Range<usize>>,
    /// What the masked rows must predict.
    pub targets: Vec<Target>,
}

/// The model being trained.
#[derive(Debug)]
pub struct Network {
    /// The shapes.
    pub config: ModelConfig,
    /// Where every parameter lies.
    pub layout: Layout,
    /// All parameters, as `layout` says.
    pub parameters: Vec<f32>,
    /// The gradient of every parameter.
    pub gradients: Vec<f32>,
    /// For each layer, what is added to the routing scores when experts are chosen.
    pub expert_bias: Vec<Vec<f32>>,
    /// For each layer, how many rows each expert took since [`Network::take_load`].
    load: Vec<Vec<usize>>,
    rope: Rope,
    layers: Vec<Activations>,
    last: Vec<f32>,
    normed: Vec<f32>,
}

/// What the backward pass needs of one layer; n rows, of which the last layer computes half.
#[derive(Debug, Default)]
struct Activations {
    /// `[n, hidden]` input of the layer.
    x: Vec<f32>,
    /// `[n, hidden]` after the input norm.
    normed: Vec<f32>,
    /// `[n, (heads + 2·kv_heads)·head_dim]` before the QK norm.
    qkv: Vec<f32>,
    /// `[n, heads·head_dim]` queries, normed and turned.
    q: Vec<f32>,
    /// `[n, kv_heads·head_dim]` keys, normed and turned.
    k: Vec<f32>,
    /// `[n, kv_heads·head_dim]` values.
    v: Vec<f32>,
    /// `[n, heads·head_dim]` attention output.
    attended: Vec<f32>,
    /// `[n, hidden]` after attention.
    middle: Vec<f32>,
    /// `[n, hidden]` after the second norm.
    post: Vec<f32>,
    saved: experts::Saved,
}

impl Network {
    /// Makes a network with the given parameters.
    ///
    /// # Errors
    /// When the trainer does not know the configuration's form.
    pub fn new(
        config: ModelConfig,
        parameters: Vec<f32>,
        expert_bias: Vec<Vec<f32>>,
    ) -> Result<Network, String> {
        let layout = Layout::new(&config)?;
        if parameters.len() != layout.len {
            return Err(format!("{} parameters given, {} wanted", parameters.len(), layout.len));
        }
        Ok(Network {
            rope: Rope::new(config.rotary_dim(), config.rope_theta),
            gradients: vec![0.0; layout.len],
            load: vec![vec![0; config.num_experts]; config.num_hidden_layers],
            layers: (0..config.num_hidden_layers).map(|_| Activations::default()).collect(),
            last: Vec::new(),
            normed: Vec::new(),
            config,
            layout,
            parameters,
            expert_bias,
        })
    }

    /// Returns, for each layer, how many rows each expert took, and starts counting again.
    pub fn take_load(&mut self) -> Vec<Vec<usize>> {
        let fresh = vec![vec![0; self.config.num_experts]; self.config.num_hidden_layers];
        std::mem::replace(&mut self.load, fresh)
    }

    /// Returns the loss of a batch without touching gradients.
    pub fn evaluate(&mut self, batch: &Batch) -> Loss {
        self.forward(batch);
        let head = &self.parameters[self.layout.embeddings.clone()];
        loss::cross_entropy(&self.normed, head, self.config.hidden_size, &batch.targets, None)
    }

    /// Returns the loss of a batch and adds `scale` times its gradient to `gradients`.
    pub fn accumulate(&mut self, batch: &Batch, scale: f32) -> Loss {
        self.forward(batch);
        let hidden = self.config.hidden_size;
        let mut dnormed = vec![0.0; self.normed.len()];
        let head = self.layout.embeddings.clone();
        let gradient = LossGradient { rows: &mut dnormed, head: &mut self.gradients[head.clone()], scale };
        let loss =
            loss::cross_entropy(&self.normed, &self.parameters[head], hidden, &batch.targets, Some(gradient));
        self.backward(batch, &dnormed);
        loss
    }

    fn forward(&mut self, batch: &Batch) {
        let tokens = batch.clean.len();
        let hidden = self.config.hidden_size;
        let eps = self.config.rms_norm_eps;
        let shape = shape(&self.config);
        let heads = heads(&self.config);
        self.rope.reserve(batch.documents.iter().map(ExactSizeIterator::len).max().unwrap_or(0));
        let embeddings = &self.parameters[self.layout.embeddings.clone()];
        let mut x = vec![0.0; 2 * tokens * hidden];
        for (row, id) in x.chunks_exact_mut(hidden).zip(batch.noised.iter().chain(&batch.clean)) {
            row.copy_from_slice(&embeddings[*id as usize * hidden..(*id as usize + 1) * hidden]);
        }
        let count = self.layers.len();
        for (i, (layer, at)) in self.layout.layers.iter().zip(&mut self.layers).enumerate() {
            let rows = if i + 1 == count { tokens } else { 2 * tokens };
            let w = |range: &Range<usize>| &self.parameters[range.clone()];
            resize(&mut at.normed, x.len());
            at.x = x;
            parallel_norm(&mut at.normed, &at.x, w(&layer.input_norm), eps);
            project(&self.config, w(&layer.qkv), at, rows);
            turn_heads(&self.config, &self.rope, w(&layer.query_norm), w(&layer.key_norm), batch, at, rows);
            resize(&mut at.attended, rows * heads.queries * heads.width);
            attend(heads, batch, at, rows);
            resize(&mut at.middle, rows * hidden);
            parallel_linear(
                &mut at.middle,
                &at.attended,
                w(&layer.dense),
                heads.queries * heads.width,
                hidden,
            );
            add(&mut at.middle, &at.x);
            resize(&mut at.post, rows * hidden);
            parallel_norm(&mut at.post, &at.middle, w(&layer.post_norm), eps);
            x = vec![0.0; rows * hidden];
            let weights = sparse(&self.parameters, layer);
            experts::forward(shape, &weights, &self.expert_bias[i], &at.post, &mut x, &mut at.saved);
            add(&mut x, &at.middle);
            for (sum, rows) in self.load[i].iter_mut().zip(at.saved.load()) {
                *sum += rows;
            }
        }
        resize(&mut self.normed, x.len());
        parallel_norm(&mut self.normed, &x, &self.parameters[self.layout.norm.clone()], eps);
        self.last = x;
    }

    fn backward(&mut self, batch: &Batch, dnormed: &[f32]) {
        let tokens = batch.clean.len();
        let hidden = self.config.hidden_size;
        let eps = self.config.rms_norm_eps;
        let shape = shape(&self.config);
        let heads = heads(&self.config);
        let parameters = &self.parameters;
        let mut dx = vec![0.0; tokens * hidden];
        let norm = self.layout.norm.clone();
        rms_norm_backward(
            &mut dx,
            &mut self.gradients[norm.clone()],
            dnormed,
            &self.last,
            &parameters[norm],
            eps,
        );
        let count = self.layers.len();
        for (i, (layer, at)) in self.layout.layers.iter().zip(&mut self.layers).enumerate().rev() {
            let rows = if i + 1 == count { tokens } else { 2 * tokens };
            let gradients = &mut self.gradients;
            // Through the experts.
            let mut dpost = vec![0.0; rows * hidden];
            let weights = sparse(parameters, layer);
            let mut dweights = sparse_mut(gradients, layer);
            experts::backward(shape, &weights, &at.post, &dx, &mut at.saved, &mut dweights, &mut dpost);
            let range = layer.post_norm.clone();
            rms_norm_backward(
                &mut dx,
                &mut gradients[range.clone()],
                &dpost,
                &at.middle,
                &parameters[range],
                eps,
            );
            // Through attention; dx is now the gradient of the middle.
            let width = heads.queries * heads.width;
            let mut dattended = vec![0.0; rows * width];
            let range = layer.dense.clone();
            parallel_linear_weight_gradient(&mut gradients[range.clone()], &dx, &at.attended, width, hidden);
            parallel_linear_input_gradient(
                &mut dattended,
                &dx,
                &parameters[range],
                width,
                hidden,
                Write::Replace,
            );
            let mut dqkv = attend_backward(&self.config, heads, batch, at, rows, &dattended);
            turn_heads_back(
                &self.config,
                &self.rope,
                parameters,
                gradients,
                layer,
                batch,
                at,
                rows,
                &mut dqkv,
            );
            dx.resize(2 * tokens * hidden, 0.0);
            let mut dn = vec![0.0; 2 * tokens * hidden];
            project_backward(&self.config, layer, parameters, gradients, at, rows, &dqkv, &mut dn);
            let range = layer.input_norm.clone();
            rms_norm_backward(&mut dx, &mut gradients[range.clone()], &dn, &at.x, &parameters[range], eps);
        }
        let embeddings = &mut self.gradients[self.layout.embeddings.clone()];
        for (row, id) in dx.chunks_exact(hidden).zip(batch.noised.iter().chain(&batch.clean)) {
            let target = &mut embeddings[*id as usize * hidden..(*id as usize + 1) * hidden];
            target.iter_mut().zip(row).for_each(|(t, d)| *t += d);
        }
    }
}

/// Projects rows to queries, keys and values; rows from `rows` on to keys and values only.
fn project(config: &ModelConfig, weight: &[f32], at: &mut Activations, rows: usize) {
    let (hidden, width) = (config.hidden_size, config.qkv_width());
    let queries = config.num_attention_heads * config.head_dim;
    let all = at.normed.len() / hidden;
    resize(&mut at.qkv, rows * width + (all - rows) * (width - queries));
    let (with_queries, without) = at.qkv.split_at_mut(rows * width);
    parallel_linear(with_queries, &at.normed[..rows * hidden], weight, hidden, width);
    if all > rows {
        parallel_linear(
            without,
            &at.normed[rows * hidden..],
            &weight[queries * hidden..],
            hidden,
            width - queries,
        );
    }
}

#[allow(clippy::too_many_arguments)]
fn project_backward(
    config: &ModelConfig,
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
    parallel_linear_weight_gradient(gradient, with_queries, n_with, hidden, width);
    parallel_linear_input_gradient(dn_with, with_queries, weight, hidden, width, Write::Replace);
    if !without.is_empty() {
        let rest = width - queries;
        parallel_linear_weight_gradient(&mut gradient[queries * hidden..], without, n_without, hidden, rest);
        parallel_linear_input_gradient(
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
fn parts(config: &ModelConfig, row: usize, rows: usize) -> (Range<usize>, Range<usize>, Range<usize>) {
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
fn turn_heads(
    config: &ModelConfig,
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
fn turn_heads_back(
    config: &ModelConfig,
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
fn attend(heads: Heads, batch: &Batch, at: &mut Activations, rows: usize) {
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
fn attend_backward(
    config: &ModelConfig,
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

fn shape(config: &ModelConfig) -> Shape {
    Shape {
        hidden: config.hidden_size,
        experts: config.num_experts,
        width: config.moe_intermediate_size,
        shared: config.shared_width(),
        routing: Routing {
            chosen: config.num_experts_per_tok,
            groups: 1,
            kept_groups: 1,
            scale: config.routed_scaling_factor,
        },
    }
}

fn heads(config: &ModelConfig) -> Heads {
    Heads {
        queries: config.num_attention_heads,
        keys: config.num_key_value_heads,
        width: config.head_dim,
        block: config.block_length(),
    }
}

fn sparse<'a>(parameters: &'a [f32], layer: &LayerLayout) -> Weights<&'a [f32]> {
    Weights {
        gate: &parameters[layer.gate.clone()],
        expert_gate_up: &parameters[layer.expert_gate_up.clone()],
        expert_down: &parameters[layer.expert_down.clone()],
        shared_gate_up: &parameters[layer.shared_gate_up.clone()],
        shared_down: &parameters[layer.shared_down.clone()],
    }
}

/// The same, mutable: the ranges follow one another in the flat array.
fn sparse_mut<'a>(gradients: &'a mut [f32], layer: &LayerLayout) -> Weights<&'a mut [f32]> {
    let (gate, rest) = gradients[layer.gate.start..layer.shared_down.end].split_at_mut(layer.gate.len());
    let (expert_gate_up, rest) = rest.split_at_mut(layer.expert_gate_up.len());
    let (expert_down, rest) = rest.split_at_mut(layer.expert_down.len());
    let (shared_gate_up, shared_down) = rest.split_at_mut(layer.shared_gate_up.len());
    Weights { gate, expert_gate_up, expert_down, shared_gate_up, shared_down }
}

fn parallel_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let rows = (x.len() / weight.len()).div_ceil(rayon::current_num_threads()).max(1);
    y.par_chunks_mut(rows * weight.len())
        .zip(x.par_chunks(rows * weight.len()))
        .for_each(|(y, x)| rms_norm(y, x, weight, eps));
}

/// Adds the first `y.len()` numbers of `x` to `y`.
fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

fn resize(data: &mut Vec<f32>, len: usize) {
    data.resize(len, 0.0);
}

#[cfg(test)]
mod tests;
