//! `POST /v1/chat/completions`.

use serde_json::Value;

use crate::completion::Completer;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Part;
use crate::engine::template::Message;
use crate::server::openai;
use crate::server::openai::Answer;
use crate::server::openai::Model;
use crate::server::openai::answer;
use crate::server::openai::answer::Length;
use crate::server::openai::asked::Manner;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::fields::Asked;
use crate::server::openai::fields::Fields;
use crate::server::openai::kind::Kind;
use crate::server::openai::loaded;

/// Tokens of an answer when the request does not say.
const DEFAULT_TOKENS: usize = 256;

/// Answers a conversation.
pub(super) async fn complete(asked: Asked, model: Model) -> Answer {
    let completer = loaded(&model)?;
    let (manner, canvas) = openai::read(asked, &completer, read).await?;
    answer::respond(Kind::Chat, &completer, &manner, &canvas).await
}

fn read(mut fields: Fields, completer: &Completer) -> Result<(Manner, Canvas), OpenAiError> {
    let manner = Manner::take(&mut fields, completer)?;
    let most = 1..=usize::MAX >> 1;
    let old_limit = fields.whole("max_tokens", most.clone())?;
    let limit = fields.whole("max_completion_tokens", most)?;
    let messages = messages(&mut fields)?;
    fields.finish()?;
    let length = Length {
        asked: limit.or(old_limit),
        default: DEFAULT_TOKENS,
        field: if limit.is_some() { "max_completion_tokens" } else { "max_tokens" },
        given_field: "messages",
    };
    let prompt = completer.conversation(&messages)?;
    let canvas = answer::lay_out(completer, &prompt, length, &manner, |tokens| vec![Part::Open(tokens)])?;
    Ok((manner, canvas))
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, OpenAiError> {
    let list = fields.list("messages")?;
    let list = list.ok_or_else(|| fields.refuse("messages", "missing_required_parameter", "is missing"))?;
    if list.is_empty() {
        return Err(fields.refuse("messages", "invalid_value", "must have at least one message"));
    }
    list.into_iter()
        .enumerate()
        .map(|(i, value)| message(Fields::of(value, &format!("messages[{i}]"))?))
        .collect()
}

fn message(mut fields: Fields) -> Result<Message, OpenAiError> {
    let role = match fields.text("role")?.as_deref() {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some(role) => {
            let must = format!("must be system, developer, user or assistant, not {role:?}");
            return Err(fields.refuse("role", "invalid_value", &must));
        }
        None => return Err(fields.refuse("role", "missing_required_parameter", "is missing")),
    };
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => {
            let name = fields.name("content");
            let text = |(i, part)| text_of(Fields::of(part, &format!("{name}[{i}]"))?);
            parts.into_iter().enumerate().map(text).collect::<Result<String, _>>()?
        }
        Some(_) => {
            return Err(fields.refuse("content", "invalid_type", "must be a string or a list of parts"));
        }
        None => return Err(fields.refuse("content", "missing_required_parameter", "is missing")),
    };
    // What an answer of ours or of OpenAI's has beside its content, sent back as it was.
    fields.neutral("name", Value::is_string)?;
    for name in ["tool_calls", "annotations"] {
        fields.neutral(name, |value| value.as_array().is_some_and(Vec::is_empty))?;
    }
    fields.neutral("refusal", |_| false)?;
    fields.neutral("audio", |_| false)?;
    fields.neutral("function_call", |_| false)?;
    fields.finish()?;
    Ok(Message { role: role.to_owned(), content })
}

/// Returns the text of one part of a message.
fn text_of(mut part: Fields) -> Result<String, OpenAiError> {
    match part.text("type")?.as_deref() {
        Some("text") => {}
        _ => return Err(part.refuse("type", "invalid_value", "must be \"text\": the model reads text only")),
    }
    let text = part.text("text")?;
    let text = text.ok_or_else(|| part.refuse("text", "missing_required_parameter", "is missing"))?;
    part.finish()?;
    Ok(text)
}
