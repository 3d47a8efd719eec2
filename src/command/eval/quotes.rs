//! `chatdlm eval quotes`: where the weights of `assist/quote/features` rank the facts of the real answers, and the
//! fit that makes those weights.
//!
//! A question of a customer has two lists of sentences: those of the articles that answer it, as if no other had been
//! found ("right"), and those that a call would draft from ("found"). Only the second has sentences of wrong
//! articles, so both are fitted on together. A sentence's target is the share of the real answer's facts and words
//! that it holds; `listwise` fits. Not measured here: whole drafts, which `chatdlm eval model` does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::slice;

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use crate::assist::quote;
use crate::assist::quote::features;
use crate::assist::quote::features::WEIGHTS;
use crate::command::eval::TENANT;
use crate::command::eval::find_companies;
use crate::command::eval::listwise::List;
use crate::command::eval::listwise::Vector;
use crate::command::eval::listwise::dot;
use crate::command::eval::listwise::fit;
use crate::command::eval::measure::facts_share;
use crate::command::eval::open_base;
use crate::command::eval::split;
use crate::corpus::dialogue::DialogueTurn;
use crate::corpus::service::Company;
use crate::corpus::service::Split;
use crate::corpus::tasks::redacted_turns;
use crate::event::Card;
use crate::knowledge::Knowledge;
use crate::knowledge::Question;
use crate::knowledge::deck::MOST_CARDS;
use crate::knowledge::search::DRAFT_FROM;
use crate::prompt::Turn;

/// How many of the best sentences are looked into for facts.
const DEPTHS: [usize; 3] = [1, 3, 5];
/// How much of a target the facts make; the other words of the answer make the rest.
const FACTS_PART: f64 = 0.5;

/// Measures where the facts of the real answers stand among the sentences, and fits the weights.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Company folders with calls.{train,dev}.jsonl, or folders of such folders.
    #[arg(required = true)]
    companies: Vec<PathBuf>,
    /// Which labelled part to measure on, or to fit on: train or dev.
    #[arg(long, default_value = "dev", value_parser = split)]
    split: Split,
    /// Fits the weights and prints them; measures each company with those that are fitted on the others.
    #[arg(long)]
    fit: bool,
    /// Prints the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

/// A question's sentences, and what was answered.
struct Asked {
    /// The company's place among those given.
    company: usize,
    /// "right" or "found": the cards that the sentences are of.
    kind: &'static str,
    list: List,
    texts: Vec<String>,
    /// The places of the sentences as a reader of the articles meets them.
    reading: Vec<usize>,
    /// What the agent's answer states.
    facts: Vec<String>,
}

/// Figures over some questions.
#[derive(Debug, Default, Serialize)]
struct Figures {
    questions: usize,
    /// Those of which a sentence holds something of the answer: the others have no cross-entropy.
    lists: usize,
    cross_entropy: f64,
    /// The least that it could be: the targets' own entropy.
    entropy: f64,
    /// The share of the facts that stand in the best sentences, as many as [`DEPTHS`] says; none without cards.
    facts: [f64; 3],
    /// The same of the first sentences in the order of the articles.
    facts_in_order: [f64; 3],
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let companies = find_companies(&args.companies)?;
    let enough = !args.fit || companies.len() > 1;
    anyhow::ensure!(enough, "a fit needs two or more companies: each is measured with the others' weights");
    let asked = questions(&companies, args.split)?;
    anyhow::ensure!(
        !asked.is_empty(),
        "the folders have no questions of that split that are answered with facts"
    );
    let names = WEIGHTS.map(|(name, _)| name);
    let present = WEIGHTS.map(|(_, weight)| f64::from(weight));
    let mut report = BTreeMap::new();
    report.insert("present weights", groups(&companies, &asked, &vec![present; companies.len()]));
    let mut fitted = None;
    if args.fit {
        let without: Vec<Vector> =
            (0..companies.len()).map(|place| fit(&lists(&asked, |company| company != place))).collect();
        report.insert("weights of the other companies", groups(&companies, &asked, &without));
        fitted = Some(fit(&lists(&asked, |_| true)));
    }
    if args.json {
        let fitted = fitted.map(|weights| names.into_iter().zip(weights).collect::<Vec<(&str, f64)>>());
        println!("{}", json!({ "depths": DEPTHS, "groups": report, "fitted": fitted }));
        return Ok(());
    }
    for (name, groups) in &report {
        print_groups(name, groups);
    }
    for (name, weight) in names.into_iter().zip(fitted.into_iter().flatten()) {
        println!("    (\"{name}\", {weight:.3}),");
    }
    Ok(())
}

/// Returns both lists of every question that articles answer and an agent answered with facts.
fn questions(companies: &[Company], split: Split) -> anyhow::Result<Vec<Asked>> {
    let folder = tempfile::tempdir().context("cannot make a folder for the index")?;
    let knowledge = Knowledge::new(folder.path());
    let mut found = Vec::new();
    for (place, company) in companies.iter().enumerate() {
        open_base(&knowledge, company)?;
        for call in company.calls(split)? {
            let turns = redacted_turns(&call);
            for (i, turn) in call.turns.iter().enumerate().filter(|(_, turn)| !turn.articles.is_empty()) {
                let Some(answer) = call.turns.get(i + 1).filter(|answer| !answer.facts.is_empty()) else {
                    continue;
                };
                let (turns, bases) = (turns[..=i].to_vec(), vec![company.base.clone()]);
                let question = Question { turns, bases, limit: MOST_CARDS };
                let right = knowledge.sources_among(TENANT, &question, &turn.articles)?;
                let drafted = knowledge.answers(TENANT, &question, DRAFT_FROM)?.sources;
                found.push(Asked::new(place, "right", &right, &question.turns, answer));
                found.push(Asked::new(place, "found", &drafted, &question.turns, answer));
            }
        }
    }
    Ok(found)
}

/// Returns the lists with targets of some companies.
fn lists(asked: &[Asked], is_taken: impl Fn(usize) -> bool) -> Vec<&List> {
    let taken = asked.iter().filter(|asked| is_taken(asked.company)).map(|asked| &asked.list);
    taken.filter(|list| !list.targets.is_empty()).collect()
}

/// Measures the weights that each company has, on it: by kind of cards, over all and by company.
fn groups(companies: &[Company], asked: &[Asked], weights: &[Vector]) -> BTreeMap<String, Figures> {
    let mut groups: BTreeMap<String, Figures> = BTreeMap::new();
    for asked in asked {
        for name in ["all", companies[asked.company].base.as_str()] {
            let figures = groups.entry(format!("{} {name}", asked.kind)).or_default();
            figures.add(asked, &weights[asked.company]);
        }
    }
    for figures in groups.values_mut() {
        let (questions, lists) = (figures.questions.max(1) as f64, figures.lists.max(1) as f64);
        figures.cross_entropy /= lists;
        figures.entropy /= lists;
        figures.facts.iter_mut().chain(&mut figures.facts_in_order).for_each(|share| *share /= questions);
    }
    groups
}

impl Figures {
    fn add(&mut self, asked: &Asked, weights: &Vector) {
        self.questions += 1;
        if !asked.list.targets.is_empty() {
            self.lists += 1;
            let chances = asked.list.log_chances(weights);
            self.cross_entropy -= dot(&asked.list.targets, &chances);
            let held = asked.list.targets.iter().filter(|target| **target > 0.0);
            self.entropy -= held.map(|target| target * target.ln()).sum::<f64>();
        }
        let ranked = asked.ranked(weights);
        for (i, depth) in DEPTHS.into_iter().enumerate() {
            self.facts[i] += asked.facts_in(&ranked, depth);
            self.facts_in_order[i] += asked.facts_in(&asked.reading, depth);
        }
    }
}

impl Asked {
    fn new(
        company: usize,
        kind: &'static str,
        cards: &[Card],
        turns: &[Turn],
        answer: &DialogueTurn,
    ) -> Asked {
        let candidates = features::candidates(cards);
        let features = features::features(&candidates, cards, turns, None);
        let texts: Vec<String> = candidates.iter().map(|candidate| candidate.text.to_owned()).collect();
        let held = |text: &String| {
            let words = facts_share(text, slice::from_ref(&answer.text));
            FACTS_PART * facts_share(text, &answer.facts) + (1.0 - FACTS_PART) * words
        };
        let held: Vec<f64> = texts.iter().map(held).collect();
        let all: f64 = held.iter().sum();
        let targets = if all > 0.0 { held.iter().map(|held| held / all).collect() } else { Vec::new() };
        let mut reading: Vec<usize> = (0..texts.len()).collect();
        reading.sort_by_key(|at| quote::place(cards, candidates[*at].card));
        let features = features.into_iter().map(|features| features.map(f64::from)).collect();
        let facts = answer.facts.clone();
        Asked { company, kind, list: List { features, targets }, texts, reading, facts }
    }

    /// Returns the places of the sentences, best first, as drafts rank them.
    fn ranked(&self, weights: &Vector) -> Vec<usize> {
        let value = |(features, text): (&Vector, &String)| {
            quote::value_for_room(dot(weights, features) as f32, text.chars().count())
        };
        let values: Vec<f32> = self.list.features.iter().zip(&self.texts).map(value).collect();
        let mut ranked: Vec<usize> = (0..values.len()).collect();
        ranked.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
        ranked
    }

    /// Returns the share of the facts that stand in the first sentences of an order.
    fn facts_in(&self, order: &[usize], depth: usize) -> f64 {
        let first: Vec<&str> = order.iter().take(depth).map(|at| self.texts[*at].as_str()).collect();
        facts_share(&first.join("\n"), &self.facts)
    }
}

fn print_groups(name: &str, groups: &BTreeMap<String, Figures>) {
    println!("{name}: share of the facts in the best sentences | in as many of the articles' own order");
    print!("{:<16} {:>9} {:>6} {:>7} {:>7}", "", "questions", "lists", "loss", "least");
    DEPTHS.iter().for_each(|depth| print!("   {:<13}", format!("best {depth}")));
    println!();
    for (name, f) in groups {
        print!("{name:<16} {:>9} {:>6} {:>7.3} {:>7.3}", f.questions, f.lists, f.cross_entropy, f.entropy);
        for (best, first) in f.facts.iter().zip(f.facts_in_order) {
            print!("   {best:.3} | {first:.3}");
        }
        println!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assist::quote::features::FEATURES;
    use crate::event::Speaker;

    fn asked(passage: &str) -> Asked {
        let card = Card {
            id: "a#1".to_owned(),
            article: "a".to_owned(),
            title: "Fees".to_owned(),
            passage: passage.to_owned(),
            highlights: vec![],
            score: 1.0,
            base: "tel".to_owned(),
            version: 1,
        };
        let turns = [Turn { speaker: Speaker::Customer, text: "what is the late fee".to_owned() }];
        let text = "the late fee is twenty-five euros".to_owned();
        let answer = DialogueTurn { text, facts: vec!["twenty-five euros".to_owned()], ..Default::default() };
        Asked::new(0, "right", &[card], &turns, &answer)
    }

    #[test]
    fn targets_are_shares_of_what_sentences_hold_of_the_answer() {
        // Half of the two terms of the fact, and two of the four of the answer; then all of both.
        let found = asked("We open at nine. The fee is paid in euros. Late visits: the fee is 25 euros.");
        assert_eq!(found.list.targets, [0.0, 1.0 / 3.0, 2.0 / 3.0]);
        assert!(asked("We open at nine.").list.targets.is_empty());
        assert!(asked("").texts.is_empty());
    }

    #[test]
    fn facts_are_looked_for_in_the_first_sentences_of_an_order() {
        let found = asked("We open at nine. The late fee is 25 euros.");
        let present = WEIGHTS.map(|(_, weight)| f64::from(weight));
        assert_eq!(found.ranked(&present), [1, 0]);
        assert_eq!(found.reading, [0, 1]);
        assert_eq!((found.facts_in(&[1, 0], 1), found.facts_in(&found.reading, 1)), (1.0, 0.0));
        assert_eq!(found.facts_in(&found.reading, 3), 1.0);
    }

    #[test]
    fn a_company_is_measured_with_its_own_weights() {
        let company = Company::new("tel".into());
        let groups =
            groups(&[company], &[asked("We open at nine. The late fee is 25 euros.")], &[[0.0; FEATURES]]);
        assert_eq!(groups.keys().collect::<Vec<_>>(), ["right all", "right tel"]);
        let figures = &groups["right tel"];
        assert_eq!((figures.questions, figures.lists, figures.entropy), (1, 1, 0.0));
        assert!((figures.cross_entropy - 2.0_f64.ln()).abs() < 1e-12, "{}", figures.cross_entropy);
    }
}
