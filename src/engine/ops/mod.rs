//! The arithmetic, one file for each operation: plain slices in, plain slices out.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16;
pub mod exact;
pub mod matmul;
pub mod norm;
pub mod quantized;
pub mod rope;
pub mod route;
pub mod simd;
pub mod softmax;
pub mod swiglu;
