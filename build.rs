//! Nothing without the feature `cuda`; with it the kernels, compiled where nvcc is, else as they lie beside their
//! sources.

use std::env;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// What the kernels are compiled for: GPUs since 2020 as they are, later ones by way of PTX.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_80,code=compute_80"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let kernels = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("kernels");
    let to = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("kernels");
    match nvcc() {
        Some(nvcc) => compile(&nvcc, &kernels, &to),
        None => {
            fs::copy(kernels.join("kernels.ptx.zst"), &to)
                .expect("kernels/kernels.ptx.zst is in the repository");
        }
    }
}

/// Returns the compiler, if there is one: `NVCC`, that of `CUDA_HOME`, or the path's.
fn nvcc() -> Option<PathBuf> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let of_home = || env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    let of_path = || {
        let paths = env::var_os("PATH")?;
        env::split_paths(&paths).map(|folder| folder.join("nvcc")).find(|file| file.is_file())
    };
    named.or_else(of_home).or_else(of_path)
}

fn compile(nvcc: &Path, kernels: &Path, to: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-fatbin", "--threads", "0", "-o"]).arg(to).arg(kernels.join("all.cu"));
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {}: {error}", nvcc.display()));
    assert!(status.success(), "{} cannot compile the kernels", nvcc.display());
}
