//! The rows of an open set: conversations, labelled texts and texts; those that are measured, and those that
//! train.

use std::path::Path;

use serde_json::Value;

use crate::corpus::dialogue::Dialogue;
use crate::corpus::labels;
use crate::corpus::labels::LabelMap;
use crate::corpus::rows;
use crate::corpus::rows::RowError;
use crate::event::Emotion;

/// A row of a file.
#[derive(Debug)]
pub struct FileRow {
    /// Its name, or its text where it has none.
    pub id: String,
    /// What its publisher marked it for.
    pub split: Option<String>,
    /// What it holds.
    pub content: Content,
}

/// What a row holds.
#[derive(Debug)]
pub enum Content {
    /// A conversation.
    Dialogue(Box<Dialogue>),
    /// A text with its set's labels.
    Label {
        /// The text.
        text: String,
        /// The labels.
        labels: Vec<String>,
    },
    /// A text.
    Text(String),
}

impl Content {
    /// Returns its texts that have a label of ours.
    pub fn texts_with_emotions(&self, map: &LabelMap) -> Vec<(&str, Emotion)> {
        match self {
            Content::Dialogue(dialogue) => {
                let label = |turn: &'_ Option<String>| map.agreed(turn.as_deref());
                let turns = dialogue.turns.iter();
                turns.filter_map(|turn| Some((turn.text.as_str(), label(&turn.emotion)?))).collect()
            }
            Content::Label { text, labels } => {
                let label = map.agreed(labels.iter().map(String::as_str));
                label.map(|label| (text.as_str(), label)).into_iter().collect()
            }
            Content::Text(_) => Vec::new(),
        }
    }
}

/// Divides rows into those that are measured and those that train: by their publisher's marks, or else a tenth
/// is measured.
pub fn divided(rows: Vec<FileRow>) -> (Vec<FileRow>, Vec<FileRow>) {
    let is_tested = |row: &FileRow| matches!(row.split.as_deref(), Some("dev" | "test"));
    let is_trained = |row: &FileRow| row.split.as_deref() == Some("train");
    let is_marked = rows.iter().any(is_tested) && rows.iter().any(is_trained);
    match is_marked {
        true => rows.into_iter().filter(|row| is_tested(row) || is_trained(row)).partition(is_tested),
        false => rows.into_iter().partition(|row| labels::is_kept(&row.id)),
    }
}

/// Reads a set's rows; one that says nothing at all is passed over.
///
/// # Errors
/// When the file cannot be read, or a row is no JSON.
pub fn read(path: &Path) -> Result<Vec<FileRow>, RowError> {
    let mut found = Vec::new();
    for row in rows::read::<Value>(path)? {
        let row = row?;
        let text = row["text"].as_str().map(str::to_owned);
        let id = match &row["id"] {
            Value::String(id) => id.clone(),
            Value::Null => text.clone().unwrap_or_default(),
            other => other.to_string(),
        };
        let split = row["split"].as_str().map(str::to_owned);
        let labels = row["labels"].as_array().map(|labels| {
            labels.iter().filter_map(|label| label.as_str().map(str::to_owned)).collect::<Vec<_>>()
        });
        let content = match (text, labels) {
            (Some(text), Some(labels)) => Content::Label { text, labels },
            (Some(text), None) => Content::Text(text),
            (None, _) => match serde_json::from_value(row) {
                Ok(dialogue) => Content::Dialogue(Box::new(dialogue)),
                Err(_) => continue,
            },
        };
        found.push(FileRow { id, split, content });
    }
    Ok(found)
}
