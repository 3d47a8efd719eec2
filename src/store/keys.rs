//! The keys of machines. Every look-up asks the database, so that a revocation counts at once.

use chrono::Duration;
use chrono::Utc;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::Store;
use crate::store::identity::Credential;
use crate::store::identity::Identity;
use crate::store::identity::NAME_MAX_BYTES;
use crate::store::identity::Role;
use crate::store::identity::USE_NOTED_EVERY_S;
use crate::store::identity::UserError;
use crate::store::identity::check_name;
use crate::store::identity::identity_of;
use crate::store::identity::role_of;
use crate::store::identity::time_text;
use crate::store::secret::Secret;

/// The key of a machine, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Names the key in the API; not secret.
    pub id: String,
    /// What the admin calls it.
    pub name: String,
    /// What the machine may do.
    pub role: Role,
    /// Whether it no longer works.
    pub revoked: bool,
    /// When it was made.
    pub created_at: String,
    /// When it was last used, to the minute.
    pub last_used_at: Option<String>,
}

impl Store {
    /// Makes a key, and the tenant if it is new. The key itself is returned this once.
    ///
    /// # Errors
    /// When the name is not allowed.
    pub async fn create_key(&self, tenant: &str, name: &str, role: Role) -> Result<(Key, Secret), UserError> {
        check_name(name)?;
        self.ensure_tenant(tenant).await?;
        let secret = Secret::random("cdlm_");
        let key = Key {
            id: format!("k-{}", hex::encode(rand::random::<[u8; 6]>())),
            name: name.to_owned(),
            role,
            revoked: false,
            created_at: time_text(Utc::now()),
            last_used_at: None,
        };
        sqlx::query(
            "INSERT INTO machine_keys (id, tenant, name, role, key_hash, revoked, created_at)
             VALUES ($1, $2, $3, $4, $5, FALSE, $6)",
        )
        .bind(&key.id)
        .bind(tenant)
        .bind(name)
        .bind(role.as_str())
        .bind(secret.hash())
        .bind(&key.created_at)
        .execute(&self.pool)
        .await?;
        Ok((key, secret))
    }

    /// Returns the keys of the tenant, the oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keys(&self, tenant: &str) -> Result<Vec<Key>, UserError> {
        let rows = sqlx::query(
            "SELECT id, name, role, revoked, created_at, last_used_at
             FROM machine_keys WHERE tenant = $1 ORDER BY created_at, id",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(key_of).collect()
    }

    /// Makes a key useless, at once.
    ///
    /// # Errors
    /// When the tenant has no such key.
    pub async fn revoke_key(&self, tenant: &str, id: &str) -> Result<(), UserError> {
        let revoked = sqlx::query("UPDATE machine_keys SET revoked = TRUE WHERE tenant = $1 AND id = $2")
            .bind(tenant)
            .bind(id)
            .execute(&self.pool)
            .await?;
        if revoked.rows_affected() == 0 {
            return Err(UserError::NoKey(id.chars().take(NAME_MAX_BYTES).collect()));
        }
        Ok(())
    }

    /// Returns what the key stands for, unless it is revoked, and notes its use.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn key_identity(&self, key: &Secret) -> Result<Option<Identity>, UserError> {
        let row = sqlx::query(
            "SELECT id, tenant, name, role, last_used_at FROM machine_keys
             WHERE key_hash = $1 AND revoked = FALSE",
        )
        .bind(key.hash())
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get("id")?;
        let now = Utc::now();
        let noted_before = time_text(now - Duration::seconds(USE_NOTED_EVERY_S));
        let last_used_at: Option<String> = row.try_get("last_used_at")?;
        if last_used_at.is_none_or(|at| at < noted_before) {
            sqlx::query("UPDATE machine_keys SET last_used_at = $2 WHERE id = $1")
                .bind(&id)
                .bind(time_text(now))
                .execute(&self.pool)
                .await?;
        }
        Ok(Some(identity_of(&row, Credential::Key(id))?))
    }
}

fn key_of(row: &SqliteRow) -> Result<Key, UserError> {
    Ok(Key {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: role_of(row)?,
        revoked: row.try_get("revoked")?,
        created_at: row.try_get("created_at")?,
        last_used_at: row.try_get("last_used_at")?,
    })
}
