//! Emotion labels: macro-F1 and accuracy over our labels, beside a linear classifier of the turn alone,
//! trained on the same set, and beside always saying the commonest label.
//!
//! The model chooses among all of our labels, also where a set has only some of them; what it would
//! reach among those of the set stands in the details.

use std::collections::HashMap;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::command::eval::measure::Estimate;
use crate::command::eval::measure::Pair;
use crate::command::eval::measure::accuracy;
use crate::command::eval::measure::by_unit;
use crate::command::eval::measure::estimate;
use crate::command::eval::measure::label_f1;
use crate::command::eval::measure::macro_f1;
use crate::command::eval::model::Bench;
use crate::command::eval::model::data::Labelled;
use crate::command::eval::model::data::Set;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::command::eval::model::spread;
use crate::engine::scheduler::Claim;
use crate::event::Emotion;
use crate::monitor::emotion::EmotionReader;
use crate::monitor::words::Words;

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut section = Section::default();
    let mut details = Map::new();
    let reader = &EmotionReader::new(bench.engine.clone())?;
    for set in bench.data.sets.iter().filter(|set| !set.emotions.is_empty()) {
        let rows: Vec<&Labelled> = spread(set.emotions.iter().collect(), bench.args.labels);
        let scores = bench.ask(&format!("emotion, {}", set.name), &rows, |row| async move {
            Ok(reader.read(&row.turns, Claim::default()).await?)
        })?;
        let said = |allowed: &dyn Fn(Emotion) -> bool| -> Vec<Pair> {
            let best = scores.iter().map(|scores| {
                let allowed = scores.iter().filter(|(label, _)| allowed(**label));
                allowed.max_by(|a, b| a.1.total_cmp(b.1)).map_or(Emotion::Neutral, |(label, _)| *label)
            });
            best.zip(&rows).map(|(label, row)| (label, row.label)).collect()
        };
        let ours = said(&|_| true);
        let among = said(&|label| set.emotions.iter().any(|row| row.label == label));
        let commonest = commonest(set);
        let majority: Vec<Pair> = rows.iter().map(|row| (commonest, row.label)).collect();
        let linear = classified(set, &rows);
        let units = by_unit(rows.iter().map(|row| row.unit).zip(ours.iter().copied()));
        let row = |name: &str, value: Estimate, linear: Option<f64>, majority: f64| {
            let row = Row::new(format!("emotion, {}: {name}", set.name), value);
            let row = match linear {
                Some(linear) => row.beside("TF-IDF + regression", linear),
                None => row,
            };
            row.beside("majority", majority)
        };
        let f1 = estimate(&units, |units| macro_f1(units.iter().copied().flatten()));
        let f1 = row("macro-F1", f1, linear.as_ref().map(macro_f1), macro_f1(&majority));
        section.rows.push(f1.aim(if set.name == "service" { "≥ 0.64" } else { "+5 points" }));
        let hits = estimate(&units, |units| accuracy(units.iter().copied().flatten()));
        section.rows.push(row("accuracy", hits, linear.as_ref().map(accuracy), accuracy(&majority)));
        details.insert(
            set.name.clone(),
            json!({
                "labels": rows.len(), "training_labels": set.trained_emotions.len(),
                "f1": by_label(&ours), "f1_linear": linear.as_ref().map(|pairs| by_label(pairs)),
                "macro_f1_among_labels_of_set": macro_f1(&among),
                "accuracy_among_labels_of_set": accuracy(&among),
            }),
        );
    }
    section.details = Value::Object(details);
    Ok(section)
}

/// Returns the labels that a classifier gives which was trained on the set's training rows, if there are any.
fn classified(set: &Set, rows: &[&Labelled]) -> Option<Vec<Pair>> {
    if set.trained_emotions.is_empty() {
        return None;
    }
    let trained: Vec<(String, usize)> =
        set.trained_emotions.iter().map(|row| (text(row).to_owned(), row.label as usize)).collect();
    let linear = Words::train(&trained, Emotion::ALL.len());
    Some(rows.iter().map(|row| (Emotion::ALL[linear.classify(text(row))], row.label)).collect())
}

fn text(row: &Labelled) -> &str {
    row.turns.last().map_or("", |turn| &turn.text)
}

/// Returns the commonest training label; of a set without any, the commonest measured one.
fn commonest(set: &Set) -> Emotion {
    let rows = if set.trained_emotions.is_empty() { &set.emotions } else { &set.trained_emotions };
    let mut counts: HashMap<Emotion, usize> = HashMap::new();
    rows.iter().for_each(|row| *counts.entry(row.label).or_default() += 1);
    let most = |label: &Emotion| counts.get(label).copied().unwrap_or(0);
    // The first of equals, whatever the order of the map.
    Emotion::ALL.into_iter().rev().max_by_key(most).unwrap_or(Emotion::Neutral)
}

fn by_label(pairs: &[Pair]) -> Map<String, Value> {
    label_f1(pairs).into_iter().map(|(label, f1)| (label.as_str().to_owned(), json!(f1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Speaker;
    use crate::prompt::Turn;

    fn row(text: &str, label: Emotion) -> Labelled {
        let turn = |text: &str| Turn { speaker: Speaker::Customer, text: text.to_owned() };
        Labelled { unit: 0, turns: vec![turn("it was great"), turn(text)], label }
    }

    #[test]
    fn the_classifier_learns_from_the_training_rows_and_reads_the_turn_alone() {
        let good = |text| row(text, Emotion::Satisfied);
        let bad = |text| row(text, Emotion::Angry);
        let trained =
            vec![good("this is great"), good("great work"), bad("this is awful"), bad("awful work")];
        let set = Set { trained_emotions: trained, ..Set::default() };
        let rows = [bad("awful"), good("great")];
        let pairs = classified(&set, &rows.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(accuracy(&pairs), 1.0);
        assert!(classified(&Set::default(), &[]).is_none());
    }

    #[test]
    fn the_commonest_label_is_that_of_the_training_rows() {
        let rows = |labels: &[Emotion]| labels.iter().map(|label| row("", *label)).collect();
        let emotions = rows(&[Emotion::Angry, Emotion::Angry, Emotion::Sad]);
        let set = Set { emotions, trained_emotions: rows(&[Emotion::Sad]), ..Set::default() };
        assert_eq!(commonest(&set), Emotion::Sad);
        assert_eq!(commonest(&Set { trained_emotions: vec![], ..set }), Emotion::Angry);
    }
}
