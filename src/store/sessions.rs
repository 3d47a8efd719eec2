//! One-time links and sessions. Every look-up asks the database, so that disabling a user counts
//! at once, whichever process did it.

use chrono::Duration;
use chrono::Utc;
use sqlx::Row;

use crate::store::Store;
use crate::store::identity::Credential;
use crate::store::identity::Identity;
use crate::store::identity::USE_NOTED_EVERY_S;
use crate::store::identity::UserError;
use crate::store::identity::identity_of;
use crate::store::identity::time_of;
use crate::store::identity::time_text;
use crate::store::secret::Secret;

/// How long a session lasts without a request, in hours. Every use extends it.
pub const SESSION_IDLE_HOURS: i64 = 12;
/// How long a session lasts at most, in days.
pub const SESSION_MAX_DAYS: i64 = 30;

impl Store {
    /// Makes a link token that lets the user in once. It replaces the user's older ones.
    ///
    /// # Errors
    /// When there is no such user.
    pub async fn create_link(
        &self,
        tenant: &str,
        name: &str,
        lifetime: Duration,
    ) -> Result<Secret, UserError> {
        self.user(tenant, name).await?;
        let token = Secret::random("");
        let now = Utc::now();
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM sign_in_links WHERE (tenant = $1 AND name = $2) OR expires_at <= $3")
            .bind(tenant)
            .bind(name)
            .bind(time_text(now))
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "INSERT INTO sign_in_links (token_hash, tenant, name, expires_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(token.hash())
        .bind(tenant)
        .bind(name)
        .bind(time_text(now + lifetime))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(token)
    }

    /// Uses a link up. Returns tenant and name if it worked: one statement, so only once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn use_link(&self, token: &Secret) -> Result<Option<(String, String)>, UserError> {
        let row = sqlx::query(
            "DELETE FROM sign_in_links WHERE token_hash = $1 AND expires_at > $2
               AND EXISTS (SELECT 1 FROM users WHERE users.tenant = sign_in_links.tenant
                             AND users.name = sign_in_links.name AND users.disabled = FALSE)
             RETURNING tenant, name",
        )
        .bind(token.hash())
        .bind(time_text(Utc::now()))
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Ok::<_, sqlx::Error>((row.try_get("tenant")?, row.try_get("name")?))).transpose()?)
    }

    /// Opens a session of the user and returns its token.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_session(
        &self,
        tenant: &str,
        name: &str,
        lifetime: Duration,
    ) -> Result<Secret, UserError> {
        let token = Secret::random("");
        let now = Utc::now();
        sqlx::query("DELETE FROM sessions WHERE expires_at <= $1")
            .bind(time_text(now))
            .execute(&self.pool)
            .await?;
        sqlx::query(
            "INSERT INTO sessions (token_hash, tenant, name, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(token.hash())
        .bind(tenant)
        .bind(name)
        .bind(time_text(now))
        .bind(time_text(now + lifetime))
        .execute(&self.pool)
        .await?;
        Ok(token)
    }

    /// Returns who holds the session, and extends it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn session_identity(&self, token: &Secret) -> Result<Option<Identity>, UserError> {
        let token_hash = token.hash();
        let now = Utc::now();
        let row = sqlx::query(
            "SELECT users.tenant, users.name, users.role, sessions.created_at, sessions.expires_at
             FROM sessions JOIN users ON users.tenant = sessions.tenant AND users.name = sessions.name
             WHERE sessions.token_hash = $1 AND sessions.expires_at > $2 AND users.disabled = FALSE",
        )
        .bind(&token_hash)
        .bind(time_text(now))
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let latest = time_of(&row, "created_at")? + Duration::days(SESSION_MAX_DAYS);
        let extended = (now + Duration::hours(SESSION_IDLE_HOURS)).min(latest);
        if extended - time_of(&row, "expires_at")? > Duration::seconds(USE_NOTED_EVERY_S) {
            sqlx::query("UPDATE sessions SET expires_at = $2 WHERE token_hash = $1")
                .bind(&token_hash)
                .bind(time_text(extended))
                .execute(&self.pool)
                .await?;
        }
        Ok(Some(identity_of(&row, Credential::Session(token_hash))?))
    }

    /// Ends a session. Ending one that is not there changes nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn close_session(&self, token: &Secret) -> Result<(), UserError> {
        sqlx::query("DELETE FROM sessions WHERE token_hash = $1")
            .bind(token.hash())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Returns whether who came in with this credential would still come in, with the same role.
    /// A socket that lives for hours asks this with each ping.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn still_stands(&self, identity: &Identity) -> Result<bool, UserError> {
        let row = match &identity.credential {
            Credential::Session(token_hash) => {
                sqlx::query(
                    "SELECT 1 FROM sessions
                     JOIN users ON users.tenant = sessions.tenant AND users.name = sessions.name
                     WHERE sessions.token_hash = $1 AND users.role = $2 AND users.disabled = FALSE
                       AND sessions.expires_at > $3",
                )
                .bind(token_hash)
                .bind(identity.role.as_str())
                .bind(time_text(Utc::now()))
                .fetch_optional(&self.pool)
                .await?
            }
            Credential::Key(id) => {
                sqlx::query("SELECT 1 FROM machine_keys WHERE id = $1 AND revoked = FALSE")
                    .bind(id)
                    .fetch_optional(&self.pool)
                    .await?
            }
        };
        Ok(row.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::identity::Role;

    /// Returns in how many minutes a session ends that is used now, was opened `age` ago and would
    /// have ended in five minutes.
    async fn minutes_left_after_use(age: Duration) -> i64 {
        let folder = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(&folder.path().join("test.sqlite")).await.expect("a store");
        store.add_user("main", "alice", Role::Agent, None).await.expect("a user");
        let token = store.open_session("main", "alice", Duration::minutes(5)).await.expect("a session");
        sqlx::query("UPDATE sessions SET created_at = $1")
            .bind(time_text(Utc::now() - age))
            .execute(&store.pool)
            .await
            .expect("an older session");
        store.session_identity(&token).await.expect("an answer").expect("an identity");
        let row = sqlx::query("SELECT expires_at FROM sessions").fetch_one(&store.pool).await.expect("a row");
        let left = time_of(&row, "expires_at").expect("a time") - Utc::now();
        // Rounded up, so that the moment since the use does not count.
        left.num_minutes() + 1
    }

    #[tokio::test]
    async fn use_extends_a_session_but_not_beyond_its_longest_life() {
        assert_eq!(minutes_left_after_use(Duration::zero()).await, SESSION_IDLE_HOURS * 60);
        let nearly_over = Duration::days(SESSION_MAX_DAYS) - Duration::minutes(30);
        assert_eq!(minutes_left_after_use(nearly_over).await, 30);
    }
}
