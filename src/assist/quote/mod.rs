//! Which sentences of the cards answer the customer: they are quoted, never rewritten.

pub mod features;
mod kinds;

use crate::event::Card;
use crate::prompt::Turn;

/// The most sentences that a draft quotes.
const MOST_SENTENCES: usize = 10;
/// The most characters that they may have together.
const MOST_CHARS: usize = 700;
/// A sentence of less than this share of the best one's value is not quoted.
const LEAST_SHARE: f32 = 0.32;
/// How a sentence's value falls with its length: what it is worth is had for room that others could have.
const ROOM_CHARS: f32 = 20.0;
const ROOM_POWER: f32 = 0.8;

/// One sentence to quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The card it stands in.
    pub card: String,
    /// Verbatim.
    pub text: String,
}

impl Quote {
    /// Returns whether it ends as a sentence does, or a part of one: an item of a list may not.
    pub fn has_end(&self) -> bool {
        let text = self.text.trim_end_matches(['"', '”', '’', '\'', ')', ']']);
        text.ends_with(['.', '!', '?', '…', ':', ';', ','])
    }
}

/// Returns the sentences of `cards` that answer the last of `turns`, in reading order; the first card is the best.
///
/// What each is worth is [`features`]' to say.
pub fn quotes(cards: &[Card], turns: &[Turn], wish: Option<&str>) -> Vec<Quote> {
    let candidates = features::candidates(cards);
    let worth = features::worth(&candidates, cards, turns, wish);
    let mut ranked: Vec<(usize, usize, f32)> = Vec::new();
    for (at, (candidate, worth)) in candidates.iter().zip(worth).enumerate() {
        let chars = candidate.text.chars().count();
        ranked.push((at, chars, value_for_room(worth, chars)));
    }
    ranked.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
    let least = ranked.first().map_or(0.0, |(.., best)| LEAST_SHARE * best);
    let mut chosen: Vec<usize> = Vec::new();
    let mut room = MOST_CHARS;
    for (at, chars, _) in ranked.into_iter().take_while(|(.., value)| *value >= least) {
        if chosen.len() < MOST_SENTENCES && (chosen.is_empty() || chars <= room) {
            room = room.saturating_sub(chars);
            chosen.push(at);
        }
    }
    chosen.sort_by_key(|at| (place(cards, candidates[*at].card), *at));
    let quote = |at: usize| {
        let candidate = &candidates[at];
        Quote { card: cards[candidate.card].id.clone(), text: candidate.text.to_owned() }
    };
    chosen.into_iter().map(quote).collect()
}

/// Returns what sentences are ranked by: what one is worth, given as its logarithm, for the room that it takes.
pub fn value_for_room(worth: f32, chars: usize) -> f32 {
    worth.exp() / (ROOM_CHARS + chars as f32).powf(ROOM_POWER)
}

/// Returns where a card is read: its article's place among the cards, and its passage's in the article.
pub fn place(cards: &[Card], card: usize) -> (usize, u64) {
    let Card { base, article, id, .. } = &cards[card];
    let article = cards.iter().position(|other| (&other.base, &other.article) == (base, article));
    let passage = id.rsplit_once('#').and_then(|(_, number)| number.parse().ok());
    (article.unwrap_or(card), passage.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Speaker;

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
        let said = |speaker, text: &str| Turn { speaker, text: text.to_owned() };
        let turns = vec![said(Speaker::Customer, "what do i get for the missed visit")];
        let found = quotes(&cards, &turns, None);
        assert!(found.iter().any(|q| q.text == "A missed visit is credited with 25 euros."), "{found:?}");
        assert!(quotes(&[], &turns, Some("anything")).is_empty());
    }

    #[test]
    fn items_of_a_list_have_no_end() {
        let has_end = |text: &str| Quote { card: String::new(), text: text.to_owned() }.has_end();
        assert!(has_end("It is free.") && has_end("It is “free.”") && has_end("We pay (in euros.)"));
        assert!(!has_end("people over 66") && !has_end("a child under 6 (or a carer)"));
    }

    #[test]
    fn quotes_keep_to_their_room_and_come_in_reading_order() {
        let about = |n: usize| {
            format!("Visit {n} is free when the visit before it was missed by {}.", "us ".repeat(20))
        };
        let passage: Vec<String> = (1..20).map(about).collect();
        let cards = [card("a#2", &passage[..9].join(" ")), card("a#1", &passage[9..].join(" "))];
        let turns = [Turn { speaker: Speaker::Customer, text: "my visit was missed".to_owned() }];
        let found = quotes(&cards, &turns, None);
        let chars: usize = found.iter().map(|quote| quote.text.chars().count()).sum();
        assert!(found.len() > 1 && chars <= MOST_CHARS, "{} with {chars}", found.len());
        let long = [card("a#1", &"visit and ".repeat(200))];
        assert_eq!(quotes(&long, &turns, None).len(), 1, "one is quoted however long it is");
        let mut two = [card("a#2", "A visit was missed."), card("a#1", "A missed visit is paid.")];
        two.iter_mut().for_each(|card| card.article = "a".to_owned());
        let order: Vec<String> = quotes(&two, &turns, None).into_iter().map(|quote| quote.card).collect();
        assert_eq!(order, ["a#1", "a#2"]);
    }
}
