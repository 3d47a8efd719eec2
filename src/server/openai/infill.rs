//! `POST /v1/infill`: some spans of a text are written anew, everything outside them stays as it was.
//!
//! Positions count Unicode scalar values. What follows a span is honoured as far as the family sees
//! it: a model with full attention sees the whole text, a block-causal one what stands before and in
//! the same block, so a larger `diffusion.block_length` shows it more of what follows.

use actix_web::HttpResponse;
use futures_util::stream;
use serde_json::Value;
use serde_json::json;

use crate::completion::Completer;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Part;
use crate::completion::canvas::Written;
use crate::completion::chat::Prompt;
use crate::completion::writing::Update;
use crate::completion::writing::Writing;
use crate::server::openai;
use crate::server::openai::Answer;
use crate::server::openai::Model;
use crate::server::openai::answer;
use crate::server::openai::answer::Head;
use crate::server::openai::answer::Length;
use crate::server::openai::asked::Manner;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::fields::Asked;
use crate::server::openai::fields::Fields;
use crate::server::openai::loaded;
use crate::server::openai::stream::DONE;
use crate::server::openai::stream::event;
use crate::server::openai::stream::events;

/// The most spans of one text.
const MOST_SPANS: usize = 64;
/// Tokens that may be written where nothing stood, when the request does not say.
const INSERTED_TOKENS: usize = 16;

/// A stretch that is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    /// The first character, in bytes of the text.
    start: usize,
    /// Behind the last character, in bytes of the text.
    end: usize,
    /// The most tokens; as many as stand there when `None`.
    max_tokens: Option<usize>,
}

/// A text with its spans, ascending and apart.
#[derive(Debug)]
struct Holed {
    text: String,
    spans: Vec<Span>,
}

/// Writes the spans.
pub(super) async fn fill(asked: Asked, model: Model) -> Answer {
    let completer = loaded(&model)?;
    let head = Head::new("infill", &completer);
    let (manner, holed, canvas) = openai::read(asked, &completer, read).await?;
    let mut writings = answer::start(&completer, &canvas, &manner)?;
    if manner.is_stream
        && let Some(writing) = writings.pop()
    {
        let writing = if manner.stream_tentative { writing } else { writing.settled_only() };
        let following = Following { head, holed, writing, stream_tentative: manner.stream_tentative };
        return Ok(events(stream::unfold(Some(following), |following| async {
            let (text, following) = following?.next().await;
            Some((text, following))
        })));
    }
    let (updates, usage) = answer::finish(writings).await?;
    let mut body = holed.answer(&head, &updates);
    body["usage"] = answer::usage_json(&usage);
    Ok(HttpResponse::Ok().json(body))
}

/// An infill that is sent while it is written.
struct Following {
    head: Head,
    holed: Holed,
    writing: Writing,
    stream_tentative: bool,
}

impl Following {
    /// Returns the next events and what goes on.
    async fn next(mut self) -> (String, Option<Following>) {
        match self.writing.next().await {
            Ok(Some(update)) if update.is_done => {
                let mut body = self.holed.answer(&self.head, std::slice::from_ref(&update));
                body["usage"] = answer::usage_json(&update.usage);
                (event(&body) + DONE, None)
            }
            Ok(Some(update)) => {
                let span = |written: &Written| match self.stream_tentative {
                    true => json!({"text": written.text, "tentative_text": written.tentative}),
                    false => json!({"text": written.text}),
                };
                let mut chunk = self.head.json("infill.chunk", json!([]));
                chunk["spans"] = update.written.iter().map(span).collect();
                (event(&chunk), Some(self))
            }
            Ok(None) => (DONE.to_owned(), None),
            Err(error) => (event(&OpenAiError::from(error).body()), None),
        }
    }
}

impl Holed {
    /// Returns the whole answer: the likeliest text and its spans, and all candidates.
    fn answer(&self, head: &Head, updates: &[Update]) -> Value {
        let choices: Vec<Value> = updates
            .iter()
            .enumerate()
            .map(|(index, update)| {
                let (text, spans) = self.filled(&update.written);
                json!({"index": index, "text": text, "spans": spans})
            })
            .collect();
        let mut body = head.json("infill", json!([]));
        body["text"] = choices[0]["text"].clone();
        body["spans"] = choices[0]["spans"].clone();
        body["choices"] = choices.into();
        body
    }

    /// Returns the text with what was written, and where that stands in it now.
    fn filled(&self, written: &[Written]) -> (String, Vec<Value>) {
        let mut text = String::new();
        let mut spans = Vec::new();
        let mut from = 0;
        for (span, written) in self.spans.iter().zip(written) {
            text.push_str(&self.text[from..span.start]);
            let start = text.chars().count();
            text.push_str(&written.text);
            let end = start + written.text.chars().count();
            let reason = written.finish_reason();
            spans.push(json!({"start": start, "end": end, "text": written.text, "finish_reason": reason}));
            from = span.end;
        }
        text.push_str(&self.text[from..]);
        (text, spans)
    }

    /// Returns the parts: what stands between the spans, and the spans.
    fn parts(&self, default: impl Fn(&str) -> usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut from = 0;
        for span in &self.spans {
            if span.start > from {
                parts.push(Part::Fixed(self.text[from..span.start].to_owned()));
            }
            let tokens = span.max_tokens.unwrap_or_else(|| default(&self.text[span.start..span.end]));
            parts.push(Part::Open(tokens));
            from = span.end;
        }
        if from < self.text.len() {
            parts.push(Part::Fixed(self.text[from..].to_owned()));
        }
        parts
    }
}

fn read(mut fields: Fields, completer: &Completer) -> Result<(Manner, Holed, Canvas), OpenAiError> {
    let manner = Manner::take(&mut fields, completer)?;
    if manner.is_stream && manner.candidates > 1 {
        return Err(fields.refuse("n", "invalid_value", "must be 1 with stream"));
    }
    if !manner.options.stop.is_empty() {
        return Err(fields.refuse(
            "stop",
            "unsupported_parameter",
            "is not supported: what follows a span stays",
        ));
    }
    let most = 1..=completer.token_limit();
    let everywhere = fields.whole("max_tokens", most.clone())?;
    let text = fields.text("text")?;
    let text = text.ok_or_else(|| fields.refuse("text", "missing_required_parameter", "is missing"))?;
    let spans = fields.list("spans")?;
    let spans = spans.ok_or_else(|| fields.refuse("spans", "missing_required_parameter", "is missing"))?;
    if spans.is_empty() || spans.len() > MOST_SPANS {
        let must = format!("must have 1 to {MOST_SPANS} spans, not {}", spans.len());
        return Err(fields.refuse("spans", "invalid_value", &must));
    }
    fields.finish()?;
    // Where each character begins, and where the text ends.
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut holed = Holed { text, spans: Vec::new() };
    for (i, value) in spans.into_iter().enumerate() {
        let mut span = Fields::of(value, &format!("spans[{i}]"))?;
        let least = holed.spans.last().map_or(0, |before: &Span| before.end);
        let mut place = |name: &str| -> Result<usize, OpenAiError> {
            let at = span.whole(name, 0..=places.len() - 1)?;
            at.ok_or_else(|| span.refuse(name, "missing_required_parameter", "is missing"))
        };
        let (start, end) = (place("start")?, place("end")?);
        if start > end {
            return Err(span.refuse("end", "invalid_value", "must not be before start"));
        }
        let (start, end) = (places[start], places[end]);
        if start < least {
            return Err(span.refuse(
                "start",
                "invalid_value",
                "must not be before the end of the span before",
            ));
        }
        let max_tokens = span.whole("max_tokens", most.clone())?.or(everywhere);
        span.finish()?;
        holed.spans.push(Span { start, end, max_tokens });
    }
    let length = Length { asked: None, default: 0, field: "spans", given_field: "text" };
    let default = |old: &str| match old {
        "" => INSERTED_TOKENS,
        old => completer.count(old).unwrap_or(INSERTED_TOKENS).max(1),
    };
    let canvas = answer::lay_out(completer, &Prompt::default(), length, &manner, |_| holed.parts(default))?;
    Ok((manner, holed, canvas))
}
