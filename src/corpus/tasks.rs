//! Rows to training documents, in exactly the forms of [`crate::prompt`].
//!
//! Service calls give every task; the openly licensed sets give dialogue, emotion and grounded
//! replies. Sensitive spans that the service calls mark are replaced as the redactor does, for the
//! model never sees anything else at run time.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::seq::SliceRandom;
use serde_json::Value;

use crate::corpus::dialogue::Dialogue;
use crate::corpus::dialogue::DialogueTurn;
use crate::corpus::labels;
use crate::corpus::relevance;
use crate::corpus::rows;
use crate::corpus::service;
use crate::corpus::service::Article;
use crate::corpus::service::Split;
use crate::event::Emotion;
use crate::event::Speaker;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;
use crate::prompt::Turn;

/// The most turns of a transcript document.
const TRANSCRIPT_TURNS: usize = 14;
/// The most characters of a transcript document.
const TRANSCRIPT_CHARS: usize = 1_800;
/// How often a conversation that takes several of these is there as a whole too: long context.
const WHOLE_SHARE: f32 = 0.3;
/// The most characters of a whole conversation or text, about 2,000 tokens.
const WHOLE_CHARS: usize = 7_500;
/// Words of a passage, as the knowledge index cuts them.
const PASSAGE_WORDS: usize = 100;

/// What a document teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Task {
    /// Denoise a conversation or an article.
    Language,
    /// Label the customer's emotion.
    Emotion,
    /// Answer from cards, or without any.
    Reply,
    /// Write around quoted sentences.
    Quote,
    /// Sum up a call.
    Summary,
    /// Say whether a card answers.
    Relevance,
    /// Write what an instruction wants of a text or an answer.
    Edit,
}

/// One training document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// What it teaches.
    pub task: Task,
    /// Its text and control tokens.
    pub pieces: Vec<Piece>,
}

/// Returns every document of the companies under `root`, with other cards beside the right ones each time.
///
/// # Errors
/// When a folder or row cannot be read.
pub fn service_documents(root: &Path, split: Split, rng: &mut StdRng) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for company in service::companies(root)? {
        let articles = company.articles()?;
        if split == Split::Train {
            let passages = articles.iter().flat_map(passages);
            documents.extend(passages.map(|(title, text)| card_document(&title, &text)));
            let (calls, queries) = (company.calls(split)?, service::or_none(company.queries(split))?);
            documents.extend(relevance::documents(&articles, &calls, &queries, rng));
        }
        documents.extend(documents_of_calls(&articles, &company.calls(split)?, rng));
    }
    Ok(documents)
}

/// Returns every document of a company's labelled calls.
pub fn documents_of_calls(articles: &[Article], calls: &[Dialogue], rng: &mut StdRng) -> Vec<Document> {
    let passages: Vec<(String, String)> = articles.iter().flat_map(passages).collect();
    let of_article: HashMap<&str, Vec<(String, String)>> =
        articles.iter().map(|a| (a.id.as_str(), self::passages(a))).collect();
    let mut documents = Vec::new();
    for call in calls {
        call_documents(call, &of_article, &passages, rng, &mut documents);
    }
    documents
}

fn call_documents(
    call: &Dialogue,
    of_article: &HashMap<&str, Vec<(String, String)>>,
    all: &[(String, String)],
    rng: &mut StdRng,
    documents: &mut Vec<Document>,
) {
    let turns: Vec<Turn> = redacted_turns(call);
    transcripts(&turns, documents);
    whole(&turns, rng, documents);
    documents.extend(summary_document(call, &turns));
    for (i, turn) in call.turns.iter().enumerate() {
        if let Some(label) = turn.emotion_label() {
            documents.push(emotion_document(&turns[..=i], label));
        }
        let is_question = turns[i].speaker == Speaker::Customer;
        let Some(answer) =
            call.turns.get(i + 1).filter(|_| is_question && turns[i + 1].speaker == Speaker::Agent)
        else {
            continue;
        };
        let text = &turns[i + 1].text;
        let gold = best_passage(turn, answer, of_article);
        let mut cards: Vec<(String, String)> = gold.clone().into_iter().collect();
        let distractors = if gold.is_some() { rng.random_range(0..=2) } else { rng.random_range(0..=1) };
        cards.extend(all.sample(rng, distractors).cloned());
        cards.shuffle(rng);
        documents.push(reply_document(Task::Reply, &cards, &turns[..=i], text));
        documents.extend(wished_document(&cards, &turns[..=i], text, &answer.facts, rng));
        if let Some((_, passage)) = &gold
            && let Some(quoting) = quoting_answer(passage, answer, text)
        {
            documents.push(reply_document(Task::Quote, &cards, &turns[..=i], &quoting));
        }
    }
}

/// Returns documents of the openly licensed sets in `folder`; what a publisher marked for testing
/// teaches language but no labels.
///
/// # Errors
/// When a file cannot be read.
pub fn open_documents(folder: &Path, rng: &mut StdRng) -> anyhow::Result<Vec<Document>> {
    let path = folder.join(labels::FILE);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let maps: Value =
        serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
    let mut files: Vec<_> = std::fs::read_dir(folder)?.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.sort();
    let mut documents = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(share) = share(&name) else { continue };
        let map = &maps["files"][name.as_str()];
        let mut last = None;
        for row in rows::read::<Value>(&file)? {
            let row = row?;
            // What a labelled set is measured on teaches nothing (`eval model`).
            let id = row["id"].as_str().or(row["text"].as_str()).unwrap_or_default();
            let is_kept = !map.is_null() && row["split"] != "train" && labels::is_kept(id);
            if rng.random::<f32>() < share && !is_kept {
                row_documents(&row, map, rng, &mut documents);
                documents.extend(judged(&row, &mut last));
            }
        }
    }
    Ok(documents)
}

/// Returns which share of a set's rows is used: service talk and labels before open chat and books.
fn share(file: &str) -> Option<f32> {
    let share = match file.split('.').next()? {
        "goemotions"
        | "grounded_replies"
        | "ms_contact_center"
        | "tau_bench_service"
        | "topical_chat_part"
        | "harper_valley_sample"
        | "abcd_sample"
        | "star"
        | "reading_qa" => 1.0,
        "xed_en" | "multidogo_customer" | "multiwoz21_valtest" | "taskmaster3_part" | "kb_articles" => 0.8,
        "sgd" | "self_dialogues" => 0.6,
        "evi_phone_asr" | "intents" | "woz2" | "taskmaster4" => 0.5,
        "medical_dialogue_summaries" | "textbooks_openstax" => 0.4,
        "disfl_qa" | "wikisplit_part" => 0.3,
        "spoken_earnings_calls" => 0.2,
        "books_classics" | "books_standard_ebooks" => 0.08,
        _ => return None,
    };
    Some(share)
}

fn row_documents(row: &Value, map: &Value, rng: &mut StdRng, documents: &mut Vec<Document>) {
    let text = |key: &str| row[key].as_str().filter(|t| !t.trim().is_empty());
    let is_test = matches!(row["split"].as_str(), Some("dev" | "test"));
    if let (Some(labels), Some(text)) = (row["labels"].as_array(), text("text")) {
        let turn = [Turn { speaker: Speaker::Customer, text: text.to_owned() }];
        let mut found: Vec<&str> =
            labels.iter().filter_map(|l| l.as_str()).filter_map(|l| map[l].as_str()).collect();
        found.sort_unstable();
        found.dedup();
        match found[..] {
            // Plain talk is most of these sets; a third of it is enough.
            [label] if !is_test && (label != "neutral" || rng.random::<f32>() < 0.35) => {
                documents.extend(emotion_named(label).map(|e| emotion_document(&turn, e)));
            }
            _ => transcripts(&turn, documents),
        }
        return;
    }
    if let (Some(answer), Some(knowledge)) = (text("answer"), row["knowledge"].as_array()) {
        let cards: Vec<(String, String)> = knowledge
            .iter()
            .take(3)
            .map(|k| {
                (k["title"].as_str().unwrap_or("").to_owned(), k["text"].as_str().unwrap_or("").to_owned())
            })
            .collect();
        let turns = match serde_json::from_value::<Dialogue>(row.clone()) {
            Ok(dialogue) => plain_turns(&dialogue),
            Err(_) => Vec::new(),
        };
        if !turns.is_empty() {
            documents.push(reply_document(Task::Reply, &cards, &turns, answer));
        }
        return;
    }
    if let (Some(before), Some(after)) = (text("text"), text("rewrite")) {
        if is_test {
            return;
        }
        let instruction = (prompt::INSTRUCTION_TITLE.to_owned(), format!("say this clearly: {before}"));
        documents.push(reply_document(Task::Edit, &[instruction], &[], after));
        return;
    }
    if row["turns"].is_array() {
        let Ok(dialogue) = serde_json::from_value::<Dialogue>(row.clone()) else { return };
        dialogue_documents(&dialogue, map, is_test, rng, documents);
    } else if let (Some(title), Some(text)) = (text("title"), text("text")) {
        let article = Article {
            id: String::new(),
            title: title.to_owned(),
            category: String::new(),
            updated: String::new(),
            text: text.to_owned(),
        };
        documents.extend(passages(&article).iter().take(6).map(|(title, text)| card_document(title, text)));
        if article.text.len() > TRANSCRIPT_CHARS && rng.random::<f32>() < WHOLE_SHARE {
            let text: String = article.text.chars().take(WHOLE_CHARS).collect();
            let pieces =
                vec![Piece::Control(Control::Card), Piece::Text(format!(" {title}: {}", one_line(&text)))];
            documents.push(ended(Task::Language, pieces));
        }
    } else if let (Some(context), Some(question), Some(answer)) =
        (row["context"].as_str(), text("question"), text("answer"))
    {
        // A question about a text is a customer's about a card.
        let turn = [Turn { speaker: Speaker::Customer, text: question.to_owned() }];
        let cards: Vec<(String, String)> =
            [context].iter().filter(|c| !c.is_empty()).map(|c| (String::new(), (*c).to_owned())).collect();
        documents.push(reply_document(Task::Reply, &cards, &turn, answer));
    } else if let Some(text) = text("text") {
        // A piece of a book: long context in which people speak.
        let text: String = text.chars().take(WHOLE_CHARS).collect();
        let pieces = vec![Piece::Control(Control::Card), Piece::Text(format!(" {}", one_line(&text)))];
        documents.push(ended(Task::Language, pieces));
    }
}

/// Returns whether a row's text answers its question, and whether that of the row before does, which is
/// often about the same thing.
fn judged(row: &Value, last: &mut Option<(String, String)>) -> Vec<Document> {
    let own = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (question, answer) = (own(&row["question"]), own(&row["answer"]));
    let card = match &row["knowledge"][0] {
        Value::Null => (String::new(), own(&row["context"])),
        piece => (own(&piece["title"]), own(&piece["text"])),
    };
    // What is cut off a card's end answers nothing.
    let is_seen = card.1.len() < 600 || card.1.find(&answer).is_some_and(|at| at < 500);
    if question.is_empty() || card.1.is_empty() || !is_seen {
        return Vec::new();
    }
    let mut documents = vec![relevance::of_question(&question, &card.0, &card.1, true)];
    if let Some((title, text)) = last.as_ref().filter(|last| **last != card) {
        documents.push(relevance::of_question(&question, title, text, false));
    }
    *last = Some(card);
    documents
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn dialogue_documents(
    dialogue: &Dialogue,
    map: &Value,
    is_test: bool,
    rng: &mut StdRng,
    documents: &mut Vec<Document>,
) {
    let turns = plain_turns(dialogue);
    transcripts(&turns, documents);
    whole(&turns, rng, documents);
    documents.extend(summary_document(dialogue, &turns));
    for (i, turn) in dialogue.turns.iter().enumerate() {
        if let Some(label) = turn.emotion.as_deref().and_then(|e| map[e].as_str())
            && (!is_test || dialogue.source.contains("topical"))
            && (label != "neutral" || rng.random::<f32>() < 0.15)
        {
            let mut recent = turns[i.saturating_sub(2)..=i].to_vec();
            // The label is the speaker's: whoever it is stands where the customer stands.
            recent.last_mut().expect("the turn itself").speaker = Speaker::Customer;
            documents.extend(emotion_named(label).map(|e| emotion_document(&recent, e)));
        }
        let cards: Vec<(String, String)> = dialogue
            .knowledge
            .iter()
            .filter(|k| k.turn == Some(i))
            .take(2)
            .map(|k| (k.title.clone(), k.text.clone()))
            .collect();
        if !cards.is_empty() && turns[i].speaker == Speaker::Agent && i > 0 && rng.random::<f32>() < 0.3 {
            documents.push(reply_document(Task::Reply, &cards, &turns[..i], &turns[i].text));
        }
    }
}

fn emotion_named(label: &str) -> Option<Emotion> {
    Emotion::ALL.into_iter().find(|e| e.as_str() == label)
}

fn plain_turns(dialogue: &Dialogue) -> Vec<Turn> {
    let speakers = dialogue.roles();
    let turn = |(t, speaker): (&DialogueTurn, Speaker)| Turn { speaker, text: t.text.clone() };
    dialogue.turns.iter().zip(speakers).map(turn).collect()
}

/// Returns the turns of a labelled call with its sensitive spans replaced as the redactor does.
pub fn redacted_turns(call: &Dialogue) -> Vec<Turn> {
    let mut turns = plain_turns(call);
    for (turn, labelled) in turns.iter_mut().zip(&call.turns) {
        for span in labelled.sensitive.iter().filter(|s| s.category != "name") {
            turn.text = turn.text.replace(&span.text, &format!("[{}]", span.category.replace('_', " ")));
        }
    }
    turns
}

fn ended(task: Task, mut pieces: Vec<Piece>) -> Document {
    pieces.push(Piece::Control(Control::End));
    Document { task, pieces }
}

pub(super) fn card_document(title: &str, text: &str) -> Document {
    let mut pieces = Vec::new();
    prompt::card(&mut pieces, title, text);
    ended(Task::Language, pieces)
}

fn emotion_document(turns: &[Turn], label: Emotion) -> Document {
    let mut pieces = prompt::emotion(turns);
    pieces.push(Piece::Control(Control::Label(label)));
    ended(Task::Emotion, pieces)
}

/// The end of a conversation, its summary and how it ended, where it has one.
fn summary_document(dialogue: &Dialogue, turns: &[Turn]) -> Option<Document> {
    let summary = dialogue.summary.as_deref().filter(|text| !text.trim().is_empty())?;
    let mut pieces = prompt::summary(turns);
    pieces.push(Piece::Text(format!(" {summary}")));
    if let Some(disposition) = &dialogue.disposition {
        pieces.push(Piece::Control(Control::Disposition));
        pieces.push(Piece::Text(prompt::disposition(disposition)));
    }
    Some(ended(Task::Summary, pieces))
}

pub(super) fn reply_document(
    task: Task,
    cards: &[(String, String)],
    turns: &[Turn],
    answer: &str,
) -> Document {
    let cards: Vec<(&str, &str)> =
        cards.iter().map(|(title, text)| (title.as_str(), text.as_str())).collect();
    let mut pieces = prompt::reply(&cards, turns);
    pieces.push(Piece::Text(format!(" {answer}")));
    ended(task, pieces)
}

/// An answer that an instruction asked for: to name a fact of it, or to say it in short.
fn wished_document(
    cards: &[(String, String)],
    turns: &[Turn],
    answer: &str,
    facts: &[String],
    rng: &mut StdRng,
) -> Option<Document> {
    let fact = facts.choose(rng)?;
    let clauses: Vec<&str> = answer.split_inclusive(['.', '?', '!']).map(str::trim).collect();
    let stating: Vec<&str> =
        clauses.iter().copied().filter(|c| facts.iter().any(|fact| c.contains(fact.as_str()))).collect();
    let (wish, wished) = if stating.len() < clauses.len() && !stating.is_empty() && rng.random() {
        ("make it shorter".to_owned(), stating.join(" "))
    } else {
        (format!("mention {fact}"), answer.to_owned())
    };
    let instruction = (prompt::INSTRUCTION_TITLE.to_owned(), wish);
    let cards: Vec<(String, String)> = [instruction].into_iter().chain(cards.iter().cloned()).collect();
    Some(reply_document(Task::Edit, &cards, turns, &wished))
}

/// Cuts a conversation into documents of some turns.
fn transcripts(turns: &[Turn], documents: &mut Vec<Document>) {
    let mut rest = turns;
    while !rest.is_empty() {
        let mut count = 0;
        let mut chars = 0;
        while count < rest.len() && count < TRANSCRIPT_TURNS && (count == 0 || chars < TRANSCRIPT_CHARS) {
            chars += rest[count].text.len();
            count += 1;
        }
        let mut pieces = Vec::new();
        prompt::turns(&mut pieces, &rest[..count], count);
        documents.push(ended(Task::Language, pieces));
        rest = &rest[count..];
    }
}

/// Adds a conversation that is longer than one transcript document as a whole, now and then.
fn whole(turns: &[Turn], rng: &mut StdRng, documents: &mut Vec<Document>) {
    let chars: usize = turns.iter().map(|turn| turn.text.len()).sum();
    if (turns.len() > TRANSCRIPT_TURNS || chars > TRANSCRIPT_CHARS) && rng.random::<f32>() < WHOLE_SHARE {
        let mut sum = 0;
        let is_within = |turn: &&Turn| {
            sum += turn.text.len();
            sum <= WHOLE_CHARS
        };
        let count = turns.iter().take_while(is_within).count();
        let mut pieces = Vec::new();
        prompt::turns(&mut pieces, &turns[..count], count);
        documents.push(ended(Task::Language, pieces));
    }
}

/// Cuts an article into plain passages of whole lines, about as the knowledge index does.
pub fn passages(article: &Article) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut words = Vec::new();
    for line in article.text.lines() {
        let line = line.trim().trim_start_matches(['#', '-', '*', '>']).trim().replace("**", "");
        if line.is_empty() || line == article.title {
            continue;
        }
        let count = line.split_whitespace().count();
        if !words.is_empty() && words.len() + count > PASSAGE_WORDS {
            found.push((article.title.clone(), words.join(" ")));
            words.clear();
        }
        words.extend(line.split_whitespace().map(str::to_owned));
    }
    if !words.is_empty() {
        found.push((article.title.clone(), words.join(" ")));
    }
    found
}

/// Returns the passage of the turn's articles that shares most words with the answer.
fn best_passage(
    question: &DialogueTurn,
    answer: &DialogueTurn,
    of_article: &HashMap<&str, Vec<(String, String)>>,
) -> Option<(String, String)> {
    let wanted = words(&answer.text);
    let mut candidates: Vec<&(String, String)> =
        question.articles.iter().filter_map(|id| of_article.get(id.as_str())).flatten().collect();
    candidates.sort_by_key(|(_, text)| words(text).iter().filter(|w| wanted.contains(w)).count());
    candidates.last().map(|p| (*p).clone())
}

pub(super) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| w.len() > 2).map(str::to_lowercase).collect()
}

/// Returns an answer in which the agent's own first words lead to a sentence quoted from the passage.
///
/// The lead and the close are the parts of the real answer that state no fact.
fn quoting_answer(passage: &str, answer: &DialogueTurn, redacted: &str) -> Option<String> {
    let clauses: Vec<&str> = redacted.split_inclusive(['.', '?', '!']).map(str::trim).collect();
    let states_fact = |clause: &str| answer.facts.iter().any(|fact| clause.contains(fact.as_str()));
    let lead = clauses.first().filter(|c| !states_fact(c) && c.split_whitespace().count() <= 16)?;
    let wanted: Vec<String> = answer.facts.iter().flat_map(|f| words(f)).chain(words(redacted)).collect();
    let sentences: Vec<&str> =
        passage.split_inclusive(". ").map(str::trim).filter(|s| s.len() > 15).collect();
    let quote = sentences.iter().max_by_key(|s| words(s).iter().filter(|w| wanted.contains(w)).count())?;
    let close =
        clauses.last().filter(|c| clauses.len() > 1 && !states_fact(c) && c.split_whitespace().count() <= 16);
    Some([*lead, quote].into_iter().chain(close.copied()).collect::<Vec<_>>().join(" "))
}
