//! One step: sequences to chunks, chunks through the model, rows to candidates, candidates to sequences.

use rayon::prelude::*;

use crate::engine::config::Attention;
use crate::engine::kv_cache::KvCache;
use crate::engine::model::transformer::Chunk;
use crate::engine::model::transformer::Model;
use crate::engine::model::transformer::Sight;
use crate::engine::model::transformer::Workspace;
use crate::engine::ops::softmax::entropy;
use crate::engine::ops::softmax::largest;
use crate::engine::ops::softmax::sum_of_exponentials;
use crate::engine::sampler::Candidate;
use crate::engine::sequence::Change;
use crate::engine::sequence::Purpose;
use crate::engine::sequence::Sequence;

/// Rows whose logits are in memory at once, for each thread.
const HEAD_ROWS: usize = 8;

/// A sequence with its keys and values.
#[derive(Debug)]
pub struct Slot {
    /// The tokens.
    pub sequence: Sequence,
    /// Keys and values.
    pub cache: KvCache,
    /// Tokens whose probabilities are wanted at a scored position, and the answer.
    pub labels: Vec<u32>,
    /// The probabilities of `labels` among themselves, once scored.
    pub scores: Vec<f32>,
}

/// What one slot's step did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows computed.
    pub rows: usize,
    /// What changed in the current block; `None` when only the cache was filled.
    pub change: Option<Change>,
}

/// The model with its buffers.
#[derive(Debug)]
pub struct Runner {
    model: Model,
    work: Workspace,
}

/// One row of the output whose head is wanted.
struct Wanted {
    slot: usize,
    row: usize,
    position: usize,
}

enum Read {
    Candidate(Candidate),
    Scores(Vec<f32>),
}

impl Runner {
    /// Makes a runner for a loaded model.
    pub fn new(model: Model) -> Runner {
        Runner { work: Workspace::new(&model.config), model }
    }

    /// Returns the model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Makes a slot for a sequence, with room for all of it.
    pub fn slot(&self, sequence: Sequence, labels: Vec<u32>) -> Slot {
        let cache = KvCache::new(&self.model.config, sequence.tokens.len());
        Slot { sequence, cache, labels, scores: Vec::new() }
    }

    /// Returns the logits of every position of `tokens`, `[tokens, vocabulary]`, without a cache
    /// and as the head gives them, not shifted.
    pub fn logits(&mut self, tokens: &[u32], sight: Sight) -> Vec<f32> {
        let mut cache = KvCache::new(&self.model.config, tokens.len());
        let mut chunks = [Chunk { tokens, start: 0, sight, cache: &mut cache, wanted: 0..tokens.len() }];
        let rows = self.model.forward(&mut chunks, &mut self.work);
        let mut logits = vec![0.0; tokens.len() * self.model.config.vocab_size];
        self.model.logits(&mut logits, rows);
        logits
    }

    /// Runs one step over slots with the rows that each may use.
    pub fn step(&mut self, slots: &mut [(&mut Slot, usize)]) -> Vec<Outcome> {
        let mut chunks = Vec::with_capacity(slots.len());
        let mut wanted = Vec::new();
        let mut outcomes = Vec::with_capacity(slots.len());
        let mut row = 0;
        for (i, (slot, rows)) in slots.iter_mut().enumerate() {
            let slot: &mut Slot = slot;
            let sequence = &slot.sequence;
            let (start, end) = (sequence.cached, sequence.pass_end(*rows));
            outcomes.push(Outcome { rows: end - start, change: None });
            let mut sources = start..start;
            if end >= sequence.block_end() {
                sources = sequence.sources();
                let at = |position: usize| Wanted {
                    slot: i,
                    row: row + sequence.source(position) - sources.start,
                    position,
                };
                wanted.extend(sequence.wanted().into_iter().map(at));
                row += sources.len();
            }
            chunks.push(Chunk {
                tokens: &sequence.tokens[start..end],
                start,
                sight: match sequence.form.attention {
                    Attention::BlockCausal => Sight::Blocks(sequence.form.block),
                    Attention::Full => Sight::Below(sequence.tokens.len()),
                },
                cache: &mut slot.cache,
                wanted: sources,
            });
        }
        let ends: Vec<(usize, bool)> =
            chunks.iter().map(|c| (c.start + c.tokens.len(), !c.wanted.is_empty())).collect();
        let hidden = self.model.config.hidden_size;
        let rows = self.model.forward(&mut chunks, &mut self.work);
        drop(chunks);
        let model = &self.model;
        let read: Vec<Read> = wanted
            .par_chunks(HEAD_ROWS)
            .flat_map_iter(|some| {
                let x: Vec<f32> =
                    some.iter().flat_map(|w| &rows[w.row * hidden..(w.row + 1) * hidden]).copied().collect();
                let mut logits = vec![0.0; some.len() * model.config.vocab_size];
                model.logits(&mut logits, &x);
                some.iter()
                    .zip(logits.chunks_exact_mut(model.config.vocab_size))
                    .map(|(w, logits)| read(slots[w.slot].0, w.position, logits))
                    .collect::<Vec<_>>()
            })
            .collect();
        let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); slots.len()];
        for (w, read) in wanted.iter().zip(read) {
            match read {
                Read::Candidate(candidate) => candidates[w.slot].push(candidate),
                Read::Scores(scores) => slots[w.slot].0.scores = scores,
            }
        }
        for (i, ((slot, _), (end, reaches))) in slots.iter_mut().zip(ends).enumerate() {
            if reaches {
                outcomes[i].change = Some(slot.sequence.apply(&candidates[i]));
            } else {
                slot.sequence.prefilled(end);
            }
        }
        outcomes
    }
}

/// Reads one row of logits: the token that is allowed and likeliest or drawn, or the labels' probabilities.
fn read(slot: &Slot, position: usize, logits: &mut [f32]) -> Read {
    match &slot.sequence.purpose {
        Purpose::Score { .. } => {
            let of_labels: Vec<f32> = slot.labels.iter().map(|l| logits[*l as usize]).collect();
            let best = largest(&of_labels);
            let exponentials: Vec<f32> = of_labels.iter().map(|s| (s - best).exp()).collect();
            let sum: f32 = exponentials.iter().sum();
            Read::Scores(exponentials.iter().map(|e| e / sum).collect())
        }
        Purpose::Generate(generate) => {
            let here = generate.banned_at.iter().filter(|(p, _)| *p == position).map(|(_, id)| id);
            for id in generate.banned.iter().chain(here) {
                logits[*id as usize] = f32::NEG_INFINITY;
            }
            let (token, confidence) = match &generate.sampling {
                Some(sampling) => sampling.draw(logits, position, slot.sequence.pass),
                None => {
                    let best = largest(logits);
                    let token = logits.iter().position(|s| *s == best).unwrap_or(0);
                    (token as u32, 1.0 / sum_of_exponentials(logits, best))
                }
            };
            let entropy = if generate.rule.ranks_by_entropy() {
                let best = largest(logits);
                entropy(logits, best, sum_of_exponentials(logits, best))
            } else {
                0.0
            };
            Read::Candidate(Candidate { at: position - slot.sequence.current, token, confidence, entropy })
        }
    }
}
