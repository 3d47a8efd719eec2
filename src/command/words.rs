//! `chatdlm train --emotion-words`: labelled turns to what words alone say of an emotion.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::ensure;

use crate::corpus::service;
use crate::corpus::service::Split;
use crate::corpus::tasks::redacted_turns;
use crate::event::Emotion;
use crate::monitor::words::Words;

/// Trains on the train calls of the companies under `folders` and writes the file `out`.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub(super) fn run(folders: &[PathBuf], out: &Path) -> anyhow::Result<()> {
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
    let words = Words::train(&rows, Emotion::ALL.len()).with_chain(&sequences);
    words.write(out).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: words of {} labelled turns", out.display(), rows.len());
    Ok(())
}

fn place(emotion: Emotion) -> Option<usize> {
    Emotion::ALL.iter().position(|label| *label == emotion)
}
