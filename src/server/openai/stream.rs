//! Candidates as they settle, as server-sent events in OpenAI's form.
//!
//! Settled text is sent as it settles, a block at a time, and never taken back. On request what may
//! still change is sent too, beside it: `choices[].diffusion.tentative_text` replaces the one before.
//! Whoever stops reading cancels the work, because the stream is dropped.

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use futures_util::stream::LocalBoxStream;
use futures_util::stream::SelectAll;
use serde_json::Value;
use serde_json::json;

use crate::completion::writing::Usage;
use crate::completion::writing::Writing;
use crate::engine::handle::EngineError;
use crate::server::openai::answer::Head;
use crate::server::openai::answer::usage_json;
use crate::server::openai::asked::Manner;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::kind::Kind;

/// What is new of one candidate.
#[derive(Debug, Default)]
struct Piece {
    index: usize,
    is_first: bool,
    text: String,
    tentative: Option<String>,
    end: Option<(&'static str, Usage)>,
}

/// Answers with the events of candidates.
pub fn respond(kind: Kind, head: Head, manner: &Manner, writings: Vec<Writing>) -> HttpResponse {
    let usage_of_chunks = if manner.include_usage { Some(Value::Null) } else { None };
    let mut pieces = SelectAll::new();
    for (index, writing) in writings.into_iter().enumerate() {
        pieces.push(follow(index, writing, manner.stream_tentative));
    }
    let telling = Telling { kind, head, usage_of_chunks, pieces, usages: Vec::new(), is_over: false };
    events(stream::unfold(telling, |mut telling| async move { Some((telling.next().await?, telling)) }))
}

/// Answers with events that are texts already.
pub fn events(events: impl Stream<Item = String> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/event-stream")
        // Proxies must not collect what is to be seen as it comes.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(events.map(|text| Ok::<Bytes, OpenAiError>(Bytes::from(text))))
}

/// Returns one event.
pub fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The event that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

fn follow(
    index: usize,
    writing: Writing,
    stream_tentative: bool,
) -> LocalBoxStream<'static, Result<Piece, EngineError>> {
    let writing = if stream_tentative { writing } else { writing.settled_only() };
    let state = (writing, 0, true);
    stream::try_unfold(state, move |(mut writing, mut sent, is_first)| async move {
        loop {
            let Some(update) = writing.next().await? else { return Ok(None) };
            let Some(written) = update.written.first() else { return Ok(None) };
            let mut piece = Piece { index, is_first, ..Piece::default() };
            piece.text = written.text[sent..].to_owned();
            sent = written.text.len();
            piece.tentative = stream_tentative.then(|| written.tentative.clone());
            piece.end = update.is_done.then(|| (written.finish_reason(), update.usage));
            if !piece.text.is_empty() || piece.tentative.is_some() || piece.end.is_some() {
                return Ok(Some((piece, (writing, sent, false))));
            }
        }
    })
    .boxed_local()
}

struct Telling {
    kind: Kind,
    head: Head,
    /// `usage` of chunks that have none yet: `null` when the last chunk will have it.
    usage_of_chunks: Option<Value>,
    pieces: SelectAll<LocalBoxStream<'static, Result<Piece, EngineError>>>,
    /// What the candidates that are complete took.
    usages: Vec<Usage>,
    is_over: bool,
}

impl Telling {
    /// Returns the next events, `None` after the last.
    async fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        match self.pieces.next().await {
            Some(Ok(piece)) => Some(self.chunks(piece)),
            Some(Err(error)) => {
                self.is_over = true;
                Some(event(&OpenAiError::from(error).body()))
            }
            None => {
                self.is_over = true;
                let usage = self.usage_of_chunks.is_some().then(|| {
                    let mut last = self.head.json(self.kind.chunk_object(), json!([]));
                    last["usage"] = usage_json(&Usage::together(&self.usages));
                    event(&last)
                });
                Some(usage.unwrap_or_default() + DONE)
            }
        }
    }

    fn chunks(&mut self, piece: Piece) -> String {
        let mut events = String::new();
        if piece.is_first || !piece.text.is_empty() || piece.tentative.is_some() {
            events += &self.chunk(&piece, None);
        }
        if let Some((reason, usage)) = piece.end {
            self.usages.push(usage);
            let last = Piece { index: piece.index, ..Piece::default() };
            events += &self.chunk(&last, Some(reason));
        }
        events
    }

    fn chunk(&self, piece: &Piece, finish_reason: Option<&str>) -> String {
        let mut choice = self.kind.chunk_choice(piece.index, &piece.text, piece.is_first, finish_reason);
        if let Some(tentative) = &piece.tentative {
            choice["diffusion"] = json!({"tentative_text": tentative});
        }
        let mut chunk = self.head.json(self.kind.chunk_object(), json!([choice]));
        if let Some(usage) = &self.usage_of_chunks {
            chunk["usage"] = usage.clone();
        }
        event(&chunk)
    }
}
