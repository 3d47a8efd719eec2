//! Which sentences of the cards answer the customer: they are quoted, never rewritten.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::event::Card;
use crate::knowledge::passage::sentences;
use crate::knowledge::term::terms;

/// The most sentences that a draft quotes.
const MOST_SENTENCES: usize = 3;
/// What the sentences of the first, second and third card count.
const CARD_WEIGHTS: [f32; 3] = [1.0, 0.7, 0.5];
/// The most characters that they may have together.
const MOST_CHARS: usize = 380;

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
    words: HashSet<String>,
    text: String,
}

/// Returns the sentences of `cards` (best first) that share most with `question`, in reading order.
///
/// A shared word counts by its rarity among the sentences.
pub fn quotes(cards: &[Card], question: &str) -> Vec<Quote> {
    let asked = words(question);
    let mut scored = Vec::new();
    for (index, card) in cards.iter().enumerate().take(CARD_WEIGHTS.len()) {
        for (order, range) in sentences(&card.passage).into_iter().enumerate() {
            let text = card.passage[range].trim().to_owned();
            scored.push(Scored { card: index, order, score: 0.0, words: words(&text), text });
        }
    }
    let mut seen: HashMap<&String, f32> = HashMap::new();
    scored.iter().flat_map(|s| &s.words).for_each(|word| *seen.entry(word).or_default() += 1.0);
    let count = scored.len() as f32;
    let rarity: HashMap<String, f32> =
        seen.into_iter().map(|(w, n)| (w.clone(), (1.0 + count / n).ln())).collect();
    for sentence in &mut scored {
        let shared: f32 =
            sentence.words.intersection(&asked).map(|w| rarity.get(w).copied().unwrap_or(0.0)).sum();
        // Figures count a little, for they are what is asked for most.
        let figure = if sentence.text.chars().any(|c| c.is_ascii_digit()) { 0.7 } else { 0.0 };
        let length = (6.0 + sentence.words.len() as f32).sqrt();
        sentence.score = CARD_WEIGHTS[sentence.card] * (0.3 + shared + figure) / length;
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

fn words(text: &str) -> HashSet<String> {
    terms(text).into_iter().map(|t| t.text).collect()
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
