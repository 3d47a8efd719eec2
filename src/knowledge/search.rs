//! The customer's recent turns to ranked cards.
//!
//! What both people said counts, the less the longer ago. An article is scored by BM25F
//! (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009, section 3.6): term counts
//! of title, headings and text are weighted and summed over all its passages before they saturate,
//! since an article may answer with words of several. Its card is its best passage, for which
//! older turns count far less: the topic lasts, the question does not. Whether anything is shown
//! is [`crate::knowledge::need`]'s to say.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use tantivy::DocSet;
use tantivy::Term;
use tantivy::postings::Postings;
use tantivy::schema::IndexRecordOption;

use crate::event::Card;
use crate::event::Speaker;
use crate::knowledge::index::BaseIndex;
use crate::knowledge::need;
use crate::knowledge::term::related_terms;
use crate::knowledge::term::terms;
use crate::prompt::Turn;

/// The best card's score from which on cards are shown, chosen on the dev split so that a turn
/// that needs no card shows one in about 15 of 100 cases.
pub const SHOW_FROM: f32 = 0.34;
/// The best card's score from which on an answer is drafted: a draft nobody needs is read past, one that is
/// missing is missed. On the dev split 45 of 100 turns that need none are drafted for, and the drafts that are
/// needed hold two thirds of the facts.
pub const DRAFT_FROM: f32 = 0.14;
/// The share of the best card's score that the cards beside it need.
pub const SHOW_BESIDE: f32 = 0.5;

/// BM25 saturation.
const K1: f32 = 1.6;
/// BM25 length normalisation.
const B: f32 = 0.6;
/// How much a term of the title counts against one of the text.
const TITLE: f32 = 2.5;
/// How much a term of a heading counts.
const HEADING: f32 = 1.5;
/// How much a turn counts against the one after it, for finding the article …
const FADE: f32 = 0.8;
/// … and for finding the passage in it.
const PASSAGE_FADE: f32 = 0.3;
/// What the second best passage of an article has of its article's score, and each after it beside the one before
/// down to [`LEAST_REST`].
const REST: f32 = 0.9;
const LEAST_REST: f32 = 0.81;
/// The most other passages of the best article that are taken: an article may be a manual.
const REST_MAX: usize = 12;
/// The share of the best passage's score that its article gets.
const PASSAGE_SHARE: f32 = 0.3;
/// How much a word counts that only means about the same as one that was said …
const RELATED: f32 = 0.2;
/// … which helps as long as there are no more turns than these. Later the agent's words do better.
const RELATED_TURNS: usize = 2;
/// Turns before these are not looked at.
const MOST_TURNS: usize = 14;

/// What is asked: a conversation up to the customer's last turn.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The recent turns of both people, redacted, oldest first; the last is the customer's. More
    /// than the last fourteen are not looked at.
    pub turns: Vec<Turn>,
    /// The bases to search; empty for all of the tenant.
    pub bases: Vec<String>,
    /// The most cards to return.
    pub limit: usize,
}

/// Returns the cards found, best first, that are good enough: none when the best has a score below `from`.
pub fn worth(mut found: Vec<Card>, from: f32) -> Vec<Card> {
    let best = found.first().map_or(0.0, |card| card.score);
    let least = if best < from { f32::INFINITY } else { SHOW_BESIDE * best };
    found.retain(|card| card.score >= least);
    found
}

/// The terms of a question, and what else of it tells whether it needs an answer.
#[derive(Debug, Clone)]
pub(super) struct Asked<'a> {
    /// How many turns ago each term was last said; 0 is the customer's last turn.
    pub terms: BTreeMap<String, usize>,
    /// Terms that nobody said and that mean about the same as one of the last turn.
    pub related: BTreeSet<String>,
    /// The customer's last turn.
    pub last: &'a str,
    /// The agent's turn right before it, if there is one.
    pub before: &'a str,
    /// How many turns the conversation has.
    pub turns: usize,
}

impl Asked<'_> {
    /// Takes the terms from the conversation.
    pub fn from(turns: &[Turn]) -> Asked<'_> {
        let mut found = BTreeMap::new();
        for (ago, turn) in turns.iter().rev().take(MOST_TURNS).enumerate() {
            for term in terms(&turn.text) {
                found.entry(term.text).or_insert(ago);
            }
        }
        let mut related = BTreeSet::new();
        if turns.len() <= RELATED_TURNS {
            related.extend(found.keys().flat_map(|term| related_terms(term)).cloned());
            related.retain(|term| !found.contains_key(term));
        }
        let before = turns.len().checked_sub(2).map(|at| &turns[at]);
        Asked {
            terms: found,
            related,
            last: turns.last().map_or("", |turn| &turn.text),
            before: before.filter(|turn| turn.speaker == Speaker::Agent).map_or("", |turn| &turn.text),
            turns: turns.len(),
        }
    }
}

/// An article that may answer, with its best passage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Candidate {
    pub article: u32,
    pub passage: u32,
    pub score: f32,
}

/// The articles of one base, best first, and how the customer's last turn took part.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    pub candidates: Vec<Candidate>,
    /// The part of the best article's score that the last turn gave.
    pub last_turn_score: f32,
    /// How many terms of the last turn the base has.
    pub known_terms: usize,
    /// What the rarity of the last turn's terms adds up to.
    pub rarity: f32,
    /// The scores of the passages that share a term with the question.
    pub passage_scores: BTreeMap<u32, f32>,
}

/// How often a term stands in each field, and how long the text is against the average.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    title: f32,
    heading: f32,
    text: f32,
}

impl Counts {
    fn score(self, relative_length: f32) -> f32 {
        let count = TITLE * self.title + HEADING * self.heading + self.text;
        count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * relative_length))
    }
}

/// Scores every article of `index` that shares a term with the question, best first.
pub(super) fn rank(index: &BaseIndex, asked: &Asked<'_>) -> Result<Ranking, tantivy::TantivyError> {
    let mut ranking = Ranking::default();
    let mut passage_scores: BTreeMap<u32, f32> = BTreeMap::new();
    let mut article_scores: BTreeMap<u32, f32> = BTreeMap::new();
    let mut last_turn_scores: BTreeMap<u32, f32> = BTreeMap::new();
    let said = asked.terms.iter().map(|(term, &ago)| (term, Some(ago)));
    for (term, ago) in said.chain(asked.related.iter().map(|term| (term, None))) {
        let passages = counts(index, term)?;
        let mut articles: BTreeMap<u32, Counts> = BTreeMap::new();
        for (&passage, counts) in &passages {
            let article = articles.entry(index.article_of[passage as usize]).or_default();
            article.title = counts.title;
            article.heading += counts.heading;
            article.text += counts.text;
        }
        let rarity = inverse_document_frequency(articles.len(), index.article_count);
        let (article_weight, passage_weight) = match ago {
            Some(ago) => (FADE.powi(ago as i32), PASSAGE_FADE.powi(ago as i32)),
            None => (RELATED, RELATED),
        };
        if ago == Some(0) {
            ranking.rarity += rarity;
            ranking.known_terms += usize::from(!articles.is_empty());
        }
        for (&passage, counts) in &passages {
            let score = rarity * counts.score(index.passage_lengths[passage as usize]);
            *passage_scores.entry(passage).or_default() += passage_weight * score;
        }
        for (&article, counts) in &articles {
            let score = rarity * counts.score(index.article_lengths[article as usize]);
            *article_scores.entry(article).or_default() += article_weight * score;
            if ago == Some(0) {
                *last_turn_scores.entry(article).or_default() += score;
            }
        }
    }
    let mut best: BTreeMap<u32, Candidate> = BTreeMap::new();
    for (&passage, &score) in &passage_scores {
        let article = index.article_of[passage as usize];
        let candidate = best.entry(article).or_insert(Candidate { article, passage, score });
        if score > candidate.score {
            *candidate = Candidate { article, passage, score };
        }
    }
    for mut candidate in best.into_values() {
        candidate.score = article_scores[&candidate.article] + PASSAGE_SHARE * candidate.score;
        ranking.candidates.push(candidate);
    }
    ranking.candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.passage.cmp(&b.passage)));
    let top = ranking.candidates.first().map(|candidate| candidate.article);
    ranking.passage_scores = passage_scores;
    ranking.last_turn_score =
        top.and_then(|article| last_turn_scores.get(&article).copied()).unwrap_or_default();
    Ok(ranking)
}

/// Source: Robertson and Zaragoza 2009, equation 3.15, with one added so that it is never negative.
fn inverse_document_frequency(holding: usize, all: usize) -> f32 {
    let (holding, all) = (holding as f32, all as f32);
    (1.0 + (all - holding + 0.5) / (holding + 0.5)).ln()
}

/// Looks up the passages that hold a term.
fn counts(index: &BaseIndex, term: &str) -> Result<BTreeMap<u32, Counts>, tantivy::TantivyError> {
    let mut passages: BTreeMap<u32, Counts> = BTreeMap::new();
    let Some(segment) = index.searcher.segment_readers().first() else { return Ok(passages) };
    for field in [index.fields.title, index.fields.heading, index.fields.text] {
        let key = Term::from_field_text(field, term);
        let postings = segment.inverted_index(field)?.read_postings(&key, IndexRecordOption::WithFreqs)?;
        let Some(mut postings) = postings else { continue };
        while postings.doc() != tantivy::TERMINATED {
            let counts = passages.entry(postings.doc()).or_default();
            let count = postings.term_freq() as f32;
            if field == index.fields.title {
                counts.title = count;
            } else if field == index.fields.heading {
                counts.heading = count;
            } else {
                counts.text = count;
            }
            postings.advance();
        }
    }
    Ok(passages)
}

/// Returns the cards of a ranking's best articles. A card's score is the chance that the turn
/// needs it, so that cards of several bases compare.
pub(super) fn cards(
    index: &BaseIndex,
    ranking: &Ranking,
    asked: &Asked<'_>,
    limit: usize,
) -> Result<Vec<Card>, tantivy::TantivyError> {
    let Some(best) = ranking.candidates.first() else { return Ok(Vec::new()) };
    let chance = need::chance(&need::features(asked, ranking));
    let mut cards = Vec::new();
    for candidate in ranking.candidates.iter().take(limit) {
        let stored = index.passage(candidate.passage)?;
        cards.push(Card {
            id: format!("{}#{}", stored.article, stored.number),
            highlights: highlights(&stored.text, asked),
            article: stored.article,
            title: stored.title,
            passage: stored.text,
            score: chance * candidate.score / best.score,
            base: index.edition.base.clone(),
            version: index.edition.version,
        });
    }
    Ok(cards)
}

/// Returns the other passages of the best article as cards, best first; `card` is that of its best passage.
pub(super) fn rest(
    index: &BaseIndex,
    ranking: &Ranking,
    asked: &Asked<'_>,
    card: &Card,
) -> Result<Vec<Card>, tantivy::TantivyError> {
    let Some(best) = ranking.candidates.first() else { return Ok(Vec::new()) };
    let of_article = index.article_of.iter().zip(0..).filter(|(article, _)| **article == best.article);
    let mut passages: Vec<u32> =
        of_article.map(|(_, passage)| passage).filter(|passage| *passage != best.passage).collect();
    let score = |passage: &u32| ranking.passage_scores.get(passage).copied().unwrap_or(0.0);
    passages.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    let mut cards = Vec::new();
    let mut share = REST;
    for passage in passages.into_iter().take(REST_MAX) {
        let stored = index.passage(passage)?;
        cards.push(Card {
            id: format!("{}#{}", stored.article, stored.number),
            highlights: highlights(&stored.text, asked),
            passage: stored.text,
            score: share * card.score,
            ..card.clone()
        });
        share = (share * REST).max(LEAST_REST);
    }
    Ok(cards)
}

/// Returns the stretches of `passage` that the customer's last turn asked for, or the talk before
/// if it asked for none, in Unicode scalar values. Neighbours with only spaces between are one.
fn highlights(passage: &str, asked: &Asked<'_>) -> Vec<(usize, usize)> {
    let found = terms(passage);
    let is_asked = |term: &str, oldest: usize| asked.terms.get(term).is_some_and(|&ago| ago <= oldest);
    let has_last = found.iter().any(|term| is_asked(&term.text, 0));
    let oldest = if has_last { 0 } else { 2 };
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    let (mut characters, mut counted_bytes) = (0, 0);
    for term in found.iter().filter(|term| is_asked(&term.text, oldest)) {
        let gap = &passage[counted_bytes..term.bytes.start];
        let start = characters + gap.chars().count();
        let end = start + passage[term.bytes.clone()].chars().count();
        match stretches.last_mut() {
            Some(last) if gap.trim().is_empty() => last.1 = end,
            _ => stretches.push((start, end)),
        }
        characters = end;
        counted_bytes = term.bytes.end;
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(text: &str) -> Turn {
        Turn { speaker: Speaker::Customer, text: text.to_owned() }
    }

    fn check_highlights(passage: &str, question: &str, expected: &[&str]) {
        let turns = [customer(question)];
        let characters: Vec<char> = passage.chars().collect();
        let found: Vec<String> = highlights(passage, &Asked::from(&turns))
            .into_iter()
            .map(|(start, end)| characters[start..end].iter().collect())
            .collect();
        assert_eq!(found, expected, "{question}");
    }

    #[test]
    fn highlights_count_characters_and_join_neighbours() {
        let passage = "Żółć: late fees are €25. Fees for late bags.";
        check_highlights(passage, "what late fee is it", &["late fees", "Fees", "late"]);
        check_highlights(passage, "twenty five euros?", &["25"]);
        check_highlights("late fees", "late fees", &["late fees"]);
        check_highlights(passage, "hello", &[]);
    }

    #[test]
    fn cards_are_worth_showing_from_a_score_on_and_beside_one_that_is_not_twice_as_good() {
        let card = |id: &str, score| Card {
            id: id.to_owned(),
            article: id.to_owned(),
            title: String::new(),
            passage: String::new(),
            highlights: vec![],
            score,
            base: String::new(),
            version: 1,
        };
        let found = || vec![card("a", 0.3), card("b", 0.15), card("c", 0.14)];
        let ids = |cards: Vec<Card>| cards.into_iter().map(|card| card.id).collect::<Vec<_>>();
        assert_eq!(ids(worth(found(), DRAFT_FROM)), ["a", "b"]);
        assert!(worth(found(), SHOW_FROM).is_empty());
        assert!(worth(Vec::new(), DRAFT_FROM).is_empty());
    }

    #[test]
    fn related_words_help_until_there_is_talk() {
        let turns = [customer("my gran passed away"), customer("her phone"), customer("what now, she died")];
        let asked = Asked::from(&turns[..1]);
        assert!(asked.related.contains("bereav") && !asked.related.contains("gran"), "{:?}", asked.related);
        assert!(Asked::from(&turns).related.is_empty());
    }

    #[test]
    fn a_term_counts_from_when_it_was_last_said() {
        let turns = [customer("refund of the bag"), customer("which bag")];
        let asked = Asked::from(&turns);
        assert_eq!(asked.terms.get("bag"), Some(&0));
        assert_eq!(asked.terms.get("refund"), Some(&1));
    }
}
