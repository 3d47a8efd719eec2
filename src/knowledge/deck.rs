//! Which found cards are new in a call: a pure fold over what each search found.

use std::collections::HashMap;

use crate::event::Card;

/// The most cards that are pushed at once.
pub const MOST_CARDS: usize = 3;
/// A topic is away when this many searches in a row found other cards and not this one.
const AWAY_AFTER: u32 = 3;

/// The cards that were pushed in one call.
///
/// A card is pushed once, and again only when its topic came back: at least three searches since
/// it was last found have found other cards instead. Searches that found nothing do not count,
/// since small talk does not change the topic. A card whose passage was rewritten by a new
/// version is a new card.
#[derive(Debug, Clone, Default)]
pub struct CardDeck {
    searches: u32,
    /// The search in which each card was last found, by base, card and passage.
    last_found: HashMap<(String, String, String), u32>,
}

impl CardDeck {
    /// Takes what a search found, best first, and returns what is new to push, at most
    /// [`MOST_CARDS`].
    pub fn observe(&mut self, found: Vec<Card>) -> Vec<Card> {
        if found.is_empty() {
            return found;
        }
        self.searches += 1;
        let mut new = Vec::new();
        for card in found.into_iter().take(MOST_CARDS) {
            let key = (card.base.clone(), card.id.clone(), card.passage.clone());
            let last = self.last_found.insert(key, self.searches);
            if last.is_none_or(|last| self.searches - last > AWAY_AFTER) {
                new.push(card);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(ids: &[&str]) -> Vec<Card> {
        ids.iter()
            .map(|id| Card {
                id: (*id).to_owned(),
                article: "a".to_owned(),
                title: "A".to_owned(),
                passage: "text".to_owned(),
                highlights: Vec::new(),
                score: 1.0,
                base: "tel".to_owned(),
                version: 1,
            })
            .collect()
    }

    fn ids(cards: Vec<Card>) -> Vec<String> {
        cards.into_iter().map(|card| card.id).collect()
    }

    #[test]
    fn a_card_is_pushed_once() {
        let mut deck = CardDeck::default();
        assert_eq!(ids(deck.observe(cards(&["a#1", "b#1"]))), ["a#1", "b#1"]);
        assert_eq!(ids(deck.observe(cards(&["b#1", "c#1"]))), ["c#1"]);
        assert!(deck.observe(cards(&["a#1"])).is_empty());
    }

    #[test]
    fn a_card_is_pushed_again_when_its_topic_came_back() {
        let mut deck = CardDeck::default();
        deck.observe(cards(&["a#1"]));
        for id in ["b#1", "c#1", "d#1"] {
            deck.observe(cards(&[id]));
            deck.observe(Vec::new());
        }
        assert_eq!(ids(deck.observe(cards(&["a#1", "d#1"]))), ["a#1"]);
    }

    #[test]
    fn silence_does_not_bring_a_topic_back() {
        let mut deck = CardDeck::default();
        deck.observe(cards(&["a#1"]));
        for _ in 0..10 {
            deck.observe(Vec::new());
        }
        assert!(deck.observe(cards(&["a#1"])).is_empty());
    }

    #[test]
    fn a_rewritten_passage_is_a_new_card() {
        let mut deck = CardDeck::default();
        deck.observe(cards(&["a#1"]));
        let mut rewritten = cards(&["a#1"]);
        rewritten[0].passage = "new text".to_owned();
        rewritten[0].version = 2;
        assert_eq!(deck.observe(rewritten).len(), 1);
        let mut same = cards(&["a#1"]);
        same[0].version = 3;
        assert!(deck.observe(same).is_empty(), "another version with the same words is the same card");
    }

    #[test]
    fn no_more_than_three_at_once() {
        let mut deck = CardDeck::default();
        assert_eq!(deck.observe(cards(&["a", "b", "c", "d"])).len(), MOST_CARDS);
    }
}
