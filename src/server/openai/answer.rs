//! Candidates written to their end: laid out within the model's limit, written side by side, ranked.

use actix_web::HttpResponse;
use futures_util::future::try_join_all;
use serde_json::Value;
use serde_json::json;

use crate::completion::Completer;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Part;
use crate::completion::chat::Prompt;
use crate::completion::writing::Update;
use crate::completion::writing::Usage;
use crate::completion::writing::Writing;
use crate::server::openai::Answer;
use crate::server::openai::asked::Manner;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::kind::Kind;
use crate::server::openai::stream;

/// What begins an answer and each chunk of one.
#[derive(Debug, Clone)]
pub struct Head {
    /// The answer's name, as `chatcmpl-1f3a…`.
    pub id: String,
    /// When it was asked for, in seconds since 1970.
    pub created: i64,
    /// The model's name.
    pub model: String,
}

impl Head {
    /// Makes a head whose id begins with `prefix`.
    pub fn new(prefix: &str, completer: &Completer) -> Head {
        Head {
            id: format!("{prefix}-{}", hex::encode(rand::random::<[u8; 12]>())),
            created: chrono::Utc::now().timestamp(),
            model: completer.name().to_owned(),
        }
    }

    /// Returns the fields that every answer and chunk has.
    pub fn json(&self, object: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        })
    }
}

/// How long a text may become, and what the fields are called that say so.
#[derive(Debug, Clone, Copy)]
pub struct Length<'a> {
    /// What was asked for.
    pub asked: Option<usize>,
    /// What is meant when nothing was asked for; less when less fits.
    pub default: usize,
    /// The field that asks.
    pub field: &'a str,
    /// The field of what is given.
    pub given_field: &'a str,
}

/// Lays out the parts that `parts` makes of a number of tokens to write, and refuses by name what
/// does not fit the model's context.
pub fn lay_out(
    completer: &Completer,
    prompt: &Prompt,
    length: Length<'_>,
    manner: &Manner,
    parts: impl Fn(usize) -> Vec<Part>,
) -> Result<Canvas, OpenAiError> {
    let limit = completer.token_limit();
    let too_long = |field: &str, what: String| {
        let message = format!("{field}: {what}, the model takes {limit} tokens");
        Err(OpenAiError::invalid(field, "context_length_exceeded", message))
    };
    let tokens = length.asked.unwrap_or(length.default);
    if tokens > limit {
        return too_long(length.field, format!("{tokens} tokens asked for"));
    }
    let canvas = completer.canvas(prompt, &parts(tokens), &manner.options)?;
    if canvas.prompt.len() + canvas.tokens.len() <= limit {
        return Ok(canvas);
    }
    if canvas.given >= limit {
        return too_long(length.given_field, format!("{} tokens given", canvas.given));
    }
    if length.asked.is_some() {
        return too_long(length.field, format!("{} tokens given and {tokens} asked for", canvas.given));
    }
    Ok(completer.canvas(prompt, &parts(limit - canvas.given), &manner.options)?)
}

/// Answers with the candidates of a canvas, streamed or whole.
pub async fn respond(kind: Kind, completer: &Completer, manner: &Manner, canvas: &Canvas) -> Answer {
    let head = Head::new(kind.id_prefix(), completer);
    let writings = start(completer, canvas, manner)?;
    if manner.is_stream {
        return Ok(stream::respond(kind, head, manner, writings));
    }
    let (updates, usage) = finish(writings).await?;
    let written = updates.iter().filter_map(|update| update.written.first());
    let choices = written.enumerate().map(|(index, written)| kind.choice(index, written)).collect();
    let mut body = head.json(kind.object(), choices);
    body["usage"] = usage_json(&usage);
    Ok(HttpResponse::Ok().json(body))
}

/// Starts all candidates, or none.
pub fn start(completer: &Completer, canvas: &Canvas, manner: &Manner) -> Result<Vec<Writing>, OpenAiError> {
    let start = |index| completer.write(canvas.clone(), &manner.options_of(index));
    Ok((0..manner.candidates).map(start).collect::<Result<_, _>>()?)
}

/// Waits for all candidates; returns them likeliest first, and what they took together.
pub async fn finish(writings: Vec<Writing>) -> Result<(Vec<Update>, Usage), OpenAiError> {
    let mut updates = try_join_all(writings.into_iter().map(Writing::finish)).await?;
    let usages: Vec<Usage> = updates.iter().map(|update| update.usage).collect();
    let usage = Usage::together(&usages);
    updates.sort_by(|a, b| likelihood(b).total_cmp(&likelihood(a)));
    Ok((updates, usage))
}

/// Returns the mean log-probability over all that was written.
pub fn likelihood(update: &Update) -> f32 {
    let sum: f32 = update.written.iter().map(|written| written.mean_log_probability).sum();
    sum / update.written.len().max(1) as f32
}

/// Returns what texts took, in OpenAI's form with the steps beside it.
pub fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "diffusion": {"steps": usage.steps, "tokens_per_step": usage.tokens_per_step()},
    })
}
