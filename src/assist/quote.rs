//! Which sentences of the cards answer the customer: they are quoted, never rewritten.

use std::collections::HashSet;

use crate::event::Card;
use crate::knowledge::passage::sentences;
use crate::knowledge::term::terms;

/// The most sentences that a draft quotes.
const MOST_SENTENCES: usize = 2;
/// The most characters that they may have together.
const MOST_CHARS: usize = 280;

/// One sentence to quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The card it stands in.
    pub card: String,
    /// Verbatim.
    pub text: String,
}

struct Scored {
    card: usize,
    order: usize,
    score: f32,
    text: String,
}

/// Returns the sentences of `cards` (best first) that share most with `question`, in reading order.
pub fn quotes(cards: &[Card], question: &str) -> Vec<Quote> {
    let asked: HashSet<String> = terms(question).into_iter().map(|t| t.text).collect();
    let mut scored = Vec::new();
    for (card, weight) in cards.iter().enumerate().zip([1.0_f32, 0.6, 0.4]) {
        let (index, card) = card;
        for (order, range) in sentences(&card.passage).into_iter().enumerate() {
            let text = card.passage[range].trim();
            scored.push(Scored {
                card: index,
                order,
                score: weight * score(text, &asked),
                text: text.to_owned(),
            });
        }
    }
    scored.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.card.cmp(&b.card)).then(a.order.cmp(&b.order)));
    let mut chosen: Vec<Scored> = Vec::new();
    let mut chars = 0;
    for sentence in scored {
        let length = sentence.text.chars().count();
        if chosen.len() < MOST_SENTENCES && (chosen.is_empty() || chars + length <= MOST_CHARS) {
            chars += length;
            chosen.push(sentence);
        }
    }
    chosen.sort_by_key(|s| (s.card, s.order));
    chosen.into_iter().map(|s| Quote { card: cards[s.card].id.clone(), text: s.text }).collect()
}

/// Counts the question's words in a sentence; figures count a little, for they are what is asked for most.
fn score(sentence: &str, asked: &HashSet<String>) -> f32 {
    let words: HashSet<String> = terms(sentence).into_iter().map(|t| t.text).collect();
    let shared = words.intersection(asked).count() as f32;
    let has_figure = sentence.chars().any(|c| c.is_ascii_digit());
    (shared + if has_figure { 0.5 } else { 0.0 }) / (4.0 + words.len() as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(id: &str, passage: &str) -> Card {
        Card {
            id: id.to_owned(),
            article: id.to_owned(),
            title: "Fees".to_owned(),
            passage: passage.to_owned(),
            highlights: vec![],
            score: 1.0,
            base: "tel".to_owned(),
            version: 1,
        }
    }

    #[test]
    fn the_sentence_that_shares_words_with_the_question_is_quoted() {
        let cards =
            [card("a#1", "We open at nine. A missed visit is credited with 25 euros. Call us any time.")];
        let found = quotes(&cards, "what do i get for the missed visit");
        assert!(found.iter().any(|q| q.text == "A missed visit is credited with 25 euros."), "{found:?}");
        assert!(quotes(&[], "anything").is_empty());
    }
}
