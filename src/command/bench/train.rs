//! `chatdlm bench train`: the trainer alone, or beside one in PyTorch, one after the other in one run.
//!
//! Both get the same documents with the same vocabulary, the same shape and about the same tokens in a
//! step (padding of blocks counts, padding of rows does not). PyTorch trains for some minutes, ours
//! until it has seen as many tokens. Each uses its own optimizer and its own noise, so their losses
//! while training are not alike; both checkpoints are then measured on the same held-out calls with
//! the same noise.

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use serde_json::json;

use crate::command::bench::reference;
use crate::command::bench::reference::Task;
use crate::command::bench::reference::Trained;
use crate::command::train;
use crate::command::train::shape::Shape;
use crate::corpus::service::Split;
use crate::corpus::tasks;
use crate::corpus::tasks::Document;
use crate::engine::device::Device;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::ops::matmul::Precision;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::train::checkpoint::read_network;
use crate::engine::train::collective::Collective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::objective::Objective;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Schedule;
use crate::engine::train::shards::Sharding;
use crate::engine::train::trainer;
use crate::engine::train::trainer::PASS_TOKENS;
use crate::engine::train::trainer::Progress;
use crate::engine::train::trainer::TrainOptions;

/// Held-out documents that both are measured on.
const DEV_DOCUMENTS: usize = 300;
/// The steps of warm-up and the share of the steps in which the rate decays, as the reference has them.
const WARM_UP: u64 = 200;
const DECAY: f64 = 0.4;
/// Our schedule has one step more for each so many, in case our steps turn out smaller; training ends
/// with the tokens in any case.
const SPARE_STEPS: u64 = 20;
/// Our loss is the mean over so many last steps: the reference's is over about as many.
const LOSS_STEPS: usize = 50;

/// Arguments of `bench train`.
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Folder of the openly licensed sets (JSON lines, zst) with emotion_labels.json.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder of company folders: articles, labelled calls and queries.
    #[arg(long)]
    service: Option<PathBuf>,
    /// Measure PyTorch too: the path of a Python interpreter that has it, with what --script wants.
    #[arg(long, value_name = "PYTHON", requires = "script")]
    against_pytorch: Option<PathBuf>,
    /// The reference trainer: a script as src/command/bench/reference.rs says.
    #[arg(long, value_name = "PATH", requires = "against_pytorch")]
    script: Option<PathBuf>,
    /// How long PyTorch trains; without it, ours.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    #[command(flatten)]
    shape: Shape,
    /// The longest document, in tokens; longer ones are cut.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Tokens of one step.
    #[arg(long, default_value_t = 4096)]
    batch_tokens: usize,
    /// The highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f32,
    /// How the factors of our products are rounded.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    precision: Precision,
    /// Where ours trains: on a GPU where one can be used, else on the processor.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    device: Device,
    /// Tokens of one of our passes, of which a step sums several.
    #[arg(long, default_value_t = PASS_TOKENS)]
    pass_tokens: usize,
    /// Threads; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seed of weights, order and noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// How long ours trains.
#[derive(Debug, Clone, Copy)]
enum Until {
    /// So many tokens in about so many steps.
    Tokens {
        tokens: u64,
        steps: u64,
    },
    Seconds(f64),
}

/// What ours did.
#[derive(Debug)]
struct Ours {
    folder: PathBuf,
    device: String,
    parameters: usize,
    steps: u64,
    tokens: u64,
    tokens_per_s: f64,
    loss: f64,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.minutes > 0.0, "--minutes must be positive");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads);
    pool.build_global().context("cannot start the threads")?;
    let threads = rayon::current_num_threads();
    let (documents, dev) = documents(args)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = folder.path();

    let pytorch = match (&args.against_pytorch, &args.script) {
        (Some(python), Some(script)) => {
            reference::check(&args.shape)?;
            let task = Task {
                python,
                script,
                minutes: args.minutes,
                shape: &args.shape,
                context: args.context,
                batch_tokens: args.batch_tokens,
                learning_rate: args.learning_rate,
                threads,
                seed: args.seed,
            };
            Some(reference::train(&task, &documents, folder)?)
        }
        _ => None,
    };
    let out = folder.join("ours");
    std::fs::create_dir_all(&out)?;
    let tokenizer = match &pytorch {
        Some(trained) => Tokenizer::read(&trained.folder)?,
        None => train::tokenizer(&out, args.shape.vocabulary, &documents)?,
    };
    let mut config = args.shape.config(&tokenizer)?;
    if pytorch.is_some() {
        reference::adopt_heads(&mut config);
    }
    let examples = train::encode(&documents, &tokenizer, args.context)?;
    drop(documents);
    let until = match &pytorch {
        Some(trained) => Until::Tokens { tokens: trained.tokens, steps: trained.steps },
        None => Until::Seconds(60.0 * args.minutes),
    };
    let ours = ours(args, config.clone(), &examples, until, out)?;
    let dev = train::encode(&dev, &tokenizer, args.context)?;
    print(&report(args, threads, &config, &ours, pytorch.as_ref(), &dev)?, args.json)
}

/// Returns what is trained on and what is held out.
fn documents(args: &TrainArgs) -> anyhow::Result<(Vec<Document>, Vec<Document>)> {
    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut documents = Vec::new();
    let mut dev = Vec::new();
    if let Some(folder) = &args.data {
        documents = tasks::open_documents(folder, &mut rng)?;
    }
    if let Some(folder) = &args.service {
        documents.extend(tasks::service_documents(folder, Split::Train, &mut rng)?);
        dev = tasks::service_documents(folder, Split::Dev, &mut rng)?;
        let step = (dev.len() / DEV_DOCUMENTS).max(1);
        dev = dev.into_iter().step_by(step).take(DEV_DOCUMENTS).collect();
    }
    anyhow::ensure!(!documents.is_empty(), "give --data, --service or both: there is nothing to train on");
    Ok((documents, dev))
}

/// Trains with our trainer and measures it.
fn ours(
    args: &TrainArgs,
    config: Llada2Config,
    examples: &[Example],
    until: Until,
    out: PathBuf,
) -> anyhow::Result<Ours> {
    let (steps, batch_tokens, length) = match until {
        Until::Tokens { tokens, steps } => {
            // Passes are added to a step until it has enough: asked for half of one less it ends up as often above
            // as below.
            let of_step = (tokens / steps).saturating_sub(args.pass_tokens as u64 / 2).max(1);
            (steps + steps / SPARE_STEPS, of_step as usize, tokens)
        }
        // No step is the last: the rate stays up.
        Until::Seconds(seconds) => (u64::MAX, args.batch_tokens, seconds as u64),
    };
    let decay = if steps == u64::MAX { 0 } else { (steps as f64 * DECAY) as u64 };
    let options = TrainOptions {
        device: args.device,
        out: out.clone(),
        batch_tokens,
        pass_tokens: args.pass_tokens,
        schedule: Schedule { warm_up: WARM_UP.min(steps / 4), decay, steps },
        optimizer: OptimizerConfig {
            learning_rate: args.learning_rate,
            precision: args.precision,
            ..OptimizerConfig::default()
        },
        checkpoint_every: u64::MAX,
        log_every: 1,
        seed: args.seed,
        from: None,
        objective: Objective::BlockDiffusion,
        recomputes: false,
        sharding: Sharding::default(),
    };
    let bar = ProgressBar::new(length)
        .with_style(ProgressStyle::with_template("ours {bar:30} {pos}/{len}, {eta} left, {msg}")?);
    let began = Instant::now();
    let mut lines: Vec<Progress> = Vec::new();
    let network = trainer::train(config, examples, &[], &options, |progress| {
        bar.set_message(format!("loss {:.3}, {:.0} tokens/s", progress.loss, progress.tokens_per_s));
        let (done, goes_on) = match until {
            Until::Tokens { tokens, .. } => (progress.tokens, progress.tokens < tokens),
            Until::Seconds(seconds) => {
                let elapsed = began.elapsed().as_secs_f64();
                (elapsed as u64, elapsed < seconds)
            }
        };
        bar.set_position(done);
        lines.push(progress.clone());
        goes_on
    })?;
    bar.finish_and_clear();
    let last = lines.last().context("no step was trained")?;
    let tail = &lines[lines.len().saturating_sub(LOSS_STEPS)..];
    Ok(Ours {
        folder: out,
        device: network.device(),
        parameters: network.parameters.len(),
        steps: last.step,
        tokens: last.tokens,
        tokens_per_s: last.tokens_per_s,
        loss: tail.iter().map(|line| line.loss).sum::<f64>() / tail.len() as f64,
    })
}

fn report(
    args: &TrainArgs,
    threads: usize,
    config: &Llada2Config,
    ours: &Ours,
    pytorch: Option<&Trained>,
    dev: &[Example],
) -> anyhow::Result<Value> {
    let noising =
        Noising { mask: config.mask_token_id, pad: config.pad_token_id, block: config.block_length() };
    let dev_loss = |folder: &Path| -> anyhow::Result<Option<f64>> {
        if dev.is_empty() {
            return Ok(None);
        }
        let mut network = read_network(folder)
            .with_context(|| format!("cannot measure the checkpoint in {}", folder.display()))?;
        Ok(Some(trainer::dev_loss(&mut network, Objective::BlockDiffusion, dev, noising, &Collective::Alone)))
    };
    let mut report = json!({
        "shape": {
            "hidden": config.hidden_size, "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads,
            "experts": config.num_experts, "expert_width": config.moe_intermediate_size,
            "vocabulary": config.vocab_size, "block": config.block_length(),
            "context": args.context, "parameters": ours.parameters,
        },
        "threads": threads,
        "ours": {
            "device": ours.device, "precision": args.precision, "steps": ours.steps, "tokens": ours.tokens,
            "tokens_per_step": ours.tokens / ours.steps, "tokens_per_s": ours.tokens_per_s,
            "training_loss": ours.loss, "dev_loss": dev_loss(&ours.folder)?,
        },
    });
    if let Some(trained) = pytorch {
        let tokens_per_s = trained.tokens as f64 / trained.seconds;
        report["pytorch"] = json!({
            "device": trained.device, "steps": trained.steps, "tokens": trained.tokens,
            "tokens_per_step": trained.tokens / trained.steps, "tokens_per_s": tokens_per_s,
            "training_loss": trained.loss, "dev_loss": dev_loss(&trained.folder)?,
        });
        report["times_pytorch"] = json!(ours.tokens_per_s / tokens_per_s);
    }
    Ok(report)
}

fn print(report: &Value, is_json: bool) -> anyhow::Result<()> {
    if is_json {
        println!("{report}");
    } else {
        println!("{}", serde_json::to_string_pretty(report)?);
    }
    Ok(())
}
