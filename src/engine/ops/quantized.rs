//! Linear layers with 8-bit weights and 8-bit activations: `y = x·wᵀ`.
//!
//! Each output row of the weight and each row of the activations has one scale (its largest
//! magnitude over 127). Products and sums are integers, so a row's result does not depend on which
//! rows it is computed with: the same answer alone or in any batch.
//!
//! Weights are packed for the 4-wide dot products of AVX-512 VNNI: 16 outputs × 4 inputs are 64
//! bytes in a row, `packed[output / 16][input / 4][output % 16][input % 4]`. Activations are stored
//! as `value + 128` because that instruction multiplies unsigned by signed bytes; 128 times the sum
//! of a weight row is taken off again. Without VNNI the same layout runs on AVX2 or plain code.
#![allow(unsafe_code)]

use crate::engine::ops::simd::multiversion;

/// Outputs that are packed together.
const LANES: usize = 16;
/// Inputs of one dot-product instruction.
const DEPTH: usize = 4;
/// Rows of activations that one pass over the weights serves.
const ROWS: usize = 8;

/// A weight `[output, input]` in 8 bits.
#[derive(Debug, Clone)]
pub struct QuantizedLinear {
    /// Number of inputs.
    pub input: usize,
    /// Number of outputs.
    pub output: usize,
    packed: Vec<i8>,
    scales: Vec<f32>,
    /// For each output 128 times the sum of its weights.
    corrections: Vec<i32>,
}

/// Rows of activations in 8 bits, `[rows, input]`, as `value + 128`.
#[derive(Debug, Clone, Default)]
pub struct QuantizedRows {
    /// The bytes, rows padded to a multiple of four inputs.
    pub bytes: Vec<u8>,
    /// One scale a row.
    pub scales: Vec<f32>,
    stride: usize,
}

impl QuantizedRows {
    /// Replaces the content by the rows of `x` `[rows, input]`.
    pub fn quantize(&mut self, x: &[f32], input: usize) {
        let rows = x.len() / input;
        self.stride = input.next_multiple_of(DEPTH);
        self.bytes.resize(rows * self.stride, 128);
        self.scales.resize(rows, 0.0);
        quantize_rows(&mut self.bytes, &mut self.scales, x, input, self.stride);
    }

    /// Replaces the content by some rows of another, in the given order.
    pub fn gather(&mut self, from: &QuantizedRows, rows: impl Iterator<Item = usize>) {
        self.stride = from.stride;
        self.bytes.clear();
        self.scales.clear();
        for row in rows {
            self.bytes.extend_from_slice(&from.bytes[row * from.stride..(row + 1) * from.stride]);
            self.scales.push(from.scales[row]);
        }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.scales.len()
    }
}

multiversion! {
    fn quantize_rows(bytes: &mut [u8], scales: &mut [f32], x: &[f32], input: usize, stride: usize) {
        for ((bytes, scale), x) in bytes.chunks_exact_mut(stride).zip(scales).zip(x.chunks_exact(input)) {
            let mut largest = 0.0_f32;
            for v in x {
                largest = if v.abs() > largest { v.abs() } else { largest };
            }
            *scale = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (b, v) in bytes.iter_mut().zip(x) {
                *b = ((v * inverse).round_ties_even() as i32 + 128) as u8;
            }
            for b in &mut bytes[input..] {
                *b = 128;
            }
        }
    }
}

impl QuantizedLinear {
    /// Quantises and packs a weight `[output, input]`.
    pub fn new(weight: &[f32], input: usize, output: usize) -> QuantizedLinear {
        let (groups, steps) = (output.div_ceil(LANES), input.div_ceil(DEPTH));
        let mut packed = vec![0_i8; groups * steps * LANES * DEPTH];
        let mut scales = vec![0.0; groups * LANES];
        let mut corrections = vec![0; groups * LANES];
        for (o, row) in weight.chunks_exact(input).enumerate() {
            let largest = row.iter().fold(0.0_f32, |a, v| a.max(v.abs()));
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            scales[o] = largest / 127.0;
            let group = &mut packed[o / LANES * steps * LANES * DEPTH..];
            for (i, v) in row.iter().enumerate() {
                let q = (v * inverse).round_ties_even() as i32;
                group[i / DEPTH * LANES * DEPTH + o % LANES * DEPTH + i % DEPTH] = q as i8;
                corrections[o] += 128 * q;
            }
        }
        QuantizedLinear { input, output, packed, scales, corrections }
    }

    /// Returns how many bytes the weight takes.
    pub fn bytes(&self) -> usize {
        self.packed.len() + 8 * self.scales.len()
    }

    /// Computes the outputs of rows `from..from + count` of `x` into `y` `[count, output]`.
    pub fn apply(&self, y: &mut [f32], x: &QuantizedRows, from: usize, count: usize) {
        let kernel = kernel();
        for first in (0..count).step_by(ROWS) {
            let rows = ROWS.min(count - first);
            let bytes = &x.bytes[(from + first) * x.stride..(from + first + rows) * x.stride];
            let scales = &x.scales[from + first..from + first + rows];
            self.rows(
                kernel,
                &mut y[first * self.output..(first + rows) * self.output],
                bytes,
                scales,
                x.stride,
            );
        }
    }

    fn rows(&self, kernel: Kernel, y: &mut [f32], bytes: &[u8], scales: &[f32], stride: usize) {
        let steps = self.input.div_ceil(DEPTH);
        let group_bytes = steps * LANES * DEPTH;
        let rows = scales.len();
        for (group, packed) in self.packed.chunks_exact(group_bytes).enumerate() {
            let mut sums = [[0_i32; LANES]; ROWS];
            kernel.dot(packed, bytes, stride, rows, &mut sums);
            let first = group * LANES;
            let width = LANES.min(self.output - first);
            finish(
                &mut y[first..],
                self.output,
                &sums[..rows],
                &self.scales[first..first + width],
                &self.corrections[first..first + width],
                scales,
            );
        }
    }
}

multiversion! {
    fn finish(
        y: &mut [f32],
        stride: usize,
        sums: &[[i32; LANES]],
        weight_scales: &[f32],
        corrections: &[i32],
        row_scales: &[f32],
    ) {
        for (row, (sums, row_scale)) in sums.iter().zip(row_scales).enumerate() {
            let y = &mut y[row * stride..row * stride + weight_scales.len()];
            for (((y, sum), scale), correction) in y.iter_mut().zip(sums).zip(weight_scales).zip(corrections) {
                *y = (sum - correction) as f32 * scale * row_scale;
            }
        }
    }
}

/// Which instructions compute the dot products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Plain,
}

/// Returns the best kernel of this machine.
fn kernel() -> Kernel {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512vnni")
        {
            return Kernel::Vnni;
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            return Kernel::Avx2;
        }
    }
    Kernel::Plain
}

impl Kernel {
    /// Adds to `sums[row][lane]` the products of 16 packed outputs with each row of `bytes`.
    fn dot(self, packed: &[i8], bytes: &[u8], stride: usize, rows: usize, sums: &mut [[i32; LANES]; ROWS]) {
        let steps = packed.len() / (LANES * DEPTH);
        assert!(
            rows <= ROWS && stride >= steps * DEPTH && bytes.len() >= rows * stride,
            "rows of activations"
        );
        match self {
            // SAFETY: `kernel` has detected the features, and the assert above keeps reads inside.
            #[cfg(target_arch = "x86_64")]
            Kernel::Vnni => unsafe {
                match rows {
                    8 => x86::vnni::<8>(packed, bytes, stride, steps, sums),
                    4..8 => {
                        x86::vnni::<4>(packed, bytes, stride, steps, sums);
                        for row in 4..rows {
                            let rest: &mut [[i32; LANES]] = &mut sums[row..];
                            x86::vnni::<1>(packed, &bytes[row * stride..], stride, steps, rest);
                        }
                    }
                    _ => {
                        for row in 0..rows {
                            let rest: &mut [[i32; LANES]] = &mut sums[row..];
                            x86::vnni::<1>(packed, &bytes[row * stride..], stride, steps, rest);
                        }
                    }
                }
            },
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => {
                for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                    // SAFETY: as above.
                    unsafe { x86::avx2(packed, &bytes[row * stride..], steps, sums) };
                }
            }
            Kernel::Plain => {
                for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                    plain(packed, &bytes[row * stride..], sums);
                }
            }
        }
    }
}

/// The reference: what the other kernels must equal to the bit.
fn plain(packed: &[i8], bytes: &[u8], sums: &mut [i32; LANES]) {
    for (weights, inputs) in packed.chunks_exact(LANES * DEPTH).zip(bytes.chunks_exact(DEPTH)) {
        for (sum, weights) in sums.iter_mut().zip(weights.chunks_exact(DEPTH)) {
            for (w, x) in weights.iter().zip(inputs) {
                *sum += i32::from(*w) * i32::from(*x);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::DEPTH;
    use super::LANES;

    /// One 64-byte load of weights serves `R` rows: R broadcasts and R `vpdpbusd`.
    ///
    /// # Safety
    /// Needs AVX-512 F and VNNI; `packed` holds `steps` groups of 64 bytes, each row `4·steps` bytes.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub unsafe fn vnni<const R: usize>(
        packed: &[i8],
        bytes: &[u8],
        stride: usize,
        steps: usize,
        sums: &mut [[i32; LANES]],
    ) {
        let mut accumulators = [_mm512_setzero_si512(); R];
        for step in 0..steps {
            // SAFETY: within `packed` and the rows by the caller's contract.
            unsafe {
                let weights = _mm512_loadu_si512(packed.as_ptr().add(step * LANES * DEPTH).cast());
                for (row, accumulator) in accumulators.iter_mut().enumerate() {
                    let inputs =
                        bytes.as_ptr().add(row * stride + step * DEPTH).cast::<i32>().read_unaligned();
                    *accumulator = _mm512_dpbusd_epi32(*accumulator, _mm512_set1_epi32(inputs), weights);
                }
            }
        }
        for (sums, accumulator) in sums.iter_mut().zip(accumulators) {
            // SAFETY: `sums` is 16 integers.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), accumulator) };
        }
    }

    /// Widens bytes to 16 bits and adds pairs: four registers of four outputs each.
    ///
    /// # Safety
    /// Needs AVX2; sizes as in [`vnni`].
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2(packed: &[i8], bytes: &[u8], steps: usize, sums: &mut [i32; LANES]) {
        let mut accumulators = [_mm256_setzero_si256(); 4];
        for step in 0..steps {
            // SAFETY: within `packed` and the row by the caller's contract.
            unsafe {
                let inputs = bytes.as_ptr().add(step * DEPTH).cast::<i32>().read_unaligned();
                let inputs = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(inputs)));
                for (part, accumulator) in accumulators.iter_mut().enumerate() {
                    let at = packed.as_ptr().add(step * LANES * DEPTH + part * 16);
                    let weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(at.cast()));
                    *accumulator = _mm256_add_epi32(*accumulator, _mm256_madd_epi16(weights, inputs));
                }
            }
        }
        for (part, accumulator) in accumulators.into_iter().enumerate() {
            let mut pairs = [0_i32; 8];
            // SAFETY: `pairs` is 8 integers.
            unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), accumulator) };
            for lane in 0..4 {
                sums[part * 4 + lane] = pairs[2 * lane] + pairs[2 * lane + 1];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::numbers;

    #[test]
    fn every_kernel_gives_the_same_sums() {
        for (input, output, rows) in [(4, 16, 1), (30, 33, 3), (192, 100, 8), (64, 16, 7), (96, 48, 5)] {
            let linear = QuantizedLinear::new(&numbers(input * output, 1.0, 1), input, output);
            let mut x = QuantizedRows::default();
            x.quantize(&numbers(input * rows, 1.0, 2), input);
            let group = input.div_ceil(DEPTH) * LANES * DEPTH;
            for packed in linear.packed.chunks_exact(group) {
                let mut expected = [[0; LANES]; ROWS];
                Kernel::Plain.dot(packed, &x.bytes, x.stride, rows, &mut expected);
                let mut found = [[0; LANES]; ROWS];
                kernel().dot(packed, &x.bytes, x.stride, rows, &mut found);
                assert_eq!(found, expected);
                #[cfg(target_arch = "x86_64")]
                if std::arch::is_x86_feature_detected!("avx2") {
                    let mut found = [[0; LANES]; ROWS];
                    Kernel::Avx2.dot(packed, &x.bytes, x.stride, rows, &mut found);
                    assert_eq!(found, expected);
                }
            }
        }
    }

    #[test]
    fn outputs_are_near_those_of_full_precision() {
        let (input, output, rows) = (192, 130, 19);
        let (w, x) = (numbers(input * output, 1.0, 3), numbers(input * rows, 1.0, 4));
        let linear = QuantizedLinear::new(&w, input, output);
        let mut quantized = QuantizedRows::default();
        quantized.quantize(&x, input);
        let mut y = vec![0.0; rows * output];
        linear.apply(&mut y, &quantized, 0, rows);
        for row in 0..rows {
            for o in 0..output {
                let exact: f32 = (0..input).map(|i| x[row * input + i] * w[o * input + i]).sum();
                assert!((exact - y[row * output + o]).abs() < 0.15, "{exact} and {}", y[row * output + o]);
            }
        }
    }

    #[test]
    fn a_row_alone_equals_the_row_in_a_batch() {
        let (input, output, rows) = (64, 40, 13);
        let linear = QuantizedLinear::new(&numbers(input * output, 1.0, 5), input, output);
        let x = numbers(input * rows, 1.0, 6);
        let mut all = QuantizedRows::default();
        all.quantize(&x, input);
        let mut together = vec![0.0; rows * output];
        linear.apply(&mut together, &all, 0, rows);
        for row in 0..rows {
            let mut one = QuantizedRows::default();
            one.quantize(&x[row * input..(row + 1) * input], input);
            let mut alone = vec![0.0; output];
            linear.apply(&mut alone, &one, 0, 1);
            assert_eq!(alone, together[row * output..(row + 1) * output]);
        }
    }
}
