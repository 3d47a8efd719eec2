//! `chatdlm eval`: one file for each thing that is measured.

mod activity;
mod code;
mod fixtures;
mod knowledge;
mod listwise;
mod measure;
mod model;
mod quotes;
mod redaction;
mod steps;

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;

use crate::corpus::service::Company;
use crate::corpus::service::Split;
use crate::corpus::service::companies;
use crate::knowledge::Knowledge;
use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::index::Edition;

/// The tenant of a measurement.
const TENANT: &str = "eval";

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Eval {
    /// Runs every case of reference fixture folders and exits 0 only if all reproduce.
    Fixtures(fixtures::Args),
    /// Measures recall and precision of redaction on labelled calls.
    Redaction(redaction::Args),
    /// Measures where speech is heard on recordings with marked speech.
    Activity(activity::Args),
    /// Measures card hit rates on labelled calls and queries.
    Knowledge(knowledge::Args),
    /// Measures how well the facts of the real answers are found among the cards' sentences, and fits the weights.
    Quotes(quotes::Args),
    /// Measures denoising passes against their prediction and against a fixed schedule.
    Steps(steps::Args),
    /// Measures language, emotion, drafts, infill, structure, steps, cards and summaries beside baselines.
    Model(model::Args),
    /// Measures pass@1 of HumanEval: functions that the model completes, run against their tests.
    #[command(name = "humaneval")]
    Programs(code::HumanEvalArgs),
    /// Measures pass@1 of HumanEval's infilling form: holes in functions that the model fills.
    Infilling(code::InfillingArgs),
}

/// Runs the measurement.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(eval: Eval) -> anyhow::Result<()> {
    match eval {
        Eval::Fixtures(args) => fixtures::run(args),
        Eval::Redaction(args) => redaction::run(args),
        Eval::Activity(args) => activity::run(args),
        Eval::Knowledge(args) => knowledge::run(args),
        Eval::Quotes(args) => quotes::run(args),
        Eval::Steps(args) => steps::run(args),
        Eval::Model(args) => model::run(args),
        Eval::Programs(args) => code::run_humaneval(args),
        Eval::Infilling(args) => code::run_infilling(args),
    }
}

fn split(text: &str) -> Result<Split, String> {
    match text {
        "train" => Ok(Split::Train),
        "dev" => Ok(Split::Dev),
        _ => Err("must be train or dev".to_owned()),
    }
}

/// Returns the company folders among the given ones and directly below them.
fn find_companies(folders: &[PathBuf]) -> anyhow::Result<Vec<Company>> {
    let has_calls =
        |folder: &Path| folder.join("calls.dev.jsonl").exists() || folder.join("calls.train.jsonl").exists();
    let mut found = Vec::new();
    for folder in folders {
        if has_calls(folder) {
            found.push(Company::new(folder.clone()));
        } else {
            found.extend(companies(folder).with_context(|| format!("cannot read {}", folder.display()))?);
        }
    }
    Ok(found)
}

/// Indexes a company's articles under its base's name.
fn open_base(knowledge: &Knowledge, company: &Company) -> anyhow::Result<()> {
    let edition = Edition {
        tenant: TENANT.to_owned(),
        base: company.base.clone(),
        version: 1,
        digest: "eval".to_owned(),
    };
    knowledge.activate(knowledge.prepare(edition, || articles(company))?);
    Ok(())
}

/// Reads a company's articles for an index.
fn articles(company: &Company) -> anyhow::Result<Vec<Article>> {
    let articles = company.articles()?.into_iter().map(|article| Article {
        id: article.id,
        title: article.title,
        category: Some(article.category),
        updated: None,
        format: Format::Markdown,
        body: article.text,
    });
    Ok(articles.collect())
}
