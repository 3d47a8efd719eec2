//! The customer's recent turns to ranked cards.
//!
//! Terms of the last turn count most, those of earlier turns less. A passage is scored by BM25F
//! (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009, section 3.6): term
//! counts of title, headings and text are weighted and summed before they saturate. The same sum
//! over all passages of an article gives the article's score, since an article may answer with
//! words of several passages; a card is the best passage of a good article.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;

use tantivy::DocSet;
use tantivy::Term;
use tantivy::postings::Postings;
use tantivy::schema::IndexRecordOption;

use crate::event::Card;
use crate::event::Speaker;
use crate::knowledge::index::BaseIndex;
use crate::knowledge::term::terms;
use crate::prompt::Turn;

/// A card is shown from this score on.
pub const SHOW_FROM: f32 = 9.0;

/// What is asked: a conversation up to the customer's last turn.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The recent turns, redacted, oldest first; the last is the customer's.
    pub turns: Vec<Turn>,
    /// The bases to search; empty for all of the tenant.
    pub bases: Vec<String>,
    /// The most cards to return.
    pub limit: usize,
}

/// The numbers of the ranking, chosen on the train split with `chatdlm eval knowledge --sweep`.
#[derive(Debug, Clone)]
pub struct Weights {
    /// BM25 saturation.
    pub k1: f32,
    /// BM25 length normalisation.
    pub b: f32,
    /// How much a term of the title counts against one of the text.
    pub title: f32,
    /// How much a term of a heading counts.
    pub heading: f32,
    /// The share of the best passage's score that is added to its article's.
    pub passage: f32,
    /// How much each earlier turn of the customer counts against the one after it.
    pub fade: f32,
    /// How much the agent's last turn counts.
    pub agent: f32,
}

impl Default for Weights {
    fn default() -> Weights {
        Weights { k1: 1.2, b: 0.6, title: 2.5, heading: 1.5, passage: 0.7, fade: 0.4, agent: 0.2 }
    }
}

/// A term with how much it counts.
pub(super) type WeightedTerms = BTreeMap<String, f32>;

/// Returns the terms of a conversation; the last customer turn's have weight 1.
pub(super) fn question_terms(turns: &[Turn], weights: &Weights) -> WeightedTerms {
    let mut found = WeightedTerms::new();
    let mut weight = 1.0;
    let mut has_agent = false;
    for (back, turn) in turns.iter().rev().enumerate() {
        let turn_weight = match turn.speaker {
            Speaker::Customer => {
                let this = weight;
                weight *= weights.fade;
                this
            }
            Speaker::Agent if back > 0 && !has_agent => {
                has_agent = true;
                weights.agent
            }
            Speaker::Agent => continue,
        };
        if turn_weight < 0.05 {
            continue;
        }
        for term in terms(&turn.text) {
            let entry = found.entry(term.text).or_default();
            *entry = entry.max(turn_weight);
        }
    }
    found
}

/// An article that may answer, with its best passage.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub passage: u32,
    pub score: f32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    title: f32,
    heading: f32,
    text: f32,
}

/// Scores every article of `index` that shares a term with the question, best first.
pub(super) fn rank(
    index: &BaseIndex,
    question: &WeightedTerms,
    weights: &Weights,
) -> Result<Vec<Candidate>, tantivy::TantivyError> {
    let Some(segment) = index.searcher.segment_readers().first() else { return Ok(Vec::new()) };
    let fields = [index.fields.title, index.fields.heading, index.fields.text];
    let lists = fields.map(|field| segment.inverted_index(field));
    let mut passage_scores: HashMap<u32, f32> = HashMap::new();
    let mut article_scores: HashMap<u32, f32> = HashMap::new();
    for (term, &weight) in question {
        let mut passages: BTreeMap<u32, Counts> = BTreeMap::new();
        for (at, field) in fields.into_iter().enumerate() {
            let list = lists[at].as_ref().map_err(Clone::clone)?;
            let postings =
                list.read_postings(&Term::from_field_text(field, term), IndexRecordOption::WithFreqs)?;
            let Some(mut postings) = postings else { continue };
            while postings.doc() != tantivy::TERMINATED {
                let counts = passages.entry(postings.doc()).or_default();
                let count = postings.term_freq() as f32;
                match at {
                    0 => counts.title = count,
                    1 => counts.heading = count,
                    _ => counts.text = count,
                }
                postings.advance();
            }
        }
        let mut articles: BTreeMap<u32, Counts> = BTreeMap::new();
        for (&passage, counts) in &passages {
            let article = articles.entry(index.article_of[passage as usize]).or_default();
            article.title = counts.title;
            article.heading = article.heading.max(counts.heading);
            article.text += counts.text;
        }
        let n = index.article_count as f32;
        let df = articles.len() as f32;
        let idf = (1.0 + (n - df + 0.5) / (df + 0.5)).ln();
        let saturate = |counts: &Counts, length: f32| {
            let count = weights.title * counts.title + weights.heading * counts.heading + counts.text;
            let norm = 1.0 - weights.b + weights.b * length;
            count * (weights.k1 + 1.0) / (count + weights.k1 * norm)
        };
        for (&passage, counts) in &passages {
            *passage_scores.entry(passage).or_default() += weight * idf * saturate(counts, 1.0);
        }
        for (&article, counts) in &articles {
            *article_scores.entry(article).or_default() += weight * idf * saturate(counts, 1.0);
        }
    }
    let mut best: HashMap<u32, Candidate> = HashMap::new();
    for (passage, score) in passage_scores {
        let candidate =
            best.entry(index.article_of[passage as usize]).or_insert(Candidate { passage, score });
        if score > candidate.score || (score == candidate.score && passage < candidate.passage) {
            *candidate = Candidate { passage, score };
        }
    }
    let mut candidates: Vec<Candidate> = best
        .into_iter()
        .map(|(article, candidate)| Candidate {
            score: article_scores[&article] + weights.passage * candidate.score,
            ..candidate
        })
        .collect();
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.passage.cmp(&b.passage)));
    Ok(candidates)
}

/// Returns the stretches of `passage` whose terms are asked for, in Unicode scalar values;
/// neighbours with only spaces between them are one.
pub(super) fn highlights(passage: &str, question: &WeightedTerms) -> Vec<(usize, usize)> {
    let asked: HashSet<&str> = question.keys().map(String::as_str).collect();
    let mut found: Vec<(usize, usize)> = Vec::new();
    let mut last_end = 0;
    let mut characters = 0;
    let mut counted_to = 0;
    for term in terms(passage) {
        if !asked.contains(term.text.as_str()) {
            continue;
        }
        characters += passage[counted_to..term.bytes.start].chars().count();
        let length = passage[term.bytes.clone()].chars().count();
        match found.last_mut() {
            Some(last) if passage[last_end..term.bytes.start].trim().is_empty() => {
                last.1 = characters + length
            }
            _ => found.push((characters, characters + length)),
        }
        characters += length;
        counted_to = term.bytes.end;
        last_end = term.bytes.end;
    }
    found
}

/// Reads a candidate's passage back as a card.
pub(super) fn card(
    index: &BaseIndex,
    candidate: &Candidate,
    question: &WeightedTerms,
) -> Result<Card, tantivy::TantivyError> {
    let stored = index.passage(candidate.passage)?;
    Ok(Card {
        id: format!("{}#{}", stored.article, stored.number),
        highlights: highlights(&stored.text, question),
        article: stored.article,
        title: stored.title,
        passage: stored.text,
        score: candidate.score,
        base: index.edition.base.clone(),
        version: index.edition.version,
    })
}
