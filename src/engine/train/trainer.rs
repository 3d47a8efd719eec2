//! The training loop: batches, gradients, balance of the experts, log, checkpoints.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::engine::model::llada2::Llada2Config;
use crate::engine::train::checkpoint;
use crate::engine::train::checkpoint::State;
use crate::engine::train::layout::Layout;
use crate::engine::train::layout::Tensor;
use crate::engine::train::loss::Loss;
use crate::engine::train::network::Network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Rule;
use crate::engine::train::optimizer::Schedule;

/// Tokens of one forward and backward pass; a step sums several.
const PASS_TOKENS: usize = 2048;
/// How fast the routing bias follows the load, a step (arXiv 2408.15664). Masked tokens look alike at
/// first and crowd into few experts; five times the paper's 1e-3 parts them within three hundred steps.
const BALANCE_RATE: f32 = 5e-3;

/// How to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Where the checkpoint goes.
    pub out: PathBuf,
    /// Tokens of one optimizer step.
    pub batch_tokens: usize,
    /// Warm-up, plateau and decay.
    pub schedule: Schedule,
    /// The optimizer's constants.
    pub optimizer: OptimizerConfig,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps between lines of the log.
    pub log_every: u64,
    /// Seed of weights, order and noise.
    pub seed: u64,
}

/// One line of `train.jsonl`, also handed to whoever watches.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen over all runs.
    pub tokens: u64,
    /// Tokens a second in this run.
    pub tokens_per_s: f64,
    /// Mean weighted loss since the last line, nats.
    pub loss: f64,
    /// Mean loss on held-out examples, when it was measured.
    pub dev_loss: Option<f64>,
    /// The largest share of rows that one expert took, times the number of experts: 1 is even.
    pub busiest_expert: f64,
    /// The smallest share likewise: 0 is a dead expert.
    pub idlest_expert: f64,
}

/// Says why training stopped.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration's form is not known to the trainer.
    #[error("{0}")]
    Config(String),
    /// A file could not be read or written.
    #[error("checkpoint {path}: {source}")]
    Io {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing to train on.
    #[error("there are no training examples")]
    NoData,
    /// The checkpoint was made from other data.
    #[error(
        "the checkpoint was trained on {before} examples, now there are {now}: same data and seed are needed to resume"
    )]
    OtherData {
        /// Then.
        before: usize,
        /// Now.
        now: usize,
    },
    /// The loss is not a number any more.
    #[error("the loss is not finite at step {0}: lower the learning rate")]
    Diverged(u64),
}

/// Trains until the schedule ends or `watch` returns false; resumes when `out` holds a state. A dev loss
/// is reported when its checkpoint is written.
///
/// # Errors
/// When data or checkpoint are unusable or the loss diverges.
pub fn train(
    config: Llada2Config,
    examples: &[Example],
    dev: &[Example],
    options: &TrainOptions,
    mut watch: impl FnMut(&Progress) -> bool,
) -> Result<Network, TrainError> {
    if examples.is_empty() {
        return Err(TrainError::NoData);
    }
    let io = |source| TrainError::Io { path: options.out.display().to_string(), source };
    std::fs::create_dir_all(&options.out).map_err(io)?;
    let layout = Layout::new(&config).map_err(TrainError::Config)?;
    let parameters = initial(&config, &layout, options.seed);
    let bias = vec![vec![0.0; config.num_experts]; config.num_hidden_layers];
    let tensors = layout.tensors.iter().map(|tensor| (tensor.range.clone(), rule(tensor))).collect();
    let mut network = Network::new(config, parameters, bias).map_err(TrainError::Config)?;
    network.precision = options.optimizer.precision;
    let mut optimizer = Optimizer::new(options.optimizer, tensors);
    let mut state = match checkpoint::read_state(&options.out, &mut network, &mut optimizer).map_err(io)? {
        Some(state) if state.examples != examples.len() => {
            return Err(TrainError::OtherData { before: state.examples, now: examples.len() });
        }
        Some(state) => state,
        None => State { examples: examples.len(), ..State::default() },
    };
    let mut log =
        OpenOptions::new().create(true).append(true).open(options.out.join("train.jsonl")).map_err(io)?;
    let noising = Noising {
        mask: network.config.mask_token_id,
        pad: network.config.pad_token_id,
        block: network.config.block_length(),
    };
    let mut order = shuffled(examples.len(), options.seed, state.epoch);
    let (started, seconds_before, tokens_before) = (Instant::now(), state.seconds, state.tokens);
    let mut window = Loss::default();
    let mut load = vec![vec![0; network.config.num_experts]; network.config.num_hidden_layers];
    while state.step < options.schedule.steps {
        let mut rng =
            StdRng::seed_from_u64(options.seed ^ (state.step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut batches = Vec::new();
        let mut taken = 0;
        while taken < options.batch_tokens {
            if state.cursor >= order.len() {
                state.epoch += 1;
                state.cursor = 0;
                order = shuffled(examples.len(), options.seed, state.epoch);
            }
            let range = objective::take(&order, examples, state.cursor, PASS_TOKENS, noising.block);
            let some: Vec<&Example> = order[range.clone()].iter().map(|i| &examples[*i as usize]).collect();
            state.cursor = range.end;
            let batch = objective::noise(&some, noising, &mut rng);
            taken += batch.clean.len();
            batches.push(batch);
        }
        let weight: f64 = batches.iter().flat_map(|b| &b.targets).map(|t| f64::from(t.weight)).sum();
        let scale = 1.0 / weight.max(1.0) as f32;
        let loss = batches.iter().map(|b| network.accumulate(b, scale)).fold(Loss::default(), Loss::plus);
        state.step += 1;
        state.tokens += taken as u64;
        if !loss.weighted.is_finite() {
            return Err(TrainError::Diverged(state.step));
        }
        window = window.plus(loss);
        let rate = options.schedule.rate(state.step);
        optimizer.step(&mut network.parameters, &mut network.gradients, state.step, rate);
        balance(&mut network, &mut load);
        state.seconds = seconds_before + started.elapsed().as_secs_f64();

        let is_last = state.step == options.schedule.steps;
        let saves = is_last || state.step % options.checkpoint_every == 0;
        if saves || state.step % options.log_every == 0 {
            let (busiest, idlest) = spread(&load);
            let progress = Progress {
                step: state.step,
                tokens: state.tokens,
                tokens_per_s: (state.tokens - tokens_before) as f64 / started.elapsed().as_secs_f64(),
                loss: window.weighted / window.weight.max(1.0),
                dev_loss: saves.then(|| dev_loss(&mut network, dev, noising)),
                busiest_expert: busiest,
                idlest_expert: idlest,
            };
            write_line(&mut log, &progress, rate, state.seconds, saves.then_some(&load)).map_err(io)?;
            window = Loss::default();
            load.iter_mut().flatten().for_each(|n| *n = 0);
            let mut save = || -> Result<(), TrainError> {
                state.expert_bias.clone_from(&network.expert_bias);
                checkpoint::write_state(&options.out, &state, &network, &optimizer).map_err(io)?;
                checkpoint::write_model(&options.out, &network).map_err(io)
            };
            // Who watches finds the checkpoint that is reported.
            if saves {
                save()?;
            }
            if !watch(&progress) {
                if !saves {
                    save()?;
                }
                break;
            }
        }
    }
    Ok(network)
}

/// Returns the mean loss of text tokens (no padding) at fixed noise, nats.
pub fn dev_loss(network: &mut Network, dev: &[Example], noising: Noising) -> f64 {
    let mut rng = StdRng::seed_from_u64(1);
    let order: Vec<u32> = (0..dev.len() as u32).collect();
    let mut sum = Loss::default();
    let mut cursor = 0;
    while cursor < order.len() {
        let range = objective::take(&order, dev, cursor, PASS_TOKENS, noising.block);
        let some: Vec<&Example> = dev[range.clone()].iter().collect();
        cursor = range.end;
        let batch = objective::noise_evenly(&some, noising, &mut rng);
        sum = sum.plus(network.evaluate(&batch));
    }
    network.take_load();
    sum.nats / sum.rows.max(1) as f64
}

/// Returns initial weights: normal with deviation 0.02, outputs of residual branches smaller by their number; norms 1.
fn initial(config: &Llada2Config, layout: &Layout, seed: u64) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut parameters = vec![1.0; layout.len];
    let deep = 0.02 / (2.0 * config.num_hidden_layers as f32).sqrt();
    for tensor in layout.tensors.iter().filter(|t| t.shape.len() > 1) {
        let is_output = tensor.name.ends_with("dense.weight") || tensor.name.ends_with("down_proj.weight");
        let deviation = if is_output { deep } else { 0.02 };
        for value in &mut parameters[tensor.range.clone()] {
            *value = normal(&mut rng) * deviation;
        }
    }
    parameters
}

/// Returns a number from the standard normal distribution (Box–Muller).
fn normal(rng: &mut StdRng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}

fn rule(tensor: &Tensor) -> Rule {
    match tensor.shape[..] {
        [rows, columns]
            if !tensor.name.contains("embeddings") && !tensor.name.ends_with("mlp.gate.weight") =>
        {
            Rule::Matrix { rows, columns }
        }
        [_, _] => Rule::Table,
        _ => Rule::Vector,
    }
}

fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed.wrapping_add(epoch.wrapping_mul(0xD1B5_4A32_D192_ED03))));
    order
}

/// Raises the bias of experts that took less than their share and lowers the others'.
fn balance(network: &mut Network, load: &mut [Vec<usize>]) {
    let taken = network.take_load();
    for ((bias, taken), sum) in network.expert_bias.iter_mut().zip(&taken).zip(load) {
        let mean = taken.iter().sum::<usize>() as f32 / taken.len() as f32;
        for ((b, t), s) in bias.iter_mut().zip(taken).zip(sum) {
            *b += BALANCE_RATE * (mean - *t as f32).signum();
            *s += t;
        }
    }
}

/// Returns the largest and the smallest share of an expert over all layers, 1 being even.
fn spread(load: &[Vec<usize>]) -> (f64, f64) {
    let (mut busiest, mut idlest) = (0.0_f64, f64::INFINITY);
    for layer in load {
        let mean = layer.iter().sum::<usize>() as f64 / layer.len() as f64;
        for taken in layer {
            busiest = busiest.max(*taken as f64 / mean.max(1.0));
            idlest = idlest.min(*taken as f64 / mean.max(1.0));
        }
    }
    (busiest, idlest)
}

fn write_line(
    log: &mut File,
    progress: &Progress,
    rate: f32,
    seconds: f64,
    load: Option<&Vec<Vec<usize>>>,
) -> std::io::Result<()> {
    let mut line = json!({
        "step": progress.step, "tokens": progress.tokens, "tokens_per_s": progress.tokens_per_s.round(),
        "loss": progress.loss, "rate": rate, "seconds": seconds.round(),
        "busiest_expert": progress.busiest_expert, "idlest_expert": progress.idlest_expert,
    });
    if let Some(dev_loss) = progress.dev_loss {
        line["dev_loss"] = json!(dev_loss);
    }
    if let Some(load) = load {
        line["expert_share"] = json!(load.iter().map(|layer| shares(layer)).collect::<Vec<_>>());
    }
    writeln!(log, "{line}")
}

fn shares(layer: &[usize]) -> Vec<f64> {
    let sum = layer.iter().sum::<usize>().max(1) as f64;
    layer.iter().map(|n| (*n as f64 / sum * 1e4).round() / 1e4).collect()
}
