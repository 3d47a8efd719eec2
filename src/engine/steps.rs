//! How many passes a block will take, told from the confidences of its first.
//!
//! A linear model over a few features of the confidences. Its coefficients lie in the checkpoint's
//! folder (`step_predictor.json`) and are fitted to traces of the model (`chatdlm eval steps --fit`);
//! without them a rule of thumb does. The features depend on how many settle in the pass, so the
//! same model says what another threshold would take.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::engine::config::ConfigError;
use crate::engine::config::parse;

/// The name of the file in a checkpoint's folder.
pub const FILE: &str = "step_predictor.json";

/// The features, in their order.
const NAMES: [&str; 12] = [
    "one",
    "masked",
    "left",
    "before_end",
    "doubt",
    "strictness",
    "above_90",
    "above_70",
    "above_50",
    "above_30",
    "mean",
    "least",
];
/// Keeps coefficients of features that say the same from growing.
const RIDGE: f64 = 1e-3;

/// What the model says of the masked positions of a block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Glance {
    /// How sure it is of each, the highest first.
    pub confidences: Vec<f32>,
    /// How many come before the place where it would end the text; all where it would not.
    pub before_end: usize,
}

/// What is counted of the first pass of a block; all but the first two are of what it leaves masked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Features([f64; NAMES.len()]);

impl Features {
    /// Counts what a pass says, of which the first `settled` settle under `threshold`.
    pub fn of(glance: &Glance, settled: usize, threshold: f32) -> Features {
        let Glance { confidences, before_end } = glance;
        let left = &confidences[settled.min(confidences.len())..];
        let above = |bound: f32| left.iter().filter(|c| **c > bound).count() as f64;
        let sum: f64 = left.iter().map(|c| f64::from(*c)).sum();
        let count = left.len() as f64;
        Features([
            1.0,
            confidences.len() as f64,
            count,
            (*before_end as f64).min(count),
            count - sum,
            f64::from(threshold) * count,
            above(0.9),
            above(0.7),
            above(0.5),
            above(0.3),
            sum / count.max(1.0),
            left.last().copied().map_or(0.0, f64::from),
        ])
    }

    /// Returns how many positions were masked before the pass.
    pub fn masked(&self) -> usize {
        self.0[1] as usize
    }

    /// Returns how many positions the pass leaves masked.
    pub fn left(&self) -> usize {
        self.0[2] as usize
    }
}

/// Predicts passes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepPredictor {
    coefficients: [f64; NAMES.len()],
}

impl Default for StepPredictor {
    /// The first pass, and one more for every third position that it leaves.
    fn default() -> Self {
        let mut coefficients = [0.0; NAMES.len()];
        coefficients[0] = 1.5;
        coefficients[2] = 1.0 / 3.0;
        StepPredictor { coefficients }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    coefficients: BTreeMap<String, f64>,
    /// What it was fitted to, for people.
    #[serde(default)]
    fitted: serde_json::Value,
}

impl StepPredictor {
    /// Reads the coefficients of a checkpoint; the rule of thumb when it has none.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn read(folder: &Path) -> Result<StepPredictor, ConfigError> {
        let file = folder.join(FILE);
        let path = file.display().to_string();
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(StepPredictor::default()),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let File { mut coefficients, .. } = parse(&path, &text)?;
        let mut found = [0.0; NAMES.len()];
        for (place, name) in found.iter_mut().zip(NAMES) {
            let Some(coefficient) = coefficients.remove(name) else {
                return Err(ConfigError::Unsupported { path, reason: format!("{name} has no coefficient") });
            };
            *place = coefficient;
        }
        match coefficients.into_keys().next() {
            Some(name) => Err(ConfigError::Unsupported { path, reason: format!("{name} is no feature") }),
            None => Ok(StepPredictor { coefficients: found }),
        }
    }

    /// Returns what [`StepPredictor::read`] reads, with a note of what it was fitted to.
    pub fn to_json(&self, fitted: serde_json::Value) -> serde_json::Value {
        let named = NAMES.iter().zip(self.coefficients);
        let coefficients = named.map(|(name, coefficient)| ((*name).to_owned(), coefficient)).collect();
        serde_json::json!(File { coefficients, fitted })
    }

    /// Fits the coefficients to blocks and the passes they took: least squares with a small ridge.
    /// Blocks that settled in one pass say nothing and are left out.
    ///
    /// `None` when there are fewer blocks than coefficients.
    pub fn fit(blocks: &[(Features, u32)]) -> Option<StepPredictor> {
        const N: usize = NAMES.len();
        let blocks: Vec<_> = blocks.iter().filter(|(features, _)| features.left() > 0).collect();
        if blocks.len() < N {
            return None;
        }
        // [XᵀX + ridge | Xᵀy], brought to row echelon form.
        let mut rows = [[0.0; N + 1]; N];
        for (features, passes) in &blocks {
            for (i, row) in rows.iter_mut().enumerate() {
                for (cell, feature) in row.iter_mut().zip(features.0) {
                    *cell += features.0[i] * feature;
                }
                row[N] += features.0[i] * f64::from(*passes);
            }
        }
        for (i, row) in rows.iter_mut().enumerate() {
            row[i] += RIDGE * blocks.len() as f64;
        }
        for pivot in 0..N {
            let largest =
                (pivot..N).max_by(|a, b| rows[*a][pivot].abs().total_cmp(&rows[*b][pivot].abs()))?;
            rows.swap(pivot, largest);
            let of_pivot = rows[pivot];
            for row in &mut rows[pivot + 1..] {
                let factor = row[pivot] / of_pivot[pivot];
                row.iter_mut().zip(of_pivot).for_each(|(cell, above)| *cell -= factor * above);
            }
        }
        let mut coefficients = [0.0; N];
        for i in (0..N).rev() {
            let known: f64 = (i + 1..N).map(|j| rows[i][j] * coefficients[j]).sum();
            coefficients[i] = (rows[i][N] - known) / rows[i][i];
        }
        Some(StepPredictor { coefficients })
    }

    /// Returns how many passes the block takes, its first included.
    pub fn passes(&self, features: &Features) -> f64 {
        let left = features.left();
        if left == 0 {
            return 1.0;
        }
        let sum: f64 = self.coefficients.iter().zip(features.0).map(|(c, f)| c * f).sum();
        sum.clamp(2.0, 1.0 + left as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(confidences: &[f32], before_end: usize) -> Glance {
        Glance { confidences: confidences.to_vec(), before_end }
    }

    #[test]
    fn features_are_of_what_the_pass_leaves_masked() {
        let features = Features::of(&glance(&[0.99, 0.95, 0.75, 0.5, 0.25], 1), 2, 0.9);
        let expected = [1.0, 5.0, 3.0, 1.0, 1.5, 2.7, 0.0, 1.0, 1.0, 2.0, 0.5, 0.25];
        for (found, expected) in features.0.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{features:?}");
        }
        assert_eq!(Features::of(&glance(&[0.99, 0.95], 2), 2, 0.9).left(), 0);
    }

    #[test]
    fn a_fit_finds_what_made_the_passes_and_survives_its_file() {
        // Two passes, and one more for every position that is left with less than half.
        let block = |i: u32| {
            let mut confidences: Vec<f32> =
                (0..16).map(|j| ((i * 7 + j * j * 13 + i * j) % 97) as f32 / 97.0).collect();
            confidences.sort_by(|a, b| b.total_cmp(a));
            let settled = confidences.iter().filter(|c| **c > 0.8).count();
            let doubtful = confidences[settled..].iter().filter(|c| **c <= 0.5).count() as u32;
            (Features::of(&glance(&confidences, 16), settled, 0.8), 2 + doubtful)
        };
        let blocks: Vec<(Features, u32)> = (0..200).map(block).collect();
        let fitted = StepPredictor::fit(&blocks).expect("there are enough");
        for (features, passes) in (200..260).map(block) {
            let found = fitted.passes(&features);
            assert!((found - f64::from(passes)).abs() < 0.2, "{found} instead of {passes}");
        }
        assert_eq!(StepPredictor::fit(&blocks[..5]), None);

        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(StepPredictor::read(folder.path()).expect("has none"), StepPredictor::default());
        let mut json = fitted.to_json(serde_json::json!({"blocks": 200}));
        let write = |json: &serde_json::Value| std::fs::write(folder.path().join(FILE), json.to_string());
        write(&json).expect("is written");
        let read = StepPredictor::read(folder.path()).expect("is read");
        let features = blocks[0].0;
        assert!((read.passes(&features) - fitted.passes(&features)).abs() < 1e-9);
        json["coefficients"]["mood"] = 1.into();
        write(&json).expect("is written");
        let error = StepPredictor::read(folder.path()).expect_err("is refused").to_string();
        assert!(error.contains(FILE) && error.contains("mood is no feature"), "{error}");
        write(&serde_json::json!({"coefficients": {"one": 1}})).expect("is written");
        let error = StepPredictor::read(folder.path()).expect_err("is refused").to_string();
        assert!(error.contains("masked has no coefficient"), "{error}");
    }

    #[test]
    fn a_block_that_settles_at_once_takes_one_pass_and_none_takes_more_than_a_pass_a_token() {
        let predictor = StepPredictor { coefficients: [100.0; NAMES.len()] };
        assert_eq!(predictor.passes(&Features::of(&glance(&[0.9, 0.9], 2), 2, 0.5)), 1.0);
        assert_eq!(predictor.passes(&Features::of(&glance(&[0.9, 0.1], 2), 1, 0.5)), 2.0);
        let predictor = StepPredictor { coefficients: [-1.0; NAMES.len()] };
        assert_eq!(predictor.passes(&Features::of(&glance(&[0.9, 0.1, 0.1], 3), 1, 0.5)), 2.0);
    }
}
