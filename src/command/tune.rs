//! `chatdlm train --tune`: a company's articles, calls and queries to a small adapter beside its base model.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;

use crate::command::train;
use crate::config::ModelConfig;
use crate::corpus::dialogue::Dialogue;
use crate::corpus::questions;
use crate::corpus::service;
use crate::corpus::service::Article;
use crate::corpus::service::Company;
use crate::corpus::service::Split;
use crate::corpus::service::or_none;
use crate::corpus::tasks;
use crate::corpus::tasks::Document;
use crate::engine::adapter::AdapterFile;
use crate::engine::adapter::Kind;
use crate::engine::tokenizer::Tokenizer;
use crate::engine::train::checkpoint::read_network;
use crate::engine::train::collective::Collective;
use crate::engine::train::network::Network;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Objective;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Schedule;
use crate::engine::train::trainer::dev_loss;
use crate::engine::train::tune;
use crate::engine::train::tune::TuneOptions;
use crate::engine::weights::Weights;
use crate::knowledge::import::read_file;

/// Steps of a tuning: a few minutes on two cores with the bundled model.
const STEPS: u64 = 120;
/// Steps in which the rate warms up.
const WARM_UP: u64 = 10;
/// The highest learning rates: the best of those tried on one company, see docs/log.md.
const RATE_OF_EXPERTS: f32 = 1e-3;
const RATE_OF_LOW_RANK: f32 = 5e-4;
/// The most documents that a loss is measured on.
const MOST_MEASURED: usize = 300;

/// What moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tuned {
    /// Every number of the routed experts, and the routers.
    Experts,
    /// A change of low rank of each matrix of an expert, and the routers.
    LowRank,
}

/// What only tuning takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Tuning")]
pub struct TuneArgs {
    /// Tunes routed experts and routers of --from to a company; the rest stays as it is.
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = [
        "data", "service_repeat", "hidden", "layers", "head", "experts", "expert_width", "vocabulary", "block",
        "checkpoint_every", "log_every", "objective", "recompute", "zero",
    ])]
    pub(super) tune: Option<Tuned>,
    /// Folders or files of articles alone (md, txt, html, csv, json, zip).
    #[arg(long, value_name = "PATH", num_args = 1.., requires = "tune")]
    knowledge: Vec<PathBuf>,
    /// Rank of the change with --tune low-rank [default: 8].
    #[arg(long, requires = "tune", value_parser = clap::value_parser!(u16).range(1..=256))]
    rank: Option<u16>,
    /// Other companies' folders to go on with, so that little of them is lost.
    #[arg(long, value_name = "DIR", num_args = 1.., requires = "tune")]
    replay: Vec<PathBuf>,
    /// The share of tokens that is theirs.
    #[arg(long, default_value_t = 0.25, requires = "replay", value_parser = share)]
    replay_share: f64,
    /// What the adapter is called; the companies' folders when missing.
    #[arg(long, requires = "tune")]
    name: Option<String>,
    /// Prints one JSON object at the end.
    #[arg(long, requires = "tune")]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=0.9).contains(&share) { Ok(share) } else { Err("must be from 0 to 0.9".to_owned()) }
}

/// Some companies' documents: to learn from, and to measure on.
#[derive(Default)]
struct Material {
    names: Vec<String>,
    train: Vec<Document>,
    dev: Vec<Document>,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub(super) fn run(args: &train::Args, kind: Tuned) -> anyhow::Result<()> {
    let tuning = &args.tune;
    ensure!(
        !args.service.is_empty() || !tuning.knowledge.is_empty(),
        "give --service, --knowledge or both: there is nothing to tune to"
    );
    ensure!(kind == Tuned::LowRank || tuning.rank.is_none(), "--rank goes with --tune low-rank");
    ensure!(!args.out.is_dir(), "--out {} is a folder: name the adapter's file", args.out.display());
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()
        .context("cannot start the threads")?;
    let folder = ModelConfig { dir: args.from.clone(), ..ModelConfig::default() }.folder();
    let read =
        || read_network(&folder).with_context(|| format!("cannot read the model {}", folder.display()));
    let tokenizer = Tokenizer::read(&folder)?;

    let mut rng = StdRng::seed_from_u64(args.seed);
    let mut own = Material::default();
    for company in companies(&args.service)? {
        own.add_company(&company, &mut rng)?;
    }
    for path in &tuning.knowledge {
        own.add_articles(path, &mut rng)?;
    }
    let mut others = Material::default();
    for company in companies(&tuning.replay)? {
        ensure!(!own.names.contains(&company.base), "{} is tuned to and in --replay", company.base);
        others.add_company(&company, &mut rng)?;
    }
    let examples = train::encode(&own.train, &tokenizer, args.context)?;
    let own_count = examples.len();
    let step = own_count.div_ceil(MOST_MEASURED).max(1);
    let learned: Vec<Example> = examples.iter().step_by(step).cloned().collect();
    let replay = train::encode(&others.train, &tokenizer, args.context)?;
    let examples = mixed(examples, replay, tuning.replay_share, &mut rng);
    let dev = measured(own.dev, &tokenizer, args.context, &mut rng)?;
    let others_dev = measured(others.dev, &tokenizer, args.context, &mut rng)?;
    eprintln!(
        "{own_count} examples of {}, {} of others",
        own.names.join(" and "),
        examples.len() - own_count
    );

    let mut base = read()?;
    let losses =
        |network: &mut Network| [&learned, &dev, &others_dev].map(|examples| loss(network, examples));
    eprintln!("measuring the base on {} examples", learned.len() + dev.len() + others_dev.len());
    let before = losses(&mut base);
    let started = Instant::now();
    let options = options(args, kind);
    let (tuned, tokens) = learn(base, &examples, &options)?;
    let name = tuning.name.clone().unwrap_or_else(|| own.names.join("+"));
    let fingerprint = Weights::open(&folder)?.fingerprint();
    let file = AdapterFile { name, kind: options.kind, base: fingerprint, deltas: tuned.deltas() };
    drop(tuned);
    let bytes = file.write(&args.out)?;
    // What the file holds is measured, not what was rounded to make it.
    let mut after = read()?;
    tune::apply(&AdapterFile::read(&args.out)?, &mut after)?;
    let after = losses(&mut after);
    if tuning.json {
        let report = json!({
            "file": args.out.display().to_string(), "bytes": bytes, "name": file.name, "kind": file.kind.to_string(),
            "base": file.base, "tensors": file.deltas.len(), "examples": own_count,
            "replay_examples": examples.len() - own_count, "tokens": tokens,
            "seconds": started.elapsed().as_secs_f64().round(),
            "train_loss": {"before": before[0], "after": after[0]},
            "dev_loss": {"before": before[1], "after": after[1]},
            "replay_dev_loss": {"before": before[2], "after": after[2]},
        });
        println!("{report}");
    } else {
        println!("{}: {} ({}), {:.1} MB", args.out.display(), file.name, file.kind, bytes as f64 / 1e6);
        let names = ["what it learned from", "its dev calls", "the others' dev calls"];
        for ((of, before), after) in names.iter().zip(before).zip(after) {
            if let (Some(before), Some(after)) = (before, after) {
                println!("loss on {of}: {before:.4} before, {after:.4} after");
            }
        }
    }
    Ok(())
}

fn options(args: &train::Args, kind: Tuned) -> TuneOptions {
    let steps = args.steps.unwrap_or(STEPS);
    let (kind, rate) = match kind {
        Tuned::Experts => (Kind::Experts, RATE_OF_EXPERTS),
        Tuned::LowRank => (Kind::LowRank { rank: args.tune.rank.unwrap_or(8).into() }, RATE_OF_LOW_RANK),
    };
    TuneOptions {
        device: args.device,
        kind,
        batch_tokens: args.batch_tokens,
        schedule: Schedule {
            warm_up: args.warm_up.unwrap_or(WARM_UP),
            decay: args.decay.unwrap_or(steps / 2),
            steps,
        },
        optimizer: OptimizerConfig {
            learning_rate: args.learning_rate.unwrap_or(rate),
            precision: args.precision,
            ..OptimizerConfig::default()
        },
        seed: args.seed,
    }
}

/// Tunes with a progress bar; a signal ends it early, with what was learned so far.
fn learn(base: Network, examples: &[Example], options: &TuneOptions) -> anyhow::Result<(tune::Tuning, u64)> {
    let stop = Arc::new(AtomicBool::new(false));
    train::stop_on_signal(Arc::clone(&stop))?;
    let bar = train::step_bar(options.schedule.steps)?;
    let mut tokens = 0;
    let tuned = tune::tune(base, examples, options, |progress| {
        bar.set_position(progress.step);
        bar.set_message(format!("loss {:.3}, {:.0} tokens/s", progress.loss, progress.tokens_per_s));
        tokens = progress.tokens;
        !stop.load(Ordering::Relaxed)
    })?;
    bar.finish();
    Ok((tuned, tokens))
}

impl Material {
    /// Adds what a company's folder has: articles with questions made of them, and labelled calls and queries
    /// where there are any.
    fn add_company(&mut self, company: &Company, rng: &mut StdRng) -> anyhow::Result<()> {
        let articles = company.articles()?;
        let calls = |split| or_none(company.calls(split));
        self.train.extend(questions::article_documents(&articles, rng));
        self.train.extend(tasks::documents_of_calls(&articles, &calls(Split::Train)?, rng));
        let queries = or_none(company.queries(Split::Train))?;
        self.train.extend(questions::query_documents(&articles, &queries, rng));
        let dev: Vec<Dialogue> = calls(Split::Dev)?;
        self.dev.extend(tasks::documents_of_calls(&articles, &dev, rng));
        self.names.push(company.base.clone());
        Ok(())
    }

    /// Adds a knowledge base without calls, as files of any form that the service imports.
    fn add_articles(&mut self, path: &Path, rng: &mut StdRng) -> anyhow::Result<()> {
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            let articles = path.join("articles");
            let folder = if articles.is_dir() { articles } else { path.to_owned() };
            let entries =
                std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
            files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
            files.retain(|file| file.is_file());
            files.sort();
        }
        let mut articles = Vec::new();
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            for outcome in read_file(&name, &bytes) {
                let read = outcome.result.with_context(|| format!("cannot read {}", outcome.file))?;
                articles.extend(read.into_iter().map(|article| Article {
                    id: article.id,
                    title: article.title,
                    category: article.category.unwrap_or_default(),
                    updated: article.updated.unwrap_or_default(),
                    text: article.body,
                }));
            }
        }
        ensure!(!articles.is_empty(), "{} holds no article", path.display());
        self.train.extend(questions::article_documents(&articles, rng));
        let name =
            path.canonicalize().ok().and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        self.names.push(name.unwrap_or_else(|| "knowledge".to_owned()));
        Ok(())
    }
}

/// Returns the companies of folders that are a company's or hold several.
fn companies(folders: &[PathBuf]) -> anyhow::Result<Vec<Company>> {
    let mut found = Vec::new();
    for folder in folders {
        if folder.join("articles").is_dir() {
            let folder =
                folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
            found.push(Company::new(folder));
            continue;
        }
        let inside = service::companies(folder)?;
        ensure!(!inside.is_empty(), "{} has no articles, and no company's folder in it", folder.display());
        found.extend(inside);
    }
    Ok(found)
}

/// Adds as many of the others' examples as have `share` of all tokens.
fn mixed(own: Vec<Example>, mut others: Vec<Example>, share: f64, rng: &mut StdRng) -> Vec<Example> {
    let tokens: usize = own.iter().map(|example| example.tokens.len()).sum();
    let mut left = (tokens as f64 * share / (1.0 - share)) as usize;
    let mut all = own;
    others.shuffle(rng);
    for example in others {
        if example.tokens.len() > left {
            break;
        }
        left -= example.tokens.len();
        all.push(example);
    }
    all
}

/// Returns some documents to measure on.
fn measured(
    mut documents: Vec<Document>,
    tokenizer: &Tokenizer,
    context: usize,
    rng: &mut StdRng,
) -> anyhow::Result<Vec<Example>> {
    documents.shuffle(rng);
    documents.truncate(MOST_MEASURED);
    train::encode(&documents, tokenizer, context)
}

fn loss(network: &mut Network, examples: &[Example]) -> Option<f64> {
    let noising = tune::noising(network);
    let loss = |network| dev_loss(network, Objective::BlockDiffusion, examples, noising, &Collective::Alone);
    (!examples.is_empty()).then(|| loss(network))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        lengths.iter().map(|length| Example { tokens: vec![5; *length], labels: vec![] }).collect()
    }

    #[test]
    fn of_the_others_as_much_is_mixed_in_as_was_asked_for() {
        let mut rng = StdRng::seed_from_u64(1);
        let tokens = |all: &[Example]| all.iter().map(|e| e.tokens.len()).sum::<usize>();
        let all = mixed(examples(&[100; 30]), examples(&[50; 100]), 0.25, &mut rng);
        assert_eq!(tokens(&all), 4000);
        let all = mixed(examples(&[100; 30]), examples(&[50; 100]), 0.0, &mut rng);
        assert_eq!(tokens(&all), 3000);
        let all = mixed(examples(&[100; 30]), examples(&[50; 3]), 0.9, &mut rng);
        assert_eq!(tokens(&all), 3150);
    }

    #[test]
    fn a_company_without_calls_is_its_articles() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("tel");
        std::fs::create_dir_all(folder.join("articles")).unwrap();
        std::fs::write(folder.join("articles/a.md"), "# Fees\n\nA paper bill costs 2 euros a month.")
            .unwrap();
        for folders in [[folder.clone()], [root.path().to_owned()]] {
            let found = companies(&folders).unwrap();
            let mut material = Material::default();
            material.add_company(&found[0], &mut StdRng::seed_from_u64(1)).unwrap();
            assert_eq!(material.names, ["tel"]);
            assert!(material.train.len() > 2 && material.dev.is_empty());
        }
        let mut material = Material::default();
        material.add_articles(&folder, &mut StdRng::seed_from_u64(1)).unwrap();
        assert!(material.train.len() > 2);
        assert!(companies(&[folder.join("articles")]).is_err(), "no company is in there");
    }
}
