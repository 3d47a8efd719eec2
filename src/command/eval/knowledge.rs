//! `chatdlm eval knowledge`: how well the cards answer labelled calls and queries.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;

use crate::command::eval::TENANT;
use crate::command::eval::open_base;
use crate::command::eval::split;
use crate::corpus::dialogue::Dialogue;
use crate::corpus::service::Company;
use crate::corpus::service::Split;
use crate::event::Card;
use crate::event::Speaker;
use crate::knowledge::CardDeck;
use crate::knowledge::Knowledge;
use crate::knowledge::Question;
use crate::knowledge::deck::MOST_CARDS;
use crate::knowledge::need;
use crate::knowledge::search::SHOW_BESIDE;
use crate::knowledge::search::SHOW_FROM;
use crate::prompt::Turn;

/// How many articles are looked at for the reciprocal rank.
const DEPTH: usize = 20;

/// Measures card hit rates on labelled calls and queries.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Company folders: articles/, calls.{split}.jsonl, queries.{split}.jsonl.
    #[arg(required = true)]
    companies: Vec<PathBuf>,
    /// Which labelled part to measure on: train or dev.
    #[arg(long, default_value = "dev", value_parser = split)]
    split: Split,
    /// Prints the figures as one JSON object.
    #[arg(long)]
    json: bool,
    /// Prints what every threshold would show.
    #[arg(long)]
    sweep: bool,
    /// Fits the weights that say whether a turn needs a card, and prints them.
    #[arg(long)]
    fit: bool,
}

/// One search with its right answers; none where no card is needed.
pub(super) struct Trial {
    company: String,
    /// The number of its call, or of its query, among those of its company.
    pub unit: usize,
    /// `clean` or `asr` of calls; `queries`.
    pub kind: &'static str,
    /// What was asked: the turns up to the customer's, or the query.
    pub turns: Vec<Turn>,
    /// The articles that answer it.
    pub relevant: Vec<String>,
    /// What was found, best first, however weak.
    pub found: Vec<Card>,
    /// What the chance of needing a card is computed from; calls only.
    features: Vec<f32>,
    /// Whether the deck of the call would push something new.
    is_pushed: bool,
}

/// Figures over some trials. The ranking counts whatever the score; what is shown counts from the
/// threshold on.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// Turns or queries that need a card.
    needed: usize,
    hit_at_1: f32,
    hit_at_3: f32,
    mrr: f32,
    /// Of those that need one: a right card is among those shown.
    shown_right: f32,
    /// Of those that need one: cards are shown and none is right.
    shown_wrong: f32,
    /// Turns that need no card.
    unneeded: usize,
    /// Of those: a card is found above the threshold.
    false_show: f32,
    /// Of those: a card is pushed that the agent did not have yet.
    false_push: f32,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("chatdlm-eval-{:016x}", rand::random::<u64>()));
    let trials = trials(&args, &Knowledge::new(&folder));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let trials = trials?;
    if args.sweep {
        print_sweep(&trials);
        return Ok(());
    }
    if args.fit {
        print_fit(&trials);
        return Ok(());
    }
    let mut groups: BTreeMap<String, Vec<&Trial>> = BTreeMap::new();
    for trial in &trials {
        let part = if trial.kind == "queries" { "queries" } else { "calls" };
        groups.entry(format!("{part} all")).or_default().push(trial);
        groups.entry(format!("{part} {}", trial.company)).or_default().push(trial);
        if part == "calls" {
            groups.entry(format!("calls style {}", trial.kind)).or_default().push(trial);
        }
    }
    let figures: BTreeMap<String, Figures> =
        groups.into_iter().map(|(name, trials)| (name, figures(&trials, SHOW_FROM))).collect();
    if args.json {
        println!("{}", serde_json::json!({ "threshold": SHOW_FROM, "groups": figures }));
        return Ok(());
    }
    println!("threshold {SHOW_FROM}");
    println!(
        "{:<22} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>8} {:>6} {:>6}",
        "", "needed", "hit@1", "hit@3", "mrr", "right", "wrong", "unneeded", "show", "push"
    );
    for (name, f) in figures {
        println!(
            "{name:<22} {:>6} {:>6.3} {:>6.3} {:>6.3} {:>6.3} {:>6.3} {:>8} {:>6.3} {:>6.3}",
            f.needed,
            f.hit_at_1,
            f.hit_at_3,
            f.mrr,
            f.shown_right,
            f.shown_wrong,
            f.unneeded,
            f.false_show,
            f.false_push
        );
    }
    Ok(())
}

fn trials(args: &Args, knowledge: &Knowledge) -> anyhow::Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for folder in &args.companies {
        let company = Company::new(folder.clone());
        open_base(knowledge, &company)?;
        trials.extend(company_trials(knowledge, &company, args.split)?);
    }
    Ok(trials)
}

/// Searches an open base for every turn of the customers and every query.
pub(super) fn company_trials(
    knowledge: &Knowledge,
    company: &Company,
    split: Split,
) -> anyhow::Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for (unit, call) in company.calls(split)?.iter().enumerate() {
        call_trials(knowledge, &company.base, unit, call, &mut trials)?;
    }
    for (unit, query) in company.queries(split)?.into_iter().enumerate() {
        let turns = vec![Turn { speaker: Speaker::Customer, text: query.text }];
        let found = knowledge.find(TENANT, &question(&company.base, turns.clone()))?;
        trials.push(Trial {
            company: company.base.clone(),
            unit,
            kind: "queries",
            turns,
            relevant: query.relevant,
            found,
            features: Vec::new(),
            is_pushed: false,
        });
    }
    Ok(trials)
}

/// Asks at every turn of the customer, as a running call does.
fn call_trials(
    knowledge: &Knowledge,
    base: &str,
    unit: usize,
    call: &Dialogue,
    trials: &mut Vec<Trial>,
) -> anyhow::Result<()> {
    let kind = if call.style.as_deref() == Some("asr") { "asr" } else { "clean" };
    let mut deck = CardDeck::default();
    let mut turns = Vec::new();
    for turn in &call.turns {
        let Some(speaker) = turn.speaker else { continue };
        turns.push(Turn { speaker, text: turn.text.clone() });
        if speaker == Speaker::Agent {
            continue;
        }
        let question = question(base, turns.clone());
        let found = knowledge.find(TENANT, &question)?;
        let is_pushed = !deck.observe(knowledge.search(TENANT, &question)?).is_empty();
        let features = knowledge.need_features(TENANT, base, &turns)?;
        let (company, relevant) = (base.to_owned(), turn.articles.clone());
        let turns = turns.clone();
        trials.push(Trial { company, unit, kind, turns, relevant, found, features, is_pushed });
    }
    Ok(())
}

fn question(base: &str, turns: Vec<Turn>) -> Question {
    Question { turns, bases: vec![base.to_owned()], limit: DEPTH }
}

fn figures(trials: &[&Trial], threshold: f32) -> Figures {
    let mut figures = Figures::default();
    for trial in trials {
        let is_right = |card: &Card| trial.relevant.contains(&card.article);
        let best = trial.found.first().map_or(0.0, |card| card.score);
        let least = if best < threshold { f32::INFINITY } else { SHOW_BESIDE * best };
        let shown: Vec<&Card> =
            trial.found.iter().take(MOST_CARDS).filter(|card| card.score >= least).collect();
        if trial.relevant.is_empty() {
            figures.unneeded += 1;
            figures.false_show += f32::from(u8::from(!shown.is_empty()));
            figures.false_push += f32::from(u8::from(trial.is_pushed));
            continue;
        }
        figures.needed += 1;
        if let Some(rank) = trial.found.iter().position(is_right) {
            figures.hit_at_1 += f32::from(u8::from(rank == 0));
            figures.hit_at_3 += f32::from(u8::from(rank < 3));
            figures.mrr += 1.0 / (rank + 1) as f32;
        }
        let has_right = shown.iter().any(|card| is_right(card));
        figures.shown_right += f32::from(u8::from(has_right));
        figures.shown_wrong += f32::from(u8::from(!has_right && !shown.is_empty()));
    }
    let needed = figures.needed.max(1) as f32;
    let unneeded = figures.unneeded.max(1) as f32;
    for value in [
        &mut figures.hit_at_1,
        &mut figures.hit_at_3,
        &mut figures.mrr,
        &mut figures.shown_right,
        &mut figures.shown_wrong,
    ] {
        *value /= needed;
    }
    figures.false_show /= unneeded;
    figures.false_push /= unneeded;
    figures
}

/// Prints, for thresholds between the lowest and the highest best score, what calls would show.
fn print_sweep(trials: &[Trial]) {
    let calls: Vec<&Trial> = trials.iter().filter(|trial| trial.kind != "queries").collect();
    let mut scores: Vec<f32> =
        calls.iter().filter_map(|trial| trial.found.first()).map(|card| card.score).collect();
    scores.sort_by(f32::total_cmp);
    println!("{:>9} {:>6} {:>6} {:>6}", "threshold", "right", "wrong", "show");
    for step in 0..20 {
        let Some(&threshold) = scores.get(scores.len() * step / 20) else { continue };
        let figures = figures(&calls, threshold);
        println!(
            "{threshold:>9.3} {:>6.3} {:>6.3} {:>6.3}",
            figures.shown_right, figures.shown_wrong, figures.false_show
        );
    }
}

/// Fits logistic weights by AdaGrad (Duchi et al., JMLR 12, 2011) and prints them as the tables of
/// [`need`]. Words are held close to nothing, so that rare ones do not learn a company.
fn print_fit(trials: &[Trial]) {
    const ROUNDS: usize = 30;
    const RATE: f32 = 0.2;
    const WORD_DECAY: f32 = 0.1;
    const SHAPE_DECAY: f32 = 0.001;
    let rows: Vec<&Trial> = trials.iter().filter(|trial| !trial.features.is_empty()).collect();
    let mut weights = vec![0.0f32; need::FEATURES];
    let mut squares = vec![0.01f32; need::FEATURES];
    for round in 0..ROUNDS {
        // Rows of one call are alike; a stride that shares no factor with most lengths mixes them.
        for step in 0..rows.len() {
            let trial = rows[(step * 7919 + round * 31) % rows.len()];
            let sum: f32 =
                trial.features.iter().zip(&weights).map(|(feature, weight)| feature * weight).sum();
            let error = 1.0 / (1.0 + (-sum).exp()) - f32::from(u8::from(!trial.relevant.is_empty()));
            for (at, &feature) in trial.features.iter().enumerate().filter(|(_, feature)| **feature != 0.0) {
                let decay = if at < need::SHAPE.len() { SHAPE_DECAY } else { WORD_DECAY };
                let slope = error * feature + decay * weights[at];
                squares[at] += slope * slope;
                weights[at] -= RATE * slope / squares[at].sqrt();
            }
        }
    }
    for ((name, _), weight) in need::SHAPE.iter().chain(&need::WORDS).zip(weights) {
        println!("    (\"{name}\", {weight:.2}),");
    }
}
