//! What goes wrong with a request, in the shape that OpenAI's clients read:
//! `{"error": {"message", "type", "param", "code"}}`.

use actix_web::HttpResponse;
use actix_web::ResponseError;
use actix_web::http::StatusCode;
use actix_web::http::header;
use serde_json::Value;
use serde_json::json;

use crate::completion::CompletionError;
use crate::engine::handle::EngineError;
use crate::engine::template::TemplateError;
use crate::server::error::ApiError;

/// How long a client is asked to wait when the model is overloaded, in seconds.
const RETRY_AFTER_S: u64 = 1;

/// Says why a request was not answered, in OpenAI's words.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct OpenAiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl OpenAiError {
    /// Refuses a field of the request: `code` is what programs switch on.
    pub fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> OpenAiError {
        OpenAiError {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            code: Some(code),
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// Says that there is no model of this name.
    pub fn no_model(asked: &str, served: &str) -> OpenAiError {
        let message = format!("there is no model {asked:?}: this server has {served:?}");
        let error = OpenAiError::invalid("model", "model_not_found", message);
        OpenAiError { status: StatusCode::NOT_FOUND, ..error }
    }

    /// Says that the server runs without a model.
    pub fn not_loaded() -> OpenAiError {
        let message = "the model is not loaded: the server's log says why".to_owned();
        OpenAiError::from(ApiError::Unavailable(message))
    }

    /// Returns the body.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

impl ResponseError for OpenAiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => response.insert_header((header::RETRY_AFTER, RETRY_AFTER_S)),
            StatusCode::UNAUTHORIZED => response.insert_header((header::WWW_AUTHENTICATE, "Bearer")),
            _ => &mut response,
        };
        response.json(self.body())
    }
}

impl From<ApiError> for OpenAiError {
    fn from(error: ApiError) -> OpenAiError {
        if let ApiError::Internal { id, source } = &error {
            tracing::error!(error_id = %id, cause = %source, "request failed");
        }
        let (kind, code) = match &error {
            ApiError::Unauthorized(_) => ("invalid_request_error", "invalid_api_key"),
            ApiError::Internal { .. } => ("server_error", error.code()),
            ApiError::Unavailable(_) => ("server_error", "model_not_loaded"),
            _ => ("invalid_request_error", error.code()),
        };
        OpenAiError {
            status: error.status_code(),
            kind,
            code: Some(code),
            param: None,
            message: error.to_string(),
        }
    }
}

impl From<CompletionError> for OpenAiError {
    fn from(error: CompletionError) -> OpenAiError {
        match error {
            CompletionError::Engine(error) => error.into(),
            CompletionError::Busy(_) => overloaded(error.to_string()),
            CompletionError::NoRoom { .. } => {
                OpenAiError::invalid("must_include", "invalid_value", format!("must_include: {error}"))
            }
            CompletionError::Contradiction { .. } => {
                OpenAiError::invalid("forbid", "invalid_value", format!("forbid: {error}"))
            }
            CompletionError::Forbidden(_) => {
                OpenAiError::invalid("forbid", "no_wording_found", format!("forbid: {error}"))
            }
            CompletionError::NoTemplate | CompletionError::Template(TemplateError::Refused(_)) => {
                OpenAiError::invalid("messages", "invalid_value", error.to_string())
            }
            CompletionError::Template(_) | CompletionError::Tokenizer(_) => ApiError::internal(error).into(),
        }
    }
}

impl From<EngineError> for OpenAiError {
    fn from(error: EngineError) -> OpenAiError {
        match error {
            EngineError::Overloaded(_) => overloaded(error.to_string()),
            EngineError::TooLong { .. } => {
                OpenAiError::invalid("max_tokens", "context_length_exceeded", error.to_string())
            }
            EngineError::Late(_) => OpenAiError {
                status: StatusCode::SERVICE_UNAVAILABLE,
                kind: "server_error",
                code: Some("deadline_exceeded"),
                param: Some("diffusion.deadline_ms".to_owned()),
                message: error.to_string(),
            },
            EngineError::Constraint(error) => {
                OpenAiError::invalid("response_format", "invalid_value", error.to_string())
            }
            error => ApiError::internal(error).into(),
        }
    }
}

fn overloaded(message: String) -> OpenAiError {
    OpenAiError {
        status: StatusCode::TOO_MANY_REQUESTS,
        kind: "rate_limit_error",
        code: Some("overloaded"),
        param: None,
        message: format!("{message}: try again in {RETRY_AFTER_S} s"),
    }
}
