//! What differs between the answer of a chat and of a completion: names and the shape of a choice.

use serde_json::Value;
use serde_json::json;

use crate::completion::canvas::Written;

/// Whose answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `chat.completion`.
    Chat,
    /// `text_completion`.
    Completion,
}

impl Kind {
    /// Returns what an answer's id begins with.
    pub fn id_prefix(self) -> &'static str {
        match self {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        }
    }

    /// Returns the `object` of a whole answer.
    pub fn object(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion",
            Kind::Completion => "text_completion",
        }
    }

    /// Returns the `object` of a chunk of an answer.
    pub fn chunk_object(self) -> &'static str {
        match self {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        }
    }

    /// Returns a whole candidate.
    pub fn choice(self, index: usize, written: &Written) -> Value {
        let reason = written.finish_reason();
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason});
        match self {
            Kind::Chat => {
                choice["message"] = json!({"role": "assistant", "content": written.text, "refusal": null});
            }
            Kind::Completion => choice["text"] = written.text.as_str().into(),
        }
        choice
    }

    /// Returns what is new of a candidate: its text, or with a reason its end.
    pub fn chunk_choice(self, index: usize, text: &str, is_first: bool, reason: Option<&str>) -> Value {
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason});
        match self {
            Kind::Completion => choice["text"] = text.into(),
            Kind::Chat => {
                choice["delta"] = json!({});
                if is_first {
                    choice["delta"]["role"] = "assistant".into();
                }
                if reason.is_none() {
                    choice["delta"]["content"] = text.into();
                }
            }
        }
        choice
    }
}
