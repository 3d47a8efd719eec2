//! The model for other programs: OpenAI's endpoints for models, chats and completions, and infills.
//!
//! Everybody with a key or a session may use them. `fields` reads bodies and names what is wrong,
//! `asked` what all requests share; `chat`, `completions` and `infill` are one endpoint each;
//! `answer` and `stream` write candidates to their end or as they settle, in the shape of their `kind`.

mod answer;
mod asked;
mod chat;
mod completions;
mod error;
mod fields;
mod infill;
mod kind;
mod stream;

use actix_web::HttpResponse;
use actix_web::web;
use serde_json::Value;
use serde_json::json;

use crate::completion::Completer;
use crate::server::error::ApiError;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::fields::Asked;
use crate::server::openai::fields::Fields;
use crate::store::identity::Identity;

/// The completer, if a model is loaded.
pub type Model = web::Data<Option<Completer>>;

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/v1/models", web::get().to(models))
        .route("/v1/models/{model}", web::get().to(model))
        .route("/v1/chat/completions", web::post().to(chat::complete))
        .route("/v1/completions", web::post().to(completions::complete))
        .route("/v1/infill", web::post().to(infill::fill));
}

async fn models(known: Result<Identity, ApiError>, model: Model) -> Answer {
    known?;
    let models: Vec<_> = model.as_ref().iter().map(about).collect();
    Ok(HttpResponse::Ok().json(json!({"object": "list", "data": models})))
}

async fn model(known: Result<Identity, ApiError>, asked: web::Path<String>, model: Model) -> Answer {
    known?;
    let completer = loaded(&model)?;
    if *asked != completer.name() {
        return Err(OpenAiError::no_model(&asked, completer.name()));
    }
    Ok(HttpResponse::Ok().json(about(&completer)))
}

/// What a handler here returns.
type Answer = Result<HttpResponse, OpenAiError>;

fn loaded(model: &Model) -> Result<Completer, OpenAiError> {
    Option::clone(model).ok_or_else(OpenAiError::not_loaded)
}

/// Reads a body on a thread of its own: templates and tokenizers take their time with long texts.
async fn read<T: Send + 'static>(
    asked: Asked,
    completer: &Completer,
    read: fn(Fields, &Completer) -> Result<T, OpenAiError>,
) -> Result<T, OpenAiError> {
    let completer = completer.clone();
    web::block(move || read(asked.0, &completer)).await.map_err(ApiError::internal)?
}

fn about(completer: &Completer) -> Value {
    let engine = completer.engine();
    json!({
        "id": completer.name(), "object": "model", "created": completer.created(), "owned_by": "chatdlm",
        "diffusion": {"block_length": engine.model().block_length(), "token_limit": completer.token_limit()},
    })
}
