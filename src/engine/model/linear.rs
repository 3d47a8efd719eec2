//! A linear layer in the precision it was loaded with.

use rayon::prelude::*;
use serde::Deserialize;
use serde::Serialize;

use crate::engine::ops::exact;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::quantized::QuantizedLinear;
use crate::engine::ops::quantized::QuantizedRows;

/// How weights are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Quant {
    /// 32-bit floats with sums in 64 bits, for comparing with references; slow.
    F32,
    /// 8-bit integers, weights and activations.
    Q8,
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
    /// In 8 bits.
    Q8(QuantizedLinear),
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
        match quant {
            Quant::F32 => {
                self.full.clear();
                self.full.extend_from_slice(x);
            }
            Quant::Q8 => self.quantized.quantize(x, input),
        }
    }

    /// Replaces the content by some rows of another.
    pub fn gather(&mut self, from: &Rows, quant: Quant, rows: impl Iterator<Item = usize>) {
        self.input = from.input;
        match quant {
            Quant::F32 => {
                self.full.clear();
                for row in rows {
                    self.full.extend_from_slice(&from.full[row * from.input..(row + 1) * from.input]);
                }
            }
            Quant::Q8 => self.quantized.gather(&from.quantized, rows),
        }
    }
}

impl Linear {
    /// Keeps a weight `[output, input]` in the given precision, its bias in full.
    pub fn new(
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        input: usize,
        output: usize,
        quant: Quant,
    ) -> Linear {
        let weight = match quant {
            Quant::F32 => Weight::F32 { weight, input, output },
            Quant::Q8 => Weight::Q8(QuantizedLinear::new(&weight, input, output)),
        };
        Linear { weight, bias }
    }

    /// Returns the number of outputs.
    pub fn output(&self) -> usize {
        match &self.weight {
            Weight::F32 { output, .. } => *output,
            Weight::Q8(linear) => linear.output,
        }
    }

    /// Returns how many bytes the weight takes.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Weight::F32 { weight, .. } => weight.len() * size_of::<f32>(),
            Weight::Q8(linear) => linear.bytes(),
        }
    }

    /// Computes the outputs of rows `from..` of `x` into `y` `[count, output]`, on this thread.
    pub fn apply(&self, y: &mut [f32], x: &Rows, from: usize) {
        let count = y.len() / self.output();
        match &self.weight {
            Weight::F32 { weight, input, output } => {
                let x = View::new(&x.full[from * input..(from + count) * input], count, *input);
                let w = View::new(weight, *output, *input).transposed();
                exact::matmul(y, *output, x, w, 1.0, Write::Replace);
            }
            Weight::Q8(linear) => linear.apply(y, &x.quantized, from, count),
        }
        if let Some(bias) = &self.bias {
            for y in y.chunks_exact_mut(bias.len()) {
                y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        }
    }

    /// Computes the outputs of all rows of `x`, split over the threads.
    pub fn apply_parallel(&self, y: &mut [f32], x: &Rows) {
        let rows = y.len() / self.output();
        let piece = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(8);
        y.par_chunks_mut(piece * self.output()).enumerate().for_each(|(i, y)| self.apply(y, x, i * piece));
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
        for quant in [Quant::F32, Quant::Q8] {
            let mut rows = Rows::default();
            rows.set(quant, &x, 5);
            let apply = |bias| {
                let mut y = vec![0.0; 6];
                Linear::new(weight.clone(), bias, 5, 3, quant).apply_parallel(&mut y, &rows);
                y
            };
            let (plain, biased) = (apply(None), apply(Some(bias.clone())));
            for (i, (plain, biased)) in plain.iter().zip(&biased).enumerate() {
                assert_eq!(plain + bias[i % 3], *biased, "{quant:?}");
            }
        }
    }
}
