//! Which sentences of the cards answer the customer: they are quoted, never rewritten.

mod features;
mod kinds;

use crate::event::Card;
use crate::prompt::Turn;

/// The most sentences that a draft quotes.
const MOST_SENTENCES: usize = 10;
/// The most characters that they may have together.
const MOST_CHARS: usize = 700;
/// A sentence of less than this share of the best one's value is not quoted.
const LEAST_SHARE: f32 = 0.32;
/// What the model's log-odds count.
const MODEL_SHARE: f32 = 0.2;
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

/// Returns the sentences of `cards` that answer the last of `turns`, in reading order; the first card is the best.
///
/// What each is worth is [`features`]' to say. `odds` is what a model gives each of the [`candidates`], in their
/// order; it may be empty.
pub fn quotes(cards: &[Card], turns: &[Turn], wish: Option<&str>, odds: &[f32]) -> Vec<Quote> {
    let candidates = features::candidates(cards);
    let worth = features::worth(&candidates, cards, turns, wish);
    let mut ranked: Vec<(usize, usize, f32)> = Vec::new();
    for (at, (candidate, worth)) in candidates.iter().zip(worth).enumerate() {
        let chars = candidate.text.chars().count();
        let odds = odds.get(at).copied().unwrap_or(0.0);
        let value = (worth + MODEL_SHARE * odds).exp() / (ROOM_CHARS + chars as f32).powf(ROOM_POWER);
        ranked.push((at, chars, value));
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

/// Returns where a card is read: its article's place among the cards, and its passage's in the article.
fn place(cards: &[Card], card: usize) -> (usize, u64) {
    let Card { base, article, id, .. } = &cards[card];
    let article = cards.iter().position(|other| (&other.base, &other.article) == (base, article));
    let passage = id.rsplit_once('#').and_then(|(_, number)| number.parse().ok());
    (article.unwrap_or(card), passage.unwrap_or(0))
}

/// Returns the sentences that may be quoted, each with the place of its card among `cards`.
pub fn candidates(cards: &[Card]) -> Vec<(usize, &str)> {
    features::candidates(cards).into_iter().map(|candidate| (candidate.card, candidate.text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sentences of which only one fits into a draft.
    const TWO: &str = "A missed visit is credited with 25 euros within a week of the visit, always. The next visit \
        is booked while you are on the line, on the first free day, and the engineer calls you half an hour before, \
        rings twice, waits for ten minutes, leaves a card with a number to call, and comes again on the same day if \
        you call that number before four in the afternoon, or else on the next one, which costs you nothing at all, \
        or else in the week after, whatever the reason was, as often as it takes until somebody is at home and lets \
        the engineer in, and there is no need to ask anybody for it, since the calendar does all of it by itself, \
        with a message on the evening before, one in the morning, and one when the engineer is two streets away.";

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
        let mut turns = vec![said(Speaker::Customer, "what do i get for the missed visit")];
        let found = quotes(&cards, &turns, None, &[]);
        assert!(found.iter().any(|q| q.text == "A missed visit is credited with 25 euros."), "{found:?}");
        assert!(quotes(&[], &turns, Some("anything"), &[]).is_empty());
        let best = |turns: &[Turn]| quotes(&[card("a#1", TWO)], turns, None, &[]).remove(0).text;
        assert_eq!(
            best(&turns),
            "A missed visit is credited with 25 euros within a week of the visit, always."
        );
        turns.push(said(Speaker::Agent, "a missed visit is credited with twenty-five euros within a week"));
        turns.push(said(Speaker::Customer, "and when will someone visit"));
        assert!(best(&turns).starts_with("The next visit"), "what was told is not told again");
    }
}
