//! A recorded conversation, read from any of the row forms that occur.
//!
//! Rows differ by origin: service calls name their articles, chat corpora carry knowledge pieces,
//! meeting corpora have many speakers, question rows have no turns at all. All become one
//! [`Dialogue`]; what a row does not say is empty, and fields that nobody uses are not kept.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::corpus::rows;
use crate::corpus::rows::RowError;
use crate::event::Emotion;
use crate::event::Speaker;

/// One conversation.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(try_from = "Row")]
pub struct Dialogue {
    /// The row's id, unique within its source.
    pub id: String,
    /// The corpus, or the company of a service call.
    pub source: String,
    /// The field: `banking`, `Restaurants`, ….
    pub domain: Option<String>,
    /// The publisher's own mark: `train`, `dev`, `test`, ….
    pub split: Option<String>,
    /// How it is written: `clean` or `asr` in service calls.
    pub style: Option<String>,
    /// What was said, in order; never empty.
    pub turns: Vec<DialogueTurn>,
    /// The pieces of knowledge that the row itself carries.
    pub knowledge: Vec<KnowledgePiece>,
    /// The ids of the articles that the row only names.
    pub articles: Vec<String>,
    /// What a person wrote about it afterwards.
    pub summary: Option<String>,
    /// How it ended.
    pub disposition: Option<String>,
    /// What it touched.
    pub topics: Vec<String>,
}

/// What one speaker said without being interrupted.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct DialogueTurn {
    /// The role, where the row's name for the speaker tells it.
    #[serde(skip_deserializing)]
    pub speaker: Option<Speaker>,
    /// The row's name for the speaker: `customer`, `speaker_1`, `guest_clinician`, ….
    #[serde(rename = "speaker")]
    pub speaker_name: String,
    /// The words.
    pub text: String,
    /// The label as the row writes it; see [`DialogueTurn::emotion_label`].
    pub emotion: Option<String>,
    /// What the speaker wants, as the row writes it.
    pub intent: Option<String>,
    /// The ids of the articles that answer this turn.
    pub articles: Vec<String>,
    /// Stretches of the text that state facts from articles.
    pub facts: Vec<String>,
    /// Stretches of the text that must be redacted.
    pub sensitive: Vec<SensitiveSpan>,
    /// What a recogniser heard.
    pub asr_text: Option<String>,
    /// Start, in milliseconds from the call's start.
    pub start_ms: Option<u64>,
    /// End, in milliseconds from the call's start.
    pub end_ms: Option<u64>,
}

/// A stretch of a turn that must be redacted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SensitiveSpan {
    /// The kind: `payment_card`, `email`, ….
    pub category: String,
    /// The stretch, exactly as it stands in the turn's text.
    pub text: String,
}

/// A piece of knowledge that was at hand in the conversation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct KnowledgePiece {
    /// Its title, empty where the row has none.
    #[serde(default)]
    pub title: String,
    /// Its text.
    pub text: String,
    /// The index of the turn in which it was used, or just before which it was found.
    #[serde(default)]
    pub turn: Option<usize>,
}

/// Says why a row is no conversation.
#[derive(Debug, thiserror::Error)]
pub enum DialogueError {
    /// The row has neither turns nor a question: plain text, an article, a label.
    #[error("not a dialogue: neither `turns` nor `question`")]
    NoTurns,
}

/// Opens a file of conversations.
///
/// # Errors
/// [`RowError::Open`]; the iterator yields the others, and goes on after a row that is no dialogue.
pub fn read(path: &Path) -> Result<rows::Rows<Dialogue>, RowError> {
    rows::read(path)
}

impl Dialogue {
    /// Returns the role of each turn's speaker.
    ///
    /// Where the names tell no role (`speaker_1`, people's names), the first unknown voice is taken
    /// for the customer, the next for the agent, and so on in turn: a call center has two sides,
    /// and in open chat the one who begins usually asks.
    pub fn roles(&self) -> Vec<Speaker> {
        let mut voices: BTreeMap<&str, Speaker> = BTreeMap::new();
        let mut roles = Vec::with_capacity(self.turns.len());
        for turn in &self.turns {
            let next = if voices.len().is_multiple_of(2) { Speaker::Customer } else { Speaker::Agent };
            roles.push(match turn.speaker {
                Some(speaker) => speaker,
                None => *voices.entry(&turn.speaker_name).or_insert(next),
            });
        }
        roles
    }
}

impl DialogueTurn {
    /// Returns the emotion, where the row's label is one of ours.
    pub fn emotion_label(&self) -> Option<Emotion> {
        let label = self.emotion.as_deref()?;
        Emotion::ALL.into_iter().find(|emotion| emotion.as_str() == label)
    }
}

/// Returns the role that a speaker's name tells.
fn role(name: &str) -> Option<Speaker> {
    match name.to_ascii_lowercase().trim_end_matches(|c: char| c == '_' || c.is_ascii_digit()) {
        "customer" | "caller" | "client" | "user" | "patient" | "patient_guest" | "guest_family" => {
            Some(Speaker::Customer)
        }
        "agent" | "assistant" | "system" | "doctor" | "clinician" | "guest_clinician" | "wizard" => {
            Some(Speaker::Agent)
        }
        _ => None,
    }
}

/// A row as it stands in the file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Row {
    id: serde_json::Value,
    source: Option<String>,
    company: Option<String>,
    domain: Option<String>,
    split: Option<String>,
    style: Option<String>,
    turns: Vec<DialogueTurn>,
    knowledge: Vec<Knowledge>,
    context: Option<String>,
    question: Option<String>,
    answer: Option<String>,
    summary: Option<String>,
    disposition: Option<String>,
    topics: Vec<String>,
}

/// Knowledge as rows write it: the piece itself, or the id of an article.
#[derive(Deserialize)]
#[serde(untagged)]
enum Knowledge {
    Article(String),
    Piece(KnowledgePiece),
}

impl TryFrom<Row> for Dialogue {
    type Error = DialogueError;

    fn try_from(row: Row) -> Result<Self, DialogueError> {
        let mut knowledge = Vec::new();
        let mut articles = Vec::new();
        for entry in row.knowledge {
            match entry {
                Knowledge::Article(id) => articles.push(id),
                Knowledge::Piece(piece) => knowledge.push(piece),
            }
        }
        if let Some(text) = row.context.filter(|text| !text.is_empty()) {
            knowledge.push(KnowledgePiece { title: String::new(), text, turn: None });
        }
        // A question with its answer is the shortest of dialogues; after turns, the answer ends them.
        let mut turns = row.turns;
        let said = |name: &str, text| DialogueTurn { speaker_name: name.into(), text, ..Default::default() };
        turns.extend(row.question.map(|text| said("customer", text)));
        if turns.is_empty() {
            return Err(DialogueError::NoTurns);
        }
        turns.extend(row.answer.map(|text| said("agent", text)));
        for turn in &mut turns {
            turn.speaker = role(&turn.speaker_name);
        }
        let id = match row.id {
            serde_json::Value::String(id) => id,
            serde_json::Value::Null => String::new(),
            other => other.to_string(),
        };
        Ok(Dialogue {
            id,
            source: row.source.or(row.company).unwrap_or_default(),
            domain: row.domain,
            split: row.split,
            style: row.style,
            turns,
            knowledge,
            articles,
            summary: row.summary,
            disposition: row.disposition,
            topics: row.topics,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(row: &str) -> Dialogue {
        serde_json::from_str(row).unwrap()
    }

    #[test]
    fn a_service_call_keeps_its_labels() {
        let call = parse(
            r#"{"id":"bank-001","domain":"banking","company":"Harbour & Vale Bank","style":"asr","turns":[
            {"speaker":"agent","text":"hello"},
            {"speaker":"customer","text":"it's john@x.org how long","emotion":"worried","articles":["bank-a"],
             "sensitive":[{"category":"email","text":"john@x.org"}]},
            {"speaker":"agent","text":"three days","facts":["three days"]}],
            "knowledge":["bank-a"],"summary":"s","disposition":"d","topics":["t"]}"#,
        );
        assert_eq!(call.source, "Harbour & Vale Bank");
        assert_eq!(call.articles, ["bank-a"]);
        assert_eq!(call.roles(), [Speaker::Agent, Speaker::Customer, Speaker::Agent]);
        assert_eq!(call.turns[1].emotion_label(), Some(Emotion::Worried));
        assert_eq!(call.turns[1].sensitive[0].text, "john@x.org");
        assert_eq!(call.turns[2].facts, ["three days"]);
    }

    #[test]
    fn corpus_knowledge_and_times_are_kept() {
        let call = parse(
            r#"{"source":"sgd","id":7,"turns":[{"speaker":"customer","text":"a","start_ms":5,"intent":"X"}],
            "knowledge":[{"title":"t","text":"k","turn":1}],"user_rating":{"a":1}}"#,
        );
        assert_eq!(call.id, "7");
        assert_eq!(call.knowledge[0].turn, Some(1));
        assert_eq!(call.turns[0].start_ms, Some(5));
        assert_eq!(call.turns[0].emotion_label(), None);
    }

    #[test]
    fn unknown_voices_take_sides_in_turn() {
        let call = parse(
            r#"{"id":"x","turns":[{"speaker":"speaker_2","text":"a"},{"speaker":"speaker_9","text":"b"},
            {"speaker":"speaker_2","text":"c"},{"text":"d"},{"speaker":"doctor_2","text":"e"}]}"#,
        );
        use Speaker::Agent;
        use Speaker::Customer;
        assert_eq!(call.turns[0].speaker, None);
        assert_eq!(call.roles(), [Customer, Agent, Customer, Customer, Agent]);
    }

    #[test]
    fn a_question_row_is_a_short_dialogue() {
        let call = parse(r#"{"id":"q","context":"The sky is blue.","question":"Which?","answer":"Blue."}"#);
        assert_eq!(call.roles(), [Speaker::Customer, Speaker::Agent]);
        assert_eq!(call.knowledge[0].text, "The sky is blue.");
    }

    #[test]
    fn plain_text_is_no_dialogue() {
        let error = serde_json::from_str::<Dialogue>(r#"{"id":"t","text":"Once."}"#).unwrap_err();
        assert!(error.to_string().starts_with("not a dialogue"), "{error}");
    }
}
