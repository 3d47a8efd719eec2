//! Who makes a request, and what they may do: extractors as permissions.
//!
//! A handler that takes [`Admin`] can only run for an admin; one that takes none of these is open
//! to everybody. Browsers show a session cookie, machines an `Authorization: Bearer` key.
//!
//! | extractor | lets in |
//! |---|---|
//! | [`Identity`] | everybody who is known |
//! | [`Person`] | agents, supervisors, admins |
//! | [`Agent`] | agents, for their own calls ([`Identity::sees_calls_of`]); supervisors, for all |
//! | [`Supervisor`] | supervisors |
//! | [`Admin`] | admins: knowledge, terms, users, keys; not calls |
//! | [`Ingest`] | keys that feed calls; in the demo everybody known, who may play the customer |

use std::ops::Deref;

use actix_web::FromRequest;
use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web;
use futures_util::future::LocalBoxFuture;

use crate::server::error::ApiError;
use crate::server::security::check_origin;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::store::identity::Role;
use crate::store::secret::Secret;

/// The cookie that holds the token of the session.
pub const SESSION_COOKIE: &str = "chatdlm_session";

/// How people and machines get in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The tenant of users who sign in without naming one, and of the first admin.
    pub tenant: String,
    /// Where browsers reach the server, as `https://assist.example.com`, if a proxy stands before
    /// it. With `https` cookies are marked `Secure`.
    pub public_origin: Option<String>,
    /// Whether the last address of `X-Forwarded-For` is the client's: only behind a proxy.
    pub trust_forwarded_for: bool,
    /// Whether everybody signed in may feed calls, to play the customer. Set by `chatdlm demo`.
    #[serde(skip)]
    pub is_demo: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { tenant: "main".to_owned(), public_origin: None, trust_forwarded_for: false, is_demo: false }
    }
}

impl Config {
    /// Returns whether browsers reach the server by https.
    pub fn is_https(&self) -> bool {
        self.public_origin.as_deref().is_some_and(|origin| origin.starts_with("https://"))
    }
}

impl FromRequest for Identity {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Identity, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { identify(&request).await })
    }
}

/// Finds out who makes `request`.
///
/// A key counts before a cookie, and a wrong key is refused even beside a good cookie: a caller
/// who shows one means it.
async fn identify(request: &HttpRequest) -> Result<Identity, ApiError> {
    let store = part::<Store>(request)?;
    let config = part::<Config>(request)?;
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        let key = value.to_str().ok().and_then(bearer);
        let key = key.ok_or_else(|| ApiError::Unauthorized("send Authorization: Bearer KEY".to_owned()))?;
        let identity = store.key_identity(&Secret::from(key)).await?;
        return identity.ok_or_else(|| ApiError::Unauthorized("the key is unknown or revoked".to_owned()));
    }
    let cookie = request.cookie(SESSION_COOKIE);
    let cookie = cookie.ok_or_else(|| ApiError::Unauthorized("sign in first".to_owned()))?;
    check_origin(request, config.public_origin.as_deref())?;
    let identity = store.session_identity(&Secret::from(cookie.value())).await?;
    identity.ok_or_else(|| ApiError::Unauthorized("the session has ended: sign in again".to_owned()))
}

/// Returns the key of a header value `Bearer KEY`.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// Returns a part of the application that handlers share.
pub(super) fn part<T: 'static>(request: &HttpRequest) -> Result<web::Data<T>, ApiError> {
    let found = request.app_data::<web::Data<T>>().cloned();
    found.ok_or_else(|| ApiError::internal(format!("the application has no {}", std::any::type_name::<T>())))
}

/// Makes a permission: an [`Identity`] that only comes into being if `$may` says so.
macro_rules! permission {
    ($(#[$doc:meta])* $name:ident, $may:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub Identity);

        impl Deref for $name {
            type Target = Identity;

            fn deref(&self) -> &Identity {
                &self.0
            }
        }

        impl FromRequest for $name {
            type Error = ApiError;
            type Future = LocalBoxFuture<'static, Result<$name, ApiError>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                let request = request.clone();
                Box::pin(async move {
                    let identity = identify(&request).await?;
                    let may: fn(Role, &Config) -> bool = $may;
                    match may(identity.role, &*part::<Config>(&request)?) {
                        true => Ok($name(identity)),
                        false => Err(ApiError::Forbidden(format!("the role {} may not do this", identity.role))),
                    }
                })
            }
        }
    };
}

permission!(
    /// Somebody who works here: an agent, a supervisor or an admin.
    Person,
    |role, _| role != Role::Ingest
);
permission!(
    /// Who may work on calls: an agent on their own, a supervisor on all. The handler still asks
    /// [`Identity::sees_calls_of`].
    Agent,
    |role, _| matches!(role, Role::Agent | Role::Supervisor)
);
permission!(
    /// Who may see all calls of the tenant.
    Supervisor,
    |role, _| role == Role::Supervisor
);
permission!(
    /// Who keeps knowledge, terms, users and keys.
    Admin,
    |role, _| role == Role::Admin
);
permission!(
    /// Who may open and feed calls.
    Ingest,
    |role, config| role == Role::Ingest || config.is_demo
);
