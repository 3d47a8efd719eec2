//! Does this card answer the customer? Documents that teach it, from labelled calls and queries and from
//! questions about a text.
//!
//! Each has one card: a passage that answers, a sentence of it, or one that only looks like it. Those are
//! the passages that share most words with what was said, since a search finds them too.

use std::collections::HashMap;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::corpus::dialogue::Dialogue;
use crate::corpus::questions;
use crate::corpus::questions::Passage;
use crate::corpus::service::Article;
use crate::corpus::service::Query;
use crate::corpus::tasks;
use crate::corpus::tasks::Document;
use crate::corpus::tasks::Task;
use crate::corpus::tasks::words;
use crate::event::Speaker;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// How many of the passages that look most like an answer a wrong one is drawn from.
const LIKE: usize = 8;
/// Wrong passages beside each right one.
const WRONG: usize = 2;
/// What the words of a turn count beside those of the one after it.
const FADE: f32 = 0.6;
/// How often a turn that no article answers is asked about.
const UNANSWERED_SHARE: f32 = 0.35;

/// Returns documents of a company's labelled calls and queries, other ones each time.
pub fn documents(
    articles: &[Article],
    calls: &[Dialogue],
    queries: &[Query],
    rng: &mut StdRng,
) -> Vec<Document> {
    let base = Base::new(articles);
    let mut documents = Vec::new();
    for call in calls {
        let turns = tasks::redacted_turns(call);
        for (i, turn) in call.turns.iter().enumerate() {
            if turns[i].speaker != Speaker::Customer {
                continue;
            }
            if turn.articles.is_empty() {
                if rng.random::<f32>() < UNANSWERED_SHARE {
                    documents.extend(base.wrong(&turns[..=i], &[], 1, rng));
                }
                continue;
            }
            let answer = call.turns.get(i + 1).filter(|_| turns[i + 1].speaker == Speaker::Agent);
            let told = answer.map_or("", |answer| &answer.text);
            let facts = answer.map_or(&[][..], |answer| &answer.facts);
            documents.extend(base.asked(&turns[..=i], &turn.articles, told, facts, rng));
        }
    }
    for query in queries {
        let turns = [Turn { speaker: Speaker::Customer, text: query.text.clone() }];
        documents.extend(base.asked(&turns, &query.relevant, "", &[], rng));
    }
    documents
}

/// Returns whether `(title, text)` answers `question`, as a document.
pub fn of_question(question: &str, title: &str, text: &str, answers: bool) -> Document {
    let turns = [Turn { speaker: Speaker::Customer, text: question.to_owned() }];
    judged(&turns, title, text, answers)
}

fn judged(turns: &[Turn], title: &str, text: &str, answers: bool) -> Document {
    let mut pieces = prompt::relevance(turns, title, text);
    pieces.push(Piece::Control(if answers { Control::Yes } else { Control::No }));
    pieces.push(Piece::Control(Control::End));
    Document { task: Task::Relevance, pieces }
}

/// A company's passages with their words.
struct Base<'a> {
    articles: &'a [Article],
    passages: Vec<Passage>,
    words: Vec<Vec<String>>,
    rarity: HashMap<String, f32>,
}

impl<'a> Base<'a> {
    fn new(articles: &'a [Article]) -> Base<'a> {
        let passages = questions::passages(articles);
        let words: Vec<Vec<String>> = passages
            .iter()
            .map(|passage| {
                let mut words = words(&format!("{} {}", passage.title, passage.text));
                words.sort_unstable();
                words.dedup();
                words
            })
            .collect();
        let mut rarity: HashMap<String, f32> = HashMap::new();
        words.iter().flatten().for_each(|word| *rarity.entry(word.clone()).or_default() += 1.0);
        let all = passages.len() as f32;
        rarity.values_mut().for_each(|count| *count = (1.0 + all / *count).ln());
        Base { articles, passages, words, rarity }
    }

    /// Returns documents of a question that articles answer: their best passage and a sentence of it, and some
    /// that do not answer. What the agent told, and the facts of it, say which passage and sentence; where
    /// nobody told anything, the question does.
    fn asked(
        &self,
        turns: &[Turn],
        relevant: &[String],
        told: &str,
        facts: &[String],
        rng: &mut StdRng,
    ) -> Vec<Document> {
        let mut documents = Vec::new();
        let wanted = if told.is_empty() { self.said(turns) } else { once(words(told)) };
        let of_right = |at: &usize| relevant.contains(&self.articles[self.passages[*at].article].id);
        let right = (0..self.passages.len()).filter(of_right);
        let best = right.max_by(|a, b| self.shared(*a, &wanted).total_cmp(&self.shared(*b, &wanted)));
        let Some(passage) = best.map(|at| &self.passages[at]) else { return documents };
        documents.push(judged(turns, &passage.title, &passage.text, true));
        documents.extend(self.wrong(turns, relevant, WRONG, rng));
        let fact_words = once(facts.iter().flat_map(|fact| words(fact)).collect());
        let holds = |text: &str| words(text).iter().filter(|word| fact_words.contains_key(*word)).count();
        let most = passage.sentences.iter().map(|sentence| holds(&sentence.text)).max().unwrap_or(0);
        if most > 0 {
            let of = |answers: bool| {
                let is_wanted = |text: &str| if answers { holds(text) == most } else { holds(text) == 0 };
                passage.sentences.iter().filter(move |s| is_wanted(&s.text)).collect::<Vec<_>>()
            };
            for answers in [true, false] {
                let sentence =
                    of(answers).choose(rng).map(|s| judged(turns, &passage.title, &s.text, answers));
                documents.extend(sentence);
            }
        }
        documents
    }

    /// Returns documents of passages that look like an answer and are of no relevant article.
    fn wrong(&self, turns: &[Turn], relevant: &[String], count: usize, rng: &mut StdRng) -> Vec<Document> {
        let said = self.said(turns);
        let mut order: Vec<(usize, f32)> =
            (0..self.passages.len()).map(|at| (at, self.shared(at, &said))).collect();
        order.retain(|(at, _)| !relevant.contains(&self.articles[self.passages[*at].article].id));
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(LIKE);
        let drawn = order.sample(rng, count).map(|(at, _)| &self.passages[*at]);
        drawn.map(|passage| judged(turns, &passage.title, &passage.text, false)).collect()
    }

    /// Returns the words of the turns and what each counts: less, the longer ago.
    fn said(&self, turns: &[Turn]) -> HashMap<String, f32> {
        let mut said = HashMap::new();
        let mut weight = 1.0;
        for turn in turns.iter().rev().take(prompt::RELEVANCE_TURNS) {
            for word in words(&turn.text) {
                said.entry(word).or_insert(weight);
            }
            weight *= FADE;
        }
        said
    }

    fn shared(&self, passage: usize, wanted: &HashMap<String, f32>) -> f32 {
        let words = self.words[passage].iter();
        words.map(|word| self.rarity[word] * wanted.get(word).copied().unwrap_or(0.0)).sum()
    }
}

fn once(words: Vec<String>) -> HashMap<String, f32> {
    words.into_iter().map(|word| (word, 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::corpus::dialogue::DialogueTurn;

    fn article(id: &str, text: &str) -> Article {
        Article {
            id: id.to_owned(),
            title: id.to_owned(),
            category: String::new(),
            updated: String::new(),
            text: text.to_owned(),
        }
    }

    fn turn(speaker: Speaker, text: &str) -> DialogueTurn {
        DialogueTurn { speaker: Some(speaker), text: text.to_owned(), ..DialogueTurn::default() }
    }

    #[test]
    fn the_right_passage_and_its_sentence_are_told_from_those_that_look_like_it() {
        let articles = [
            article("fees", "A late bill costs five euros. Paper bills are posted on Monday."),
            article("post", "Your bill comes by post on Monday if you ask for it."),
            article("tv", "The television box needs an aerial."),
        ];
        let asked = DialogueTurn {
            articles: vec!["fees".to_owned()],
            ..turn(Speaker::Customer, "what does a late bill cost me on monday")
        };
        let told =
            DialogueTurn { facts: vec!["five euros".to_owned()], ..turn(Speaker::Agent, "it is five euros") };
        let call = Dialogue { turns: vec![asked, told], ..Dialogue::default() };
        let queries = [Query { text: "aerial".to_owned(), relevant: vec!["tv".to_owned()] }];
        let documents = documents(&articles, &[call], &queries, &mut StdRng::seed_from_u64(1));
        let told: Vec<(&str, bool)> = documents
            .iter()
            .map(|document| match &document.pieces[..] {
                [.., Piece::Text(card), Piece::Control(Control::Relevant), Piece::Control(label), _] => {
                    (card.as_str(), *label == Control::Yes)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(told.contains(&(" fees: A late bill costs five euros.", true)), "{told:?}");
        assert!(told.contains(&(" fees: Paper bills are posted on Monday.", false)), "{told:?}");
        assert!(told.contains(&(" tv: The television box needs an aerial.", true)), "{told:?}");
        let wrong = " post: Your bill comes by post on Monday if you ask for it.";
        assert!(told.contains(&(wrong, false)), "{told:?}");
        let right = told.iter().filter(|(_, answers)| *answers).count();
        assert_eq!(right, 3, "two passages and a sentence: {told:?}");
    }
}
