//! The feed-forward part of a layer: dense, or routed experts with a shared one.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::engine::model::arithmetic::Arithmetic;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::linear::Rows;
use crate::engine::model::tuned::Tuned;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::Score;
use crate::engine::ops::route::limit_to_pool;
use crate::engine::ops::route::route;
use crate::engine::ops::simd::multiversion;

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

/// Products of a router from which on they are divided over threads.
const PARALLEL_PRODUCTS: usize = 1 << 19;
/// Rows that an expert takes at a time: more are divided over threads.
const PIECE_ROWS: usize = 32;

/// A row that an expert works on, and with which weight.
type Slot = (usize, f32);

/// Which rows go to which experts.
#[derive(Debug, Default)]
struct Routes {
    /// By expert, and of one expert by row.
    slots: Vec<Slot>,
    /// Where the slots of each expert begin, and where the last one's end.
    starts: Vec<usize>,
}

/// What one expert does to some rows.
struct Task<'a> {
    expert: &'a FeedForward,
    rows: TaskRows<'a>,
    out: &'a mut [f32],
}

enum TaskRows<'a> {
    /// One behind the other.
    Range(Range<usize>),
    /// Those of some slots.
    Slots(&'a [Slot]),
}

/// The buffers of one feed-forward part, kept for each thread.
#[derive(Debug, Default)]
struct Scratch {
    gathered: Rows,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
    inner: Rows,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Mlp {
    /// Replaces `y` `[rows, hidden]` by the output for all rows, with the experts of an adapter where it
    /// has any; returns how many bytes of weights that took.
    pub fn apply(&self, quant: Quant, y: &mut [f32], input: Input, tuned: Option<&Tuned>) -> usize {
        match self {
            Mlp::Dense(dense) => {
                dense.apply_parallel(quant, y, input.rows);
                dense.bytes()
            }
            Mlp::Sparse(sparse) => sparse.apply(quant, y, input, tuned),
        }
    }

    /// Returns how many bytes the weights take.
    pub fn bytes(&self) -> usize {
        match self {
            Mlp::Dense(dense) => dense.bytes(),
            Mlp::Sparse(sparse) => {
                let experts: usize = sparse.experts.iter().map(FeedForward::bytes).sum();
                experts + sparse.bytes_of_every_row()
            }
        }
    }
}

impl FeedForward {
    /// Returns how many bytes the weights take.
    pub fn bytes(&self) -> usize {
        self.gate_up.bytes() + self.down.bytes()
    }

    /// Computes some rows of `x` into `y`, on this thread.
    fn apply(&self, quant: Quant, y: &mut [f32], x: &Rows, rows: Range<usize>, scratch: &mut Scratch) {
        let Scratch { gate_up, activated, inner, .. } = scratch;
        gate_up.resize(rows.len() * 2 * self.width, 0.0);
        activated.resize(rows.len() * self.width, 0.0);
        let count = rows.len();
        self.gate_up.apply(gate_up, x, rows);
        (Arithmetic::of(quant).swiglu)(activated, gate_up, self.width);
        inner.set(quant, activated, self.width);
        self.down.apply(y, inner, 0..count);
    }

    /// Computes all rows of `x`; the outputs of each layer are divided over the threads.
    fn apply_parallel(&self, quant: Quant, y: &mut [f32], x: &Rows) {
        let rows = y.len() / self.down.output();
        let mut gate_up = vec![0.0; rows * 2 * self.width];
        self.gate_up.apply_parallel(&mut gate_up, x);
        let mut activated = vec![0.0; rows * self.width];
        let swiglu = Arithmetic::of(quant).swiglu;
        activated
            .par_chunks_exact_mut(self.width)
            .zip(gate_up.par_chunks_exact(2 * self.width))
            .for_each(|(activated, gate_up)| swiglu(activated, gate_up, self.width));
        let mut inner = Rows::default();
        inner.set(quant, &activated, self.width);
        self.down.apply_parallel(y, &inner);
    }
}

impl Task<'_> {
    fn run(self, quant: Quant, x: &Rows) {
        SCRATCH.with_borrow_mut(|scratch| match self.rows {
            TaskRows::Range(rows) => self.expert.apply(quant, self.out, x, rows, scratch),
            TaskRows::Slots(slots) => {
                let mut gathered = std::mem::take(&mut scratch.gathered);
                gathered.gather(x, quant, slots.iter().map(|(row, _)| *row));
                self.expert.apply(quant, self.out, &gathered, 0..slots.len(), scratch);
                scratch.gathered = gathered;
            }
        });
    }
}

impl Sparse {
    /// Returns how many bytes of weights every row takes.
    fn bytes_of_every_row(&self) -> usize {
        size_of::<f32>() * self.router.len() + self.shared.as_ref().map_or(0, FeedForward::bytes)
    }

    fn apply(&self, quant: Quant, y: &mut [f32], input: Input, tuned: Option<&Tuned>) -> usize {
        let experts = self.experts.len();
        let router = tuned.map_or(&self.router, |tuned| &tuned.router);
        let hidden = router.len() / experts;
        let routes = self.routes(quant, input, router, hidden);
        let mut outputs = vec![0.0; routes.slots.len() * hidden];
        let mut tasks = Vec::with_capacity(experts + y.len() / hidden / PIECE_ROWS + 1);
        match &self.shared {
            // It has the most rows, so it goes first.
            Some(expert) => {
                let pieces = y.chunks_mut(PIECE_ROWS * hidden).enumerate().map(|(i, out)| Task {
                    expert,
                    rows: TaskRows::Range(i * PIECE_ROWS..i * PIECE_ROWS + out.len() / hidden),
                    out,
                });
                tasks.extend(pieces);
            }
            None => y.fill(0.0),
        }
        let (mut rest, mut bytes) = (outputs.as_mut_slice(), self.bytes_of_every_row());
        for (at, (expert, ends)) in self.experts.iter().zip(routes.starts.windows(2)).enumerate() {
            let expert = tuned.and_then(|tuned| tuned.experts[at].as_ref()).unwrap_or(expert);
            bytes += if ends[0] < ends[1] { expert.bytes() } else { 0 };
            for slots in routes.slots[ends[0]..ends[1]].chunks(PIECE_ROWS) {
                let (out, others) = rest.split_at_mut(slots.len() * hidden);
                rest = others;
                tasks.push(Task { expert, rows: TaskRows::Slots(slots), out });
            }
        }
        tasks.into_par_iter().for_each(|task| task.run(quant, input.rows));
        // In the order of the experts, so that sums do not depend on the batch.
        for ((row, weight), out) in routes.slots.iter().zip(outputs.chunks_exact(hidden)) {
            add_scaled(&mut y[row * hidden..(row + 1) * hidden], out, *weight);
        }
        bytes
    }

    /// Chooses the experts of all rows.
    fn routes(&self, quant: Quant, input: Input, router: &[f32], hidden: usize) -> Routes {
        let (experts, k) = (self.experts.len(), self.routing.chosen);
        let with = Arithmetic::of(quant);
        let rows = input.normed.len() / hidden;
        let mut scores = vec![0.0; rows * experts];
        // What is small is not worth waking threads for.
        let is_small = scores.len() * hidden < PARALLEL_PRODUCTS;
        let piece = if is_small { rows } else { rows.div_ceil(2 * rayon::current_num_threads()) };
        scores
            .par_chunks_mut(piece * experts)
            .zip(input.normed.par_chunks(piece * hidden))
            .for_each(|(scores, normed)| (with.project)(scores, normed, router, hidden));
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
        let (mut chosen, mut weights) = (vec![0; rows * k], vec![0.0; rows * k]);
        let of_rows = chosen.chunks_exact_mut(k).zip(weights.chunks_exact_mut(k));
        for (scores, (chosen, weights)) in scores.chunks_exact(experts).zip(of_rows) {
            route(self.routing, scores, &self.bias, chosen, weights);
        }
        Routes::new(experts, k, &chosen, &weights)
    }
}

impl Routes {
    /// Sorts what was `chosen`, `k` for each row, by expert.
    fn new(experts: usize, k: usize, chosen: &[u32], weights: &[f32]) -> Routes {
        let mut starts = vec![0; experts + 1];
        for expert in chosen {
            starts[*expert as usize + 1] += 1;
        }
        for expert in 0..experts {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let mut slots = vec![(0, 0.0); chosen.len()];
        for (i, (expert, weight)) in chosen.iter().zip(weights).enumerate() {
            let at = &mut next[*expert as usize];
            slots[*at] = (i / k, *weight);
            *at += 1;
        }
        Routes { slots, starts }
    }
}

multiversion! {
    fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
    }
}
