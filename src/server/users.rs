//! `/v1/users` and `/v1/keys`: who comes in, kept by admins of the same tenant.

use actix_web::HttpResponse;
use actix_web::web;
use chrono::Duration;
use serde::Deserialize;
use serde::Serialize;
use serde_json::json;
use tracing::info;

use crate::server::auth::Admin;
use crate::server::error::ApiError;
use crate::store::Store;
use crate::store::identity::Role;
use crate::store::keys::Key;
use crate::store::password;
use crate::store::secret::Secret;
use crate::store::users::LINK_HOURS;
use crate::store::users::User;
use crate::store::users::UserChange;

/// Adds the routes. They need the application data [`Store`] and [`crate::server::auth::Config`].
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/users").route(web::get().to(list_users)).route(web::post().to(add_user)))
        .service(web::resource("/v1/users/{name}").route(web::patch().to(change_user)))
        .service(web::resource("/v1/users/{name}/link").route(web::post().to(make_link)))
        .service(web::resource("/v1/keys").route(web::get().to(list_keys)).route(web::post().to(create_key)))
        .service(web::resource("/v1/keys/{id}").route(web::delete().to(revoke_key)));
}

/// Not `Debug`, because of the password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    name: String,
    role: Role,
    password: Option<String>,
}

/// A user, and the path of the one-time link that lets them in if they have no password.
#[derive(Serialize)]
struct AddedUser {
    #[serde(flatten)]
    user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// Not `Debug`, because of the password.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangedUser {
    disabled: Option<bool>,
    role: Option<Role>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    name: String,
    role: Role,
}

/// A key with its secret, which is shown this once. Not `Debug`.
#[derive(Serialize)]
struct CreatedKey {
    #[serde(flatten)]
    about: Key,
    key: String,
}

async fn list_users(admin: Admin, store: web::Data<Store>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(json!({ "users": store.users(&admin.tenant).await? })))
}

async fn add_user(
    admin: Admin,
    new: web::Json<NewUser>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let NewUser { name, role, password } = new.into_inner();
    refuse_machines(Some(role))?;
    let password_hash = hash(password).await?;
    let user = store.add_user(&admin.tenant, &name, role, password_hash.as_deref()).await?;
    info!(tenant = admin.tenant, by = admin.name, user = name, %role, "user added");
    let link = match password_hash {
        Some(_) => None,
        None => Some(link_path(&store.create_link(&admin.tenant, &name, Duration::hours(LINK_HOURS)).await?)),
    };
    Ok(HttpResponse::Created().json(AddedUser { user, link }))
}

/// A machine has a key and no pages.
fn refuse_machines(role: Option<Role>) -> Result<(), ApiError> {
    match role {
        Some(Role::Ingest) => {
            Err(ApiError::invalid("role", "ingest is for keys: people are agent, supervisor or admin"))
        }
        _ => Ok(()),
    }
}

async fn change_user(
    admin: Admin,
    name: web::Path<String>,
    change: web::Json<ChangedUser>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let ChangedUser { disabled, role, password } = change.into_inner();
    refuse_machines(role)?;
    let change = UserChange { disabled, role, password_hash: hash(password).await? };
    let user = store.change_user(&admin.tenant, &name, change).await?;
    info!(tenant = admin.tenant, by = admin.name, user = user.name, role = %user.role, disabled = user.disabled, "user changed");
    Ok(HttpResponse::Ok().json(user))
}

async fn make_link(
    admin: Admin,
    name: web::Path<String>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    if store.user(&admin.tenant, &name).await?.disabled {
        return Err(ApiError::Conflict(format!("{name} is disabled: enable the user first")));
    }
    let token = store.create_link(&admin.tenant, &name, Duration::hours(LINK_HOURS)).await?;
    info!(tenant = admin.tenant, by = admin.name, user = %name, "link made");
    Ok(HttpResponse::Created().json(json!({ "link": link_path(&token) })))
}

async fn list_keys(admin: Admin, store: web::Data<Store>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(json!({ "keys": store.keys(&admin.tenant).await? })))
}

async fn create_key(
    admin: Admin,
    new: web::Json<NewKey>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let (about, key) = store.create_key(&admin.tenant, &new.name, new.role).await?;
    info!(tenant = admin.tenant, by = admin.name, key = about.id, role = %about.role, "key created");
    Ok(HttpResponse::Created().json(CreatedKey { about, key: key.reveal().to_owned() }))
}

async fn revoke_key(
    admin: Admin,
    id: web::Path<String>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    store.revoke_key(&admin.tenant, &id).await?;
    info!(tenant = admin.tenant, by = admin.name, key = %id, "key revoked");
    Ok(HttpResponse::NoContent().finish())
}

/// Returns where a one-time link leads on this server.
pub fn link_path(token: &Secret) -> String {
    format!("/sign-in/{}", token.reveal())
}

/// Hashes off the worker thread, which other requests wait for.
async fn hash(password: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(password) = password else { return Ok(None) };
    let hash = web::block(move || password::hash(&password)).await.map_err(ApiError::internal)?;
    Ok(Some(hash.map_err(crate::store::identity::UserError::from)?))
}
