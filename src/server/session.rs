//! `/v1/session` and `/sign-in/{token}`: how people come in, see who they are, and leave.

use std::net::IpAddr;
use std::time::Duration;
use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::HttpResponseBuilder;
use actix_web::cookie::Cookie;
use actix_web::cookie::SameSite;
use actix_web::http::header;
use actix_web::web;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Semaphore;
use tracing::info;

use crate::assist::Calls;
use crate::server::auth::Config;
use crate::server::auth::SESSION_COOKIE;
use crate::server::error::ApiError;
use crate::server::health::has_model;
use crate::server::limit::Allowance;
use crate::server::limit::Attempts;
use crate::server::security::check_origin;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::store::identity::NAME_MAX_BYTES;
use crate::store::password;
use crate::store::secret::Secret;
use crate::store::sessions::SESSION_IDLE_HOURS;

/// Wrong passwords for one name: nobody guesses at more than two a minute for long.
const BY_NAME: Allowance =
    Allowance { attempts: 10, one_back_after: Duration::from_secs(30), keys_max: 10_000 };
/// Wrong passwords from one address, behind which may sit a whole contact center.
const BY_ADDRESS: Allowance =
    Allowance { attempts: 50, one_back_after: Duration::from_secs(6), keys_max: 10_000 };
/// How many passwords are hashed at once: each takes 19 MiB and a core.
const HASHES_AT_ONCE: usize = 2;

/// Where a browser goes with a link that no longer works: the sign-in page, which says so.
const LINK_USED_PAGE: &str = "/?link=used";

/// What sign-in remembers between requests; one for the whole server.
#[derive(Debug)]
pub struct SignIn {
    by_name: Attempts,
    by_address: Attempts,
    hashes: Semaphore,
}

impl Default for SignIn {
    fn default() -> SignIn {
        SignIn {
            by_name: Attempts::new(BY_NAME),
            by_address: Attempts::new(BY_ADDRESS),
            hashes: Semaphore::new(HASHES_AT_ONCE),
        }
    }
}

/// Adds the routes. They need the application data [`Store`], [`Config`] and [`SignIn`].
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/v1/session")
                .route(web::get().to(who_am_i))
                .route(web::post().to(sign_in))
                .route(web::delete().to(sign_out)),
        )
        .service(web::resource("/sign-in/{token}").route(web::get().to(follow_link)));
}

/// What a person types. Not `Debug`, because of the password.
#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
    /// Only needed where a server has several tenants.
    tenant: Option<String>,
}

async fn who_am_i(identity: Identity, config: web::Data<Config>, calls: web::Data<Calls>) -> HttpResponse {
    HttpResponse::Ok().json(who(&identity, &config, &calls))
}

/// Says who is signed in, and what the assistant does for them.
fn who(identity: &Identity, config: &Config, calls: &Calls) -> serde_json::Value {
    let (model, wanted) = (has_model(calls), &calls.parts().config);
    json!({
        "name": identity.name,
        "role": identity.role,
        "tenant": identity.tenant,
        "demo": config.is_demo,
        "assistant": {
            "model": model,
            "emotions": model && wanted.emotions,
            "drafts": model && wanted.drafts,
        },
    })
}

async fn sign_in(
    request: HttpRequest,
    typed: web::Json<Credentials>,
    store: web::Data<Store>,
    config: web::Data<Config>,
    sign_in: web::Data<SignIn>,
    calls: web::Data<Calls>,
) -> Result<HttpResponse, ApiError> {
    check_origin(&request, config.public_origin.as_deref())?;
    let Credentials { name, password, tenant } = typed.into_inner();
    let tenant = tenant.unwrap_or_else(|| config.tenant.clone());
    let address = client_address(&request, &config);
    // No user has a longer name; the count must not keep what anybody sends.
    let name_key: String =
        tenant.chars().take(NAME_MAX_BYTES).chain(['/']).chain(name.chars().take(NAME_MAX_BYTES)).collect();
    let now = Instant::now();
    sign_in.by_address.take(&address, now).map_err(too_many)?;
    sign_in.by_name.take(&name_key, now).map_err(too_many)?;

    let stored = store.password_hash(&tenant, &name).await?;
    let permit = sign_in.hashes.acquire().await.map_err(ApiError::internal)?;
    let is_correct = web::block(move || password::is_correct(&password, stored.as_deref())).await;
    drop(permit);
    if !is_correct.map_err(ApiError::internal)? {
        info!(%address, "sign-in refused");
        return Err(ApiError::Unauthorized("name or password is wrong".to_owned()));
    }
    sign_in.by_name.forget(&name_key);
    sign_in.by_address.give_back(&address);

    let (cookie, identity) = open_session(&request, &store, &config, &tenant, &name).await?;
    Ok(HttpResponse::Ok().cookie(cookie).json(who(&identity, &config, &calls)))
}

fn too_many(wait: Duration) -> ApiError {
    ApiError::TooMany { retry_after_s: wait.as_secs_f64().ceil() as u64 }
}

async fn follow_link(
    request: HttpRequest,
    token: web::Path<String>,
    store: web::Data<Store>,
    config: web::Data<Config>,
) -> Result<HttpResponse, ApiError> {
    let Some((tenant, name)) = store.use_link(&Secret::from(token.as_str())).await? else {
        if accepts_html(&request) {
            return Ok(see_other(LINK_USED_PAGE).finish());
        }
        let message = "the link has been used or has expired: ask for a new one";
        return Err(ApiError::Unauthorized(message.to_owned()));
    };
    let (cookie, _) = open_session(&request, &store, &config, &tenant, &name).await?;
    Ok(see_other("/").cookie(cookie).finish())
}

fn see_other(page: &str) -> HttpResponseBuilder {
    let mut response = HttpResponse::SeeOther();
    response.insert_header((header::LOCATION, page));
    response
}

/// Returns whether a person is looking, who is better served by a page than by JSON.
fn accepts_html(request: &HttpRequest) -> bool {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|types| types.contains("text/html"))
}

/// Opens a session and ends the one that the browser had.
async fn open_session(
    request: &HttpRequest,
    store: &Store,
    config: &Config,
    tenant: &str,
    name: &str,
) -> Result<(Cookie<'static>, Identity), ApiError> {
    if let Some(old) = request.cookie(SESSION_COOKIE) {
        store.close_session(&Secret::from(old.value())).await?;
    }
    let token = store.open_session(tenant, name, chrono::Duration::hours(SESSION_IDLE_HOURS)).await?;
    let identity = store.session_identity(&token).await?;
    // Only a user who was disabled in this very moment has none.
    let identity = identity.ok_or_else(|| ApiError::Unauthorized("the user is disabled".to_owned()))?;
    info!(tenant, user = name, role = %identity.role, "signed in");
    Ok((session_cookie(token.reveal(), config), identity))
}

/// Ends the session of the cookie, if there is one.
async fn sign_out(
    request: HttpRequest,
    store: web::Data<Store>,
    config: web::Data<Config>,
) -> Result<HttpResponse, ApiError> {
    check_origin(&request, config.public_origin.as_deref())?;
    if let Some(cookie) = request.cookie(SESSION_COOKIE) {
        store.close_session(&Secret::from(cookie.value())).await?;
    }
    let mut gone = session_cookie("", &config);
    gone.make_removal();
    Ok(HttpResponse::NoContent().cookie(gone).finish())
}

/// The cookie lives as long as the browser; the session behind it has its own end.
fn session_cookie(token: &str, config: &Config) -> Cookie<'static> {
    Cookie::build(SESSION_COOKIE, token.to_owned())
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(config.is_https())
        .finish()
}

/// Returns whom to count attempts for. One customer of a provider has a whole /64 of IPv6.
fn client_address(request: &HttpRequest, config: &Config) -> String {
    let forwarded = request.headers().get_all("x-forwarded-for").last();
    let forwarded = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    let peer = request.peer_addr().map(|address| address.ip());
    let address: Option<IpAddr> = if config.trust_forwarded_for { forwarded.or(peer) } else { peer };
    match address {
        Some(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        Some(address) => address.to_canonical().to_string(),
        None => "unknown".to_owned(),
    }
}
