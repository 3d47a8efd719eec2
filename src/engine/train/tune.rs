//! Domain tuning: only routed experts and routers move, and what moved is an adapter.
//!
//! What is learned is a change of the base's weights that begins at zero: of every number of an expert's
//! matrix, or of low rank (`W = W₀ + b·a`, LoRA, arXiv 2106.09685); routers always in full. Weight decay pulls
//! a change back to the base. Attention, norms, embeddings and the shared expert stay as they are, for they
//! hold what all companies have in common (expert-specialised fine-tuning, arXiv 2407.01906); so does the
//! routing bias, which only training from scratch balances. All moves by AdamW: Muon takes steps of one
//! size for all matrices, also for those of experts that a company hardly meets.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::engine::adapter::AdapterError;
use crate::engine::adapter::AdapterFile;
use crate::engine::adapter::Delta;
use crate::engine::adapter::Form;
use crate::engine::adapter::Kind;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::matmul::matmul;
use crate::engine::train::layout::Layout;
use crate::engine::train::layout::Tensor;
use crate::engine::train::loss::Loss;
use crate::engine::train::network::Network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::optimizer::Gradients;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Rule;
use crate::engine::train::optimizer::Schedule;
use crate::engine::train::trainer::TrainError;
use crate::engine::weights::random;

/// Tokens of one forward and backward pass; a step sums several.
const PASS_TOKENS: usize = 2048;

/// How to tune.
#[derive(Debug, Clone)]
pub struct TuneOptions {
    /// Where passes are computed.
    pub device: Device,
    /// What moves.
    pub kind: Kind,
    /// Tokens of one optimizer step.
    pub batch_tokens: usize,
    /// Warm-up, plateau and decay.
    pub schedule: Schedule,
    /// The optimizer's constants.
    pub optimizer: OptimizerConfig,
    /// Seed of factors, order and noise.
    pub seed: u64,
}

/// Where tuning stands, handed to whoever watches after each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneProgress {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Tokens a second.
    pub tokens_per_s: f64,
    /// The mean weighted loss of the step, nats.
    pub loss: f64,
}

/// A network that is being tuned.
#[derive(Debug)]
pub struct Tuning {
    /// The network, its parameters those of the base plus what was learned.
    pub network: Network,
    /// The base's parameters.
    base: Vec<f32>,
    parts: Vec<Part>,
    /// What is learned, part behind part.
    values: Vec<f32>,
    gradients: Vec<f32>,
    optimizer: Optimizer,
}

/// What is learned of one tensor.
#[derive(Debug)]
struct Part {
    tensor: Tensor,
    /// Rows and columns.
    shape: [usize; 2],
    /// The rank of the change; in full when `None`.
    rank: Option<usize>,
    /// Where it lies among what is learned: the change, or `a` `[rank, columns]` and then `b` `[rows, rank]`.
    range: Range<usize>,
}

impl Tuning {
    /// Begins at the base: nothing has changed yet.
    pub fn new(network: Network, options: &TuneOptions) -> Tuning {
        let mut parts = Vec::new();
        let mut rules = Vec::new();
        let mut end = 0;
        for tensor in tunable(&network.layout) {
            let [rows, columns] = tensor.shape[..] else { continue };
            let rank = match options.kind {
                Kind::LowRank { rank } if !is_router(tensor) => Some(rank),
                _ => None,
            };
            let range = end..end + rank.map_or(rows * columns, |rank| rank * (rows + columns));
            end = range.end;
            rules.push((range.clone(), Rule::Table));
            parts.push(Part { tensor: tensor.clone(), shape: [rows, columns], rank, range });
        }
        let mut values = vec![0.0; end];
        for part in &parts {
            // With b = 0 nothing changes yet; a is as large as keeps the size of what goes through it.
            let key = random::key(options.seed, &part.tensor.name);
            let [_, columns] = part.shape;
            let a = part.range.start..part.range.start + part.rank.unwrap_or(0) * columns;
            for (row, numbers) in values[a].chunks_exact_mut(columns).enumerate() {
                random::normal(key, row as u64, numbers);
                numbers.iter_mut().for_each(|number| *number /= (columns as f32).sqrt());
            }
        }
        Tuning {
            base: network.parameters.clone(),
            network,
            parts,
            gradients: vec![0.0; end],
            values,
            optimizer: Optimizer::new(options.optimizer, rules),
        }
    }

    /// Takes the gradients of what is learned from those of the network, and clears the network's.
    fn collect(&mut self) {
        self.network.fetch_gradients();
        let of_network = &self.network.gradients;
        let mut rest = self.gradients.as_mut_slice();
        let mut tasks = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let (mine, others) = rest.split_at_mut(part.range.len());
            rest = others;
            tasks.push((part, mine));
        }
        let values = &self.values;
        tasks.into_par_iter().for_each(|(part, mine)| {
            let full = &of_network[part.tensor.range.clone()];
            let [rows, columns] = part.shape;
            let Some(rank) = part.rank else {
                mine.copy_from_slice(full);
                return;
            };
            let (a, b) = values[part.range.clone()].split_at(rank * columns);
            let (da, db) = mine.split_at_mut(rank * columns);
            let full = View::new(full, rows, columns);
            matmul(da, columns, View::new(b, rows, rank).transposed(), full, 1.0, Write::Replace);
            matmul(db, rank, full, View::new(a, rank, columns).transposed(), 1.0, Write::Replace);
        });
        self.network.gradients.fill(0.0);
    }

    /// Puts the base plus what was learned into the network.
    fn materialise(&mut self) {
        self.network.moved();
        for part in &self.parts {
            let target = &mut self.network.parameters[part.tensor.range.clone()];
            target.copy_from_slice(&self.base[part.tensor.range.clone()]);
            let values = &self.values[part.range.clone()];
            let [rows, columns] = part.shape;
            match part.rank {
                None => target.iter_mut().zip(values).for_each(|(w, d)| *w += d),
                Some(rank) => {
                    let (a, b) = values.split_at(rank * columns);
                    let (a, b) = (View::new(a, rank, columns), View::new(b, rows, rank));
                    matmul(target, columns, b, a, 1.0, Write::Add);
                }
            }
        }
    }

    /// Returns what changed, as a file keeps it; what did not change is left out.
    pub fn deltas(&self) -> BTreeMap<String, Delta> {
        let delta = |part: &Part| {
            let values = &self.values[part.range.clone()];
            match part.rank {
                None if is_router(&part.tensor) => {
                    Delta { shape: part.shape, form: Form::Exact(values.to_vec()) }
                }
                None => Delta::eight(part.shape, values),
                Some(rank) => {
                    let (a, b) = values.split_at(rank * part.shape[1]);
                    Delta::low_rank(part.shape, a, b)
                }
            }
        };
        let all = self.parts.iter().map(|part| (part.tensor.name.clone(), delta(part)));
        all.filter(|(_, delta)| !delta.is_zero()).collect()
    }
}

/// Tunes a base on examples until the schedule ends or `watch` returns false.
///
/// # Errors
/// When there are no examples, or the loss diverges.
pub fn tune(
    base: Network,
    examples: &[Example],
    options: &TuneOptions,
    mut watch: impl FnMut(&TuneProgress) -> bool,
) -> Result<Tuning, TrainError> {
    if examples.is_empty() {
        return Err(TrainError::NoData);
    }
    let mut tuning = Tuning::new(base, options);
    tuning.network.precision = options.optimizer.precision;
    device::train_on(options.device, &mut tuning.network, 0)?;
    let noising = noising(&tuning.network);
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut order: Vec<u32> = (0..examples.len() as u32).collect();
    let mut cursor = order.len();
    let (started, mut tokens) = (Instant::now(), 0);
    for step in 1..=options.schedule.steps {
        let mut batches = Vec::new();
        let mut taken = 0;
        while taken < options.batch_tokens {
            if cursor >= order.len() {
                order.shuffle(&mut rng);
                cursor = 0;
            }
            let range = objective::take(&order, examples, cursor, PASS_TOKENS, noising.block);
            let some: Vec<&Example> = order[range.clone()].iter().map(|i| &examples[*i as usize]).collect();
            cursor = range.end;
            let batch = objective::noise(&some, noising, &mut rng);
            taken += batch.noised.len();
            batches.push(batch);
        }
        tokens += taken as u64;
        let weight: f64 = batches.iter().flat_map(|b| &b.targets).map(|t| f64::from(t.weight)).sum();
        let scale = 1.0 / weight.max(1.0) as f32;
        let network = &mut tuning.network;
        let loss = batches.iter().map(|b| network.accumulate(b, scale)).fold(Loss::default(), Loss::plus);
        if !loss.weighted.is_finite() {
            return Err(TrainError::Diverged(step));
        }
        tuning.collect();
        let rate = options.schedule.rate(step);
        let norm = tuning.optimizer.square(Gradients::Within(&mut tuning.gradients)).sqrt() as f32;
        let update = options.optimizer.update(norm, step, rate);
        tuning.optimizer.step(&mut tuning.values, Gradients::Within(&mut tuning.gradients), update);
        tuning.materialise();
        let progress = TuneProgress {
            step,
            tokens,
            tokens_per_s: tokens as f64 / started.elapsed().as_secs_f64(),
            loss: loss.weighted / loss.weight.max(1.0),
        };
        if !watch(&progress) {
            break;
        }
    }
    tuning.network.take_load();
    Ok(tuning)
}

/// Returns the token ids and sizes that noising needs.
pub fn noising(network: &Network) -> Noising {
    Noising {
        mask: network.config.mask_token_id,
        pad: network.config.pad_token_id,
        block: network.config.block_length(),
    }
}

/// Adds an adapter's changes to a network in the training form.
///
/// # Errors
/// When a change does not fit the network; then nothing was added.
pub fn apply(file: &AdapterFile, network: &mut Network) -> Result<(), AdapterError> {
    let tensors: HashMap<String, Tensor> =
        tunable(&network.layout).map(|tensor| (tensor.name.clone(), tensor.clone())).collect();
    let shapes = tensors.iter().map(|(name, tensor)| (name.clone(), [tensor.shape[0], tensor.shape[1]]));
    file.check_shapes(&shapes.collect())?;
    for (name, delta) in &file.deltas {
        let target = &mut network.parameters[tensors[name].range.clone()];
        let rows = target.chunks_exact_mut(delta.shape[1]).enumerate();
        rows.for_each(|(row, numbers)| delta.add(row, numbers));
    }
    Ok(())
}

/// Returns the tensors that tuning moves, in the order in which they lie.
fn tunable(layout: &Layout) -> impl Iterator<Item = &Tensor> {
    layout.tensors.iter().filter(|tensor| {
        let at = tensor.range.start;
        layout.layers.iter().any(|layer| {
            layer.gate.contains(&at) || layer.expert_gate_up.contains(&at) || layer.expert_down.contains(&at)
        })
    })
}

fn is_router(tensor: &Tensor) -> bool {
    tensor.name.ends_with(".gate.weight")
}

#[cfg(test)]
mod tests;
