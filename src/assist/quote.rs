//! Which sentences of the cards answer the customer: they are quoted, never rewritten.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::event::Card;
use crate::event::Speaker;
use crate::knowledge::passage::sentences;
use crate::knowledge::term::terms;
use crate::prompt::Turn;

/// The most sentences that a draft quotes.
const MOST_SENTENCES: usize = 6;
/// What the sentences of the first, second and third card count.
const CARD_WEIGHTS: [f32; 3] = [1.0, 0.5, 0.3];
/// What a turn counts beside the one after it.
const FADE: f32 = 0.775;
/// What the agent's words count beside the customer's.
const AGENT_WEIGHT: f32 = 0.8;
/// What a figure counts that the agent has not told.
const FIGURE_WEIGHT: f32 = 0.7;
/// What a sentence loses when the agent has told all of it.
const TOLD_WEIGHT: f32 = 0.95;
/// What the model's log-odds count.
const MODEL_SHARE: f32 = 0.2;
/// A sentence of less than this share of the best one's score is not quoted.
const LEAST_SHARE: f32 = 0.3;
/// The most characters that they may have together.
const MOST_CHARS: usize = 700;

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

/// Returns the sentences of `cards` (best first) that answer the last of `turns`, in reading order.
///
/// A word that was said counts by its rarity among the sentences and less the longer ago it was
/// said; what the agent has told already counts less the more of it was told. The weights were
/// chosen on labelled calls, by the share of the facts of the agent's real answer that are quoted.
///
/// `odds` is what a model gives each of the [`candidates`], in their order; it may be empty.
pub fn quotes(cards: &[Card], turns: &[Turn], wish: Option<&str>, odds: &[f32]) -> Vec<Quote> {
    let mut scored: Vec<Scored> = candidates(cards)
        .into_iter()
        .enumerate()
        .map(|(order, (card, text))| Scored {
            card,
            order,
            score: 0.0,
            words: words(text),
            text: text.to_owned(),
        })
        .collect();
    let mut seen: HashMap<&String, f32> = HashMap::new();
    scored.iter().flat_map(|s| &s.words).for_each(|word| *seen.entry(word).or_default() += 1.0);
    let count = scored.len() as f32;
    let rarity: HashMap<String, f32> =
        seen.into_iter().map(|(w, n)| (w.clone(), (1.0 + count / n).ln())).collect();
    let asked = asked(turns, wish);
    let told: HashSet<String> =
        turns.iter().filter(|t| t.speaker == Speaker::Agent).flat_map(|t| words(&t.text)).collect();
    for sentence in &mut scored {
        let words = &sentence.words;
        let shared: f32 =
            words.iter().map(|w| asked.get(w).unwrap_or(&0.0) * rarity.get(w).unwrap_or(&0.0)).sum();
        // Figures count a little, for they are what is asked for most.
        let is_figure = |w: &&String| w.starts_with(|c: char| c.is_ascii_digit());
        let figure =
            if words.iter().filter(is_figure).any(|w| !told.contains(w)) { FIGURE_WEIGHT } else { 0.0 };
        let told = words.intersection(&told).count() as f32 / words.len().max(1) as f32;
        let length = (6.0 + words.len() as f32).powf(0.3);
        sentence.score =
            CARD_WEIGHTS[sentence.card] * (0.3 + shared + figure) / length * (1.0 - TOLD_WEIGHT * told);
        let odds = odds.get(sentence.order).copied().unwrap_or(0.0);
        sentence.score *= (MODEL_SHARE * odds).exp();
    }
    scored.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.order.cmp(&b.order)));
    let mut chosen: Vec<Scored> = Vec::new();
    let mut chars = 0;
    let least = scored.first().map_or(0.0, |best| LEAST_SHARE * best.score);
    for sentence in scored.into_iter().take_while(|sentence| sentence.score >= least) {
        let length = sentence.text.chars().count();
        if chosen.len() < MOST_SENTENCES && (chosen.is_empty() || chars + length <= MOST_CHARS) {
            chars += length;
            chosen.push(sentence);
        }
    }
    chosen.sort_by_key(|s| s.order);
    chosen.into_iter().map(|s| Quote { card: cards[s.card].id.clone(), text: s.text }).collect()
}

/// Returns the sentences that may be quoted, each with the place of its card among `cards`.
pub fn candidates(cards: &[Card]) -> Vec<(usize, &str)> {
    let first = cards.iter().enumerate().take(CARD_WEIGHTS.len());
    let of_card =
        |(place, card): (usize, &'_ Card)| sentences(&card.passage).into_iter().map(move |r| (place, r));
    let found = first.flat_map(of_card);
    found.map(|(place, range)| (place, cards[place].passage[range].trim())).collect()
}

/// Returns what each word that was said or wished for counts.
fn asked(turns: &[Turn], wish: Option<&str>) -> HashMap<String, f32> {
    let mut asked: HashMap<String, f32> = HashMap::new();
    let mut age = 1.0;
    let wish = wish.map(|wish| (wish, 1.0));
    let said = turns.iter().rev().map(|turn| {
        let weight = age * if turn.speaker == Speaker::Agent { AGENT_WEIGHT } else { 1.0 };
        age *= FADE;
        (turn.text.as_str(), weight)
    });
    for (text, weight) in wish.into_iter().chain(said) {
        for word in words(text) {
            let most = asked.entry(word).or_default();
            *most = most.max(weight);
        }
    }
    asked
}

fn words(text: &str) -> HashSet<String> {
    terms(text).into_iter().map(|t| t.text).collect()
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
