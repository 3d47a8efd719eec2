//! What is learned: which tokens of a batch are masked or come next, and what they weigh.
//!
//! **Block diffusion**: each block gets a noise level t, stratified over the batch so that levels are spread evenly, and
//! each of its tokens is masked with probability t (MDLM, arXiv 2406.07524; BD3-LM, arXiv
//! 2503.09573). Label positions are masked almost always; half of the labelled examples have no
//! other noise, which is how labels are asked for at run time. A labelled example never comes by
//! twice as the same text: it begins anywhere and some of its tokens are hidden for good.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use rand::Rng;
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::engine::train::batch::Batch;
use crate::engine::train::batch::Sight;
use crate::engine::train::loss::Target;

/// The smallest noise level of a block.
pub const LEAST_NOISE: f32 = 0.05;
/// How often a label position is masked.
const LABEL_NOISE: f32 = 0.9;
/// What a label position weighs against a token of text: one token in three hundred is a label, so at
/// 3 the labels were a fiftieth of the loss and the emotions had not begun to show after 3 M tokens.
const LABEL_WEIGHT: f32 = 20.0;
/// The largest share of a labelled example's tokens that are hidden. A few thousand examples come by
/// dozens of times: shown as they are they were learned by heart, 92 % of train against 54 % of dev.
const MOST_HIDDEN: f32 = 0.3;
/// The largest share that is cut off the beginning of a labelled example.
const MOST_CUT: f32 = 0.6;
/// How often the masked tokens of a block are one stretch.
const STRETCH_SHARE: f32 = 0.4;
/// What a padding token weighs: it says that a block ends early, and is easy.
const PAD_WEIGHT: f32 = 0.1;

/// What a model learns to predict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Masked tokens of a block, after clean blocks: what serving asks.
    #[default]
    BlockDiffusion,
    /// Masked tokens of a block, after noised blocks: half the rows.
    Masked,
    /// The next token.
    Autoregressive,
}

/// One training document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Example {
    /// Its tokens, from position 0.
    pub tokens: Vec<u32>,
    /// Its labels.
    pub labels: Vec<Label>,
}

/// A label within an example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// Where its token stands.
    pub position: usize,
    /// What it counts beside other labels.
    pub weight: f32,
}

/// Weighs labels by the inverse root of how common they are among those that the same token asks for, 1 on
/// average: else the commonest is said whenever the model is in doubt, and rare ones never.
pub fn balance_labels(examples: &mut [Example]) {
    // In the order of the tokens, so that the sum is the same in every process.
    let mut counts: BTreeMap<Option<u32>, BTreeMap<u32, usize>> = BTreeMap::new();
    let asks = |tokens: &[u32], position: usize| position.checked_sub(1).map(|before| tokens[before]);
    for example in &*examples {
        for label in &example.labels {
            let of_kind = counts.entry(asks(&example.tokens, label.position)).or_default();
            *of_kind.entry(example.tokens[label.position]).or_default() += 1;
        }
    }
    for example in examples {
        for label in &mut example.labels {
            let of_kind = &counts[&asks(&example.tokens, label.position)];
            let all: usize = of_kind.values().sum();
            let sum: f32 = of_kind.values().map(|count| (*count as f32).sqrt()).sum();
            let count = of_kind[&example.tokens[label.position]] as f32;
            label.weight = all as f32 / (sum * count.sqrt());
        }
    }
}

/// The token ids and sizes that noising needs.
#[derive(Debug, Clone, Copy)]
pub struct Noising {
    /// Stands for "not denoised yet".
    pub mask: u32,
    /// Fills the last block.
    pub pad: u32,
    /// Block length.
    pub block: usize,
}

/// Lays examples one behind the other as an objective wants them.
pub fn prepare(objective: Objective, examples: &[&Example], noising: Noising, rng: &mut impl Rng) -> Batch {
    match objective {
        Objective::BlockDiffusion => noise(examples, noising, rng),
        Objective::Masked => {
            let paired = noise(examples, noising, rng);
            Batch { clean: Vec::new(), sight: Sight::Single(noising.block), ..paired }
        }
        Objective::Autoregressive => follow(examples, noising),
    }
}

/// Lays out documents whose every token but the first must be predicted from those before it.
pub fn follow(examples: &[&Example], noising: Noising) -> Batch {
    let mut batch = Batch { sight: Sight::Single(1), ..Batch::default() };
    for example in examples {
        let start = lay(example, noising, &mut batch);
        for (position, token) in example.tokens.iter().enumerate().skip(1) {
            let label = example.labels.iter().find(|label| label.position == position);
            let weight = label.map_or(1.0, |label| LABEL_WEIGHT * label.weight);
            batch.targets.push(Target { row: start + position - 1, token: *token, weight });
        }
    }
    batch.noised = std::mem::take(&mut batch.clean);
    batch
}

/// Lays examples one behind the other in whole blocks, masks them and lists what must be predicted.
pub fn noise(examples: &[&Example], noising: Noising, rng: &mut impl Rng) -> Batch {
    let mut batch = Batch::default();
    let varied: Vec<Cow<Example>> = examples.iter().map(|e| vary(e, noising.mask, rng)).collect();
    let examples: Vec<&Example> = varied.iter().map(Cow::as_ref).collect();
    let mut levels = levels(&examples, noising.block, rng);
    for example in examples {
        let start = lay(example, noising, &mut batch);
        let only_labels = !example.labels.is_empty() && rng.random::<f32>() < 0.5;
        for block in (start..batch.clean.len()).step_by(noising.block) {
            let drawn = levels.pop().expect("one noise level for each block");
            let level = if only_labels { 0.0 } else { drawn };
            let shape = Shape::draw(level, noising.block, rng);
            for row in block..block + noising.block {
                let token = batch.clean[row];
                let label = example.labels.iter().find(|label| label.position == row - start);
                let chance = shape.chance(row - block);
                let chance = if label.is_some() { LABEL_NOISE.max(chance) } else { chance };
                if rng.random::<f32>() >= chance {
                    batch.noised.push(token);
                    continue;
                }
                batch.noised.push(noising.mask);
                if token == noising.mask {
                    continue;
                }
                let weight = match label {
                    Some(label) => LABEL_WEIGHT * label.weight,
                    None if token == noising.pad => PAD_WEIGHT,
                    None => 1.0,
                };
                batch.targets.push(Target { row, token, weight });
            }
        }
    }
    batch
}

/// Which of a block's tokens are masked.
enum Shape {
    /// Each with this chance.
    Scattered(f32),
    /// A stretch of them: half-written text, or a span to be rewritten.
    Stretch(Range<usize>),
}

impl Shape {
    /// Draws a shape that masks about a share of `level`. What is half-way through being denoised is
    /// mostly settled at its beginning, and edits open stretches; neither is scattered.
    fn draw(level: f32, block: usize, rng: &mut impl Rng) -> Shape {
        let length = (level * block as f32).round() as usize;
        if rng.random::<f32>() >= STRETCH_SHARE || length == 0 || length >= block {
            return Shape::Scattered(level);
        }
        let is_end = rng.random::<f32>() < 0.5;
        let start = if is_end { block - length } else { rng.random_range(0..=block - length) };
        Shape::Stretch(start..start + length)
    }

    fn chance(&self, place: usize) -> f32 {
        match self {
            Shape::Scattered(level) => *level,
            Shape::Stretch(range) => f32::from(u8::from(range.contains(&place))),
        }
    }
}

/// Returns a labelled example with some of its tokens hidden and its beginning cut off; others as they are.
fn vary<'a>(example: &'a Example, mask: u32, rng: &mut impl Rng) -> Cow<'a, Example> {
    let Some(first) = example.labels.first() else { return Cow::Borrowed(example) };
    let cut = (rng.random::<f32>() * MOST_CUT * first.position as f32) as usize;
    let hidden = rng.random::<f32>() * MOST_HIDDEN;
    let mut varied = Example::default();
    for (position, token) in example.tokens.iter().enumerate().skip(cut) {
        let is_label = example.labels.iter().any(|label| label.position == position);
        // What asks for the label stands before it.
        let asks = example.labels.iter().any(|label| label.position == position + 1);
        let is_hidden = !is_label && !asks && rng.random::<f32>() < hidden;
        varied.tokens.push(if is_hidden { mask } else { *token });
    }
    let moved = |label: &Label| Label { position: label.position - cut, ..*label };
    varied.labels = example.labels.iter().map(moved).collect();
    Cow::Owned(varied)
}

/// Masks documents for a bound on their likelihood: text only, every row weighs 1 over its level.
pub fn noise_evenly(examples: &[&Example], noising: Noising, rng: &mut impl Rng) -> Batch {
    let mut batch = Batch::default();
    let mut levels = levels(examples, noising.block, rng);
    for example in examples {
        let start = lay(example, noising, &mut batch);
        for block in (start..batch.clean.len()).step_by(noising.block) {
            let level = levels.pop().expect("one noise level for each block");
            for row in block..block + noising.block {
                let token = batch.clean[row];
                let is_text = row - start < example.tokens.len();
                if is_text && rng.random::<f32>() < level {
                    batch.noised.push(noising.mask);
                    batch.targets.push(Target { row, token, weight: 1.0 / level });
                } else {
                    batch.noised.push(token);
                }
            }
        }
    }
    batch
}

/// Appends a document in whole blocks and returns where it starts.
fn lay(example: &Example, noising: Noising, batch: &mut Batch) -> usize {
    let start = batch.clean.len();
    batch.clean.extend_from_slice(&example.tokens);
    let whole = batch.clean.len().next_multiple_of(noising.block);
    batch.clean.resize(whole, noising.pad);
    batch.documents.push(start..whole);
    start
}

/// Returns one noise level for each block of the examples, evenly spread over (0, 1] and shuffled.
fn levels(examples: &[&Example], block: usize, rng: &mut impl Rng) -> Vec<f32> {
    let blocks: usize = examples.iter().map(|e| e.tokens.len().div_ceil(block)).sum();
    let offset: f32 = rng.random();
    let mut levels: Vec<f32> =
        (0..blocks).map(|i| ((i as f32 + offset) / blocks as f32).clamp(LEAST_NOISE, 1.0)).collect();
    levels.shuffle(rng);
    levels
}

/// Returns the next examples of `order` from `cursor` whose blocks hold about `tokens` tokens; at least one.
pub fn take(order: &[u32], examples: &[Example], cursor: usize, tokens: usize, block: usize) -> Range<usize> {
    let mut end = cursor;
    let mut sum = 0;
    while end < order.len() {
        sum += examples[order[end] as usize].tokens.len().div_ceil(block) * block;
        if end > cursor && sum > tokens {
            break;
        }
        end += 1;
    }
    cursor..end
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const NOISING: Noising = Noising { mask: 0, pad: 2, block: 4 };

    #[test]
    fn every_masked_row_is_a_target_and_nothing_else_changes() {
        let mut rng = StdRng::seed_from_u64(7);
        let examples = [
            Example { tokens: (10..19).collect(), labels: vec![] },
            Example { tokens: vec![30, 31, 5, 1], labels: vec![Label { position: 2, weight: 1.0 }] },
        ];
        for _ in 0..50 {
            let batch = noise(&examples.iter().collect::<Vec<_>>(), NOISING, &mut rng);
            assert_eq!(batch.documents, vec![0..12, 12..16]);
            assert_eq!(batch.clean[9..12], [2, 2, 2]);
            let targets: Vec<usize> = batch.targets.iter().map(|t| t.row).collect();
            for row in 0..batch.clean.len() {
                let is_target = targets.contains(&row);
                assert_eq!(batch.noised[row], if is_target { 0 } else { batch.clean[row] });
            }
        }
    }

    #[test]
    fn a_labelled_example_comes_by_as_other_texts_with_the_same_label() {
        let mut rng = StdRng::seed_from_u64(3);
        let label = Label { position: 58, weight: 2.0 };
        let example = Example { tokens: (100..160).collect(), labels: vec![label] };
        let mut lengths = Vec::new();
        let mut hidden = 0;
        for _ in 0..200 {
            let varied = vary(&example, NOISING.mask, &mut rng);
            let [Label { position, weight: 2.0 }] = varied.labels[..] else { panic!("{:?}", varied.labels) };
            assert_eq!(varied.tokens[position - 1..=position], [157, 158], "what asks, and the label");
            let cut = example.tokens.len() - varied.tokens.len();
            let changed = |(i, token): &(usize, &u32)| **token != example.tokens[cut + i];
            assert!(varied.tokens.iter().enumerate().filter(changed).all(|(_, token)| *token == 0));
            hidden += varied.tokens.iter().filter(|token| **token == 0).count();
            lengths.push(varied.tokens.len());
        }
        let (least, most) = (lengths.iter().min(), lengths.iter().max());
        assert!(least < Some(&30) && most > Some(&57), "{least:?} to {most:?}");
        assert!((800..2000).contains(&hidden), "{hidden} of about 8,500 tokens hidden");
        let plain = Example { tokens: vec![5, 6], labels: vec![] };
        assert_eq!(*vary(&plain, NOISING.mask, &mut rng), plain);
    }

    #[test]
    fn rare_labels_weigh_more_and_the_mean_stays() {
        let example =
            |token| Example { tokens: vec![token], labels: vec![Label { position: 0, weight: 1.0 }] };
        let mut examples: Vec<Example> = [7, 7, 7, 7, 9].map(example).into();
        balance_labels(&mut examples);
        let weights: Vec<f32> = examples.iter().map(|e| e.labels[0].weight).collect();
        assert!((weights[4] - 2.0 * weights[0]).abs() < 1e-6, "{weights:?}");
        assert!((weights.iter().sum::<f32>() - 5.0).abs() < 1e-5, "{weights:?}");
    }
}
