//! Reads the customer's emotion: one masked label position after the recent turns, one forward pass.

use std::collections::BTreeMap;

use crate::engine::handle::Engine;
use crate::engine::handle::EngineError;
use crate::engine::scheduler::Claim;
use crate::engine::tokenizer::TokenizerError;
use crate::event::Emotion;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// Says why no emotion could be read.
#[derive(Debug, thiserror::Error)]
pub enum EmotionError {
    /// The model is overloaded or stopped.
    #[error("cannot read the emotion: {0}")]
    Engine(#[from] EngineError),
    /// The model's vocabulary has no emotion labels.
    #[error("cannot read the emotion: {0}")]
    Labels(#[from] TokenizerError),
}

/// Scores the customer's last turn over the label set.
#[derive(Debug, Clone)]
pub struct EmotionReader {
    engine: Engine,
    labels: Vec<u32>,
}

impl EmotionReader {
    /// Prepares the label set.
    ///
    /// # Errors
    /// When the model's vocabulary has no emotion labels.
    pub fn new(engine: Engine) -> Result<EmotionReader, EmotionError> {
        let labels: Result<Vec<u32>, TokenizerError> =
            Emotion::ALL.iter().map(|e| engine.tokenizer().control(Control::Label(*e).token())).collect();
        Ok(EmotionReader { labels: labels?, engine })
    }

    /// Returns a reader that reads with another form of the same model.
    pub fn with_engine(&self, engine: &Engine) -> EmotionReader {
        EmotionReader { engine: engine.clone(), labels: self.labels.clone() }
    }

    /// Returns the probability of every label after `turns`, the last of which is the customer's;
    /// the work is counted to `claim`.
    ///
    /// # Errors
    /// When the model is overloaded or stopped.
    ///
    /// # Cancellation
    /// Dropping the future drops the work.
    pub async fn read(&self, turns: &[Turn], claim: Claim) -> Result<BTreeMap<Emotion, f32>, EmotionError> {
        let mut pieces = prompt::emotion(turns);
        pieces.extend([Piece::Control(Control::Mask), Piece::Control(Control::End)]);
        let tokens = prompt::encode(&pieces, self.engine.tokenizer())?;
        let scores = self.engine.score(&tokens, tokens.len() - 2, self.labels.clone(), claim).await?;
        Ok(Emotion::ALL.into_iter().zip(scores).collect())
    }
}
