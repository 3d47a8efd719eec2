//! `chatdlm train`: documents to tokens, then the engine's trainer with a progress bar, and at each
//! checkpoint a page that shows how it goes ([`report`]).

mod chart;
mod report;
mod samples;
pub mod shape;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
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
use crate::corpus::service::Split;
use crate::corpus::tasks;
use crate::corpus::tasks::Document;
use crate::engine::ops::matmul::Precision;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Label;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Schedule;
use crate::engine::train::trainer;
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
    /// Folder of company folders: articles, labelled calls and queries.
    #[arg(long)]
    service: Option<PathBuf>,
    /// Folder of the checkpoint, its log and what resuming needs.
    #[arg(long)]
    out: PathBuf,
    /// How often the service documents are repeated in a pass over the data.
    #[arg(long, default_value_t = 3)]
    service_repeat: usize,
    /// Optimizer steps in all; a resumed run may be given another number.
    #[arg(long, default_value_t = 5000)]
    steps: u64,
    /// Steps at the end in which the learning rate decays.
    #[arg(long, default_value_t = 1500)]
    decay: u64,
    /// Steps in which the learning rate warms up.
    #[arg(long, default_value_t = 100)]
    warm_up: u64,
    /// Tokens of one step.
    #[arg(long, default_value_t = 4096)]
    batch_tokens: usize,
    /// The highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    learning_rate: f32,
    #[command(flatten)]
    #[serde(flatten)]
    shape: Shape,
    /// The longest document, in tokens; longer ones are cut.
    #[arg(long, default_value_t = 512)]
    context: usize,
    /// Steps between checkpoints.
    #[arg(long, default_value_t = 250)]
    checkpoint_every: u64,
    /// Steps between lines of the log.
    #[arg(long, default_value_t = 25)]
    log_every: u64,
    /// How the factors of products are rounded; sums, norms and the router are in f32 always.
    #[arg(long, value_enum, default_value_t = Precision::Bf16)]
    precision: Precision,
    /// Threads; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seed of weights, order and noise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only make the report of --out anew; with --service its newest checkpoint writes new samples.
    #[arg(long)]
    #[serde(skip)]
    report_only: bool,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    if args.report_only {
        return report_only(&args);
    }
    anyhow::ensure!(
        args.data.is_some() || args.service.is_some(),
        "give --data, --service or both: there is nothing to train on"
    );
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()
        .context("cannot start the threads")?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut documents = match &args.data {
        Some(folder) => tasks::open_documents(folder, &mut rng)?,
        None => Vec::new(),
    };
    let mut dev = Vec::new();
    if let Some(folder) = &args.service {
        let service = tasks::service_documents(folder, Split::Train, &mut rng)?;
        documents.extend(service.iter().cycle().take(service.len() * args.service_repeat).cloned());
        dev = tasks::service_documents(folder, Split::Dev, &mut rng)?;
        dev.truncate(600);
    }
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    let tokenizer = tokenizer(&args.out, args.shape.vocabulary, &documents)?;
    let mut report = Report::new(&args.out, &args, samples::pick(&dev, &tokenizer, args.context)?)?;
    let examples = encode(&documents, &tokenizer, args.context)?;
    let dev = encode(&dev, &tokenizer, args.context)?;
    describe(&documents, &examples);
    drop(documents);
    let config = args.shape.config(&tokenizer)?;
    let options = TrainOptions {
        out: args.out.clone(),
        batch_tokens: args.batch_tokens,
        schedule: Schedule { warm_up: args.warm_up, decay: args.decay, steps: args.steps },
        optimizer: OptimizerConfig {
            learning_rate: args.learning_rate,
            precision: args.precision,
            ..OptimizerConfig::default()
        },
        checkpoint_every: args.checkpoint_every,
        log_every: args.log_every,
        seed: args.seed,
    };
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_signal(Arc::clone(&stop))?;
    let bar = ProgressBar::new(args.steps).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} steps, {eta} left, {msg}")
            .context("progress bar")?,
    );
    trainer::train(config, &examples, &dev, &options, |progress| {
        bar.set_position(progress.step);
        bar.set_message(format!("loss {:.3}, {:.0} tokens/s", progress.loss, progress.tokens_per_s));
        if let Some(dev_loss) = progress.dev_loss {
            bar.println(format!(
                "step {}: dev loss {dev_loss:.4}, {} tokens, busiest expert {:.2}, idlest {:.2}",
                progress.step, progress.tokens, progress.busiest_expert, progress.idlest_expert
            ));
            if let Err(error) = report.write() {
                bar.println(format!("no report: {error:#}"));
            }
        }
        !stop.load(Ordering::Relaxed)
    })?;
    bar.finish();
    Ok(())
}

/// Makes the page of a run again, from its log and what its checkpoints wrote.
fn report_only(args: &Args) -> anyhow::Result<()> {
    let mut asked = Vec::new();
    if let Some(folder) = &args.service {
        let dev = tasks::service_documents(folder, Split::Dev, &mut StdRng::seed_from_u64(args.seed))?;
        asked = samples::pick(&dev, &Tokenizer::read(&args.out)?, args.context)?;
    }
    println!("{}", Report::open(&args.out, asked)?.write()?.display());
    Ok(())
}

/// Asks the loop to stop at its next line of the log, with a checkpoint, on SIGINT or SIGTERM.
fn stop_on_signal(stop: Arc<AtomicBool>) -> anyhow::Result<()> {
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
    let controls: Vec<&str> = Control::ALL.iter().map(|c| c.token()).collect();
    let tokenizer = Tokenizer::train(texts, vocabulary, &controls)?;
    tokenizer.write(out)?;
    Ok(tokenizer)
}

/// Returns the documents as the trainer takes them.
///
/// # Errors
/// When the tokenizer lacks a control token.
pub fn encode(documents: &[Document], tokenizer: &Tokenizer, context: usize) -> anyhow::Result<Vec<Example>> {
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
                if matches!(control, Control::Label(_)) {
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
