//! Where a model is computed, and what computes it there.

use serde::Deserialize;
use serde::Serialize;

use crate::engine::config::ModelConfig;
use crate::engine::cuda;
use crate::engine::cuda::CudaError;
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
    progress: impl FnMut(usize, usize),
) -> Result<Box<dyn Backend>, DeviceError> {
    match device {
        Device::Cpu => {}
        Device::Cuda => return Ok(cuda::load(cuda::open(0)?, config, weights, quant, progress)?),
        Device::Auto if cuda::IS_BUILT => match cuda::open(0) {
            Ok(gpu) => return Ok(cuda::load(gpu, config, weights, quant, progress)?),
            Err(error) => tracing::info!("no GPU is used, the model runs on the processor: {error}"),
        },
        Device::Auto => {}
    }
    if quant == Quant::Bf16 {
        return Err(DeviceError::Precision(quant));
    }
    Ok(Box::new(Cpu::new(Model::load(config, weights, quant, progress)?)))
}

/// Lets the passes of training be computed on a device: of several GPUs the `nth`, counted round.
///
/// # Errors
/// When the GPU that was asked for cannot be used.
pub fn train_on(device: Device, network: &mut Network, nth: usize) -> Result<(), DeviceError> {
    let gpu = match device {
        Device::Cpu => return Ok(()),
        Device::Cuda => cuda::open(nth)?,
        Device::Auto if !cuda::IS_BUILT => return Ok(()),
        Device::Auto => match cuda::open(nth) {
            Ok(gpu) => gpu,
            Err(error) => {
                tracing::info!("no GPU is used, training runs on the processor: {error}");
                return Ok(());
            }
        },
    };
    network.compute_on(cuda::train::Trainer::new(gpu, &network.config, &network.layout)?);
    Ok(())
}
