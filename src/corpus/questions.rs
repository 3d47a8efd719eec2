//! Questions that a customer would ask, made from a company's articles by rules: what tuning learns from.
//!
//! Each sentence of an article is asked for in several wordings, from its own words, its heading and its
//! title, as people write and as a recogniser hears them; the answer states the sentence. In the forms of
//! [`crate::prompt`], with cards as the knowledge index cuts them: the passage that holds the answer among
//! others. Rules, so that the same articles always give the same questions. How a question is worded stands
//! in [`wording`].

pub mod wording;

use std::collections::HashSet;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::seq::SliceRandom;

use crate::corpus::questions::wording::Source;
use crate::corpus::service::Article;
use crate::corpus::service::Query;
use crate::corpus::tasks;
use crate::corpus::tasks::Document;
use crate::corpus::tasks::Task;
use crate::event::Speaker;
use crate::prompt::Turn;

/// A passage takes in the next section while it has fewer words than this.
const FEW_WORDS: usize = 60;
/// A passage has no more words than this, but for one endless sentence.
const MOST_WORDS: usize = 120;
/// A shorter sentence answers nothing.
const LEAST_WORDS: usize = 3;
/// How many questions each sentence gets.
const WORDINGS: usize = 3;
/// How an answer may begin, as agents do.
const LEADS: [&str; 8] = [
    "",
    "Of course.",
    "Let me look.",
    "Yes, I can help with that.",
    "Sure, one moment.",
    "I understand.",
    "",
    "okay so",
];
/// What an agent says before the customer asks.
const GREETINGS: [&str; 4] =
    ["how can i help", "Good morning, how can I help you?", "hello what can i do for you", "Anything else?"];

/// A piece of an article as it stands on a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The article's place among all.
    pub article: usize,
    /// The article's title.
    pub title: String,
    /// Its text.
    pub text: String,
    /// What can answer a question: its sentences with their headings.
    pub sentences: Vec<Sentence>,
}

/// A sentence of an article.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// The heading above it, empty where there is none.
    pub heading: String,
    /// The sentence, without markup.
    pub text: String,
}

/// Returns documents of all articles: each passage as a card, and questions with their answers.
pub fn article_documents(articles: &[Article], rng: &mut StdRng) -> Vec<Document> {
    let passages = passages(articles);
    let mut documents: Vec<Document> =
        passages.iter().map(|passage| tasks::card_document(&passage.title, &passage.text)).collect();
    let (mut asked_of, mut heading) = (None, None);
    // Of one article nothing is asked twice: the second answer would be another.
    let mut asked: HashSet<(usize, String)> = HashSet::new();
    for passage in &passages {
        let mut told: Option<(String, String)> = None;
        for sentence in &passage.sentences {
            let under = (passage.article, &sentence.heading);
            let source = Source {
                title: &passage.title,
                heading: &sentence.heading,
                sentence: &sentence.text,
                is_first_of_article: asked_of.replace(passage.article) != Some(passage.article),
                is_first_of_heading: heading.replace(under) != Some(under),
            };
            let mut wordings = wording::questions(&source);
            wordings.shuffle(rng);
            wordings.retain(|question| !asked.contains(&(passage.article, question.clone())));
            wordings.truncate(WORDINGS);
            for question in &wordings {
                asked.insert((passage.article, question.clone()));
                let said =
                    if rng.random::<f32>() < 0.5 { wording::spoken(question) } else { question.clone() };
                let mut turns = beginning(told.as_ref(), rng);
                turns.push(turn(Speaker::Customer, &said));
                let answer = answer(&sentence.text, rng);
                documents.push(reply(passage, &passages, &turns, &answer, rng));
            }
            told = wordings.first().map(|question| (question.clone(), sentence.text.clone()));
        }
    }
    documents
}

/// Returns documents of labelled queries: the answer is the sentence that shares most with the query.
pub fn query_documents(articles: &[Article], queries: &[Query], rng: &mut StdRng) -> Vec<Document> {
    let passages = passages(articles);
    let mut documents = Vec::new();
    for query in queries {
        let asked = tasks::words(&query.text);
        let shared = |text: &str| tasks::words(text).iter().filter(|word| asked.contains(word)).count();
        let is_relevant = |passage: &&Passage| query.relevant.contains(&articles[passage.article].id);
        let mut best: Option<(usize, &Passage, &Sentence)> = None;
        for passage in passages.iter().filter(is_relevant) {
            for sentence in &passage.sentences {
                let score = shared(&passage.text) + 2 * shared(&sentence.text);
                if best.is_none_or(|(most, ..)| score > most) {
                    best = Some((score, passage, sentence));
                }
            }
        }
        let Some((_, passage, sentence)) = best else { continue };
        for said in [query.text.clone(), wording::spoken(&query.text)] {
            let turns = [turn(Speaker::Customer, &said)];
            let answer = answer(&sentence.text, rng);
            documents.push(reply(passage, &passages, &turns, &answer, rng));
        }
    }
    documents
}

/// Returns what was said before the question: nothing, a greeting, or the question before it.
fn beginning(told: Option<&(String, String)>, rng: &mut StdRng) -> Vec<Turn> {
    match (rng.random_range(0..3), told) {
        (0, Some((question, answer))) => {
            vec![turn(Speaker::Customer, &wording::spoken(question)), turn(Speaker::Agent, answer)]
        }
        (1, _) => {
            let greeting = GREETINGS.choose(rng).expect("there are greetings");
            vec![turn(Speaker::Agent, greeting)]
        }
        _ => Vec::new(),
    }
}

fn answer(sentence: &str, rng: &mut StdRng) -> String {
    let lead = LEADS.choose(rng).expect("there are leads");
    format!("{lead} {sentence}").trim().to_owned()
}

/// Returns a reply with the passage that answers among up to two others.
fn reply(gold: &Passage, all: &[Passage], turns: &[Turn], answer: &str, rng: &mut StdRng) -> Document {
    let card = |passage: &Passage| (passage.title.clone(), passage.text.clone());
    let mut cards = vec![card(gold)];
    let count = rng.random_range(0..=2);
    cards.extend(all.sample(rng, count).filter(|passage| *passage != gold).map(card));
    cards.shuffle(rng);
    tasks::reply_document(Task::Quote, &cards, turns, answer)
}

fn turn(speaker: Speaker, text: &str) -> Turn {
    Turn { speaker, text: text.to_owned() }
}

/// Cuts articles into passages, about as the knowledge index does.
pub fn passages(articles: &[Article]) -> Vec<Passage> {
    let mut passages = Vec::new();
    for (at, article) in articles.iter().enumerate() {
        let empty = || Passage {
            article: at,
            title: article.title.clone(),
            text: String::new(),
            sentences: Vec::new(),
        };
        let mut passage = empty();
        let mut heading = String::new();
        let mut is_new_section = false;
        for line in article.text.lines() {
            if let Some(text) = line.strip_prefix('#') {
                heading = plain(text.trim_start_matches('#'));
                heading = if heading == article.title { String::new() } else { heading };
                is_new_section = true;
                continue;
            }
            let line = plain(line);
            if line.is_empty() {
                continue;
            }
            let (have, more) = (count(&passage.text), count(&line));
            let is_full = have + more > MOST_WORDS || (is_new_section && have >= FEW_WORDS);
            if have > 0 && is_full {
                passages.push(std::mem::replace(&mut passage, empty()));
            }
            if !heading.is_empty() && (is_new_section || passage.text.is_empty()) {
                passage.text = format!("{} {heading}:", passage.text).trim().to_owned();
            }
            is_new_section = false;
            passage.text = format!("{} {line}", passage.text).trim().to_owned();
            let sentences = sentences(&line).into_iter().filter(|text| count(text) >= LEAST_WORDS);
            passage.sentences.extend(sentences.map(|text| Sentence { heading: heading.clone(), text }));
        }
        if !passage.text.is_empty() {
            passages.push(passage);
        }
    }
    passages
}

/// Returns a line of Markdown without its marks; cells of a table are parted by commas.
fn plain(line: &str) -> String {
    let line = line.trim();
    if line.starts_with('|') {
        let cells: Vec<String> =
            line.split('|').map(unmarked).filter(|cell| cell.chars().any(char::is_alphanumeric)).collect();
        return cells.join(", ");
    }
    let listed = line.strip_prefix(['-', '*', '>', '+']).filter(|rest| rest.starts_with(' ')).unwrap_or(line);
    let number = listed.find(". ").filter(|at| *at > 0 && listed[..*at].bytes().all(|b| b.is_ascii_digit()));
    unmarked(number.map_or(listed, |at| &listed[at + 2..]))
}

/// Returns a text without emphasis, code marks and the targets of links.
fn unmarked(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['*', '`', '[']) {
        plain.push_str(&rest[..at]);
        let link = rest[at..].strip_prefix('[').and_then(|link| {
            let (label, after) = link.split_once("](")?;
            let (_, after) = after.split_once(')')?;
            Some((label, after))
        });
        rest = match link {
            Some((label, after)) => {
                plain.push_str(label);
                after
            }
            None => {
                if rest[at..].starts_with('[') {
                    plain.push('[');
                }
                &rest[at + 1..]
            }
        };
    }
    plain.push_str(rest);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Splits a line after `.`, `!`, `?` where a new sentence seems to start.
fn sentences(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, mark) in line.char_indices().filter(|(_, c)| matches!(c, '.' | '!' | '?')) {
        let after = &line[at + mark.len_utf8()..];
        let next = after.trim_start().chars().next();
        let is_abbreviation = line[start..at].ends_with("e.g") || line[start..at].ends_with("i.e");
        if after.starts_with(' ') && !is_abbreviation && next.is_some_and(|c| !c.is_lowercase()) {
            found.push(line[start..at + mark.len_utf8()].trim().to_owned());
            start = at + mark.len_utf8();
        }
    }
    found.push(line[start..].trim().to_owned());
    found.retain(|sentence| !sentence.is_empty() && !sentence.ends_with([':', '?']));
    found
}

fn count(text: &str) -> usize {
    text.split_whitespace().count()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::prompt::Control;
    use crate::prompt::Piece;

    fn articles() -> Vec<Article> {
        let article = |id: &str, title: &str, text: &str| Article {
            id: id.to_owned(),
            title: title.to_owned(),
            category: String::new(),
            updated: String::new(),
            text: text.to_owned(),
        };
        vec![
            article(
                "dispute",
                "Dispute a charge",
                "# Dispute a charge\n\n## Time limit\n\nTell us within **60 days** of the bill date. See [the form](https://x.example/a).\n\n\
                 ## While we check\n\n- The disputed amount is put on hold.\n1. No late fee for it.\n",
            ),
            article(
                "fees",
                "Fees",
                "A paper bill costs 2.50 euros a month, e.g. by post. It is free over 70.",
            ),
            article("tables", "Zones", "| Zone | Price |\n|---|---|\n| EU | **free** of charge |"),
        ]
    }

    #[test]
    fn passages_hold_headings_and_lines_without_marks() {
        let passages = passages(&articles());
        let texts: Vec<&str> = passages.iter().map(|passage| passage.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "Time limit: Tell us within 60 days of the bill date. See the form. \
                 While we check: The disputed amount is put on hold. No late fee for it.",
                "A paper bill costs 2.50 euros a month, e.g. by post. It is free over 70.",
                "Zone, Price EU, free of charge",
            ]
        );
        let sentence = |heading: &str, text: &str| Sentence { heading: heading.into(), text: text.into() };
        assert_eq!(
            passages[0].sentences[0],
            sentence("Time limit", "Tell us within 60 days of the bill date.")
        );
        assert_eq!(passages[0].sentences[3], sentence("While we check", "No late fee for it."));
        assert_eq!(passages[1].sentences.len(), 2, "a number and an abbreviation end no sentence");
    }

    #[test]
    fn long_articles_are_cut_between_sections_and_every_passage_has_its_heading() {
        let sentence = "This sentence has exactly eight words in it. ";
        let text = format!("## One\n{0}\n## Two\n{0}\n## Three\n{0}", sentence.repeat(9));
        let article = Article { text, ..articles().remove(0) };
        let passages = passages(&[article]);
        let starts: Vec<&str> = passages.iter().map(|p| p.text.split(':').next().unwrap()).collect();
        assert_eq!(starts, ["One", "Two", "Three"]);
        assert!(passages.iter().all(|passage| count(&passage.text) <= MOST_WORDS));
    }

    #[test]
    fn every_answer_stands_on_one_of_its_cards() {
        let documents = article_documents(&articles(), &mut StdRng::seed_from_u64(1));
        let sentences: Vec<Sentence> = passages(&articles()).into_iter().flat_map(|p| p.sentences).collect();
        let mut asked = 0;
        for document in documents.iter().filter(|document| document.task == Task::Quote) {
            let is_card = |pair: &&[Piece]| pair[0] == Piece::Control(Control::Card);
            let cards: Vec<&Piece> =
                document.pieces.windows(2).filter(is_card).map(|pair| &pair[1]).collect();
            let [.., Piece::Control(Control::Reply), Piece::Text(answer), Piece::Control(Control::End)] =
                &document.pieces[..]
            else {
                panic!("{:?}", document.pieces)
            };
            let states = |sentence: &&Sentence| answer.ends_with(&sentence.text);
            let sentence = sentences.iter().find(states).expect("the answer is a sentence");
            let holds = |card: &&&Piece| matches!(card, Piece::Text(text) if text.contains(&sentence.text));
            assert!(cards.iter().any(|card| holds(&card)), "{:?}", document.pieces);
            asked += 1;
        }
        assert!(asked >= 2 * sentences.len(), "{asked} questions about {} sentences", sentences.len());
        let cards = documents.iter().filter(|document| document.task == Task::Language).count();
        assert_eq!(cards, 3);
        assert_eq!(documents, article_documents(&articles(), &mut StdRng::seed_from_u64(1)));
    }

    #[test]
    fn a_query_is_answered_by_the_sentence_that_shares_its_words() {
        let query = |text: &str, id: &str| Query { text: text.to_owned(), relevant: vec![id.to_owned()] };
        let queries = [query("Is my paper bill free?", "fees"), query("what", "none")];
        let documents = query_documents(&articles(), &queries, &mut StdRng::seed_from_u64(2));
        assert_eq!(
            documents.len(),
            2,
            "as written and as spoken; an article that is not there answers nothing"
        );
        for document in documents {
            let answer = &document.pieces[document.pieces.len() - 2];
            let Piece::Text(answer) = answer else { panic!("{answer:?}") };
            assert!(answer.contains("A paper bill costs 2.50 euros a month"), "{answer}");
        }
    }
}
