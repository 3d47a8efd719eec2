//! A text on its way: what the engine reports, read as text, until the text is complete.

use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::OwnedSemaphorePermit;

use crate::completion::Completer;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Reading;
use crate::completion::canvas::Written;
use crate::engine::handle::EngineError;
use crate::engine::handle::Generation;

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

/// A text on its way. Dropping it cancels the work.
#[derive(Debug)]
pub struct Writing {
    completer: Completer,
    /// `None` once the text is complete.
    generation: Option<Generation>,
    canvas: Canvas,
    stop: Vec<String>,
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
        stop: Vec<String>,
        place: OwnedSemaphorePermit,
    ) -> Writing {
        Writing {
            completer,
            generation: Some(generation),
            canvas,
            stop,
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
    /// A text that is ended before its last token cancels what is left of the work.
    ///
    /// # Errors
    /// When the engine stops.
    pub async fn next(&mut self) -> Result<Option<Update>, EngineError> {
        let Some(generation) = &mut self.generation else { return Ok(None) };
        let snapshot = loop {
            let snapshot = generation.next().await?.ok_or(EngineError::Stopped)?;
            if !self.is_settled_only || snapshot.is_done || snapshot.settled > self.settled {
                break snapshot;
            }
        };
        self.settled = snapshot.settled;
        let shared = &self.completer.shared;
        let reading = Reading {
            tokenizer: shared.engine.tokenizer(),
            mask: shared.engine.model().mask_token_id,
            ends: &shared.ends,
            stop: &self.stop,
        };
        let written = self.canvas.read(&snapshot, reading);
        let is_done = snapshot.is_done || written.iter().all(|written| written.is_complete);
        if is_done {
            self.generation = None;
            shared.done.fetch_add(1, Relaxed);
        }
        let usage = Usage {
            prompt_tokens: self.canvas.given,
            cached_tokens: snapshot.reused.min(self.canvas.given),
            completion_tokens: written.iter().map(|written| written.tokens).sum(),
            steps: snapshot.steps,
            predicted_steps: snapshot.predicted_steps,
            saved_steps: snapshot.fixed_steps.saturating_sub(snapshot.steps),
        };
        Ok(Some(Update { written, usage, is_done }))
    }

    /// Returns the complete text.
    ///
    /// # Errors
    /// When the engine stops.
    pub async fn finish(mut self) -> Result<Update, EngineError> {
        self.is_settled_only = true;
        let mut last = Update::default();
        while let Some(update) = self.next().await? {
            last = update;
        }
        Ok(last)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.generation.is_some() {
            self.completer.shared.cancelled.fetch_add(1, Relaxed);
        }
    }
}
