//! What stands for a GPU where the engine is built without one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

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

impl CudaError {
    /// Returns whether the kernels do not take a shape.
    pub fn is_of_shape(&self) -> bool {
        false
    }
}

/// A GPU, of which there is none.
#[derive(Debug, Clone)]
pub struct Gpu(Infallible);

/// What is seen of a GPU's kernels.
#[derive(Debug, Clone)]
pub struct Watch(Infallible);

impl Watch {
    /// Cannot be called.
    pub fn take(&self) -> BTreeMap<String, (u64, Duration)> {
        match self.0 {}
    }
}

/// Cannot be called.
pub fn watch(gpu: Gpu) -> (Gpu, Watch) {
    match gpu.0 {}
}

/// Cannot be called.
///
/// # Errors
/// Never.
pub fn free_bytes(gpu: &Gpu) -> Result<usize, CudaError> {
    match gpu.0 {}
}

/// What a GPU can do at most.
pub mod limits {
    use super::CudaError;
    use super::Gpu;
    use crate::engine::model::linear::Quant;

    /// The limits of a GPU.
    #[derive(Debug, Clone, Copy)]
    pub struct Limits {
        /// Bytes read and written while memory is copied.
        pub bytes_per_s: f64,
        /// Operations of matrix products.
        pub operations_per_s: f64,
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn measure(gpu: &Gpu, _quant: Quant) -> Result<Limits, CudaError> {
        match gpu.0 {}
    }
}

/// The trainer on a GPU.
pub mod train {
    use std::convert::Infallible;
    use std::ops::Range;

    use super::CudaError;
    use super::Gpu;
    use crate::engine::model::llada2::Llada2Config;
    use crate::engine::train::batch::Batch;
    use crate::engine::train::layout::Layout;
    use crate::engine::train::network::How;
    use crate::engine::train::network::Passed;

    /// Gets a part's place among the parameters and the address of its gradients.
    pub type Done<'a> = &'a mut dyn FnMut(Range<usize>, u64) -> Result<(), CudaError>;

    /// A GPU that trains, of which there is none.
    #[derive(Debug)]
    pub struct Trainer(Infallible);

    impl Trainer {
        /// Cannot be called; so with the others.
        ///
        /// # Errors
        /// Never.
        pub fn new(gpu: Gpu, _config: &Llada2Config, _layout: &Layout) -> Result<Trainer, CudaError> {
            match gpu.0 {}
        }

        /// Cannot be called.
        pub fn device(&self) -> String {
            match self.0 {}
        }

        /// Cannot be called.
        pub fn activation_bytes(&self) -> usize {
            match self.0 {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// Never.
        pub fn set(&mut self, _parameters: &[f32]) -> Result<(), CudaError> {
            match self.0 {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// Never.
        pub fn get(&self, _parameters: &mut [f32]) -> Result<(), CudaError> {
            match self.0 {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// Never.
        pub fn take_gradients(&self, _gradients: &mut [f32]) -> Result<(), CudaError> {
            match self.0 {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// Never.
        pub fn evaluate(&mut self, _: &Batch, _: &[Vec<f32>], _: How) -> Result<Passed, CudaError> {
            match self.0 {}
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// Never.
        pub fn accumulate(
            &mut self,
            _batch: &Batch,
            _bias: &[Vec<f32>],
            _how: How,
            _scale: f32,
            _done: Option<Done>,
        ) -> Result<Passed, CudaError> {
            match self.0 {}
        }
    }

    /// A rank's part of a step.
    pub mod shard {
        use std::convert::Infallible;

        use super::CudaError;
        use super::Trainer;
        use crate::engine::train::batch::Batch;
        use crate::engine::train::loss::Loss;
        use crate::engine::train::memory::Memory;
        use crate::engine::train::network::Network;
        use crate::engine::train::optimizer::Optimizer;
        use crate::engine::train::optimizer::Update;
        use crate::engine::train::ownership::Ownership;
        use crate::engine::train::shards::Sharding;

        /// What a rank keeps on its GPU, of which there is none.
        #[derive(Debug)]
        pub struct Shard(Infallible);

        impl Shard {
            /// Cannot be called; so with the others.
            ///
            /// # Errors
            /// Never.
            pub fn new(
                trainer: &mut Trainer,
                _sharding: &Sharding,
                _ownership: &Ownership,
                _optimizer: &Optimizer,
                _longest: usize,
            ) -> Result<Shard, CudaError> {
                match trainer.0 {}
            }

            /// Cannot be called.
            ///
            /// # Errors
            /// Never.
            pub fn accumulate(&mut self, _: &mut Network, _: &[Batch], _: f32) -> Result<Loss, CudaError> {
                match self.0 {}
            }

            /// Cannot be called.
            ///
            /// # Errors
            /// Never.
            pub fn square(&self, _: &mut Network) -> Result<f64, CudaError> {
                match self.0 {}
            }

            /// Cannot be called.
            ///
            /// # Errors
            /// Never.
            pub fn step(&mut self, _: &mut Network, _: &Optimizer, _: Update) -> Result<(), CudaError> {
                match self.0 {}
            }

            /// Cannot be called.
            ///
            /// # Errors
            /// Never.
            pub fn fetch(&self, _: &mut Optimizer) -> Result<(), CudaError> {
                match self.0 {}
            }

            /// Cannot be called.
            pub fn memory(&self, _: &mut Network) -> Memory {
                match self.0 {}
            }
        }
    }
}

/// Fails.
///
/// # Errors
/// Always.
pub fn open(_nth: usize) -> Result<Gpu, CudaError> {
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
    match gpu.0 {}
}
