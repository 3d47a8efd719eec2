//! A GPU by way of CUDA's driver, whose library is looked for when the program runs.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::CString;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use cudarc::driver::DriverError;
use cudarc::driver::result;
use cudarc::driver::sys;

use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Machine;
use crate::engine::cuda::machine::Recording;
use crate::engine::cuda::machine::Stream;

/// The kernels: what nvcc made of them at build time, or the PTX that lies beside their sources.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels"));
/// How compressed PTX begins.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Dynamic shared memory that a kernel has without being allowed more.
const SHARED_WITHOUT_ASKING: usize = 48 << 10;

/// One GPU.
#[derive(Debug)]
pub struct Driver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    module: sys::CUmodule,
    name: String,
    kernels: Mutex<HashMap<String, Kernel>>,
    graphs: Mutex<Vec<Graph>>,
}

#[derive(Debug, Clone, Copy)]
struct Kernel {
    function: sys::CUfunction,
    /// The dynamic shared memory that it may have.
    shared: usize,
}

#[derive(Debug)]
struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread once its context is current there, which every call
// makes sure of; recordings are only made by the engine's thread.
unsafe impl Send for Driver {}
// SAFETY: as above; what changes is behind mutexes.
unsafe impl Sync for Driver {}

/// Opens the `nth` GPU, counted round when there are fewer.
///
/// # Errors
/// When there is no driver, no GPU, or one that is too old.
///
/// # Blocking
/// Some seconds when the driver has to compile the kernels for a GPU it has not compiled them for before.
pub fn open(nth: usize) -> Result<Gpu, CudaError> {
    // SAFETY: loading the driver's library runs its initialisers, as for any program that is linked to it.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let none = |error: DriverError| CudaError::NoDevice(format!("{error:?}"));
    result::init().map_err(none)?;
    let count = result::device::get_count().map_err(none)?;
    if count == 0 {
        return Err(CudaError::NoDevice("it counts none".to_owned()));
    }
    let device = result::device::get((nth % count as usize) as i32).map_err(none)?;
    let name = result::device::get_name(device).map_err(none)?;
    let of_major = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
    let of_minor = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
    // SAFETY: the device is the driver's.
    let capability = unsafe {
        result::device::get_attribute(device, of_major)
            .and_then(|major| Ok((major, result::device::get_attribute(device, of_minor)?)))
    };
    let (major, minor) = capability.map_err(none)?;
    if major < 8 {
        return Err(CudaError::TooOld { name, major, minor });
    }
    let image = image()?;
    // SAFETY: the context is retained before it is made current, the stream made in it, and the image is PTX with
    // a zero at its end or what nvcc made, both of which the driver checks.
    let (context, stream, module) = unsafe {
        let context = result::primary_ctx::retain(device).map_err(failed("taking the GPU's context"))?;
        result::ctx::set_current(context).map_err(failed("using the GPU's context"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(failed("making a stream"))?;
        let module =
            result::module::load_data(image.as_ptr().cast()).map_err(failed("loading the kernels"))?;
        (context, stream, module)
    };
    let (kernels, graphs) = (Mutex::default(), Mutex::default());
    Ok(Arc::new(Driver { device, context, stream, module, name, kernels, graphs }))
}

/// Returns how many GPUs an opened driver counts.
pub fn count() -> usize {
    result::device::get_count().map_or(0, |count| count as usize)
}

/// Returns the kernels as the driver takes them.
fn image() -> Result<Vec<u8>, CudaError> {
    let mut image = if KERNELS.starts_with(&ZSTD_MAGIC) {
        zstd::decode_all(KERNELS).map_err(|error| CudaError::Failed {
            what: "unpacking the kernels".to_owned(),
            reason: error.to_string(),
        })?
    } else {
        KERNELS.to_vec()
    };
    image.push(0);
    Ok(image)
}

/// Returns what makes an error of the driver's answer.
fn failed(what: impl std::fmt::Display) -> impl FnOnce(DriverError) -> CudaError {
    move |error| CudaError::Failed { what: what.to_string(), reason: format!("{error:?}") }
}

impl Driver {
    /// Makes the context this thread's.
    fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("using the GPU's context"))
    }

    /// Returns a kernel that may have so much dynamic shared memory.
    fn kernel(&self, name: &str, shared: usize) -> Result<sys::CUfunction, CudaError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kernels.get(name).copied();
        let mut kernel = match known {
            Some(kernel) => kernel,
            None => {
                let text = CString::new(name).map_err(|error| CudaError::Failed {
                    what: format!("naming the kernel {name:?}"),
                    reason: error.to_string(),
                })?;
                // SAFETY: the module stays loaded as long as this lives.
                let function = unsafe { result::module::get_function(self.module, text) };
                let function = function.map_err(failed(format_args!("finding the kernel {name}")))?;
                Kernel { function, shared: SHARED_WITHOUT_ASKING }
            }
        };
        if kernel.shared < shared {
            let of_shared = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of the loaded module.
            unsafe { result::function::set_function_attribute(kernel.function, of_shared, shared as i32) }
                .map_err(failed(format_args!("giving {shared} bytes of shared memory to {name}")))?;
            kernel.shared = shared;
        }
        if known.is_none_or(|known| known.shared < kernel.shared) {
            kernels.insert(name.to_owned(), kernel);
        }
        Ok(kernel.function)
    }
}

impl Machine for Driver {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn free_bytes(&self) -> Result<usize, CudaError> {
        self.enter()?;
        Ok(result::mem_get_info().map_err(failed("asking for the GPU's memory"))?.0)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.enter()?;
        // SAFETY: the context is current.
        unsafe { result::malloc_sync(bytes) }
            .map_err(failed(format_args!("taking {bytes} bytes of the GPU's memory")))
    }

    fn free(&self, address: u64) {
        // A program that ends may have lost its driver already.
        // SAFETY: the address is of `allocate`; the driver waits for what uses it.
        let freed = self.enter().and_then(|()| {
            self.wait()?;
            unsafe { result::free_sync(address) }.map_err(failed("giving memory back"))
        });
        if let Err(error) = freed {
            tracing::warn!("the GPU does not take memory back: {error}");
        }
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: whoever allocated `to` made room; memory that is not pinned is read before this returns.
        unsafe { result::memcpy_htod_async(to, bytes, self.stream) }
            .map_err(failed(format_args!("copying {} bytes to the GPU", bytes.len())))
    }

    fn download(&self, bytes: &mut [u8], from: u64) -> Result<(), CudaError> {
        self.enter()?;
        let length = bytes.len();
        // SAFETY: `from` has as many bytes, and the stream is waited for before anybody reads them.
        unsafe { result::memcpy_dtoh_async(bytes, from, self.stream) }
            .map_err(failed(format_args!("copying {length} bytes from the GPU")))?;
        self.wait()
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: both have as many bytes and do not overlap.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) }
            .map_err(failed(format_args!("copying {bytes} bytes on the GPU")))
    }

    fn launch(&self, launch: Launch, arguments: &[&[u8]]) -> Result<(), CudaError> {
        self.enter()?;
        let function = self.kernel(launch.kernel, launch.shared)?;
        let mut arguments: Vec<*mut c_void> =
            arguments.iter().map(|a| a.as_ptr().cast_mut().cast()).collect();
        let [x, y, z] = launch.grid.map(|blocks| blocks as u32);
        // SAFETY: arguments are laid out as the kernel declares them, by the one file that launches it, and are
        // read before this returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (launch.threads as u32, 1, 1),
                launch.shared as u32,
                self.stream,
                &mut arguments,
            )
        }
        .map_err(failed(format_args!("launching {launch:?}")))
    }

    fn record(&self) -> Result<(), CudaError> {
        self.enter()?;
        // A kernel that is met for the first time is loaded meanwhile, which stricter modes may forbid.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is this one's own.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(failed("beginning a recording"))
    }

    fn recorded(&self) -> Result<Recording, CudaError> {
        self.enter()?;
        // SAFETY: the stream records since `record`; flags of nothing are valid.
        let (graph, executable) = unsafe {
            let graph = result::stream::end_capture(self.stream).map_err(failed("ending a recording"))?;
            let flags = sys::CUgraphInstantiate_flags(0);
            let executable =
                result::graph::instantiate(graph, flags).map_err(failed("preparing a recording"))?;
            (graph, executable)
        };
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        graphs.push(Graph { graph, executable });
        Ok(Recording(graphs.len() - 1))
    }

    fn replay(&self, recording: Recording) -> Result<(), CudaError> {
        self.enter()?;
        let graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the graph lives as long as this, and so do the buffers of whoever recorded it.
        unsafe { result::graph::launch(graphs[recording.0].executable, self.stream) }
            .map_err(failed("running a recording"))
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.enter()?;
        // SAFETY: the stream is this one's own.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("computing on the GPU"))
    }

    fn stream(&self) -> Option<Stream> {
        Some(Stream(self.stream.cast()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let graphs = self.graphs.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nothing else has these handles.
        let ended = unsafe {
            let graphs = graphs.drain(..).try_for_each(|Graph { graph, executable }| {
                result::graph::exec_destroy(executable)?;
                result::graph::destroy(graph)
            });
            graphs
                .and_then(|()| result::module::unload(self.module))
                .and_then(|()| result::stream::destroy(self.stream))
                .and_then(|()| result::primary_ctx::release(self.device))
        };
        if let Err(error) = ended {
            tracing::debug!("the GPU was not left in order: {error:?}");
        }
    }
}
