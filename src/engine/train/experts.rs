//! The sparse feed-forward layer with its gradient: route, group rows by expert, gated products, combine.
//!
//! The routing weight is multiplied into the hidden vector before the down projection, so the
//! gradient of the weight needs the hidden vector only and no expert output is kept.

use rayon::prelude::*;

use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::route::Routing;
use crate::engine::ops::route::route;
use crate::engine::ops::simd::sigmoid;
use crate::engine::ops::swiglu::swiglu;
use crate::engine::ops::swiglu::swiglu_backward;

/// The sizes of a sparse layer.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Routed experts.
    pub experts: usize,
    /// Width of one expert.
    pub width: usize,
    /// Width of the shared expert.
    pub shared: usize,
    /// How experts are chosen.
    pub routing: Routing,
    /// How the experts' products are rounded; the router's never are.
    pub precision: Precision,
}

/// The weights of a sparse layer, or their gradients.
#[derive(Debug)]
pub struct Weights<T> {
    /// `[experts, hidden]`.
    pub gate: T,
    /// `[experts][2·width, hidden]`.
    pub expert_gate_up: T,
    /// `[experts][hidden, width]`.
    pub expert_down: T,
    /// `[2·shared, hidden]`.
    pub shared_gate_up: T,
    /// `[hidden, shared]`.
    pub shared_down: T,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug, Default)]
pub struct Saved {
    /// `[n, experts]` sigmoid scores.
    scores: Vec<f32>,
    /// `[n, chosen]` experts.
    chosen: Vec<u32>,
    /// `[n, chosen]` routing weights.
    weights: Vec<f32>,
    /// For each expert its first slot; one more entry for the end.
    starts: Vec<usize>,
    /// For each slot its row times `chosen` plus its rank.
    order: Vec<u32>,
    /// For each row and rank its slot.
    slot_of: Vec<u32>,
    /// `[slots, 2·width]` before the activation.
    gate_up: Vec<f32>,
    /// `[n, 2·shared]` before the activation.
    shared_gate_up: Vec<f32>,
}

impl Saved {
    /// Returns how many rows each expert took.
    pub fn load(&self) -> impl Iterator<Item = usize> {
        self.starts.windows(2).map(|w| w[1] - w[0])
    }

    /// Returns how many bytes it takes.
    pub fn bytes(&self) -> usize {
        let numbers = [&self.scores, &self.weights, &self.gate_up, &self.shared_gate_up];
        let places = [&self.chosen, &self.order, &self.slot_of];
        4 * numbers.iter().map(|n| n.capacity()).sum::<usize>()
            + 4 * places.iter().map(|n| n.capacity()).sum::<usize>()
            + size_of::<usize>() * self.starts.capacity()
    }
}

/// Computes `y = experts(x) + shared(x)` for rows `x` `[n, hidden]`.
pub fn forward(shape: Shape, w: &Weights<&[f32]>, bias: &[f32], x: &[f32], y: &mut [f32], saved: &mut Saved) {
    let (hidden, k) = (shape.hidden, shape.routing.chosen);
    let n = x.len() / hidden;
    saved.scores.resize(n * shape.experts, 0.0);
    saved.chosen.resize(n * k, 0);
    saved.weights.resize(n * k, 0.0);
    Precision::F32.parallel_linear(&mut saved.scores, x, w.gate, hidden, shape.experts);
    let of_rows = saved.chosen.par_chunks_exact_mut(k).zip(saved.weights.par_chunks_exact_mut(k));
    let of_rows = saved.scores.par_chunks_exact_mut(shape.experts).zip(of_rows);
    of_rows.with_min_len(256).for_each(|(scores, (chosen, weights))| {
        scores.iter_mut().for_each(|s| *s = sigmoid(*s));
        route(shape.routing, scores, bias, chosen, weights);
    });
    group(shape.experts, saved);

    saved.gate_up.resize(n * k * 2 * shape.width, 0.0);
    let mut slot_out = vec![0.0; n * k * hidden];
    let Saved { order, starts, weights, gate_up, .. } = saved;
    let gate_ups = split_by(gate_up, starts, 2 * shape.width);
    let outs = split_by(&mut slot_out, starts, hidden);
    gate_ups.into_par_iter().zip(outs).enumerate().for_each(|(e, (gate_up, out))| {
        let slots = &order[starts[e]..starts[e + 1]];
        let rows = gather(x, slots, k, hidden);
        let gate_up_weight =
            &w.expert_gate_up[e * 2 * shape.width * hidden..(e + 1) * 2 * shape.width * hidden];
        shape.precision.linear(gate_up, &rows, gate_up_weight, hidden, 2 * shape.width);
        let mut activated = vec![0.0; slots.len() * shape.width];
        swiglu(&mut activated, gate_up, shape.width);
        weigh(&mut activated, slots, weights, shape.width);
        let down = &w.expert_down[e * shape.width * hidden..(e + 1) * shape.width * hidden];
        shape.precision.linear(out, &activated, down, shape.width, hidden);
    });

    if shape.shared > 0 {
        saved.shared_gate_up.resize(n * 2 * shape.shared, 0.0);
        shape.precision.parallel_linear(
            &mut saved.shared_gate_up,
            x,
            w.shared_gate_up,
            hidden,
            2 * shape.shared,
        );
        let mut activated = vec![0.0; n * shape.shared];
        parallel_swiglu(&mut activated, &saved.shared_gate_up, shape.shared);
        shape.precision.parallel_linear(y, &activated, w.shared_down, shape.shared, hidden);
    } else {
        y.fill(0.0);
    }
    combine(y, &slot_out, &saved.slot_of, k, hidden);
}

/// Adds the gradients of the weights and of `x`, given `dy`.
pub fn backward(
    shape: Shape,
    w: &Weights<&[f32]>,
    x: &[f32],
    dy: &[f32],
    saved: &mut Saved,
    dw: &mut Weights<&mut [f32]>,
    dx: &mut [f32],
) {
    let (hidden, k) = (shape.hidden, shape.routing.chosen);
    let n = x.len() / hidden;
    if shape.shared > 0 {
        let mut activated = vec![0.0; n * shape.shared];
        parallel_swiglu(&mut activated, &saved.shared_gate_up, shape.shared);
        shape.precision.parallel_linear_weight_gradient(dw.shared_down, dy, &activated, shape.shared, hidden);
        let d = &mut activated;
        shape.precision.parallel_linear_input_gradient(
            d,
            dy,
            w.shared_down,
            shape.shared,
            hidden,
            Write::Replace,
        );
        let rows = n.div_ceil(rayon::current_num_threads()).max(1);
        saved
            .shared_gate_up
            .par_chunks_mut(rows * 2 * shape.shared)
            .zip(d.par_chunks(rows * shape.shared))
            .for_each(|(gate_up, d)| swiglu_backward(gate_up, d, shape.shared));
        let d = &saved.shared_gate_up;
        shape.precision.parallel_linear_weight_gradient(dw.shared_gate_up, d, x, hidden, 2 * shape.shared);
        shape.precision.parallel_linear_input_gradient(
            dx,
            d,
            w.shared_gate_up,
            hidden,
            2 * shape.shared,
            Write::Add,
        );
    }

    let mut slot_dx = vec![0.0; n * k * hidden];
    let mut slot_dweight = vec![0.0; n * k];
    let Saved { order, starts, weights, gate_up, .. } = saved;
    let per_expert = split_by(gate_up, starts, 2 * shape.width)
        .into_par_iter()
        .zip(split_by(&mut slot_dx, starts, hidden))
        .zip(split_by(&mut slot_dweight, starts, 1))
        .zip(dw.expert_gate_up.par_chunks_mut(2 * shape.width * hidden))
        .zip(dw.expert_down.par_chunks_mut(shape.width * hidden));
    per_expert.enumerate().for_each(|(e, ((((gate_up, slot_dx), slot_dweight), dgate_up_w), ddown_w))| {
        let slots = &order[starts[e]..starts[e + 1]];
        if slots.is_empty() {
            return;
        }
        let width = shape.width;
        let gate_up_weight = &w.expert_gate_up[e * 2 * width * hidden..(e + 1) * 2 * width * hidden];
        let down = &w.expert_down[e * width * hidden..(e + 1) * width * hidden];
        let dout = gather(dy, slots, k, hidden);
        let mut activated = vec![0.0; slots.len() * width];
        swiglu(&mut activated, gate_up, width);
        let mut dactivated = vec![0.0; slots.len() * width];
        shape.precision.linear_input_gradient(&mut dactivated, &dout, down, width, hidden, Write::Replace);
        // The gradient of the routing weight, from the hidden vector before it was weighed.
        for ((dweight, a), d) in
            slot_dweight.iter_mut().zip(activated.chunks_exact(width)).zip(dactivated.chunks_exact(width))
        {
            *dweight = a.iter().zip(d).map(|(a, d)| a * d).sum();
        }
        weigh(&mut activated, slots, weights, width);
        shape.precision.linear_weight_gradient(ddown_w, &dout, &activated, width, hidden);
        weigh(&mut dactivated, slots, weights, width);
        swiglu_backward(gate_up, &dactivated, width);
        let rows = gather(x, slots, k, hidden);
        shape.precision.linear_weight_gradient(dgate_up_w, gate_up, &rows, hidden, 2 * width);
        shape.precision.linear_input_gradient(
            slot_dx,
            gate_up,
            gate_up_weight,
            hidden,
            2 * width,
            Write::Replace,
        );
    });
    combine(dx, &slot_dx, &saved.slot_of, k, hidden);

    let dlogits = router_gradient(shape, saved, &slot_dweight, n);
    Precision::F32.parallel_linear_weight_gradient(dw.gate, &dlogits, x, hidden, shape.experts);
    Precision::F32.parallel_linear_input_gradient(dx, &dlogits, w.gate, hidden, shape.experts, Write::Add);
}

/// Returns `[n, experts]`: the gradient of the router's logits through `w_j = s_j / Σ s · scale`.
fn router_gradient(shape: Shape, saved: &Saved, slot_dweight: &[f32], n: usize) -> Vec<f32> {
    let k = shape.routing.chosen;
    let mut dlogits = vec![0.0; n * shape.experts];
    for row in 0..n {
        let scores = &saved.scores[row * shape.experts..(row + 1) * shape.experts];
        let chosen = &saved.chosen[row * k..(row + 1) * k];
        let dweight = |rank: usize| slot_dweight[saved.slot_of[row * k + rank] as usize];
        let sum: f32 = chosen.iter().map(|e| scores[*e as usize]).sum::<f32>() + 1e-20;
        let along: f32 =
            chosen.iter().enumerate().map(|(j, e)| dweight(j) * scores[*e as usize]).sum::<f32>() / sum;
        for (rank, expert) in chosen.iter().enumerate() {
            let s = scores[*expert as usize];
            let ds = (dweight(rank) - along) / sum * shape.routing.scale;
            dlogits[row * shape.experts + *expert as usize] = ds * s * (1.0 - s);
        }
    }
    dlogits
}

/// Sorts rows by expert (counting sort): fills `starts`, `order` and `slot_of`.
fn group(experts: usize, saved: &mut Saved) {
    saved.starts.clear();
    saved.starts.resize(experts + 1, 0);
    for e in &saved.chosen {
        saved.starts[*e as usize + 1] += 1;
    }
    for e in 0..experts {
        saved.starts[e + 1] += saved.starts[e];
    }
    let mut next = saved.starts.clone();
    saved.order.resize(saved.chosen.len(), 0);
    saved.slot_of.resize(saved.chosen.len(), 0);
    for (i, e) in saved.chosen.iter().enumerate() {
        let slot = next[*e as usize];
        next[*e as usize] += 1;
        saved.order[slot] = i as u32;
        saved.slot_of[i] = slot as u32;
    }
}

/// Splits an array of slots into one mutable slice an expert.
fn split_by<'a>(mut data: &'a mut [f32], starts: &[usize], width: usize) -> Vec<&'a mut [f32]> {
    let mut parts = Vec::with_capacity(starts.len() - 1);
    for pair in starts.windows(2) {
        let (part, rest) = data.split_at_mut((pair[1] - pair[0]) * width);
        parts.push(part);
        data = rest;
    }
    parts
}

fn gather(x: &[f32], slots: &[u32], k: usize, hidden: usize) -> Vec<f32> {
    let mut rows = Vec::with_capacity(slots.len() * hidden);
    for slot in slots {
        let row = *slot as usize / k;
        rows.extend_from_slice(&x[row * hidden..(row + 1) * hidden]);
    }
    rows
}

fn weigh(rows: &mut [f32], slots: &[u32], weights: &[f32], width: usize) {
    for (row, slot) in rows.chunks_exact_mut(width).zip(slots) {
        let weight = weights[*slot as usize];
        row.iter_mut().for_each(|v| *v *= weight);
    }
}

/// Adds to every row of `y` the outputs of its slots.
fn combine(y: &mut [f32], slots: &[f32], slot_of: &[u32], k: usize, hidden: usize) {
    y.par_chunks_mut(hidden).zip(slot_of.par_chunks(k)).with_min_len(256).for_each(|(y, mine)| {
        for slot in mine {
            let part = &slots[*slot as usize * hidden..(*slot as usize + 1) * hidden];
            for (y, v) in y.iter_mut().zip(part) {
                *y += v;
            }
        }
    });
}

fn parallel_swiglu(hidden: &mut [f32], gate_up: &[f32], width: usize) {
    let rows = (hidden.len() / width).div_ceil(rayon::current_num_threads()).max(1);
    hidden
        .par_chunks_mut(rows * width)
        .zip(gate_up.par_chunks(rows * 2 * width))
        .for_each(|(hidden, gate_up)| swiglu(hidden, gate_up, width));
}
