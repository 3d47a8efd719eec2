//! What is measured on, and what baselines are trained on: company folders and files of rows.
//!
//! A company's measured calls are those of one split, its training calls the train split's (of
//! `--train` where that is given). A file is measured in whole when `--train-data` names another one
//! for the same set; else on what its publisher marked dev or test, or, where that marks nothing or
//! everything, on the tenth that [`labels::is_kept`] keeps. The rest trains the baselines.

use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::command::eval::TENANT;
use crate::command::eval::articles;
use crate::command::eval::find_companies;
use crate::command::eval::model::Args;
use crate::command::eval::open_base;
use crate::corpus::dialogue::Dialogue;
use crate::corpus::labelled;
use crate::corpus::labelled::Content;
use crate::corpus::labels;
use crate::corpus::labels::LabelMap;
use crate::corpus::labels::Labels;
use crate::corpus::rows::RowError;
use crate::corpus::service::Company;
use crate::corpus::service::ServiceError;
use crate::corpus::service::Split;
use crate::corpus::tasks::redacted_turns;
use crate::event::Emotion;
use crate::event::Speaker;
use crate::knowledge::Knowledge;
use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::index::Edition;
use crate::knowledge::passage::passages;
use crate::prompt::EMOTION_TURNS;
use crate::prompt::Turn;

/// Everything that was given.
pub struct Data {
    /// The companies that are measured.
    pub bases: Vec<Base>,
    /// The calls of the companies, if there are any, then a set for each file.
    pub sets: Vec<Set>,
    /// Conversations and texts that only the n-gram model is trained on.
    pub texts: Vec<Vec<Turn>>,
    /// The companies' knowledge: each base, and [`Base::passages`].
    pub knowledge: Knowledge,
    /// Where its index lies; removed in the end.
    _index: tempfile::TempDir,
}

/// A company.
pub struct Base {
    /// Its folder.
    pub company: Company,
    /// The measured calls.
    pub calls: Vec<Call>,
    /// The dispositions of its training calls, one for each.
    pub trained_dispositions: Vec<String>,
}

/// A measured call.
pub struct Call {
    /// Its number among all measured calls.
    pub unit: usize,
    /// What was said, redacted.
    pub turns: Vec<Turn>,
    /// All of the row.
    pub row: Dialogue,
}

/// Conversations and labels of one origin.
#[derive(Debug, Default)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Measured conversations.
    pub dialogues: Vec<Vec<Turn>>,
    /// Training conversations.
    pub trained_dialogues: Vec<Vec<Turn>>,
    /// Measured labels.
    pub emotions: Vec<Labelled>,
    /// Training labels.
    pub trained_emotions: Vec<Labelled>,
}

/// Turns, the last of which has a label.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    /// The number of its call or row within the set.
    pub unit: usize,
    /// The turn and those before it, as many as the emotion is read from.
    pub turns: Vec<Turn>,
    /// The label.
    pub label: Emotion,
}

impl Set {
    /// Returns how much it holds.
    pub fn json(&self) -> Value {
        json!({
            "dialogues": self.dialogues.len(), "training_dialogues": self.trained_dialogues.len(),
            "labels": self.emotions.len(), "training_labels": self.trained_emotions.len(),
        })
    }
}

impl Base {
    /// Returns the name of the base in which each passage is an article of its own: what finds the
    /// best passages of one article.
    pub fn passages(&self) -> String {
        format!("{}.passages", self.company.base)
    }
}

/// Reads everything.
///
/// # Errors
/// What cannot be read, or that nothing can be measured.
pub fn load(args: &Args) -> anyhow::Result<Data> {
    let index = tempfile::tempdir().context("cannot make a folder for the index")?;
    let knowledge = Knowledge::new(index.path());
    let companies = find_companies(&args.companies)?;
    let training = match args.train.is_empty() {
        true => companies.clone(),
        false => find_companies(&args.train)?,
    };
    let mut data = Data { bases: Vec::new(), sets: Vec::new(), texts: Vec::new(), knowledge, _index: index };
    let trained: Vec<(String, Vec<Dialogue>)> = training
        .iter()
        .map(|company| Ok((company.base.clone(), training_calls(company)?)))
        .collect::<anyhow::Result<_>>()?;
    let mut service = Set { name: "service".to_owned(), ..Set::default() };
    for company in companies {
        open_base(&data.knowledge, &company)?;
        let mut base = Base { company, calls: Vec::new(), trained_dispositions: Vec::new() };
        open_passages(&data.knowledge, &base)?;
        for row in base.company.calls(args.split)? {
            let (unit, turns) = (service.dialogues.len(), redacted_turns(&row));
            service.emotions.extend(labelled_turns(unit, &row, None));
            service.dialogues.push(turns.clone());
            base.calls.push(Call { unit, turns, row });
        }
        let calls =
            trained.iter().filter(|(name, _)| *name == base.company.base).flat_map(|(_, calls)| calls);
        base.trained_dispositions = calls.filter_map(|call| call.disposition.clone()).collect();
        data.bases.push(base);
    }
    for (unit, row) in trained.iter().flat_map(|(_, calls)| calls).enumerate() {
        service.trained_emotions.extend(labelled_turns(unit, row, None));
        service.trained_dialogues.push(redacted_turns(row));
    }
    if service.dialogues.is_empty() {
        data.texts.append(&mut service.trained_dialogues);
    } else {
        data.sets.push(service);
    }
    let mut training_files = args.train_data.clone();
    for path in &args.data {
        let name = labels::set_name(path);
        let other =
            training_files.iter().position(|file| labels::set_name(file) == name && !is_same(file, path));
        let other = other.map(|at| training_files.remove(at));
        data.sets.push(file_set(path, other.as_deref())?);
    }
    for path in training_files.iter().filter(|path| !args.data.iter().any(|file| is_same(file, path))) {
        data.texts.extend(labelled::read(path)?.into_iter().map(|row| turns_of(&row.content)));
    }
    let is_empty = data.sets.iter().all(|set| set.dialogues.is_empty() && set.emotions.is_empty());
    anyhow::ensure!(
        !is_empty,
        "nothing to measure: the folders have no calls of that split, the files no dialogues and no labels"
    );
    Ok(data)
}

/// Indexes each passage of a company as an article.
fn open_passages(knowledge: &Knowledge, base: &Base) -> anyhow::Result<()> {
    let mut pieces = Vec::new();
    for article in articles(&base.company)? {
        for (number, passage) in passages(&article).into_iter().enumerate() {
            let id = format!("{}{PASSAGE_MARK}{number}", article.id);
            // A line of its own is a paragraph of its own, as in the passage.
            let body = passage.text.replace('\n', "\n\n");
            pieces.push(Article { id, body, format: Format::Text, ..article.clone() });
        }
    }
    let (tenant, base) = (TENANT.to_owned(), base.passages());
    let edition = Edition { tenant, base, version: 1, digest: "eval".to_owned() };
    knowledge.activate(knowledge.prepare(edition, || anyhow::Ok(pieces))?);
    Ok(())
}

/// Stands between an article's id and the number of its passage.
pub const PASSAGE_MARK: char = '@';

/// Returns a company's training calls; a company that is only measured has none.
fn training_calls(company: &Company) -> anyhow::Result<Vec<Dialogue>> {
    match company.calls(Split::Train) {
        Err(ServiceError::Row(RowError::Open { source, .. })) if source.kind() == ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        calls => Ok(calls?),
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    real(a) == real(b)
}

fn turns_of(content: &Content) -> Vec<Turn> {
    match content {
        Content::Dialogue(dialogue) => redacted_turns(dialogue),
        Content::Label { text, .. } | Content::Text(text) => {
            vec![Turn { speaker: Speaker::Customer, text: text.clone() }]
        }
    }
}

fn emotions_of(content: &Content, unit: usize, map: Option<&LabelMap>) -> Vec<Labelled> {
    match content {
        Content::Dialogue(dialogue) => labelled_turns(unit, dialogue, map),
        Content::Label { labels, .. } => {
            let label = map.and_then(|map| map.agreed(labels.iter().map(String::as_str)));
            label.map(|label| Labelled { unit, turns: turns_of(content), label }).into_iter().collect()
        }
        Content::Text(_) => Vec::new(),
    }
}

/// Returns a conversation's labels; without a map those that are ours already.
fn labelled_turns(unit: usize, dialogue: &Dialogue, map: Option<&LabelMap>) -> Vec<Labelled> {
    let turns = redacted_turns(dialogue);
    let mut found = Vec::new();
    for (i, turn) in dialogue.turns.iter().enumerate() {
        let label = match map {
            Some(map) => map.agreed(turn.emotion.as_deref()),
            None => turn.emotion_label(),
        };
        let Some(label) = label else { continue };
        let mut recent = turns[(i + 1).saturating_sub(EMOTION_TURNS)..=i].to_vec();
        // The label is the speaker's: whoever it is stands where the customer stands.
        recent.iter_mut().rev().take(1).for_each(|last| last.speaker = Speaker::Customer);
        found.push(Labelled { unit, turns: recent, label });
    }
    found
}

/// Reads a file that is measured, and what trains the baselines beside it.
fn file_set(path: &Path, training: Option<&Path>) -> anyhow::Result<Set> {
    let beside = path.parent().unwrap_or(Path::new("")).join(labels::FILE);
    let labels = if beside.exists() { Labels::read(&beside)? } else { Labels::default() };
    let map = labels.of_file(path);
    let rows = labelled::read(path)?;
    let (measured, mut trained) = match training {
        Some(_) => (rows, Vec::new()),
        None => labelled::divided(rows),
    };
    trained.extend(training.map(labelled::read).transpose()?.into_iter().flatten());
    let mut set = Set { name: labels::set_name(path), ..Set::default() };
    for (rows, dialogues, emotions) in [
        (measured, &mut set.dialogues, &mut set.emotions),
        (trained, &mut set.trained_dialogues, &mut set.trained_emotions),
    ] {
        for (unit, row) in rows.iter().enumerate() {
            emotions.extend(emotions_of(&row.content, unit, map));
            if let Content::Dialogue(_) = row.content {
                dialogues.push(turns_of(&row.content));
            }
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, lines: &[String]) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn label_row(id: usize, split: &str, label: &str) -> String {
        format!(r#"{{"id": "{id}", "split": "{split}", "text": "text {id}", "labels": ["{label}"]}}"#)
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let map = r#"{"files": {"set.jsonl.zst": {"joy": "satisfied", "grief": "sad"}}}"#;
        std::fs::write(folder.path().join(labels::FILE), map).unwrap();
        folder
    }

    #[test]
    fn a_marked_set_is_measured_on_what_its_publisher_marked() {
        let folder = folder();
        let rows: Vec<String> = ["train", "dev", "test", "train"]
            .iter()
            .enumerate()
            .map(|(i, s)| label_row(i, s, "joy"))
            .collect();
        let set = file_set(&write(folder.path(), "set.jsonl", &rows), None).unwrap();
        assert_eq!((set.emotions.len(), set.trained_emotions.len()), (2, 2));
        assert_eq!(set.emotions[0].label, Emotion::Satisfied);
        assert_eq!(set.name, "set");
    }

    #[test]
    fn of_a_set_without_marks_a_tenth_is_kept() {
        let folder = folder();
        for split in ["all", "dev"] {
            let rows: Vec<String> = (0..34).map(|i| label_row(i, split, "grief")).collect();
            let set = file_set(&write(folder.path(), "set.jsonl", &rows), None).unwrap();
            let kept: Vec<&str> = set.emotions.iter().map(|row| row.turns[0].text.as_str()).collect();
            assert_eq!(kept, ["text 0", "text 7", "text 9", "text 10", "text 33"], "{split}");
            assert_eq!(set.trained_emotions.len(), 29);
        }
    }

    #[test]
    fn with_a_training_file_all_of_the_other_is_measured() {
        let folder = folder();
        let measured: Vec<String> = (0..3).map(|i| label_row(i, "train", "joy")).collect();
        let trained: Vec<String> = (0..7).map(|i| label_row(i, "dev", "joy")).collect();
        let measured = write(folder.path(), "set.jsonl", &measured);
        let other = tempfile::tempdir().unwrap();
        let trained = write(other.path(), "set.jsonl.zst", &trained);
        let set = file_set(&measured, Some(&trained)).unwrap();
        assert_eq!((set.emotions.len(), set.trained_emotions.len()), (3, 7));
    }

    #[test]
    fn a_labelled_turn_comes_with_those_before_it_and_its_speaker_is_the_customer() {
        let folder = folder();
        let row = r#"{"id": "0", "turns": [{"speaker": "a", "text": "1"}, {"speaker": "b", "text": "2"},
            {"speaker": "a", "text": "3"}, {"speaker": "b", "text": "4"}, {"speaker": "a", "text": "5"},
            {"speaker": "b", "text": "6", "emotion": "joy"}, {"speaker": "a", "text": "7", "emotion": "curious"}]}"#;
        let set = file_set(&write(folder.path(), "set.jsonl", &[row.replace('\n', " ")]), None).unwrap();
        assert_eq!((set.dialogues.len(), set.emotions.len()), (1, 1));
        let turns = &set.emotions[0].turns;
        assert_eq!(turns.iter().map(|t| t.text.as_str()).collect::<Vec<_>>(), ["3", "4", "5", "6"]);
        assert_eq!((turns[1].speaker, turns[3].speaker), (Speaker::Agent, Speaker::Customer));
    }
}
