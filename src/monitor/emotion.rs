//! Reads the customer's emotion: one masked label position after the recent turns, one forward pass.

use std::collections::BTreeMap;

use crate::event::Emotion;
use crate::prompt::Turn;

/// Says why no emotion could be read.
#[derive(Debug, thiserror::Error)]
pub enum EmotionError {
    /// The model is not loaded or refused the work.
    #[error("cannot read the emotion: {0}")]
    Model(String),
}

/// Scores the customer's last turn over the label set.
#[derive(Debug, Clone)]
pub struct EmotionReader {}

impl EmotionReader {
    /// Returns the probability of every label after `turns`, the last of which is the customer's.
    ///
    /// # Errors
    /// When the model is not loaded, overloaded or stopped.
    ///
    /// # Cancellation
    /// Dropping the future drops the work.
    pub async fn read(&self, _turns: &[Turn]) -> Result<BTreeMap<Emotion, f32>, EmotionError> {
        Err(EmotionError::Model("no model".to_owned()))
    }
}
