//! `/v1/terms`: the sensitive terms of the tenant, kept by its admins.

use actix_web::HttpResponse;
use actix_web::http::header::ETAG;
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
    lists: web::Json<Vec<TermList>>,
    terms: web::Data<Terms>,
) -> Result<HttpResponse, ApiError> {
    let version = terms.put(&admin.tenant, lists.clone()).await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, etag(version))).json(lists))
}

fn etag(version: i64) -> String {
    format!("\"{version}\"")
}
