//! Forward passes on an NVIDIA GPU, from `kernels/*.cu`.
//!
//! In reading order: [`machine`] (what kernels run on) with the [`driver`]'s, [`arguments`] (what they are given),
//! [`pack`] (weights as they read them) and [`weights`], [`plan`] (what a pass works on), [`linear`] (which form of
//! the matrix kernel) and [`backend`] (the operations of a pass) with its buffers, experts and head; beside them [`train`] (the trainer's pass), [`limits`] and [`watched`] (how fast it
//! could be, and is) and [`nccl`] (how several exchange numbers). Tests run the same kernels on the processor.

pub mod arguments;
pub mod backend;
mod buffers;
pub mod driver;
#[cfg(test)]
pub mod emulator;
mod experts;
mod head;
pub mod limits;
pub mod linear;
pub mod machine;
mod nccl;
pub mod pack;
pub mod plan;
#[cfg(test)]
mod tests;
pub mod train;
pub mod watched;
pub mod weights;

pub use driver::open;
pub use machine::CudaError;
pub use machine::Gpu;
pub use watched::Watch;
pub use watched::watch;

use crate::engine::config::ModelConfig;
use crate::engine::cuda::backend::Cuda;
use crate::engine::model::forward::Backend;
use crate::engine::model::linear::Quant;
use crate::engine::weights::Weights;

/// Whether GPUs are used at all.
pub const IS_BUILT: bool = true;

/// Returns how many bytes of a GPU's memory are free.
///
/// # Errors
/// When the GPU fails.
pub fn free_bytes(gpu: &Gpu) -> Result<usize, CudaError> {
    gpu.free_bytes()
}

/// Loads a model to a GPU; `progress` is told of each layer and of how many.
///
/// # Errors
/// As [`Cuda::load`].
pub fn load(
    gpu: Gpu,
    config: ModelConfig,
    weights: &Weights,
    quant: Quant,
    progress: impl FnMut(usize, usize),
) -> Result<Box<dyn Backend>, CudaError> {
    Ok(Box::new(Cuda::load(gpu, config, weights, quant, progress)?))
}
