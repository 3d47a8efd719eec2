//! `chatdlm train --emotion-words`: labelled turns to what words alone say of an emotion.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::ensure;

use crate::corpus::labelled;
use crate::corpus::labels;
use crate::corpus::labels::Labels;
use crate::corpus::service;
use crate::corpus::service::Split;
use crate::corpus::tasks::redacted_turns;
use crate::event::Emotion;
use crate::monitor::words::Words;

/// Trains on the train calls of the companies under `folders`, and on the labelled sets in `data` as other kinds of
/// talk, and writes the file `out`.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub(super) fn run(folders: &[PathBuf], data: Option<&Path>, out: &Path) -> anyhow::Result<()> {
    ensure!(!folders.is_empty(), "give --service: words are learned from labelled calls");
    let mut rows = Vec::new();
    let mut sequences = Vec::new();
    for folder in folders {
        for company in service::companies(folder)? {
            for call in company.calls(Split::Train)? {
                let before = rows.len();
                for (turn, labelled) in redacted_turns(&call).into_iter().zip(&call.turns) {
                    let index = labelled.emotion_label().and_then(place);
                    rows.extend(index.map(|index| (turn.text, index)));
                }
                sequences.push(rows[before..].iter().map(|(_, index): &(String, usize)| *index).collect());
            }
        }
    }
    ensure!(!rows.is_empty(), "the companies have no labelled train calls");
    let mut kinds = vec![rows];
    kinds.extend(data.map(sets).transpose()?.into_iter().flatten());
    let rows: Vec<&[(String, usize)]> = kinds.iter().map(Vec::as_slice).collect();
    let words = Words::train_kinds(&rows, Emotion::ALL.len()).with_chain(&sequences);
    words.write(out).with_context(|| format!("cannot write {}", out.display()))?;
    let labels: Vec<String> = kinds.iter().map(|rows| rows.len().to_string()).collect();
    println!("{}: words of {} labelled turns and texts", out.display(), labels.join(" + "));
    Ok(())
}

/// Returns the training rows of each labelled set in a folder.
fn sets(folder: &Path) -> anyhow::Result<Vec<Vec<(String, usize)>>> {
    let labels = Labels::read(&folder.join(labels::FILE))?;
    let mut sets = Vec::new();
    for (file, map) in labels.files().filter(|(file, _)| folder.join(file).exists()) {
        let (_, rows) = labelled::divided(labelled::read(&folder.join(file))?);
        let found = rows.iter().flat_map(|row| row.content.texts_with_emotions(map));
        let found: Vec<(String, usize)> =
            found.filter_map(|(text, label)| Some((text.to_owned(), place(label)?))).collect();
        if !found.is_empty() {
            sets.push(found);
        }
    }
    Ok(sets)
}

fn place(emotion: Emotion) -> Option<usize> {
    Emotion::ALL.iter().position(|label| *label == emotion)
}
