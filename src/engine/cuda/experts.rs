//! The feed-forward part of a layer on a GPU: dense, or routed experts with a shared one.

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::cuda::arguments::RouteShape;
use crate::engine::cuda::arguments::run;
use crate::engine::cuda::backend::Cuda;
use crate::engine::cuda::backend::Pass;
use crate::engine::cuda::linear;
use crate::engine::cuda::linear::Ending;
use crate::engine::cuda::linear::Operands;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::weights::Gated;
use crate::engine::cuda::weights::Sparse;
use crate::engine::model::linear::Quant;
use crate::engine::ops::route::Score;

/// Experts that a block of the router looks at.
const ROUTER_TILE: usize = 16;

impl Cuda {
    /// Puts `gated` between the rows of a pass and `y`.
    pub(super) fn dense(&self, gated: &Gated, ending: Ending, y: u64) -> Result<(), CudaError> {
        let rows = &self.rows;
        let Pass { counts, most, .. } = self.now;
        self.apply(&gated.gate_up, Ending::Gated, (&rows.rows, &rows.scales), rows.activated.address)?;
        let width = gated.down.form.input;
        let inner = (&rows.inner, &rows.inner_scales);
        self.to_rows(inner, rows.activated.address, counts.rows, most, width)?;
        self.apply(&gated.down, ending, inner, y)
    }

    /// Adds what the experts make of the normed rows to the rows.
    pub(super) fn sparse(&self, layer: usize, sparse: &Sparse) -> Result<(), CudaError> {
        let (rows, gpu) = (&self.rows, &self.gpu);
        let Pass { counts, most, x, .. } = self.now;
        let (experts, routing) = (sparse.shape.experts, sparse.shape.routing);
        let (hidden, chosen) = (self.config.hidden_size, routing.chosen);
        let is_softmax = routing.score == Score::Softmax;
        let tiles = if is_softmax { 1 } else { experts.div_ceil(ROUTER_TILE) };
        let (kernel, grid) = match self.quant {
            Quant::F32 => ("route_scores_exact", [most, 1, 1]),
            Quant::Bf16 | Quant::Q8 | Quant::Q4 => ("route_scores", [most.div_ceil(4), tiles, 1]),
        };
        let launch = Launch { kernel, grid, threads: 256, shared: 0 };
        let (scores, normed) = (rows.router_scores.address, rows.normed.address);
        run!(gpu, launch; scores, normed, sparse.router.address, counts.rows, experts as i32, hidden as i32, i32::from(is_softmax))?;
        let bias = sparse.bias.address;
        if let Some(capacity) = routing.capacity {
            let launch =
                Launch { kernel: "route_pool", grid: [self.now.size.pieces, 1, 1], threads: 256, shared: 0 };
            let capacity = capacity as i32;
            run!(gpu, launch; scores, bias, counts.blocks, counts.block_count, experts as i32, capacity)?;
        }
        let shape = RouteShape {
            experts: experts as i32,
            chosen: chosen as i32,
            groups: routing.groups as i32,
            kept_groups: routing.kept_groups as i32,
            normalise: i32::from(routing.normalise),
            scale: routing.scale,
        };
        let (taken, weights) = (rows.chosen.address, rows.route_weights.address);
        let launch =
            Launch { kernel: "route_choose", grid: [most.div_ceil(4), 1, 1], threads: 128, shared: 0 };
        run!(gpu, launch; taken, weights, scores, bias, counts.rows, shape)?;
        let (slot_row, slot_of) = (rows.slot_row.address, rows.slot_of.address);
        let starts = self.starts_of(layer);
        let launch = Launch { kernel: "route_sort", grid: [experts, 1, 1], threads: 256, shared: 0 };
        run!(gpu, launch; slot_row, slot_of, starts, taken, counts.rows, chosen as i32, experts as i32)?;

        if let Some(shared) = &sparse.shared {
            self.dense(shared, Ending::Store, rows.shared.address)?;
        }
        let slots = most * chosen;
        let operands = Operands {
            x: rows.rows.address,
            x_scales: rows.scales.address,
            y: rows.activated.address,
            bounds: starts,
            gather: slot_row,
            ..Operands::default()
        };
        linear::apply(gpu, &sparse.experts.gate_up, Ending::Gated, operands, slots)?;
        let (inner, width) = ((&rows.inner, &rows.inner_scales), sparse.shape.width);
        self.to_rows(inner, rows.activated.address, counts.slots, slots, width)?;
        let operands = Operands {
            x: rows.inner.address,
            x_scales: rows.inner_scales.address,
            y: rows.outputs.address,
            bounds: starts,
            ..Operands::default()
        };
        linear::apply(gpu, &sparse.experts.down, Ending::Store, operands, slots)?;
        let shared = sparse.shared.as_ref().map_or(0, |_| rows.shared.address);
        let launch = Launch { kernel: "combine", grid: [most, 1, 1], threads: 256, shared: 0 };
        run!(gpu, launch; x, shared, rows.outputs.address, slot_of, weights, counts.rows, chosen as i32, hidden as i32)
    }

    /// Returns where a layer's slots of each expert begin.
    fn starts_of(&self, layer: usize) -> u64 {
        self.starts.address + (layer * (experts(&self.config) + 1) * size_of::<u32>()) as u64
    }

    /// Counts the experts that the last pass touched, layer by layer.
    pub(super) fn touched_experts(&self) -> Result<Vec<usize>, CudaError> {
        let each = experts(&self.config) + 1;
        let mut starts = vec![0_u32; self.config.layers.len() * each];
        self.gpu.download(bytes_of_mut(&mut starts), self.starts.address)?;
        let touched = |(starts, shape): (&[u32], &FeedForwardShape)| match shape {
            FeedForwardShape::Dense(_) => 0,
            FeedForwardShape::Sparse(sparse) => {
                starts[..=sparse.experts].windows(2).filter(|ends| ends[0] < ends[1]).count()
            }
        };
        Ok(starts.chunks_exact(each).zip(&self.config.layers).map(touched).collect())
    }
}

/// Returns the most experts of a layer.
pub(super) fn experts(config: &ModelConfig) -> usize {
    let of_layer = |layer: &FeedForwardShape| match layer {
        FeedForwardShape::Dense(_) => 0,
        FeedForwardShape::Sparse(sparse) => sparse.experts,
    };
    config.layers.iter().map(of_layer).max().unwrap_or(0)
}
