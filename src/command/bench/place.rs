//! Where `bench engine` measures: the processor or a GPU with a model, what it can do at most, and what is seen of it.

use crate::command::bench::machine::Limits;
use crate::command::bench::machine::available_bytes;
use crate::command::loading;
use crate::engine::config::ModelConfig;
use crate::engine::cuda;
use crate::engine::cuda::Gpu;
use crate::engine::cuda::Watch;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::kv_cache::KvCache;
use crate::engine::model::linear::Quant;
use crate::engine::model::transformer::Model;
use crate::engine::runner::Runner;
use crate::engine::weights::Weights;

/// Beside weights and cache: what measuring and the buffers of a pass take.
const SPARE_BYTES: usize = 768 << 20;
/// The same on a GPU.
const SPARE_BYTES_GPU: usize = 6 << 30;
/// Rows of a step while prompts are read, when nobody says how many.
const STEP_ROWS: usize = 256;
/// The same on a GPU, which wants more to do at a time.
const STEP_ROWS_GPU: usize = 2048;

/// What a place is made for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where it computes.
    pub device: Device,
    /// The shapes.
    pub config: &'a ModelConfig,
    /// The numbers.
    pub weights: &'a Weights,
    /// Their precision.
    pub quant: Quant,
    /// The most positions of all sequences together.
    pub positions: usize,
    /// Rows of a step while prompts are read.
    pub step_rows: Option<usize>,
    /// Whether each kernel is watched.
    pub is_watched: bool,
}

/// What computes, and what it can do at most.
pub struct Place {
    /// The model, with a cache that every measurement makes anew.
    pub runner: Runner,
    /// What it can do at most.
    pub limits: Limits,
    /// Threads of the processor.
    pub threads: usize,
    /// What computes, in a word.
    pub device: String,
    /// Bytes of the weights.
    pub weight_bytes: usize,
    /// Bytes that there are for keys and values, where that is not known before.
    pub cache_bytes: Option<usize>,
    /// Rows of a step while prompts are read.
    pub step_rows: usize,
    /// What is seen of a GPU's kernels.
    pub watch: Option<Watch>,
    /// The GPU, where one computes.
    pub gpu: Option<Gpu>,
}

impl Place {
    /// Loads the model to where it is wanted.
    ///
    /// # Errors
    /// When the device cannot be used, or the machine cannot hold so much.
    pub fn new(wanted: Wanted) -> anyhow::Result<Place> {
        match device::gpu(wanted.device, 0)? {
            Some(gpu) => {
                let measured = cuda::limits::measure(&gpu, wanted.quant)?;
                Place::on_gpu(wanted, gpu, measured)
            }
            None => Place::on_processor(wanted),
        }
    }

    fn on_processor(wanted: Wanted) -> anyhow::Result<Place> {
        anyhow::ensure!(!wanted.is_watched, "--profile tells of a GPU's kernels, and there is no GPU");
        let Wanted { config, weights, quant, .. } = wanted;
        let cache_bytes = wanted.positions * KvCache::bytes_per_position(config);
        let weight_bytes = Model::bytes_of(config, quant);
        check_memory(weight_bytes + cache_bytes, available_bytes())?;
        let limits = Limits::measure();
        let backend = device::load(Device::Cpu, config.clone(), weights, quant, loading::bar())?;
        Ok(Place {
            limits,
            threads: rayon::current_num_threads(),
            device: backend.device(),
            weight_bytes,
            cache_bytes: None,
            step_rows: wanted.step_rows.unwrap_or(STEP_ROWS),
            watch: None,
            gpu: None,
            runner: Runner::new(backend, 0),
        })
    }

    /// Loads the model to a GPU whose limits were measured.
    ///
    /// # Errors
    /// When the GPU has too little memory, or no kernels for the shape.
    pub fn on_gpu(wanted: Wanted, gpu: Gpu, measured: cuda::limits::Limits) -> anyhow::Result<Place> {
        let (used, watch) = if wanted.is_watched {
            let (watched, watch) = cuda::watch(gpu.clone());
            (watched, Some(watch))
        } else {
            (gpu.clone(), None)
        };
        let Wanted { config, weights, quant, .. } = wanted;
        let backend = cuda::load(used, config.clone(), weights, quant, loading::bar())?;
        Ok(Place {
            limits: Limits {
                copy_gb_per_s: measured.bytes_per_s / 1e9,
                read_gb_per_s: measured.bytes_per_s / 1e9,
                matrix_gop_per_s: measured.operations_per_s / 1e9,
            },
            threads: rayon::current_num_threads(),
            device: backend.device(),
            weight_bytes: backend.weight_bytes(),
            cache_bytes: Some(cuda::free_bytes(&gpu)?.saturating_sub(SPARE_BYTES_GPU)),
            step_rows: wanted.step_rows.unwrap_or(STEP_ROWS_GPU),
            watch,
            gpu: Some(gpu),
            runner: Runner::new(backend, 0),
        })
    }

    /// Returns how many bytes of a GPU's memory are free.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn free_bytes(&self) -> anyhow::Result<Option<usize>> {
        Ok(self.gpu.as_ref().map(cuda::free_bytes).transpose()?)
    }
}

/// Fails when the machine cannot hold so much, where it says how much it can.
fn check_memory(needed: usize, available: Option<usize>) -> anyhow::Result<()> {
    let Some(available) = available else { return Ok(()) };
    let gb = |bytes: usize| bytes as f64 / 1e9;
    anyhow::ensure!(
        needed + SPARE_BYTES <= available,
        "weights and cache take {:.1} GB, and {:.1} GB of memory are available; \
         try --quant q4, a smaller --batch or fewer --layers",
        gb(needed + SPARE_BYTES),
        gb(available)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_what_to_do() {
        assert!(check_memory(8 << 30, Some(9 << 30)).is_ok());
        assert!(check_memory(8 << 30, None).is_ok());
        let error = check_memory(16_000_000_000, Some(8_000_000_000)).unwrap_err().to_string();
        assert!(error.contains("16.8 GB") && error.contains("8.0 GB") && error.contains("--quant q4"));
    }
}
