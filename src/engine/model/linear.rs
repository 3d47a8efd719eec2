//! A linear layer in the precision it was loaded with.

use std::ops::Range;

use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use crate::engine::ops::exact;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::quantized::Bits;
use crate::engine::ops::quantized::QuantizedLinear;
use crate::engine::ops::quantized::rows::QuantizedRows;

/// How weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// 32-bit floats with sums in 64 bits, for comparing with references; slow.
    F32,
    /// 16-bit floats with sums in 32 bits; on a GPU only.
    Bf16,
    /// 8-bit integers, weights and activations.
    Q8,
    /// 4 bits a weight, a scale for each 32 inputs; activations in 8 bits.
    Q4,
}

impl Quant {
    /// Returns how many bits an integer weight has; `None` for floats.
    pub fn bits(self) -> Option<Bits> {
        match self {
            Quant::F32 | Quant::Bf16 => None,
            Quant::Q8 => Some(Bits::Eight),
            Quant::Q4 => Some(Bits::Four),
        }
    }
}

/// A weight `[output, input]` and perhaps a bias `[output]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Vec<f32>>,
}

#[derive(Debug, Clone)]
enum Weight {
    /// In full precision.
    F32 {
        /// Row-major.
        weight: Vec<f32>,
        /// Number of inputs.
        input: usize,
        /// Number of outputs.
        output: usize,
    },
    /// In 8 bits or 4.
    Quantized(QuantizedLinear),
}

/// Rows in the form that the layers of one model take.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    full: Vec<f32>,
    quantized: QuantizedRows,
    input: usize,
}

impl Rows {
    /// Replaces the content by rows `x` `[rows, input]`.
    pub fn set(&mut self, quant: Quant, x: &[f32], input: usize) {
        self.input = input;
        match quant.bits() {
            None => {
                self.full.clear();
                self.full.extend_from_slice(x);
            }
            Some(bits) => self.quantized.quantize(bits, x, input),
        }
    }

    /// Replaces the content by some rows of another.
    pub fn gather(&mut self, from: &Rows, quant: Quant, rows: impl Iterator<Item = usize>) {
        self.input = from.input;
        match quant.bits() {
            None => {
                self.full.clear();
                for row in rows {
                    self.full.extend_from_slice(&from.full[row * from.input..(row + 1) * from.input]);
                }
            }
            Some(_) => self.quantized.gather(&from.quantized, rows),
        }
    }
}

impl Linear {
    /// Keeps a weight `[output, input]` in the given precision, its bias in full; `fill` writes a
    /// row of the weight.
    pub fn from_rows(
        quant: Quant,
        input: usize,
        output: usize,
        bias: Option<Vec<f32>>,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Linear {
        let weight = match quant.bits() {
            None => {
                let mut weight = vec![0.0; output * input];
                weight.par_chunks_exact_mut(input).enumerate().for_each(|(i, row)| fill(i, row));
                Weight::F32 { weight, input, output }
            }
            Some(bits) => Weight::Quantized(QuantizedLinear::from_rows(bits, input, output, fill)),
        };
        Linear { weight, bias }
    }

    /// Returns how many bytes a weight `[output, input]` takes.
    pub fn bytes_of(quant: Quant, input: usize, output: usize) -> usize {
        let number = if quant == Quant::Bf16 { size_of::<half::bf16>() } else { size_of::<f32>() };
        quant.bits().map_or(number * input * output, |bits| bits.bytes(input, output))
    }

    /// Returns the number of outputs.
    pub fn output(&self) -> usize {
        match &self.weight {
            Weight::F32 { output, .. } => *output,
            Weight::Quantized(linear) => linear.output,
        }
    }

    /// Returns the numbers `[output, input]` and how many inputs there are; `None` in few bits.
    pub fn exact(&self) -> Option<(&[f32], usize)> {
        match &self.weight {
            Weight::F32 { weight, input, .. } => Some((weight, *input)),
            Weight::Quantized(_) => None,
        }
    }

    /// Returns the bias `[output]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Returns how many bytes the weight takes.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Weight::F32 { weight, .. } => weight.len() * size_of::<f32>(),
            Weight::Quantized(linear) => linear.bytes(),
        }
    }

    /// Computes all outputs of some rows of `x` into `y` `[rows, output]`, on this thread.
    pub fn apply(&self, y: &mut [f32], x: &Rows, rows: Range<usize>) {
        self.apply_some(y, self.output(), x, rows, 0..self.output());
    }

    /// Computes some outputs, from a multiple of 16 on, of some rows of `x` into `y`, whose rows are
    /// `stride` apart, on this thread.
    pub fn apply_some(
        &self,
        y: &mut [f32],
        stride: usize,
        x: &Rows,
        rows: Range<usize>,
        outputs: Range<usize>,
    ) {
        match &self.weight {
            Weight::F32 { weight, input, .. } => {
                let weight = &weight[outputs.start * input..outputs.end * input];
                let w = View::new(weight, outputs.len(), *input).transposed();
                let x = View::new(&x.full[rows.start * input..rows.end * input], rows.len(), *input);
                exact::matmul(y, stride, x, w, 1.0, Write::Replace);
            }
            Weight::Quantized(linear) => linear.apply(y, stride, &x.quantized, rows.clone(), outputs.clone()),
        }
        if let Some(bias) = &self.bias {
            for y in y.chunks_mut(stride).take(rows.len()) {
                y.iter_mut().zip(&bias[outputs.clone()]).for_each(|(y, b)| *y += b);
            }
        }
    }

    /// Computes all outputs of all rows of `x`, split over the threads.
    pub fn apply_parallel(&self, y: &mut [f32], x: &Rows) {
        let output = self.output();
        match &self.weight {
            Weight::F32 { .. } => {
                y.par_chunks_mut(output).enumerate().for_each(|(row, y)| self.apply(y, x, row..row + 1));
            }
            Weight::Quantized(linear) => {
                linear.apply_parallel(y, &x.quantized);
                if let Some(bias) = &self.bias {
                    for y in y.chunks_exact_mut(output) {
                        y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bias_is_added_to_every_row() {
        let weight: Vec<f32> = (0..15).map(|i| (i as f32 * 0.7).sin()).collect();
        let x: Vec<f32> = (0..10).map(|i| (i as f32 * 0.3).cos()).collect();
        let bias = vec![1.0, -2.0, 0.5];
        for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
            let mut rows = Rows::default();
            rows.set(quant, &x, 5);
            let apply = |bias| {
                let mut y = vec![0.0; 6];
                let fill = |o: usize, row: &mut [f32]| row.copy_from_slice(&weight[o * 5..][..5]);
                Linear::from_rows(quant, 5, 3, bias, fill).apply_parallel(&mut y, &rows);
                y
            };
            let (plain, biased) = (apply(None), apply(Some(bias.clone())));
            for (i, (plain, biased)) in plain.iter().zip(&biased).enumerate() {
                assert_eq!(plain + bias[i % 3], *biased, "{quant:?}");
            }
        }
    }
}
