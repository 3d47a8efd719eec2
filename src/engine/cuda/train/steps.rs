//! The steps that the trainer's passes are made of.

use std::ops::Range;

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Plain;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::train::Rows;
use crate::engine::cuda::train::Trainer;
use crate::engine::cuda::train::launches;
use crate::engine::cuda::train::launches::BLOCKS;
use crate::engine::cuda::train::launches::Kind;
use crate::engine::cuda::train::launches::Product;
use crate::engine::cuda::train::launches::blocks;
use crate::engine::ops::matmul::Precision;

impl Trainer {
    pub(super) fn take(&mut self, count: usize) -> Result<u64, CudaError> {
        self.arena.take(&self.gpu, count)
    }

    pub(super) fn zeros(&mut self, count: usize) -> Result<u64, CudaError> {
        let address = self.take(count)?;
        self.fill(address, count)?;
        Ok(address)
    }

    pub(super) fn fill(&self, address: u64, count: usize) -> Result<(), CudaError> {
        run!(self.gpu, blocks("fill_f32", BLOCKS); address, count as u64, 0.0_f32)
    }

    pub(super) fn put<T: Plain>(&mut self, numbers: &[T]) -> Result<u64, CudaError> {
        let address = self.take(numbers.len())?;
        self.gpu.upload(address, bytes_of(numbers))?;
        Ok(address)
    }

    pub(super) fn parameter(&self, range: &Range<usize>) -> u64 {
        after(self.parameters.address, range.start)
    }

    pub(super) fn gradient(&self, range: &Range<usize>) -> u64 {
        after(self.gradients.address, range.start - self.first_gradient)
    }

    pub(super) fn add(&self, y: u64, x: u64, count: usize) -> Result<(), CudaError> {
        run!(self.gpu, blocks("train_add", BLOCKS); y, x, count as i64)
    }

    /// Returns the norm of rows by a weight.
    pub(super) fn norm(&mut self, x: u64, weight: &Range<usize>, rows: usize) -> Result<u64, CudaError> {
        let (width, eps) = (weight.len(), self.config.rms_norm_eps);
        let (y, weight) = (self.take(rows * width)?, self.parameter(weight));
        run!(self.gpu, blocks("train_norm", rows); y, x, weight, rows as i32, width as i32, eps)?;
        Ok(y)
    }

    pub(super) fn last_norm(&mut self, rows: &Rows, last: u64) -> Result<u64, CudaError> {
        let norm = self.layout.norm.clone();
        self.norm(last, &norm, rows.tokens)
    }

    /// Adds a norm's gradients to `dx` and its weight's, given `dy` and `x`.
    pub(super) fn norm_backward(
        &mut self,
        dx: u64,
        weight: &Range<usize>,
        [dy, x]: [u64; 2],
        rows: usize,
    ) -> Result<(), CudaError> {
        let (width, eps) = (weight.len(), self.config.rms_norm_eps);
        let partial = self.take(launches::parts(rows) * width)?;
        let from = [dy, x, self.parameter(weight)];
        launches::norm_backward(&self.gpu, dx, self.gradient(weight), partial, from, rows, width, eps)
    }

    /// Replaces `c` by the products of rows with a weight; sizes are rows, outputs, inputs.
    pub(super) fn linear(
        &self,
        precision: Precision,
        a: u64,
        b: u64,
        c: u64,
        sizes: [usize; 3],
    ) -> Result<(), CudaError> {
        let [_, outputs, inputs] = sizes;
        let product = Product { a, b, c, ..sized(sizes, [inputs, inputs, outputs]) };
        launches::product(&self.gpu, Kind::Linear, precision, product, 1)
    }

    /// Makes the gradient `c` of rows from that of a linear layer's outputs; sizes are rows, inputs, outputs.
    pub(super) fn input(
        &self,
        precision: Precision,
        a: u64,
        b: u64,
        c: u64,
        sizes: [usize; 3],
        is_added: bool,
    ) -> Result<(), CudaError> {
        let [_, inputs, outputs] = sizes;
        let is_added = i32::from(is_added);
        let product = Product { a, b, c, is_added, ..sized(sizes, [outputs, inputs, inputs]) };
        launches::product(&self.gpu, Kind::Input, precision, product, 1)
    }

    /// Adds the gradient of a weight to `c`; sizes are outputs, inputs, rows.
    pub(super) fn weight(
        &self,
        precision: Precision,
        a: u64,
        b: u64,
        c: u64,
        sizes: [usize; 3],
    ) -> Result<(), CudaError> {
        let [outputs, inputs, _] = sizes;
        let product = Product { a, b, c, is_added: 1, ..sized(sizes, [outputs, inputs, inputs]) };
        launches::product(&self.gpu, Kind::Weight, precision, product, 1)
    }

    /// Adds rows of `x` to rows of `y`: each pair has a row of y and one of x.
    pub(super) fn scatter(&mut self, y: u64, x: u64, mut pairs: Vec<(u32, u32)>) -> Result<(), CudaError> {
        pairs.sort_unstable();
        let (mut starts, mut targets) = (Vec::new(), Vec::new());
        for (i, (target, _)) in pairs.iter().enumerate() {
            if targets.last() != Some(target) {
                targets.push(*target);
                starts.push(i as u32);
            }
        }
        starts.push(pairs.len() as u32);
        let order: Vec<u32> = pairs.iter().map(|(_, from)| *from).collect();
        let (distinct, width) = (targets.len(), self.config.hidden_size);
        let (starts, order, targets) = (self.put(&starts)?, self.put(&order)?, self.put(&targets)?);
        let mut launch = blocks("train_scatter_add", distinct);
        launch.grid[1] = width.div_ceil(launch.threads);
        run!(self.gpu, launch; y, x, starts, order, targets, distinct as i32, width as i32)
    }

    /// Returns the sizes that the kernels of heads take.
    pub(super) fn head_sizes(&self, rows: usize, all: usize) -> [i32; 6] {
        let config = &self.config;
        [rows, all, config.num_attention_heads, config.num_key_value_heads, config.head_dim, self.rotary_dim]
            .map(|size| size as i32)
    }

    /// Returns how many rows each expert took.
    pub(super) fn load(&self, starts: u64) -> Result<Vec<usize>, CudaError> {
        let mut found = vec![0_u32; self.config.num_experts + 1];
        self.gpu.download(bytes_of_mut(&mut found), starts)?;
        Ok(found.windows(2).map(|ends| (ends[1] - ends[0]) as usize).collect())
    }
}

/// Returns the address `count` numbers further on.
pub(super) fn after(address: u64, count: usize) -> u64 {
    address + (count * size_of::<f32>()) as u64
}

/// Returns a product's rows, columns and depth, and the strides of a, b and c.
pub(super) fn sized([rows, columns, depth]: [usize; 3], [a, b, c]: [usize; 3]) -> Product {
    Product {
        rows: rows as i32,
        columns: columns as i32,
        depth: depth as i32,
        a_stride: a as i32,
        b_stride: b as i32,
        c_stride: c as i32,
        scale: 1.0,
        ..Product::default()
    }
}
