//! `/v1/terms`: the sensitive terms of the tenant, kept by its admins.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header::ETAG;
use actix_web::http::header::IF_MATCH;
use actix_web::web;

use crate::assist::terms::Terms;
use crate::assist::terms::TermsError;
use crate::monitor::sensitive::TermList;
use crate::server::auth::Admin;
use crate::server::error::ApiError;

/// Adds the routes. They need the application data [`Terms`] and what [`Admin`] needs.
pub fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/v1/terms").route(web::get().to(show)).route(web::put().to(put)));
}

impl From<TermsError> for ApiError {
    fn from(error: TermsError) -> ApiError {
        match error {
            TermsError::Lists(error) => ApiError::invalid("terms", error),
            TermsError::Changed(_) => ApiError::Changed(error.to_string()),
            TermsError::Store(_) | TermsError::Thread(_) => ApiError::internal(error),
        }
    }
}

async fn show(admin: Admin, terms: web::Data<Terms>) -> Result<HttpResponse, ApiError> {
    let (lists, version) = terms.lists(&admin.tenant).await.map_err(ApiError::internal)?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(version))).json(lists))
}

async fn put(
    admin: Admin,
    request: HttpRequest,
    lists: web::Json<Vec<TermList>>,
    terms: web::Data<Terms>,
) -> Result<HttpResponse, ApiError> {
    let version = terms.put(&admin.tenant, lists.clone(), expected(&request)?).await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(version))).json(lists))
}

/// Returns the version that `If-Match` names; `None` without it or with `*`.
fn expected(request: &HttpRequest) -> Result<Option<i64>, ApiError> {
    let Some(value) = request.headers().get(IF_MATCH) else { return Ok(None) };
    let value = value.to_str().unwrap_or_default().trim();
    if value == "*" {
        return Ok(None);
    }
    let version = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let version = version.and_then(|version| version.parse().ok());
    version.map(Some).ok_or_else(|| ApiError::invalid("If-Match", "must be an ETag of this resource"))
}

fn etag(version: i64) -> String {
    format!("\"{version}\"")
}
