//! The operations of a forward pass on a GPU: one launch each, or a few, recorded and run again.
//!
//! Nothing is read back within a pass. The first pass of a form records its launches (a CUDA graph); later ones
//! of the same form copy their plan and run the recording. Grids are made for the form's size, kernels read the
//! true counts from the plan.

use std::collections::HashMap;

use rayon::prelude::*;

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::cuda::arguments::AttendShape;
use crate::engine::cuda::arguments::RopeShape;
use crate::engine::cuda::arguments::RouteShape;
use crate::engine::cuda::arguments::run;
use crate::engine::cuda::linear;
use crate::engine::cuda::linear::Ending;
use crate::engine::cuda::linear::Operands;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Recording;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::pack::GROUP;
use crate::engine::cuda::pack::PADDING;
use crate::engine::cuda::plan::Counts;
use crate::engine::cuda::plan::Plan;
use crate::engine::cuda::plan::Size;
use crate::engine::cuda::weights::FeedForward;
use crate::engine::cuda::weights::Gated;
use crate::engine::cuda::weights::Sparse;
use crate::engine::cuda::weights::Weight;
use crate::engine::cuda::weights::Weights;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Backend;
use crate::engine::model::forward::Begun;
use crate::engine::model::forward::Chunk;
use crate::engine::model::forward::Norm;
use crate::engine::model::forward::Read;
use crate::engine::model::head::Likeliest;
use crate::engine::model::linear::Quant;
use crate::engine::ops::route::Score;
use crate::engine::weights;

/// Parts that the pages of a piece are shared out over: `SPLITS` in `kernels/attention.cu`.
const SPLITS: usize = 32;
/// Query rows of a block of attention.
const ATTENTION_TILE: usize = 64;
/// Blocks of attention that keep a GPU busy; with more pieces each takes several splits.
const ATTENTION_BLOCKS: usize = 1024;
/// Experts that a block of the router looks at.
const ROUTER_TILE: usize = 16;
/// Numbers of a row that 256 threads hold in registers.
const ROW_OF_256_THREADS: usize = 8192;
/// The same of as many threads as a block may have.
const LONGEST_ROW: usize = 4 * ROW_OF_256_THREADS;
/// Rows whose logits are in memory at once.
const LOGIT_ROWS: usize = 64;
/// Recordings that are kept; forms are few, but nothing keeps a caller from making many.
const MOST_RECORDINGS: usize = 256;

/// A GPU with a model.
#[derive(Debug)]
pub struct Cuda {
    gpu: Gpu,
    config: ModelConfig,
    quant: Quant,
    weights: Weights,
    cache: Buffer,
    frequencies: Buffer,
    plan: Plan,
    rows: Buffers,
    /// Of each sparse layer where the slots of each expert begin, `[layers, experts + 1]`.
    starts: Buffer,
    recordings: HashMap<Size, Recording>,
    now: Pass,
}

/// The buffers of a pass.
#[derive(Debug)]
struct Buffers {
    /// The residual stream, and what is wanted of it at the end.
    x: Buffer,
    kept: Buffer,
    normed: Buffer,
    /// Rows as linear layers take them, with their scales.
    rows: Buffer,
    scales: Buffer,
    qkv: Buffer,
    queries: Buffer,
    attended: Buffer,
    kept_attended: Buffer,
    partial: Buffer,
    partial_stats: Buffer,
    router_scores: Buffer,
    chosen: Buffer,
    route_weights: Buffer,
    slot_row: Buffer,
    slot_of: Buffer,
    activated: Buffer,
    inner: Buffer,
    inner_scales: Buffer,
    outputs: Buffer,
    shared: Buffer,
    /// What the head is asked, and what it says.
    asked: Buffer,
    peaks: Buffer,
    answers: Buffer,
    logits: Buffer,
    /// For how much of everything there is room.
    room: Size,
}

/// The pass under way.
#[derive(Debug, Clone, Copy)]
struct Pass {
    size: Size,
    counts: Counts,
    /// The most rows that are left.
    most: usize,
    x: u64,
    attended: u64,
}

impl Buffers {
    fn new(gpu: &Gpu) -> Result<Buffers, CudaError> {
        let empty = || Buffer::new(gpu, 0);
        Ok(Buffers {
            x: empty()?,
            kept: empty()?,
            normed: empty()?,
            rows: empty()?,
            scales: empty()?,
            qkv: empty()?,
            queries: empty()?,
            attended: empty()?,
            kept_attended: empty()?,
            partial: empty()?,
            partial_stats: empty()?,
            router_scores: empty()?,
            chosen: empty()?,
            route_weights: empty()?,
            slot_row: empty()?,
            slot_of: empty()?,
            activated: empty()?,
            inner: empty()?,
            inner_scales: empty()?,
            outputs: empty()?,
            shared: empty()?,
            asked: empty()?,
            peaks: empty()?,
            answers: empty()?,
            logits: empty()?,
            room: Size::default(),
        })
    }

    /// Makes room for passes of a size.
    fn reserve(&mut self, config: &ModelConfig, size: Size) -> Result<(), CudaError> {
        self.room = self.room.max(size);
        let Size { rows, wanted, .. } = self.room;
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads * config.head_dim);
        let (mut experts, mut chosen, mut width) = (0, 1, 0);
        for layer in &config.layers {
            match layer {
                FeedForwardShape::Dense(dense) => width = width.max(*dense),
                FeedForwardShape::Sparse(sparse) => {
                    experts = experts.max(sparse.experts);
                    chosen = chosen.max(sparse.routing.chosen);
                    width = width.max(sparse.width * sparse.routing.chosen).max(sparse.shared_width);
                }
            }
        }
        let number = size_of::<f32>();
        let padded = |width: usize| width.next_multiple_of(PADDING);
        let input = padded(hidden).max(padded(heads));
        let inner = padded(width) + chosen * PADDING;
        let head_partials = rows * config.num_attention_heads * SPLITS;
        for (buffer, count) in [
            (&mut self.x, rows * hidden),
            (&mut self.kept, wanted * hidden),
            (&mut self.normed, rows * hidden),
            (&mut self.rows, rows * input),
            (&mut self.scales, rows * (input / GROUP)),
            (&mut self.qkv, rows * config.qkv_width()),
            (&mut self.queries, rows * heads),
            (&mut self.attended, rows * heads),
            (&mut self.kept_attended, wanted * heads),
            (&mut self.partial, head_partials * config.head_dim),
            (&mut self.partial_stats, 2 * head_partials),
            (&mut self.router_scores, rows * experts),
            (&mut self.chosen, rows * chosen),
            (&mut self.route_weights, rows * chosen),
            (&mut self.slot_row, rows * chosen),
            (&mut self.slot_of, rows * chosen),
            (&mut self.activated, rows * width),
            (&mut self.inner, rows * inner),
            (&mut self.inner_scales, rows * inner.div_ceil(GROUP)),
            (&mut self.outputs, rows * chosen * hidden),
            (&mut self.shared, rows * hidden),
        ] {
            buffer.reserve(count * number)?;
        }
        Ok(())
    }
}

impl Cuda {
    /// Loads a model to a GPU; `progress` is told of each layer and of how many.
    ///
    /// # Errors
    /// When the weights do not fit, the kernels do not take the shape, or the GPU has too little memory.
    pub fn load(
        gpu: Gpu,
        config: ModelConfig,
        weights: &weights::Weights,
        quant: Quant,
        progress: impl FnMut(usize, usize),
    ) -> Result<Cuda, CudaError> {
        check(&config, quant)?;
        let experts = experts(&config);
        let weights = Weights::load(&gpu, &config, weights, quant, progress)?;
        let frequency = |i: usize| {
            (1.0 / f64::from(config.rope_theta).powf(2.0 * i as f64 / config.rotary_dim as f64)) as f32
        };
        let frequencies: Vec<f32> = (0..config.rotary_dim / 2).map(frequency).collect();
        let frequencies = Buffer::with(&gpu, bytes_of(&frequencies))?;
        let starts = vec![0_u32; config.layers.len() * (experts + 1)];
        let plan = Plan::new(&gpu)?;
        let now = Pass { size: Size::default(), counts: plan.all(), most: 0, x: 0, attended: 0 };
        Ok(Cuda {
            cache: Buffer::new(&gpu, 0)?,
            rows: Buffers::new(&gpu)?,
            starts: Buffer::with(&gpu, bytes_of(&starts))?,
            recordings: HashMap::new(),
            frequencies,
            plan,
            weights,
            quant,
            config,
            gpu,
            now,
        })
    }

    /// Returns the name of a kernel that has a form for each precision.
    fn of_precision(&self, name: &str) -> String {
        format!("{name}_{}", linear::precision(self.quant))
    }

    /// Returns the name of a kernel that has a form for each type of keys and values.
    fn of_cache(&self, name: &str) -> String {
        format!("{name}_{}", if self.quant == Quant::F32 { "f32" } else { "bf16" })
    }

    fn to_rows(
        &self,
        to: (&Buffer, &Buffer),
        x: u64,
        count: u64,
        most: usize,
        width: usize,
    ) -> Result<(), CudaError> {
        to_rows(&self.gpu, self.quant, to, x, count, most, width)
    }

    /// Lets a weight work on all rows of the pass.
    fn apply(&self, weight: &Weight, ending: Ending, x: (&Buffer, &Buffer), y: u64) -> Result<(), CudaError> {
        let Pass { counts, most, .. } = self.now;
        let operands = Operands {
            x: x.0.address,
            x_scales: x.1.address,
            y,
            bounds: counts.bounds,
            ..Operands::default()
        };
        linear::apply(&self.gpu, weight, ending, operands, most)
    }

    fn attend_to(&self, layer: usize) -> Result<(), CudaError> {
        let (config, size) = (&self.config, self.now.size);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let shape = AttendShape {
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            head_dim: config.head_dim as i32,
            layers: config.layers.len() as i32,
            layer: layer as i32,
            only_wanted: i32::from(layer + 1 == config.layers.len()),
            most_rows: size.piece_rows as i32,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        let (q, cache, attended) =
            (self.rows.queries.address, self.cache.address, self.rows.attended.address);
        let (pieces, tables, count) = (self.plan.pieces(), self.plan.tables(), self.plan.piece_count());
        let each_row = size.pieces * size.piece_rows;
        if self.quant == Quant::F32 {
            let shared = 8 * config.head_dim;
            let launch = Launch { kernel: "attend_f32", grid: [each_row, heads, 1], threads: 32, shared };
            return run!(self.gpu, launch; attended, q, cache, pieces, tables, count, shape);
        }
        let (partial, stats) = (self.rows.partial.address, self.rows.partial_stats.address);
        let kernel = format!("attend_bf16_{}", config.head_dim);
        let tiles = size.pieces * (size.piece_rows * heads / kv_heads).div_ceil(ATTENTION_TILE);
        let splits = (ATTENTION_BLOCKS / (tiles * kv_heads)).clamp(1, SPLITS);
        let launch = Launch {
            kernel: &kernel,
            grid: [tiles, kv_heads, splits],
            threads: 128,
            shared: 512 * config.head_dim,
        };
        run!(self.gpu, launch; partial, stats, q, cache, pieces, tables, count, shape)?;
        let launch = Launch {
            kernel: "attend_combine",
            grid: [each_row, heads.div_ceil(8), 1],
            threads: 256,
            shared: 0,
        };
        run!(self.gpu, launch; attended, partial, stats, pieces, count, shape)
    }

    fn place_in_cache(&self, layer: usize) -> Result<(), CudaError> {
        let config = &self.config;
        let shape = RopeShape {
            heads: config.num_attention_heads as i32,
            kv_heads: config.num_key_value_heads as i32,
            head_dim: config.head_dim as i32,
            rotary_dim: config.rotary_dim as i32,
            norm: match config.query_key_norm {
                QueryKeyNorm::None => 0,
                QueryKeyNorm::Head => 1,
                QueryKeyNorm::Row => 2,
            },
            layers: config.layers.len() as i32,
            layer: layer as i32,
            eps: config.rms_norm_eps,
            clip: config.clip_qkv.unwrap_or(f32::INFINITY),
        };
        let norms = self.weights.layers[layer].query_key_norms.as_ref();
        let [query_norm, key_norm] = norms.map_or([0, 0], |[query, key]| [query.address, key.address]);
        let kernel = self.of_cache("rope");
        let heads = config.num_attention_heads + 2 * config.num_key_value_heads;
        let launch = Launch {
            kernel: &kernel,
            grid: [self.now.most, 1, 1],
            threads: 32 * heads.min(32),
            shared: 4 * config.rotary_dim,
        };
        let (q, cache, qkv) = (self.rows.queries.address, self.cache.address, self.rows.qkv.address);
        let (frequencies, count) = (self.frequencies.address, self.now.counts.rows);
        let (positions, places) = (self.plan.positions(), self.plan.places());
        run!(self.gpu, launch; q, cache, qkv, query_norm, key_norm, frequencies, positions, places, count, shape)
    }

    /// Puts `gated` between the rows of a pass and `y`.
    fn dense(&self, gated: &Gated, ending: Ending, y: u64) -> Result<(), CudaError> {
        let rows = &self.rows;
        let Pass { counts, most, .. } = self.now;
        self.apply(&gated.gate_up, Ending::Gated, (&rows.rows, &rows.scales), rows.activated.address)?;
        let width = gated.down.form.input;
        let inner = (&rows.inner, &rows.inner_scales);
        self.to_rows(inner, rows.activated.address, counts.rows, most, width)?;
        self.apply(&gated.down, ending, inner, y)
    }

    fn sparse(&self, layer: usize, sparse: &Sparse) -> Result<(), CudaError> {
        let (rows, gpu) = (&self.rows, &self.gpu);
        let Pass { counts, most, x, .. } = self.now;
        let (experts, routing) = (sparse.shape.experts, sparse.shape.routing);
        let (hidden, chosen) = (self.config.hidden_size, routing.chosen);
        let is_softmax = routing.score == Score::Softmax;
        let tiles = if is_softmax { 1 } else { experts.div_ceil(ROUTER_TILE) };
        let launch =
            Launch { kernel: "route_scores", grid: [most.div_ceil(4), tiles, 1], threads: 256, shared: 0 };
        let (scores, normed) = (rows.router_scores.address, rows.normed.address);
        run!(gpu, launch; scores, normed, sparse.router.address, counts.rows, experts as i32, hidden as i32, i32::from(is_softmax))?;
        let bias = sparse.bias.address;
        if let Some(capacity) = routing.capacity {
            let launch =
                Launch { kernel: "route_pool", grid: [self.now.size.pieces, 1, 1], threads: 256, shared: 0 };
            let capacity = capacity as i32;
            run!(gpu, launch; scores, bias, counts.blocks, counts.block_count, experts as i32, capacity)?;
        }
        let shape = RouteShape {
            experts: experts as i32,
            chosen: chosen as i32,
            groups: routing.groups as i32,
            kept_groups: routing.kept_groups as i32,
            normalise: i32::from(routing.normalise),
            scale: routing.scale,
        };
        let (taken, weights) = (rows.chosen.address, rows.route_weights.address);
        let launch =
            Launch { kernel: "route_choose", grid: [most.div_ceil(4), 1, 1], threads: 128, shared: 0 };
        run!(gpu, launch; taken, weights, scores, bias, counts.rows, shape)?;
        let (slot_row, slot_of) = (rows.slot_row.address, rows.slot_of.address);
        let starts = self.starts_of(layer);
        let launch = Launch { kernel: "route_sort", grid: [experts, 1, 1], threads: 256, shared: 0 };
        run!(gpu, launch; slot_row, slot_of, starts, taken, counts.rows, chosen as i32, experts as i32)?;

        if let Some(shared) = &sparse.shared {
            self.dense(shared, Ending::Store, rows.shared.address)?;
        }
        let slots = most * chosen;
        let operands = Operands {
            x: rows.rows.address,
            x_scales: rows.scales.address,
            y: rows.activated.address,
            bounds: starts,
            gather: slot_row,
            ..Operands::default()
        };
        linear::apply(gpu, &sparse.experts.gate_up, Ending::Gated, operands, slots)?;
        let (inner, width) = ((&rows.inner, &rows.inner_scales), sparse.shape.width);
        self.to_rows(inner, rows.activated.address, counts.slots, slots, width)?;
        let operands = Operands {
            x: rows.inner.address,
            x_scales: rows.inner_scales.address,
            y: rows.outputs.address,
            bounds: starts,
            ..Operands::default()
        };
        linear::apply(gpu, &sparse.experts.down, Ending::Store, operands, slots)?;
        let shared = sparse.shared.as_ref().map_or(0, |_| rows.shared.address);
        let launch = Launch { kernel: "combine", grid: [most, 1, 1], threads: 256, shared: 0 };
        run!(gpu, launch; x, shared, rows.outputs.address, slot_of, weights, counts.rows, chosen as i32, hidden as i32)
    }

    /// Returns where a layer's slots of each expert begin.
    fn starts_of(&self, layer: usize) -> u64 {
        self.starts.address + (layer * (experts(&self.config) + 1) * size_of::<u32>()) as u64
    }

    fn ask(&mut self, asked: &[Asked]) -> Result<Vec<Likeliest>, CudaError> {
        let count = asked.len();
        let mut closed_starts = vec![0];
        let mut closed = Vec::new();
        for asked in asked {
            closed.extend(asked.closed.iter().chain(&asked.closed_here));
            closed_starts.push(closed.len() as u32);
        }
        // The bounds of the rows, which rows they are, and what is closed.
        let mut numbers = vec![0, count as u32];
        numbers.extend(asked.iter().map(|asked| asked.row as u32));
        numbers.extend(&closed_starts);
        numbers.extend(&closed);
        let rows = &mut self.rows;
        rows.asked.reserve((numbers.len() * size_of::<u32>()).next_power_of_two())?;
        self.gpu.upload(rows.asked.address, bytes_of(&numbers))?;
        let head = &self.weights.head;
        rows.peaks.reserve(count.next_power_of_two() * linear::peak_bytes(head))?;
        rows.answers.reserve(2 * count.next_power_of_two() * size_of::<u32>())?;
        let of = |number: usize| rows.asked.address + (number * size_of::<u32>()) as u64;
        let operands = Operands {
            x: rows.rows.address,
            x_scales: rows.scales.address,
            peaks: rows.peaks.address,
            bounds: of(0),
            gather: of(2),
            closed_starts: of(2 + count),
            closed: of(2 + count + count + 1),
            ..Operands::default()
        };
        let groups =
            linear::apply(&self.gpu, head, Ending::Head, operands, count).map(|()| linear::groups(head))?;
        let probabilities = rows.answers.address + (count * size_of::<u32>()) as u64;
        let launch = Launch { kernel: "head_reduce", grid: [count, 1, 1], threads: 256, shared: 0 };
        run!(self.gpu, launch; rows.answers.address, probabilities, rows.peaks.address, of(1), groups as i32)?;
        let mut answers = vec![0_u32; 2 * count];
        self.gpu.download(bytes_of_mut(&mut answers), rows.answers.address)?;
        let (tokens, probabilities) = answers.split_at(count);
        let answer = |(token, probability): (&u32, &u32)| Likeliest {
            token: *token,
            probability: f32::from_bits(*probability),
        };
        Ok(tokens.iter().zip(probabilities).map(answer).collect())
    }

    fn read_logits(&mut self, rows: &[usize], read: Read) -> Result<(), CudaError> {
        let vocabulary = self.config.vocab_size;
        for (piece, some) in rows.chunks(LOGIT_ROWS).enumerate() {
            let mut numbers = vec![0, some.len() as u32];
            numbers.extend(some.iter().map(|row| *row as u32));
            let buffers = &mut self.rows;
            buffers.asked.reserve(numbers.len() * size_of::<u32>())?;
            buffers.logits.reserve(LOGIT_ROWS.min(rows.len()) * vocabulary * size_of::<f32>())?;
            self.gpu.upload(buffers.asked.address, bytes_of(&numbers))?;
            let operands = Operands {
                x: buffers.rows.address,
                x_scales: buffers.scales.address,
                y: buffers.logits.address,
                bounds: buffers.asked.address,
                gather: buffers.asked.address + 2 * size_of::<u32>() as u64,
                ..Operands::default()
            };
            linear::apply(&self.gpu, &self.weights.head, Ending::Store, operands, some.len())?;
            let mut logits = vec![0.0_f32; some.len() * vocabulary];
            self.gpu.download(bytes_of_mut(&mut logits), buffers.logits.address)?;
            logits.par_chunks_exact_mut(vocabulary).enumerate().for_each(|(i, logits)| {
                read(piece * LOGIT_ROWS + i, logits);
            });
        }
        Ok(())
    }

    /// Counts the experts that the last pass touched, layer by layer.
    fn touched_experts(&self) -> Result<Vec<usize>, CudaError> {
        let each = experts(&self.config) + 1;
        let mut starts = vec![0_u32; self.config.layers.len() * each];
        self.gpu.download(bytes_of_mut(&mut starts), self.starts.address)?;
        let touched = |(starts, shape): (&[u32], &FeedForwardShape)| match shape {
            FeedForwardShape::Dense(_) => 0,
            FeedForwardShape::Sparse(sparse) => {
                starts[..=sparse.experts].windows(2).filter(|ends| ends[0] < ends[1]).count()
            }
        };
        Ok(starts.chunks_exact(each).zip(&self.config.layers).map(touched).collect())
    }
}

impl Backend for Cuda {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn device(&self) -> String {
        self.gpu.name()
    }

    fn weight_bytes(&self) -> usize {
        self.weights.bytes()
    }

    fn bytes_per_position(&self) -> usize {
        let number = if self.quant == Quant::F32 { size_of::<f32>() } else { size_of::<half::bf16>() };
        2 * number * self.config.layers.len() * self.config.num_key_value_heads * self.config.head_dim
    }

    fn pool(&mut self, pages: usize) {
        let bytes = pages * PAGE * self.bytes_per_position();
        let moved = self.cache.reserve(bytes);
        if must(moved) {
            self.recordings.clear();
        }
    }

    fn begin(&mut self, chunks: &[Chunk]) -> Begun {
        let size = Size::of(chunks);
        let pages = chunks.iter().map(|chunk| chunk.table.len()).sum();
        let has_grown = self.rows.room.max(size) != self.rows.room;
        if must(self.plan.reserve(size, pages)) || has_grown || self.recordings.len() >= MOST_RECORDINGS {
            must(self.rows.reserve(&self.config, size));
            self.recordings.clear();
        }
        let chosen = self.config.layers.iter().map(|layer| match layer {
            FeedForwardShape::Dense(_) => 1,
            FeedForwardShape::Sparse(sparse) => sparse.routing.chosen,
        });
        must(self.plan.write(chunks, chosen.max().unwrap_or(1)));
        self.now = Pass {
            size,
            counts: self.plan.all(),
            most: size.rows,
            x: self.rows.x.address,
            attended: self.rows.attended.address,
        };
        if let Some(recording) = self.recordings.get(&size) {
            must(self.gpu.replay(*recording));
            return Begun::Replayed;
        }
        if self.gpu.records() {
            must(self.gpu.record());
        }
        let kernel = self.of_cache("embed");
        let launch = Launch { kernel: &kernel, grid: [size.rows, 1, 1], threads: 256, shared: 0 };
        let (table, tokens) = (self.weights.embeddings.address, self.plan.tokens());
        must(
            run!(self.gpu, launch; self.now.x, table, tokens, self.now.counts.rows, self.config.hidden_size as i32),
        );
        Begun::Compute
    }

    fn norm(&mut self, norm: Norm) {
        let layers = &self.weights.layers;
        let (weight, is_routed) = match norm {
            Norm::Attention(layer) => (&layers[layer].input_norm, false),
            Norm::FeedForward(layer) => {
                (&layers[layer].post_norm, matches!(layers[layer].feed_forward, FeedForward::Sparse(_)))
            }
            Norm::Head => (&self.weights.norm, false),
        };
        let (kernel, width) = (self.of_precision("norm"), self.config.hidden_size);
        let stride = width.next_multiple_of(PADDING);
        let Pass { most, x, counts, .. } = self.now;
        let launch = Launch { kernel: &kernel, grid: [most, 1, 1], threads: 256, shared: 0 };
        let (y, scales) = (self.rows.rows.address, self.rows.scales.address);
        let normed = if is_routed { self.rows.normed.address } else { 0 };
        let (width, stride, eps) = (width as i32, stride as i32, self.config.rms_norm_eps);
        must(match self.quant {
            Quant::F32 | Quant::Bf16 => {
                run!(self.gpu, launch; y, normed, x, weight.address, counts.rows, width, stride, eps)
            }
            Quant::Q8 | Quant::Q4 => {
                run!(self.gpu, launch; y, scales, normed, x, weight.address, counts.rows, width, stride, eps)
            }
        });
    }

    fn project(&mut self, layer: usize) {
        let rows = &self.rows;
        let qkv = &self.weights.layers[layer].qkv;
        must(self.apply(qkv, Ending::Store, (&rows.rows, &rows.scales), rows.qkv.address));
    }

    fn place(&mut self, layer: usize, _chunks: &[Chunk]) {
        must(self.place_in_cache(layer));
    }

    fn attend(&mut self, layer: usize, _chunks: &[Chunk]) {
        must(self.attend_to(layer));
    }

    fn keep_wanted(&mut self, _chunks: &[Chunk]) {
        let (config, rows) = (&self.config, &self.rows);
        let (wanted, most, counts) = (self.plan.wanted(), self.now.size.wanted, self.plan.kept());
        let heads = config.num_attention_heads * config.head_dim;
        let launch = Launch { kernel: "keep_rows", grid: [most, 1, 1], threads: 256, shared: 0 };
        for (to, from, width) in
            [(&rows.kept, self.now.x, config.hidden_size), (&rows.kept_attended, self.now.attended, heads)]
        {
            must(run!(self.gpu, launch; to.address, from, wanted, counts.rows, width as i32));
        }
        let (x, attended) = (rows.kept.address, rows.kept_attended.address);
        self.now = Pass { counts, most, x, attended, ..self.now };
    }

    fn add_attended(&mut self, layer: usize) {
        let (rows, Pass { counts, most, x, attended, .. }) = (&self.rows, self.now);
        let output = &self.weights.layers[layer].output;
        must(self.to_rows((&rows.rows, &rows.scales), attended, counts.rows, most, output.form.input));
        must(self.apply(output, Ending::Add, (&rows.rows, &rows.scales), x));
    }

    fn add_feed_forward(&mut self, layer: usize, chunks: &[Chunk]) {
        assert!(
            chunks.iter().all(|chunk| chunk.adapter.is_none()),
            "adapters are refused where a GPU computes"
        );
        must(match &self.weights.layers[layer].feed_forward {
            FeedForward::Dense(dense) => self.dense(dense, Ending::Add, self.now.x),
            FeedForward::Sparse(sparse) => self.sparse(layer, sparse),
        });
    }

    fn end(&mut self) {
        if !self.gpu.records() {
            return;
        }
        let recording = must(self.gpu.recorded());
        must(self.gpu.replay(recording));
        self.recordings.insert(self.now.size, recording);
    }

    fn likeliest(&mut self, asked: &[Asked]) -> Vec<Likeliest> {
        if asked.is_empty() { Vec::new() } else { must(self.ask(asked)) }
    }

    fn logits(&mut self, rows: &[usize], read: Read) {
        must(self.read_logits(rows, read));
    }

    fn touched_bytes(&self) -> usize {
        let touched = must(self.touched_experts());
        let layers = self.weights.layers.iter().zip(touched).map(|(layer, touched)| {
            let feed_forward = match &layer.feed_forward {
                FeedForward::Dense(dense) => dense.bytes_of_one(),
                FeedForward::Sparse(sparse) => {
                    sparse.bytes_of_every_row() + touched * sparse.experts.bytes_of_one()
                }
            };
            layer.qkv.bytes_of_one() + layer.output.bytes_of_one() + feed_forward
        });
        layers.sum::<usize>() + self.weights.head.bytes_of_one()
    }
}

/// Returns what a device that works returns.
fn must<T>(done: Result<T, CudaError>) -> T {
    done.unwrap_or_else(|error| panic!("the GPU failed: {error}"))
}

/// Puts rows `x` `[count, width]` in the form that linear layers take, numbers and scales.
pub(super) fn to_rows(
    gpu: &Gpu,
    quant: Quant,
    to: (&Buffer, &Buffer),
    x: u64,
    count: u64,
    most: usize,
    width: usize,
) -> Result<(), CudaError> {
    let kernel = format!("rows_{}", linear::precision(quant));
    let stride = width.next_multiple_of(PADDING);
    let threads = if stride > ROW_OF_256_THREADS { 1024 } else { 256 };
    let launch = Launch { kernel: &kernel, grid: [most, 1, 1], threads, shared: 0 };
    let (width, stride) = (width as i32, stride as i32);
    match quant {
        Quant::F32 | Quant::Bf16 => run!(gpu, launch; to.0.address, x, count, width, stride),
        Quant::Q8 | Quant::Q4 => run!(gpu, launch; to.0.address, to.1.address, x, count, width, stride),
    }
}

/// Returns the most experts of a layer.
fn experts(config: &ModelConfig) -> usize {
    let of_layer = |layer: &FeedForwardShape| match layer {
        FeedForwardShape::Dense(_) => 0,
        FeedForwardShape::Sparse(sparse) => sparse.experts,
    };
    config.layers.iter().map(of_layer).max().unwrap_or(0)
}

/// Fails when the kernels do not take a shape.
fn check(config: &ModelConfig, quant: Quant) -> Result<(), CudaError> {
    let refuse =
        |is_refused: bool, what: String| if is_refused { Err(CudaError::Shape(what)) } else { Ok(()) };
    let head_dim = config.head_dim;
    let has_form = quant == Quant::F32 || matches!(head_dim, 16 | 32 | 64 | 128);
    refuse(!has_form, format!("a head of {head_dim} dimensions (16, 32, 64, 128 are)"))?;
    for layer in &config.layers {
        let FeedForwardShape::Sparse(sparse) = layer else { continue };
        let (experts, chosen) = (sparse.experts, sparse.routing.chosen);
        refuse(experts > 256, format!("a layer of {experts} experts (256 are)"))?;
        refuse(chosen > 16, format!("a row of {chosen} experts (16 are)"))?;
    }
    let widest = config.layers.iter().map(|layer| match layer {
        FeedForwardShape::Dense(width) => *width,
        FeedForwardShape::Sparse(sparse) => sparse.width.max(sparse.shared_width),
    });
    let (hidden, widest) = (config.hidden_size, widest.max().unwrap_or(0));
    refuse(hidden > ROW_OF_256_THREADS, format!("a row of {hidden} numbers ({ROW_OF_256_THREADS} are)"))?;
    refuse(widest > LONGEST_ROW, format!("a feed-forward width of {widest} ({LONGEST_ROW} is)"))
}
