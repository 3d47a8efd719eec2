//! Linear layers with weights of 8 or 4 bits and activations of 8: `y = x·wᵀ`.
//!
//! Inputs go in groups: all of a row together with weights of 8 bits, 32 at a time with weights of
//! 4. A group has a scale, of weights and of activations. Within a group products and sums are
//! integers; the groups of a row are added in f32 in their order, by fused multiply-adds. So a row's
//! result does not depend on which rows it is computed with, nor on the instructions: the same
//! answer alone or in any batch.
//!
//! Sixteen outputs, a **panel**, are packed together for the 4-wide dot products of AVX-512 VNNI.
//! That instruction multiplies unsigned by signed bytes: weights are kept with 128 added, and 128
//! times the sum of a group's activations is taken off again ([`rows`]). AVX2 and plain code read
//! the same layout.
#![allow(unsafe_code)]

pub mod four_bits;
mod kernel;
mod pack;
pub mod rows;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use crate::engine::ops::quantized::kernel::Kernel;
use crate::engine::ops::quantized::kernel::Panel;
use crate::engine::ops::quantized::kernel::Tile;
use crate::engine::ops::quantized::rows::QuantizedRows;

/// Outputs that are packed together.
pub const LANES: usize = 16;
/// Inputs of one dot-product instruction.
const DEPTH: usize = 4;
/// Rows of activations that one pass over the weights serves.
const ROWS: usize = 8;
/// Inputs that share a scale when weights have 4 bits.
const GROUP: usize = 32;
/// What is added to weights to make them unsigned.
const OFFSET: i32 = 128;
/// A piece of work for a thread: so many products keep it busy for some microseconds.
const PIECE: usize = 1 << 19;

/// How many bits a weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// One of 255 even steps, with a scale for each output.
    Eight,
    /// One of 16 levels, with a scale for each 32 inputs of an output.
    Four,
}

impl Bits {
    /// Returns how many inputs share a scale in a row of `input`.
    fn group(self, input: usize) -> usize {
        match self {
            Bits::Eight => input.next_multiple_of(DEPTH),
            Bits::Four => GROUP,
        }
    }

    /// Returns how many bytes a weight `[output, input]` takes.
    pub fn bytes(self, input: usize, output: usize) -> usize {
        let (outputs, group) = (output.next_multiple_of(LANES), self.group(input));
        let inputs = input.next_multiple_of(group);
        match self {
            Bits::Eight => outputs * (inputs + size_of::<f32>()),
            Bits::Four => outputs * (inputs / 2 + inputs / group * size_of::<bf16>()),
        }
    }
}

/// A weight `[output, input]` in few bits.
#[derive(Debug, Clone)]
pub struct QuantizedLinear {
    /// Number of inputs.
    pub input: usize,
    /// Number of outputs.
    pub output: usize,
    packed: Packed,
}

/// Panels one behind the other.
#[derive(Debug, Clone)]
enum Packed {
    /// `weights[panel][input / 4][lane][input % 4]`, `scales[panel][lane]`.
    Eight { weights: Vec<u8>, scales: Vec<f32> },
    /// `weights[panel][input / 8][lane][input % 4]`, of eight inputs the first four in the low halves
    /// of the bytes; `scales[panel][group][lane]`.
    Four { weights: Vec<u8>, scales: Vec<bf16> },
}

/// Where several threads put their own outputs of the same rows.
struct Shared(*mut f32);

// SAFETY: whoever holds it writes only what no other thread does.
unsafe impl Sync for Shared {}

impl QuantizedLinear {
    /// Quantises and packs a weight, row by row: `fill` writes a row of `input` numbers.
    pub fn from_rows(
        bits: Bits,
        input: usize,
        output: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> QuantizedLinear {
        let packed = match bits {
            Bits::Eight => pack::eight(input, output, fill),
            Bits::Four => pack::four(input, output, fill),
        };
        QuantizedLinear { input, output, packed }
    }

    /// Returns how many bits a weight has.
    pub fn bits(&self) -> Bits {
        match self.packed {
            Packed::Eight { .. } => Bits::Eight,
            Packed::Four { .. } => Bits::Four,
        }
    }

    /// Returns how many bytes the weight takes.
    pub fn bytes(&self) -> usize {
        self.bits().bytes(self.input, self.output)
    }

    /// Computes some outputs of some rows of `x` into `y`, whose rows are `stride` apart, on this thread.
    ///
    /// # Panics
    /// When `outputs` does not begin with a panel or `y` is too short: a bug of the caller.
    pub fn apply(
        &self,
        y: &mut [f32],
        stride: usize,
        x: &QuantizedRows,
        rows: Range<usize>,
        outputs: Range<usize>,
    ) {
        if rows.is_empty() || outputs.is_empty() {
            return;
        }
        assert!(outputs.len() <= stride && (rows.len() - 1) * stride + outputs.len() <= y.len(), "room");
        let (top, left) = (rows.start, outputs.start);
        self.tiles(x, rows, outputs, |row, output, tile, width| {
            for (i, lanes) in tile.iter().enumerate() {
                let at = (row + i - top) * stride + output - left;
                y[at..at + width].copy_from_slice(&lanes[..width]);
            }
        });
    }

    /// Computes all outputs of all rows of `x` into `y` `[rows, output]`; the outputs are split over
    /// the threads, so that each weight is read once.
    ///
    /// # Panics
    /// When `y` has another length: a bug of the caller.
    pub fn apply_parallel(&self, y: &mut [f32], x: &QuantizedRows) {
        let (rows, stride, panels) = (x.rows(), self.output, self.output.div_ceil(LANES));
        assert_eq!(y.len(), rows * stride, "room for all outputs");
        let most = (rows * self.input * self.output).div_ceil(PIECE).max(1);
        let pieces = most.min(4 * rayon::current_num_threads()).min(panels.max(1));
        let y = Shared(y.as_mut_ptr());
        let y = &y;
        (0..pieces).into_par_iter().for_each(|piece| {
            let first = piece * panels / pieces * LANES;
            let end = ((piece + 1) * panels / pieces * LANES).min(self.output);
            self.tiles(x, 0..rows, first..end, |row, output, tile, width| {
                for (i, lanes) in tile.iter().enumerate() {
                    let at = (row + i) * stride + output;
                    // SAFETY: the row is below `rows`, `output + width` at most `stride`, so this is
                    // within `y` by the assert above; no other piece has these outputs.
                    unsafe { y.0.add(at).copy_from_nonoverlapping(lanes.as_ptr(), width) };
                }
            });
        });
    }

    /// Computes tiles of up to 8 rows and 16 outputs and hands each to `take` with its first row, its
    /// first output and how many outputs it has.
    #[inline(always)]
    fn tiles(
        &self,
        x: &QuantizedRows,
        rows: Range<usize>,
        outputs: Range<usize>,
        mut take: impl FnMut(usize, usize, &[[f32; LANES]], usize),
    ) {
        assert!(outputs.start.is_multiple_of(LANES) && outputs.end <= self.output, "outputs of a weight");
        let kernel = Kernel::best();
        let mut tile: Tile = [[0.0; LANES]; ROWS];
        for output in outputs.clone().step_by(LANES) {
            let panel = self.panel(output / LANES);
            let width = LANES.min(outputs.end - output);
            for row in rows.clone().step_by(ROWS) {
                let octet = x.octet(row..(row + ROWS).min(rows.end));
                kernel.multiply(panel, octet, &mut tile);
                take(row, output, &tile[..octet.count], width);
            }
        }
    }

    fn panel(&self, panel: usize) -> Panel<'_> {
        let group = self.bits().group(self.input);
        let groups = self.input.div_ceil(group);
        match &self.packed {
            Packed::Eight { weights, scales } => Panel::Eight {
                weights: &weights[panel * LANES * group..][..LANES * group],
                scales: &scales[panel * LANES..][..LANES],
            },
            Packed::Four { weights, scales } => Panel::Four {
                weights: &weights[panel * LANES / 2 * groups * group..][..LANES / 2 * groups * group],
                scales: &scales[panel * LANES * groups..][..LANES * groups],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::weights::random::normal;

    const SHAPES: [(usize, usize, usize); 6] =
        [(4, 16, 1), (30, 33, 3), (192, 100, 8), (64, 16, 7), (96, 48, 5), (68, 130, 19)];
    const BITS: [Bits; 2] = [Bits::Eight, Bits::Four];

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let mut numbers = vec![0.0; count];
        normal(seed, 0, &mut numbers);
        numbers
    }

    fn linear(bits: Bits, input: usize, output: usize) -> QuantizedLinear {
        let fill = |row: usize, numbers: &mut [f32]| normal(1, row as u64, numbers);
        QuantizedLinear::from_rows(bits, input, output, fill)
    }

    fn quantized(bits: Bits, x: &[f32], input: usize) -> QuantizedRows {
        let mut rows = QuantizedRows::default();
        rows.quantize(bits, x, input);
        rows
    }

    #[test]
    fn every_kernel_gives_the_same_bits() {
        for (bits, (input, output, rows)) in BITS.into_iter().flat_map(|b| SHAPES.map(|shape| (b, shape))) {
            let linear = linear(bits, input, output);
            let x = quantized(bits, &numbers(input * rows, 2), input);
            for panel in 0..output.div_ceil(LANES) {
                let tiles = Kernel::all().into_iter().map(|kernel| {
                    let mut tile = [[0.0; LANES]; ROWS];
                    kernel.multiply(linear.panel(panel), x.octet(0..rows.min(ROWS)), &mut tile);
                    tile.map(|row| row.map(f32::to_bits))
                });
                let tiles: Vec<_> = tiles.collect();
                assert!(tiles.iter().all(|tile| *tile == tiles[0]), "{bits:?} {input} {output} {rows}");
            }
        }
    }

    #[test]
    fn outputs_are_near_those_of_full_precision() {
        let check = |bits: Bits, expected: std::ops::Range<f64>| {
            let (input, output, rows) = (192, 130, 19);
            let x = numbers(input * rows, 4);
            let mut y = vec![0.0; rows * output];
            linear(bits, input, output).apply_parallel(&mut y, &quantized(bits, &x, input));
            let (mut lost, mut all) = (0.0, 0.0);
            let mut weight = vec![0.0; input];
            for o in 0..output {
                normal(1, o as u64, &mut weight);
                for (x, y) in x.chunks_exact(input).zip(y.chunks_exact(output)) {
                    let product = |(x, w): (&f32, &f32)| f64::from(*x) * f64::from(*w);
                    let exact: f64 = x.iter().zip(&weight).map(product).sum();
                    lost += (exact - f64::from(y[o])).powi(2);
                    all += exact * exact;
                }
            }
            let error = (lost / all).sqrt();
            assert!(expected.contains(&error), "{bits:?}: {error}");
        };
        check(Bits::Eight, 0.001..0.012);
        check(Bits::Four, 0.06..0.085);
    }

    #[test]
    fn a_row_alone_equals_the_row_in_a_batch() {
        for (bits, (input, output, rows)) in BITS.into_iter().flat_map(|b| SHAPES.map(|shape| (b, shape))) {
            let linear = linear(bits, input, output);
            let x = numbers(input * rows, 6);
            let mut together = vec![0.0; rows * output];
            linear.apply_parallel(&mut together, &quantized(bits, &x, input));
            for (x, together) in x.chunks_exact(input).zip(together.chunks_exact(output)) {
                let mut alone = vec![0.0; output];
                linear.apply(&mut alone, output, &quantized(bits, x, input), 0..1, 0..output);
                assert_eq!(alone, together, "{bits:?}");
            }
        }
    }

    #[test]
    fn some_outputs_of_some_rows_are_those_of_all() {
        for bits in BITS {
            let (input, output, rows) = (40, 70, 12);
            let linear = linear(bits, input, output);
            let x = quantized(bits, &numbers(input * rows, 8), input);
            let mut all = vec![0.0; rows * output];
            linear.apply_parallel(&mut all, &x);
            let mut some = vec![9.0; 3 * 50];
            linear.apply(&mut some, 50, &x, 7..10, 32..70);
            for (i, some) in some.chunks_exact(50).enumerate() {
                let all = &all[(7 + i) * output..(8 + i) * output];
                assert_eq!(some[..38], all[32..]);
                assert!(some[38..].iter().all(|v| *v == 9.0), "what is between rows is left alone");
            }
        }
    }

    #[test]
    fn bytes_are_those_that_are_held() {
        for (bits, (input, output, _)) in BITS.into_iter().flat_map(|b| SHAPES.map(|shape| (b, shape))) {
            let held = match &linear(bits, input, output).packed {
                Packed::Eight { weights, scales } => weights.len() + size_of_val(scales.as_slice()),
                Packed::Four { weights, scales } => weights.len() + size_of_val(scales.as_slice()),
            };
            assert_eq!(bits.bytes(input, output), held);
        }
    }

    #[test]
    fn gathered_rows_are_those_quantised_alone() {
        for bits in BITS {
            let x = numbers(5 * 70, 9);
            let all = quantized(bits, &x, 70);
            let mut gathered = QuantizedRows::default();
            gathered.gather(&all, [4, 1].into_iter());
            let expected = quantized(bits, &[&x[280..350], &x[70..140]].concat(), 70);
            let mut both = [vec![0.0; 40], vec![0.0; 40]];
            for (y, rows) in both.iter_mut().zip([&gathered, &expected]) {
                assert_eq!(rows.rows(), 2);
                linear(bits, 70, 20).apply_parallel(y, rows);
            }
            assert_eq!(both[0], both[1]);
        }
    }
}
