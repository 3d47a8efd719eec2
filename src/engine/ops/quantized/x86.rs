//! [`Kernel::multiply`](super::kernel::Kernel::multiply) on x86-64.

use std::arch::x86_64::*;

use crate::engine::ops::quantized::DEPTH;
use crate::engine::ops::quantized::GROUP;
use crate::engine::ops::quantized::LANES;
use crate::engine::ops::quantized::four_bits::UNSIGNED;
use crate::engine::ops::quantized::kernel::Panel;
use crate::engine::ops::quantized::kernel::Tile;
use crate::engine::ops::quantized::rows::Octet;

/// Bytes of weights that a register of AVX-512 holds: a step of 8 bits, two steps of 4.
const STEP: usize = LANES * DEPTH;

/// By AVX-512 VNNI: what is loaded of the weights serves all rows.
///
/// # Safety
/// Needs the features; sizes as [`Kernel::multiply`](super::kernel::Kernel::multiply) asserts them.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub unsafe fn vnni(panel: Panel, x: Octet, tile: &mut Tile) {
    // SAFETY: the caller's contract.
    unsafe {
        match x.count {
            1 => vnni_rows::<1>(panel, x, tile),
            2 => vnni_rows::<2>(panel, x, tile),
            3 => vnni_rows::<3>(panel, x, tile),
            4 => vnni_rows::<4>(panel, x, tile),
            5 => vnni_rows::<5>(panel, x, tile),
            6 => vnni_rows::<6>(panel, x, tile),
            7 => vnni_rows::<7>(panel, x, tile),
            _ => vnni_rows::<8>(panel, x, tile),
        }
    }
}

/// [`vnni`] for `R` rows.
///
/// # Safety
/// As there.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni_rows<const R: usize>(panel: Panel, x: Octet, tile: &mut Tile) {
    // SAFETY: the caller's contract.
    let sums = unsafe {
        match panel {
            Panel::Eight { weights, scales } => {
                vnni_eight::<R>(weights.as_ptr(), _mm512_loadu_ps(scales.as_ptr()), x)
            }
            Panel::Four { weights, scales } => vnni_four::<R>(weights.as_ptr(), scales.as_ptr().cast(), x),
        }
    };
    for (outputs, sums) in tile.iter_mut().zip(sums) {
        // SAFETY: a row of a tile is sixteen floats.
        unsafe { _mm512_storeu_ps(outputs.as_mut_ptr(), sums) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni_eight<const R: usize>(weights: *const u8, scales: __m512, x: Octet) -> [__m512; R] {
    let mut sums = [_mm512_setzero_si512(); R];
    // SAFETY: within the panel and the rows by the caller's contract.
    unsafe {
        for (row, sum) in sums.iter_mut().enumerate() {
            *sum = _mm512_set1_epi32(*x.corrections.get_unchecked(row));
        }
        for step in 0..x.stride / DEPTH {
            let w = _mm512_loadu_si512(weights.add(step * STEP).cast());
            for (row, sum) in sums.iter_mut().enumerate() {
                let inputs = four(x, row * x.stride + step * DEPTH);
                *sum = _mm512_dpbusd_epi32(*sum, w, _mm512_set1_epi32(inputs));
            }
        }
        let mut outputs = [_mm512_setzero_ps(); R];
        for (row, (output, sum)) in outputs.iter_mut().zip(sums).enumerate() {
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(*x.scales.get_unchecked(row)));
            *output = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *output);
        }
        outputs
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn vnni_four<const R: usize>(weights: *const u8, scales: *const u16, x: Octet) -> [__m512; R] {
    let mut outputs = [_mm512_setzero_ps(); R];
    // SAFETY: within the panel and the rows by the caller's contract.
    unsafe {
        let levels = _mm512_broadcast_i32x4(_mm_loadu_si128(UNSIGNED.as_ptr().cast()));
        let low = _mm512_set1_epi8(15);
        for group in 0..x.groups {
            let mut sums = [_mm512_setzero_si512(); R];
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_set1_epi32(*x.corrections.get_unchecked(row * x.groups + group));
            }
            for pair in 0..GROUP / DEPTH / 2 {
                let at = group * GROUP + pair * 2 * DEPTH;
                let both = _mm512_loadu_si512(weights.add(at / 2 / DEPTH * STEP).cast());
                let first = _mm512_shuffle_epi8(levels, _mm512_and_si512(both, low));
                let second = _mm512_shuffle_epi8(levels, _mm512_and_si512(_mm512_srli_epi16::<4>(both), low));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let at = row * x.stride + at;
                    *sum = _mm512_dpbusd_epi32(*sum, first, _mm512_set1_epi32(four(x, at)));
                    *sum = _mm512_dpbusd_epi32(*sum, second, _mm512_set1_epi32(four(x, at + DEPTH)));
                }
            }
            let halves = _mm256_loadu_si256(scales.add(group * LANES).cast());
            let scale = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)));
            for (row, (output, sum)) in outputs.iter_mut().zip(sums).enumerate() {
                let of_row = *x.scales.get_unchecked(row * x.groups + group);
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(of_row));
                *output = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *output);
            }
        }
    }
    outputs
}

/// Returns four inputs from `at` on.
///
/// # Safety
/// They must be within the rows.
#[inline(always)]
unsafe fn four(x: Octet, at: usize) -> i32 {
    // SAFETY: the caller's contract.
    unsafe { x.bytes.as_ptr().add(at).cast::<i32>().read_unaligned() }
}

/// By AVX2: bytes are widened to 16 bits, for their products with unsigned bytes do not fit in less.
///
/// # Safety
/// Needs the features; sizes as [`Kernel::multiply`](super::kernel::Kernel::multiply) asserts them.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn avx2(panel: Panel, x: Octet, tile: &mut Tile) {
    let group = x.stride / x.groups;
    for (row, outputs) in tile.iter_mut().enumerate().take(x.count) {
        let mut totals = [_mm256_setzero_ps(); 2];
        for at in 0..x.groups {
            let (mut sums, of_group) = ([_mm256_setzero_si256(); 4], row * x.groups + at);
            let first = row * x.stride + at * group;
            // SAFETY: within the panel and the rows by the caller's contract.
            let scales = unsafe {
                match panel {
                    Panel::Eight { weights, scales } => {
                        for step in 0..group / DEPTH {
                            let w = weights.as_ptr().add(step * STEP).cast::<__m256i>();
                            let w = [_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1))];
                            add_products(&mut sums, w, four(x, first + step * DEPTH));
                        }
                        [0, 8].map(|half| _mm256_loadu_ps(scales.as_ptr().add(half)))
                    }
                    Panel::Four { weights, scales } => {
                        let levels = _mm256_broadcastsi128_si256(_mm_loadu_si128(UNSIGNED.as_ptr().cast()));
                        let low = _mm256_set1_epi8(15);
                        for pair in 0..GROUP / DEPTH / 2 {
                            let w = weights.as_ptr().add((at * GROUP / DEPTH / 2 + pair) * STEP);
                            let w = w.cast::<__m256i>();
                            let both = [_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1))];
                            let inputs = first + pair * 2 * DEPTH;
                            let codes = both.map(|w| _mm256_and_si256(w, low));
                            let w = codes.map(|c| _mm256_shuffle_epi8(levels, c));
                            add_products(&mut sums, w, four(x, inputs));
                            let codes = both.map(|w| _mm256_and_si256(_mm256_srli_epi16::<4>(w), low));
                            let w = codes.map(|c| _mm256_shuffle_epi8(levels, c));
                            add_products(&mut sums, w, four(x, inputs + DEPTH));
                        }
                        [0, 8].map(|half| {
                            let halves = _mm_loadu_si128(scales.as_ptr().add(at * LANES + half).cast());
                            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
                        })
                    }
                }
            };
            let correction = _mm256_set1_epi32(x.corrections[of_group]);
            let of_row = _mm256_set1_ps(x.scales[of_group]);
            for (half, total) in totals.iter_mut().enumerate() {
                // Pairs of products of outputs 0 to 3 and of 4 to 7: neighbours added, then put in order.
                let pairs = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
                let sum = _mm256_add_epi32(_mm256_permute4x64_epi64::<0b11_01_10_00>(pairs), correction);
                let scale = _mm256_mul_ps(scales[half], of_row);
                *total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, *total);
            }
        }
        for (half, total) in totals.into_iter().enumerate() {
            // SAFETY: a row of a tile is sixteen floats.
            unsafe { _mm256_storeu_ps(outputs.as_mut_ptr().add(8 * half), total) };
        }
    }
}

/// Adds the products of four inputs with sixteen outputs' weights, pairwise: a register for four outputs.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn add_products(sums: &mut [__m256i; 4], weights: [__m256i; 2], inputs: i32) {
    let inputs = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(inputs)));
    for (half, weights) in weights.into_iter().enumerate() {
        let quarters = [_mm256_castsi256_si128(weights), _mm256_extracti128_si256::<1>(weights)];
        for (quarter, weights) in quarters.into_iter().enumerate() {
            let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(weights), inputs);
            let sum = &mut sums[2 * half + quarter];
            *sum = _mm256_add_epi32(*sum, products);
        }
    }
}
