//! LLaDA2 (`llada2_moe`): block-causal attention, QK norm, partial rotation, sigmoid-routed experts.
//!
//! One forward pass takes chunks of several sequences, whole blocks each, and computes their rows
//! together. A row sees the cached positions before its block and its own block to the end.
//! Reference: the modeling file published with LLaDA2.0; proven by the fixtures in `tests`.

use rayon::prelude::*;

use crate::engine::config::ModelConfig;
use crate::engine::kv_cache::KvCache;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::linear::Rows;
use crate::engine::ops::exact;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::matmul::matmul;
use crate::engine::ops::norm::rms_norm;
use crate::engine::ops::rope::Rope;
use crate::engine::ops::rope::Turn;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::route;
use crate::engine::ops::softmax::softmax;
use crate::engine::ops::swiglu::swiglu;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;

/// The weights, ready to serve.
#[derive(Debug)]
pub struct Model {
    /// The shapes.
    pub config: ModelConfig,
    /// The precision of the linear layers.
    pub quant: Quant,
    /// `[vocabulary, hidden]` in bf16: it is only looked up.
    embeddings: Vec<half::bf16>,
    /// The same in full precision, when the model is kept so.
    exact_embeddings: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
}

#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    qkv: Linear,
    query_norm: Vec<f32>,
    key_norm: Vec<f32>,
    dense: Linear,
    post_norm: Vec<f32>,
    mlp: Mlp,
}

#[derive(Debug)]
enum Mlp {
    Dense(FeedForward),
    Sparse(Sparse),
}

#[derive(Debug)]
struct Sparse {
    /// `[experts, hidden]`, always in full precision.
    gate: Vec<f32>,
    bias: Vec<f32>,
    experts: Vec<FeedForward>,
    shared: Option<FeedForward>,
}

#[derive(Debug)]
struct FeedForward {
    /// Rows gate then up.
    gate_up: Linear,
    down: Linear,
    width: usize,
}

/// A row that an expert works on, and with which weight.
type Slot = (usize, f32);

/// Whole blocks of one sequence, to be computed in one pass.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// The position of the first, a multiple of the block length.
    pub start: usize,
    /// The block length.
    pub block: usize,
    /// Keys and values of the sequence; positions before `start` are there already.
    pub cache: &'a mut KvCache,
    /// Whether somebody wants this chunk's output, or only its keys and values.
    pub wants_output: bool,
}

/// The buffers of a forward pass, reused from pass to pass.
#[derive(Debug)]
pub struct Workspace {
    rope: Rope,
    x: Vec<f32>,
    normed: Vec<f32>,
    rows: Rows,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    added: Vec<f32>,
}

impl Workspace {
    /// Makes empty buffers for a model.
    pub fn new(config: &ModelConfig) -> Workspace {
        Workspace {
            rope: Rope::new(config.rotary_dim(), config.rope_theta),
            x: Vec::new(),
            normed: Vec::new(),
            rows: Rows::default(),
            qkv: Vec::new(),
            attended: Vec::new(),
            added: Vec::new(),
        }
    }
}

impl Model {
    /// Loads a checkpoint; `progress` is called with the share done.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(
        config: ModelConfig,
        weights: &Weights,
        quant: Quant,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Model, WeightsError> {
        let hidden = config.hidden_size;
        let table = weights.tensor("model.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let own_head = !config.tie_word_embeddings && weights.has("lm_head.weight");
        let head = if own_head {
            weights.tensor("lm_head.weight", &[config.vocab_size, hidden])?
        } else {
            table.clone()
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            layers.push(Layer::load(&config, weights, quant, i)?);
            progress(i + 1, config.num_hidden_layers);
        }
        let (embeddings, exact_embeddings) = match quant {
            Quant::F32 => (Vec::new(), table),
            Quant::Q8 => (table.into_iter().map(half::bf16::from_f32).collect(), Vec::new()),
        };
        Ok(Model {
            norm: weights.tensor("model.norm.weight", &[hidden])?,
            head: Linear::new(head, hidden, config.vocab_size, quant),
            embeddings,
            exact_embeddings,
            layers,
            quant,
            config,
        })
    }

    /// Returns how many bytes the weights take in memory.
    pub fn bytes(&self) -> usize {
        let feed_forward = |f: &FeedForward| f.gate_up.bytes() + f.down.bytes();
        let layer = |layer: &Layer| {
            let mlp = match &layer.mlp {
                Mlp::Dense(f) => feed_forward(f),
                Mlp::Sparse(sparse) => {
                    sparse.experts.iter().map(feed_forward).sum::<usize>()
                        + sparse.shared.as_ref().map_or(0, feed_forward)
                        + 4 * sparse.gate.len()
                }
            };
            mlp + layer.qkv.bytes() + layer.dense.bytes()
        };
        let tables = 2 * self.embeddings.len() + 4 * self.exact_embeddings.len() + self.head.bytes();
        self.layers.iter().map(layer).sum::<usize>() + tables
    }

    /// Computes all chunks together and fills their caches; returns the normed output rows of the
    /// chunks that want output, one behind the other, `[rows, hidden]`.
    ///
    /// # Panics
    /// When a cache is too small for its chunk: a bug of the scheduler.
    pub fn forward<'w>(&self, chunks: &mut [Chunk], work: &'w mut Workspace) -> &'w [f32] {
        let hidden = self.config.hidden_size;
        let end = chunks.iter().map(|c| c.start + c.tokens.len()).max().unwrap_or(0);
        work.rope.reserve(end);
        work.x.clear();
        for token in chunks.iter().flat_map(|c| c.tokens) {
            let at = *token as usize * hidden;
            match self.quant {
                Quant::F32 => work.x.extend_from_slice(&self.exact_embeddings[at..at + hidden]),
                Quant::Q8 => work.x.extend(self.embeddings[at..at + hidden].iter().map(|v| v.to_f32())),
            }
        }
        let with = Arithmetic::of(self.quant);
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            self.attend(layer, i, chunks, work);
            if i == last {
                keep_wanted(chunks, &mut work.x, hidden);
                keep_wanted(
                    chunks,
                    &mut work.attended,
                    self.config.num_attention_heads * self.config.head_dim,
                );
                if work.x.is_empty() {
                    break;
                }
            }
            let rows = work.x.len() / hidden;
            work.rows.set(self.quant, &work.attended, self.config.num_attention_heads * self.config.head_dim);
            resize(&mut work.added, rows * hidden);
            layer.dense.apply_parallel(&mut work.added, &work.rows);
            add(&mut work.x, &work.added);
            resize(&mut work.normed, rows * hidden);
            (with.rms_norm)(&mut work.normed, &work.x, &layer.post_norm, self.config.rms_norm_eps);
            work.rows.set(self.quant, &work.normed, hidden);
            match &layer.mlp {
                Mlp::Dense(dense) => dense.apply_parallel(self.quant, &mut work.added, &work.rows),
                Mlp::Sparse(sparse) => sparse.apply(&self.config, self.quant, work),
            }
            add(&mut work.x, &work.added);
        }
        resize(&mut work.normed, work.x.len());
        (with.rms_norm)(&mut work.normed, &work.x, &self.norm, self.config.rms_norm_eps);
        &work.normed
    }

    /// Writes the logits of output rows `x` `[rows, hidden]` to `logits` `[rows, vocabulary]`, on this thread.
    pub fn logits(&self, logits: &mut [f32], x: &[f32]) {
        let mut rows = Rows::default();
        rows.set(self.quant, x, self.config.hidden_size);
        self.head.apply(logits, &rows, 0);
    }

    fn attend(&self, layer: &Layer, index: usize, chunks: &mut [Chunk], work: &mut Workspace) {
        let config = &self.config;
        let (hidden, width, head_dim) = (config.hidden_size, config.qkv_width(), config.head_dim);
        let eps = config.rms_norm_eps;
        let rows = work.x.len() / hidden;
        resize(&mut work.normed, rows * hidden);
        let with = Arithmetic::of(self.quant);
        (with.rms_norm)(&mut work.normed, &work.x, &layer.input_norm, eps);
        work.rows.set(self.quant, &work.normed, hidden);
        resize(&mut work.qkv, rows * width);
        layer.qkv.apply_parallel(&mut work.qkv, &work.rows);
        let queries = config.num_attention_heads * head_dim;
        let keys = config.num_key_value_heads * head_dim;
        let mut raw = Vec::new();
        let mut rest = work.qkv.as_mut_slice();
        for chunk in chunks.iter_mut() {
            let (mine, others) = rest.split_at_mut(chunk.tokens.len() * width);
            rest = others;
            for (i, row) in mine.chunks_exact_mut(width).enumerate() {
                let position = chunk.start + i;
                let (query, rest) = row.split_at_mut(queries);
                for (heads, norm) in [(query, &layer.query_norm), (&mut rest[..keys], &layer.key_norm)] {
                    raw.clear();
                    raw.extend_from_slice(heads);
                    (with.rms_norm)(heads, &raw, norm, eps);
                }
                for head in row[..queries + keys].chunks_exact_mut(head_dim) {
                    work.rope.turn(head, position, Turn::Forward);
                }
                for head in 0..config.num_key_value_heads {
                    let key = &row[queries + head * head_dim..][..head_dim];
                    let value = &row[queries + keys + head * head_dim..][..head_dim];
                    chunk.cache.write(index, head, position, key, value);
                }
            }
        }
        resize(&mut work.attended, rows * queries);
        let mut pieces = Vec::new();
        let (mut qkv, mut attended) = (work.qkv.as_slice(), work.attended.as_mut_slice());
        let is_last = index + 1 == self.layers.len();
        for chunk in chunks.iter() {
            let end = chunk.start + chunk.tokens.len();
            for from in (chunk.start..end).step_by(chunk.block) {
                let rows = chunk.block.min(end - from);
                let (q, others) = qkv.split_at(rows * width);
                qkv = others;
                let (out, others) = attended.split_at_mut(rows * queries);
                attended = others;
                if chunk.wants_output || !is_last {
                    pieces.push((&*chunk.cache, from + rows, q, out));
                }
            }
        }
        pieces.into_par_iter().for_each(|(cache, end, q, out)| self.attend_block(index, cache, end, q, out));
    }

    /// Attention of one block's queries over the cache up to the block's end.
    fn attend_block(&self, layer: usize, cache: &KvCache, end: usize, q: &[f32], out: &mut [f32]) {
        let config = &self.config;
        let (width, head_dim) = (config.qkv_width(), config.head_dim);
        let rows = q.len() / width;
        let group = config.num_attention_heads / config.num_key_value_heads;
        let scale = 1.0 / (head_dim as f32).sqrt();
        let with = Arithmetic::of(self.quant);
        let mut scores = vec![0.0; rows * end];
        for head in 0..config.num_attention_heads {
            let keys = View::new(cache.keys(layer, head / group, end), end, head_dim);
            let values = View::new(cache.values(layer, head / group, end), end, head_dim);
            let queries = View::strided(&q[head * head_dim..], rows, head_dim, width);
            (with.matmul)(&mut scores, end, queries, keys.transposed(), scale, Write::Replace);
            for row in scores.chunks_exact_mut(end) {
                (with.softmax)(row);
            }
            let stride = config.num_attention_heads * head_dim;
            matmul(
                &mut out[head * head_dim..],
                stride,
                View::new(&scores, rows, end),
                values,
                1.0,
                Write::Replace,
            );
        }
    }
}

impl Layer {
    fn load(
        config: &ModelConfig,
        weights: &Weights,
        quant: Quant,
        index: usize,
    ) -> Result<Layer, WeightsError> {
        let hidden = config.hidden_size;
        let name = |rest: &str| format!("model.layers.{index}.{rest}");
        let linear = |rest: &str, input: usize, output: usize| {
            weights.tensor(&name(rest), &[output, input]).map(|w| Linear::new(w, input, output, quant))
        };
        let attention = config.num_attention_heads * config.head_dim;
        let feed_forward = |prefix: &str, width: usize| {
            let mut gate_up =
                weights.tensor(&name(&format!("{prefix}.gate_proj.weight")), &[width, hidden])?;
            gate_up.extend(weights.tensor(&name(&format!("{prefix}.up_proj.weight")), &[width, hidden])?);
            Ok::<_, WeightsError>(FeedForward {
                gate_up: Linear::new(gate_up, hidden, 2 * width, quant),
                down: linear(&format!("{prefix}.down_proj.weight"), width, hidden)?,
                width,
            })
        };
        let mlp = if index < config.first_k_dense_replace {
            Mlp::Dense(feed_forward("mlp", config.intermediate_size)?)
        } else {
            let experts: Result<_, WeightsError> = (0..config.num_experts)
                .map(|e| feed_forward(&format!("mlp.experts.{e}"), config.moe_intermediate_size))
                .collect();
            let bias = name("mlp.gate.expert_bias");
            Mlp::Sparse(Sparse {
                gate: weights.tensor(&name("mlp.gate.weight"), &[config.num_experts, hidden])?,
                bias: if weights.has(&bias) {
                    weights.tensor(&bias, &[config.num_experts])?
                } else {
                    vec![0.0; config.num_experts]
                },
                experts: experts?,
                shared: match config.shared_width() {
                    0 => None,
                    width => Some(feed_forward("mlp.shared_experts", width)?),
                },
            })
        };
        Ok(Layer {
            input_norm: weights.tensor(&name("input_layernorm.weight"), &[hidden])?,
            qkv: linear("attention.query_key_value.weight", hidden, config.qkv_width())?,
            query_norm: weights.tensor(&name("attention.query_layernorm.weight"), &[config.head_dim])?,
            key_norm: weights.tensor(&name("attention.key_layernorm.weight"), &[config.head_dim])?,
            dense: linear("attention.dense.weight", attention, hidden)?,
            post_norm: weights.tensor(&name("post_attention_layernorm.weight"), &[hidden])?,
            mlp,
        })
    }
}

impl FeedForward {
    /// Computes rows `from..` of `x` into `y`, on this thread.
    fn apply(&self, quant: Quant, y: &mut [f32], x: &Rows, from: usize) {
        let rows = y.len() / self.down.output();
        let mut gate_up = vec![0.0; rows * 2 * self.width];
        self.gate_up.apply(&mut gate_up, x, from);
        let mut activated = vec![0.0; rows * self.width];
        (Arithmetic::of(quant).swiglu)(&mut activated, &gate_up, self.width);
        let mut inner = Rows::default();
        inner.set(quant, &activated, self.width);
        self.down.apply(y, &inner, 0);
    }

    fn apply_parallel(&self, quant: Quant, y: &mut [f32], x: &Rows) {
        let rows = y.len() / self.down.output();
        let piece = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(8);
        y.par_chunks_mut(piece * self.down.output())
            .enumerate()
            .for_each(|(i, y)| self.apply(quant, y, x, i * piece));
    }
}

impl Sparse {
    /// Fills `work.added` from `work.normed` and the same rows in `work.rows`.
    fn apply(&self, config: &ModelConfig, quant: Quant, work: &mut Workspace) {
        let (hidden, experts, k) = (config.hidden_size, config.num_experts, config.num_experts_per_tok);
        let rows = work.normed.len() / hidden;
        let routing = Routing {
            chosen: k,
            groups: config.n_group,
            kept_groups: config.topk_group,
            scale: config.routed_scaling_factor,
        };
        let mut scores = vec![0.0; rows * experts];
        let normed = View::new(&work.normed, rows, hidden);
        matmul(
            &mut scores,
            experts,
            normed,
            View::new(&self.gate, experts, hidden).transposed(),
            1.0,
            Write::Replace,
        );
        let (mut chosen, mut weights) = (vec![0; rows * k], vec![0.0; rows * k]);
        for row in 0..rows {
            let scores = &mut scores[row * experts..(row + 1) * experts];
            scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp()));
            let range = row * k..(row + 1) * k;
            route(routing, scores, &self.bias, &mut chosen[range.clone()], &mut weights[range]);
        }
        // The slots of each expert: which row, with which weight.
        let mut slots: Vec<Vec<Slot>> = vec![Vec::new(); experts];
        for (i, (expert, weight)) in chosen.iter().zip(&weights).enumerate() {
            slots[*expert as usize].push((i / k, *weight));
        }
        match &self.shared {
            Some(shared) => shared.apply_parallel(quant, &mut work.added, &work.rows),
            None => work.added.fill(0.0),
        }
        let from = &work.rows;
        let outputs: Vec<(&[Slot], Vec<f32>)> = self
            .experts
            .par_iter()
            .zip(&slots)
            .filter(|(_, slots)| !slots.is_empty())
            .map(|(expert, slots)| {
                let mut mine = Rows::default();
                mine.gather(from, quant, slots.iter().map(|(row, _)| *row));
                let mut out = vec![0.0; slots.len() * hidden];
                expert.apply(quant, &mut out, &mine, 0);
                (slots.as_slice(), out)
            })
            .collect();
        // In the order of the experts, so that sums do not depend on the batch.
        for (slots, out) in &outputs {
            for ((row, weight), out) in slots.iter().zip(out.chunks_exact(hidden)) {
                let y = &mut work.added[row * hidden..(row + 1) * hidden];
                y.iter_mut().zip(out).for_each(|(y, o)| *y += weight * o);
            }
        }
    }
}

/// The operations in the precision of the model.
#[derive(Debug, Clone, Copy)]
struct Arithmetic {
    matmul: fn(&mut [f32], usize, View, View, f32, Write),
    rms_norm: fn(&mut [f32], &[f32], &[f32], f32),
    softmax: fn(&mut [f32]),
    swiglu: fn(&mut [f32], &[f32], usize),
}

impl Arithmetic {
    fn of(quant: Quant) -> Arithmetic {
        match quant {
            Quant::F32 => Arithmetic {
                matmul: exact::matmul,
                rms_norm: exact::rms_norm,
                softmax: exact::softmax,
                swiglu: exact::swiglu,
            },
            Quant::Q8 => Arithmetic { matmul, rms_norm, softmax, swiglu },
        }
    }
}

/// Drops the rows of chunks whose output nobody wants.
fn keep_wanted(chunks: &[Chunk], rows: &mut Vec<f32>, width: usize) {
    let (mut from, mut to) = (0, 0);
    for chunk in chunks {
        let len = chunk.tokens.len() * width;
        if chunk.wants_output {
            rows.copy_within(from..from + len, to);
            to += len;
        }
        from += len;
    }
    rows.truncate(to);
}

fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

fn resize(data: &mut Vec<f32>, len: usize) {
    data.resize(len, 0.0);
}
