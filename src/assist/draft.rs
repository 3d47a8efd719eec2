//! Turns and cards to a draft that denoises in sight.

use crate::event::Card;
use crate::event::DraftState;
use crate::prompt::Turn;

/// What a draft is written from.
#[derive(Debug, Clone)]
pub struct DraftRequest {
    /// The recent turns, redacted, oldest first.
    pub turns: Vec<Turn>,
    /// The cards that answer the last turn, best first; may be empty.
    pub cards: Vec<Card>,
    /// What the agent wants of it.
    pub instruction: Option<String>,
}

/// A draft of which only some spans are rewritten.
#[derive(Debug, Clone)]
pub struct EditRequest {
    /// The turns and cards of the draft.
    pub context: DraftRequest,
    /// The draft's text.
    pub text: String,
    /// The stretches that may change: `[start, end)` in Unicode scalar values.
    pub spans: Vec<(usize, usize)>,
    /// Texts that must stand in the result.
    pub must_include: Vec<String>,
    /// Texts that must not stand in the changed spans.
    pub forbid: Vec<String>,
    /// The most tokens a span may take.
    pub max_tokens: Option<usize>,
}

/// A draft as it stands after one more step.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftUpdate {
    /// The settled text.
    pub text: String,
    /// What follows while blocks denoise; each masked token is one `░`.
    pub tentative_text: Option<String>,
    /// The stretches of `text` quoted from cards, in Unicode scalar values.
    pub quotes: Vec<(usize, usize)>,
    /// The ids of the cards it rests on.
    pub cards: Vec<String>,
    /// Where it stands.
    pub state: DraftState,
    /// Denoising passes so far.
    pub steps: u32,
    /// Tokens written so far.
    pub tokens: u32,
    /// Why it failed.
    pub error: Option<String>,
}

/// Writes drafts with the engine.
#[derive(Debug, Clone)]
pub struct Drafter {}

/// A draft being written. Dropping it cancels the work.
#[derive(Debug)]
pub struct DraftStream {
    first: Option<DraftUpdate>,
}

impl Drafter {
    /// Returns a drafter whose every draft fails with `reason`: the model is not loaded.
    pub fn without_model(_reason: &str) -> Drafter {
        Drafter {}
    }

    /// Starts a draft. Failure is an update too.
    pub fn draft(&self, _request: DraftRequest) -> DraftStream {
        DraftStream { first: None }
    }

    /// Starts a rewrite of some spans of a draft; every character outside them stays as it was.
    pub fn edit(&self, _request: EditRequest) -> DraftStream {
        DraftStream { first: None }
    }
}

impl DraftStream {
    /// Returns the next update, the last of which is done or failed; then `None`.
    ///
    /// Updates that nobody fetched are replaced by newer ones. Cancel-safe.
    pub async fn next(&mut self) -> Option<DraftUpdate> {
        self.first.take()
    }
}
