//! Emotion labels of other sets as ours, and which rows of a set nobody trains on.
//!
//! `emotion_labels.json` stands beside the sets: for each file, what its labels mean in ours. A set
//! whose publisher marks rows for testing is measured on those; of one that does not, a tenth is
//! kept, chosen by a hash of the row's id, so that everybody keeps the same.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::Digest;
use sha2::Sha256;

use crate::event::Emotion;

/// The name of the file beside the sets.
pub const FILE: &str = "emotion_labels.json";
/// One row in so many is kept.
const KEPT_ONE_IN: u64 = 10;

/// Says why the labels cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelsError {
    /// The file is missing or not ours to read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file has another form, or names an emotion that is none of ours.
    #[error("cannot understand {path}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// What the labels of each file mean.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Labels {
    files: BTreeMap<String, LabelMap>,
}

/// What the labels of one file mean; those that are not listed mean nothing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct LabelMap {
    names: BTreeMap<String, Emotion>,
}

impl Labels {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or has another form.
    pub fn read(path: &Path) -> Result<Labels, LabelsError> {
        let text =
            fs::read_to_string(path).map_err(|source| LabelsError::Read { path: path.to_owned(), source })?;
        serde_json::from_str(&text).map_err(|source| LabelsError::Parse { path: path.to_owned(), source })
    }

    /// Returns the names of the files that have labels, with what those mean.
    pub fn files(&self) -> impl Iterator<Item = (&str, &LabelMap)> {
        self.files.iter().map(|(file, map)| (file.as_str(), map))
    }

    /// Returns the labels of a file, whatever follows the first dot of its name.
    pub fn of_file(&self, path: &Path) -> Option<&LabelMap> {
        let name = set_name(path);
        self.files.iter().find(|(file, _)| set_name(Path::new(file)) == name).map(|(_, map)| map)
    }
}

impl LabelMap {
    /// Returns the emotion that all labels which mean one agree on.
    pub fn agreed<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Option<Emotion> {
        let mut found = labels.into_iter().filter_map(|label| self.names.get(label).copied());
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }
}

/// Returns the name of a set: its file's, up to the first dot.
pub fn set_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

/// Returns whether a row is kept from training, by the first eight bytes of the SHA-256 of its id (of
/// its text where it has none) as a big-endian number: the rows that ten divides.
pub fn is_kept(id: &str) -> bool {
    let digest = Sha256::digest(id);
    let first = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    first.is_multiple_of(KEPT_ONE_IN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_label_that_all_its_mapped_labels_agree_on() {
        let labels: Labels = serde_json::from_str(
            r#"{"labels": ["sad"], "files": {"a.jsonl.zst": {"grief": "sad", "remorse": "sad", "joy": "satisfied"}}}"#,
        )
        .unwrap();
        let map = labels.of_file(Path::new("held/a.jsonl")).unwrap();
        let check =
            |names: &[&str], expected| assert_eq!(map.agreed(names.iter().copied()), expected, "{names:?}");
        check(&["grief", "trust", "remorse"], Some(Emotion::Sad));
        check(&["grief", "joy"], None);
        check(&["trust"], None);
        check(&[], None);
        assert!(labels.of_file(Path::new("b.jsonl.zst")).is_none());
    }

    #[test]
    fn labels_that_are_not_ours_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert!(matches!(Labels::read(&path), Err(LabelsError::Read { .. })));
        fs::write(&path, r#"{"files": {"a": {"grief": "melancholy"}}}"#).unwrap();
        assert!(matches!(Labels::read(&path), Err(LabelsError::Parse { .. })));
    }

    #[test]
    fn about_a_tenth_is_kept_and_always_the_same() {
        let kept = (0..10_000).filter(|id| is_kept(&id.to_string())).count();
        assert!((900..1100).contains(&kept), "{kept}");
        let first: Vec<u32> = (0..34).filter(|id| is_kept(&id.to_string())).collect();
        assert_eq!(first, [0, 7, 9, 10, 33]);
    }
}
