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
use crate::server::openai::tools;
use crate::server::openai::tools::Tools;

/// Tokens of an answer when the request does not say.
const DEFAULT_TOKENS: usize = 256;

/// Answers a conversation.
pub(super) async fn complete(asked: Asked, model: Model) -> Answer {
    let completer = loaded(&model)?;
    let (manner, tools, canvas) = openai::read(asked, &completer, read).await?;
    answer::respond(Kind::Chat(tools), &completer, &manner, &canvas).await
}

fn read(mut fields: Fields, completer: &Completer) -> Result<(Manner, Tools, Canvas), OpenAiError> {
    let tools = Tools::take(&mut fields, completer)?;
    let mut manner = Manner::take(&mut fields, completer)?;
    let most = 1..=usize::MAX >> 1;
    let old_limit = fields.whole("max_tokens", most.clone())?;
    let limit = fields.whole("max_completion_tokens", most)?;
    let messages = messages(&mut fields, completer.knows_tools())?;
    fields.finish()?;
    let length = Length {
        asked: limit.or(old_limit),
        default: DEFAULT_TOKENS,
        field: if limit.is_some() { "max_completion_tokens" } else { "max_tokens" },
        given_field: "messages",
    };
    let mut prompt = completer.conversation(&messages, &tools.described)?;
    tools.enforce(completer, &mut manner, &mut prompt)?;
    let canvas = answer::lay_out(completer, &prompt, length, &manner, |tokens| vec![Part::Open(tokens)])?;
    Ok((manner, tools, canvas))
}

fn messages(fields: &mut Fields, knows_tools: bool) -> Result<Vec<Message>, OpenAiError> {
    let list = fields.list("messages")?;
    let list = list.ok_or_else(|| fields.refuse("messages", "missing_required_parameter", "is missing"))?;
    if list.is_empty() {
        return Err(fields.refuse("messages", "invalid_value", "must have at least one message"));
    }
    list.into_iter()
        .enumerate()
        .map(|(i, value)| message(Fields::of(value, &format!("messages[{i}]"))?, knows_tools))
        .collect()
}

fn message(mut fields: Fields, knows_tools: bool) -> Result<Message, OpenAiError> {
    let role = match fields.text("role")?.as_deref() {
        Some("system" | "developer") => "system",
        Some("user") => "user",
        Some("assistant") => "assistant",
        Some("tool") if knows_tools => "tool",
        Some(role) => {
            let tool = if knows_tools { ", tool" } else { "" };
            let must = format!("must be system, developer, user{tool} or assistant, not {role:?}");
            return Err(fields.refuse("role", "invalid_value", &must));
        }
        None => return Err(fields.refuse("role", "missing_required_parameter", "is missing")),
    };
    let is_caller = role == "assistant" && knows_tools;
    let tool_calls = if is_caller { tools::calls(&mut fields)? } else { Vec::new() };
    let tool_call_id = if role == "tool" { fields.text("tool_call_id")? } else { None };
    if role == "tool" && tool_call_id.is_none() {
        return Err(fields.refuse("tool_call_id", "missing_required_parameter", "is missing"));
    }
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
        None if !tool_calls.is_empty() => String::new(),
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
    Ok(Message { role: role.to_owned(), content, tool_calls, tool_call_id })
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
