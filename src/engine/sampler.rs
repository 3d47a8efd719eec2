//! Which positions of a block settle after a pass: one enum of rules, one function.
//!
//! Greedy: every position's candidate is the arg-max token with its softmax probability as
//! confidence. Rules as published: LLaDA2.0 (`threshold`), LLaDA2.1 (`threshold_edit`), LLaDA
//! (`low_confidence`), Fast-dLLM (`factor`, arXiv 2505.22618), SDAR (`entropy_bound`, `sequential`)
//! and LLaDA2.2 (`levenshtein`, which moves tokens too and so has a file of its own).

use serde::Deserialize;
use serde::Serialize;

use crate::engine::levenshtein::Levenshtein;

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
    /// Settle an even share of what was masked when the block began, the surest first.
    LowConfidence {
        /// The passes of a block.
        steps: usize,
    },
    /// Settle the surest while the n-th of them has a confidence of `1 − factor / (n + 1)` or more.
    Factor {
        /// How much doubt is let through; 0 for one token a pass.
        factor: f32,
    },
    /// Settle those of least entropy while the sum of their entropies is within the bound.
    EntropyBound {
        /// The largest sum, in nats.
        bound: f32,
    },
    /// Settle an even share of the block, from left to right.
    Sequential {
        /// The most passes of a block.
        steps: usize,
    },
    /// As `threshold_edit`, and places vanish or open up.
    Levenshtein(Levenshtein),
}

impl Default for Rule {
    fn default() -> Self {
        Rule::Threshold { threshold: 0.9, steps: 32 }
    }
}

/// A token and its probability.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Its probability.
    pub confidence: f32,
}

/// What the model would put at a position.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Candidate {
    /// The position within the block.
    pub at: usize,
    /// The likeliest token.
    pub token: u32,
    /// Its probability.
    pub confidence: f32,
    /// The entropy of the whole distribution in nats, where [`Rule::ranks_by_entropy`]; else 0.
    pub entropy: f32,
    /// With [`Rule::Levenshtein`] the likeliest that is no instruction.
    pub text: Choice,
    /// With [`Rule::Levenshtein`] the likeliest that is no instruction and not `token`.
    pub second: Choice,
}

impl Candidate {
    /// Returns the likeliest token with its probability.
    pub fn choice(&self) -> Choice {
        Choice { token: self.token, confidence: self.confidence }
    }
}

/// A block before a pass is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// Its tokens as they stand.
    pub tokens: &'a [u32],
    /// The id of a masked one.
    pub mask: u32,
    /// How many were masked when it began.
    pub masks_at_start: usize,
    /// The number of the pass, from 0.
    pub pass: usize,
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
        matches!(self, Rule::ThresholdEdit { .. } | Rule::Levenshtein(_))
    }

    /// Returns the confidence that settles a token, where there is one.
    pub fn threshold(&self) -> Option<f32> {
        match *self {
            Rule::Threshold { threshold, .. } | Rule::ThresholdEdit { threshold, .. } => Some(threshold),
            Rule::Levenshtein(Levenshtein { threshold, .. }) => Some(threshold),
            _ => None,
        }
    }

    /// Returns the rule with another threshold, where there is one.
    pub fn with_threshold(mut self, other: f32) -> Rule {
        match &mut self {
            Rule::Threshold { threshold, .. } | Rule::ThresholdEdit { threshold, .. } => *threshold = other,
            Rule::Levenshtein(rule) => rule.threshold = other,
            _ => {}
        }
        self
    }

    /// Returns how many passes a block of `length` takes that begins with `masked` masks, where the
    /// confidences do not matter.
    pub fn schedule(&self, masked: usize, length: usize) -> Option<usize> {
        match *self {
            Rule::LowConfidence { steps } => Some(masked.min(steps.max(1))),
            Rule::Sequential { steps } => {
                let mut left = masked;
                (0..steps.max(1))
                    .position(|pass| {
                        left = left.saturating_sub(even_share(length, steps, pass));
                        left == 0
                    })
                    .map_or(Some(steps.max(1)), |pass| Some(pass + 1))
            }
            _ => None,
        }
    }

    /// Returns the most passes of a block, where the rule limits them.
    pub fn most_passes(&self) -> usize {
        match *self {
            Rule::Threshold { steps, .. } => steps.max(1),
            _ => usize::MAX,
        }
    }

    /// Returns whether candidates need their entropy.
    pub fn ranks_by_entropy(&self) -> bool {
        matches!(self, Rule::EntropyBound { .. })
    }

    /// Chooses what settles after a pass.
    pub fn settle(&self, block: Block, candidates: &[Candidate]) -> Settled {
        let is_masked = |c: &Candidate| block.tokens[c.at] == block.mask;
        let mut unmasked: Vec<usize> = (0..candidates.len()).filter(|i| is_masked(&candidates[*i])).collect();
        // Stable sorts: of equal positions the first settles first.
        match self {
            Rule::Sequential { .. } => unmasked.sort_by_key(|i| candidates[*i].at),
            Rule::EntropyBound { .. } => {
                unmasked.sort_by(|a, b| candidates[*a].entropy.total_cmp(&candidates[*b].entropy));
            }
            _ => unmasked.sort_by(|a, b| candidates[*b].confidence.total_cmp(&candidates[*a].confidence)),
        }
        unmasked.truncate(self.count(block, unmasked.iter().map(|i| &candidates[*i])));
        unmasked.sort_unstable();
        let edited = match *self {
            Rule::ThresholdEdit { editing_threshold, .. }
            | Rule::Levenshtein(Levenshtein { editing_threshold, .. }) => (0..candidates.len())
                .filter(|i| {
                    let c = &candidates[*i];
                    !is_masked(c) && c.token != block.tokens[c.at] && c.confidence > editing_threshold
                })
                .collect(),
            _ => Vec::new(),
        };
        Settled { unmasked, edited }
    }

    /// Returns how many of the masked positions settle, best first.
    fn count<'a>(&self, block: Block, ranked: impl Iterator<Item = &'a Candidate>) -> usize {
        let share = |tokens, steps| even_share(tokens, steps, block.pass);
        match *self {
            Rule::Threshold { threshold, steps } => {
                let sure = ranked.filter(|c| c.confidence > threshold).count();
                sure.max(share(block.tokens.len(), steps))
            }
            Rule::ThresholdEdit { threshold, .. } | Rule::Levenshtein(Levenshtein { threshold, .. }) => {
                ranked.filter(|c| c.confidence > threshold).count().max(1)
            }
            Rule::LowConfidence { steps } => share(block.masks_at_start, steps),
            Rule::Sequential { steps } => share(block.tokens.len(), steps),
            Rule::Factor { factor } => {
                let sure = |(i, c): &(usize, &Candidate)| c.confidence >= 1.0 - factor / (*i as f32 + 2.0);
                ranked.enumerate().take_while(sure).count().max(1)
            }
            Rule::EntropyBound { bound } => {
                let mut sum = 0.0;
                let is_within = |c: &&Candidate| {
                    sum += c.entropy;
                    sum <= bound
                };
                ranked.take_while(is_within).count().max(1)
            }
        }
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
            Rule::Threshold { steps, .. } | Rule::LowConfidence { steps } | Rule::Sequential { steps } => {
                !has_masks || pass >= steps
            }
            Rule::Factor { .. } | Rule::EntropyBound { .. } => !has_masks,
            Rule::ThresholdEdit { max_post_steps, .. }
            | Rule::Levenshtein(Levenshtein { max_post_steps, .. }) => {
                // An edit may mask a token again; the pass that unmasks it does not count as one after.
                !has_masks && (post >= max_post_steps || (!began_masked && edited == 0))
            }
        }
    }
}

/// Returns the share of pass `pass` when `count` is split over `passes` as evenly as possible, larger shares first.
pub(super) fn even_share(count: usize, passes: usize, pass: usize) -> usize {
    let passes = passes.max(1);
    count / passes + usize::from(pass < count % passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(confidences: &[f32]) -> Vec<Candidate> {
        let candidate = |(at, c): (usize, &f32)| Candidate {
            at,
            token: 7,
            confidence: *c,
            entropy: 1.0 - c,
            ..Candidate::default()
        };
        confidences.iter().enumerate().map(candidate).collect()
    }

    /// Checks which positions of a block of masks settle at a pass.
    fn check(rule: Rule, pass: usize, confidences: &[f32], expected: &[usize]) {
        let tokens = vec![0; confidences.len()];
        let block = Block { tokens: &tokens, mask: 0, masks_at_start: tokens.len(), pass };
        let settled = rule.settle(block, &candidates(confidences));
        assert_eq!(settled, Settled { unmasked: expected.to_vec(), edited: vec![] }, "{rule:?}");
    }

    #[test]
    fn everything_surer_than_the_threshold_settles() {
        check(Rule::Threshold { threshold: 0.5, steps: 4 }, 0, &[0.9, 0.2, 0.6, 0.7], &[0, 2, 3]);
    }

    #[test]
    fn an_even_share_settles_when_nothing_is_sure() {
        let rule = Rule::Threshold { threshold: 0.95, steps: 3 };
        check(rule, 0, &[0.1, 0.4, 0.3, 0.2], &[1, 2]); // 4 over 3 passes is 2, 1, 1.
        check(rule, 1, &[0.1, 0.4, 0.3, 0.2], &[1]);
    }

    #[test]
    fn low_confidence_shares_out_what_was_masked_at_the_start() {
        let rule = Rule::LowConfidence { steps: 2 };
        check(rule, 0, &[0.1, 0.9, 0.3, 0.99], &[1, 3]);
        // Three of the four were masked, one still is: the second pass of two settles one.
        let block = Block { tokens: &[5, 0, 5, 5], mask: 0, masks_at_start: 3, pass: 1 };
        assert_eq!(rule.settle(block, &candidates(&[0.9; 4])).unmasked, [1]);
        assert!(rule.is_done(2, 0, 0, true, true), "its passes are used up");
    }

    #[test]
    fn factor_lets_through_less_doubt_the_more_settle() {
        // With a factor of 1 the second needs 2/3, the third 3/4, the fourth 4/5.
        check(Rule::Factor { factor: 1.0 }, 0, &[0.7, 0.95, 0.76, 0.79], &[1, 2, 3]);
        check(Rule::Factor { factor: 0.0 }, 0, &[0.1, 0.95, 0.9, 0.2], &[1]);
        check(Rule::Factor { factor: 1.0 }, 0, &[0.1, 0.2, 0.1, 0.1], &[1]);
    }

    #[test]
    fn entropies_add_up_to_the_bound() {
        // Entropies 0.1, 0.2, 0.3 and 0.4.
        check(Rule::EntropyBound { bound: 0.35 }, 0, &[0.7, 0.9, 0.6, 0.8], &[1, 3]);
        check(Rule::EntropyBound { bound: 0.05 }, 0, &[0.7, 0.9, 0.6, 0.8], &[1]);
        assert!(!Rule::EntropyBound { bound: 0.05 }.is_done(9, 0, 0, true, true));
    }

    #[test]
    fn sequential_goes_from_left_to_right() {
        check(Rule::Sequential { steps: 2 }, 0, &[0.1, 0.2, 0.9, 0.9], &[0, 1]);
    }

    #[test]
    fn a_schedule_that_does_not_look_at_confidences_is_known_before() {
        assert_eq!(Rule::LowConfidence { steps: 3 }.schedule(16, 16), Some(3));
        assert_eq!(Rule::LowConfidence { steps: 8 }.schedule(5, 16), Some(5));
        assert_eq!(Rule::Sequential { steps: 4 }.schedule(5, 16), Some(2), "four a pass");
        assert_eq!(Rule::default().schedule(16, 16), None);
    }

    #[test]
    fn an_edit_replaces_only_what_differs_and_is_sure() {
        let rule = Rule::ThresholdEdit { threshold: 0.9, editing_threshold: 0.5, max_post_steps: 2 };
        let block = Block { tokens: &[7, 5, 5], mask: 0, masks_at_start: 3, pass: 3 };
        let settled = rule.settle(block, &candidates(&[0.9, 0.6, 0.4]));
        assert_eq!(settled, Settled { unmasked: vec![], edited: vec![1] });
        assert!(rule.is_done(4, 1, 0, false, false));
        assert!(!rule.is_done(4, 1, 1, false, false));
        assert!(rule.is_done(5, 2, 1, false, false));
        assert!(!rule.is_done(5, 2, 1, true, false), "an edit has masked a token");
        assert!(rule.is_done(6, 2, 3, false, true), "it is unmasked, and no passes are left");
    }
}
