//! Who may open a carrier's line: a signature that the configuration knows, or a key that feeds calls.
//!
//! Carriers can send few headers, so a key may also stand in the URL's query (`key=…`), in the query the
//! way Live Call Analytics clients do (`authorization=Bearer …`), or as the password of basic authentication.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::server::auth;
use crate::server::error::ApiError;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::store::identity::Role;
use crate::store::secret::Secret;
use crate::telephony::audiohook;
use crate::telephony::audiohook::signature;
use crate::telephony::audiohook::signature::NONCE_LIVES_S;
use crate::telephony::audiohook::signature::NonceCache;
use crate::telephony::twilio;

/// How long a refusal of a signature waits, so that its time tells nothing.
const REFUSED_AFTER: Duration = Duration::from_millis(500);

/// How many nonces are remembered: 5,000 new calls a second.
const NONCES_MAX: usize = 100_000;

/// A text of the configuration that `Debug` hides.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// Twilio's signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TwilioConfig {
    /// The account's auth token: requests signed with it are let in.
    pub token: Hidden,
    /// Whether requests without a signature are let in too: only on a private network.
    pub unsigned: bool,
}

impl TwilioConfig {
    /// Returns whether signatures can be checked.
    pub fn is_signed(&self) -> bool {
        !self.token.0.is_empty()
    }
}

/// AudioHook's signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AudioHookConfig {
    /// The integrations that are let in.
    pub keys: Vec<AudioHookKey>,
}

/// One AudioHook integration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioHookKey {
    /// Its API key, as `X-API-KEY`.
    pub key: String,
    /// Its client secret in base64; requests must be signed with it.
    #[serde(default)]
    pub secret: Hidden,
    /// Whether requests without a signature are let in with the key alone: only on a private network.
    #[serde(default)]
    pub unsigned: bool,
    /// The organization that may use it; any when missing.
    #[serde(default)]
    pub organization: Option<String>,
}

/// The nonces that were used, so that no signature is used twice.
#[derive(Debug)]
pub struct Nonces(Mutex<NonceCache>);

impl Default for Nonces {
    fn default() -> Nonces {
        Nonces(Mutex::new(NonceCache::new(NONCES_MAX, NONCE_LIVES_S)))
    }
}

/// Lets a request in by the key of somebody who may feed calls.
///
/// # Errors
/// When there is none, or it may not feed calls.
pub(super) async fn by_key(request: &HttpRequest, store: &Store) -> Result<Identity, ApiError> {
    let key = key_of(request).ok_or_else(|| {
        ApiError::Unauthorized("send Authorization: Bearer KEY, or the key in the query: ?key=KEY".to_owned())
    })?;
    let identity = store.key_identity(&Secret::from(key.as_str())).await?;
    let identity =
        identity.ok_or_else(|| ApiError::Unauthorized("the key is unknown or revoked".to_owned()))?;
    match identity.role {
        Role::Ingest => Ok(identity),
        role => Err(ApiError::Forbidden(format!("the role {role} may not feed calls"))),
    }
}

/// Returns the key that a request shows, wherever it stands.
fn key_of(request: &HttpRequest) -> Option<String> {
    let query = super::query(request);
    let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_query = query.get("key").cloned();
    in_query.or_else(|| value.and_then(key_in)).or_else(|| key_in(query.get("authorization")?))
}

/// Returns the key of `Bearer KEY` or of basic authentication with the key as the password.
fn key_in(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ').unwrap_or(("Bearer", value));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned());
    }
    let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
    decoded.split_once(':').map(|(_, password)| password.to_owned())
}

/// Returns where carriers reach this server, as `HOST` or `HOST:PORT`.
fn public_host(request: &HttpRequest, auth: &auth::Config) -> String {
    if let Some(origin) = &auth.public_origin {
        let host = origin.trim_start_matches("https://").trim_start_matches("http://");
        return host.trim_end_matches('/').to_owned();
    }
    if auth.trust_forwarded_for {
        return request.connection_info().host().to_owned();
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| request.uri().authority().map(|authority| authority.as_str()))
        .unwrap_or_default()
        .to_owned()
}

/// Returns the path and query of a request.
fn target(request: &HttpRequest) -> &str {
    request.uri().path_and_query().map_or("/", |target| target.as_str())
}

/// Lets Twilio in by its signature.
///
/// # Errors
/// When the signature is missing or wrong.
pub(super) async fn twilio(
    request: &HttpRequest,
    config: &TwilioConfig,
    auth: &auth::Config,
) -> Result<(), ApiError> {
    let given = request.headers().get("x-twilio-signature").and_then(|value| value.to_str().ok());
    let is_good = match given {
        Some(given) if !config.token.0.is_empty() => {
            let url = format!("wss://{}{}", public_host(request, auth), target(request));
            twilio::signature::verify(&config.token.0, &twilio::signature::forms(&url), given)
        }
        Some(_) => false,
        None => config.unsigned,
    };
    if is_good {
        return Ok(());
    }
    tokio::time::sleep(REFUSED_AFTER).await;
    Err(ApiError::Unauthorized("X-Twilio-Signature is missing or wrong".to_owned()))
}

/// Lets AudioHook in by its key and signature.
///
/// # Errors
/// When a header is missing (400), or the key or signature is wrong (401).
pub(super) async fn audiohook(
    request: &HttpRequest,
    config: &AudioHookConfig,
    auth: &auth::Config,
    nonces: &Nonces,
) -> Result<audiohook::Session, ApiError> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.map(str::to_owned).ok_or_else(|| ApiError::invalid(name, "this header is missing"))
    };
    let session = audiohook::Session {
        id: header("audiohook-session-id")?,
        organization: header("audiohook-organization-id")?,
        correlation: header("audiohook-correlation-id")?,
    };
    let key = header("x-api-key")?;
    if is_audiohook(request, config, auth, nonces, &key, &session.organization) {
        return Ok(session);
    }
    tokio::time::sleep(REFUSED_AFTER).await;
    Err(ApiError::Unauthorized("the key or signature is missing or wrong".to_owned()))
}

fn is_audiohook(
    request: &HttpRequest,
    config: &AudioHookConfig,
    auth: &auth::Config,
    nonces: &Nonces,
    key: &str,
    organization: &str,
) -> bool {
    let known = config.keys.iter().find(|known| known.key == key);
    let is_signed = request.headers().contains_key("signature");
    if !is_signed {
        return known.is_some_and(|known| known.unsigned && is_of(known, organization));
    }
    let host = public_host(request, auth);
    let headers: Vec<(&str, &str)> = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let signed = signature::Request { target: target(request), authority: &host, headers: &headers };
    let secret = |key: &str| {
        let known = config.keys.iter().find(|known| known.key == key && !known.secret.0.is_empty())?;
        STANDARD.decode(&known.secret.0).ok()
    };
    let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0);
    let verified = signature::verify(&signed, secret, now).map_err(|error| error.to_string());
    let admitted = verified.and_then(|verified| {
        let mut nonces = nonces.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.admit(&verified, now).map_err(|error| error.to_string())
    });
    if let Err(error) = &admitted {
        tracing::warn!(error, "an AudioHook signature was refused");
    }
    admitted.is_ok() && known.is_some_and(|known| is_of(known, organization))
}

fn is_of(key: &AudioHookKey, organization: &str) -> bool {
    key.organization.as_deref().is_none_or(|known| known == organization)
}
