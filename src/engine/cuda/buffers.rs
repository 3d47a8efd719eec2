//! The memory of a pass on a GPU, kept from pass to pass at the same place: recorded launches find it there.

use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::pack::GROUP;
use crate::engine::cuda::pack::PADDING;
use crate::engine::cuda::plan::Size;

/// Parts that the pages of a piece are shared out over: `SPLITS` in `kernels/attention.cu`.
pub(super) const SPLITS: usize = 32;

/// The buffers of a pass.
#[derive(Debug)]
pub(super) struct Buffers {
    /// The residual stream, and what is wanted of it at the end.
    pub(super) x: Buffer,
    pub(super) kept: Buffer,
    pub(super) normed: Buffer,
    /// Rows as linear layers take them, with their scales.
    pub(super) rows: Buffer,
    pub(super) scales: Buffer,
    pub(super) qkv: Buffer,
    pub(super) queries: Buffer,
    pub(super) attended: Buffer,
    pub(super) kept_attended: Buffer,
    pub(super) partial: Buffer,
    pub(super) partial_stats: Buffer,
    pub(super) router_scores: Buffer,
    pub(super) chosen: Buffer,
    pub(super) route_weights: Buffer,
    pub(super) slot_row: Buffer,
    pub(super) slot_of: Buffer,
    pub(super) activated: Buffer,
    pub(super) inner: Buffer,
    pub(super) inner_scales: Buffer,
    pub(super) outputs: Buffer,
    pub(super) shared: Buffer,
    /// What the head says of the rows that it is asked about.
    pub(super) peaks: Buffer,
    pub(super) answers: Buffer,
    /// Which rows' logits are read, and these.
    pub(super) read: Buffer,
    pub(super) logits: Buffer,
    /// For how much of everything there is room.
    pub(super) room: Size,
}

impl Buffers {
    pub(super) fn new(gpu: &Gpu) -> Result<Buffers, CudaError> {
        let empty = || Buffer::new(gpu, 0);
        Ok(Buffers {
            x: empty()?,
            kept: empty()?,
            normed: empty()?,
            rows: empty()?,
            scales: empty()?,
            qkv: empty()?,
            queries: empty()?,
            attended: empty()?,
            kept_attended: empty()?,
            partial: empty()?,
            partial_stats: empty()?,
            router_scores: empty()?,
            chosen: empty()?,
            route_weights: empty()?,
            slot_row: empty()?,
            slot_of: empty()?,
            activated: empty()?,
            inner: empty()?,
            inner_scales: empty()?,
            outputs: empty()?,
            shared: empty()?,
            peaks: empty()?,
            answers: empty()?,
            read: empty()?,
            logits: empty()?,
            room: Size::default(),
        })
    }

    /// Makes room for passes of a size.
    pub(super) fn reserve(&mut self, config: &ModelConfig, size: Size) -> Result<(), CudaError> {
        self.room = self.room.max(size);
        let Size { rows, wanted, .. } = self.room;
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads * config.head_dim);
        let (mut experts, mut chosen, mut width) = (0, 1, 0);
        for layer in &config.layers {
            match layer {
                FeedForwardShape::Dense(dense) => width = width.max(*dense),
                FeedForwardShape::Sparse(sparse) => {
                    experts = experts.max(sparse.experts);
                    chosen = chosen.max(sparse.routing.chosen);
                    width = width.max(sparse.width * sparse.routing.chosen).max(sparse.shared_width);
                }
            }
        }
        let number = size_of::<f32>();
        let padded = |width: usize| width.next_multiple_of(PADDING);
        let input = padded(hidden).max(padded(heads));
        let inner = padded(width) + chosen * PADDING;
        let head_partials = rows * config.num_attention_heads * SPLITS;
        for (buffer, count) in [
            (&mut self.x, rows * hidden),
            (&mut self.kept, wanted * hidden),
            (&mut self.normed, rows * hidden),
            (&mut self.rows, rows * input),
            (&mut self.scales, rows * (input / GROUP)),
            (&mut self.qkv, rows * config.qkv_width()),
            (&mut self.queries, rows * heads),
            (&mut self.attended, rows * heads),
            (&mut self.kept_attended, wanted * heads),
            (&mut self.partial, head_partials * config.head_dim),
            (&mut self.partial_stats, 2 * head_partials),
            (&mut self.router_scores, rows * experts),
            (&mut self.chosen, rows * chosen),
            (&mut self.route_weights, rows * chosen),
            (&mut self.slot_row, rows * chosen),
            (&mut self.slot_of, rows * chosen),
            (&mut self.activated, rows * width),
            (&mut self.inner, rows * inner),
            (&mut self.inner_scales, rows * inner.div_ceil(GROUP)),
            (&mut self.outputs, rows * chosen * hidden),
            (&mut self.shared, rows * hidden),
        ] {
            buffer.reserve(count * number)?;
        }
        Ok(())
    }
}
