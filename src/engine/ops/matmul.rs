//! Matrix products over row-major slices of f32, through the `gemm-f32` crate or with factors in bf16.
//!
//! A linear layer stores its weight as `[out, in]`, as checkpoints do. The three products of a
//! layer (forward, gradient of the input, gradient of the weight) each have a serial form, for
//! use inside parallel loops, and a parallel one that splits the larger side over the threads.
#![allow(unsafe_code)]

use gemm_common::Parallelism;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use crate::engine::ops::bf16;

/// A matrix within a slice: `rows × columns`, element (i, j) at `i * row_stride + j * column_stride`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The storage.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between columns, in elements.
    pub column_stride: usize,
}

impl<'a> View<'a> {
    /// Returns a dense row-major view.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> View<'a> {
        View { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Returns a row-major view whose rows are `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> View<'a> {
        View { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Returns the transposed view.
    pub fn transposed(self) -> View<'a> {
        View {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    pub(super) fn is_within(&self) -> bool {
        self.rows == 0
            || self.columns == 0
            || (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride < self.data.len()
    }
}

/// Whether a product replaces its destination or adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `dst = a·b`.
    Replace,
    /// `dst += a·b`.
    Add,
}

/// Computes `dst = scale · a·b` or `dst += scale · a·b` on this thread; `dst` has rows `dst_stride` apart.
///
/// # Panics
/// When shapes do not fit the slices: a bug of the caller.
pub fn matmul(dst: &mut [f32], dst_stride: usize, a: View, b: View, scale: f32, write: Write) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert_eq!(a.columns, b.rows, "inner sizes of a product");
    assert!(a.is_within() && b.is_within(), "operand of a product within its slice");
    assert!(n <= dst_stride && (m - 1) * dst_stride + n <= dst.len(), "result of a product within its slice");
    // SAFETY: the asserts above keep every access within the three slices; `dst` is borrowed
    // mutably, so it aliases neither operand.
    unsafe {
        gemm_f32::gemm::f32::get_gemm_fn()(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            dst_stride as isize,
            write == Write::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// How the factors of a product are rounded; its sums are in f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// To bf16, which is twice as fast where the processor can; elsewhere not at all.
    Bf16,
}

impl Precision {
    /// [`matmul`] in this precision.
    ///
    /// # Panics
    /// When shapes do not fit the slices: a bug of the caller.
    pub fn matmul(self, dst: &mut [f32], dst_stride: usize, a: View, b: View, scale: f32, write: Write) {
        // With one row or column there is nothing to gain from packing.
        #[cfg(target_arch = "x86_64")]
        if self == Precision::Bf16 && a.rows > 1 && b.columns > 1 && bf16::is_supported() {
            return bf16::matmul_bf16(dst, dst_stride, a, b, scale, write);
        }
        matmul(dst, dst_stride, a, b, scale, write);
    }

    /// Computes `y = x·wᵀ`: x `[n, in]`, w `[out, in]`, y `[n, out]`.
    pub fn linear(self, y: &mut [f32], x: &[f32], w: &[f32], input: usize, output: usize) {
        let n = x.len() / input;
        let w = View::new(w, output, input).transposed();
        self.matmul(y, output, View::new(x, n, input), w, 1.0, Write::Replace);
    }

    /// Computes `dx (+)= dy·w`: dy `[n, out]`, w `[out, in]`, dx `[n, in]`.
    pub fn linear_input_gradient(
        self,
        dx: &mut [f32],
        dy: &[f32],
        w: &[f32],
        input: usize,
        output: usize,
        write: Write,
    ) {
        let n = dy.len() / output;
        self.matmul(dx, input, View::new(dy, n, output), View::new(w, output, input), 1.0, write);
    }

    /// Computes `dw += dyᵀ·x`: dy `[n, out]`, x `[n, in]`, dw `[out, in]`.
    pub fn linear_weight_gradient(self, dw: &mut [f32], dy: &[f32], x: &[f32], input: usize, output: usize) {
        let n = x.len() / input;
        let dy = View::new(dy, n, output).transposed();
        self.matmul(dw, input, dy, View::new(x, n, input), 1.0, Write::Add);
    }

    /// [`Precision::linear`], rows split over the threads.
    pub fn parallel_linear(self, y: &mut [f32], x: &[f32], w: &[f32], input: usize, output: usize) {
        let rows = piece(x.len() / input);
        y.par_chunks_mut(rows * output)
            .zip(x.par_chunks(rows * input))
            .for_each(|(y, x)| self.linear(y, x, w, input, output));
    }

    /// [`Precision::linear_input_gradient`], rows split over the threads.
    pub fn parallel_linear_input_gradient(
        self,
        dx: &mut [f32],
        dy: &[f32],
        w: &[f32],
        input: usize,
        output: usize,
        write: Write,
    ) {
        let rows = piece(dy.len() / output);
        dx.par_chunks_mut(rows * input)
            .zip(dy.par_chunks(rows * output))
            .for_each(|(dx, dy)| self.linear_input_gradient(dx, dy, w, input, output, write));
    }

    /// [`Precision::linear_weight_gradient`], output rows of the weight split over the threads.
    pub fn parallel_linear_weight_gradient(
        self,
        dw: &mut [f32],
        dy: &[f32],
        x: &[f32],
        input: usize,
        output: usize,
    ) {
        let n = x.len() / input;
        let rows = piece(output);
        dw.par_chunks_mut(rows * input).enumerate().for_each(|(i, dw)| {
            let count = dw.len() / input;
            let columns = View {
                data: &dy[(i * rows).min(dy.len())..],
                rows: count,
                columns: n,
                row_stride: 1,
                column_stride: output,
            };
            self.matmul(dw, input, columns, View::new(x, n, input), 1.0, Write::Add);
        });
    }
}

/// Splits `rows` into about one piece a thread.
fn piece(rows: usize) -> usize {
    rows.div_ceil(rayon::current_num_threads()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::testing::numbers;

    fn naive(a: View, b: View) -> Vec<f32> {
        let at = |v: &View, i: usize, j: usize| v.data[i * v.row_stride + j * v.column_stride];
        let mut out = vec![0.0; a.rows * b.columns];
        for i in 0..a.rows {
            for j in 0..b.columns {
                out[i * b.columns + j] = (0..a.columns).map(|k| at(&a, i, k) * at(&b, k, j)).sum();
            }
        }
        out
    }

    fn check(left: &[f32], right: &[f32]) {
        assert_eq!(left.len(), right.len());
        for (a, b) in left.iter().zip(right) {
            assert!((a - b).abs() < 1e-4, "{a} and {b}");
        }
    }

    #[test]
    fn the_three_products_of_a_layer_agree_with_plain_sums() {
        for (n, input, output) in [(1, 7, 5), (3, 64, 33), (37, 19, 130)] {
            let (x, w, dy) =
                (numbers(n * input, 0.5, 1), numbers(output * input, 0.5, 2), numbers(n * output, 0.5, 3));
            let mut y = vec![9.0; n * output];
            Precision::F32.parallel_linear(&mut y, &x, &w, input, output);
            check(&y, &naive(View::new(&x, n, input), View::new(&w, output, input).transposed()));
            let mut dx = vec![1.0; n * input];
            Precision::F32.parallel_linear_input_gradient(&mut dx, &dy, &w, input, output, Write::Add);
            let plain = naive(View::new(&dy, n, output), View::new(&w, output, input));
            check(&dx, &plain.iter().map(|v| v + 1.0).collect::<Vec<_>>());
            let mut dw = vec![0.0; output * input];
            Precision::F32.parallel_linear_weight_gradient(&mut dw, &dy, &x, input, output);
            check(&dw, &naive(View::new(&dy, n, output).transposed(), View::new(&x, n, input)));
        }
    }
}
