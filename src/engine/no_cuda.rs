//! What stands for a GPU where the engine is built without one.

use crate::engine::config::ModelConfig;
use crate::engine::model::forward::Backend;
use crate::engine::model::linear::Quant;
use crate::engine::weights::Weights;

/// Whether GPUs are used at all.
pub const IS_BUILT: bool = false;

/// Says that there is no GPU to use.
#[derive(Debug, thiserror::Error)]
#[error("this program is built without CUDA; build it with `cargo build --release --features cuda`")]
pub struct CudaError;

/// A GPU, of which there is none.
#[derive(Debug)]
pub enum Gpu {}

/// Fails.
///
/// # Errors
/// Always.
pub fn open() -> Result<Gpu, CudaError> {
    Err(CudaError)
}

/// Cannot be called.
///
/// # Errors
/// Never.
pub fn load(
    gpu: Gpu,
    _config: ModelConfig,
    _weights: &Weights,
    _quant: Quant,
    _progress: impl FnMut(usize, usize),
) -> Result<Box<dyn Backend>, CudaError> {
    match gpu {}
}
