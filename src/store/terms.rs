//! The sensitive terms of each tenant, as the JSON that the API shows. What the JSON means is the
//! monitor's knowledge, not the store's.

use chrono::Utc;
use sqlx::Row;

use crate::store::Store;
use crate::store::identity::UserError;
use crate::store::identity::time_text;

/// The lists of one tenant as they were last put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTerms {
    /// JSON.
    pub lists: String,
    /// Counts the changes, from 1.
    pub version: i64,
}

impl Store {
    /// Returns the lists of the tenant, if it has put any.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn terms(&self, tenant: &str) -> Result<Option<StoredTerms>, UserError> {
        let row = sqlx::query("SELECT lists, version FROM terms WHERE tenant = $1")
            .bind(tenant)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(StoredTerms { lists: row.try_get("lists")?, version: row.try_get("version")? }))
    }

    /// Replaces the lists of the tenant and returns their version; `None`, and nothing changes, when
    /// `expected` is given and is not the version of the old ones, 0 for none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_terms(
        &self,
        tenant: &str,
        lists: &str,
        expected: Option<i64>,
    ) -> Result<Option<i64>, UserError> {
        self.ensure_tenant(tenant).await?;
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let newest: Option<i64> = sqlx::query_scalar("SELECT version FROM terms WHERE tenant = $1")
            .bind(tenant)
            .fetch_optional(&mut *transaction)
            .await?;
        if expected.is_some_and(|expected| expected != newest.unwrap_or(0)) {
            return Ok(None);
        }
        let row = sqlx::query(
            "INSERT INTO terms (tenant, lists, version, updated_at) VALUES ($1, $2, 1, $3)
             ON CONFLICT (tenant) DO UPDATE
             SET lists = excluded.lists, version = terms.version + 1, updated_at = excluded.updated_at
             RETURNING version",
        )
        .bind(tenant)
        .bind(lists)
        .bind(time_text(Utc::now()))
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Some(row.try_get("version")?))
    }
}
