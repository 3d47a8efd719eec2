//! The training loop: batches, gradients, balance of the experts, log, checkpoints.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;
use sha2::Digest;
use sha2::Sha256;
use tracing::info;

use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::device::DeviceError;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::train::checkpoint;
use crate::engine::train::checkpoint::State;
use crate::engine::train::collective::Collective;
use crate::engine::train::layout::Layout;
use crate::engine::train::layout::Tensor;
use crate::engine::train::loss::Loss;
use crate::engine::train::memory::Memory;
use crate::engine::train::network::Network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::objective::Objective;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Rule;
use crate::engine::train::optimizer::Schedule;
use crate::engine::train::ownership::Ownership;
use crate::engine::train::shards::Sharding;
use crate::engine::train::shards::Shards;

/// Tokens of one pass, where nothing else is said.
pub const PASS_TOKENS: usize = 2048;
/// How fast the routing bias follows the load, a step (arXiv 2408.15664). Masked tokens look alike at
/// first and crowd into few experts; five times the paper's 1e-3 parts them within three hundred steps.
const BALANCE_RATE: f32 = 5e-3;

/// How to train.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Where passes are computed.
    pub device: Device,
    /// Where the checkpoint goes.
    pub out: PathBuf,
    /// The checkpoint that a new run begins with; random weights when missing.
    pub from: Option<PathBuf>,
    /// What is predicted.
    pub objective: Objective,
    /// Tokens of one optimizer step.
    pub batch_tokens: usize,
    /// Tokens of one forward and backward pass; a step sums several.
    pub pass_tokens: usize,
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
    /// Whether layers are computed again in the backward pass, which takes less memory and more time.
    pub recomputes: bool,
    /// The processes that train together.
    pub sharding: Sharding,
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
    /// What every rank keeps in memory, when a checkpoint is due.
    pub memory: Vec<Memory>,
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
    /// The device that was asked for cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
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
    /// Ranks would train on different data.
    #[error("the ranks have read different examples: all need the same files and arguments")]
    RanksDiffer,
    /// Some ranks compute on GPUs and some do not.
    #[error(
        "some ranks have a GPU and some do not ({here} computes here): say --device cpu or --device cuda"
    )]
    DevicesDiffer {
        /// What computes on this rank.
        here: String,
    },
    /// The loss is not a number any more.
    #[error("the loss is not finite at step {0}: lower the learning rate")]
    Diverged(u64),
}

/// Trains until the schedule ends or `watch` returns false; resumes when `out` holds a state. A dev loss
/// is reported when its checkpoint is written.
///
/// Every rank of `options.sharding` must call it with the same arguments. All see the same progress; it
/// ends for all when one of them wants to. Only the first one touches files. After an error the caller
/// must end the other ranks, which may be waiting.
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
    let collective = &*options.sharding.collective;
    if !collective.is_same(&digest(examples)) {
        return Err(TrainError::RanksDiffer);
    }
    let layout = Layout::new(&config).map_err(TrainError::Config)?;
    let tensors: Vec<_> = layout.tensors.iter().map(|tensor| (tensor.range.clone(), rule(tensor))).collect();
    let mut network = match &options.from {
        Some(folder) => begun(folder, config)?,
        None => {
            let parameters = initial(&config, &layout, options.seed);
            let bias = vec![vec![0.0; config.num_experts]; config.num_hidden_layers];
            Network::new(config, parameters, bias).map_err(TrainError::Config)?
        }
    };
    network.precision = options.optimizer.precision;
    network.recomputes = options.recomputes;
    let ownership = Ownership::new(&tensors, collective.size());
    let mut optimizer = Optimizer::new(options.optimizer, ownership.of(collective.rank()));
    device::train_on(options.device, &mut network, collective.rank() % collective.local_size())?;
    if !collective.is_same(&[u8::from(network.trainer().is_some())]) {
        return Err(TrainError::DevicesDiffer { here: network.device() });
    }
    let mut shards =
        Shards::new(&options.sharding, ownership, &mut network, &optimizer).map_err(DeviceError::from)?;
    let resumed = checkpoint::read_state(&options.out, &mut network, &mut optimizer, &shards).map_err(io)?;
    let mut state = match resumed {
        Some(state) if state.examples != examples.len() => {
            return Err(TrainError::OtherData { before: state.examples, now: examples.len() });
        }
        Some(state) => state,
        None => State { examples: examples.len(), ..State::default() },
    };
    let memory = shards.memory(&mut network, &optimizer);
    let mut log = None;
    if collective.is_first() {
        log = Some(open_log(&options.out).map_err(io)?);
        memory.iter().for_each(|memory| info!("{memory}"));
    }
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
            let range = objective::take(&order, examples, state.cursor, options.pass_tokens, noising.block);
            let some: Vec<&Example> = order[range.clone()].iter().map(|i| &examples[*i as usize]).collect();
            state.cursor = range.end;
            let batch = objective::prepare(options.objective, &some, noising, &mut rng);
            taken += batch.noised.len();
            batches.push(batch);
        }
        let weight: f64 = batches.iter().flat_map(|b| &b.targets).map(|t| f64::from(t.weight)).sum();
        let scale = 1.0 / weight.max(1.0) as f32;
        let totals = shards.accumulate(&mut network, &optimizer, &batches, scale);
        state.step += 1;
        state.tokens += taken as u64;
        if !totals.loss.weighted.is_finite() {
            return Err(TrainError::Diverged(state.step));
        }
        window = window.plus(totals.loss);
        let rate = options.schedule.rate(state.step);
        shards.step(&mut network, &mut optimizer, totals.norm, state.step, rate);
        balance(&mut network, &totals.load, &mut load);
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
                dev_loss: saves.then(|| dev_loss(&mut network, options.objective, dev, noising, collective)),
                busiest_expert: busiest,
                idlest_expert: idlest,
                memory: if saves { shards.memory(&mut network, &optimizer) } else { Vec::new() },
            };
            if let Some(log) = &mut log {
                write_line(log, &progress, rate, state.seconds, saves.then_some(&load)).map_err(io)?;
            }
            window = Loss::default();
            load.iter_mut().flatten().for_each(|n| *n = 0);
            // Who watches finds the checkpoint that is reported.
            if saves {
                save(&options.out, &mut state, &mut network, &mut optimizer, &shards).map_err(io)?;
            }
            let mut stops = [f64::from(u8::from(!watch(&progress)))];
            collective.sum(&mut stops);
            if stops != [0.0] {
                if !saves {
                    save(&options.out, &mut state, &mut network, &mut optimizer, &shards).map_err(io)?;
                }
                break;
            }
        }
    }
    shards.fetch(&mut network, &mut optimizer);
    Ok(network)
}

/// Writes the checkpoint and what resuming needs.
fn save(
    folder: &Path,
    state: &mut State,
    network: &mut Network,
    optimizer: &mut Optimizer,
    shards: &Shards,
) -> std::io::Result<()> {
    shards.fetch(network, optimizer);
    state.expert_bias.clone_from(&network.expert_bias);
    checkpoint::write_state(folder, state, network, optimizer, shards)?;
    if shards.collective.is_first() { checkpoint::write_model(folder, network) } else { Ok(()) }
}

/// Returns the weights of a checkpoint as the beginning of a run with `config`, which is the
/// checkpoint's own but for the block length and what drafts with it.
pub(super) fn begun(folder: &Path, config: Llada2Config) -> Result<Network, TrainError> {
    let error = |source| TrainError::Io { path: folder.display().to_string(), source };
    let Network { config: before, layout, mut parameters, expert_bias, .. } =
        checkpoint::read_network(folder).map_err(error)?;
    let hidden = config.hidden_size;
    // Tokens that the checkpoint did not know begin as the mean of those it knew.
    let known = &parameters[layout.embeddings.clone()];
    let sum = |i: usize| known.iter().skip(i).step_by(hidden).sum::<f32>();
    let mean: Vec<f32> = (0..hidden).map(|i| sum(i) / before.vocab_size as f32).collect();
    let end = layout.embeddings.end;
    let rows = config.vocab_size.saturating_sub(before.vocab_size);
    parameters.splice(end..end, mean.repeat(rows));
    Network::new(config, parameters, expert_bias).map_err(TrainError::Config)
}

/// Returns a number for the examples: ranks and runs that have the same one see the same batches.
fn digest(examples: &[Example]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for example in examples {
        hash.update(example.tokens.len().to_le_bytes());
        example.tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
        for label in &example.labels {
            hash.update(label.position.to_le_bytes());
            hash.update(label.weight.to_le_bytes());
        }
    }
    hash.finalize().to_vec()
}

fn open_log(folder: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    OpenOptions::new().create(true).append(true).open(folder.join("train.jsonl"))
}

/// Returns the mean loss of text tokens (no padding), nats: at fixed noise, or of the next token; each
/// rank computes a part.
pub fn dev_loss(
    network: &mut Network,
    objective: Objective,
    dev: &[Example],
    noising: Noising,
    collective: &Collective,
) -> f64 {
    let mut rng = StdRng::seed_from_u64(1);
    let order: Vec<u32> = (0..dev.len() as u32).collect();
    let mut sum = Loss::default();
    let (mut cursor, mut pass) = (0, 0);
    while cursor < order.len() {
        let range = objective::take(&order, dev, cursor, PASS_TOKENS, noising.block);
        let some: Vec<&Example> = dev[range.clone()].iter().collect();
        cursor = range.end;
        let batch = match objective {
            Objective::Autoregressive => objective::follow(&some, noising),
            Objective::BlockDiffusion | Objective::Masked => {
                objective::noise_evenly(&some, noising, &mut rng)
            }
        };
        if pass % collective.size() == collective.rank() {
            sum = sum.plus(network.evaluate(&batch));
        }
        pass += 1;
    }
    network.take_load();
    let mut sums = [sum.nats, sum.rows as f64];
    collective.sum(&mut sums);
    sums[0] / sums[1].max(1.0)
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

/// Returns how a tensor moves.
pub fn rule(tensor: &Tensor) -> Rule {
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
fn balance(network: &mut Network, taken: &[Vec<usize>], load: &mut [Vec<usize>]) {
    for ((bias, taken), sum) in network.expert_bias.iter_mut().zip(taken).zip(load) {
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
    if !progress.memory.is_empty() {
        line["memory"] = json!(progress.memory);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::train::network::tests::tiny;

    #[test]
    fn tokens_that_a_checkpoint_does_not_know_begin_as_the_mean_of_the_others() {
        let config = tiny();
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(&config).expect("a layout");
        let parameters = initial(&config, &layout, 5);
        let bias = vec![vec![0.5; config.num_experts]; config.num_hidden_layers];
        let network = Network::new(config.clone(), parameters, bias).expect("a network");
        checkpoint::write_model(folder.path(), &network).expect("is written");
        let grown = Llada2Config { vocab_size: config.vocab_size + 2, ..config.clone() };
        let begun = begun(folder.path(), grown).expect("is read");
        let rows = |network: &Network| {
            let table = &network.parameters[network.layout.embeddings.clone()];
            table.chunks(config.hidden_size).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let (rows, known) = (rows(&begun), config.vocab_size);
        for i in 0..config.hidden_size {
            let mean = rows[..known].iter().map(|row| row[i]).sum::<f32>() / known as f32;
            assert!((rows[known][i] - mean).abs() < 1e-4 && rows[known + 1][i] == rows[known][i]);
        }
        let norm = &begun.parameters[begun.layout.norm.clone()];
        assert!(norm.iter().all(|scale| *scale == 1.0), "what comes after the table stands where it belongs");
        assert_eq!(begun.expert_bias, [[0.5; 4]; 2]);
    }
}
