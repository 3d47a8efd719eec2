//! Who makes a request: tenant, name, role; and what is common to users, sessions and keys.

use std::fmt;
use std::str::FromStr;

use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use serde::Deserialize;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::StoreError;
use crate::store::password::PasswordError;

/// The longest name of a user, a key or a tenant, in bytes.
pub const NAME_MAX_BYTES: usize = 64;
/// How often at most the use of a session or a key is written down, in seconds: a write for
/// each request would make the disk the limit of reading.
pub(super) const USE_NOTED_EVERY_S: i64 = 60;

/// What a user or a machine is to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees and works on the own calls.
    Agent,
    /// Sees and works on all calls of the tenant.
    Supervisor,
    /// Keeps knowledge, terms, users and keys.
    Admin,
    /// Opens and feeds calls; a machine.
    Ingest,
}

impl Role {
    /// Returns the role as the API and the database write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Agent => "agent",
            Role::Supervisor => "supervisor",
            Role::Admin => "admin",
            Role::Ingest => "ingest",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UserError;

    fn from_str(text: &str) -> Result<Role, UserError> {
        [Role::Agent, Role::Supervisor, Role::Admin, Role::Ingest]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UserError::Role(text.chars().take(NAME_MAX_BYTES).collect()))
    }
}

/// What a request came in with; asked again by long-lived sockets.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A browser's session, by the hash of its token.
    Session(String),
    /// A machine's key, by its id.
    Key(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Session(_) => f.write_str("Session(…)"),
            Credential::Key(id) => f.debug_tuple("Key").field(id).finish(),
        }
    }
}

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The tenant; nothing crosses it.
    pub tenant: String,
    /// The user's or the key's name.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// How they showed who they are.
    pub credential: Credential,
}

impl Identity {
    /// Returns whether calls answered by `agent` of the same tenant may be seen.
    pub fn sees_calls_of(&self, agent: &str) -> bool {
        match self.role {
            Role::Supervisor => true,
            Role::Agent => self.name == agent,
            Role::Admin | Role::Ingest => false,
        }
    }
}

/// Says why something about users or keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is empty, too long, or has other characters than these.
    #[error("name {0:?} must be 1 to {NAME_MAX_BYTES} of the characters A-Z a-z 0-9 . _ @ + -")]
    Name(String),
    /// No such role.
    #[error("role {0:?} must be agent, supervisor, admin or ingest")]
    Role(String),
    /// The password breaks the rule.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The tenant has a user of this name.
    #[error("there is already a user {0}")]
    Exists(String),
    /// The tenant has no user of this name.
    #[error("there is no user {0}")]
    NoUser(String),
    /// The tenant has no key of this id.
    #[error("there is no key {0}")]
    NoKey(String),
    /// The change would leave the tenant without an admin.
    #[error("{0} is the last admin: make another one first")]
    LastAdmin(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for UserError {
    fn from(error: sqlx::Error) -> UserError {
        UserError::Store(StoreError::Database(error))
    }
}

/// Refuses names that could not stand in a URL, a log line or a table cell.
pub(super) fn check_name(name: &str) -> Result<(), UserError> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._@+-".contains(c);
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(is_allowed) {
        return Err(UserError::Name(name.chars().take(NAME_MAX_BYTES).collect()));
    }
    Ok(())
}

/// Refuses names of tenants that could not name a folder or a file either.
///
/// # Errors
/// [`UserError::Name`].
pub fn check_tenant(name: &str) -> Result<(), UserError> {
    if name.contains(['@', '+']) {
        return Err(UserError::Name(name.chars().take(NAME_MAX_BYTES).collect()));
    }
    check_name(name)
}

/// Writes a time in one width, so that times compare as texts.
pub(super) fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

pub(super) fn time_of(row: &SqliteRow, column: &str) -> Result<DateTime<Utc>, UserError> {
    let text: String = row.try_get(column)?;
    DateTime::parse_from_rfc3339(&text)
        .map(|time| time.to_utc())
        .map_err(|error| sqlx::Error::Decode(Box::new(error)).into())
}

pub(super) fn role_of(row: &SqliteRow) -> Result<Role, UserError> {
    row.try_get::<String, _>("role")?.parse()
}

pub(super) fn identity_of(row: &SqliteRow, credential: Credential) -> Result<Identity, UserError> {
    Ok(Identity {
        tenant: row.try_get("tenant")?,
        name: row.try_get("name")?,
        role: role_of(row)?,
        credential,
    })
}
