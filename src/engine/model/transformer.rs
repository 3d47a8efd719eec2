//! The body of every family: embeddings, layers of attention and feed-forward, the head.
//!
//! One forward pass takes chunks of several sequences and computes their rows together. Keys and
//! values of a chunk are written to its sequence's cache, where all rows that see them read them.
//! References: the modelling files published with the checkpoints; proven by the fixtures in `tests`.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::kv_cache::KvCache;
use crate::engine::model::arithmetic::Arithmetic;
use crate::engine::model::feed_forward::Input;
use crate::engine::model::feed_forward::Mlp;
use crate::engine::model::head::Likeliest;
use crate::engine::model::head::likeliest;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::linear::Rows;
use crate::engine::model::loader::Loader;
use crate::engine::model::tuned::Adapter;
use crate::engine::ops::attention::Queries;
use crate::engine::ops::rope::Rope;
use crate::engine::ops::rope::Turn;
use crate::engine::pages::PageId;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;

/// Rows of full attention that one thread takes at a time.
const FULL_ATTENTION_ROWS: usize = 32;

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

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// `[hidden]`, before the attention.
    pub input_norm: Vec<f32>,
    /// Rows Q, K, V.
    pub qkv: Linear,
    /// `[head_dim]` for each head, `[heads·head_dim]` for a row, empty for none.
    pub query_norm: Vec<f32>,
    /// The same for keys.
    pub key_norm: Vec<f32>,
    /// The output of the attention.
    pub output: Linear,
    /// `[hidden]`, before the feed-forward part.
    pub post_norm: Vec<f32>,
    /// The feed-forward part.
    pub mlp: Mlp,
}

/// Which positions of its sequence a row sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Its own block of this length and all before it; a chunk holds whole blocks.
    Blocks(usize),
    /// All positions below this one.
    Below(usize),
}

/// Some positions of one sequence, to be computed in one pass.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// The position of the first.
    pub start: usize,
    /// Which positions each row sees.
    pub sight: Sight,
    /// Where the sequence's keys and values are; what the rows see beside themselves is there already.
    pub table: &'a [PageId],
    /// The positions whose output somebody wants; the others' keys and values are computed only.
    pub wanted: Range<usize>,
    /// Whose experts its rows run through; the base's when `None`.
    pub adapter: Option<&'a Adapter>,
}

/// The buffers of a forward pass, reused from pass to pass.
#[derive(Debug)]
pub struct Workspace {
    rope: Rope,
    x: Vec<f32>,
    normed: Vec<f32>,
    rows: Rows,
    qkv: Vec<f32>,
    /// The attention's output, of each piece of a chunk head by head.
    heads: Vec<f32>,
    attended: Vec<f32>,
    added: Vec<f32>,
    /// How many rows each block has.
    blocks: Vec<usize>,
    /// The bytes of weights that the last pass read, without the head's.
    pub touched_bytes: usize,
}

impl Workspace {
    /// Makes empty buffers for a model.
    pub fn new(config: &ModelConfig) -> Workspace {
        Workspace {
            rope: Rope::new(config.rotary_dim, config.rope_theta),
            x: Vec::new(),
            normed: Vec::new(),
            rows: Rows::default(),
            qkv: Vec::new(),
            heads: Vec::new(),
            attended: Vec::new(),
            added: Vec::new(),
            blocks: Vec::new(),
            touched_bytes: 0,
        }
    }
}

impl Chunk<'_> {
    fn positions(&self) -> Range<usize> {
        self.start..self.start + self.tokens.len()
    }

    /// Returns some of the chunk's positions in pieces, each with the end of what its rows see.
    fn pieces(&self, positions: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (step, sight) = match self.sight {
            Sight::Blocks(block) => (block, None),
            Sight::Below(end) => (FULL_ATTENTION_ROWS, Some(end)),
        };
        positions.clone().step_by(step).map(move |from| {
            let piece = from..(from + step).min(positions.end);
            (piece.clone(), sight.unwrap_or(piece.end))
        })
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
        let loader = Loader::new(&config, weights, quant);
        let hidden = config.hidden_size;
        let (head, norm) = (loader.head()?, loader.norm()?);
        let mut layers = Vec::with_capacity(config.layers.len());
        for i in 0..config.layers.len() {
            layers.push(loader.layer(i)?);
            progress(i + 1, config.layers.len());
        }
        let (mut embeddings, mut exact_embeddings) = (Vec::new(), Vec::new());
        if quant == Quant::F32 {
            exact_embeddings = loader.exact_embeddings()?;
        } else {
            let table = loader.embeddings()?;
            embeddings = vec![half::bf16::ZERO; config.vocab_size * hidden];
            let rows = embeddings.par_chunks_exact_mut(hidden).enumerate();
            rows.for_each_init(
                || vec![0.0; hidden],
                |numbers, (i, row)| {
                    table.read(i, numbers);
                    row.convert_from_f32_slice(numbers);
                },
            );
        }
        Ok(Model { norm, head, embeddings, exact_embeddings, layers, quant, config })
    }

    /// Returns how many bytes the weights of a configuration take in memory.
    pub fn bytes_of(config: &ModelConfig, quant: Quant) -> usize {
        let hidden = config.hidden_size;
        let linear = |input, output| Linear::bytes_of(quant, input, output);
        let feed_forward = |width: usize| linear(hidden, 2 * width) + linear(width, hidden);
        let mlp = |shape: &FeedForwardShape| match shape {
            FeedForwardShape::Dense(width) => feed_forward(*width),
            FeedForwardShape::Sparse(sparse) => {
                let shared = if sparse.shared_width == 0 { 0 } else { feed_forward(sparse.shared_width) };
                let router = size_of::<f32>() * sparse.experts * hidden;
                sparse.experts * feed_forward(sparse.width) + shared + router
            }
        };
        let attention =
            linear(hidden, config.qkv_width()) + linear(config.num_attention_heads * config.head_dim, hidden);
        let number = if quant == Quant::F32 { size_of::<f32>() } else { size_of::<half::bf16>() };
        let tables = number * config.vocab_size * hidden + linear(hidden, config.vocab_size);
        config.layers.iter().map(|shape| attention + mlp(shape)).sum::<usize>() + tables
    }

    /// Returns how many bytes the weights take in memory.
    pub fn bytes(&self) -> usize {
        let layer = |layer: &Layer| layer.mlp.bytes() + layer.qkv.bytes() + layer.output.bytes();
        let tables = 2 * self.embeddings.len() + 4 * self.exact_embeddings.len() + self.head.bytes();
        self.layers.iter().map(layer).sum::<usize>() + tables
    }

    /// Computes all chunks together and fills their pages; returns the normed output rows that the
    /// chunks want, one behind the other, `[rows, hidden]`.
    ///
    /// # Panics
    /// When a table is too short for its chunk: a bug of the scheduler.
    pub fn forward<'w>(&self, chunks: &[Chunk], cache: &mut KvCache, work: &'w mut Workspace) -> &'w [f32] {
        let (hidden, eps) = (self.config.hidden_size, self.config.rms_norm_eps);
        let heads = self.config.num_attention_heads * self.config.head_dim;
        work.rope.reserve(chunks.iter().map(|c| c.positions().end).max().unwrap_or(0));
        self.embed(chunks, &mut work.x);
        list_blocks(chunks, &mut work.blocks, |chunk| chunk.positions());
        let mut groups = group(chunks, |chunk| chunk.positions());
        let with = Arithmetic::of(self.quant);
        let last = self.layers.len() - 1;
        work.touched_bytes = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            self.attend(layer, i, chunks, cache, work);
            work.touched_bytes += layer.qkv.bytes() + layer.output.bytes();
            if i == last {
                keep_wanted(chunks, &mut work.x, hidden);
                keep_wanted(chunks, &mut work.attended, heads);
                list_blocks(chunks, &mut work.blocks, |chunk| chunk.wanted.clone());
                groups = group(chunks, |chunk| chunk.wanted.clone());
                if work.x.is_empty() {
                    break;
                }
            }
            work.rows.set(self.quant, &work.attended, heads);
            resize(&mut work.added, work.x.len());
            layer.output.apply_parallel(&mut work.added, &work.rows);
            add(&mut work.x, &work.added);
            resize(&mut work.normed, work.x.len());
            (with.rms_norm)(&mut work.normed, &work.x, &layer.post_norm, eps);
            for Group { adapter, rows, blocks } in &groups {
                let part = rows.start * hidden..rows.end * hidden;
                let normed = &work.normed[part.clone()];
                work.rows.set(self.quant, normed, hidden);
                let input = Input { normed, rows: &work.rows, blocks: &work.blocks[blocks.clone()] };
                let tuned = adapter.and_then(|adapter| adapter.layer(i));
                work.touched_bytes += layer.mlp.apply(self.quant, &mut work.added[part], input, tuned);
            }
            add(&mut work.x, &work.added);
        }
        resize(&mut work.normed, work.x.len());
        (with.rms_norm)(&mut work.normed, &work.x, &self.norm, eps);
        &work.normed
    }

    /// Writes the logits of output rows `x` `[rows, hidden]` to `logits` `[rows, vocabulary]`, on this thread.
    pub fn logits(&self, logits: &mut [f32], x: &[f32]) {
        let mut rows = Rows::default();
        rows.set(self.quant, x, self.config.hidden_size);
        self.head.apply(logits, &rows, 0..x.len() / self.config.hidden_size);
    }

    /// Returns the likeliest token of each output row `x` `[rows, hidden]`; `close` sets the logits of
    /// what a row may not have, of a range of tokens, to −∞.
    pub fn likeliest(
        &self,
        x: &[f32],
        close: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
    ) -> Vec<Likeliest> {
        let mut rows = Rows::default();
        rows.set(self.quant, x, self.config.hidden_size);
        likeliest(&self.head, &rows, x.len() / self.config.hidden_size, close)
    }

    /// Returns how many bytes the head's weights take.
    pub fn head_bytes(&self) -> usize {
        self.head.bytes()
    }

    fn embed(&self, chunks: &[Chunk], x: &mut Vec<f32>) {
        let hidden = self.config.hidden_size;
        x.clear();
        for token in chunks.iter().flat_map(|c| c.tokens) {
            let at = *token as usize * hidden;
            match self.quant {
                Quant::F32 => x.extend_from_slice(&self.exact_embeddings[at..at + hidden]),
                _ => x.extend(self.embeddings[at..at + hidden].iter().map(|v| v.to_f32())),
            }
        }
    }

    /// Fills `work.attended` from `work.x`, and the cache.
    fn attend(
        &self,
        layer: &Layer,
        index: usize,
        chunks: &[Chunk],
        cache: &mut KvCache,
        work: &mut Workspace,
    ) {
        let config = &self.config;
        let (hidden, width) = (config.hidden_size, config.qkv_width());
        let rows = work.x.len() / hidden;
        resize(&mut work.normed, rows * hidden);
        let with = Arithmetic::of(self.quant);
        (with.rms_norm)(&mut work.normed, &work.x, &layer.input_norm, config.rms_norm_eps);
        work.rows.set(self.quant, &work.normed, hidden);
        resize(&mut work.qkv, rows * width);
        layer.qkv.apply_parallel(&mut work.qkv, &work.rows);
        self.place(layer, index, chunks, cache, work);
        let queries = config.num_attention_heads * config.head_dim;
        resize(&mut work.attended, rows * queries);
        resize(&mut work.heads, rows * queries);
        let of_head = queries / config.num_key_value_heads;
        let (mut tasks, mut pieces) = (Vec::new(), Vec::new());
        let (mut qkv, mut heads) = (work.qkv.as_slice(), work.heads.as_mut_slice());
        let mut row = 0;
        let is_last = index + 1 == self.layers.len();
        for chunk in chunks.iter() {
            for (piece, end) in chunk.pieces(chunk.positions()) {
                let (q, others) = qkv.split_at(piece.len() * width);
                qkv = others;
                let is_wanted = piece.start < chunk.wanted.end && chunk.wanted.start < piece.end;
                if is_wanted || !is_last {
                    pieces.push((row, piece.len()));
                    for head in 0..config.num_key_value_heads {
                        let (out, others) = heads.split_at_mut(piece.len() * of_head);
                        heads = others;
                        tasks.push((chunk.table, end, q, head, out));
                    }
                }
                row += piece.len();
            }
        }
        let cache = &*cache;
        tasks.into_par_iter().for_each(|(table, end, q, head, out)| {
            let (shared, head_dim) = (of_head / config.head_dim, config.head_dim);
            let data = &q[head * of_head..];
            let queries = Queries { data, stride: width, rows: q.len() / width, heads: shared, head_dim };
            (with.attend)(out, of_head, queries, &cache.read(table, index, head, end), end);
        });
        // From a head's rows one behind the other to a row's heads.
        let mut heads = work.heads.as_slice();
        for (first, rows) in pieces {
            for head in 0..config.num_key_value_heads {
                let (of_piece, others) = heads.split_at(rows * of_head);
                heads = others;
                for (row, of_row) in of_piece.chunks_exact(of_head).enumerate() {
                    let at = (first + row) * queries + head * of_head;
                    work.attended[at..at + of_head].copy_from_slice(of_row);
                }
            }
        }
    }

    /// Norms and turns the queries and keys of `work.qkv`, and puts keys and values in the cache.
    fn place(
        &self,
        layer: &Layer,
        index: usize,
        chunks: &[Chunk],
        cache: &mut KvCache,
        work: &mut Workspace,
    ) {
        let config = &self.config;
        let (width, head_dim, eps) = (config.qkv_width(), config.head_dim, config.rms_norm_eps);
        let queries = config.num_attention_heads * head_dim;
        let keys = config.num_key_value_heads * head_dim;
        let with = Arithmetic::of(self.quant);
        let mut raw = Vec::new();
        let mut rows = work.qkv.chunks_exact_mut(width);
        for chunk in chunks {
            for (position, row) in chunk.positions().zip(&mut rows) {
                let (query, rest) = row.split_at_mut(queries);
                for (heads, norm) in [(query, &layer.query_norm), (&mut rest[..keys], &layer.key_norm)] {
                    if !norm.is_empty() {
                        raw.clear();
                        raw.extend_from_slice(heads);
                        (with.rms_norm)(heads, &raw, norm, eps);
                    }
                }
                if let Some(limit) = config.clip_qkv {
                    row.iter_mut().for_each(|v| *v = v.clamp(-limit, limit));
                }
                for head in row[..queries + keys].chunks_exact_mut(head_dim) {
                    work.rope.turn(head, position, Turn::Forward);
                }
                for head in 0..config.num_key_value_heads {
                    let key = &row[queries + head * head_dim..][..head_dim];
                    let value = &row[queries + keys + head * head_dim..][..head_dim];
                    cache.write(chunk.table, index, head, position, key, value);
                }
            }
        }
    }
}

/// Rows one behind the other that run through the same experts.
struct Group<'a> {
    adapter: Option<&'a Adapter>,
    /// Among the rows of the pass.
    rows: Range<usize>,
    /// Among the blocks of the pass.
    blocks: Range<usize>,
}

/// Puts neighbouring chunks with the same adapter together, by the positions that `of` returns for each. A
/// row's result depends on nothing but the row, so how they are grouped changes no answer.
fn group<'a>(chunks: &[Chunk<'a>], of: impl Fn(&Chunk) -> Range<usize>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut row, mut block) = (0, 0);
    for chunk in chunks {
        let (rows, blocks) = (row..row + of(chunk).len(), block..block + chunk.pieces(of(chunk)).count());
        (row, block) = (rows.end, blocks.end);
        match groups.last_mut() {
            _ if rows.is_empty() => {}
            Some(group) if group.adapter.map(|a| a.id) == chunk.adapter.map(|a| a.id) => {
                (group.rows.end, group.blocks.end) = (rows.end, blocks.end);
            }
            _ => groups.push(Group { adapter: chunk.adapter, rows, blocks }),
        }
    }
    groups
}

/// Lists how many rows each block has, of the positions that `of` returns for each chunk.
fn list_blocks(chunks: &[Chunk], blocks: &mut Vec<usize>, of: impl Fn(&Chunk) -> Range<usize>) {
    blocks.clear();
    for chunk in chunks {
        blocks.extend(chunk.pieces(of(chunk)).map(|(piece, _)| piece.len()));
    }
}

/// Drops the rows that nobody wants.
fn keep_wanted(chunks: &[Chunk], rows: &mut Vec<f32>, width: usize) {
    let (mut from, mut to) = (0, 0);
    for chunk in chunks {
        if !chunk.wanted.is_empty() {
            let wanted = chunk.wanted.start - chunk.start..chunk.wanted.end - chunk.start;
            rows.copy_within(from + wanted.start * width..from + wanted.end * width, to);
            to += wanted.len() * width;
        }
        from += chunk.tokens.len() * width;
    }
    rows.truncate(to);
}

fn add(y: &mut [f32], x: &[f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

fn resize(data: &mut Vec<f32>, len: usize) {
    data.resize(len, 0.0);
}
