//! NVIDIA's collective library, looked for when the program runs: sums and copies between the GPUs of ranks.
//!
//! Calls are queued behind what the GPU's stream was told before, as kernels are; each rank is a process with a
//! GPU of its own.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fmt;
use std::ptr;

use cudarc::nccl::result;
use cudarc::nccl::sys;

use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Stream;
use crate::engine::cuda::train::exchange::Message;

/// One rank's end of the connection.
pub struct Communicator {
    handle: sys::ncclComm_t,
    stream: sys::cudaStream_t,
}

/// Returns whether the library can be loaded.
pub fn is_there() -> bool {
    // SAFETY: the library has no initialisers but C++'s own.
    unsafe { sys::is_culib_present() }
}

/// Returns the library's version, as 23000 for 2.30; 0 when it does not say.
pub fn version() -> i32 {
    result::get_nccl_version().unwrap_or(0)
}

/// Makes the name of a new connection, which one rank tells all others.
///
/// # Errors
/// When the library finds no network interface.
pub fn id() -> Result<Vec<u8>, CudaError> {
    let id = result::get_uniqueid().map_err(failed("naming a connection of GPUs"))?;
    Ok(id.internal.iter().map(|byte| *byte as u8).collect())
}

impl Communicator {
    /// Connects a rank with the others; returns once all have called it with the same name.
    ///
    /// # Errors
    /// When GPUs cannot reach each other.
    ///
    /// # Panics
    /// When the name is none of [`id`].
    pub fn start(stream: Stream, id: &[u8], rank: usize, ranks: usize) -> Result<Communicator, CudaError> {
        let mut name = sys::ncclUniqueId { internal: [0; 128] };
        assert_eq!(id.len(), name.internal.len(), "the name of a connection");
        name.internal.iter_mut().zip(id).for_each(|(to, byte)| *to = byte.cast_signed());
        let mut handle = ptr::null_mut();
        // SAFETY: the GPU's context is current, as its last call has left it.
        unsafe { result::comm_init_rank(&raw mut handle, ranks as i32, name, rank as i32) }
            .map_err(failed("connecting GPUs"))?;
        Ok(Communicator { handle, stream: stream.0.cast() })
    }

    /// Replaces each message's numbers on its rank by their sum over all ranks.
    ///
    /// # Errors
    /// When a call fails; so with the other.
    pub fn reduce(&self, messages: &[Message]) -> Result<(), CudaError> {
        self.group(messages, |Message { address, count, rank }| {
            let (sum, number) = (sys::ncclRedOp_t::ncclSum, sys::ncclDataType_t::ncclFloat32);
            let at = address as *mut c_void;
            // SAFETY: whoever allocated the address made room for so many numbers.
            unsafe { result::reduce(at, at, count, number, sum, rank as i32, self.handle, self.stream) }
        })
    }

    /// Replaces each message's numbers by those of its rank.
    ///
    /// # Errors
    /// As [`Communicator::reduce`].
    pub fn broadcast(&self, messages: &[Message]) -> Result<(), CudaError> {
        self.group(messages, |Message { address, count, rank }| {
            let (number, at) = (sys::ncclDataType_t::ncclFloat32, address as *mut c_void);
            // SAFETY: as above.
            unsafe { result::broadcast(at, at, count, number, rank as i32, self.handle, self.stream) }
        })
    }

    /// Queues calls together: they run side by side.
    fn group(
        &self,
        messages: &[Message],
        call: impl Fn(Message) -> Result<result::NcclStatus, result::NcclError>,
    ) -> Result<(), CudaError> {
        result::group_start().map_err(failed("beginning an exchange between GPUs"))?;
        let called = messages.iter().try_for_each(|message| call(*message).map(drop));
        let ended = result::group_end().map(drop);
        called.and(ended).map_err(failed("exchanging numbers between GPUs"))
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        // In a panic the others may be gone, and ending in order would wait for them.
        // SAFETY: nothing else has the handle.
        let ended = unsafe {
            if std::thread::panicking() {
                result::comm_abort(self.handle)
            } else {
                result::comm_destroy(self.handle)
            }
        };
        if let Err(error) = ended {
            tracing::debug!("the connection of GPUs was not left in order: {:?}", error.0);
        }
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Communicator")
    }
}

/// Returns what makes an error of the library's answer.
fn failed(what: &'static str) -> impl FnOnce(result::NcclError) -> CudaError {
    move |error| CudaError::Failed { what: what.to_owned(), reason: format!("{:?}", error.0) }
}
