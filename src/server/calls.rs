//! `/v1/calls`: lists, one call, and what people do to a call.

use actix_web::HttpResponse;
use actix_web::web;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use chrono::Utc;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::assist::Action;
use crate::assist::Calls;
use crate::assist::Rewrite;
use crate::assist::intake::NAME_MAX_BYTES;
use crate::assist::intake::Refusal;
use crate::assist::intake::TEXT_MAX_CHARS;
use crate::event::CallId;
use crate::event::CallKey;
use crate::event::Verdict;
use crate::server::auth::Agent;
use crate::server::auth::Supervisor;
use crate::server::error::ApiError;
use crate::store::Store;
use crate::store::calls::CallFilter;
use crate::store::calls::CallPhase;
use crate::store::calls::CallRecord;
use crate::store::cards::CardName;
use crate::store::identity::Identity;
use crate::store::identity::Role;

/// How many calls a list has unless its reader says otherwise.
const LIST_DEFAULT: u32 = 50;
/// The most calls of one list.
const LIST_MAX: u32 = 500;
/// The most spans of one rewrite.
const SPANS_MAX: usize = 50;
/// What a flag says when the agent says nothing.
const FLAG_MESSAGE: &str = "the agent asks for a supervisor";

/// Which calls to list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    state: Option<CallPhase>,
    agent: Option<String>,
    q: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// Lists calls, the latest first; agents see their own.
pub(super) async fn list(
    identity: Agent,
    listing: web::Query<Listing>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let Listing { state, agent, q, from, to, cursor, limit } = listing.into_inner();
    let agent = if identity.role == Role::Agent { Some(identity.name.clone()) } else { agent };
    let after = cursor.map(|cursor| read_cursor(&cursor)).transpose()?;
    let limit = limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
    let text = q.filter(|text| !text.trim().is_empty());
    let filter = CallFilter { state, agent, text, from, to, after };
    let calls = store.calls(&identity.tenant, &filter, limit).await?;
    let next = if calls.len() == limit as usize { calls.last().map(cursor_after) } else { None };
    Ok(HttpResponse::Ok().json(json!({"calls": calls, "next": next})))
}

/// Returns one call.
pub(super) async fn one(
    identity: Agent,
    path: web::Path<CallId>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let (_, record) = visible_call(&store, &identity, path.into_inner()).await?;
    Ok(HttpResponse::Ok().json(record))
}

/// What the agent wants of a new draft.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDraft {
    #[serde(default)]
    instruction: Option<String>,
}

/// Drafts an answer to the latest question again.
pub(super) async fn draft(
    identity: Agent,
    path: web::Path<CallId>,
    body: web::Bytes,
    store: web::Data<Store>,
    calls: web::Data<Calls>,
) -> Result<HttpResponse, ApiError> {
    let (key, _) = visible_call(&store, &identity, path.into_inner()).await?;
    let instruction =
        optional::<NewDraft>(&body)?.instruction.map(|text| typed("instruction", text)).transpose()?;
    let id = calls.act(&key, Action::Draft { instruction }).await?;
    Ok(HttpResponse::Accepted().json(json!({"id": id})))
}

/// Which spans of a draft change, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Edit {
    spans: Vec<Span>,
    #[serde(default)]
    instruction: Option<String>,
    #[serde(default)]
    must_include: Vec<String>,
    #[serde(default)]
    forbid: Vec<String>,
    #[serde(default)]
    max_tokens: Option<usize>,
}

/// A stretch of a draft's text, in Unicode scalar values.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    start: usize,
    end: usize,
}

/// Rewrites spans of a finished draft; every character outside them stays.
pub(super) async fn edit(
    identity: Agent,
    path: web::Path<(CallId, String)>,
    body: web::Json<Edit>,
    store: web::Data<Store>,
    calls: web::Data<Calls>,
) -> Result<HttpResponse, ApiError> {
    let (call, draft) = path.into_inner();
    let (key, _) = visible_call(&store, &identity, call).await?;
    let Edit { spans, instruction, must_include, forbid, max_tokens } = body.into_inner();
    if spans.len() > SPANS_MAX || must_include.len() > SPANS_MAX || forbid.len() > SPANS_MAX {
        return Err(ApiError::invalid("spans", format!("at most {SPANS_MAX} are allowed")));
    }
    let each = |field, texts: Vec<String>| texts.into_iter().map(|text| typed(field, text)).collect();
    let must_include: Result<Vec<String>, ApiError> = each("must_include", must_include);
    let forbid: Result<Vec<String>, ApiError> = each("forbid", forbid);
    let rewrite = Rewrite {
        draft,
        spans: spans.iter().map(|span| (span.start, span.end)).collect(),
        instruction: instruction.map(|text| typed("instruction", text)).transpose()?,
        must_include: must_include?,
        forbid: forbid?,
        max_tokens,
    };
    let id = calls.act(&key, Action::Rewrite(rewrite)).await?;
    Ok(HttpResponse::Accepted().json(json!({"id": id})))
}

/// What became of a draft.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Judgement {
    verdict: Verdict,
    #[serde(default)]
    text: Option<String>,
}

/// Notes what the agent did with a draft.
pub(super) async fn judge(
    identity: Agent,
    path: web::Path<(CallId, String)>,
    body: web::Json<Judgement>,
    store: web::Data<Store>,
    calls: web::Data<Calls>,
) -> Result<HttpResponse, ApiError> {
    let (call, draft) = path.into_inner();
    let (key, _) = visible_call(&store, &identity, call).await?;
    let Judgement { verdict, text } = body.into_inner();
    if verdict == Verdict::Edited && text.is_none() {
        return Err(ApiError::invalid("text", "must be there for an edited draft"));
    }
    let text = text.map(|text| typed("text", text)).transpose()?;
    calls.act(&key, Action::Judge { draft, verdict, text }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A supervisor's whisper.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    text: String,
}

/// Whispers to the agent.
pub(super) async fn note(
    identity: Supervisor,
    path: web::Path<CallId>,
    body: web::Json<Note>,
    store: web::Data<Store>,
    calls: web::Data<Calls>,
) -> Result<HttpResponse, ApiError> {
    let (key, _) = visible_call(&store, &identity, path.into_inner()).await?;
    let text = typed("text", body.into_inner().text)?;
    calls.act(&key, Action::Note { from: identity.name.clone(), text }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What the agent says to the supervisor.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Flag {
    #[serde(default)]
    message: Option<String>,
}

/// Asks a supervisor to look at the call.
pub(super) async fn flag(
    identity: Agent,
    path: web::Path<CallId>,
    body: web::Bytes,
    store: web::Data<Store>,
    calls: web::Data<Calls>,
) -> Result<HttpResponse, ApiError> {
    let (key, _) = visible_call(&store, &identity, path.into_inner()).await?;
    let message = optional::<Flag>(&body)?.message.filter(|text| !text.trim().is_empty());
    let message = message.map_or(Ok(FLAG_MESSAGE.to_owned()), |text| typed("message", text))?;
    calls.act(&key, Action::Flag { message }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What a card was worth.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Feedback {
    /// `null` takes an earlier answer back; it must be said, or nothing would be a wish too.
    #[serde(deserialize_with = "Option::deserialize")]
    useful: Option<bool>,
    /// The card's base, where the call searches several.
    #[serde(default)]
    base: Option<String>,
}

/// Notes whether a card helped; also after the call.
pub(super) async fn feedback(
    identity: Agent,
    path: web::Path<(CallId, String)>,
    body: web::Json<Feedback>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let (call, card) = path.into_inner();
    if card.len() > NAME_MAX_BYTES {
        return Err(ApiError::invalid("card", format!("must have at most {NAME_MAX_BYTES} bytes")));
    }
    let (key, _) = visible_call(&store, &identity, call).await?;
    let name = CardName { id: &card, base: body.base.as_deref() };
    if !store.judge_card(&key, name, &identity.name, body.useful).await? {
        return Err(ApiError::not_found(format!("card {card} in this call")));
    }
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the call if it is there and the user may see it; what they may not see is not there.
pub(super) async fn visible_call(
    store: &Store,
    identity: &Identity,
    call: CallId,
) -> Result<(CallKey, CallRecord), ApiError> {
    let key = CallKey { tenant: identity.tenant.clone(), call };
    match store.call(&key).await? {
        Some(record) if identity.sees_calls_of(&record.agent) => Ok((key, record)),
        _ => Err(ApiError::not_found(format!("call {}", key.call))),
    }
}

/// Reads a body of which nothing needs to be said.
fn optional<T: Default + DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| ApiError::invalid("body", error.to_string()))
}

/// Checks what somebody typed; the call redacts it.
fn typed(field: &'static str, text: String) -> Result<String, ApiError> {
    if text.trim().is_empty() {
        return Err(ApiError::invalid(field, "must not be empty"));
    }
    if text.chars().count() > TEXT_MAX_CHARS {
        return Err(ApiError::invalid(field, format!("must have at most {TEXT_MAX_CHARS} characters")));
    }
    Ok(text)
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        match refusal {
            Refusal::NoSuchCall(call) => ApiError::not_found(format!("call {call}")),
            Refusal::NoSuchDraft(draft) => ApiError::not_found(format!("finished draft {draft}")),
            Refusal::CallClosed { .. } => ApiError::Conflict(refusal.to_string()),
            Refusal::Stopping | Refusal::NotDurable => ApiError::Unavailable(refusal.to_string()),
            Refusal::InvalidField { field, why } => ApiError::invalid(field, why),
            refusal => ApiError::invalid("request", refusal),
        }
    }
}

/// Returns the cursor of the list that goes on after this call.
fn cursor_after(record: &CallRecord) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", record.started_at.to_rfc3339(), record.call))
}

fn read_cursor(cursor: &str) -> Result<(DateTime<Utc>, CallId), ApiError> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (started_at, call) = text.split_once(' ')?;
        Some((started_at.parse().ok()?, call.parse().ok()?))
    };
    read().ok_or_else(|| ApiError::invalid("cursor", "must be the next of another list"))
}
