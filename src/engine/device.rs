//! Where a model is computed, and what computes it there.

use serde::Deserialize;
use serde::Serialize;

use crate::engine::config::ModelConfig;
use crate::engine::cuda;
use crate::engine::cuda::CudaError;
use crate::engine::cuda::Gpu;
use crate::engine::model::cpu::Cpu;
use crate::engine::model::forward::Backend;
use crate::engine::model::linear::Quant;
use crate::engine::model::transformer::Model;
use crate::engine::train::network::Network;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;

/// Where a model is computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// On a GPU where one can be used, else on the processor.
    #[default]
    Auto,
    /// On the processor.
    Cpu,
    /// On the first GPU; an error where there is none.
    Cuda,
}

/// Says why a model cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The GPU cannot be used.
    #[error("cannot use a GPU: {0}")]
    Cuda(#[from] CudaError),
    /// The processor does not compute in this precision.
    #[error("{0:?} weights are for a GPU only; the processor takes F32, Q8 or Q4")]
    Precision(Quant),
}

/// Loads a model to a device; `progress` is told of each layer and of how many.
///
/// # Errors
/// When the weights do not fit the shapes, or the device that was asked for cannot be used.
///
/// # Blocking
/// As long as reading and packing the weights takes.
pub fn load(
    device: Device,
    config: ModelConfig,
    weights: &Weights,
    quant: Quant,
    mut progress: impl FnMut(usize, usize),
) -> Result<Box<dyn Backend>, DeviceError> {
    if let Some(gpu) = gpu(device, 0)? {
        match cuda::load(gpu, config.clone(), weights, quant, &mut progress) {
            Ok(backend) => {
                tracing::info!(device = backend.device(), "the model runs on a GPU");
                return Ok(backend);
            }
            Err(error) => leave(device, error)?,
        }
    }
    if quant == Quant::Bf16 {
        return Err(DeviceError::Precision(quant));
    }
    Ok(Box::new(Cpu::new(Model::load(config, weights, quant, progress)?)))
}

/// Returns what a device that works returns.
///
/// # Panics
/// When it failed.
pub fn must<T>(done: Result<T, CudaError>) -> T {
    done.unwrap_or_else(|error| panic!("the GPU failed: {error}"))
}

/// Lets the passes of training be computed on a device: of several GPUs the `nth`, counted round.
///
/// # Errors
/// When the GPU that was asked for cannot be used.
pub fn train_on(device: Device, network: &mut Network, nth: usize) -> Result<(), DeviceError> {
    let Some(gpu) = gpu(device, nth)? else { return Ok(()) };
    match cuda::train::Trainer::new(gpu, &network.config, &network.layout) {
        Ok(trainer) => {
            network.compute_on(trainer);
            tracing::info!(device = network.device(), "training runs on a GPU");
            Ok(())
        }
        Err(error) => leave(device, error),
    }
}

/// Goes on with the processor where any device will do and the GPU has no kernels for a shape.
fn leave(device: Device, error: CudaError) -> Result<(), DeviceError> {
    if device != Device::Auto || !error.is_of_shape() {
        return Err(error.into());
    }
    tracing::info!("no GPU is used, the processor computes: {error}");
    Ok(())
}

/// Returns the GPU that is to be used, if one is: of several the `nth`, counted round.
///
/// # Errors
/// When the GPU that was asked for cannot be used.
pub fn gpu(device: Device, nth: usize) -> Result<Option<Gpu>, CudaError> {
    match device {
        Device::Cpu => Ok(None),
        Device::Cuda => Ok(Some(cuda::open(nth)?)),
        Device::Auto if !cuda::IS_BUILT => Ok(None),
        Device::Auto => match cuda::open(nth) {
            Ok(gpu) => Ok(Some(gpu)),
            Err(error) => {
                tracing::info!("no GPU is used, the processor computes: {error}");
                Ok(None)
            }
        },
    }
}
