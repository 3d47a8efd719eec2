//! Turns and cards to a draft that denoises in sight.
//!
//! With a checkpoint that drafts by `quote`, sentences of the cards are pinned in the canvas and the
//! model denoises what stands before and after them; one that drafts `free` writes everything. How a
//! draft is written and checked stands in `writing`.

use std::sync::Arc;

use crate::assist::writing::DraftError;
use crate::assist::writing::Writer;
use crate::assist::writing::Writing;
use crate::engine::config::Drafting;
use crate::engine::handle::Engine;
use crate::engine::scheduler::Claim;
use crate::engine::tokenizer::TokenizerError;
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
    /// What the agent wants of it: it moves what is quoted, and stands in the prompt.
    pub instruction: Option<String>,
    /// For which call, and after how many of its turns: newer drafts go before older ones.
    pub claim: Claim,
}

/// A draft of which only some spans are rewritten.
#[derive(Debug, Clone)]
pub struct EditRequest {
    /// The turns and cards of the draft.
    pub context: DraftRequest,
    /// The draft's text.
    pub text: String,
    /// Its stretches quoted from cards, in Unicode scalar values.
    pub quotes: Vec<(usize, usize)>,
    /// The stretches that may change: `[start, end)` in Unicode scalar values, ascending, apart.
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

/// Writes drafts with the engine. Clones share it.
#[derive(Debug, Clone)]
pub struct Drafter {
    writer: Result<Arc<Writer>, String>,
}

impl Drafter {
    /// Prepares the engine for drafting.
    ///
    /// # Errors
    /// When the vocabulary lacks the tokens that drafts need.
    pub fn new(engine: Engine) -> Result<Drafter, TokenizerError> {
        let drafting = engine.model().drafting.unwrap_or(Drafting::Free);
        Drafter::drafting(engine, drafting)
    }

    /// Prepares the engine for drafting in one way, whatever its checkpoint says.
    ///
    /// # Errors
    /// As [`Drafter::new`].
    pub fn drafting(engine: Engine, drafting: Drafting) -> Result<Drafter, TokenizerError> {
        Ok(Drafter { writer: Ok(Arc::new(Writer::new(engine, drafting)?)) })
    }

    /// Returns a drafter whose every draft fails with `reason`: the model is not loaded.
    pub fn without_model(reason: &str) -> Drafter {
        Drafter { writer: Err(reason.to_owned()) }
    }

    /// Returns a drafter that writes with another form of the same model.
    pub fn with_engine(&self, engine: &Engine) -> Drafter {
        Drafter { writer: self.writer.clone().map(|writer| Arc::new(writer.with_engine(engine))) }
    }

    /// Starts a draft. Failure is an update too.
    pub fn draft(&self, request: DraftRequest) -> DraftStream {
        DraftStream::of(self.writer().and_then(|writer| writer.draft(request)))
    }

    /// Starts a rewrite of some spans of a draft; every character outside them stays as it was.
    pub fn edit(&self, request: EditRequest) -> DraftStream {
        DraftStream::of(self.writer().and_then(|writer| writer.edit(&request)))
    }

    fn writer(&self) -> Result<Arc<Writer>, DraftError> {
        self.writer.clone().map_err(DraftError::NoModel)
    }
}

/// A draft being written. Dropping it cancels the work.
#[derive(Debug)]
pub struct DraftStream {
    state: Stream,
}

#[derive(Debug)]
enum Stream {
    Writing(Box<Writing>),
    Failed(DraftError),
    Over,
}

impl DraftStream {
    fn of(started: Result<Writing, DraftError>) -> DraftStream {
        let state = match started {
            Ok(writing) => Stream::Writing(Box::new(writing)),
            Err(error) => Stream::Failed(error),
        };
        DraftStream { state }
    }

    /// Returns the next update, the last of which is done or failed; then `None`.
    ///
    /// Updates that nobody fetched are replaced by newer ones. Cancel-safe.
    pub async fn next(&mut self) -> Option<DraftUpdate> {
        match self.advance().await {
            Ok(update) => update,
            Err(error) => {
                self.state = Stream::Over;
                Some(failed(&error))
            }
        }
    }

    async fn advance(&mut self) -> Result<Option<DraftUpdate>, DraftError> {
        let writing = match &mut self.state {
            Stream::Writing(writing) => writing,
            Stream::Over => return Ok(None),
            Stream::Failed(_) => {
                let Stream::Failed(error) = std::mem::replace(&mut self.state, Stream::Over) else {
                    return Ok(None);
                };
                return Err(error);
            }
        };
        let update = writing.advance().await?;
        if update.state == DraftState::Done {
            self.state = Stream::Over;
        }
        Ok(Some(update))
    }
}

fn failed(error: &DraftError) -> DraftUpdate {
    DraftUpdate {
        text: String::new(),
        tentative_text: None,
        quotes: Vec::new(),
        cards: Vec::new(),
        // Having nothing to say is no failure of the engine.
        state: if matches!(error, DraftError::Nothing) { DraftState::Dropped } else { DraftState::Failed },
        steps: 0,
        tokens: 0,
        error: Some(error.to_string()),
    }
}
