//! Reads the customer's emotion: one masked label position after the recent turns, one forward pass; and
//! what the words of the customer's turns say by themselves, where the checkpoint's folder has them.
//!
//! The bundled model is small: of a few thousand labelled turns it learns many by heart, and on calls it
//! has not seen a linear model of words is right more often. Together they are better than either, and the
//! words cost some microseconds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::engine::handle::Engine;
use crate::engine::handle::EngineError;
use crate::engine::ops::softmax::softmax;
use crate::engine::scheduler::Claim;
use crate::engine::tokenizer::TokenizerError;
use crate::event::Emotion;
use crate::event::Speaker;
use crate::monitor::words::Words;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// The file of [`Words`] in a checkpoint's folder; classes in the order of [`Emotion::ALL`].
pub const WORDS_FILE: &str = "emotion_words.safetensors";
/// How much the logarithms of the model's probabilities count beside those of the words: the best of four
/// on calls and other talk that neither has seen.
const MODEL_SHARE: f32 = 0.25;

/// Says why no emotion could be read.
#[derive(Debug, thiserror::Error)]
pub enum EmotionError {
    /// The model is overloaded or stopped.
    #[error("cannot read the emotion: {0}")]
    Engine(#[from] EngineError),
    /// The model's vocabulary has no emotion labels.
    #[error("cannot read the emotion: {0}")]
    Labels(#[from] TokenizerError),
    /// The file of words cannot be used.
    #[error("cannot read {path}: {reason}")]
    Words {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Scores the customer's last turn over the label set.
#[derive(Debug, Clone)]
pub struct EmotionReader {
    engine: Engine,
    labels: Vec<u32>,
    words: Option<Arc<Words>>,
}

impl EmotionReader {
    /// Prepares the label set, and the words where there are any.
    ///
    /// # Errors
    /// When the model's vocabulary has no emotion labels, or its file of words is damaged.
    pub fn new(engine: Engine) -> Result<EmotionReader, EmotionError> {
        let labels: Result<Vec<u32>, TokenizerError> =
            Emotion::ALL.iter().map(|e| engine.tokenizer().control(Control::Label(*e).token())).collect();
        let labels = labels?;
        let path = engine.folder().join(WORDS_FILE);
        let fails = |reason: String| EmotionError::Words { path: path.clone(), reason };
        let words = Words::read(&path).map_err(|error| fails(error.to_string()))?;
        if let Some(words) = words.as_ref().filter(|words| words.classes() != labels.len()) {
            return Err(fails(format!("it has {} labels, not {}", words.classes(), labels.len())));
        }
        Ok(EmotionReader { labels, words: words.map(Arc::new), engine })
    }

    /// Returns a reader that reads with another form of the same model.
    pub fn with_engine(&self, engine: &Engine) -> EmotionReader {
        EmotionReader { engine: engine.clone(), labels: self.labels.clone(), words: self.words.clone() }
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
        let mut scores = self.engine.score(&tokens, tokens.len() - 2, self.labels.clone(), claim).await?;
        if let Some(words) = &self.words {
            let said = turns.iter().filter(|turn| turn.speaker == Speaker::Customer);
            let said: Vec<&str> = said.map(|turn| turn.text.as_str()).collect();
            join(&mut scores, &words.scores_after(&said));
        }
        Ok(Emotion::ALL.into_iter().zip(scores).collect())
    }
}

/// Joins the model's probabilities with the scores of words: a weighted product, made probabilities again.
fn join(scores: &mut [f32], words: &[f32]) {
    for (score, word) in scores.iter_mut().zip(words) {
        *score = MODEL_SHARE * score.max(1e-6).ln() + word;
    }
    softmax(scores);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_decide_what_the_model_leaves_open_and_the_other_way_round() {
        let mut open = [0.5, 0.5];
        join(&mut open, &[0.0, 1.0]);
        assert!(open[1] > 0.7 && (open[0] + open[1] - 1.0).abs() < 1e-6, "{open:?}");
        let mut sure = [0.99, 0.01];
        join(&mut sure, &[0.0, 0.5]);
        assert!(sure[0] > sure[1], "{sure:?}");
        let mut silent = [0.99, 0.01];
        join(&mut silent, &[0.0, 0.0]);
        assert!(silent[0] > silent[1], "{silent:?}");
    }
}
