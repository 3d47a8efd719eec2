//! The operations of a forward pass on a GPU: one launch each, or a few, recorded and run again.
//!
//! Nothing is read back within a pass. The first pass of a form records its launches (a CUDA graph); later ones
//! of the same form copy their plan and run the recording. Grids are made for the form's size, kernels read the
//! true counts from the plan.

use std::collections::HashMap;

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::QueryKeyNorm;
use crate::engine::cuda::arguments::AttendShape;
use crate::engine::cuda::arguments::RopeShape;
use crate::engine::cuda::arguments::run;
use crate::engine::cuda::buffers::Buffers;
use crate::engine::cuda::buffers::SPLITS;
use crate::engine::cuda::experts::experts;
use crate::engine::cuda::linear;
use crate::engine::cuda::linear::Ending;
use crate::engine::cuda::linear::Operands;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Recording;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::pack::PADDING;
use crate::engine::cuda::plan::Counts;
use crate::engine::cuda::plan::Plan;
use crate::engine::cuda::plan::Size;
use crate::engine::cuda::weights::FeedForward;
use crate::engine::cuda::weights::Weight;
use crate::engine::cuda::weights::Weights;
use crate::engine::device::must;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Backend;
use crate::engine::model::forward::Begun;
use crate::engine::model::forward::Chunk;
use crate::engine::model::forward::Norm;
use crate::engine::model::forward::Read;
use crate::engine::model::head::Likeliest;
use crate::engine::model::linear::Quant;
use crate::engine::ops::rope;
use crate::engine::weights;

/// Query rows of a block of attention.
const ATTENTION_TILE: usize = 64;
/// Blocks of attention that keep a GPU busy; with more pieces each takes several splits.
const ATTENTION_BLOCKS: usize = 1024;
/// Numbers of a row that 256 threads hold in registers.
const ROW_OF_256_THREADS: usize = 8192;
/// The same of as many threads as a block may have.
const LONGEST_ROW: usize = 4 * ROW_OF_256_THREADS;
/// Recordings that are kept; forms are few, but nothing keeps a caller from making many.
const MOST_RECORDINGS: usize = 256;

/// A GPU with a model.
#[derive(Debug)]
pub struct Cuda {
    pub(super) gpu: Gpu,
    pub(super) config: ModelConfig,
    pub(super) quant: Quant,
    pub(super) weights: Weights,
    cache: Buffer,
    frequencies: Buffer,
    pub(super) plan: Plan,
    pub(super) rows: Buffers,
    /// Of each sparse layer where the slots of each expert begin, `[layers, experts + 1]`.
    pub(super) starts: Buffer,
    recordings: HashMap<Size, Recording>,
    pub(super) now: Pass,
}

/// The pass under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) size: Size,
    pub(super) counts: Counts,
    /// The most rows that are left.
    pub(super) most: usize,
    pub(super) x: u64,
    pub(super) attended: u64,
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
        let frequencies = rope::frequencies(config.rotary_dim, config.rope_theta);
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

    pub(super) fn to_rows(
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
    pub(super) fn apply(
        &self,
        weight: &Weight,
        ending: Ending,
        x: (&Buffer, &Buffer),
        y: u64,
    ) -> Result<(), CudaError> {
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
}

impl Backend for Cuda {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn device(&self) -> String {
        self.gpu.name()
    }

    fn takes_adapters(&self) -> bool {
        false
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

    fn begin(&mut self, chunks: &[Chunk], asked: &[Asked]) -> Begun {
        let size = Size::of(chunks, asked);
        let has_grown = self.rows.room.max(size) != self.rows.room;
        if must(self.plan.reserve(size, chunks, asked))
            || has_grown
            || self.recordings.len() >= MOST_RECORDINGS
        {
            must(self.rows.reserve(&self.config, size));
            must(self.reserve_answers(self.rows.room.asked));
            self.recordings.clear();
        }
        let chosen = self.config.layers.iter().map(|layer| match layer {
            FeedForwardShape::Dense(_) => 1,
            FeedForwardShape::Sparse(sparse) => sparse.routing.chosen,
        });
        must(self.plan.write(chunks, asked, chosen.max().unwrap_or(1)));
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
        if self.now.size.asked > 0 {
            must(self.ask());
        }
        if !self.gpu.records() {
            return;
        }
        let recording = must(self.gpu.recorded());
        must(self.gpu.replay(recording));
        self.recordings.insert(self.now.size, recording);
    }

    fn likeliest(&mut self, asked: &[Asked]) -> Vec<Likeliest> {
        if asked.is_empty() { Vec::new() } else { must(self.answers(asked.len())) }
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
