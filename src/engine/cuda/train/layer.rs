//! One layer of the trainer on a GPU, forward and back.

use crate::engine::cuda::arguments::run;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Launch;
use crate::engine::cuda::train::Kept;
use crate::engine::cuda::train::Rows;
use crate::engine::cuda::train::Trainer;
use crate::engine::cuda::train::launches;
use crate::engine::cuda::train::launches::Kind;
use crate::engine::cuda::train::launches::Product;
use crate::engine::cuda::train::launches::TrainHeads;
use crate::engine::cuda::train::launches::blocks;
use crate::engine::cuda::train::steps::after;
use crate::engine::cuda::train::steps::sized;
use crate::engine::ops::matmul::Precision;
use crate::engine::train::layout::LayerLayout;

impl Trainer {
    /// Computes a layer from its rows `x`; returns what its backward pass needs, and its output.
    pub(super) fn layer(&mut self, rows: &Rows, index: usize, x: u64) -> Result<(Kept, u64), CudaError> {
        let (config, place) = (self.config.clone(), self.layout.layers[index].clone());
        let (count, all) = (self.rows_of(rows, index), rows.all);
        let (hidden, eps, width) = (config.hidden_size, config.rms_norm_eps, config.qkv_width());
        let queries = config.num_attention_heads * config.head_dim;
        let keys = config.num_key_value_heads * config.head_dim;
        let mut kept = Kept { x, ..Kept::default() };
        kept.normed = self.norm(x, &place.input_norm, all)?;
        kept.qkv = self.take(count * width + (all - count) * 2 * keys)?;
        let (normed, qkv) = (kept.normed, self.parameter(&place.qkv));
        self.linear(rows.precision, normed, qkv, kept.qkv, [count, width, hidden])?;
        let (behind, keys_only) = (after(normed, count * hidden), after(qkv, queries * hidden));
        self.linear(
            rows.precision,
            behind,
            keys_only,
            after(kept.qkv, count * width),
            [all - count, 2 * keys, hidden],
        )?;
        kept.q = self.take(count * queries)?;
        (kept.k, kept.v) = (self.take(all * keys)?, self.take(all * keys)?);
        let norms = [self.parameter(&place.query_norm), self.parameter(&place.key_norm)];
        let sizes = self.head_sizes(count, all);
        run!(self.gpu, blocks("train_heads", all);
            kept.q, kept.k, kept.v, kept.qkv, norms[0], norms[1], rows.cosines, rows.sines, rows.positions,
            sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], eps)?;
        kept.attended = self.take(count * queries)?;
        kept.stats = self.take(count * config.num_attention_heads)?;
        let shape = TrainHeads { rows: count as i32, ..rows.heads };
        let launch = launches::attention("train_attend", &shape, shape.heads, shape.rows);
        run!(self.gpu, launch;
            kept.attended, kept.stats, kept.q, kept.k, kept.v, rows.row_document, rows.documents, shape)?;
        kept.middle = self.take(count * hidden)?;
        let dense = self.parameter(&place.dense);
        self.linear(rows.precision, kept.attended, dense, kept.middle, [count, hidden, queries])?;
        self.add(kept.middle, x, count * hidden)?;
        kept.post = self.norm(kept.middle, &place.post_norm, count)?;
        let out = self.experts(rows, index, &place, &mut kept, count)?;
        self.add(out, kept.middle, count * hidden)?;
        Ok((kept, out))
    }

    /// Routes the rows `kept.post` and returns what the experts make of them.
    fn experts(
        &mut self,
        rows: &Rows,
        index: usize,
        place: &LayerLayout,
        kept: &mut Kept,
        count: usize,
    ) -> Result<u64, CudaError> {
        let config = &self.config;
        let (hidden, experts, width) = (config.hidden_size, config.num_experts, config.moe_intermediate_size);
        let (k, shared, scale) = (config.num_experts_per_tok, config.shared_width(), config.routing().scale);
        let slots = count * k;
        kept.scores = self.take(count * experts)?;
        let gate = self.parameter(&place.gate);
        self.linear(Precision::F32, kept.post, gate, kept.scores, [count, experts, hidden])?;
        kept.chosen = self.take(slots)?;
        let weights = self.take(slots)?;
        let bias = after(self.expert_bias.address, index * experts);
        run!(self.gpu, blocks("train_route", count.div_ceil(8));
            kept.chosen, weights, kept.scores, bias, count as i32, experts as i32, k as i32, scale)?;
        (kept.slot_row, kept.slot_of) = (self.take(slots)?, self.take(slots)?);
        kept.starts = self.take(experts + 1)?;
        let row_count = if count == rows.all { rows.counts } else { after(rows.counts, 1) };
        run!(self.gpu, blocks("route_sort", experts);
            kept.slot_row, kept.slot_of, kept.starts, kept.chosen, row_count, k as i32, experts as i32)?;
        kept.slot_weights = self.take(slots)?;
        run!(self.gpu, blocks("train_slot_weights", slots.div_ceil(256));
            kept.slot_weights, weights, kept.slot_of, slots as i32)?;
        kept.gate_up = self.take(slots * 2 * width)?;
        let gate_up = Product {
            a: kept.post,
            b: self.parameter(&place.expert_gate_up),
            c: kept.gate_up,
            a_rows: kept.slot_row,
            bounds: kept.starts,
            b_of_expert: (2 * width * hidden) as i64,
            ..sized([slots, 2 * width, hidden], [hidden, hidden, 2 * width])
        };
        launches::product(&self.gpu, Kind::Linear, rows.precision, gate_up, experts)?;
        let activated = self.take(slots * width)?;
        run!(self.gpu, blocks("train_swiglu_experts", slots);
            activated, kept.gate_up, kept.slot_weights, slots as i32, width as i32)?;
        let of_slots = self.take(slots * hidden)?;
        let down = Product {
            a: activated,
            b: self.parameter(&place.expert_down),
            c: of_slots,
            bounds: kept.starts,
            b_of_expert: (width * hidden) as i64,
            ..sized([slots, hidden, width], [width, width, hidden])
        };
        launches::product(&self.gpu, Kind::Linear, rows.precision, down, experts)?;
        let out = self.zeros(count * hidden)?;
        if shared > 0 {
            kept.shared_gate_up = self.take(count * 2 * shared)?;
            let weight = self.parameter(&place.shared_gate_up);
            self.linear(rows.precision, kept.post, weight, kept.shared_gate_up, [count, 2 * shared, hidden])?;
            let activated = self.take(count * shared)?;
            run!(self.gpu, blocks("train_swiglu", count);
                activated, kept.shared_gate_up, count as i32, shared as i32)?;
            let weight = self.parameter(&place.shared_down);
            self.linear(rows.precision, activated, weight, out, [count, hidden, shared])?;
        }
        run!(self.gpu, blocks("train_combine", count);
            out, of_slots, kept.slot_of, count as i32, k as i32, hidden as i32)?;
        Ok(out)
    }

    /// Takes `dx`, the gradient of a layer's output, to that of its input, and adds those of its parameters.
    pub(super) fn layer_backward(
        &mut self,
        rows: &Rows,
        index: usize,
        kept: &Kept,
        dx: u64,
    ) -> Result<(), CudaError> {
        let (config, place) = (self.config.clone(), self.layout.layers[index].clone());
        let (count, all, precision) = (self.rows_of(rows, index), rows.all, rows.precision);
        let (hidden, eps, width) = (config.hidden_size, config.rms_norm_eps, config.qkv_width());
        let (heads, head_dim) = (config.num_attention_heads, config.head_dim);
        let (queries, keys) = (heads * head_dim, config.num_key_value_heads * head_dim);
        let dpost = self.experts_backward(rows, &place, kept, dx, count)?;
        self.norm_backward(dx, &place.post_norm, [dpost, kept.middle], count)?;
        // dx is the gradient of the middle now.
        let ddense = self.gradient(&place.dense);
        self.weight(precision, dx, kept.attended, ddense, [hidden, queries, count])?;
        let dattended = self.take(count * queries)?;
        let dense = self.parameter(&place.dense);
        self.input(precision, dx, dense, dattended, [count, queries, hidden], false)?;
        let (dq, dk, dv) = (self.take(count * queries)?, self.take(all * keys)?, self.take(all * keys)?);
        let delta = self.take(count * heads)?;
        let shape = TrainHeads { rows: count as i32, ..rows.heads };
        let Kept { q, k, v, attended, stats, .. } = *kept;
        let launch = blocks("train_attend_delta", (count * heads).div_ceil(8));
        run!(self.gpu, launch; delta, dattended, attended, shape)?;
        let (row_document, documents) = (rows.row_document, rows.documents);
        let launch = launches::attention("train_attend_backward_queries", &shape, shape.heads, shape.rows);
        run!(self.gpu, launch; dq, q, k, v, dattended, stats, delta, row_document, documents, shape)?;
        let launch = launches::attention("train_attend_backward_keys", &shape, shape.kv_heads, shape.all);
        run!(self.gpu, launch; dk, dv, q, k, v, dattended, stats, delta, row_document, documents, shape)?;
        let dqkv = self.take(count * width + (all - count) * 2 * keys)?;
        let parts = launches::parts(all);
        let partial = self.take(parts * 2 * head_dim)?;
        let norms = [self.parameter(&place.query_norm), self.parameter(&place.key_norm)];
        let sizes = self.head_sizes(count, all);
        let launch = blocks("train_heads_backward", parts);
        let launch = Launch { shared: 64 * head_dim, ..launch };
        run!(self.gpu, launch;
            dqkv, partial, dq, dk, dv, kept.qkv, norms[0], norms[1], rows.cosines, rows.sines, rows.positions,
            sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], eps)?;
        let (dquery_norm, dkey_norm) = (self.gradient(&place.query_norm), self.gradient(&place.key_norm));
        run!(self.gpu, blocks("train_heads_reduce", (2 * head_dim).div_ceil(32));
            dquery_norm, dkey_norm, partial, parts as i32, head_dim as i32)?;
        let dn = self.take(all * hidden)?;
        let (qkv, gradient) = (self.parameter(&place.qkv), self.gradient(&place.qkv));
        self.weight(precision, dqkv, kept.normed, gradient, [width, hidden, count])?;
        self.input(precision, dqkv, qkv, dn, [count, hidden, width], false)?;
        if all > count {
            let (dqkv, normed) = (after(dqkv, count * width), after(kept.normed, count * hidden));
            let (qkv, gradient) = (after(qkv, queries * hidden), after(gradient, queries * hidden));
            self.weight(precision, dqkv, normed, gradient, [2 * keys, hidden, all - count])?;
            let dn = after(dn, count * hidden);
            self.input(precision, dqkv, qkv, dn, [all - count, hidden, 2 * keys], false)?;
        }
        self.norm_backward(dx, &place.input_norm, [dn, kept.x], all)
    }

    /// Returns the gradient of the rows that went to the experts, and adds those of their weights.
    fn experts_backward(
        &mut self,
        rows: &Rows,
        place: &LayerLayout,
        kept: &Kept,
        dy: u64,
        count: usize,
    ) -> Result<u64, CudaError> {
        let (config, precision) = (&self.config, rows.precision);
        let (hidden, experts, width) = (config.hidden_size, config.num_experts, config.moe_intermediate_size);
        let (k, shared, scale) = (config.num_experts_per_tok, config.shared_width(), config.routing().scale);
        let slots = count * k;
        let dx = self.zeros(count * hidden)?;
        if shared > 0 {
            let activated = self.take(count * shared)?;
            let sizes = [count as i32, shared as i32];
            run!(self.gpu, blocks("train_swiglu", count); activated, kept.shared_gate_up, sizes[0], sizes[1])?;
            let gradient = self.gradient(&place.shared_down);
            self.weight(precision, dy, activated, gradient, [hidden, shared, count])?;
            let down = self.parameter(&place.shared_down);
            self.input(precision, dy, down, activated, [count, shared, hidden], false)?;
            run!(self.gpu, blocks("train_swiglu_backward", count);
                kept.shared_gate_up, activated, sizes[0], sizes[1])?;
            let gradient = self.gradient(&place.shared_gate_up);
            self.weight(precision, kept.shared_gate_up, kept.post, gradient, [2 * shared, hidden, count])?;
            let gate_up = self.parameter(&place.shared_gate_up);
            self.input(precision, kept.shared_gate_up, gate_up, dx, [count, hidden, 2 * shared], true)?;
        }
        let (activated, dactivated) = (self.take(slots * width)?, self.take(slots * width)?);
        let dweight = self.take(slots)?;
        let hidden_vectors = Product {
            a: dy,
            b: self.parameter(&place.expert_down),
            c: dactivated,
            a_rows: kept.slot_row,
            bounds: kept.starts,
            b_of_expert: (width * hidden) as i64,
            ..sized([slots, width, hidden], [hidden, width, width])
        };
        launches::product(&self.gpu, Kind::Input, precision, hidden_vectors, experts)?;
        run!(self.gpu, blocks("train_experts_backward", slots.div_ceil(8));
            kept.gate_up, activated, dactivated, kept.slot_weights, dweight, slots as i32, width as i32)?;
        let of_down = Product {
            a: dy,
            b: activated,
            c: self.gradient(&place.expert_down),
            a_rows: kept.slot_row,
            c_of_expert: (width * hidden) as i64,
            is_added: 1,
            bounds: kept.starts,
            ..sized([hidden, width, 0], [hidden, width, width])
        };
        launches::product(&self.gpu, Kind::Weight, precision, of_down, experts)?;
        let of_gate_up = Product {
            a: kept.gate_up,
            b: kept.post,
            c: self.gradient(&place.expert_gate_up),
            b_rows: kept.slot_row,
            c_of_expert: (2 * width * hidden) as i64,
            is_added: 1,
            bounds: kept.starts,
            ..sized([2 * width, hidden, 0], [2 * width, hidden, hidden])
        };
        launches::product(&self.gpu, Kind::Weight, precision, of_gate_up, experts)?;
        let of_slots = self.take(slots * hidden)?;
        let of_rows = Product {
            a: kept.gate_up,
            b: self.parameter(&place.expert_gate_up),
            c: of_slots,
            bounds: kept.starts,
            b_of_expert: (2 * width * hidden) as i64,
            ..sized([slots, hidden, 2 * width], [2 * width, hidden, hidden])
        };
        launches::product(&self.gpu, Kind::Input, precision, of_rows, experts)?;
        run!(self.gpu, blocks("train_combine", count);
            dx, of_slots, kept.slot_of, count as i32, k as i32, hidden as i32)?;
        let dlogits = self.take(count * experts)?;
        run!(self.gpu, blocks("train_route_backward", count.div_ceil(8));
            dlogits, dweight, kept.slot_of, kept.chosen, kept.scores, count as i32, experts as i32, k as i32, scale)?;
        let (gate, gradient) = (self.parameter(&place.gate), self.gradient(&place.gate));
        self.weight(Precision::F32, dlogits, kept.post, gradient, [experts, hidden, count])?;
        self.input(Precision::F32, dlogits, gate, dx, [count, hidden, experts], true)?;
        Ok(dx)
    }
}
