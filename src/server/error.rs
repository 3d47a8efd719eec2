//! What goes wrong with a request, as the status and the one JSON shape that every client meets.
//!
//! Handlers return [`ApiError`]; the extractors of actix and its own bare answers (404, 405, 413)
//! are brought to the same shape by [`configure`] and [`shape`].

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::ResponseError;
use actix_web::body::BoxBody;
use actix_web::body::EitherBody;
use actix_web::dev::ServiceResponse;
use actix_web::error::JsonPayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::http::header::HeaderValue;
use actix_web::middleware::ErrorHandlerResponse;
use actix_web::middleware::ErrorHandlers;
use actix_web::web;
use serde::Serialize;
use tracing::error;

use crate::store::StoreError;
use crate::store::identity::UserError;
use crate::store::password::PasswordError;

/// The largest JSON body, in bytes. Uploads of articles have their own limit.
pub const JSON_MAX_BYTES: usize = 1024 * 1024;

/// Says why a request was not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The thing does not exist, or not for this tenant, or not for this user.
    #[error("there is no {0}")]
    NotFound(String),
    /// A field of the request is not as it must be.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field, as the client wrote it.
        field: String,
        /// What it must be.
        reason: String,
    },
    /// Nobody is signed in, or the credentials are wrong.
    #[error("{0}")]
    Unauthorized(String),
    /// The user is known and may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The request contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// The thing is not what the client believed it to be when it wrote the request.
    #[error("{0}")]
    Changed(String),
    /// The body or a part of it is over its limit.
    #[error("{0}")]
    TooLarge(String),
    /// The client must wait.
    #[error("too many attempts: try again in {retry_after_s} s")]
    TooMany {
        /// Sent as `Retry-After`.
        retry_after_s: u64,
    },
    /// The content is of a type that nothing here reads.
    #[error("{0}")]
    Unsupported(String),
    /// A part of the server is not ready; the same request may work later.
    #[error("{0}")]
    Unavailable(String),
    /// Our fault. The client sees the id, the log has the id and the cause.
    #[error("internal error {id}: quote this id when you report it")]
    Internal {
        /// Eight random hexadecimal digits.
        id: String,
        /// What happened; for the log only.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ApiError {
    /// Returns "there is no `what`".
    pub fn not_found(what: impl Into<String>) -> ApiError {
        ApiError::NotFound(what.into())
    }

    /// Returns "`field`: `reason`".
    pub fn invalid(field: impl Into<String>, reason: impl ToString) -> ApiError {
        ApiError::Invalid { field: field.into(), reason: reason.to_string() }
    }

    /// Hides `source` behind an id; it is logged when the answer is made.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ApiError {
        ApiError::Internal { id: hex::encode(rand::random::<[u8; 4]>()), source: source.into() }
    }

    /// Returns the code that clients may switch on.
    pub fn code(&self) -> &'static str {
        match self {
            ApiError::NotFound(_) => "not_found",
            ApiError::Invalid { .. } => "invalid",
            ApiError::Unauthorized(_) => "unauthorized",
            ApiError::Forbidden(_) => "forbidden",
            ApiError::Conflict(_) => "conflict",
            ApiError::Changed(_) => "changed",
            ApiError::TooLarge(_) => "too_large",
            ApiError::TooMany { .. } => "too_many",
            ApiError::Unsupported(_) => "unsupported",
            ApiError::Unavailable(_) => "unavailable",
            ApiError::Internal { .. } => "internal",
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        match self {
            ApiError::NotFound(_) => StatusCode::NOT_FOUND,
            ApiError::Invalid { .. } => StatusCode::BAD_REQUEST,
            ApiError::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::Conflict(_) => StatusCode::CONFLICT,
            ApiError::Changed(_) => StatusCode::PRECONDITION_FAILED,
            ApiError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            ApiError::Unsupported(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ApiError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        if let ApiError::Internal { id, source } = self {
            error!(error_id = %id, cause = %source, "request failed");
            response.insert_header(("x-request-id", id.as_str()));
        }
        if let ApiError::TooMany { retry_after_s } = self {
            response.insert_header((header::RETRY_AFTER, *retry_after_s));
        }
        if let ApiError::Unauthorized(_) = self {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(Envelope { error: Body { code: self.code(), message: self.to_string() } })
    }
}

impl From<UserError> for ApiError {
    fn from(error: UserError) -> ApiError {
        match error {
            UserError::Name(_) => ApiError::invalid("name", error),
            UserError::Role(_) => ApiError::invalid("role", error),
            UserError::Password(PasswordError::Length) => ApiError::invalid("password", error),
            UserError::Exists(_) | UserError::LastAdmin(_) => ApiError::Conflict(error.to_string()),
            UserError::NoUser(name) => ApiError::NotFound(format!("user {name}")),
            UserError::NoKey(id) => ApiError::NotFound(format!("key {id}")),
            UserError::Password(_) | UserError::Store(_) => ApiError::internal(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        ApiError::internal(error)
    }
}

#[derive(Serialize)]
struct Envelope {
    error: Body,
}

#[derive(Serialize)]
struct Body {
    code: &'static str,
    message: String,
}

/// Makes the extractors of actix refuse in the shape of [`ApiError`], and answers unknown paths.
pub fn configure(config: &mut web::ServiceConfig) {
    config
        .app_data(
            web::JsonConfig::default()
                .limit(JSON_MAX_BYTES)
                .error_handler(|error, _| json_error(error).into()),
        )
        .app_data(web::PayloadConfig::default().limit(JSON_MAX_BYTES))
        .app_data(
            web::PathConfig::default().error_handler(|error, _| ApiError::invalid("path", error).into()),
        )
        .app_data(
            web::QueryConfig::default().error_handler(|error, _| ApiError::invalid("query", error).into()),
        )
        .default_service(web::to(no_such_path));
}

fn json_error(error: JsonPayloadError) -> ApiError {
    match error {
        JsonPayloadError::OverflowKnownLength { limit, .. } | JsonPayloadError::Overflow { limit } => {
            ApiError::TooLarge(format!("the body is over {limit} bytes"))
        }
        JsonPayloadError::ContentType => {
            ApiError::Unsupported("the body must be application/json".to_owned())
        }
        error => ApiError::invalid("body", error),
    }
}

async fn no_such_path(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::not_found(format!("page or resource {}", request.path())))
}

/// Returns the middleware that gives the shape to error answers which actix made by itself.
pub fn shape<B: 'static>() -> ErrorHandlers<B> {
    ErrorHandlers::new().default_handler(|response: ServiceResponse<B>| {
        let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(is_json_type);
        if is_json {
            return Ok(ErrorHandlerResponse::Response(response.map_into_left_body()));
        }
        let (request, bare) = response.into_parts();
        let shaped = reshape(&request, &bare);
        Ok(ErrorHandlerResponse::Response(
            ServiceResponse::new(request, shaped).map_body(|_, body| EitherBody::right(body)),
        ))
    })
}

fn is_json_type(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| text.starts_with("application/json"))
}

/// Keeps status and headers of `bare` and replaces its body.
fn reshape<B>(request: &HttpRequest, bare: &HttpResponse<B>) -> HttpResponse<BoxBody> {
    let status = bare.status();
    let (code, message) = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", format!("{} is not possible on {}", request.method(), request.path()))
        }
        StatusCode::NOT_FOUND => ("not_found", format!("there is no page or resource {}", request.path())),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is too large".to_owned()),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported", "the content type is not supported".to_owned()),
        StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "the server is not ready".to_owned()),
        status if status.is_server_error() => ("internal", "internal error".to_owned()),
        status => ("invalid", status.canonical_reason().unwrap_or("the request was refused").to_lowercase()),
    };
    let mut shaped = HttpResponse::build(status).json(Envelope { error: Body { code, message } });
    for (name, value) in bare.headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            shaped.headers_mut().append(name.clone(), value.clone());
        }
    }
    shaped
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::test;
    use serde_json::Value;
    use serde_json::json;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Wish {
        wish: u32,
    }

    async fn answer(request: test::TestRequest) -> (StatusCode, Value) {
        let app = test::init_service(
            App::new()
                .wrap(shape())
                .configure(configure)
                .service(web::resource("/wish").route(
                    web::post().to(|wish: web::Json<Wish>| async move { HttpResponse::Ok().json(wish.wish) }),
                ))
                .service(web::resource("/number/{number}").route(
                    web::get().to(|number: web::Path<u32>| async move { HttpResponse::Ok().json(*number) }),
                ))
                .service(web::resource("/broken").route(web::get().to(|| async {
                    Err::<HttpResponse, ApiError>(ApiError::internal("the disk said: secret"))
                }))),
        )
        .await;
        let response = test::call_service(&app, request.to_request()).await;
        let status = response.status();
        (status, test::read_body_json(response).await)
    }

    async fn check(request: test::TestRequest, status: u16, code: &str) -> String {
        let (found, body) = answer(request).await;
        assert_eq!(found.as_u16(), status, "{body}");
        assert_eq!(body["error"]["code"], code, "{body}");
        body["error"]["message"].as_str().expect("a message").to_owned()
    }

    #[actix_web::test]
    async fn every_refusal_has_the_one_shape() {
        check(test::TestRequest::get().uri("/nowhere"), 404, "not_found").await;
        check(test::TestRequest::get().uri("/wish"), 405, "method_not_allowed").await;
        check(test::TestRequest::get().uri("/number/x"), 400, "invalid").await;
        check(test::TestRequest::post().uri("/wish").set_payload("1"), 415, "unsupported").await;
        let message =
            check(test::TestRequest::post().uri("/wish").set_json(json!({"wish": "x"})), 400, "invalid")
                .await;
        assert!(message.contains("u32"), "{message}");
        let huge = "x".repeat(JSON_MAX_BYTES + 1);
        check(test::TestRequest::post().uri("/wish").set_json(json!({"wish": huge})), 413, "too_large").await;
    }

    #[actix_web::test]
    async fn an_internal_error_shows_its_id_and_hides_its_cause() {
        let message = check(test::TestRequest::get().uri("/broken"), 500, "internal").await;
        assert!(!message.contains("secret"), "{message}");
    }
}
