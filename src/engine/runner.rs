//! One step: sequences to chunks, chunks through the model, rows to candidates, candidates to sequences.

use std::sync::Arc;
use std::sync::OnceLock;

use crate::engine::config::Attention;
use crate::engine::config::ModelConfig;
use crate::engine::kv_cache::PAGE;
use crate::engine::levenshtein::Levenshtein;
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Backend;
use crate::engine::model::forward::Chunk;
use crate::engine::model::forward::Sight;
use crate::engine::model::forward::forward;
use crate::engine::model::head::Likeliest;
use crate::engine::model::tuned::Adapter;
use crate::engine::model::tuned::AdapterId;
use crate::engine::ops::softmax::entropy;
use crate::engine::ops::softmax::largest;
use crate::engine::ops::softmax::peak;
use crate::engine::ops::softmax::sum_of_exponentials;
use crate::engine::pages::Before;
use crate::engine::pages::Origin;
use crate::engine::pages::PageId;
use crate::engine::pages::Pages;
use crate::engine::sampler::Candidate;
use crate::engine::sampler::Choice;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Change;
use crate::engine::sequence::Purpose;
use crate::engine::sequence::Sequence;

/// A sequence with its keys and values.
#[derive(Debug)]
pub struct Slot {
    /// The tokens.
    pub sequence: Sequence,
    /// Whose experts it runs through; the base's when `None`.
    adapter: Option<Arc<Adapter>>,
    /// The pages of its keys and values.
    table: Vec<PageId>,
    /// How many of them, from the first, are in the index of prefixes.
    entered: usize,
    /// How many positions it began with because another sequence had computed them.
    pub reused: usize,
    /// Tokens whose probabilities are wanted at a scored position, and the answer.
    pub labels: Vec<u32>,
    /// The probabilities of `labels` among themselves, once scored.
    pub scores: Vec<f32>,
}

/// The pages that were reserved for a sequence.
#[derive(Debug)]
pub struct Room {
    adapter: Option<Arc<Adapter>>,
    table: Vec<PageId>,
    entered: usize,
}

impl Slot {
    /// Puts a sequence in the room that was reserved for it.
    pub fn new(mut sequence: Sequence, labels: Vec<u32>, room: Room) -> Slot {
        let Room { adapter, table, entered } = room;
        let reused = entered * PAGE;
        sequence.prefilled(reused);
        Slot { sequence, adapter, table, entered, reused, labels, scores: Vec::new() }
    }

    /// Returns whose experts it runs through.
    pub fn adapter_id(&self) -> Option<AdapterId> {
        self.adapter.as_ref().map(|adapter| adapter.id)
    }

    fn origin(&self) -> Origin {
        Origin { block: self.sequence.form.block, adapter: self.adapter_id() }
    }
}

/// What one slot's step did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Rows computed.
    pub rows: usize,
    /// What changed in the current block; `None` when only the cache was filled.
    pub change: Option<Change>,
}

/// What computes, and who has which of its pages.
#[derive(Debug)]
pub struct Runner {
    backend: Box<dyn Backend>,
    pages: Pages,
}

/// One row of the output whose head is wanted.
struct Wanted {
    slot: usize,
    row: usize,
    position: usize,
}

/// What was read of a row of logits.
#[derive(Debug)]
enum Answer {
    Candidate(Candidate),
    Scores(Vec<f32>),
}

impl Runner {
    /// Makes a runner with a cache of at most about `cache_bytes`, and of one page at least.
    pub fn new(mut backend: Box<dyn Backend>, cache_bytes: usize) -> Runner {
        let pages = pool(&mut *backend, cache_bytes);
        Runner { backend, pages }
    }

    /// Returns how many positions of sequences the cache has room for.
    pub fn capacity(&self) -> usize {
        self.pages.count() * PAGE
    }

    /// Returns the model's shapes.
    pub fn config(&self) -> &ModelConfig {
        self.backend.config()
    }

    /// Returns how many bytes the keys and values of a position take.
    pub fn bytes_per_position(&self) -> usize {
        self.backend.bytes_per_position()
    }

    /// Returns how many bytes of weights the last step read, if it asked the head for anything.
    pub fn touched_bytes(&self) -> usize {
        self.backend.touched_bytes()
    }

    /// Returns for how many positions there are pages that no slot holds.
    pub fn available(&self) -> usize {
        self.pages.available() * PAGE
    }

    /// Takes pages for all of a sequence; `None` while too many are held by others.
    ///
    /// What another sequence with the same adapter computed for the same beginning is not computed again.
    pub fn reserve(&mut self, sequence: &Sequence, adapter: Option<&Arc<Adapter>>) -> Option<Room> {
        let shared = if is_shareable(sequence) {
            let final_tokens = &sequence.tokens[..sequence.current.min(sequence.tokens.len())];
            let origin = Origin { block: sequence.form.block, adapter: adapter.map(|adapter| adapter.id) };
            self.pages.share(origin, final_tokens)
        } else {
            Vec::new()
        };
        let entered = shared.len();
        let table = self.take(sequence.tokens.len(), shared)?;
        Some(Room { adapter: adapter.cloned(), table, entered })
    }

    /// Takes the pages for `positions` of one sequence, of which the first `shared` are there
    /// already; `None`, and nothing is taken, while too many are held by others.
    fn take(&mut self, positions: usize, shared: Vec<PageId>) -> Option<Vec<PageId>> {
        let wanted = positions.div_ceil(PAGE).saturating_sub(shared.len());
        if wanted > self.pages.available() {
            self.pages.release_all(&shared);
            return None;
        }
        let mut table = shared;
        for _ in 0..wanted {
            table.push(self.pages.take().expect("as many are available"));
        }
        Some(table)
    }

    /// Makes a slot for a sequence of the base model if there is room.
    pub fn slot(&mut self, sequence: Sequence, labels: Vec<u32>) -> Option<Slot> {
        let room = self.reserve(&sequence, None)?;
        Some(Slot::new(sequence, labels, room))
    }

    /// Forgets all prefixes. No slot may be in use.
    pub fn forget(&mut self, cache_bytes: usize) {
        self.pages = pool(&mut *self.backend, cache_bytes);
    }

    /// Gives the pages of a slot back; what is indexed stays until its place is needed.
    pub fn release(&mut self, slot: &Slot) {
        self.pages.release_all(&slot.table);
    }

    /// Lets other sequences find the full pages whose keys and values are final.
    fn enter(&mut self, slot: &mut Slot) {
        if !is_shareable(&slot.sequence) {
            return;
        }
        while (slot.entered + 1) * PAGE <= slot.sequence.cached {
            let at = slot.entered;
            let before = match at.checked_sub(1) {
                Some(before) => Before::Page(slot.table[before]),
                None => Before::Start(slot.origin()),
            };
            let tokens = &slot.sequence.tokens[at * PAGE..(at + 1) * PAGE];
            slot.table[at] = self.pages.enter(before, slot.table[at], tokens);
            slot.entered += 1;
        }
    }

    /// Returns the logits of every position of `tokens`, `[tokens, vocabulary]`, as the head gives them and
    /// not shifted.
    ///
    /// # Panics
    /// When the cache has no room for them.
    pub fn logits(&mut self, tokens: &[u32], sight: Sight) -> Vec<f32> {
        let table = self.take(tokens.len(), Vec::new()).expect("the cache has room for the tokens");
        let wanted = 0..tokens.len();
        let chunks = [Chunk { tokens, start: 0, sight, table: &table, wanted, adapter: None }];
        forward(&mut *self.backend, &chunks, &[]);
        self.pages.release_all(&table);
        let rows: Vec<usize> = (0..tokens.len()).collect();
        let read: Vec<OnceLock<Vec<f32>>> = vec![OnceLock::new(); tokens.len()];
        self.backend.logits(&rows, &|i, logits| drop(read[i].set(logits.to_vec())));
        read.into_iter().flat_map(|row| row.into_inner().expect("every row is read")).collect()
    }

    /// Runs one step over slots with the rows that each may use; slots with the same adapter that stand
    /// together run through its experts together.
    pub fn step(&mut self, slots: &mut [(&mut Slot, usize)]) -> Vec<Outcome> {
        let mut chunks = Vec::with_capacity(slots.len());
        let mut wanted = Vec::new();
        let mut outcomes = Vec::with_capacity(slots.len());
        let mut row = 0;
        for (i, (slot, rows)) in slots.iter().enumerate() {
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
                table: &slot.table,
                wanted: sources,
                adapter: slot.adapter.as_deref(),
            });
        }
        let ends: Vec<(usize, bool)> =
            chunks.iter().map(|c| (c.start + c.tokens.len(), !c.wanted.is_empty())).collect();
        let (greedy, others): (Vec<Wanted>, Vec<Wanted>) =
            wanted.into_iter().partition(|w| is_greedy(slots[w.slot].0, w.position));
        let asked: Vec<Asked> = greedy.iter().map(|w| ask(&slots[w.slot].0.sequence, w)).collect();
        let likeliest = forward(&mut *self.backend, &chunks, &asked);
        let answers: Vec<OnceLock<Answer>> = others.iter().map(|_| OnceLock::new()).collect();
        let rows: Vec<usize> = others.iter().map(|w| w.row).collect();
        self.backend.logits(&rows, &|i, logits| {
            let Wanted { slot, position, .. } = others[i];
            drop(answers[i].set(read(slots[slot].0, position, logits)));
        });
        let mut candidates: Vec<Vec<Candidate>> = vec![Vec::new(); slots.len()];
        for (w, Likeliest { token, probability }) in greedy.iter().zip(likeliest) {
            let at = w.position - slots[w.slot].0.sequence.current;
            let candidate = Candidate { at, token, confidence: probability, ..Candidate::default() };
            candidates[w.slot].push(candidate);
        }
        for (w, answer) in others.iter().zip(answers) {
            match answer.into_inner().expect("every row is read") {
                Answer::Candidate(candidate) => candidates[w.slot].push(candidate),
                Answer::Scores(scores) => slots[w.slot].0.scores = scores,
            }
        }
        // Both lists are in the order of positions; rules that find two equal take the first.
        candidates.iter_mut().for_each(|of_slot| of_slot.sort_by_key(|candidate| candidate.at));
        for (i, ((slot, _), (end, reaches))) in slots.iter_mut().zip(ends).enumerate() {
            if reaches {
                outcomes[i].change = Some(slot.sequence.apply(&candidates[i]));
            } else {
                slot.sequence.prefilled(end);
            }
            self.enter(slot);
        }
        outcomes
    }
}

/// Makes a pool of pages that together take about so many bytes, and room for them.
fn pool(backend: &mut dyn Backend, cache_bytes: usize) -> Pages {
    let pages = Pages::new((cache_bytes / (backend.bytes_per_position() * PAGE)).max(1));
    backend.pool(pages.count());
    pages
}

/// Returns whether a page of the sequence depends on nothing that comes after the page.
fn is_shareable(sequence: &Sequence) -> bool {
    sequence.form.attention == Attention::BlockCausal && PAGE.is_multiple_of(sequence.form.block)
}

/// Returns whether of a position nothing is wanted but the likeliest token and its probability.
fn is_greedy(slot: &Slot, position: usize) -> bool {
    let Purpose::Generate(generate) = &slot.sequence.purpose else { return false };
    let has_structure = slot.sequence.fill.as_ref().is_some_and(|f| f.positions().contains(&position));
    let wants_more = generate.rule.ranks_by_entropy() || matches!(generate.rule, Rule::Levenshtein(_));
    generate.sampling.is_none() && !wants_more && !has_structure
}

/// Returns what the head is asked about a position, with the tokens that are not written there.
fn ask<'a>(sequence: &'a Sequence, wanted: &Wanted) -> Asked<'a> {
    let Purpose::Generate(generate) = &sequence.purpose else {
        return Asked { row: wanted.row, closed: &[], closed_here: Vec::new() };
    };
    let here = generate.banned_at.iter().filter(|(position, _)| *position == wanted.position);
    Asked { row: wanted.row, closed: &generate.banned, closed_here: here.map(|(_, id)| *id).collect() }
}

/// Reads one row of logits: the token that is allowed and likeliest or drawn, or the labels' probabilities.
fn read(slot: &Slot, position: usize, logits: &mut [f32]) -> Answer {
    match &slot.sequence.purpose {
        Purpose::Score { .. } => {
            let of_labels: Vec<f32> = slot.labels.iter().map(|l| logits[*l as usize]).collect();
            let best = largest(&of_labels);
            let exponentials: Vec<f32> = of_labels.iter().map(|s| (s - best).exp()).collect();
            let sum: f32 = exponentials.iter().sum();
            Answer::Scores(exponentials.iter().map(|e| e / sum).collect())
        }
        Purpose::Generate(generate) => {
            let here = generate.banned_at.iter().filter(|(p, _)| *p == position).map(|(_, id)| id);
            for id in generate.banned.iter().chain(here) {
                logits[*id as usize] = f32::NEG_INFINITY;
            }
            // Confidence is the probability among what is allowed: text that the structure forces is
            // certain and settles at once, and there is no other text that it could be.
            if let Some(fill) = slot.sequence.fill.as_ref().filter(|f| f.positions().contains(&position)) {
                fill.mask(position, logits);
            }
            // Only what is written anew is drawn; what is edited is so for being likelier.
            let is_masked = slot.sequence.tokens[position] == slot.sequence.form.mask;
            let is_drawn = is_masked || !matches!(generate.rule, Rule::Levenshtein(_));
            let Choice { token, confidence } = match generate.sampling.filter(|_| is_drawn) {
                Some(sampling) => {
                    let (token, confidence) = sampling.draw(logits, position, slot.sequence.pass);
                    Choice { token, confidence }
                }
                None => likeliest(logits, &[]),
            };
            let (mut text, mut second) = (Choice::default(), Choice::default());
            if let Rule::Levenshtein(Levenshtein { delete, insert, .. }) = generate.rule {
                text = match token == delete || token == insert {
                    true => likeliest(logits, &[delete, insert]),
                    false => Choice { token, confidence },
                };
                second = likeliest(logits, &[delete, insert, token]);
            }
            let entropy = if generate.rule.ranks_by_entropy() {
                let best = largest(logits);
                entropy(logits, best, sum_of_exponentials(logits, best))
            } else {
                0.0
            };
            let at = position - slot.sequence.current;
            Answer::Candidate(Candidate { at, token, confidence, entropy, text, second })
        }
    }
}

/// Returns the likeliest token but for those excepted, with its probability among all.
fn likeliest(logits: &[f32], excepted: &[u32]) -> Choice {
    let peak = peak(logits);
    if !excepted.contains(&(peak.at as u32)) {
        return Choice { token: peak.at as u32, confidence: 1.0 / peak.sum };
    }
    let (best, sum) = (peak.value, peak.sum);
    let others = (0_u32..).zip(logits).filter(|(token, _)| !excepted.contains(token));
    // Of equal scores the first counts, as above.
    let found = others.reduce(|found, other| if other.1 > found.1 { other } else { found });
    found.map_or(Choice::default(), |(token, score)| Choice { token, confidence: (score - best).exp() / sum })
}
