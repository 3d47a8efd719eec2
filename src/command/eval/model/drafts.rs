//! Drafts as a call would get them: with the right card given, with the cards found, and with none.
//!
//! The right cards are the best passages, for this question, of the articles that answer it. Both ways
//! of drafting are measured, whatever the checkpoint's own is. A draft that is not shown, as the model
//! was not sure of it, counts as an empty one.

use std::collections::HashSet;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::assist::draft::DraftRequest;
use crate::assist::draft::Drafter;
use crate::command::eval::TENANT;
use crate::command::eval::measure::Estimate;
use crate::command::eval::measure::Share;
use crate::command::eval::measure::facts_share;
use crate::command::eval::measure::grounded;
use crate::command::eval::measure::mean;
use crate::command::eval::measure::ratio;
use crate::command::eval::measure::rouge_l;
use crate::command::eval::measure::shares;
use crate::command::eval::measure::sources;
use crate::command::eval::measure::token_f1;
use crate::command::eval::model::Bench;
use crate::command::eval::model::data::Base;
use crate::command::eval::model::data::Data;
use crate::command::eval::model::data::PASSAGE_MARK;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::command::eval::model::spread;
use crate::engine::config::Drafting;
use crate::engine::scheduler::Claim;
use crate::event::Card;
use crate::event::DraftState;
use crate::event::Speaker;
use crate::knowledge::Question;
use crate::knowledge::deck::MOST_CARDS;
use crate::knowledge::search::DRAFT_FROM;
use crate::prompt::Turn;

/// More than any base has passages.
const ALL: usize = 1 << 20;

/// A question of a customer with its real answer.
pub(super) struct Asked {
    /// The number of its call.
    pub unit: usize,
    /// The turns up to the question.
    pub turns: Vec<Turn>,
    /// Cards of the articles that answer it.
    pub right: Vec<Card>,
    /// The cards that a call would draft from.
    pub found: Vec<Card>,
    /// The agent's answer.
    pub answer: String,
    /// The facts that it states.
    pub facts: Vec<String>,
}

/// Which cards a draft rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cards {
    Right,
    Found,
    None,
}

impl Cards {
    fn of(self, asked: &Asked) -> &[Card] {
        match self {
            Cards::Right => &asked.right,
            Cards::Found => &asked.found,
            Cards::None => &[],
        }
    }
}

/// A finished draft.
#[derive(Default)]
struct Draft {
    text: String,
    steps: u32,
    tokens: u32,
    is_shown: bool,
}

/// Returns the questions of the measured calls that an article answers and an agent answered with facts.
pub(super) fn questions(data: &Data) -> anyhow::Result<Vec<Asked>> {
    let mut found = Vec::new();
    for base in &data.bases {
        for call in &base.calls {
            for (i, turn) in call.row.turns.iter().enumerate() {
                let answer = call.row.turns.get(i + 1).filter(|answer| !answer.facts.is_empty());
                let Some(answer) = answer.filter(|_| !turn.articles.is_empty()) else { continue };
                let turns = call.turns[..=i].to_vec();
                let right = right_cards(data, base, &turns, &turn.articles)?;
                let question = Question {
                    turns: turns.clone(),
                    bases: vec![base.company.base.clone()],
                    limit: MOST_CARDS,
                };
                found.push(Asked {
                    unit: call.unit,
                    right,
                    found: data.knowledge.answers(TENANT, &question, DRAFT_FROM)?.sources,
                    turns,
                    answer: call.turns[i + 1].text.clone(),
                    facts: answer.facts.clone(),
                });
            }
        }
    }
    Ok(found)
}

/// Returns the passages of some articles that answer best, as a search over all passages ranks them.
fn right_cards(data: &Data, base: &Base, turns: &[Turn], articles: &[String]) -> anyhow::Result<Vec<Card>> {
    let question = Question { turns: turns.to_vec(), bases: vec![base.passages()], limit: ALL };
    let mut cards = data.knowledge.find(TENANT, &question)?;
    for card in &mut cards {
        let article = card.article.rsplit_once(PASSAGE_MARK).map(|(article, _)| article.to_owned());
        card.article = article.unwrap_or_default();
    }
    cards.retain(|card| articles.contains(&card.article));
    cards.truncate(MOST_CARDS);
    Ok(cards)
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let asked = spread(questions(&bench.data)?, bench.args.drafts);
    if asked.is_empty() {
        return Ok(Section::default());
    }
    let mut section = Section::default();
    let mut details = Map::new();
    let own = bench.engine.model().drafting.unwrap_or(Drafting::Free);
    let plain = write(bench, &asked, own, Cards::None, "drafts, no card")?;
    let plain = scores(&asked, Cards::None, &plain);
    for (drafting, way) in [(Drafting::Quote, "quoting"), (Drafting::Free, "free")] {
        for (cards, given) in [(Cards::Right, "right card"), (Cards::Found, "cards found")] {
            let what = format!("drafts, {way}, {given}");
            let drafts = write(bench, &asked, drafting, cards, &what)?;
            let copied: Vec<Draft> = asked.iter().map(|asked| copy(cards.of(asked))).collect();
            let copied = scores(&asked, cards, &copied);
            let facts_aim = if cards == Cards::Right { "≥ 0.80" } else { "≥ 0.65" };
            let aims = ["", "above copying", facts_aim, "1.000", ""];
            for (i, (name, value)) in scores(&asked, cards, &drafts).into_iter().enumerate() {
                let row = Row::new(format!("{what}: {name}"), value).aim(aims[i]);
                section
                    .rows
                    .push(row.beside("best passage", copied[i].1.value).beside("no card", plain[i].1.value));
            }
            details.insert(what, described(&asked, &drafts));
        }
    }
    details.insert("questions".to_owned(), asked.len().into());
    section.details = Value::Object(details);
    Ok(section)
}

fn write(
    bench: &Bench,
    asked: &[Asked],
    drafting: Drafting,
    cards: Cards,
    what: &str,
) -> anyhow::Result<Vec<Draft>> {
    let drafter = Drafter::drafting(bench.engine.clone(), drafting)?;
    bench.ask(what, asked, |asked| {
        let request = DraftRequest {
            turns: asked.turns.clone(),
            cards: cards.of(asked).to_vec(),
            instruction: None,
            claim: Claim::default(),
        };
        let mut stream = drafter.draft(request);
        async move {
            let mut last = None;
            while let Some(update) = stream.next().await {
                last = Some(update);
            }
            let Some(last) = last else { return Ok(Draft::default()) };
            // Nothing to say is a result, a broken engine is not.
            anyhow::ensure!(last.state != DraftState::Failed, last.error.unwrap_or_default());
            let is_shown = last.state == DraftState::Done;
            Ok(Draft { text: last.text, steps: last.steps, tokens: last.tokens, is_shown })
        }
    })
}

/// Returns the best passage as a draft.
fn copy(cards: &[Card]) -> Draft {
    let text = cards.first().map_or(String::new(), |card| card.passage.clone());
    Draft { is_shown: !text.is_empty(), text, ..Draft::default() }
}

/// Returns the measures of drafts that rest on some cards, with their names.
fn scores(asked: &[Asked], cards: Cards, drafts: &[Draft]) -> [(&'static str, Estimate); 5] {
    let of = |score: &dyn Fn(&Asked, &str) -> f64| {
        mean(asked.iter().zip(drafts).map(|(a, draft)| (a.unit, score(a, &draft.text))))
    };
    let grounds = asked.iter().zip(drafts).map(|(a, draft)| {
        let known = known(a, cards);
        (a.unit, grounded(&draft.text, &known))
    });
    let shown = asked.iter().zip(drafts).map(|(a, draft)| (a.unit, f64::from(draft.is_shown)));
    [
        ("ROUGE-L", of(&|a, text| rouge_l(text, &a.answer))),
        ("token F1", of(&|a, text| token_f1(text, &a.answer))),
        ("facts", of(&|a, text| facts_share(text, &a.facts))),
        ("grounded", grounded_share(&shares(grounds.collect::<Vec<(usize, Share)>>()))),
        ("shown", mean(shown)),
    ]
}

/// Returns the share of claims that are grounded: all where none is made.
fn grounded_share(units: &[Share]) -> Estimate {
    match units.iter().all(|unit| unit.of == 0.0) {
        true => Estimate { value: 1.0, low: 1.0, high: 1.0, units: units.len() },
        false => ratio(units),
    }
}

fn known(asked: &Asked, cards: Cards) -> HashSet<String> {
    let passages = cards.of(asked).iter().flat_map(|card| [card.title.as_str(), card.passage.as_str()]);
    sources(asked.turns.iter().map(|turn| turn.text.as_str()).chain(passages))
}

fn described(asked: &[Asked], drafts: &[Draft]) -> Value {
    let (steps, tokens): (u32, u32) = drafts.iter().fold((0, 0), |(s, t), d| (s + d.steps, t + d.tokens));
    let examples = asked.iter().zip(drafts).step_by((asked.len() / 6).max(1)).map(|(a, draft)| {
        let said = a.turns.iter().rev().find(|turn| turn.speaker == Speaker::Customer);
        json!({"customer": said.map(|turn| &turn.text), "draft": draft.text, "answer": a.answer})
    });
    json!({
        "tokens_per_step": f64::from(tokens) / f64::from(steps.max(1)),
        "examples": examples.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(passage: &str) -> Card {
        Card {
            id: "a#1".to_owned(),
            article: "a".to_owned(),
            title: "Fees".to_owned(),
            passage: passage.to_owned(),
            highlights: vec![],
            score: 1.0,
            base: "tel".to_owned(),
            version: 1,
        }
    }

    fn asked(found: Vec<Card>) -> Asked {
        let turns = vec![Turn { speaker: Speaker::Customer, text: "what is the fee, asks Anna".to_owned() }];
        let (answer, facts) = ("The fee is 25 euros.".to_owned(), vec!["25 euros".to_owned()]);
        Asked { unit: 0, turns, right: vec![card("The fee is twenty-five euros.")], found, answer, facts }
    }

    #[test]
    fn copying_the_right_passage_keeps_all_facts_and_no_card_none() {
        let asked = [asked(vec![])];
        let copied = |cards: Cards| scores(&asked, cards, &[copy(cards.of(&asked[0]))]).map(|(_, e)| e.value);
        let [rouge, f1, facts, grounded, shown] = copied(Cards::Right);
        assert!(rouge > 0.7 && f1 > 0.7, "{rouge} {f1}");
        assert_eq!((facts, grounded, shown), (1.0, 1.0, 1.0));
        assert_eq!(copied(Cards::Found), [0.0, 0.0, 0.0, 1.0, 0.0], "nothing is claimed");
    }

    #[test]
    fn what_stands_in_no_card_is_not_grounded() {
        let asked = [asked(vec![card("The fee depends.")])];
        let drafts = [Draft { text: "So, Anna, it is 25 euros.".to_owned(), ..Draft::default() }];
        let grounded = |cards| scores(&asked, cards, &drafts)[3].1.value;
        assert_eq!(grounded(Cards::Right), 1.0);
        assert_eq!(grounded(Cards::Found), 1.0 / 3.0);
    }
}
