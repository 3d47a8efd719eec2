//! `chatdlm train`: documents to tokens, then the engine's trainer with a progress bar, and at each
//! checkpoint a page that shows how it goes ([`report`]).

mod chart;
mod report;
mod samples;
pub mod shape;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use anyhow::Context;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::prelude::*;
use serde::Serialize;

use crate::command::train::report::Report;
use crate::command::train::shape::Shape;
use crate::command::tune;
use crate::command::tune::TuneArgs;
use crate::command::words;
use crate::corpus::service::Split;
use crate::corpus::tasks;
use crate::corpus::tasks::Document;
use crate::engine::device::Device;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::ops::matmul::Precision;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::train::average;
use crate::engine::train::checkpoint;
use crate::engine::train::collective::Collective;
use crate::engine::train::memory;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Label;
use crate::engine::train::objective::Objective;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Schedule;
use crate::engine::train::shards::Sharding;
use crate::engine::train::shards::Stage;
use crate::engine::train::trainer;
use crate::engine::train::trainer::PASS_TOKENS;
use crate::engine::train::trainer::TrainOptions;
use crate::prompt::Control;
use crate::prompt::Piece;

/// How many documents the tokenizer is trained on.
const TOKENIZER_DOCUMENTS: usize = 60_000;

/// Trains a block-diffusion mixture of experts; goes on where `--out` left off.
#[derive(Debug, Serialize, clap::Args)]
pub struct Args {
    /// Folder of the openly licensed sets (JSON lines, zst) with emotion_labels.json.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folders of companies: articles, labelled calls and queries; with --tune a single company's do too.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    pub(super) service: Vec<PathBuf>,
    /// Folder of the checkpoint, its log and what resuming needs; with --tune the adapter's file.
    #[arg(long)]
    pub(super) out: PathBuf,
    /// Checkpoint to begin a new run with: its weights, shape and tokenizer; without it they are made
    /// anew. With --tune the base model, the bundled one when missing.
    #[arg(long, value_name = "DIR")]
    pub(super) from: Option<PathBuf>,
    /// What is predicted.
    #[arg(long, value_enum, default_value_t = Objective::BlockDiffusion)]
    objective: Objective,
    /// How often the service documents are repeated in a pass over the data.
    #[arg(long, default_value_t = 3)]
    service_repeat: usize,
    /// Optimizer steps in all; a resumed run may be given another number [default: 5000; with --tune 120].
    #[arg(long)]
    pub(super) steps: Option<u64>,
    /// Steps at the end in which the learning rate decays [default: 1500; with --tune half of all].
    #[arg(long)]
    pub(super) decay: Option<u64>,
    /// Steps in which the learning rate warms up [default: 100; with --tune 10].
    #[arg(long)]
    pub(super) warm_up: Option<u64>,
    /// Tokens of one step.
    #[arg(long, default_value_t = 4096)]
    pub(super) batch_tokens: usize,
    /// The highest learning rate [default: 0.002; with --tune as the kind wants].
    #[arg(long)]
    pub(super) learning_rate: Option<f32>,
    #[command(flatten)]
    #[serde(flatten)]
    shape: Shape,
    /// The longest document, in tokens; longer ones are cut.
    #[arg(long, default_value_t = 512)]
    pub(super) context: usize,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 250)]
    checkpoint_every: u64,
    /// Steps between lines of the log.
    #[arg(long, default_value_t = 25)]
    log_every: u64,
    /// How the factors of products are rounded; sums, norms and the router are in f32 always.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    pub(super) precision: Precision,
    /// Where is trained: on a GPU where one can be used, else on the processor. Ranks of one machine take its GPUs in
    /// turn.
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub(super) device: Device,
    /// Tokens of one forward and backward pass, of which a step sums several. More take more memory; a GPU may want them.
    #[arg(long, default_value_t = PASS_TOKENS)]
    pass_tokens: usize,
    /// Threads; 0 for one a core. The ranks of one machine share its cores.
    #[arg(long, default_value_t = 0)]
    pub(super) threads: usize,
    /// Compute each layer again in the backward pass, which takes less memory and a third more work.
    #[arg(long)]
    recompute: bool,
    /// What each process keeps of its own tensors only, when mpirun starts several: 1 for the optimizer's
    /// moments, 2 for gradients too.
    #[arg(long, value_enum, default_value_t)]
    zero: Stage,
    /// Seed of weights, order and noise.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Trains what words alone say of an emotion, on the labelled calls of --service and the labelled sets of --data;
    /// --out is the file, `emotion_words.safetensors` in a checkpoint's folder.
    #[arg(long, conflicts_with_all = ["from", "tune"], help_heading = "Emotion")]
    #[serde(skip)]
    emotion_words: bool,
    /// Writes the mean of these checkpoints' weights, each counting 1 or WEIGHT, to --out, and trains nothing.
    #[arg(long, value_name = "DIR[=WEIGHT]", num_args = 1.., conflicts_with_all = ["data", "from", "tune", "emotion_words"])]
    #[serde(skip)]
    average: Vec<String>,
    /// Only make the report of --out anew; with --service its newest checkpoint writes new samples.
    #[arg(long, conflicts_with_all = ["data", "from", "tune", "emotion_words"])]
    #[serde(skip)]
    report_only: bool,
    #[command(flatten)]
    #[serde(skip)]
    pub(super) tune: TuneArgs,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    if args.report_only {
        return report_only(&args);
    }
    if !args.average.is_empty() {
        return write_average(&args.average, &args.out);
    }
    if args.emotion_words {
        return words::run(&args.service, args.data.as_deref(), &args.out);
    }
    if let Some(kind) = args.tune.tune {
        return tune::run(&args, kind);
    }
    anyhow::ensure!(
        args.data.is_some() || !args.service.is_empty(),
        "give --data, --service or both: there is nothing to train on"
    );
    let collective = Rc::new(Collective::start()?);
    let trained = train(&args, &collective);
    if let (Err(error), Collective::Mpi(world)) = (&trained, &*collective) {
        // The others may be waiting for this one.
        eprintln!("error: rank {}: {error:#}", collective.rank());
        world.abort();
    }
    trained
}

fn train(args: &Args, collective: &Rc<Collective>) -> anyhow::Result<()> {
    let threads = if args.threads == 0 { memory::threads(collective) } else { args.threads };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the threads")?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut documents = match &args.data {
        Some(folder) => tasks::open_documents(folder, &mut rng)?,
        None => Vec::new(),
    };
    let steps = args.steps.unwrap_or(5000);
    let mut dev = Vec::new();
    for folder in &args.service {
        for _ in 0..args.service_repeat {
            documents.extend(tasks::service_documents(folder, Split::Train, &mut rng)?);
        }
        dev.extend(tasks::service_documents(folder, Split::Dev, &mut rng)?);
    }
    dev.truncate(600);
    let tokenizer = shared_tokenizer(args, &documents, collective)?;
    let mut report = match collective.is_first() {
        true => Some(Report::new(&args.out, args, samples::pick(&dev, &tokenizer, args.context)?)?),
        false => None,
    };
    let examples = encode(&documents, &tokenizer, args.context)?;
    let dev = encode(&dev, &tokenizer, args.context)?;
    if collective.is_first() {
        describe(&documents, &examples);
    }
    drop(documents);
    let config = match &args.from {
        Some(folder) => {
            let config = Llada2Config::read(folder)?;
            Llada2Config { vocab_size: config.vocab_size.max(tokenizer.size()), ..config }
        }
        None => args.shape.config(&tokenizer)?,
    };
    let options = TrainOptions {
        device: args.device,
        out: args.out.clone(),
        from: args.from.clone(),
        objective: args.objective,
        batch_tokens: args.batch_tokens,
        pass_tokens: args.pass_tokens,
        schedule: Schedule { warm_up: args.warm_up.unwrap_or(100), decay: args.decay.unwrap_or(1500), steps },
        optimizer: OptimizerConfig {
            learning_rate: args.learning_rate.unwrap_or(2e-3),
            precision: args.precision,
            ..OptimizerConfig::default()
        },
        checkpoint_every: args.checkpoint_every,
        log_every: args.log_every,
        seed: args.seed,
        recomputes: args.recompute,
        sharding: Sharding { collective: Rc::clone(collective), stage: args.zero },
    };
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop))?;
    let bar = if collective.is_first() { step_bar(steps)? } else { ProgressBar::hidden() };
    trainer::train(config, &examples, &dev, &options, |progress| {
        bar.set_position(progress.step);
        bar.set_message(format!("loss {:.3}, {:.0} tokens/s", progress.loss, progress.tokens_per_s));
        if let Some(dev_loss) = progress.dev_loss.filter(|_| collective.is_first()) {
            let line = format!(
                "step {}: dev loss {dev_loss:.4}, {} tokens, busiest expert {:.2}, idlest {:.2}",
                progress.step, progress.tokens, progress.busiest_expert, progress.idlest_expert
            );
            // Without a terminal, as under mpirun, there is no bar to print it.
            let say = |line| if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) };
            say(line);
            if let Some(Err(error)) = report.as_mut().map(Report::write) {
                say(format!("no report: {error:#}"));
            }
        }
        !stop.load(Ordering::Relaxed)
    })?;
    bar.finish();
    Ok(())
}

/// Returns a bar that counts steps.
pub(super) fn step_bar(steps: u64) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}");
    Ok(ProgressBar::new(steps).with_style(style.context("progress bar")?))
}

/// Writes the mean of checkpoints, with the tokenizer of the one that knows most tokens.
fn write_average(named: &[String], out: &Path) -> anyhow::Result<()> {
    let mut checkpoints = Vec::new();
    for name in named {
        let (folder, weight) = match name.rsplit_once('=') {
            None => (name.as_str(), 1.0),
            Some((folder, weight)) => (
                folder,
                weight.parse().ok().filter(|w: &f32| *w > 0.0 && w.is_finite()).with_context(|| {
                    format!("--average {name}: {weight:?} is no weight, give a number above 0")
                })?,
            ),
        };
        checkpoints.push((PathBuf::from(folder), weight));
    }
    let configs: Result<Vec<_>, _> =
        checkpoints.iter().map(|(folder, _)| Llada2Config::read(folder).map(|c| (folder, c))).collect();
    let configs = configs?;
    let most = configs.iter().max_by_key(|(_, config)| config.vocab_size);
    let (folder, config) = most.context("give --average some checkpoints")?;
    let mean = average::average(&checkpoints, config)?;
    checkpoint::write_model(out, &mean).with_context(|| format!("cannot write {}", out.display()))?;
    Tokenizer::read(folder)?.write(out)?;
    println!("{}: the mean of {} checkpoints", out.display(), checkpoints.len());
    Ok(())
}

/// Makes the page of a run again, from its log and what its checkpoints wrote.
fn report_only(args: &Args) -> anyhow::Result<()> {
    let mut dev = Vec::new();
    for folder in &args.service {
        dev.extend(tasks::service_documents(folder, Split::Dev, &mut StdRng::seed_from_u64(args.seed))?);
    }
    let asked = match dev.is_empty() {
        true => Vec::new(),
        false => samples::pick(&dev, &Tokenizer::read(&args.out)?, args.context)?,
    };
    println!("{}", Report::open(&args.out, asked)?.write()?.display());
    Ok(())
}

/// Asks the loop to stop at its next line of the log, with a checkpoint, on SIGINT or SIGTERM.
pub(super) fn stop_on_signal(stop: Arc<AtomicBool>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            match terminate {
                Ok(mut terminate) => tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                },
                Err(_) => drop(tokio::signal::ctrl_c().await),
            }
        });
        stop.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// Loads the tokenizer of a begun run or of the checkpoint it begins with, or trains one; the first rank
/// does it for all.
fn shared_tokenizer(
    args: &Args,
    documents: &[Document],
    collective: &Collective,
) -> anyhow::Result<Tokenizer> {
    let path = args.out.join("tokenizer.json");
    let mut json = Vec::new();
    if collective.is_first() {
        std::fs::create_dir_all(&args.out)
            .with_context(|| format!("cannot create {}", args.out.display()))?;
        if let (Some(folder), false) = (&args.from, path.exists()) {
            // A checkpoint from before a control token was thought of learns it now.
            Tokenizer::read(folder)?.with_controls(&controls())?.write(&args.out)?;
        }
        tokenizer(&args.out, args.shape.vocabulary, documents)?;
        json = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    }
    let json = collective.broadcast_bytes(json);
    Tokenizer::parse(&json).with_context(|| format!("cannot understand {}", path.display()))
}

/// Loads the tokenizer of a begun run, or trains one.
///
/// # Errors
/// When it is damaged, or cannot be written.
pub fn tokenizer(out: &Path, vocabulary: usize, documents: &[Document]) -> anyhow::Result<Tokenizer> {
    if out.join("tokenizer.json").exists() {
        return Ok(Tokenizer::read(out)?);
    }
    let step = (documents.len() / TOKENIZER_DOCUMENTS).max(1);
    let texts = documents.iter().step_by(step).flat_map(|d| &d.pieces).filter_map(|piece| match piece {
        Piece::Text(text) => Some(text.as_str()),
        Piece::Control(_) => None,
    });
    let tokenizer = Tokenizer::train(texts, vocabulary, &controls())?;
    tokenizer.write(out)?;
    Ok(tokenizer)
}

fn controls() -> Vec<&'static str> {
    Control::ALL.iter().map(|control| control.token()).collect()
}

/// Returns the documents as the trainer takes them.
///
/// # Errors
/// When the tokenizer lacks a control token.
pub(super) fn encode(
    documents: &[Document],
    tokenizer: &Tokenizer,
    context: usize,
) -> anyhow::Result<Vec<Example>> {
    let encoded: Result<Vec<Example>, _> =
        documents.par_iter().map(|d| example(&d.pieces, tokenizer, context)).collect();
    let mut examples = encoded?;
    objective::balance_labels(&mut examples);
    Ok(examples)
}

/// Encodes pieces; of a document that is too long the first tokens go, for the end holds what is asked.
fn example(
    pieces: &[Piece],
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Example, crate::engine::tokenizer::TokenizerError> {
    let mut example = Example::default();
    for piece in pieces {
        match piece {
            Piece::Text(text) => tokenizer.encode(text, &mut example.tokens)?,
            Piece::Control(control) => {
                if matches!(control, Control::Label(_) | Control::Yes | Control::No) {
                    example.labels.push(Label { position: example.tokens.len(), weight: 1.0 });
                }
                example.tokens.push(tokenizer.control(control.token())?);
            }
        }
    }
    let over = example.tokens.len().saturating_sub(context);
    example.tokens.drain(..over);
    example.labels.retain(|label| label.position >= over);
    for label in &mut example.labels {
        label.position -= over;
    }
    Ok(example)
}

fn describe(documents: &[Document], examples: &[Example]) {
    let mut counts: BTreeMap<_, (usize, usize)> = BTreeMap::new();
    for (document, example) in documents.iter().zip(examples) {
        let count = counts.entry(document.task).or_default();
        count.0 += 1;
        count.1 += example.tokens.len();
    }
    for (task, (documents, tokens)) in counts {
        eprintln!("{task:?}: {documents} documents, {tokens} tokens");
    }
}
