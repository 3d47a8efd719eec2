//! The experts of a tuning beside the base's: what sequences with an adapter run through instead.
//!
//! The changed matrices are the base's numbers from the checkpoint plus the adapter's, in the engine's
//! precision; experts that an adapter does not change, and all but experts and routers, are the base's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use rayon::prelude::*;

use crate::engine::adapter::AdapterError;
use crate::engine::adapter::AdapterFile;
use crate::engine::adapter::Delta;
use crate::engine::adapter::Kind;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::config::SparseShape;
use crate::engine::load::Load;
use crate::engine::model::feed_forward::FeedForward;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Quant;
use crate::engine::model::names::Names;
use crate::engine::model::names::names;
use crate::engine::weights::Matrix;
use crate::engine::weights::Weights;
use crate::engine::weights::WeightsError;

/// Tells loaded adapters apart; never used twice in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(u64);

impl AdapterId {
    /// Returns one that was never used.
    pub fn next() -> AdapterId {
        static LOADED: AtomicU64 = AtomicU64::new(0);
        AdapterId(LOADED.fetch_add(1, Relaxed))
    }
}

/// A loaded adapter. Its memory is free when nobody holds it.
#[derive(Debug)]
pub struct Adapter {
    /// Tells it apart.
    pub id: AdapterId,
    /// What people call it.
    pub name: String,
    /// What was tuned.
    pub kind: Kind,
    /// The memory that it takes beside the base.
    pub bytes: usize,
    layers: Vec<Option<Tuned>>,
    load: Arc<Load>,
}

/// What an adapter has of one sparse layer.
#[derive(Debug)]
pub struct Tuned {
    /// `[experts, hidden]`.
    pub router: Vec<f32>,
    /// The experts that are not the base's.
    pub experts: Vec<Option<FeedForward>>,
}

impl Adapter {
    /// Makes the experts of a file whose base is `weights`; counted in `load` while it lives.
    ///
    /// # Errors
    /// When the file does not fit the model, or the weights cannot be read.
    ///
    /// # Blocking
    /// As long as reading and packing the changed experts takes.
    pub fn new(
        config: &ModelConfig,
        weights: &Weights,
        quant: Quant,
        file: &AdapterFile,
        load: Arc<Load>,
    ) -> Result<Adapter, AdapterError> {
        file.check_shapes(&shapes(config))?;
        let reader = Reader { config, names: names(config.family), weights, quant, file };
        let mut layers = Vec::with_capacity(config.layers.len());
        for (index, shape) in config.layers.iter().enumerate() {
            layers.push(match shape {
                FeedForwardShape::Sparse(shape) => reader.layer(index, shape)?,
                FeedForwardShape::Dense(_) => None,
            });
        }
        let bytes = layers.iter().flatten().map(Tuned::bytes).sum();
        load.adapters.fetch_add(1, Relaxed);
        load.adapter_bytes.fetch_add(bytes, Relaxed);
        Ok(Adapter { id: AdapterId::next(), name: file.name.clone(), kind: file.kind, bytes, layers, load })
    }

    /// Returns what the adapter has of a layer; `None` where it changes nothing.
    pub fn layer(&self, index: usize) -> Option<&Tuned> {
        self.layers[index].as_ref()
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        self.load.adapters.fetch_sub(1, Relaxed);
        self.load.adapter_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl Tuned {
    fn bytes(&self) -> usize {
        let experts: usize = self.experts.iter().flatten().map(FeedForward::bytes).sum();
        size_of::<f32>() * self.router.len() + experts
    }
}

/// Returns the tensors that an adapter of this model may change, with their shapes.
pub fn shapes(config: &ModelConfig) -> HashMap<String, [usize; 2]> {
    let names = names(config.family);
    let hidden = config.hidden_size;
    let mut shapes = HashMap::new();
    for (index, shape) in config.layers.iter().enumerate() {
        let FeedForwardShape::Sparse(shape) = shape else { continue };
        shapes.insert(router(names, index), [shape.experts, hidden]);
        for expert in 0..shape.experts {
            let [gate, up, down] = parts(names, index, expert);
            shapes.insert(gate, [shape.width, hidden]);
            shapes.insert(up, [shape.width, hidden]);
            shapes.insert(down, [hidden, shape.width]);
        }
    }
    shapes
}

fn router(names: &Names, layer: usize) -> String {
    format!("{}.{layer}.{}.weight", names.layers, names.router)
}

/// Returns the names of an expert's gate, up and down.
fn parts(names: &Names, layer: usize, expert: usize) -> [String; 3] {
    ["gate_proj", "up_proj", "down_proj"]
        .map(|part| format!("{}.{layer}.{}.{expert}.{part}.weight", names.layers, names.experts))
}

/// Reads what a file changes.
struct Reader<'a> {
    config: &'a ModelConfig,
    names: &'static Names,
    weights: &'a Weights,
    quant: Quant,
    file: &'a AdapterFile,
}

impl Reader<'_> {
    fn layer(&self, index: usize, shape: &SparseShape) -> Result<Option<Tuned>, WeightsError> {
        let experts: Result<Vec<Option<FeedForward>>, WeightsError> = (0..shape.experts)
            .into_par_iter()
            .map(|expert| self.expert(index, expert, shape.width))
            .collect();
        let (experts, name, hidden) = (experts?, router(self.names, index), self.config.hidden_size);
        let delta = self.file.deltas.get(&name);
        if delta.is_none() && experts.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut router = self.weights.tensor(&name, &[shape.experts, hidden])?;
        if let Some(delta) = delta {
            router.chunks_exact_mut(hidden).enumerate().for_each(|(row, numbers)| delta.add(row, numbers));
        }
        Ok(Some(Tuned { router, experts }))
    }

    fn expert(&self, layer: usize, expert: usize, width: usize) -> Result<Option<FeedForward>, WeightsError> {
        let names = parts(self.names, layer, expert);
        if !names.iter().any(|name| self.file.deltas.contains_key(name)) {
            return Ok(None);
        }
        let (hidden, [gate, up, down]) = (self.config.hidden_size, names);
        let gate_up = self.linear(&[gate, up], width, hidden)?;
        let down = self.linear(&[down], hidden, width)?;
        Ok(Some(FeedForward { gate_up, down, width }))
    }

    /// Reads matrices `[output, input]`, one below the other, with what the file adds to each.
    fn linear(&self, names: &[String], output: usize, input: usize) -> Result<Linear, WeightsError> {
        let mut matrices: Vec<(Matrix, Option<&Delta>)> = Vec::with_capacity(names.len());
        for name in names {
            matrices.push((self.weights.matrix(name, output, input)?, self.file.deltas.get(name)));
        }
        let fill = |row: usize, numbers: &mut [f32]| {
            let (matrix, delta) = &matrices[row / output];
            matrix.read(row % output, numbers);
            if let Some(delta) = delta {
                delta.add(row % output, numbers);
            }
        };
        Ok(Linear::from_rows(self.quant, input, names.len() * output, None, fill))
    }
}
