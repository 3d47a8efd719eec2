//! A GPU that is none: the same kernels, compiled for the processor as `kernels/emulator` says. For tests only.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;

use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::Machine;
use crate::engine::cuda::machine::Recording;

type LaunchFn = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    usize,
    *mut *mut c_void,
    *mut c_char,
    usize,
) -> c_int;

/// The emulator's library, compiled once for a run of tests.
static LIBRARY: LazyLock<libloading::Library> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let library = folder.path().join("kernels.so");
    compile("emulator.cpp", &["-shared", "-fPIC"], &library);
    // SAFETY: the library has no initialisers but C++'s own.
    unsafe { libloading::Library::new(&library) }.expect("the kernels' library")
});

/// Compiles a file of the emulator.
pub fn compile(source: &str, options: &[&str], to: &Path) {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let compiled = Command::new(&compiler)
        .args(["-std=c++17", "-O2", "-pthread", "-I"])
        .arg(&kernels)
        .args(options)
        .arg(kernels.join("emulator").join(source))
        .arg("-o")
        .arg(to)
        .output()
        .expect("a C++ compiler runs");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
}

/// One launch as it was recorded.
#[derive(Debug)]
struct Recorded {
    kernel: String,
    grid: [usize; 3],
    threads: usize,
    shared: usize,
    arguments: Vec<Vec<u8>>,
}

/// The emulated GPU.
#[derive(Debug, Default)]
pub struct Emulator {
    recording: Mutex<Option<Vec<Recorded>>>,
    recordings: Mutex<Vec<Vec<Recorded>>>,
    /// How often recordings ran again.
    pub replayed: Mutex<usize>,
}

/// Returns an emulated GPU.
pub fn open() -> Gpu {
    Arc::new(Emulator::default())
}

/// Lets threads of blocks run in another order: 0 forward, 1 backward, 2 shuffled by the seed.
pub fn order(mode: c_int, seed: u32) {
    // SAFETY: the function has this type.
    unsafe {
        let order = LIBRARY.get::<unsafe extern "C" fn(c_int, u32)>(b"emulator_order").expect("a symbol");
        order(mode, seed);
    }
}

/// Panics when something wrote beside its memory.
pub fn check() {
    let mut text = [0_u8; 512];
    // SAFETY: the function has this type and writes within the text.
    let found = unsafe {
        let check = LIBRARY
            .get::<unsafe extern "C" fn(*mut c_char, usize) -> c_int>(b"emulator_check")
            .expect("a symbol");
        check(text.as_mut_ptr().cast(), text.len())
    };
    assert_eq!(found, 0, "{}", said(&text));
}

fn said(text: &[u8]) -> String {
    String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

impl Machine for Emulator {
    fn name(&self) -> String {
        "an emulated GPU".to_owned()
    }

    fn free_bytes(&self) -> Result<usize, CudaError> {
        Ok(1 << 40)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: the function has this type.
        let address = unsafe {
            let allocate = LIBRARY
                .get::<unsafe extern "C" fn(usize) -> *mut c_void>(b"emulator_alloc")
                .expect("a symbol");
            allocate(bytes)
        };
        assert!(!address.is_null(), "memory for {bytes} bytes");
        Ok(address as u64)
    }

    fn free(&self, address: u64) {
        // SAFETY: the function has this type, and the address is of `allocate`.
        let damage = unsafe {
            let free = LIBRARY
                .get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"emulator_free")
                .expect("a symbol");
            free(address as *mut c_void)
        };
        if !std::thread::panicking() {
            assert_eq!(damage, 0, "something wrote beside its memory");
        }
    }

    fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: emulated memory is this process's own.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn download(&self, bytes: &mut [u8], from: u64) -> Result<(), CudaError> {
        // SAFETY: as above.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(from as *const u8, bytes.len()) };
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as above.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes) };
        Ok(())
    }

    fn launch(&self, launch: Launch, arguments: &[&[u8]]) -> Result<(), CudaError> {
        if let Some(recording) = &mut *self.recording.lock().unwrap() {
            recording.push(Recorded {
                kernel: launch.kernel.to_owned(),
                grid: launch.grid,
                threads: launch.threads,
                shared: launch.shared,
                arguments: arguments.iter().map(|a| a.to_vec()).collect(),
            });
            return Ok(());
        }
        let name = CString::new(launch.kernel).expect("a name");
        let (grid, block) = (launch.grid.map(|blocks| blocks as u32), [launch.threads as u32, 1, 1]);
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(|a| a.as_ptr().cast_mut().cast()).collect();
        let mut text = [0_u8; 512];
        // SAFETY: the function has this type; arguments are laid out as the kernel declares them.
        let failed = unsafe {
            let run = LIBRARY.get::<LaunchFn>(b"emulator_launch").expect("a symbol");
            run(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                launch.shared,
                pointers.as_mut_ptr(),
                text.as_mut_ptr().cast(),
                text.len(),
            )
        };
        if failed == 0 {
            return Ok(());
        }
        Err(CudaError::Failed { what: format!("{launch:?}"), reason: said(&text) })
    }

    fn record(&self) -> Result<(), CudaError> {
        *self.recording.lock().unwrap() = Some(Vec::new());
        Ok(())
    }

    fn recorded(&self) -> Result<Recording, CudaError> {
        let recording = self.recording.lock().unwrap().take().expect("a recording began");
        let mut recordings = self.recordings.lock().unwrap();
        recordings.push(recording);
        Ok(Recording(recordings.len() - 1))
    }

    fn replay(&self, recording: Recording) -> Result<(), CudaError> {
        *self.replayed.lock().unwrap() += 1;
        for launch in &self.recordings.lock().unwrap()[recording.0] {
            let Recorded { kernel, grid, threads, shared, arguments } = launch;
            let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            self.launch(Launch { kernel, grid: *grid, threads: *threads, shared: *shared }, &arguments)?;
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), CudaError> {
        Ok(())
    }
}
