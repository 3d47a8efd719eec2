//! What a GPU can do at most: how fast it copies memory and multiplies matrices.

use std::time::Instant;

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::model::linear::Quant;

/// What is copied: more than caches hold.
const COPIED_BYTES: usize = 1 << 30;
/// How often it is measured; the fastest counts.
const REPEAT: usize = 5;
/// Blocks and turns of the multiplying kernel: some tens of milliseconds.
const BLOCKS: usize = 2048;
const TURNS: i32 = 4096;
/// Instructions of a warp in a turn.
const CHAINS: usize = 8;

/// The limits of a GPU.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes read and written, each counted, while memory is copied.
    pub bytes_per_s: f64,
    /// Operations, two for each product, of the instruction that a precision uses.
    pub operations_per_s: f64,
}

/// Measures the limits for a precision, with as much memory as is free.
///
/// # Errors
/// When the GPU fails.
pub fn measure(gpu: &Gpu, quant: Quant) -> Result<Limits, CudaError> {
    let bytes = COPIED_BYTES.min(gpu.free_bytes()? / 4);
    let (from, to) = (Buffer::new(gpu, bytes)?, Buffer::new(gpu, bytes)?);
    let copied = fastest(gpu, || gpu.copy(to.address, from.address, bytes))?;
    let (kernel, products) = match quant {
        Quant::Q8 | Quant::Q4 => ("peak_s8", 16 * 8 * 32),
        Quant::F32 | Quant::Bf16 => ("peak_bf16", 16 * 8 * 16),
    };
    let launch = Launch { kernel, grid: [BLOCKS, 1, 1], threads: 256, shared: 0 };
    let out = Buffer::new(gpu, BLOCKS * 256 * size_of::<f32>())?;
    let multiplied = fastest(gpu, || run!(gpu, launch; out.address, TURNS))?;
    let operations = 2 * products * CHAINS * TURNS as usize * BLOCKS * (256 / 32);
    Ok(Limits { bytes_per_s: 2.0 * bytes as f64 / copied, operations_per_s: operations as f64 / multiplied })
}

/// Returns the seconds of the fastest of some runs.
fn fastest(gpu: &Gpu, run: impl Fn() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    let mut best = f64::INFINITY;
    for _ in 0..REPEAT {
        gpu.wait()?;
        let began = Instant::now();
        run()?;
        gpu.wait()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}
