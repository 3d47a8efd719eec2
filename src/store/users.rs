//! Tenants and the people who sign in.

use chrono::Duration;
use chrono::Utc;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::Store;
use crate::store::identity::Role;
use crate::store::identity::UserError;
use crate::store::identity::check_name;
use crate::store::identity::check_tenant;
use crate::store::identity::role_of;
use crate::store::identity::time_text;
use crate::store::secret::Secret;

/// How long a one-time link works, in hours.
pub const LINK_HOURS: i64 = 24;

/// The name of the user that the first start creates.
const FIRST_ADMIN: &str = "admin";
/// The users of the demo.
const DEMO_USERS: [(&str, Role); 3] =
    [("alice", Role::Agent), ("sam", Role::Supervisor), ("ada", Role::Admin)];
/// The key with which the demo feeds its own calls.
const DEMO_KEY: &str = "demo-replay";

/// A person who signs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Unique within the tenant.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// Whether the user is kept out.
    pub disabled: bool,
    /// Whether the user can sign in with a password, not only with a link.
    pub has_password: bool,
    /// When the user was added.
    pub created_at: String,
}

/// What an admin changes about a user; `None` leaves it.
#[derive(Debug, Default)]
pub struct UserChange {
    /// Keeps the user out, or lets them in again.
    pub disabled: Option<bool>,
    /// The new role.
    pub role: Option<Role>,
    /// The argon2id hash of the new password ([`crate::store::password::hash`]).
    pub password_hash: Option<String>,
}

/// What the demo hands to its visitor and to its own replays.
#[derive(Debug)]
pub struct DemoAccess {
    /// One one-time link token for each user.
    pub links: Vec<(&'static str, Role, Secret)>,
    /// A key of the role ingest.
    pub ingest_key: Secret,
}

impl Store {
    /// Adds the tenant unless it is there.
    ///
    /// # Errors
    /// When the name is not allowed or the database fails.
    pub async fn ensure_tenant(&self, tenant: &str) -> Result<(), UserError> {
        check_tenant(tenant)?;
        sqlx::query("INSERT INTO tenants (name, created_at) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(tenant)
            .bind(time_text(Utc::now()))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Adds a user, and the tenant if it is new. Without a password hash a link lets them in.
    ///
    /// # Errors
    /// When the name is not allowed or taken.
    pub async fn add_user(
        &self,
        tenant: &str,
        name: &str,
        role: Role,
        password_hash: Option<&str>,
    ) -> Result<User, UserError> {
        check_name(name)?;
        self.ensure_tenant(tenant).await?;
        let created_at = time_text(Utc::now());
        let added = sqlx::query(
            "INSERT INTO users (tenant, name, role, password_hash, disabled, created_at)
             VALUES ($1, $2, $3, $4, FALSE, $5) ON CONFLICT (tenant, name) DO NOTHING",
        )
        .bind(tenant)
        .bind(name)
        .bind(role.as_str())
        .bind(password_hash)
        .bind(&created_at)
        .execute(&self.pool)
        .await?;
        if added.rows_affected() == 0 {
            return Err(UserError::Exists(name.to_owned()));
        }
        Ok(User {
            name: name.to_owned(),
            role,
            disabled: false,
            has_password: password_hash.is_some(),
            created_at,
        })
    }

    /// Returns the users of the tenant by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn users(&self, tenant: &str) -> Result<Vec<User>, UserError> {
        let rows = sqlx::query(
            "SELECT name, role, disabled, password_hash IS NOT NULL AS has_password, created_at
             FROM users WHERE tenant = $1 ORDER BY name",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(user_of).collect()
    }

    /// Returns one user.
    ///
    /// # Errors
    /// When there is none of the name.
    pub async fn user(&self, tenant: &str, name: &str) -> Result<User, UserError> {
        let row = sqlx::query(
            "SELECT name, role, disabled, password_hash IS NOT NULL AS has_password, created_at
             FROM users WHERE tenant = $1 AND name = $2",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        user_of(&row.ok_or_else(|| UserError::NoUser(name.to_owned()))?)
    }

    /// Changes a user. Disabling and a new password end all sessions and links.
    ///
    /// # Errors
    /// When there is no such user, or no admin would be left.
    pub async fn change_user(&self, tenant: &str, name: &str, change: UserChange) -> Result<User, UserError> {
        let takes_admin =
            change.disabled == Some(true) || change.role.is_some_and(|role| role != Role::Admin);
        let mut transaction = self.pool.begin().await?;
        // The guard is in the statement, so that two admins cannot disable one another at once.
        let changed = sqlx::query(
            "UPDATE users SET disabled = COALESCE($3, disabled), role = COALESCE($4, role),
                    password_hash = COALESCE($5, password_hash)
             WHERE tenant = $1 AND name = $2
               AND NOT ($6 AND role = 'admin' AND disabled = FALSE AND NOT EXISTS (
                   SELECT 1 FROM users AS others WHERE others.tenant = $1 AND others.name <> $2
                     AND others.role = 'admin' AND others.disabled = FALSE))",
        )
        .bind(tenant)
        .bind(name)
        .bind(change.disabled)
        .bind(change.role.map(Role::as_str))
        .bind(&change.password_hash)
        .bind(takes_admin)
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            transaction.rollback().await?;
            self.user(tenant, name).await?;
            return Err(UserError::LastAdmin(name.to_owned()));
        }
        if change.disabled == Some(true) || change.password_hash.is_some() {
            for statement in [
                "DELETE FROM sessions WHERE tenant = $1 AND name = $2",
                "DELETE FROM sign_in_links WHERE tenant = $1 AND name = $2",
            ] {
                sqlx::query(statement).bind(tenant).bind(name).execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        self.user(tenant, name).await
    }

    /// Returns the stored hash of the user's password, if the user may come in and has one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn password_hash(&self, tenant: &str, name: &str) -> Result<Option<String>, UserError> {
        let row = sqlx::query(
            "SELECT password_hash FROM users WHERE tenant = $1 AND name = $2 AND disabled = FALSE",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| row.try_get("password_hash")).transpose()?.flatten())
    }

    /// Makes sure that the tenant has an admin. Returns the link token of a new one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ensure_admin(&self, tenant: &str) -> Result<Option<Secret>, UserError> {
        self.ensure_tenant(tenant).await?;
        let admins = sqlx::query("SELECT COUNT(*) AS count FROM users WHERE tenant = $1 AND role = 'admin'")
            .bind(tenant)
            .fetch_one(&self.pool)
            .await?;
        if admins.try_get::<i64, _>("count")? > 0 {
            return Ok(None);
        }
        self.add_user(tenant, FIRST_ADMIN, Role::Admin, None).await?;
        Ok(Some(self.create_link(tenant, FIRST_ADMIN, Duration::hours(LINK_HOURS)).await?))
    }

    /// Makes sure that the demo's users exist, and gives each a new link and the replays a new key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_demo(&self, tenant: &str) -> Result<DemoAccess, UserError> {
        let mut links = Vec::new();
        for (name, role) in DEMO_USERS {
            match self.add_user(tenant, name, role, None).await {
                Ok(_) | Err(UserError::Exists(_)) => {}
                Err(error) => return Err(error),
            }
            links.push((name, role, self.create_link(tenant, name, Duration::hours(LINK_HOURS)).await?));
        }
        // The key of the run before is of no use to anybody.
        sqlx::query("DELETE FROM machine_keys WHERE tenant = $1 AND name = $2")
            .bind(tenant)
            .bind(DEMO_KEY)
            .execute(&self.pool)
            .await?;
        let (_, ingest_key) = self.create_key(tenant, DEMO_KEY, Role::Ingest).await?;
        Ok(DemoAccess { links, ingest_key })
    }
}

fn user_of(row: &SqliteRow) -> Result<User, UserError> {
    Ok(User {
        name: row.try_get("name")?,
        role: role_of(row)?,
        disabled: row.try_get("disabled")?,
        has_password: row.try_get("has_password")?,
        created_at: row.try_get("created_at")?,
    })
}
