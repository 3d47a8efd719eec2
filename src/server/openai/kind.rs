//! What differs between the answer of a chat and of a completion: names and the shape of a choice.

use serde_json::Value;
use serde_json::json;

use crate::completion::canvas::Written;
use crate::server::openai::tools::Tools;

/// Why an answer ended that calls a tool.
pub const CALLED: &str = "tool_calls";

/// Whose answer it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `chat.completion`, which may call tools.
    Chat(Tools),
    /// `text_completion`.
    Completion,
}

impl Kind {
    /// Returns what an answer's id begins with.
    pub fn id_prefix(&self) -> &'static str {
        match self {
            Kind::Chat(_) => "chatcmpl",
            Kind::Completion => "cmpl",
        }
    }

    /// Returns the `object` of a whole answer.
    pub fn object(&self) -> &'static str {
        match self {
            Kind::Chat(_) => "chat.completion",
            Kind::Completion => "text_completion",
        }
    }

    /// Returns the `object` of a chunk of an answer.
    pub fn chunk_object(&self) -> &'static str {
        match self {
            Kind::Chat(_) => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        }
    }

    /// Returns a whole candidate.
    pub fn choice(&self, index: usize, written: &Written) -> Value {
        let reason = written.finish_reason();
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason});
        match self {
            Kind::Chat(tools) => {
                let (text, calls) = tools.read(&written.text);
                choice["message"] = json!({"role": "assistant", "content": text, "refusal": null});
                if !calls.is_empty() {
                    if text.is_empty() {
                        choice["message"]["content"] = Value::Null;
                    }
                    choice["message"]["tool_calls"] = calls.into();
                    choice["finish_reason"] = CALLED.into();
                }
            }
            Kind::Completion => choice["text"] = written.text.as_str().into(),
        }
        choice
    }

    /// Returns what is new of a candidate: its text, or with a reason its end.
    pub fn chunk_choice(&self, index: usize, text: &str, is_first: bool, reason: Option<&str>) -> Value {
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": reason});
        match self {
            Kind::Completion => choice["text"] = text.into(),
            Kind::Chat(_) => {
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

    /// Returns the calls of a candidate.
    pub fn chunk_calls(&self, index: usize, calls: &[Value]) -> Value {
        let mut choice = json!({"index": index, "logprobs": null, "finish_reason": null});
        let place = |(place, call): (usize, &Value)| {
            let mut call = call.clone();
            call["index"] = place.into();
            call
        };
        let calls: Vec<Value> = calls.iter().enumerate().map(place).collect();
        choice["delta"] = json!({"tool_calls": calls});
        choice
    }

    /// Returns how much of a text that goes on will stay text, in bytes.
    pub fn certain(&self, text: &str) -> usize {
        match self {
            Kind::Chat(tools) => tools.certain(text),
            Kind::Completion => text.len(),
        }
    }

    /// Returns the text and the calls of a whole answer.
    pub fn read(&self, text: &str) -> (String, Vec<Value>) {
        match self {
            Kind::Chat(tools) => tools.read(text),
            Kind::Completion => (text.to_owned(), Vec::new()),
        }
    }
}
