//! The trainer's kernels, one function each where their launch needs a thought: grids, and where results go.

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Plain;
use crate::engine::ops::matmul::Precision;

/// Threads of most blocks.
pub const THREADS: usize = 256;
/// Blocks of a kernel that goes through any number of numbers.
pub const BLOCKS: usize = 1024;
/// Rows whose gradients of a norm's weight a block sums: `PART_ROWS` in `kernels/train/rows.cu`.
const PART_ROWS: usize = 16;
/// Outputs and rows of a block of products: `TILE` in `kernels/train/gemm.cu`.
const TILE: usize = 64;
/// The most tiles of rows that are launched; blocks go on to further ones by themselves.
const MOST_TILES: usize = 1024;

/// A product's arguments: `Product` in `kernels/train/gemm.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Product {
    /// The rows.
    pub a: u64,
    /// The weight, or in a weight's gradient the other rows.
    pub b: u64,
    /// The result.
    pub c: u64,
    /// Which rows of a; 0 for their own numbers.
    pub a_rows: u64,
    /// Which rows of b.
    pub b_rows: u64,
    /// Where the slots of each expert begin; 0 for one product.
    pub bounds: u64,
    /// Numbers from one expert's weight to the next.
    pub b_of_expert: i64,
    /// The same in a weight's gradient.
    pub c_of_expert: i64,
    /// Rows of the result.
    pub rows: i32,
    /// Its columns.
    pub columns: i32,
    /// What is summed over.
    pub depth: i32,
    /// Numbers from one row of a to the next.
    pub a_stride: i32,
    /// The same of b.
    pub b_stride: i32,
    /// The same of c.
    pub c_stride: i32,
    /// Whether the result is added.
    pub is_added: i32,
    /// Multiplies the sums.
    pub scale: f32,
    /// Nothing.
    pub gap: i32,
    /// Nothing: the struct's length is a multiple of eight.
    pub end: i32,
}

/// What attention is told: `TrainHeads` in `kernels/train/attention.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct TrainHeads {
    /// Query heads.
    pub heads: i32,
    /// Heads of keys and values.
    pub kv_heads: i32,
    /// Width of a head.
    pub head_dim: i32,
    /// Tokens of a block.
    pub block: i32,
    /// Tokens of a stream.
    pub tokens: i32,
    /// Rows with queries.
    pub rows: i32,
    /// Rows with keys.
    pub all: i32,
    /// Whether there are two streams.
    pub is_paired: i32,
    /// Multiplies the scores.
    pub scale: f32,
}

/// The loss of a target: `TrainLoss` in `kernels/train/rows.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct TargetLoss {
    /// Weight times cross-entropy.
    pub weighted: f32,
    /// Its weight.
    pub weight: f32,
    /// Its cross-entropy in nats.
    pub nats: f32,
    /// 1 when no other token is likelier.
    pub hit: f32,
}

impl Plain for Product {}
impl Plain for TrainHeads {}
impl Plain for TargetLoss {}

/// Which product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of rows with a weight.
    Linear,
    /// The gradient of the rows.
    Input,
    /// The gradient of the weight.
    Weight,
}

/// Memory that is handed out from the beginning in every pass: the same places for the same purposes.
#[derive(Debug, Default)]
pub struct Arena {
    buffers: Vec<Buffer>,
    next: usize,
}

impl Arena {
    /// Begins anew.
    pub fn begin(&mut self) {
        self.next = 0;
    }

    /// Returns where the arena is.
    pub fn mark(&self) -> usize {
        self.next
    }

    /// Goes back to where the arena was: what was taken since is handed out again.
    pub fn back_to(&mut self, mark: usize) {
        self.next = mark;
    }

    /// Returns the address of `count` numbers of four bytes, of any content.
    ///
    /// # Errors
    /// When the GPU has too little memory.
    pub fn take(&mut self, gpu: &Gpu, count: usize) -> Result<u64, CudaError> {
        let bytes = count * size_of::<f32>();
        if self.next == self.buffers.len() {
            self.buffers.push(Buffer::new(gpu, bytes)?);
        } else {
            self.buffers[self.next].reserve(bytes)?;
        }
        self.next += 1;
        Ok(self.buffers[self.next - 1].address)
    }

    /// Returns how many bytes there are.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().map(|buffer| buffer.bytes).sum()
    }
}

/// Returns a launch of blocks of 256 threads.
pub fn blocks(kernel: &str, x: usize) -> Launch<'_> {
    Launch { kernel, grid: [x.max(1), 1, 1], threads: THREADS, shared: 0 }
}

/// Runs a product, of `experts` weights.
///
/// # Errors
/// When the launch fails; so with the others.
pub fn product(
    gpu: &Gpu,
    kind: Kind,
    precision: Precision,
    product: Product,
    experts: usize,
) -> Result<(), CudaError> {
    let name = match kind {
        Kind::Linear => "linear",
        Kind::Input => "input",
        Kind::Weight => "weight",
    };
    let rounding = match precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let kernel = format!("train_{name}_{rounding}");
    let (columns, rows) = (product.columns as usize, product.rows as usize);
    if columns == 0 || rows == 0 {
        return Ok(());
    }
    let grid = [columns.div_ceil(TILE), rows.div_ceil(TILE).min(MOST_TILES), experts];
    let launch = Launch { kernel: &kernel, grid, threads: 128, shared: 0 };
    run!(gpu, launch; product)
}

/// Adds the gradients of a norm to `dx` and `dweight`; `partial` has room for a row of each part.
#[allow(clippy::too_many_arguments)]
pub fn norm_backward(
    gpu: &Gpu,
    dx: u64,
    dweight: u64,
    partial: u64,
    [dy, x, weight]: [u64; 3],
    rows: usize,
    width: usize,
    eps: f32,
) -> Result<(), CudaError> {
    let parts = rows.div_ceil(PART_ROWS);
    let launch = Launch { shared: 4 * width, ..blocks("train_norm_backward", parts) };
    run!(gpu, launch; dx, partial, dy, x, weight, rows as i32, width as i32, eps)?;
    let launch = blocks("train_norm_reduce", width.div_ceil(32));
    run!(gpu, launch; dweight, partial, parts as i32, width as i32)
}

/// Returns how many parts rows fall into when a norm's gradient is summed.
pub fn parts(rows: usize) -> usize {
    rows.div_ceil(PART_ROWS)
}

/// Returns the launch of one of attention's kernels, over a grid of tiles of 64 of the `tokens` tokens of each
/// stream that `count` rows are of.
pub fn attention<'a>(kernel: &'a str, shape: &TrainHeads, heads: i32, count: i32) -> Launch<'a> {
    let head_dim = shape.head_dim as usize;
    let others = if head_dim <= 64 { 64 } else { 32 };
    let stride = 4 * ((head_dim / 4) | 1);
    let own = if kernel == "train_attend" { 64 } else { 128 };
    let shared = 4 * ((own + others) * stride + 64 * (others + 4));
    let tiles = (shape.tokens as usize).div_ceil(64) * (count / shape.tokens) as usize;
    Launch { kernel, grid: [heads as usize, tiles, 1], threads: THREADS, shared }
}
