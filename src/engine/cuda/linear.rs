//! Linear layers on a GPU: which form of the kernel, on which grid.
//!
//! Forms differ in how many rows and outputs a block takes; none of them changes a row's result.

use crate::engine::cuda::arguments::LinearArguments;
use crate::engine::cuda::arguments::PEAK_BYTES;
use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::pack::TILE;
use crate::engine::cuda::weights::Weight;
use crate::engine::model::linear::Quant;

/// What becomes of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// They replace y.
    Store,
    /// They are added to y.
    Add,
    /// `silu(gate) · up` replaces y.
    Gated,
    /// Of each row and some tokens the likeliest goes to the peaks.
    Head,
}

/// What a layer works on: addresses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Operands {
    /// Rows.
    pub x: u64,
    /// Their scales.
    pub x_scales: u64,
    /// The result.
    pub y: u64,
    /// The head's result.
    pub peaks: u64,
    /// Where the rows of each weight begin, and the end of the last's.
    pub bounds: u64,
    /// Which rows of x they are; 0 for their own numbers.
    pub gather: u64,
    /// Where the closed tokens of each row begin.
    pub closed_starts: u64,
    /// The closed tokens.
    pub closed: u64,
}

/// A form of the kernel: `LINEARS` in `kernels/linear.cu`.
#[derive(Debug, Clone, Copy)]
struct Block {
    name: &'static str,
    /// Tiles of outputs.
    tiles: usize,
    /// Rows.
    rows: usize,
    /// Bytes of dynamic shared memory.
    shared: usize,
}

const WARPS: usize = 8;
/// Rows of a matrix instruction.
const COLUMNS: usize = 8;

impl Block {
    /// Returns the form with M tiles, N instructions side by side and U steps of a warp in a stage, of which
    /// `together` tiles are finished at a time.
    const fn new(name: &'static str, tiles: usize, columns: usize, steps: usize, together: usize) -> Block {
        let rows = columns * COLUMNS;
        let stages = 2 * rows * (WARPS * steps * 32 + 16);
        let sums = WARPS * together * columns * 4 * 32 * size_of::<f32>();
        Block { name, tiles, rows, shared: if stages > sums { stages } else { sums } }
    }

    /// Returns the form for so many rows of a weight.
    fn of(quant: Quant, ending: Ending, rows: usize) -> Block {
        if quant == Quant::F32 {
            let (name, tiles) = match ending {
                Ending::Store => ("store", 1),
                Ending::Add => ("add", 1),
                Ending::Gated => ("gated", 2),
                Ending::Head => ("head", 1),
            };
            return Block { name, tiles, rows: 16, shared: 0 };
        }
        match (ending, rows) {
            (Ending::Store, 0..=4) => Block::new("store_few", 1, 1, 4, 1),
            (Ending::Store, 5..=64) => Block::new("store_some", 1, 4, 4, 1),
            (Ending::Store, _) => Block::new("store_many", 4, 8, 1, 1),
            (Ending::Add, 0..=64) => Block::new("add_some", 1, 4, 4, 1),
            (Ending::Add, _) => Block::new("add_many", 4, 8, 1, 1),
            (Ending::Gated, 0..=4) => Block::new("gated_few", 2, 1, 4, 2),
            (Ending::Gated, 5..=64) => Block::new("gated_some", 2, 4, 2, 2),
            (Ending::Gated, _) => Block::new("gated_many", 4, 8, 1, 2),
            (Ending::Head, _) => Block::new("head_some", 4, 4, 1, 1),
        }
    }
}

/// Lets a weight, or that of each expert, work on at most `most` rows together.
///
/// # Errors
/// When the launch fails.
pub fn apply(
    gpu: &Gpu,
    weight: &Weight,
    ending: Ending,
    operands: Operands,
    most: usize,
) -> Result<(), CudaError> {
    let form = weight.form;
    // Experts get unequal shares: a block goes on to its expert's next rows by itself.
    let each = most.div_ceil(weight.count);
    let block = Block::of(form.quant, ending, each);
    let kernel = format!("linear_{}_{}", precision(form.quant), block.name);
    let launch = Launch {
        kernel: &kernel,
        grid: [form.tiles().div_ceil(block.tiles), weight.count, each.div_ceil(block.rows)],
        threads: 256,
        shared: block.shared,
    };
    let Operands { x, x_scales, y, peaks, bounds, gather, closed_starts, closed } = operands;
    let arguments = LinearArguments {
        one: weight.address,
        many: weight.table.as_ref().map_or(0, |table| table.address),
        bounds,
        gather,
        x,
        x_scales,
        y,
        peaks,
        closed_starts,
        closed,
        steps: form.steps() as i32,
        outputs: form.outputs as i32,
        tiles: form.tiles() as i32,
        gap: 0,
    };
    run!(gpu, launch; arguments)
}

/// Returns what kernels' names call a precision.
pub fn precision(quant: Quant) -> &'static str {
    match quant {
        Quant::F32 => "f32",
        Quant::Bf16 => "bf16",
        Quant::Q8 => "q8",
        Quant::Q4 => "q4",
    }
}

/// Returns in how many parts the head looks at its tokens.
pub fn groups(head: &Weight) -> usize {
    head.form.outputs.div_ceil(TILE).div_ceil(Block::of(head.form.quant, Ending::Head, 1).tiles)
}

/// Returns how many bytes the head's peaks of a row take.
pub fn peak_bytes(head: &Weight) -> usize {
    groups(head) * PEAK_BYTES
}
