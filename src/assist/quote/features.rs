//! How much each sentence of the cards is worth quoting: a linear model of what it shares with the talk, where it
//! stands, and what it holds.
//!
//! The weights were fitted on the train calls of the companies, listwise (Cao et al., "Learning to rank", 2007):
//! the softmax over a question's sentences was brought near to the shares of the real answer's facts and words
//! that they hold. With one company left out in turn it does as well as on those it saw. `chatdlm eval quotes`
//! measures the weights and fits new ones.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::assist::quote::kinds;
use crate::event::Card;
use crate::event::Speaker;
use crate::knowledge::passage::sentences;
use crate::knowledge::term::is_stop_word;
use crate::knowledge::term::related_terms;
use crate::knowledge::term::terms;
use crate::prompt::Turn;

/// What a turn counts beside the one after it.
const FADE: f32 = 0.775;
/// What the agent's words count beside the customer's.
const AGENT_WEIGHT: f32 = 0.8;
/// What a figure counts that the agent has not told.
const FIGURE_WEIGHT: f32 = 0.7;
/// What a sentence loses when the agent has told all of it.
const TOLD_WEIGHT: f32 = 0.95;
/// How many words make the end of a turn, where people ask.
const TAIL_WORDS: usize = 12;

/// How many features a sentence has.
pub const FEATURES: usize = 21;

/// A sentence's features with their weights.
pub const WEIGHTS: [(&str, f32); FEATURES] = [
    ("likeness", 0.379),
    ("length", 0.582),
    ("last_turn", 0.247),
    ("same_article", 0.278),
    ("other_article", 1.131),
    ("heading_asked", 0.147),
    ("heading_said", 0.254),
    ("likeness_before", 0.123),
    ("last_turn_before", 0.086),
    ("last_turn_after", 0.158),
    ("related", 0.222),
    ("tail", 0.130),
    ("small_words", 0.928),
    ("duration", 0.201),
    ("free", 0.161),
    ("phone", -0.303),
    ("amount_for_how_much", 0.489),
    ("free_for_how_much", 0.391),
    ("duration_for_how_long", 0.233),
    ("date_for_how_long", 0.243),
    ("negative_for_whether", 0.109),
];

/// A sentence that may be quoted.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The place of its card.
    pub card: usize,
    /// Verbatim.
    pub text: &'a str,
    /// The heading or question that it stands under; may be empty.
    heading: &'a str,
    terms: HashSet<String>,
}

/// Returns the sentences of cards, in their order.
pub fn candidates(cards: &[Card]) -> Vec<Candidate<'_>> {
    let mut found = Vec::new();
    for (place, card) in cards.iter().enumerate() {
        for range in sentences(&card.passage) {
            let text = card.passage[range.clone()].trim();
            let line_end =
                card.passage[range.start..].find('\n').map_or(card.passage.len(), |at| range.start + at);
            let above = card.passage[..line_end].lines().rev().find(|line| line.ends_with([':', '?']));
            let heading = above.unwrap_or_default();
            found.push(Candidate { card: place, text, heading, terms: terms_of(text) });
        }
    }
    found
}

/// Returns the logarithm of what each candidate is worth, before its length in characters.
pub(super) fn worth(
    candidates: &[Candidate<'_>],
    cards: &[Card],
    turns: &[Turn],
    wish: Option<&str>,
) -> Vec<f32> {
    let of = |features: [f32; FEATURES]| {
        WEIGHTS.iter().zip(features).map(|((_, weight), feature)| weight * feature).sum()
    };
    features(candidates, cards, turns, wish).into_iter().map(of).collect()
}

/// Returns the features of each candidate, in the order of [`WEIGHTS`].
pub fn features(
    candidates: &[Candidate<'_>],
    cards: &[Card],
    turns: &[Turn],
    wish: Option<&str>,
) -> Vec<[f32; FEATURES]> {
    let talk = Talk::of(turns, wish);
    let mut seen: HashMap<&str, f32> = HashMap::new();
    candidates.iter().flat_map(|c| &c.terms).for_each(|term| *seen.entry(term).or_default() += 1.0);
    let count = candidates.len() as f32;
    let rarity = |term: &str| (1.0 + count / seen.get(term).unwrap_or(&1.0)).ln();
    let shared_with = |candidate: &Candidate<'_>, said: &HashSet<String>| -> f32 {
        candidate.terms.iter().filter(|term| said.contains(*term)).map(|term| rarity(term)).sum()
    };
    let likeness: Vec<f32> = candidates.iter().map(|candidate| talk.likeness(candidate, &rarity)).collect();
    let last: Vec<f32> = candidates.iter().map(|candidate| shared_with(candidate, &talk.last)).collect();
    let neighbour = |at: usize, of: &[f32], card: usize| match candidates.get(at) {
        Some(candidate) if candidate.card == card => of[at],
        _ => 0.0,
    };
    let first = cards.first();
    let mut found = Vec::new();
    for (at, candidate) in candidates.iter().enumerate() {
        let length = candidate.terms.len() as f32;
        let damping = damping(candidate);
        let card = &cards[candidate.card];
        let best = first.map_or(1.0, |first| first.score.max(f32::MIN_POSITIVE));
        let ratio = (card.score / best).max(0.05).ln();
        let is_same = first.is_some_and(|first| (&first.base, &first.article) == (&card.base, &card.article));
        let heading = terms_of(candidate.heading);
        let asked: f32 =
            heading.iter().filter(|term| talk.last.contains(*term)).map(|term| rarity(term)).sum();
        let said: f32 = heading.iter().filter_map(|term| talk.said.get(term)).sum();
        let kind = kinds::Sentence::of(candidate.text);
        let one = |is: bool| f32::from(u8::from(is));
        let (before, after) = (at.wrapping_sub(1), at + 1);
        found.push([
            (likeness[at] + 0.05).ln(),
            (3.0 + length).ln(),
            last[at] / damping,
            if is_same { ratio } else { 0.0 },
            if is_same { 0.0 } else { ratio },
            asked.min(4.0) / 2.0,
            said.min(3.0),
            neighbour(before, &likeness, candidate.card).min(3.0),
            neighbour(before, &last, candidate.card) / 3.0,
            neighbour(after, &last, candidate.card) / 3.0,
            shared_with(candidate, &talk.related) / damping,
            shared_with(candidate, &talk.tail) / damping,
            small_words(candidate.text),
            one(kind.duration),
            one(kind.free),
            one(kind.phone),
            one(talk.question.how_much && kind.amount),
            one(talk.question.how_much && kind.free),
            one(talk.question.how_long && kind.duration),
            one(talk.question.how_long && kind.date),
            one(talk.question.whether && kind.negative),
        ]);
    }
    found
}

/// What was said, as sentences are compared with it.
struct Talk {
    /// What each term that was said or wished for counts: less the longer ago.
    said: HashMap<String, f32>,
    /// The terms that the agent has told.
    told: HashSet<String>,
    /// The terms of the last turn, and of what is wished.
    last: HashSet<String>,
    /// Terms that mean about the same as those.
    related: HashSet<String>,
    /// The terms of the last turn's end.
    tail: HashSet<String>,
    question: kinds::Question,
}

impl Talk {
    fn of(turns: &[Turn], wish: Option<&str>) -> Talk {
        let told = turns.iter().filter(|turn| turn.speaker == Speaker::Agent);
        let text = turns.last().map_or("", |turn| &turn.text);
        let mut last = terms_of(text);
        last.extend(wish.iter().flat_map(|wish| terms_of(wish)));
        let words: Vec<&str> = text.split_whitespace().collect();
        let tail = words[words.len().saturating_sub(TAIL_WORDS)..].join(" ");
        let related = last.iter().flat_map(|term| related_terms(term)).filter(|term| !last.contains(*term));
        Talk {
            said: said(turns, wish),
            told: told.flat_map(|turn| terms_of(&turn.text)).collect(),
            related: related.cloned().collect(),
            tail: terms_of(&tail),
            question: kinds::Question::of(wish.unwrap_or(text)),
            last,
        }
    }

    /// Returns how much a sentence is like all that was said, less what of it was told.
    fn likeness(&self, candidate: &Candidate<'_>, rarity: &impl Fn(&str) -> f32) -> f32 {
        let terms = &candidate.terms;
        let shared: f32 = terms.iter().filter_map(|term| Some(self.said.get(term)? * rarity(term))).sum();
        let is_figure = |term: &&String| term.starts_with(|c: char| c.is_ascii_digit());
        let is_new_figure = terms.iter().filter(is_figure).any(|term| !self.told.contains(term));
        let figure = if is_new_figure { FIGURE_WEIGHT } else { 0.0 };
        let told = terms.intersection(&self.told).count() as f32 / terms.len().max(1) as f32;
        (0.3 + shared + figure) / damping(candidate) * (1.0 - TOLD_WEIGHT * told)
    }
}

/// Returns what each word that was said or wished for counts.
fn said(turns: &[Turn], wish: Option<&str>) -> HashMap<String, f32> {
    let mut counts: HashMap<String, f32> = HashMap::new();
    let mut age = 1.0;
    let wish = wish.map(|wish| (wish, 1.0));
    let said = turns.iter().rev().map(|turn| {
        let weight = age * if turn.speaker == Speaker::Agent { AGENT_WEIGHT } else { 1.0 };
        age *= FADE;
        (turn.text.as_str(), weight)
    });
    for (text, weight) in wish.into_iter().chain(said) {
        for word in terms_of(text) {
            let most = counts.entry(word).or_default();
            *most = most.max(weight);
        }
    }
    counts
}

/// Returns what a sum over a sentence's terms is divided by, so that long ones do not win for their length.
fn damping(candidate: &Candidate<'_>) -> f32 {
    (6.0 + candidate.terms.len() as f32).powf(0.3)
}

/// Returns the share of a sentence's words that carry no meaning: whole sentences have some, lists none.
fn small_words(text: &str) -> f32 {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let small: Vec<bool> = words.map(|word| is_stop_word(&word.to_lowercase())).collect();
    small.iter().filter(|is_small| **is_small).count() as f32 / small.len().max(1) as f32
}

fn terms_of(text: &str) -> HashSet<String> {
    terms(text).into_iter().map(|term| term.text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(article: &str, score: f32, passage: &str) -> Card {
        Card {
            id: format!("{article}#0"),
            article: article.to_owned(),
            title: "Fees".to_owned(),
            passage: passage.to_owned(),
            highlights: vec![],
            score,
            base: "tel".to_owned(),
            version: 1,
        }
    }

    fn customer(text: &str) -> Turn {
        Turn { speaker: Speaker::Customer, text: text.to_owned() }
    }

    /// Returns the sentences of some cards, worthiest first.
    fn ranked<'a>(cards: &'a [Card], turns: &[Turn], wish: Option<&str>) -> Vec<&'a str> {
        let candidates = candidates(cards);
        let worth = worth(&candidates, cards, turns, wish);
        let mut ranked: Vec<_> = candidates.into_iter().zip(worth).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.into_iter().map(|(candidate, _)| candidate.text).collect()
    }

    #[test]
    fn headings_are_not_quoted_and_what_stands_under_the_one_asked_for_comes_first() {
        let passage = "Opening hours:\nThe desk opens at nine.\nLost luggage:\nThe desk writes a report.";
        let cards = [card("desk", 1.0, passage)];
        let found = candidates(&cards);
        let headings: Vec<(&str, &str)> = found.iter().map(|found| (found.heading, found.text)).collect();
        let expected =
            [("Opening hours:", "The desk opens at nine."), ("Lost luggage:", "The desk writes a report.")];
        assert_eq!(headings, expected);
        let ranked = ranked(&cards, &[customer("my luggage is lost")], None);
        assert_eq!(ranked[0], "The desk writes a report.");
    }

    #[test]
    fn who_asks_how_much_is_told_the_amount_and_who_asks_how_long_the_time() {
        let passage = "The visit is made on the phone first. The visit is billed at 40 euros at most. The visit \
                       is made in two days or so.";
        let cards = [card("visit", 1.0, passage)];
        let first = |text: &str| ranked(&cards, &[customer(text)], None)[0].to_owned();
        assert_eq!(first("how much is the visit"), "The visit is billed at 40 euros at most.");
        assert_eq!(first("how long until the visit"), "The visit is made in two days or so.");
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let passage = "A missed visit is credited with 25 euros within a week. The next visit is booked on the first \
                       free day.";
        let cards = [card("visit", 1.0, passage)];
        let mut turns = vec![customer("what do i get for the missed visit")];
        assert!(ranked(&cards, &turns, None)[0].starts_with("A missed visit"));
        let told = "a missed visit is credited with twenty-five euros within a week";
        turns.push(Turn { speaker: Speaker::Agent, text: told.to_owned() });
        turns.push(customer("and when will someone visit"));
        assert!(ranked(&cards, &turns, None)[0].starts_with("The next visit"));
    }

    #[test]
    fn a_weaker_article_counts_less_and_a_wish_moves_the_choice() {
        let cards = [
            card("bags", 1.0, "A lost bag is traced for five days. A late bag is brought to your door."),
            card("pets", 0.2, "A lost bag is traced for nine days."),
        ];
        let said = [customer("where is my lost bag")];
        let of = |wish| ranked(&cards, &said, wish);
        let place = |ranked: &[&str], text: &str| ranked.iter().position(|r| r.contains(text)).unwrap();
        assert!(place(&of(None), "five days") < place(&of(None), "nine days"));
        assert!(place(&of(None), "five days") < place(&of(None), "door"));
        assert!(place(&of(Some("brought late to the door")), "door") == 0);
    }
}
