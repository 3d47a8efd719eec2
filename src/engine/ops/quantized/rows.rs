//! Rows of activations in 8 bits, as the linear layers take them.

use std::ops::Range;

use crate::engine::ops::quantized::Bits;
use crate::engine::ops::quantized::OFFSET;
use crate::engine::ops::simd::multiversion;

/// Rows `[rows, input]`, with a scale for each group of inputs.
#[derive(Debug, Clone, Default)]
pub struct QuantizedRows {
    /// Padded with zeros to whole groups.
    bytes: Vec<i8>,
    /// `[rows, groups]`.
    scales: Vec<f32>,
    /// `[rows, groups]`: what takes off what was added to the weights, −128 times the sum of the bytes.
    corrections: Vec<i32>,
    /// Bytes of a row.
    stride: usize,
    /// Groups of a row.
    groups: usize,
}

/// Up to eight rows of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Octet<'a> {
    /// `[count, stride]`.
    pub bytes: &'a [i8],
    /// `[count, groups]`.
    pub scales: &'a [f32],
    /// `[count, groups]`.
    pub corrections: &'a [i32],
    /// Bytes of a row.
    pub stride: usize,
    /// Groups of a row.
    pub groups: usize,
    /// How many rows.
    pub count: usize,
}

impl QuantizedRows {
    /// Replaces the content by the rows of `x` `[rows, input]`, for weights of so many bits.
    pub fn quantize(&mut self, bits: Bits, x: &[f32], input: usize) {
        let (rows, group) = (x.len() / input, bits.group(input));
        self.groups = input.div_ceil(group);
        self.stride = self.groups * group;
        self.bytes.resize(rows * self.stride, 0);
        self.scales.resize(rows * self.groups, 0.0);
        self.corrections.resize(rows * self.groups, 0);
        let scales = self.scales.chunks_exact_mut(self.groups);
        let corrections = self.corrections.chunks_exact_mut(self.groups);
        let rows = self.bytes.chunks_exact_mut(self.stride).zip(scales.zip(corrections));
        for ((bytes, (scales, corrections)), x) in rows.zip(x.chunks_exact(input)) {
            quantize_groups(bytes, scales, corrections, x, group);
        }
    }

    /// Replaces the content by some rows of another, in the given order.
    pub fn gather(&mut self, from: &QuantizedRows, rows: impl Iterator<Item = usize>) {
        (self.stride, self.groups) = (from.stride, from.groups);
        self.bytes.clear();
        self.scales.clear();
        self.corrections.clear();
        for row in rows {
            let octet = from.octet(row..row + 1);
            self.bytes.extend_from_slice(octet.bytes);
            self.scales.extend_from_slice(octet.scales);
            self.corrections.extend_from_slice(octet.corrections);
        }
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.scales.len() / self.groups.max(1)
    }

    pub(super) fn octet(&self, rows: Range<usize>) -> Octet<'_> {
        let groups = rows.start * self.groups..rows.end * self.groups;
        Octet {
            bytes: &self.bytes[rows.start * self.stride..rows.end * self.stride],
            scales: &self.scales[groups.clone()],
            corrections: &self.corrections[groups],
            stride: self.stride,
            groups: self.groups,
            count: rows.len(),
        }
    }
}

multiversion! {
    /// Quantises one row; each group to its largest magnitude over 127.
    fn quantize_groups(bytes: &mut [i8], scales: &mut [f32], corrections: &mut [i32], x: &[f32], group: usize) {
        let groups = bytes.chunks_exact_mut(group).zip(scales).zip(corrections).zip(x.chunks(group));
        for (((bytes, scale), correction), x) in groups {
            // Magnitudes compare like their bits; unlike floats those have a largest in any order.
            let largest = x.iter().fold(0_u32, |largest, v| largest.max(v.abs().to_bits()));
            let largest = f32::from_bits(largest);
            *scale = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            let mut sum = 0;
            for (byte, v) in bytes.iter_mut().zip(x) {
                // Adding 1.5 · 2²³ rounds to an integer, ties to even, and puts it in the low bits.
                let q = (v * inverse + 12_582_912.0).to_bits() as i8;
                *byte = q;
                sum += i32::from(q);
            }
            bytes[x.len()..].fill(0);
            *correction = -OFFSET * sum;
        }
    }
}
