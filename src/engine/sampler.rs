//! Which positions of a block settle after a pass: one enum of rules, one function.
//!
//! Greedy: every position's candidate is the arg-max token with its softmax probability as
//! confidence. Rules as published with LLaDA2.0 (`threshold`) and LLaDA2.1 (`threshold_edit`).

use serde::Deserialize;
use serde::Serialize;

/// How a block is denoised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// Settle what is surer than the threshold, and never fewer than an even share of the block.
    Threshold {
        /// The least confidence that settles a token.
        threshold: f32,
        /// The most passes of a block.
        steps: usize,
    },
    /// As above with at least one a pass; settled tokens are replaced when another is sure enough.
    ThresholdEdit {
        /// The least confidence that settles a token.
        threshold: f32,
        /// The least confidence that replaces one.
        editing_threshold: f32,
        /// Passes after nothing is masked.
        max_post_steps: usize,
    },
}

impl Default for Rule {
    fn default() -> Self {
        Rule::Threshold { threshold: 0.9, steps: 32 }
    }
}

/// What the model would put at a position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The position within the block.
    pub at: usize,
    /// The likeliest token.
    pub token: u32,
    /// Its probability.
    pub confidence: f32,
}

/// What a pass changes, as indices into the candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Masked positions that take their token.
    pub unmasked: Vec<usize>,
    /// Unmasked positions that take another.
    pub edited: Vec<usize>,
}

impl Settled {
    /// Leaves masked what is not among the `most` surest.
    pub fn keep_surest(&mut self, most: usize, candidates: &[Candidate]) {
        if self.unmasked.len() > most {
            self.unmasked.sort_by(|a, b| candidates[*b].confidence.total_cmp(&candidates[*a].confidence));
            self.unmasked.truncate(most);
            self.unmasked.sort_unstable();
        }
    }
}

impl Rule {
    /// Returns whether unmasked positions may change, and so want candidates.
    pub fn edits(&self) -> bool {
        matches!(self, Rule::ThresholdEdit { .. })
    }

    /// Chooses what settles at pass `pass` (from 0) of a block of `block` tokens.
    ///
    /// `block_tokens` holds the tokens as they stand, `mask` the id of a masked one.
    pub fn settle(&self, pass: usize, block_tokens: &[u32], mask: u32, candidates: &[Candidate]) -> Settled {
        let is_masked = |c: &Candidate| block_tokens[c.at] == mask;
        let mut masked: Vec<usize> = (0..candidates.len()).filter(|i| is_masked(&candidates[*i])).collect();
        let (threshold, least) = match *self {
            Rule::Threshold { threshold, steps } => (threshold, even_share(block_tokens.len(), steps, pass)),
            Rule::ThresholdEdit { threshold, .. } => (threshold, 1),
        };
        let sure = masked.iter().filter(|i| candidates[**i].confidence > threshold).count();
        // A stable sort: of equally sure positions the first settles first.
        masked.sort_by(|a, b| candidates[*b].confidence.total_cmp(&candidates[*a].confidence));
        masked.truncate(sure.max(least));
        masked.sort_unstable();
        let edited = match *self {
            Rule::Threshold { .. } => Vec::new(),
            Rule::ThresholdEdit { editing_threshold, .. } => (0..candidates.len())
                .filter(|i| {
                    let c = &candidates[*i];
                    !is_masked(c) && c.token != block_tokens[c.at] && c.confidence > editing_threshold
                })
                .collect(),
        };
        Settled { unmasked: masked, edited }
    }

    /// Returns whether a block needs no further pass.
    ///
    /// `pass` counts the passes done, `post` those that began with nothing masked, `edited` what
    /// the last one replaced, `has_masks` whether masks are left.
    pub fn is_done(
        &self,
        pass: usize,
        post: usize,
        edited: usize,
        has_masks: bool,
        began_masked: bool,
    ) -> bool {
        match *self {
            Rule::Threshold { steps, .. } => !has_masks || pass >= steps,
            Rule::ThresholdEdit { max_post_steps, .. } => {
                !has_masks && !began_masked && (edited == 0 || post >= max_post_steps)
            }
        }
    }
}

/// Returns the share of pass `pass` when `count` is split over `passes` as evenly as possible, larger shares first.
fn even_share(count: usize, passes: usize, pass: usize) -> usize {
    let passes = passes.max(1);
    count / passes + usize::from(pass < count % passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(confidences: &[f32]) -> Vec<Candidate> {
        let candidate = |(at, c): (usize, &f32)| Candidate { at, token: 7, confidence: *c };
        confidences.iter().enumerate().map(candidate).collect()
    }

    #[test]
    fn everything_surer_than_the_threshold_settles() {
        let rule = Rule::Threshold { threshold: 0.5, steps: 4 };
        let settled = rule.settle(0, &[0, 0, 0, 0], 0, &candidates(&[0.9, 0.2, 0.6, 0.7]));
        assert_eq!(settled.unmasked, [0, 2, 3]);
    }

    #[test]
    fn an_even_share_settles_when_nothing_is_sure() {
        let rule = Rule::Threshold { threshold: 0.95, steps: 3 };
        let settled = rule.settle(0, &[0, 0, 0, 0], 0, &candidates(&[0.1, 0.4, 0.3, 0.2]));
        assert_eq!(settled.unmasked, [1, 2], "4 over 3 passes is 2, 1, 1");
        let settled = rule.settle(1, &[0, 0, 0, 0], 0, &candidates(&[0.1, 0.4, 0.3, 0.2]));
        assert_eq!(settled.unmasked, [1]);
    }

    #[test]
    fn an_edit_replaces_only_what_differs_and_is_sure() {
        let rule = Rule::ThresholdEdit { threshold: 0.9, editing_threshold: 0.5, max_post_steps: 2 };
        let settled = rule.settle(3, &[7, 5, 5], 0, &candidates(&[0.9, 0.6, 0.4]));
        assert_eq!(settled, Settled { unmasked: vec![], edited: vec![1] });
        assert!(rule.is_done(4, 1, 0, false, false));
        assert!(!rule.is_done(4, 1, 1, false, false));
        assert!(rule.is_done(5, 2, 1, false, false));
    }
}
