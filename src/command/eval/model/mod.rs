//! `chatdlm eval model`: what a checkpoint knows, on labelled calls and rows that it did not learn from.
//!
//! One file for each part of the table; each figure stands beside a baseline and has a 95 % interval.
//! [`data`] says what is measured and what trains the baselines, [`report`] prints. A checkpoint that
//! lacks what a part needs (the control tokens of our prompts, a form that the trainer knows) fails in
//! that part only. docs/evaluation.md says what each measure is.

mod baseline;
mod data;
mod drafts;
mod emotion;
mod infill;
mod knowledge;
mod language;
mod relevance;
mod report;
mod steps;
mod structure;
mod summary;

use std::future::Future;
use std::path::PathBuf;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::command::eval::model::data::Data;
use crate::command::eval::model::report::Parts;
use crate::command::eval::model::report::Section;
use crate::command::eval::split;
use crate::config::ModelConfig;
use crate::corpus::service::Split;
use crate::engine::handle::Engine;
use crate::prompt::Control;

/// Requests that are under way at once.
const AT_ONCE: usize = 16;

/// Measures language, emotion, drafts, infill, structure, steps, cards and summaries beside baselines.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Company folders (articles/, calls.{split}.jsonl, queries.{split}.jsonl), or folders of such folders.
    #[arg(required_unless_present = "data")]
    companies: Vec<PathBuf>,
    /// The checkpoint's folder; the bundled model when missing.
    #[arg(long)]
    model: Option<PathBuf>,
    /// A tuned form of the model, made by `chatdlm train --tune`.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// A checkpoint of `chatdlm train --objective autoregressive` to compare the bits per byte with.
    #[arg(long, value_name = "DIR")]
    autoregressive: Option<PathBuf>,
    /// Which labelled part of the companies to measure on: train or dev.
    #[arg(long, default_value = "dev", value_parser = split)]
    split: Split,
    /// Files of rows (.jsonl, .jsonl.zst) to measure language and emotion on, with emotion_labels.json
    /// beside them.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Files of rows that train the baselines; one of the same name as a measured file trains the
    /// classifier of that set, which is then measured in whole.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    train_data: Vec<PathBuf>,
    /// Company folders whose train calls train the baselines; the measured ones when missing.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    train: Vec<PathBuf>,
    /// Measures these parts only.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// The most drafts of each kind to write.
    #[arg(long, default_value_t = 300)]
    drafts: usize,
    /// The most labels of each file to read.
    #[arg(long, default_value_t = 2000)]
    labels: usize,
    /// The most conversations of each file to measure the language on.
    #[arg(long, default_value_t = 200)]
    dialogues: usize,
    /// The most spans of each file to fill.
    #[arg(long, default_value_t = 400)]
    spans: usize,
    /// The most questions to compare schedules of passes on.
    #[arg(long, default_value_t = 120)]
    prompts: usize,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Bits per byte.
    Language,
    /// Labels of the customer's turns.
    Emotion,
    /// Answers to questions.
    Drafts,
    /// Spans with both sides seen.
    Infill,
    /// JSON by schema.
    Structure,
    /// Passes of a block.
    Steps,
    /// Cards.
    Knowledge,
    /// Summaries and dispositions.
    Summary,
}

impl Part {
    const ALL: [Part; 8] = [
        Part::Language,
        Part::Emotion,
        Part::Drafts,
        Part::Infill,
        Part::Structure,
        Part::Steps,
        Part::Knowledge,
        Part::Summary,
    ];

    fn name(self) -> &'static str {
        match self {
            Part::Language => "language",
            Part::Emotion => "emotion",
            Part::Drafts => "drafts",
            Part::Infill => "infill",
            Part::Structure => "structure",
            Part::Steps => "steps",
            Part::Knowledge => "knowledge",
            Part::Summary => "summary",
        }
    }

    fn measure(self, bench: &Bench) -> anyhow::Result<Section> {
        match self {
            Part::Language => language::measure(bench),
            Part::Emotion => emotion::measure(bench),
            Part::Drafts => drafts::measure(bench),
            Part::Infill => infill::measure(bench),
            Part::Structure => structure::measure(bench),
            Part::Steps => steps::measure(bench),
            Part::Knowledge => knowledge::measure(bench),
            Part::Summary => summary::measure(bench),
        }
    }
}

/// What every part needs.
struct Bench {
    args: Args,
    folder: PathBuf,
    engine: Engine,
    runtime: Runtime,
    data: Data,
}

impl Bench {
    /// Asks about each item, some at once, and returns the answers in their order.
    fn ask<'a, T, R, F: Future<Output = anyhow::Result<R>>>(
        &self,
        what: &str,
        items: &'a [T],
        ask: impl Fn(&'a T) -> F,
    ) -> anyhow::Result<Vec<R>> {
        let bar = progress(what, items.len())?;
        let answers = futures_util::stream::iter(items.iter().map(ask)).buffered(AT_ONCE);
        let answers = answers.inspect(|_| bar.inc(1)).try_collect();
        let answers = self.runtime.block_on(answers);
        bar.finish_and_clear();
        answers
    }

    /// Returns the control tokens that a text may not hold, whichever of them the vocabulary has.
    fn banned(&self, allowed: &[Control]) -> Vec<u32> {
        let controls = Control::ALL.into_iter().filter(|control| !allowed.contains(control));
        controls.filter_map(|control| self.engine.tokenizer().control(control.token()).ok()).collect()
    }
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let data = data::load(&args)?;
    let folder = ModelConfig { dir: args.model.clone(), ..ModelConfig::default() }.folder();
    let mut engine = Engine::start(&folder, Default::default())?;
    if let Some(file) = &args.adapter {
        engine = engine.tuned(file)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let bench = Bench { args, folder, engine, runtime, data };
    let is_asked = |part: &Part| bench.args.only.is_empty() || bench.args.only.contains(part);
    let parts: Parts = Part::ALL
        .into_iter()
        .filter(is_asked)
        .map(|part| (part.name(), part.measure(&bench).map_err(|error| format!("{error:#}"))))
        .collect();
    if bench.args.json {
        let sets: serde_json::Map<_, _> =
            bench.data.sets.iter().map(|set| (set.name.clone(), set.json())).collect();
        let report = json!({
            "model": bench.folder.display().to_string(), "adapter": bench.engine.adapter().map(|a| &a.name),
            "sets": sets, "parts": report::json(&parts),
        });
        println!("{report}");
    } else {
        println!("{}", report::table(&parts));
    }
    let failed = parts.iter().filter(|(_, result)| result.is_err()).count();
    anyhow::ensure!(failed == 0, "{failed} of {} parts could not be measured, see above", parts.len());
    Ok(())
}

/// Returns a bar that goes away when it is done.
fn progress(what: &str, length: usize) -> anyhow::Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{msg:28} {bar:30} {pos}/{len}, {eta} left").context("progress bar")?;
    Ok(ProgressBar::new(length as u64).with_style(style).with_message(what.to_owned()))
}

/// Returns at most so many items, spread evenly over all.
fn spread<T>(items: Vec<T>, most: usize) -> Vec<T> {
    let step = items.len().div_ceil(most.max(1)).max(1);
    items.into_iter().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_spread_over_all() {
        assert_eq!(spread((0..10).collect(), 5), [0, 2, 4, 6, 8]);
        assert_eq!(spread((0..10).collect(), 4), [0, 3, 6, 9]);
        assert_eq!(spread((0..3).collect(), 100), [0, 1, 2]);
    }
}
