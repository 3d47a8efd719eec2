//! Asks the model whether a passage answers the customer: one masked label after the turns and the passage,
//! one forward pass for each passage, all of a search at once.
//!
//! The search counts words; the model has seen which of the passages with the same words people answered
//! from. Together they order the cards; the search alone says whether any is shown.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use futures_util::future::try_join_all;

use crate::engine::handle::Engine;
use crate::engine::handle::EngineError;
use crate::engine::scheduler::Claim;
use crate::engine::tokenizer::TokenizerError;
use crate::event::Card;
use crate::knowledge::search::DRAFT_FROM;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// How many cards of a search are asked about.
pub const DEPTH: usize = 20;
/// What the model's log-odds count beside the logarithm of the search's score: the best on calls that neither
/// has seen.
const MODEL_SHARE: f32 = 0.15;
/// How long the cards of a running call wait until the model begins with them.
const PATIENCE: Duration = Duration::from_millis(100);
/// Log-odds beyond these say no more.
const MOST_SURE: f32 = 6.0;

/// Says why nothing could be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The model is overloaded or stopped.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The prompt cannot be written.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Judges passages. Clones share the engine.
#[derive(Debug, Clone)]
pub struct Judge {
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

    /// Returns a judge that asks another form of the same model.
    pub fn with_engine(&self, engine: &Engine) -> Judge {
        Judge { engine: engine.clone(), labels: Arc::clone(&self.labels) }
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
        let asked = passages.iter().map(|(title, passage)| async move {
            let mut pieces = prompt::relevance(turns, title, passage);
            pieces.extend([Piece::Control(Control::Mask), Piece::Control(Control::End)]);
            let tokens = prompt::encode(&pieces, self.engine.tokenizer())?;
            let chances = self.engine.score(&tokens, tokens.len() - 2, self.labels.to_vec(), claim).await?;
            let odds = (chances[0].max(1e-6) / chances[1].max(1e-6)).ln();
            Ok::<f32, JudgeError>(odds.clamp(-MOST_SURE, MOST_SURE))
        });
        try_join_all(asked).await
    }

    /// [`Judge::order`] for a running call: the search's own order when the question seems to need no card, or
    /// when the model does not come to it in time.
    pub async fn order_some(&self, turns: &[Turn], found: Vec<Card>, claim: Claim) -> Vec<Card> {
        if found.first().is_none_or(|card| card.score < DRAFT_FROM) {
            return found;
        }
        let claim = Claim { deadline: Some(Instant::now() + PATIENCE), ..claim };
        match self.order(turns, found.clone(), claim).await {
            Ok(ordered) => ordered,
            Err(error) => {
                tracing::debug!(%error, "cards stay as the search ordered them");
                found
            }
        }
    }

    /// Returns `cards`, which a search found best first, in the order that search and model agree on. Those
    /// behind the first [`DEPTH`] stay where they are; the first card keeps the best score.
    ///
    /// # Errors
    /// As [`Judge::log_odds`].
    pub async fn order(
        &self,
        turns: &[Turn],
        mut cards: Vec<Card>,
        claim: Claim,
    ) -> Result<Vec<Card>, JudgeError> {
        let rest = cards.split_off(cards.len().min(DEPTH));
        let passages: Vec<(&str, &str)> =
            cards.iter().map(|card| (card.title.as_str(), card.passage.as_str())).collect();
        let odds = self.log_odds(turns, &passages, claim).await?;
        join(&mut cards, &odds);
        cards.extend(rest);
        Ok(cards)
    }
}

/// Orders cards by what search and model say, and scores them against the best that the search gave.
fn join(cards: &mut [Card], odds: &[f32]) {
    let Some(best) = cards.iter().map(|card| card.score).max_by(f32::total_cmp) else { return };
    for (card, odds) in cards.iter_mut().zip(odds) {
        card.score *= (MODEL_SHARE * odds).exp();
    }
    cards.sort_by(|a, b| b.score.total_cmp(&a.score));
    let highest = cards[0].score;
    cards.iter_mut().for_each(|card| card.score *= best / highest.max(f32::MIN_POSITIVE));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(id: &str, score: f32) -> Card {
        Card {
            id: id.to_owned(),
            article: id.to_owned(),
            title: id.to_owned(),
            passage: "text".to_owned(),
            highlights: vec![],
            score,
            base: "tel".to_owned(),
            version: 1,
        }
    }

    #[test]
    fn the_model_moves_cards_that_the_search_finds_alike_and_the_best_score_stays() {
        let order = |odds: &[f32]| {
            let mut cards = [card("a", 0.6), card("b", 0.55), card("c", 0.1)];
            join(&mut cards, odds);
            assert_eq!(cards[0].score, 0.6);
            cards.map(|card| card.id)
        };
        assert_eq!(order(&[0.0, 0.0, 0.0]), ["a", "b", "c"]);
        assert_eq!(order(&[-1.0, 1.0, 0.0]), ["b", "a", "c"]);
        assert_eq!(order(&[0.0, 0.0, MOST_SURE]), ["a", "b", "c"], "what shares no words stays behind");
        join(&mut [], &[]);
    }
}
