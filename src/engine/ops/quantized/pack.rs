//! From rows of weights to panels.

use half::bf16;
use rayon::prelude::*;

use crate::engine::ops::quantized::DEPTH;
use crate::engine::ops::quantized::GROUP;
use crate::engine::ops::quantized::LANES;
use crate::engine::ops::quantized::OFFSET;
use crate::engine::ops::quantized::Packed;
use crate::engine::ops::quantized::four_bits;
use crate::engine::ops::simd::multiversion;

/// Packs a weight `[output, input]` in 8 bits; `fill` writes a row.
pub fn eight(input: usize, output: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Packed {
    let (panels, stride) = (output.div_ceil(LANES), input.next_multiple_of(DEPTH));
    let mut weights = vec![0; panels * LANES * stride];
    let mut scales = vec![0.0; panels * LANES];
    let parts = weights.par_chunks_exact_mut(LANES * stride).zip(scales.par_chunks_exact_mut(LANES));
    parts.enumerate().for_each_init(
        || vec![0.0; stride],
        |row, (panel, (weights, scales))| {
            for (lane, scale) in scales.iter_mut().enumerate().take(output - panel * LANES) {
                fill(panel * LANES + lane, &mut row[..input]);
                *scale = place_eight(weights, row, lane);
            }
        },
    );
    Packed::Eight { weights, scales }
}

multiversion! {
    /// Puts a row in its lane of a panel; returns its scale.
    fn place_eight(weights: &mut [u8], row: &[f32], lane: usize) -> f32 {
        let largest = row.iter().fold(0_u32, |largest, v| largest.max(v.abs().to_bits()));
        let largest = f32::from_bits(largest);
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (step, four) in weights.chunks_exact_mut(LANES * DEPTH).zip(row.chunks_exact(DEPTH)) {
            for (byte, v) in step[lane * DEPTH..].iter_mut().zip(four) {
                *byte = ((v * inverse).round_ties_even() as i32 + OFFSET) as u8;
            }
        }
        largest / 127.0
    }
}

/// Packs a weight `[output, input]` in 4 bits; `fill` writes a row.
pub fn four(input: usize, output: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Packed {
    let (panels, groups) = (output.div_ceil(LANES), input.div_ceil(GROUP));
    let mut weights = vec![0; panels * LANES / 2 * groups * GROUP];
    let mut scales = vec![bf16::ZERO; panels * LANES * groups];
    let parts = weights
        .par_chunks_exact_mut(LANES / 2 * groups * GROUP)
        .zip(scales.par_chunks_exact_mut(LANES * groups));
    parts.enumerate().for_each_init(
        || vec![0.0; groups * GROUP],
        |row, (panel, (weights, scales))| {
            for lane in 0..LANES.min(output - panel * LANES) {
                fill(panel * LANES + lane, &mut row[..input]);
                let (rows, _) = row.as_chunks::<GROUP>();
                let groups = weights.chunks_exact_mut(LANES / 2 * GROUP).zip(scales.chunks_exact_mut(LANES));
                for (row, (weights, scales)) in rows.iter().zip(groups) {
                    let mut codes = [0; GROUP];
                    scales[lane] = four_bits::quantize(&mut codes, row);
                    let pairs = weights.chunks_exact_mut(LANES * DEPTH).zip(codes.chunks_exact(2 * DEPTH));
                    for (bytes, codes) in pairs {
                        for d in 0..DEPTH {
                            bytes[lane * DEPTH + d] = codes[d] | codes[DEPTH + d] << 4;
                        }
                    }
                }
            }
        },
    );
    Packed::Four { weights, scales }
}
