//! Cards: how often the article that answers is among the first found, for turns of customers and for
//! queries, beside a plain BM25 of whole articles.
//!
//! The plain search is asked with the customer's last two turns, ours with the conversation. Beside
//! it stands what is found first when the model orders the cards again, where it was trained to judge them.

use crate::command::eval::knowledge::Trial;
use crate::command::eval::knowledge::company_trials;
use crate::command::eval::measure::Share;
use crate::command::eval::measure::ratio;
use crate::command::eval::measure::shares;
use crate::command::eval::model::Bench;
use crate::command::eval::model::baseline::bm25::Bm25;
use crate::command::eval::model::relevance::Judge;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::engine::scheduler::Claim;
use crate::event::Card;
use crate::event::Speaker;
use crate::prompt::Turn;

/// What the model's log-odds count beside the logarithm of the search's score.
const MODEL_SHARE: f32 = 0.05;
/// Turns of the customer that the plain search is asked with.
const TURNS: usize = 2;

/// Where the first right article stands among those found, from 0: ours, as the model orders them, and the
/// plain search's.
struct Ranks {
    unit: usize,
    is_query: bool,
    ours: Option<usize>,
    ordered: Option<usize>,
    plain: Option<usize>,
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let judge = Judge::new(bench.engine.clone());
    let mut ranks = Vec::new();
    let mut units_before = 0;
    for base in &bench.data.bases {
        let articles = base.company.articles()?;
        let texts: Vec<String> = articles.iter().map(|a| format!("{} {}", a.title, a.text)).collect();
        let plain = Bm25::new(texts.iter().map(String::as_str));
        let trials = company_trials(&bench.data.knowledge, &base.company, bench.args.split)?;
        let units = trials.iter().map(|trial| trial.unit + 1).max().unwrap_or(0);
        let trials: Vec<Trial> = trials.into_iter().filter(|trial| !trial.relevant.is_empty()).collect();
        let orders = match &judge {
            Some(judge) => {
                bench.ask(&format!("cards, {}", base.company.base), &trials, |trial| async move {
                    order(judge, trial).await
                })?
            }
            None => trials.iter().map(|trial| trial.found.clone()).collect(),
        };
        for (trial, ordered) in trials.iter().zip(orders) {
            let is_right = |id: &str| trial.relevant.iter().any(|relevant| relevant == id);
            let first = |cards: &[Card]| cards.iter().position(|card| is_right(&card.article));
            let order = plain.rank(&last_said(&trial.turns));
            ranks.push(Ranks {
                unit: units_before + trial.unit,
                is_query: trial.kind == "queries",
                ours: first(&trial.found),
                ordered: first(&ordered),
                plain: order.iter().position(|at| is_right(&articles[*at].id)),
            });
        }
        units_before += units;
    }
    let mut section = Section::default();
    for (is_query, what, aims) in
        [(false, "turns", ["+15 points over BM25", "≥ 0.80"]), (true, "queries", ["", "≥ 0.85"])]
    {
        let of_kind: Vec<&Ranks> = ranks.iter().filter(|ranks| ranks.is_query == is_query).collect();
        if of_kind.is_empty() {
            continue;
        }
        for (within, aim) in [1, 3].into_iter().zip(aims) {
            let hits = |rank: fn(&Ranks) -> Option<usize>| {
                let hit = |ranks: &&Ranks| {
                    let is_hit = rank(ranks).is_some_and(|rank| rank < within);
                    (ranks.unit, Share { sum: f64::from(u8::from(is_hit)), of: 1.0 })
                };
                ratio(&shares(of_kind.iter().map(hit)))
            };
            let row = Row::new(format!("cards, {what}: hit@{within}"), hits(|ranks| ranks.ours));
            let row = row.beside("BM25", hits(|ranks| ranks.plain).value);
            let row = match &judge {
                Some(_) => row.beside("ordered by the model", hits(|ranks| ranks.ordered).value),
                None => row,
            };
            section.rows.push(row.aim(aim));
        }
    }
    Ok(section)
}

/// Returns the cards of a trial in the order that search and model agree on.
async fn order(judge: &Judge, trial: &Trial) -> anyhow::Result<Vec<Card>> {
    let passages: Vec<(&str, &str)> =
        trial.found.iter().map(|card| (card.title.as_str(), card.passage.as_str())).collect();
    let odds = judge.log_odds(&trial.turns, &passages, Claim::default()).await?;
    let score = |(card, odds): (&Card, &f32)| card.score * (MODEL_SHARE * odds).exp();
    let scores = trial.found.iter().zip(&odds).map(score);
    let mut ordered: Vec<(f32, &Card)> = scores.zip(&trial.found).collect();
    ordered.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(ordered.into_iter().map(|(_, card)| card.clone()).collect())
}

/// Returns the customer's last turns, oldest first.
fn last_said(turns: &[Turn]) -> String {
    let said = turns.iter().filter(|turn| turn.speaker == Speaker::Customer);
    let said: Vec<&str> = said.map(|turn| turn.text.as_str()).collect();
    said[said.len().saturating_sub(TURNS)..].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plain_search_is_asked_with_the_customers_last_two_turns() {
        let turn = |speaker, text: &str| Turn { speaker, text: text.to_owned() };
        let turns = [
            turn(Speaker::Customer, "a"),
            turn(Speaker::Customer, "b"),
            turn(Speaker::Agent, "x"),
            turn(Speaker::Customer, "c"),
        ];
        assert_eq!(last_said(&turns), "b c");
        assert_eq!(last_said(&turns[..1]), "a");
        assert_eq!(last_said(&[]), "");
    }
}
