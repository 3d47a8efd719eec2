//! Weights as the kernels read them: in tiles of sixteen outputs, step by step, each lane's part together.
//!
//! The layouts are those that `kernels/linear.cu` states; the numbers are those of the processor's weights
//! ([`crate::engine::ops::quantized`]), so both compute the same integers.

use half::bf16;
use rayon::prelude::*;

use crate::engine::cuda::machine::bytes_of;
use crate::engine::model::linear::Quant;
use crate::engine::ops::quantized::four_bits;

/// Outputs of a tile.
pub const TILE: usize = 16;
/// Numbers that rows of activations are padded to: a step of 8 bits, two of 16.
pub const PADDING: usize = 32;
/// Inputs that share a scale when weights have 4 bits.
pub const GROUP: usize = 32;
/// Lanes of a warp.
const LANES: usize = 32;

/// The shape of a weight in a precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The precision.
    pub quant: Quant,
    /// Number of inputs.
    pub input: usize,
    /// Number of outputs; of a gated weight those of the gate.
    pub outputs: usize,
    /// Whether it is a gate with an up of the same shape.
    pub is_gated: bool,
}

/// A weight in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// The numbers.
    pub words: Vec<u8>,
    /// Their scales, where there are any.
    pub scales: Vec<u8>,
}

impl Form {
    /// Returns how many numbers a row of activations has, with its padding.
    pub fn stride(self) -> usize {
        self.input.next_multiple_of(PADDING)
    }

    /// Returns how many steps a row takes, as the kernels count.
    pub fn steps(self) -> usize {
        match self.quant {
            Quant::F32 => self.stride(),
            Quant::Bf16 => self.stride() / 16,
            Quant::Q8 | Quant::Q4 => self.stride() / 32,
        }
    }

    /// Returns the number of tiles.
    pub fn tiles(self) -> usize {
        self.outputs.div_ceil(TILE) * if self.is_gated { 2 } else { 1 }
    }

    /// Returns how many bytes the numbers take.
    pub fn word_bytes(self) -> usize {
        let matrices = if self.is_gated { 2 } else { 1 };
        match self.quant {
            Quant::F32 => size_of::<f32>() * self.stride() * self.outputs * matrices,
            _ => self.tiles() * self.tile_bytes(),
        }
    }

    /// Returns how many bytes the scales take.
    pub fn scale_bytes(self) -> usize {
        match self.quant {
            Quant::F32 | Quant::Bf16 => 0,
            Quant::Q8 => size_of::<f32>() * TILE * self.tiles(),
            Quant::Q4 => size_of::<bf16>() * TILE * self.tiles() * self.steps(),
        }
    }

    fn tile_bytes(self) -> usize {
        let of_lane = if self.quant == Quant::Q4 { 8 } else { 16 };
        self.steps() * LANES * of_lane
    }

    /// Returns the output that a lane row of a tile is, if there is one: the row of the whole matrix, in which
    /// ups are behind gates.
    fn output(self, tile: usize, row: usize) -> Option<usize> {
        let (tile, behind) = if self.is_gated { (tile / 2, tile % 2 * self.outputs) } else { (tile, 0) };
        let output = tile * TILE + row;
        (output < self.outputs).then_some(behind + output)
    }

    /// Packs a weight; `fill` writes a row of it, of a gated one first those of the gate.
    pub fn pack(self, fill: impl Fn(usize, &mut [f32]) + Sync) -> Packed {
        let mut packed = Packed { words: vec![0; self.word_bytes()], scales: vec![0; self.scale_bytes()] };
        if self.quant == Quant::F32 {
            let rows = packed.words.par_chunks_exact_mut(size_of::<f32>() * self.stride()).enumerate();
            rows.for_each_init(
                || vec![0.0; self.stride()],
                |numbers, (row, bytes)| {
                    fill(row, &mut numbers[..self.input]);
                    bytes.copy_from_slice(bytes_of(numbers));
                },
            );
            return packed;
        }
        let of_scales = (self.scale_bytes() / self.tiles().max(1)).max(1);
        // Without scales there is nothing to split.
        let mut none = vec![0_u8; if packed.scales.is_empty() { self.tiles() } else { 0 }];
        let scales = if packed.scales.is_empty() { &mut none } else { &mut packed.scales };
        let tiles =
            packed.words.par_chunks_exact_mut(self.tile_bytes()).zip(scales.par_chunks_exact_mut(of_scales));
        tiles.enumerate().for_each_init(
            || vec![0.0; self.stride()],
            |numbers, (tile, (words, scales))| {
                for row in 0..TILE {
                    let Some(output) = self.output(tile, row) else { continue };
                    fill(output, &mut numbers[..self.input]);
                    self.place(words, scales, numbers, row);
                }
            },
        );
        packed
    }

    /// Puts a row in its place of a tile.
    fn place(self, words: &mut [u8], scales: &mut [u8], numbers: &[f32], row: usize) {
        match self.quant {
            Quant::F32 => {}
            Quant::Bf16 => {
                for (i, number) in numbers.iter().enumerate() {
                    let (step, k) = (i / 16, i % 16);
                    let (part, lane) = (row / 8 + 2 * (k / 8), row % 8 * 4 + k % 8 / 2);
                    let at = (step * LANES + lane) * 16 + part * 4 + k % 2 * 2;
                    words[at..at + 2].copy_from_slice(&bf16::from_f32(*number).to_le_bytes());
                }
            }
            Quant::Q8 => {
                let largest = numbers.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
                let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
                for (i, number) in numbers.iter().enumerate() {
                    let code = (number * inverse).round_ties_even() as i8;
                    words[at_of_bytes(row, i)] = code as u8;
                }
                scales[row * 4..row * 4 + 4].copy_from_slice(&(largest / 127.0).to_le_bytes());
            }
            Quant::Q4 => {
                let (groups, _) = numbers.as_chunks::<GROUP>();
                for (step, group) in groups.iter().enumerate() {
                    let mut codes = [0; GROUP];
                    let scale = four_bits::quantize(&mut codes, group);
                    for (k, code) in codes.iter().enumerate() {
                        // A lane's four parts of 16 bits, four codes each.
                        let at = at_of_bytes(row, step * GROUP + k);
                        let (lane, part, byte) = (at / 16, at % 16 / 4, at % 4);
                        words[lane * 8 + part * 2 + byte / 2] |= code << (byte % 2 * 4);
                    }
                    let at = (step * TILE + row) * 2;
                    scales[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
        }
    }
}

/// Returns where input `i` of a row lies in a tile of bytes.
fn at_of_bytes(row: usize, i: usize) -> usize {
    let (step, k) = (i / 32, i % 32);
    let (part, lane) = (row / 8 + 2 * (k / 16), row % 8 * 4 + k % 16 / 4);
    (step * LANES + lane) * 16 + part * 4 + k % 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut seen = vec![false; 16 * 64];
        for (row, i) in (0..16).flat_map(|row| (0..64).map(move |i| (row, i))) {
            let at = at_of_bytes(row, i);
            assert!(!std::mem::replace(&mut seen[at], true), "{row} {i}");
        }
    }

    #[test]
    fn ups_are_beside_their_gates() {
        let form = Form { quant: Quant::Q8, input: 40, outputs: 20, is_gated: true };
        assert_eq!((form.tiles(), form.steps()), (4, 2));
        assert_eq!(form.output(0, 3), Some(3));
        assert_eq!(form.output(1, 3), Some(23));
        assert_eq!(form.output(3, 3), Some(39));
        assert_eq!(form.output(2, 4), None, "twenty outputs are a tile and a quarter");
    }

    #[test]
    fn what_is_packed_is_as_long_as_it_says() {
        for quant in [Quant::F32, Quant::Bf16, Quant::Q8, Quant::Q4] {
            let form = Form { quant, input: 50, outputs: 37, is_gated: true };
            let packed = form.pack(|row, numbers| numbers.fill(row as f32));
            assert_eq!(packed.words.len(), form.word_bytes(), "{quant:?}");
            assert_eq!(packed.scales.len(), form.scale_bytes(), "{quant:?}");
        }
    }
}
