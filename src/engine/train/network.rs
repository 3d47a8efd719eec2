//! The training form of LLaDA2: one pass over `[noised ‖ clean]`, or over one stream, forward and
//! backward by hand.
//!
//! Activations live in plain vectors that are reused from step to step. The clean half exists to
//! give keys and values to the noised one, so in the last layer it has no queries and no experts.
//! Every gradient is checked against finite differences in the tests.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::cuda::train::Done;
use crate::engine::cuda::train::Trainer;
use crate::engine::device::must;
use crate::engine::model::cpu::CPU;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::norm::rms_norm;
use crate::engine::ops::rope::Rope;
use crate::engine::train::batch::Batch;
use crate::engine::train::experts;
use crate::engine::train::experts::Shape;
use crate::engine::train::experts::Weights;
use crate::engine::train::layer::Activations;
use crate::engine::train::layer::add;
use crate::engine::train::layer::attend;
use crate::engine::train::layer::attend_backward;
use crate::engine::train::layer::heads;
use crate::engine::train::layer::norm_backward;
use crate::engine::train::layer::project;
use crate::engine::train::layer::project_backward;
use crate::engine::train::layer::resize;
use crate::engine::train::layer::turn_heads;
use crate::engine::train::layer::turn_heads_back;
use crate::engine::train::layout::LayerLayout;
use crate::engine::train::layout::Layout;
use crate::engine::train::loss;
use crate::engine::train::loss::Loss;
use crate::engine::train::loss::LossGradient;
use crate::engine::train::sink::Sink;

/// The model being trained.
#[derive(Debug)]
pub struct Network {
    /// The shapes.
    pub config: Llada2Config,
    /// Where every parameter lies.
    pub layout: Layout,
    /// All parameters, as `layout` says; who changes them says so by [`Network::moved`].
    pub parameters: Vec<f32>,
    /// The gradient of every parameter; empty when a [`Sink`] of parts takes them.
    pub gradients: Vec<f32>,
    /// For each layer, what is added to the routing scores when experts are chosen.
    pub expert_bias: Vec<Vec<f32>>,
    /// How products are rounded: those of attention, experts and head.
    pub precision: Precision,
    /// Whether the backward pass computes each layer again from its input instead of keeping what it
    /// needs: a third more work, and activations of one layer instead of all.
    pub recomputes: bool,
    /// What computes passes instead of the processor.
    gpu: Option<Gpu>,
    /// For each layer, how many rows each expert took since [`Network::take_load`].
    load: Vec<Vec<usize>>,
    rope: Rope,
    /// What is kept of each layer: its input only when layers are computed again.
    layers: Vec<Activations>,
    /// The layer being computed, when layers are computed again.
    shared: Activations,
    last: Vec<f32>,
    normed: Vec<f32>,
}

/// How a pass is computed.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// How the factors of products are rounded.
    pub precision: Precision,
    /// Whether a layer's activations are computed again in the backward pass instead of kept.
    pub recomputes: bool,
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// The loss.
    pub loss: Loss,
    /// For each layer, how many rows each expert took.
    pub load: Vec<Vec<usize>>,
}

/// A GPU that computes passes.
#[derive(Debug)]
struct Gpu {
    trainer: Trainer,
    /// Whether it has the parameters as they are here, or newer ones.
    is_current: bool,
}

impl Network {
    /// Makes a network with the given parameters.
    ///
    /// # Errors
    /// When the trainer does not know the configuration's form.
    pub fn new(
        config: Llada2Config,
        parameters: Vec<f32>,
        expert_bias: Vec<Vec<f32>>,
    ) -> Result<Network, String> {
        let layout = Layout::new(&config)?;
        let (rope_theta, rotary_dim) = config.rotation()?;
        if parameters.len() != layout.len {
            return Err(format!("{} parameters given, {} wanted", parameters.len(), layout.len));
        }
        Ok(Network {
            rope: Rope::new(rotary_dim, rope_theta),
            gradients: vec![0.0; layout.len],
            load: vec![vec![0; config.num_experts]; config.num_hidden_layers],
            layers: (0..config.num_hidden_layers).map(|_| Activations::default()).collect(),
            shared: Activations::default(),
            last: Vec::new(),
            normed: Vec::new(),
            precision: Precision::F32,
            recomputes: false,
            gpu: None,
            config,
            layout,
            parameters,
            expert_bias,
        })
    }

    /// Returns, for each layer, how many rows each expert took, and starts counting again.
    pub fn take_load(&mut self) -> Vec<Vec<usize>> {
        let fresh = vec![vec![0; self.config.num_experts]; self.config.num_hidden_layers];
        std::mem::replace(&mut self.load, fresh)
    }

    /// Lets a GPU compute all passes from now on.
    pub fn compute_on(&mut self, trainer: Trainer) {
        self.gpu = Some(Gpu { trainer, is_current: false });
    }

    /// Returns the GPU that computes all passes, if one does.
    pub fn trainer(&mut self) -> Option<&mut Trainer> {
        self.gpu.as_mut().map(|gpu| &mut gpu.trainer)
    }

    /// Returns what computes the passes, in a word.
    pub fn device(&self) -> String {
        self.gpu.as_ref().map_or_else(|| CPU.to_owned(), |gpu| gpu.trainer.device())
    }

    /// Says that parameters have changed here, and not on the GPU.
    pub fn moved(&mut self) {
        self.gpu.iter_mut().for_each(|gpu| gpu.is_current = false);
    }

    /// Takes the parameters from the GPU, when they have changed there.
    ///
    /// # Panics
    /// When the GPU fails; so with all that computes on it.
    pub fn fetch_parameters(&mut self) {
        if let Some(gpu) = self.gpu.as_ref().filter(|gpu| gpu.is_current) {
            must(gpu.trainer.get(&mut self.parameters));
        }
    }

    /// Takes the gradients from the GPU, if there is one, and clears them there.
    ///
    /// # Panics
    /// As [`Network::fetch_parameters`].
    pub fn fetch_gradients(&mut self) {
        if let Some(gpu) = &self.gpu {
            must(gpu.trainer.take_gradients(&mut self.gradients));
        }
    }

    /// Returns the loss of a batch on the GPU, if there is one; with a scale gradients are added there.
    fn pass_on_gpu(&mut self, batch: &Batch, scale: Option<f32>, done: Option<Done>) -> Option<Loss> {
        let how = How { precision: self.precision, recomputes: self.recomputes };
        let Gpu { trainer, is_current } = self.gpu.as_mut()?;
        if !*is_current {
            must(trainer.set(&self.parameters));
        }
        let Passed { loss, load } = must(match scale {
            Some(scale) => trainer.accumulate(batch, &self.expert_bias, how, scale, done),
            None => trainer.evaluate(batch, &self.expert_bias, how),
        });
        *is_current = true;
        self.load.iter_mut().flatten().zip(load.iter().flatten()).for_each(|(sum, rows)| *sum += rows);
        Some(loss)
    }

    /// Returns the loss of a batch without touching gradients.
    pub fn evaluate(&mut self, batch: &Batch) -> Loss {
        if let Some(loss) = self.pass_on_gpu(batch, None, None) {
            return loss;
        }
        self.forward(batch);
        let head = &self.parameters[self.layout.embeddings.clone()];
        loss::cross_entropy(self.precision, &self.normed, head, self.config.hidden_size, &batch.targets, None)
    }

    /// Returns the loss of a batch and adds `scale` times its gradient to `gradients`, or to those of the GPU that
    /// computes it: see [`Network::fetch_gradients`].
    pub fn accumulate(&mut self, batch: &Batch, scale: f32) -> Loss {
        if let Some(loss) = self.pass_on_gpu(batch, Some(scale), None) {
            return loss;
        }
        let mut gradients = std::mem::take(&mut self.gradients);
        let loss = self.accumulate_into(batch, scale, &mut Sink::Whole(&mut gradients));
        self.gradients = gradients;
        loss
    }

    /// Returns the loss of a batch and hands over `scale` times its gradient, part by part, where it lies on the GPU.
    ///
    /// # Panics
    /// When there is no GPU, or it fails.
    pub fn accumulate_on_gpu(&mut self, batch: &Batch, scale: f32, done: Done) -> Loss {
        self.pass_on_gpu(batch, Some(scale), Some(done)).expect("a GPU computes")
    }

    /// Returns the loss of a batch and gives `scale` times its gradient to a sink; on the processor.
    pub fn accumulate_into(&mut self, batch: &Batch, scale: f32, sink: &mut Sink) -> Loss {
        self.forward(batch);
        let hidden = self.config.hidden_size;
        let mut dnormed = vec![0.0; self.normed.len()];
        let head = self.layout.embeddings.clone();
        let gradient = LossGradient { rows: &mut dnormed, head: sink.begin(&head), scale };
        let loss = loss::cross_entropy(
            self.precision,
            &self.normed,
            &self.parameters[head.clone()],
            hidden,
            &batch.targets,
            Some(gradient),
        );
        sink.end(head);
        self.backward(batch, &dnormed, sink);
        loss
    }

    /// Returns the parts in the order in which a backward pass gives them.
    pub fn parts(&self) -> Vec<Range<usize>> {
        let Layout { embeddings, norm, layers, .. } = &self.layout;
        let layers = layers.iter().rev().map(LayerLayout::range);
        [embeddings.clone(), norm.clone()].into_iter().chain(layers).chain([embeddings.clone()]).collect()
    }

    /// Returns how many bytes the activations of the largest pass so far take.
    pub fn activation_bytes(&self) -> usize {
        if let Some(gpu) = &self.gpu {
            return gpu.trainer.activation_bytes();
        }
        let layers: usize = self.layers.iter().map(Activations::bytes).sum();
        layers + self.shared.bytes() + 4 * (self.last.capacity() + self.normed.capacity())
    }

    fn forward(&mut self, batch: &Batch) {
        let (tokens, all) = (batch.noised.len(), batch.rows());
        let hidden = self.config.hidden_size;
        let eps = self.config.rms_norm_eps;
        self.rope.reserve(batch.documents.iter().map(ExactSizeIterator::len).max().unwrap_or(0));
        let embeddings = &self.parameters[self.layout.embeddings.clone()];
        let mut x = vec![0.0; all * hidden];
        for (row, id) in x.chunks_exact_mut(hidden).zip(batch.noised.iter().chain(&batch.clean)) {
            row.copy_from_slice(&embeddings[*id as usize * hidden..(*id as usize + 1) * hidden]);
        }
        let pass = Pass { config: &self.config, precision: self.precision, rope: &self.rope, batch };
        let count = self.layers.len();
        for (i, place) in self.layout.layers.iter().enumerate() {
            let rows = if i + 1 == count { tokens } else { all };
            let at = if self.recomputes { &mut self.shared } else { &mut self.layers[i] };
            at.x = x;
            let parameters = &self.parameters[place.range()];
            x = layer_forward(&pass, &place.relative(), parameters, &self.expert_bias[i], at, rows);
            for (sum, rows) in self.load[i].iter_mut().zip(at.saved.load()) {
                *sum += rows;
            }
            if self.recomputes {
                self.layers[i].x = std::mem::take(&mut self.shared.x);
            }
        }
        resize(&mut self.normed, x.len());
        parallel_norm(&mut self.normed, &x, &self.parameters[self.layout.norm.clone()], eps);
        self.last = x;
    }

    fn backward(&mut self, batch: &Batch, dnormed: &[f32], sink: &mut Sink) {
        let (tokens, all) = (batch.noised.len(), batch.rows());
        let hidden = self.config.hidden_size;
        let eps = self.config.rms_norm_eps;
        let shape = shape(&self.config, self.precision);
        let heads = heads(&self.config, self.precision, batch.sight);
        let pass = Pass { config: &self.config, precision: self.precision, rope: &self.rope, batch };
        let mut dx = vec![0.0; tokens * hidden];
        let norm = self.layout.norm.clone();
        let weight = &self.parameters[norm.clone()];
        norm_backward(&mut dx, sink.begin(&norm), dnormed, &self.last, weight, eps);
        sink.end(norm);
        let count = self.layers.len();
        for (i, place) in self.layout.layers.iter().enumerate().rev() {
            let rows = if i + 1 == count { tokens } else { all };
            // Within the layer's own parameters and gradients.
            let (part, layer) = (place.range(), &place.relative());
            let parameters = &self.parameters[part.clone()];
            let gradients = sink.begin(&part);
            let mut at = &mut self.layers[i];
            if self.recomputes {
                self.shared.x = std::mem::take(&mut at.x);
                at = &mut self.shared;
                // The last layer is still there.
                if i + 1 < count {
                    layer_forward(&pass, layer, parameters, &self.expert_bias[i], at, rows);
                }
            }
            // Through the experts.
            let mut dpost = vec![0.0; rows * hidden];
            let weights = sparse(parameters, layer);
            let mut dweights = sparse_mut(gradients, layer);
            experts::backward(shape, &weights, &at.post, &dx, &mut at.saved, &mut dweights, &mut dpost);
            let range = layer.post_norm.clone();
            norm_backward(
                &mut dx,
                &mut gradients[range.clone()],
                &dpost,
                &at.middle,
                &parameters[range],
                eps,
            );
            // Through attention; dx is now the gradient of the middle.
            let width = heads.queries * heads.width;
            let mut dattended = vec![0.0; rows * width];
            let range = layer.dense.clone();
            self.precision.parallel_linear_weight_gradient(
                &mut gradients[range.clone()],
                &dx,
                &at.attended,
                width,
                hidden,
            );
            self.precision.parallel_linear_input_gradient(
                &mut dattended,
                &dx,
                &parameters[range],
                width,
                hidden,
                Write::Replace,
            );
            let mut dqkv = attend_backward(&self.config, heads, batch, at, rows, &dattended);
            turn_heads_back(
                &self.config,
                &self.rope,
                parameters,
                gradients,
                layer,
                batch,
                at,
                rows,
                &mut dqkv,
            );
            dx.resize(all * hidden, 0.0);
            let mut dn = vec![0.0; all * hidden];
            project_backward(
                &self.config,
                self.precision,
                layer,
                parameters,
                gradients,
                at,
                rows,
                &dqkv,
                &mut dn,
            );
            let range = layer.input_norm.clone();
            norm_backward(&mut dx, &mut gradients[range.clone()], &dn, &at.x, &parameters[range], eps);
            sink.end(part);
        }
        let part = self.layout.embeddings.clone();
        let embeddings = sink.begin(&part);
        for (row, id) in dx.chunks_exact(hidden).zip(batch.noised.iter().chain(&batch.clean)) {
            let target = &mut embeddings[*id as usize * hidden..(*id as usize + 1) * hidden];
            target.iter_mut().zip(row).for_each(|(t, d)| *t += d);
        }
        sink.end(part);
    }
}

/// What all layers of a pass share.
struct Pass<'a> {
    config: &'a Llada2Config,
    precision: Precision,
    rope: &'a Rope,
    batch: &'a Batch,
}

/// Computes one layer from `at.x` and returns what goes into the next; the last one has fewer `rows`.
/// `layer` says where the weights are within `parameters`, which are the layer's own.
fn layer_forward(
    pass: &Pass,
    layer: &LayerLayout,
    parameters: &[f32],
    bias: &[f32],
    at: &mut Activations,
    rows: usize,
) -> Vec<f32> {
    let (config, precision) = (pass.config, pass.precision);
    let heads = heads(config, precision, pass.batch.sight);
    let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
    let w = |range: &Range<usize>| &parameters[range.clone()];
    resize(&mut at.normed, at.x.len());
    parallel_norm(&mut at.normed, &at.x, w(&layer.input_norm), eps);
    project(config, precision, w(&layer.qkv), at, rows);
    turn_heads(config, pass.rope, w(&layer.query_norm), w(&layer.key_norm), pass.batch, at, rows);
    resize(&mut at.attended, rows * heads.queries * heads.width);
    attend(heads, pass.batch, at, rows);
    resize(&mut at.middle, rows * hidden);
    let width = heads.queries * heads.width;
    precision.parallel_linear(&mut at.middle, &at.attended, w(&layer.dense), width, hidden);
    add(&mut at.middle, &at.x);
    resize(&mut at.post, rows * hidden);
    parallel_norm(&mut at.post, &at.middle, w(&layer.post_norm), eps);
    let mut x = vec![0.0; rows * hidden];
    let weights = sparse(parameters, layer);
    experts::forward(shape(config, precision), &weights, bias, &at.post, &mut x, &mut at.saved);
    add(&mut x, &at.middle);
    x
}

fn shape(config: &Llada2Config, precision: Precision) -> Shape {
    Shape {
        hidden: config.hidden_size,
        experts: config.num_experts,
        width: config.moe_intermediate_size,
        shared: config.shared_width(),
        routing: config.routing(),
        precision,
    }
}

fn sparse<'a>(parameters: &'a [f32], layer: &LayerLayout) -> Weights<&'a [f32]> {
    Weights {
        gate: &parameters[layer.gate.clone()],
        expert_gate_up: &parameters[layer.expert_gate_up.clone()],
        expert_down: &parameters[layer.expert_down.clone()],
        shared_gate_up: &parameters[layer.shared_gate_up.clone()],
        shared_down: &parameters[layer.shared_down.clone()],
    }
}

/// The same, mutable: the ranges follow one another in the flat array.
fn sparse_mut<'a>(gradients: &'a mut [f32], layer: &LayerLayout) -> Weights<&'a mut [f32]> {
    let (gate, rest) = gradients[layer.gate.start..layer.shared_down.end].split_at_mut(layer.gate.len());
    let (expert_gate_up, rest) = rest.split_at_mut(layer.expert_gate_up.len());
    let (expert_down, rest) = rest.split_at_mut(layer.expert_down.len());
    let (shared_gate_up, shared_down) = rest.split_at_mut(layer.shared_gate_up.len());
    Weights { gate, expert_gate_up, expert_down, shared_gate_up, shared_down }
}

fn parallel_norm(y: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let rows = (x.len() / weight.len()).div_ceil(rayon::current_num_threads()).max(1);
    y.par_chunks_mut(rows * weight.len())
        .zip(x.par_chunks(rows * weight.len()))
        .for_each(|(y, x)| rms_norm(y, x, weight, eps));
}

#[cfg(test)]
pub(super) mod tests;
