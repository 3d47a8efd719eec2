//! How many products of small integers a thread can do: what a measured speed is held against.
#![allow(unsafe_code)]

use std::hint::black_box;

/// Sums that are under way at once, enough to hide the latency of an instruction.
const SUMS: usize = 12;

/// Multiplies in registers, `rounds` times over, with the best instructions that the linear layers
/// have; returns how many products that was.
pub fn multiply(rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the features were just detected.
            unsafe { x86::vnni(rounds) };
            return rounds * SUMS * 64;
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            unsafe { x86::avx2(rounds) };
            return rounds * SUMS * 16;
        }
    }
    let (mut sums, factors) = ([0_i32; SUMS], black_box([3_i8; SUMS]));
    for _ in 0..rounds {
        sums.iter_mut().zip(factors).for_each(|(sum, v)| *sum += i32::from(v) * i32::from(v));
    }
    black_box(sums);
    rounds * SUMS
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::SUMS;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni(rounds: usize) {
        let (mut sums, factors) = ([_mm512_setzero_si512(); SUMS], black_box(_mm512_set1_epi8(3)));
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, factors, factors);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(rounds: usize) {
        let (mut sums, factors) = ([_mm256_setzero_si256(); SUMS], black_box(_mm256_set1_epi16(3)));
        for _ in 0..rounds {
            for sum in &mut sums {
                // Tied to the sum, or one product would serve all.
                let products = _mm256_madd_epi16(_mm256_xor_si256(factors, *sum), factors);
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        black_box(sums);
    }
}
