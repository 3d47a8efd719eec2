//! The operations of a forward pass on the processor: plain slices, many sequences together.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::config::ModelConfig;
use crate::engine::kv_cache::KvCache;
use crate::engine::model::arithmetic::Arithmetic;
use crate::engine::model::feed_forward::Input;
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Backend;
use crate::engine::model::forward::Begun;
use crate::engine::model::forward::Chunk;
use crate::engine::model::forward::Norm;
use crate::engine::model::forward::Read;
use crate::engine::model::head::Likeliest;
use crate::engine::model::head::likeliest;
use crate::engine::model::linear::Rows;
use crate::engine::model::transformer::Model;
use crate::engine::model::tuned::Adapter;
use crate::engine::ops::attention::Queries;
use crate::engine::ops::rope::Rope;
use crate::engine::ops::rope::Turn;

/// What the processor is called among devices.
pub const CPU: &str = "cpu";
/// Rows whose logits are in memory at once, for each thread.
const HEAD_ROWS: usize = 8;

/// The processor with a model.
#[derive(Debug)]
pub struct Cpu {
    model: Model,
    cache: KvCache,
    work: Workspace,
}

/// The buffers of a forward pass, reused from pass to pass.
#[derive(Debug)]
struct Workspace {
    rope: Rope,
    x: Vec<f32>,
    normed: Vec<f32>,
    rows: Rows,
    qkv: Vec<f32>,
    /// The attention's output, of each piece of a chunk head by head.
    heads: Vec<f32>,
    attended: Vec<f32>,
    added: Vec<f32>,
    /// The bytes of weights that the last pass read, without the head's.
    touched_bytes: usize,
}

impl Workspace {
    fn new(config: &ModelConfig) -> Workspace {
        Workspace {
            rope: Rope::new(config.rotary_dim, config.rope_theta),
            x: Vec::new(),
            normed: Vec::new(),
            rows: Rows::default(),
            qkv: Vec::new(),
            heads: Vec::new(),
            attended: Vec::new(),
            added: Vec::new(),
            touched_bytes: 0,
        }
    }
}

impl Cpu {
    /// Prepares a loaded model for forward passes.
    pub fn new(model: Model) -> Cpu {
        Cpu { cache: KvCache::new(&model.config), work: Workspace::new(&model.config), model }
    }

    /// Returns some rows of the output, one behind the other, in the form that the head takes.
    fn gather(&self, rows: impl Iterator<Item = usize>) -> Rows {
        let hidden = self.model.config.hidden_size;
        let x: Vec<f32> =
            rows.flat_map(|row| &self.work.normed[row * hidden..(row + 1) * hidden]).copied().collect();
        let mut rows = Rows::default();
        rows.set(self.model.quant, &x, hidden);
        rows
    }
}

impl Backend for Cpu {
    fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    fn device(&self) -> String {
        CPU.to_owned()
    }

    fn takes_adapters(&self) -> bool {
        true
    }

    fn weight_bytes(&self) -> usize {
        self.model.bytes()
    }

    fn bytes_per_position(&self) -> usize {
        KvCache::bytes_per_position(&self.model.config)
    }

    fn pool(&mut self, pages: usize) {
        self.cache.pool(pages);
    }

    fn begin(&mut self, chunks: &[Chunk], _asked: &[Asked]) -> Begun {
        let work = &mut self.work;
        work.rope.reserve(chunks.iter().map(|c| c.positions().end).max().unwrap_or(0));
        work.touched_bytes = 0;
        self.model.embed(chunks.iter().flat_map(|c| c.tokens), &mut work.x);
        Begun::Compute
    }

    fn norm(&mut self, norm: Norm) {
        let Cpu { model, work, .. } = self;
        let weight = match norm {
            Norm::Attention(layer) => &model.layers[layer].input_norm,
            Norm::FeedForward(layer) => &model.layers[layer].post_norm,
            Norm::Head => &model.norm,
        };
        resize(&mut work.normed, work.x.len());
        let rms_norm = Arithmetic::of(model.quant).rms_norm;
        rms_norm(&mut work.normed, &work.x, weight, model.config.rms_norm_eps);
        // Of the output some rows are asked for later.
        if norm != Norm::Head {
            work.rows.set(model.quant, &work.normed, model.config.hidden_size);
        }
    }

    fn project(&mut self, layer: usize) {
        let Cpu { model, work, .. } = self;
        let (config, qkv) = (&model.config, &model.layers[layer].qkv);
        resize(&mut work.qkv, work.x.len() / config.hidden_size * config.qkv_width());
        qkv.apply_parallel(&mut work.qkv, &work.rows);
        work.touched_bytes += qkv.bytes();
    }

    fn place(&mut self, layer: usize, chunks: &[Chunk]) {
        let Cpu { model, cache, work } = self;
        let (config, of_layer) = (&model.config, &model.layers[layer]);
        let (width, head_dim, eps) = (config.qkv_width(), config.head_dim, config.rms_norm_eps);
        let queries = config.num_attention_heads * head_dim;
        let keys = config.num_key_value_heads * head_dim;
        let with = Arithmetic::of(model.quant);
        let mut raw = Vec::new();
        let mut rows = work.qkv.chunks_exact_mut(width);
        for chunk in chunks {
            for (position, row) in chunk.positions().zip(&mut rows) {
                let (query, rest) = row.split_at_mut(queries);
                for (heads, norm) in [(query, &of_layer.query_norm), (&mut rest[..keys], &of_layer.key_norm)]
                {
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
                    cache.write(chunk.table, layer, head, position, key, value);
                }
            }
        }
    }

    fn attend(&mut self, layer: usize, chunks: &[Chunk]) {
        let Cpu { model, cache, work } = self;
        let (config, with) = (&model.config, Arithmetic::of(model.quant));
        let width = config.qkv_width();
        let rows = work.qkv.len() / width;
        let queries = config.num_attention_heads * config.head_dim;
        resize(&mut work.attended, rows * queries);
        resize(&mut work.heads, rows * queries);
        let of_head = queries / config.num_key_value_heads;
        let (mut tasks, mut pieces) = (Vec::new(), Vec::new());
        let (mut qkv, mut heads) = (work.qkv.as_slice(), work.heads.as_mut_slice());
        let mut row = 0;
        let is_last = layer + 1 == model.layers.len();
        for chunk in chunks.iter() {
            for (piece, end) in chunk.pieces(chunk.positions()) {
                let (q, others) = qkv.split_at(piece.len() * width);
                qkv = others;
                if !is_last || chunk.wants(&piece) {
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
        tasks.into_par_iter().for_each(|(table, end, q, head, out)| {
            let (shared, head_dim) = (of_head / config.head_dim, config.head_dim);
            let data = &q[head * of_head..];
            let queries = Queries { data, stride: width, rows: q.len() / width, heads: shared, head_dim };
            (with.attend)(out, of_head, queries, &cache.read(table, layer, head, end), end);
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

    fn keep_wanted(&mut self, chunks: &[Chunk]) {
        let config = &self.model.config;
        keep_wanted(chunks, &mut self.work.x, config.hidden_size);
        keep_wanted(chunks, &mut self.work.attended, config.num_attention_heads * config.head_dim);
    }

    fn add_attended(&mut self, layer: usize) {
        let Cpu { model, work, .. } = self;
        let (config, output) = (&model.config, &model.layers[layer].output);
        work.rows.set(model.quant, &work.attended, config.num_attention_heads * config.head_dim);
        resize(&mut work.added, work.x.len());
        output.apply_parallel(&mut work.added, &work.rows);
        add(&mut work.x, &work.added);
        work.touched_bytes += output.bytes();
    }

    fn add_feed_forward(&mut self, layer: usize, chunks: &[Chunk]) {
        let Cpu { model, work, .. } = self;
        let (hidden, mlp) = (model.config.hidden_size, &model.layers[layer].mlp);
        let is_last = layer + 1 == model.layers.len();
        let of = |chunk: &Chunk| if is_last { chunk.wanted.clone() } else { chunk.positions() };
        let blocks: Vec<usize> =
            chunks.iter().flat_map(|chunk| chunk.pieces(of(chunk)).map(|(piece, _)| piece.len())).collect();
        let groups = group(chunks, of);
        for Group { adapter, rows, blocks: of_group } in &groups {
            let part = rows.start * hidden..rows.end * hidden;
            let normed = &work.normed[part.clone()];
            if groups.len() > 1 {
                work.rows.set(model.quant, normed, hidden);
            }
            let input = Input { normed, rows: &work.rows, blocks: &blocks[of_group.clone()] };
            let tuned = adapter.and_then(|adapter| adapter.layer(layer));
            work.touched_bytes += mlp.apply(model.quant, &mut work.added[part], input, tuned);
        }
        add(&mut work.x, &work.added);
    }

    fn end(&mut self) {}

    fn likeliest(&mut self, asked: &[Asked]) -> Vec<Likeliest> {
        let rows = self.gather(asked.iter().map(|asked| asked.row));
        likeliest(&self.model.head, &rows, asked.len(), |i, tokens, logits| {
            for id in asked[i].closed.iter().chain(&asked[i].closed_here) {
                if tokens.contains(&(*id as usize)) {
                    logits[*id as usize - tokens.start] = f32::NEG_INFINITY;
                }
            }
        })
    }

    fn logits(&mut self, rows: &[usize], read: Read) {
        let vocabulary = self.model.config.vocab_size;
        rows.par_chunks(HEAD_ROWS).enumerate().for_each(|(piece, rows)| {
            let mut logits = vec![0.0; rows.len() * vocabulary];
            self.model.head.apply(&mut logits, &self.gather(rows.iter().copied()), 0..rows.len());
            for (i, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
                read(piece * HEAD_ROWS + i, logits);
            }
        });
    }

    fn touched_bytes(&self) -> usize {
        self.work.touched_bytes + self.model.head.bytes()
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
