//! What kernels run on: memory, copies, launches, recordings. A driver's GPU ([`super::driver`]), or in tests the
//! emulator of one that runs the same kernels on the processor.

use std::ffi::c_void;
use std::fmt::Debug;
use std::sync::Arc;

use crate::engine::weights::WeightsError;

/// Says why a GPU cannot be used, or what it failed at.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error("there is no CUDA driver on this machine")]
    NoDriver,
    /// The driver knows no GPU.
    #[error("the CUDA driver finds no GPU: {0}")]
    NoDevice(String),
    /// The GPU is older than the kernels.
    #[error("{name} has compute capability {major}.{minor}, the kernels need 8.0")]
    TooOld {
        /// What the GPU calls itself.
        name: String,
        /// Of the capability.
        major: i32,
        /// Of the capability.
        minor: i32,
    },
    /// A call of the driver failed.
    #[error("{what}: {reason}")]
    Failed {
        /// What was tried.
        what: String,
        /// What the driver says.
        reason: String,
    },
    /// The model has a shape that the kernels do not take.
    #[error("on a GPU {0} is not supported")]
    Shape(String),
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

impl CudaError {
    /// Returns whether the kernels do not take a shape.
    pub fn is_of_shape(&self) -> bool {
        matches!(self, CudaError::Shape(_))
    }
}

/// One kernel's launch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// The name in the kernels' source.
    pub kernel: &'a str,
    /// Blocks in x, y and z.
    pub grid: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

/// Launches that were recorded, to be run again together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording(pub usize);

/// A driver's queue of work, for libraries that queue work of their own.
#[derive(Debug, Clone, Copy)]
pub struct Stream(pub *mut c_void);

/// A GPU. All it is told it does in order.
pub trait Machine: Debug + Send + Sync {
    /// Returns what it calls itself.
    fn name(&self) -> String;
    /// Returns how many bytes of memory are free.
    fn free_bytes(&self) -> Result<usize, CudaError>;
    /// Returns the address of new memory with any content.
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;
    /// Gives memory back once all that was told before is done.
    fn free(&self, address: u64);
    /// Copies to the GPU; `bytes` may change as soon as this returns.
    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError>;
    /// Copies from the GPU once all that was told before is done.
    fn download(&self, bytes: &mut [u8], from: u64) -> Result<(), CudaError>;
    /// Copies within the GPU.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError>;
    /// Runs a kernel; each argument as it lies in memory.
    fn launch(&self, launch: Launch, arguments: &[&[u8]]) -> Result<(), CudaError>;
    /// Returns whether launches are to be recorded.
    fn records(&self) -> bool {
        true
    }
    /// Records launches from now on instead of running them.
    fn record(&self) -> Result<(), CudaError>;
    /// Ends a recording.
    fn recorded(&self) -> Result<Recording, CudaError>;
    /// Runs what was recorded.
    fn replay(&self, recording: Recording) -> Result<(), CudaError>;
    /// Waits until all is done.
    fn wait(&self) -> Result<(), CudaError>;
    /// Returns the driver's queue behind it, where there is a driver.
    fn stream(&self) -> Option<Stream> {
        None
    }
}

/// A shared GPU.
pub type Gpu = Arc<dyn Machine>;

/// Memory of a GPU, given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    gpu: Gpu,
    /// Where it begins, a multiple of 256.
    pub address: u64,
    /// How long it is.
    pub bytes: usize,
}

impl Buffer {
    /// Takes memory with any content.
    ///
    /// # Errors
    /// When there is too little.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Buffer, CudaError> {
        // A GPU has no memory of no length.
        let bytes = bytes.max(1);
        Ok(Buffer { address: gpu.allocate(bytes)?, gpu: Arc::clone(gpu), bytes })
    }

    /// Takes memory with this content.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn with(gpu: &Gpu, content: &[u8]) -> Result<Buffer, CudaError> {
        let buffer = Buffer::new(gpu, content.len())?;
        gpu.upload(buffer.address, content)?;
        Ok(buffer)
    }

    /// Makes room for so many bytes; the content is lost when it moves. Returns whether it did.
    ///
    /// # Errors
    /// As [`Buffer::new`].
    pub fn reserve(&mut self, bytes: usize) -> Result<bool, CudaError> {
        let is_short = self.bytes < bytes;
        if is_short {
            // What is there is given back first: there may be no room for both.
            *self = Buffer::new(&self.gpu, 0)?;
            *self = Buffer::new(&self.gpu, bytes)?;
        }
        Ok(is_short)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gpu.free(self.address);
    }
}

/// What lies in memory the same way here and on a GPU: numbers, and `repr(C)` structs of them without gaps.
pub trait Plain: Copy {}

impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for u64 {}
impl Plain for i64 {}
impl Plain for f32 {}
impl Plain for half::bf16 {}

/// Returns numbers as they lie in memory.
pub fn bytes_of<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: plain values have no gaps, and any byte may be read as one.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers))
    }
}

/// Returns the memory of numbers.
pub fn bytes_of_mut<T: Plain>(numbers: &mut [T]) -> &mut [u8] {
    // SAFETY: plain values have no gaps, and any bytes are one.
    #[allow(unsafe_code)]
    unsafe {
        std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers))
    }
}
