//! How many passes a sequence took, was predicted to take, and may still take.

use crate::engine::sampler::Candidate;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Purpose;
use crate::engine::sequence::Sequence;
use crate::engine::steps::Features;
use crate::engine::steps::Glance;

/// The threshold that stands for a rule that has none, when passes are predicted.
const USUAL_THRESHOLD: f32 = 0.9;
/// In how many equal parts a threshold is lowered to its bound.
const LOWERINGS: usize = 16;

/// The passes of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passes {
    /// What its first pass looked like.
    pub features: Features,
    /// Masks that it began with: passes of the fixed schedule, which settles one in each.
    pub masked: u32,
    /// How many were predicted after the first.
    pub predicted: f64,
    /// How many it took so far.
    pub taken: u32,
}

impl Sequence {
    /// Returns the passes that were predicted for the blocks that began.
    pub fn predicted_steps(&self) -> u32 {
        self.history.iter().map(|block| block.predicted).sum::<f64>().round() as u32
    }

    /// Returns the passes that those blocks would take one token at a time.
    pub fn fixed_steps(&self) -> u32 {
        self.history.iter().map(|block| block.masked).sum()
    }

    /// Returns about how many passes are left; blocks that have not begun count for one.
    pub fn predicted_left(&self) -> u32 {
        let now = match self.history.last().filter(|_| self.pass > 0) {
            Some(block) => (block.predicted.ceil() as u32).saturating_sub(block.taken).max(1),
            None => 1,
        };
        let later = self.tokens.len().saturating_sub(self.block_end()).div_ceil(self.form.block.max(1));
        now + later as u32
    }

    /// Returns what the model says of the masked positions of the current block.
    pub(super) fn glance(&self, candidates: &[Candidate]) -> Glance {
        let is_masked = |c: &&Candidate| self.tokens[self.current + c.at] == self.form.mask;
        let ends = matches!(&self.purpose, Purpose::Generate(generate) if generate.stops_at_end);
        let end = candidates.iter().find(|c| ends && c.token == self.form.end_of_text);
        let end = end.map_or(usize::MAX, |c| c.at);
        let masked: Vec<&Candidate> = candidates.iter().filter(is_masked).collect();
        let mut confidences: Vec<f32> = masked.iter().map(|c| c.confidence).collect();
        confidences.sort_by(|a, b| b.total_cmp(a));
        Glance { confidences, before_end: masked.iter().filter(|c| c.at < end).count() }
    }

    /// Returns the rule of this pass: its threshold is lower when the deadline would be missed, by as
    /// much as meets it and no more than is allowed.
    pub(super) fn rule_now(&self, generate: &Generate, glance: &Glance) -> Rule {
        let confidences = &glance.confidences;
        let rule = generate.rule;
        let (Some(threshold), Some(least), Some(left)) =
            (rule.threshold(), generate.least_threshold, self.passes_left)
        else {
            return rule;
        };
        if least >= threshold || confidences.is_empty() {
            return rule;
        }
        let later = self.tokens[self.block_end()..].iter().filter(|token| **token == self.form.mask).count();
        // What is masked behind the block takes as many passes for each mask as the block does.
        let scale = 1.0 + later as f64 / confidences.len() as f64;
        let lowered = |part: usize| threshold - (threshold - least) * part as f32 / LOWERINGS as f32;
        let meets = |threshold: &f32| {
            let settled = confidences.iter().filter(|c| **c > *threshold).count().max(1);
            let features = Features::of(glance, settled, *threshold);
            self.predict(&rule, generate.min_passes, &features) * scale <= left as f64
        };
        rule.with_threshold((0..=LOWERINGS).map(lowered).find(meets).unwrap_or(least))
    }

    /// Takes note of a pass in which `settled` of the masked positions took a token.
    pub(super) fn note(&mut self, rule: &Rule, min_passes: usize, glance: &Glance, settled: usize) {
        if self.pass == 0 {
            let threshold = rule.threshold().unwrap_or(USUAL_THRESHOLD);
            let features = Features::of(glance, settled, threshold);
            let predicted = self.predict(rule, min_passes, &features);
            self.history.push(Passes {
                features,
                masked: glance.confidences.len() as u32,
                predicted,
                taken: 0,
            });
        }
        if let Some(block) = self.history.last_mut() {
            block.taken += 1;
        }
    }

    /// Returns how many passes the current block takes under a rule.
    fn predict(&self, rule: &Rule, min_passes: usize, features: &Features) -> f64 {
        let masked = features.masked();
        let predicted = match rule.schedule(masked, self.form.block) {
            Some(passes) => passes as f64,
            // A pass that finds nothing to edit ends a block.
            None => self.predictor.passes(features) + f64::from(u8::from(rule.edits())),
        };
        predicted.min(rule.most_passes() as f64).max(min_passes.min(masked) as f64)
    }
}
