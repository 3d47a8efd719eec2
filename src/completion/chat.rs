//! A conversation to the token ids that its next answer follows.
//!
//! A published checkpoint brings its chat template. This project's own checkpoints have none: they
//! know turns of customer and agent and cards (see [`crate::prompt`]), so a user speaks as the
//! customer, the assistant as the agent, and what the system says is a card.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::completion::CompletionError;
use crate::engine::template::ChatTemplate;
use crate::engine::template::Message;
use crate::engine::template::TemplateError;
use crate::engine::tokenizer::Tokenizer;
use crate::prompt;
use crate::prompt::Control;
use crate::prompt::Piece;

/// The title of a card that holds what the system said.
const SYSTEM_TITLE: &str = "Instructions";

/// What stands before a text, as token ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The ids; may be empty.
    pub ids: Vec<u32>,
    /// Whether the text's first word brings a space that is not part of the text.
    pub begins_with_space: bool,
}

/// How conversations are put to the model.
#[derive(Debug)]
pub enum ChatForm {
    /// As the checkpoint's template says.
    Template(Box<ChatTemplate>),
    /// In this project's turns and cards.
    Turns,
    /// Not at all: the checkpoint only continues text.
    None,
}

impl ChatForm {
    /// Finds the form of the checkpoint in `folder`.
    ///
    /// # Errors
    /// When its chat template is damaged.
    pub fn read(folder: &Path, tokenizer: &Tokenizer) -> Result<ChatForm, CompletionError> {
        if let Some(template) = ChatTemplate::read(folder)? {
            return Ok(ChatForm::Template(Box::new(template)));
        }
        let turns = [Control::Customer, Control::Agent, Control::Card, Control::Reply];
        let has_turns = turns.iter().all(|control| tokenizer.control(control.token()).is_ok());
        Ok(if has_turns { ChatForm::Turns } else { ChatForm::None })
    }

    /// Returns whether tools can be offered and their answers told.
    pub fn knows_tools(&self) -> bool {
        matches!(self, ChatForm::Template(template) if template.knows_tools())
    }

    /// Returns the prompt of a conversation in which tools may be called.
    ///
    /// # Errors
    /// When there is no form, or the template refuses the conversation.
    pub fn prompt(
        &self,
        messages: &[Message],
        tools: &[Value],
        tokenizer: &Tokenizer,
    ) -> Result<Prompt, CompletionError> {
        match self {
            ChatForm::Template(template) => {
                Ok(Prompt { ids: template.render(messages, tools, tokenizer)?, begins_with_space: false })
            }
            ChatForm::Turns => {
                Ok(Prompt { ids: prompt::encode(&turns(messages), tokenizer)?, begins_with_space: true })
            }
            ChatForm::None => Err(CompletionError::NoTemplate),
        }
    }
}

/// Returns the ids that end a text as `generation_config.json` of a checkpoint lists them, if it is there.
///
/// # Errors
/// When the file is damaged.
pub fn ends(folder: &Path) -> Result<Vec<u32>, TemplateError> {
    let file = folder.join("generation_config.json");
    if !file.exists() {
        return Ok(Vec::new());
    }
    let damaged = |reason: String| TemplateError::Load { path: file.display().to_string(), reason };
    let text = std::fs::read_to_string(&file).map_err(|error| damaged(error.to_string()))?;
    let config: GenerationConfig = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    Ok(match config.eos_token_id {
        Some(Ends::One(id)) => vec![id],
        Some(Ends::Several(ids)) => ids,
        None => Vec::new(),
    })
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Ends>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ends {
    One(u32),
    Several(Vec<u32>),
}

/// Returns cards, then turns, then the mark of the answer. Nothing is cut: a program that sends more
/// than the model was trained on may want to see what comes of it.
fn turns(messages: &[Message]) -> Vec<Piece> {
    let (cards, turns): (Vec<&Message>, Vec<&Message>) =
        messages.iter().partition(|message| message.role == "system");
    let mut pieces = Vec::new();
    for card in cards {
        pieces.push(Piece::Control(Control::Card));
        pieces.push(Piece::Text(format!(" {SYSTEM_TITLE}: {}", card.content)));
    }
    for turn in turns {
        let is_answer = turn.role == "assistant";
        pieces.push(Piece::Control(if is_answer { Control::Agent } else { Control::Customer }));
        pieces.push(Piece::Text(format!(" {}", turn.content)));
    }
    pieces.push(Piece::Control(Control::Reply));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_cards_and_turns_and_never_more_controls_than_that() {
        let texts = ["the assistant helps and the customer asks about the bill"];
        let controls: Vec<&str> = Control::ALL.iter().map(|control| control.token()).collect();
        let tokenizer = Tokenizer::train(texts.into_iter(), 400, &controls).expect("trains");
        let message = |role: &str, content: &str| Message {
            role: role.into(),
            content: content.into(),
            ..Message::default()
        };
        let messages = [
            message("user", "the bill"),
            message("assistant", "<|end|> asks"),
            message("system", "helps"),
            message("user", "<|mask|>"),
        ];
        let prompt = ChatForm::Turns.prompt(&messages, &[], &tokenizer).expect("is encoded");
        let found: Vec<u32> = prompt.ids.into_iter().filter(|id| (*id as usize) < controls.len()).collect();
        let expected = [Control::Card, Control::Customer, Control::Agent, Control::Customer, Control::Reply];
        let id = |control: &Control| tokenizer.control(control.token()).expect("is there");
        assert_eq!(found, expected.iter().map(id).collect::<Vec<_>>());
    }
}
