//! The feed-forward part of a layer: dense, or routed experts with a shared one.

use rayon::prelude::*;

use crate::engine::model::arithmetic::Arithmetic;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::linear::Rows;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::Score;
use crate::engine::ops::route::limit_to_pool;
use crate::engine::ops::route::route;

/// The feed-forward part of one layer.
#[derive(Debug)]
pub enum Mlp {
    /// One for every row.
    Dense(FeedForward),
    /// Some of many for each row.
    Sparse(Sparse),
}

/// `down(silu(gate(x)) · up(x))`.
#[derive(Debug)]
pub struct FeedForward {
    /// Rows gate then up.
    pub gate_up: Linear,
    /// Back to the residual stream.
    pub down: Linear,
    /// Outputs of the gate.
    pub width: usize,
}

/// Routed experts.
#[derive(Debug)]
pub struct Sparse {
    /// `[experts, hidden]`, always in full precision.
    pub router: Vec<f32>,
    /// `[experts]`, zeros when there is none.
    pub bias: Vec<f32>,
    /// How they are chosen.
    pub routing: Routing,
    /// All of them.
    pub experts: Vec<FeedForward>,
    /// The one that takes every row.
    pub shared: Option<FeedForward>,
}

/// The rows that a feed-forward part works on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// `[rows, hidden]`, normed.
    pub normed: &'a [f32],
    /// The same as the linear layers take it.
    pub rows: &'a Rows,
    /// How many rows each block has, in their order.
    pub blocks: &'a [usize],
}

/// A row that an expert works on, and with which weight.
type Slot = (usize, f32);

impl Mlp {
    /// Replaces `y` `[rows, hidden]` by the output for all rows.
    pub fn apply(&self, quant: Quant, y: &mut [f32], input: Input) {
        match self {
            Mlp::Dense(dense) => dense.apply_parallel(quant, y, input.rows),
            Mlp::Sparse(sparse) => sparse.apply(quant, y, input),
        }
    }

    /// Returns how many bytes the weights take.
    pub fn bytes(&self) -> usize {
        match self {
            Mlp::Dense(dense) => dense.bytes(),
            Mlp::Sparse(sparse) => {
                let experts: usize = sparse.experts.iter().map(FeedForward::bytes).sum();
                experts + sparse.shared.as_ref().map_or(0, FeedForward::bytes) + 4 * sparse.router.len()
            }
        }
    }
}

impl FeedForward {
    fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }

    /// Computes rows `from..` of `x` into `y`, on this thread.
    fn apply(&self, quant: Quant, y: &mut [f32], x: &Rows, from: usize) {
        let rows = y.len() / self.down.output();
        let mut gate_up = vec![0.0; rows * 2 * self.width];
        self.gate_up.apply(&mut gate_up, x, from);
        let mut activated = vec![0.0; rows * self.width];
        (Arithmetic::of(quant).swiglu)(&mut activated, &gate_up, self.width);
        let mut inner = Rows::default();
        inner.set(quant, &activated, self.width);
        self.down.apply(y, &inner, 0);
    }

    fn apply_parallel(&self, quant: Quant, y: &mut [f32], x: &Rows) {
        let rows = y.len() / self.down.output();
        let piece = rows.div_ceil(rayon::current_num_threads()).next_multiple_of(8);
        y.par_chunks_mut(piece * self.down.output())
            .enumerate()
            .for_each(|(i, y)| self.apply(quant, y, x, i * piece));
    }
}

impl Sparse {
    fn apply(&self, quant: Quant, y: &mut [f32], input: Input) {
        let experts = self.experts.len();
        let hidden = self.router.len() / experts;
        let slots = self.slots(quant, input, hidden);
        match &self.shared {
            Some(shared) => shared.apply_parallel(quant, y, input.rows),
            None => y.fill(0.0),
        }
        let outputs: Vec<(&[Slot], Vec<f32>)> = self
            .experts
            .par_iter()
            .zip(&slots)
            .filter(|(_, slots)| !slots.is_empty())
            .map(|(expert, slots)| {
                let mut mine = Rows::default();
                mine.gather(input.rows, quant, slots.iter().map(|(row, _)| *row));
                let mut out = vec![0.0; slots.len() * hidden];
                expert.apply(quant, &mut out, &mine, 0);
                (slots.as_slice(), out)
            })
            .collect();
        // In the order of the experts, so that sums do not depend on the batch.
        for (slots, out) in &outputs {
            for ((row, weight), out) in slots.iter().zip(out.chunks_exact(hidden)) {
                let y = &mut y[row * hidden..(row + 1) * hidden];
                y.iter_mut().zip(out).for_each(|(y, o)| *y += weight * o);
            }
        }
    }

    /// Routes all rows; returns the slots of each expert.
    fn slots(&self, quant: Quant, input: Input, hidden: usize) -> Vec<Vec<Slot>> {
        let (experts, k) = (self.experts.len(), self.routing.chosen);
        let with = Arithmetic::of(quant);
        let rows = input.normed.len() / hidden;
        let mut scores = vec![0.0; rows * experts];
        let normed = View::new(input.normed, rows, hidden);
        let router = View::new(&self.router, experts, hidden).transposed();
        (with.matmul)(&mut scores, experts, normed, router, 1.0, Write::Replace);
        match self.routing.score {
            Score::Sigmoid => scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
            Score::Softmax => scores.chunks_exact_mut(experts).for_each(with.softmax),
        }
        if let Some(capacity) = self.routing.capacity {
            let mut rest = scores.as_mut_slice();
            for block in input.blocks {
                let (mine, others) = rest.split_at_mut(block * experts);
                limit_to_pool(capacity, mine, &self.bias);
                rest = others;
            }
        }
        let mut slots: Vec<Vec<Slot>> = vec![Vec::new(); experts];
        let (mut chosen, mut weights) = (vec![0; k], vec![0.0; k]);
        for (row, scores) in scores.chunks_exact(experts).enumerate() {
            route(self.routing, scores, &self.bias, &mut chosen, &mut weights);
            for (expert, weight) in chosen.iter().zip(&weights) {
                slots[*expert as usize].push((row, *weight));
            }
        }
        slots
    }
}
