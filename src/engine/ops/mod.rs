//! The arithmetic, one file for each operation: plain slices in, plain slices out.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16;
pub mod exact;
pub mod matmul;
pub mod norm;
pub mod peak;
pub mod project;
pub mod quantized;
pub mod rope;
pub mod route;
pub mod simd;
pub mod softmax;
pub mod swiglu;

#[cfg(test)]
pub(crate) mod testing {
    use rand::RngExt;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Returns numbers within `within` of zero, always the same for a seed.
    pub fn numbers(n: usize, within: f32, seed: u64) -> Vec<f32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-within..within)).collect()
    }
}
