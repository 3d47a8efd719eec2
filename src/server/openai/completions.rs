//! `POST /v1/completions`: a text goes on, or with `suffix` is filled in between two.

use serde_json::Value;

use crate::completion::Completer;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Part;
use crate::completion::chat::Prompt;
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

/// Tokens of a completion when the request does not say; OpenAI's own.
const DEFAULT_TOKENS: usize = 16;

/// Writes on.
pub(super) async fn complete(asked: Asked, model: Model) -> Answer {
    let completer = loaded(&model)?;
    let (manner, canvas) = openai::read(asked, &completer, read).await?;
    answer::respond(Kind::Completion, &completer, &manner, &canvas).await
}

fn read(mut fields: Fields, completer: &Completer) -> Result<(Manner, Canvas), OpenAiError> {
    let manner = Manner::take(&mut fields, completer)?;
    let length = Length {
        asked: fields.whole("max_tokens", 1..=usize::MAX >> 1)?,
        default: DEFAULT_TOKENS,
        field: "max_tokens",
        given_field: "prompt",
    };
    let prompt = prompt(&mut fields)?;
    let suffix = fields.text("suffix")?.unwrap_or_default();
    fields.finish()?;
    let canvas = answer::lay_out(completer, &Prompt::default(), length, &manner, |tokens| {
        let mut parts = vec![Part::Fixed(prompt.clone()), Part::Open(tokens)];
        if !suffix.is_empty() {
            parts.push(Part::Fixed(suffix.clone()));
        }
        parts
    })?;
    Ok((manner, canvas))
}

/// Takes the one text that goes on. Token ids are not taken: they could be control tokens.
fn prompt(fields: &mut Fields) -> Result<String, OpenAiError> {
    let must =
        "must be a string, or a list of one: other texts are other requests, and token ids are not taken";
    match fields.take("prompt") {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(texts)) => match texts.as_slice() {
            [Value::String(text)] => Ok(text.clone()),
            _ => Err(fields.refuse("prompt", "invalid_type", must)),
        },
        Some(_) => Err(fields.refuse("prompt", "invalid_type", must)),
        None => Err(fields.refuse("prompt", "missing_required_parameter", "is missing")),
    }
}
