//! Summaries and dispositions of calls, in the form that training writes them.
//!
//! The summary is written as a whole and stands beside the call's first and last turns. Then the
//! disposition is chosen, enforced to be one of a list: of those of the base's training calls, and of
//! all of the base's; and among all of the base's by the words of their names, which needs no model. Both
//! stand beside always choosing the commonest of the training calls.

use std::collections::BTreeMap;

use serde_json::json;

use crate::command::eval::measure::Estimate;
use crate::command::eval::measure::mean;
use crate::command::eval::measure::rouge_l;
use crate::command::eval::measure::token_f1;
use crate::command::eval::model::Bench;
use crate::command::eval::model::data::Base;
use crate::command::eval::model::data::Call;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::engine::constraint::Constraint;
use crate::engine::handle::GenerateRequest;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Generate;
use crate::knowledge::disposition::Dispositions;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// Tokens of a summary.
const TOKENS: usize = 96;
/// Tokens that a disposition may take beyond its longest usual spelling.
const ROOM: usize = 4;

/// A call with what it is measured by.
struct Asked<'a> {
    call: &'a Call,
    base: &'a Base,
}

/// What was written of a call.
struct Written {
    summary: String,
    /// The disposition chosen among those of the training calls, if there are any, and among all.
    dispositions: [Option<String>; 2],
}

/// Returns the dispositions of a base, those of its training calls and those that are measured.
pub(super) fn dispositions(base: &Base) -> Vec<String> {
    let measured = base.calls.iter().filter_map(|call| call.row.disposition.as_ref());
    distinct(base.trained_dispositions.iter().chain(measured))
}

fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort();
    names.dedup();
    names
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut asked = Vec::new();
    for base in &bench.data.bases {
        let calls = base.calls.iter().filter(|call| call.row.summary.is_some() && !call.turns.is_empty());
        asked.extend(calls.map(|call| Asked { call, base }));
    }
    if asked.is_empty() {
        return Ok(Section::default());
    }
    let written = bench.ask("summary, disposition", &asked, |asked| write(bench, asked))?;
    let gold = |asked: &Asked| asked.call.row.summary.clone().unwrap_or_default();
    let scored = |score: fn(&str, &str) -> f64, of: &dyn Fn(usize) -> String| -> Estimate {
        let scores = asked.iter().enumerate().map(|(i, a)| (a.call.unit, score(&of(i), &gold(a))));
        mean(scores)
    };
    let model = |i: usize| written[i].summary.clone();
    let turns = |i: usize| first_and_last(&asked[i].call.turns);
    let mut rows = Vec::new();
    for (name, score) in
        [("ROUGE-L", rouge_l as fn(&str, &str) -> f64), ("token F1", token_f1 as fn(&str, &str) -> f64)]
    {
        let row = Row::new(format!("summary: {name}"), scored(score, &model));
        rows.push(row.beside("first and last turn", scored(score, &turns).value).aim("above both"));
    }
    let labelled: Vec<(usize, &Asked)> =
        asked.iter().enumerate().filter(|(_, a)| a.call.row.disposition.is_some()).collect();
    let hits = |of: &dyn Fn(usize, &Asked) -> Option<String>| {
        let hit = |(i, a): &(usize, &Asked)| {
            let said = of(*i, a);
            (a.call.unit, f64::from(u8::from(said.is_some() && said == a.call.row.disposition)))
        };
        mean(labelled.iter().map(hit))
    };
    let majority = hits(&|_, a| commonest(&a.base.trained_dispositions)).value;
    if !labelled.is_empty() {
        for (list, name) in ["of the training calls", "of the base"].into_iter().enumerate() {
            let value = hits(&|i, _| written[i].dispositions[list].clone());
            let row = Row::new(format!("disposition among those {name}: accuracy"), value);
            rows.push(row.beside("majority", majority).aim("above both"));
        }
    }
    if !labelled.is_empty() {
        let mut by_words = BTreeMap::new();
        for (i, asked) in &labelled {
            let articles = asked.base.company.articles()?.into_iter().map(|article| article.text);
            let known = Dispositions::new(&dispositions(asked.base), &articles.collect::<Vec<_>>());
            let ranked = known.rank(asked.call.turns.iter().map(|turn| turn.text.as_str()));
            by_words.insert(*i, ranked.first().map(|(name, _)| (*name).to_owned()));
        }
        let value = hits(&|i, _| by_words.get(&i).cloned().flatten());
        let row = Row::new("disposition by the words of its name: accuracy".to_owned(), value);
        rows.push(row.beside("majority", majority).aim("above both"));
    }
    let is_known = |(_, a): &&(usize, &Asked)| {
        a.call.row.disposition.as_ref().is_some_and(|d| a.base.trained_dispositions.contains(d))
    };
    let details = json!({
        "calls": asked.len(), "dispositions": labelled.len(),
        "dispositions_of_training_calls": labelled.iter().filter(is_known).count(),
        "examples": asked.iter().zip(&written).step_by((asked.len() / 4).max(1))
            .map(|(a, w)| json!({"written": w.summary, "summary": a.call.row.summary,
                "chosen": w.dispositions[1], "disposition": a.call.row.disposition}))
            .collect::<Vec<_>>(),
    });
    Ok(Section { rows, details })
}

fn first_and_last(turns: &[Turn]) -> String {
    let (first, rest) = turns.split_first().map_or(("", turns), |(first, rest)| (&first.text, rest));
    format!("{first} {}", rest.last().map_or("", |turn| &turn.text)).trim().to_owned()
}

/// Returns the commonest name, the first in the alphabet of equals.
fn commonest(names: &[String]) -> Option<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    names.iter().for_each(|name| *counts.entry(name).or_default() += 1);
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
}

async fn write(bench: &Bench, asked: &Asked<'_>) -> anyhow::Result<Written> {
    let (tokenizer, model) = (bench.engine.tokenizer(), bench.engine.model());
    let prompt = prompt::encode(&prompt::summary(&asked.call.turns), tokenizer)?;
    let rule = Rule::Threshold { threshold: 0.9, steps: model.block_length() };
    let generate = Generate {
        rule,
        // The disposition follows, and ends the summary.
        banned: bench.banned(&[Control::End, Control::Pad, Control::Disposition]),
        stops_at_end: true,
        stops_in_block: true,
        ..Generate::default()
    };
    let request = GenerateRequest {
        prompt: prompt.clone(),
        canvas: vec![None; TOKENS],
        generate: generate.clone(),
        ..GenerateRequest::default()
    };
    let canvas = bench.engine.generate(request)?.finish().await?.canvas;
    let disposition = tokenizer.control(Control::Disposition.token())?;
    let ends = [disposition, model.eos_token_id, model.pad_token_id];
    let length = canvas.iter().position(|id| ends.contains(id)).unwrap_or(canvas.len());
    // What an early end left masked is behind it.
    let summary: Vec<u32> =
        canvas[..length].iter().copied().filter(|id| *id != model.mask_token_id).collect();
    let before = [prompt.as_slice(), &summary, &[disposition]].concat();
    let mut chosen = [None, None];
    let lists = [distinct(asked.base.trained_dispositions.iter()), dispositions(asked.base)];
    for (choice, names) in chosen.iter_mut().zip(lists) {
        if names.is_empty() {
            continue;
        }
        let mut longest = 0;
        for name in &names {
            let text = [Piece::Text(prompt::disposition(name))];
            longest = longest.max(prompt::encode(&text, tokenizer)?.len() + ROOM);
        }
        let spelled = names.iter().map(|name| prompt::disposition(name)).collect();
        let request = GenerateRequest {
            prompt: before.clone(),
            canvas: vec![None; longest],
            generate: Generate {
                rule: Rule::LowConfidence { steps: model.block_length() },
                ..generate.clone()
            },
            constraint: Some(bench.engine.structure(&Constraint::Choice(spelled))?),
            ..GenerateRequest::default()
        };
        let canvas = bench.engine.generate(request)?.finish().await?.canvas;
        let text = tokenizer.decode_masked(&canvas, model.mask_token_id, &ends);
        *choice = names.into_iter().find(|name| prompt::disposition(name) == text);
    }
    Ok(Written { summary: tokenizer.decode(&summary).trim().to_owned(), dispositions: chosen })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Speaker;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_commonest_disposition_is_the_majority() {
        assert_eq!(commonest(&names(&["b", "a", "b", "c"])).as_deref(), Some("b"));
        assert_eq!(commonest(&names(&["b", "a"])).as_deref(), Some("a"));
        assert_eq!(commonest(&[]), None);
        assert_eq!(distinct(names(&["b", "a", "b"]).iter()), ["a", "b"]);
    }

    #[test]
    fn first_and_last_turn_are_not_said_twice() {
        let turn = |text: &str| Turn { speaker: Speaker::Agent, text: text.to_owned() };
        assert_eq!(first_and_last(&[turn("a"), turn("b"), turn("c")]), "a c");
        assert_eq!(first_and_last(&[turn("a")]), "a");
        assert_eq!(first_and_last(&[]), "");
    }
}
