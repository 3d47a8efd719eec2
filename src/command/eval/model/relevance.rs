//! Asks the model whether a passage answers the customer: one masked label after the turns and the passage,
//! one forward pass for each passage, a few at a time.
//!
//! With the bundled model's word nothing is found more often and no better sentence is quoted, so calls do not ask:
//! the order of the cards is the search's, the choice of sentences `assist/quote`'s.

use std::sync::Arc;

use futures_util::future::try_join_all;

use crate::engine::handle::Engine;
use crate::engine::handle::EngineError;
use crate::engine::scheduler::Claim;
use crate::engine::tokenizer::TokenizerError;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// How many passages are asked about at once: what waits for the model is limited, and for all calls together.
const AT_ONCE: usize = 4;
/// Log-odds beyond these say no more.
const MOST_SURE: f32 = 6.0;

/// Says why nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub(super) enum JudgeError {
    /// The model is overloaded or stopped.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The prompt cannot be written.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Judges passages. Clones share the engine.
#[derive(Debug, Clone)]
pub(super) struct Judge {
    engine: Engine,
    /// The tokens of yes and no.
    labels: Arc<[u32]>,
}

impl Judge {
    /// Prepares the labels; `None` when the vocabulary has none: the model was not trained to judge.
    pub fn new(engine: Engine) -> Option<Judge> {
        let id = |control: Control| engine.tokenizer().control(control.token()).ok();
        id(Control::Relevant)?;
        let labels = [id(Control::Yes)?, id(Control::No)?].into();
        Some(Judge { engine, labels })
    }

    /// Returns the log-odds that each `(title, passage)` answers the last of `turns`.
    ///
    /// # Errors
    /// When the model is overloaded or stopped.
    ///
    /// # Cancellation
    /// Dropping the future drops the work.
    pub async fn log_odds(
        &self,
        turns: &[Turn],
        passages: &[(&str, &str)],
        claim: Claim,
    ) -> Result<Vec<f32>, JudgeError> {
        let mut odds = Vec::new();
        for some in passages.chunks(AT_ONCE) {
            let asked = some.iter().map(|(title, passage)| self.ask(turns, title, passage, claim));
            odds.extend(try_join_all(asked).await?);
        }
        Ok(odds)
    }

    async fn ask(&self, turns: &[Turn], title: &str, passage: &str, claim: Claim) -> Result<f32, JudgeError> {
        let mut pieces = prompt::relevance(turns, title, passage);
        pieces.extend([Piece::Control(Control::Mask), Piece::Control(Control::End)]);
        let tokens = prompt::encode(&pieces, self.engine.tokenizer())?;
        let chances = self.engine.score(&tokens, tokens.len() - 2, self.labels.to_vec(), claim).await?;
        let odds = (chances[0].max(1e-6) / chances[1].max(1e-6)).ln();
        Ok(odds.clamp(-MOST_SURE, MOST_SURE))
    }
}
