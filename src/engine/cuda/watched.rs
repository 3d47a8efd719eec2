//! A GPU that is watched: how long each kernel takes, one at a time, with nothing recorded.
//!
//! Each launch is waited for, so every figure has the launch's own few microseconds in it; their sum is more than
//! the time of a recorded pass.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Machine;
use crate::engine::cuda::machine::Recording;
use crate::engine::cuda::machine::Stream;

/// Launches of each kernel, and how long they took together.
type Seen = BTreeMap<String, (u64, Duration)>;

/// What is seen of a GPU's kernels.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    /// Returns what was seen since the last call: launches of each kernel, and how long they took together.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A watched GPU.
#[derive(Debug)]
struct Watched {
    gpu: Gpu,
    watch: Watch,
}

/// Returns a GPU that is watched, and what is seen of it.
pub fn watch(gpu: Gpu) -> (Gpu, Watch) {
    let watch = Watch::default();
    (Arc::new(Watched { gpu, watch: watch.clone() }), watch)
}

impl Machine for Watched {
    fn name(&self) -> String {
        self.gpu.name()
    }

    fn free_bytes(&self) -> Result<usize, CudaError> {
        self.gpu.free_bytes()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.gpu.allocate(bytes)
    }

    fn free(&self, address: u64) {
        self.gpu.free(address);
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.gpu.upload(to, bytes)
    }

    fn download(&self, bytes: &mut [u8], from: u64) -> Result<(), CudaError> {
        self.gpu.download(bytes, from)
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        self.gpu.copy(to, from, bytes)
    }

    fn launch(&self, launch: Launch, arguments: &[&[u8]]) -> Result<(), CudaError> {
        self.gpu.wait()?;
        let began = Instant::now();
        self.gpu.launch(launch, arguments)?;
        self.gpu.wait()?;
        let mut seen = self.watch.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, took) = seen.entry(launch.kernel.to_owned()).or_default();
        *count += 1;
        *took += began.elapsed();
        Ok(())
    }

    fn records(&self) -> bool {
        false
    }

    fn record(&self) -> Result<(), CudaError> {
        self.gpu.record()
    }

    fn recorded(&self) -> Result<Recording, CudaError> {
        self.gpu.recorded()
    }

    fn replay(&self, recording: Recording) -> Result<(), CudaError> {
        self.gpu.replay(recording)
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.gpu.wait()
    }

    fn stream(&self) -> Option<Stream> {
        self.gpu.stream()
    }
}
