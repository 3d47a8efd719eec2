//! Passes of a block of 32: how many the threshold and the end of the text save against one token a
//! pass, and what that changes.
//!
//! Questions are answered from the right cards, in one block that begins where the prompt ends. The
//! threshold is the lowest at which no measure of the answers is more than a point below those of the
//! fixed schedule.

use serde_json::json;

use crate::command::eval::measure::Estimate;
use crate::command::eval::measure::facts_share;
use crate::command::eval::measure::mean;
use crate::command::eval::measure::rouge_l;
use crate::command::eval::measure::token_f1;
use crate::command::eval::model::Bench;
use crate::command::eval::model::drafts::Asked;
use crate::command::eval::model::drafts::questions;
use crate::command::eval::model::progress;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::command::eval::model::spread;
use crate::command::eval::steps;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Form;
use crate::engine::sequence::Sequence;
use crate::prompt;

/// Tokens of the block.
const BLOCK: usize = 32;
/// Thresholds that are tried, from the lowest.
const THRESHOLDS: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];
/// What a measure may lose.
const LOSS: f64 = 0.01;

/// A measure's name, and how it scores a text for a question.
type Measure = (&'static str, fn(&str, &Asked) -> f64);

/// Measures of answers.
const MEASURES: [Measure; 3] = [
    ("ROUGE-L", |text, asked| rouge_l(text, &asked.answer)),
    ("token F1", |text, asked| token_f1(text, &asked.answer)),
    ("facts", |text, asked| facts_share(text, &asked.facts)),
];

/// Answers under one schedule.
struct Answers {
    passes: Vec<u32>,
    tokens: Vec<Vec<u32>>,
    texts: Vec<String>,
}

impl Answers {
    fn passes_mean(&self, asked: &[Asked]) -> Estimate {
        mean(asked.iter().zip(&self.passes).map(|(a, passes)| (a.unit, f64::from(*passes))))
    }

    /// Returns by how much each measure differs from that of other answers.
    fn gains(&self, others: &Answers, asked: &[Asked]) -> [Estimate; 3] {
        MEASURES.map(|(_, score)| {
            let texts = self.texts.iter().zip(&others.texts).zip(asked);
            mean(texts.map(|((text, other), a)| (a.unit, score(text, a) - score(other, a))))
        })
    }

    /// Returns the share of places where the answers have another token.
    fn differing(&self, others: &Answers) -> f64 {
        let (mut places, mut same) = (0, 0);
        for (a, b) in self.tokens.iter().zip(&others.tokens) {
            places += a.len().max(b.len());
            same += a.iter().zip(b).filter(|(a, b)| a == b).count();
        }
        1.0 - f64::from(same as u32) / f64::from(places.max(1) as u32)
    }
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let asked = spread(questions(&bench.data)?, bench.args.prompts);
    if asked.is_empty() {
        return Ok(Section::default());
    }
    let tokenizer = bench.engine.tokenizer();
    let mut prompts = Vec::new();
    for asked in &asked {
        let cards: Vec<(&str, &str)> =
            asked.right.iter().map(|card| (card.title.as_str(), card.passage.as_str())).collect();
        let mut prompt = prompt::encode(&prompt::reply(&cards, &asked.turns), tokenizer)?;
        // The block begins where the prompt ends: some tokens of the first card go.
        prompt.drain(..prompt.len() % BLOCK);
        prompts.push(prompt);
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut runs = steps::Bench::load(&bench.folder, longest, BLOCK)?;
    runs.form = Form { block: BLOCK, ..runs.form };
    let bar = progress("steps", THRESHOLDS.len() + 3)?;
    let mut answers = |rule: Rule, stops: bool| {
        runs.stops = stops;
        let sequences: Vec<Sequence> = runs.answers(&prompts, rule);
        bar.inc(1);
        let tokens: Vec<Vec<u32>> =
            sequences.iter().map(|sequence| steps::text(sequence, runs.form).to_vec()).collect();
        Answers {
            passes: sequences.iter().map(|sequence| sequence.steps).collect(),
            texts: tokens.iter().map(|ids| tokenizer.decode(ids)).collect(),
            tokens,
        }
    };
    let fixed = answers(Rule::LowConfidence { steps: BLOCK }, false);
    let fixed_stopped = answers(Rule::LowConfidence { steps: BLOCK }, true);
    let at = |threshold: f64| Rule::Threshold { threshold: threshold as f32, steps: BLOCK };
    let tried: Vec<(f64, Answers)> =
        THRESHOLDS.into_iter().map(|threshold| (threshold, answers(at(threshold), true))).collect();
    let keeps =
        |(_, answers): &&(f64, Answers)| answers.gains(&fixed, &asked).iter().all(|gain| gain.value >= -LOSS);
    let Some((threshold, chosen)) = tried.iter().find(keeps).or(tried.last()) else {
        return Ok(Section::default());
    };
    let unstopped = answers(at(*threshold), false);
    bar.finish_and_clear();
    let all = fixed.passes_mean(&asked).value;
    let saved = |answers: &Answers| {
        mean(asked.iter().zip(&answers.passes).map(|(a, passes)| (a.unit, 1.0 - f64::from(*passes) / all)))
    };
    let mut rows = vec![
        Row::new(format!("steps: passes of a block of {BLOCK}"), chosen.passes_mean(&asked))
            .beside("fixed", all)
            .aim("≤ 10")
            .digits(1),
        Row::new("steps: share of passes saved", saved(chosen))
            .beside("end of text alone", saved(&fixed_stopped).value)
            .beside("threshold alone", saved(&unstopped).value)
            .aim("≥ 0.400"),
    ];
    for ((name, _), gain) in MEASURES.iter().zip(chosen.gains(&fixed, &asked)) {
        rows.push(Row::new(format!("steps: {name} against fixed"), gain).aim("≥ −0.010"));
    }
    let details: Vec<_> = tried
        .iter()
        .map(|(threshold, answers)| {
            let gains = answers.gains(&fixed, &asked);
            json!({
                "threshold": threshold, "passes": answers.passes_mean(&asked).value,
                "saved": saved(answers).value, "tokens_differing": answers.differing(&fixed),
                "rouge_l": gains[0].value, "token_f1": gains[1].value, "facts": gains[2].value,
            })
        })
        .collect();
    let details = json!({
        "questions": asked.len(), "threshold": threshold, "tokens_differing": chosen.differing(&fixed),
        "thresholds": details,
    });
    Ok(Section { rows, details })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(passes: &[u32], tokens: &[&[u32]], texts: &[&str]) -> Answers {
        Answers {
            passes: passes.to_vec(),
            tokens: tokens.iter().map(|ids| ids.to_vec()).collect(),
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn answers_are_compared_place_by_place_and_measure_by_measure() {
        let asked = [Asked {
            unit: 0,
            turns: vec![],
            right: vec![],
            found: vec![],
            answer: "it is 25 euros".to_owned(),
            facts: vec!["25 euros".to_owned()],
        }];
        let fixed = answers(&[32], &[&[1, 2, 3, 4]], &["it is 25 euros"]);
        let fast = answers(&[8], &[&[1, 2, 5]], &["it is"]);
        assert_eq!(fast.differing(&fixed), 0.5);
        assert_eq!(fast.passes_mean(&asked).value, 8.0);
        let [rouge, f1, facts] = fast.gains(&fixed, &asked).map(|gain| gain.value);
        assert!((rouge + 1.0 / 3.0).abs() < 1e-9 && (f1 + 1.0 / 3.0).abs() < 1e-9, "{rouge} {f1}");
        assert_eq!(facts, -1.0);
        assert_eq!(fixed.gains(&fixed, &asked).map(|gain| gain.value), [0.0; 3]);
    }
}
