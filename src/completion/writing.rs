//! A text on its way: what the engine reports, read as text, until the text is complete.

use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use tokio::sync::OwnedSemaphorePermit;

use crate::completion::Completer;
use crate::completion::CompletionError;
use crate::completion::Options;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Written;
use crate::engine::handle::EngineError;
use crate::engine::handle::Generation;
use crate::engine::handle::Snapshot;

/// How often a text that holds what is forbidden is written again.
const MOST_ROUNDS: usize = 12;

/// What a text took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens given: the prompt, and what stands around the open parts.
    pub prompt_tokens: usize,
    /// Of them those whose keys and values did not have to be computed.
    pub cached_tokens: usize,
    /// Tokens of what was written.
    pub completion_tokens: usize,
    /// Denoising passes.
    pub steps: u32,
    /// How many were predicted, after the first pass of each block.
    pub predicted_steps: u32,
    /// How many fewer they are than one for each token of the blocks that began.
    pub saved_steps: u32,
}

impl Usage {
    /// Adds up what texts of the same prompt took: the prompt counts once, and as cached only what was
    /// so for all of them.
    pub fn together(usages: &[Usage]) -> Usage {
        Usage {
            prompt_tokens: usages.iter().map(|usage| usage.prompt_tokens).max().unwrap_or(0),
            cached_tokens: usages.iter().map(|usage| usage.cached_tokens).min().unwrap_or(0),
            completion_tokens: usages.iter().map(|usage| usage.completion_tokens).sum(),
            steps: usages.iter().map(|usage| usage.steps).sum(),
            predicted_steps: usages.iter().map(|usage| usage.predicted_steps).sum(),
            saved_steps: usages.iter().map(|usage| usage.saved_steps).sum(),
        }
    }

    /// Returns how many tokens settled in a denoising pass on average.
    pub fn tokens_per_step(&self) -> f64 {
        self.completion_tokens as f64 / f64::from(self.steps.max(1))
    }
}

/// A text as it stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// What stands in each open part.
    pub written: Vec<Written>,
    /// What it took so far.
    pub usage: Usage,
    /// Whether it is complete.
    pub is_done: bool,
}

impl Update {
    /// Returns the mean log-probability of what was written.
    pub fn mean_log_probability(&self) -> f32 {
        let sum: f32 = self.written.iter().map(|w| w.mean_log_probability * w.counted as f32).sum();
        sum / self.written.iter().map(|w| w.counted).sum::<usize>().max(1) as f32
    }
}

/// A text on its way. Dropping it cancels the work.
#[derive(Debug)]
pub struct Writing {
    completer: Completer,
    /// `None` once the text is complete.
    generation: Option<Generation>,
    canvas: Canvas,
    options: Options,
    /// Rounds that were begun; more than one where something forbidden was written.
    rounds: usize,
    /// What the rounds before took.
    before: Usage,
    /// Tokens that wrote what is forbidden: (position, id).
    banned_at: Vec<(usize, u32)>,
    /// Whether steps that settle nothing are passed over.
    is_settled_only: bool,
    /// How many tokens were settled at the last look.
    settled: usize,
    _place: OwnedSemaphorePermit,
}

impl Writing {
    pub(super) fn new(
        completer: Completer,
        generation: Generation,
        canvas: Canvas,
        options: Options,
        place: OwnedSemaphorePermit,
    ) -> Writing {
        Writing {
            completer,
            generation: Some(generation),
            canvas,
            options,
            rounds: 1,
            before: Usage::default(),
            banned_at: Vec::new(),
            is_settled_only: false,
            settled: 0,
            _place: place,
        }
    }

    /// Passes over steps that settle nothing: who does not show them need not wait for them to be read.
    pub fn settled_only(mut self) -> Writing {
        self.is_settled_only = true;
        self
    }

    /// Returns the newest state, the last of which is complete; then `None`. Cancel-safe.
    ///
    /// A text that is ended before its last token cancels what is left of the work. While something is
    /// forbidden all of a text may still change, until it is complete.
    ///
    /// # Errors
    /// When the engine stops, did not begin by the deadline, or found no wording without what is
    /// forbidden.
    pub async fn next(&mut self) -> Result<Option<Update>, CompletionError> {
        loop {
            let Some(generation) = &mut self.generation else { return Ok(None) };
            let snapshot = generation.next().await?.ok_or(EngineError::Stopped)?;
            if self.is_settled_only && !snapshot.is_done && snapshot.settled <= self.settled {
                continue;
            }
            self.settled = snapshot.settled;
            let mut written = self.canvas.read(&snapshot, self.completer.reading(&self.options.stop));
            let is_done = snapshot.is_done || written.iter().all(|written| written.is_complete);
            let usage = self.usage(&snapshot, &written);
            if is_done && self.begins_again(&snapshot, usage)? {
                continue;
            }
            if is_done {
                self.generation = None;
                self.completer.shared.done.fetch_add(1, Relaxed);
            } else if !self.options.forbid.is_empty() {
                for written in &mut written {
                    written.tentative.insert_str(0, &std::mem::take(&mut written.text));
                }
            }
            return Ok(Some(Update { written, usage, is_done }));
        }
    }

    fn usage(&self, snapshot: &Snapshot, written: &[Written]) -> Usage {
        Usage {
            prompt_tokens: self.canvas.given,
            cached_tokens: snapshot.reused.min(self.canvas.given),
            completion_tokens: written.iter().map(|written| written.tokens).sum(),
            steps: self.before.steps + snapshot.steps,
            predicted_steps: self.before.predicted_steps + snapshot.predicted_steps,
            saved_steps: self.before.saved_steps + snapshot.fixed_steps.saturating_sub(snapshot.steps),
        }
    }

    /// Begins another round if something forbidden was written: without the tokens that wrote it, in
    /// their places.
    fn begins_again(&mut self, snapshot: &Snapshot, usage: Usage) -> Result<bool, CompletionError> {
        if self.options.forbid.is_empty() {
            return Ok(false);
        }
        let (bytes, places) = self.canvas.bytes(snapshot, self.completer.reading(&[]));
        let offences = self.options.forbid.find(&bytes, &places);
        let Some(first) = offences.first() else { return Ok(false) };
        if self.rounds >= MOST_ROUNDS {
            self.generation = None;
            return Err(CompletionError::Forbidden(first.text.to_owned()));
        }
        for offence in &offences {
            // The token that the model was least sure of gives way.
            let least = offence.places.iter().copied();
            let least = least.min_by(|a, b| snapshot.confidences[*a].total_cmp(&snapshot.confidences[*b]));
            let banned = least.map(|at| (self.canvas.prompt.len() + at, snapshot.canvas[at]));
            self.banned_at.extend(banned);
        }
        self.rounds += 1;
        (self.before, self.settled) = (usage, 0);
        self.generation =
            Some(self.completer.generate(&self.canvas, &self.options, self.banned_at.clone())?);
        Ok(true)
    }

    /// Returns the complete text.
    ///
    /// # Errors
    /// As [`Writing::next`].
    pub async fn finish(mut self) -> Result<Update, CompletionError> {
        self.is_settled_only = true;
        let mut last = Update::default();
        while let Some(update) = self.next().await? {
            last = update;
        }
        Ok(last)
    }
}

/// Waits for all candidates and returns them, the likeliest first. One that found no wording without
/// what is forbidden is left out, if others did.
///
/// # Errors
/// As [`Writing::next`].
pub async fn finish(candidates: Vec<Writing>) -> Result<Vec<Update>, CompletionError> {
    let mut updates = Vec::new();
    let mut forbidden = None;
    for finished in join_all(candidates.into_iter().map(Writing::finish)).await {
        match finished {
            Ok(update) => updates.push(update),
            Err(error @ CompletionError::Forbidden(_)) => forbidden = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let (true, Some(error)) = (updates.is_empty(), forbidden) {
        return Err(error);
    }
    updates.sort_by(|a, b| b.mean_log_probability().total_cmp(&a.mean_log_probability()));
    Ok(updates)
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.generation.is_some() {
            self.completer.shared.cancelled.fetch_add(1, Relaxed);
        }
    }
}
