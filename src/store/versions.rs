//! Versions of a knowledge base: made, switched to, compared, dropped when they were never finished.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::Transaction;
use sqlx::sqlite::SqliteRow;

use crate::store::Store;
use crate::store::StoreError;
use crate::store::knowledge::StoredArticle;
use crate::store::knowledge::count;
use crate::store::knowledge::now;
use crate::store::knowledge::stored_article;

/// One version of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its number, from 1.
    pub version: u64,
    /// `building`, `active` or `retired`.
    pub state: String,
    /// What made it.
    pub reason: String,
    /// Names its content: equal digests mean equal articles.
    #[serde(skip)]
    pub digest: String,
    /// How many articles it has.
    pub articles: u64,
    /// How many passages it has.
    pub passages: u64,
    /// When it was made.
    pub created_at: String,
    /// How it differs from the version before; only in lists of versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Changes>,
}

/// How many articles differ between two versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Only in the later one.
    pub added: u64,
    /// In both, with another content.
    pub changed: u64,
    /// Only in the earlier one.
    pub removed: u64,
}

/// An active version, for opening the indexes at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveVersion {
    /// The tenant.
    pub tenant: String,
    /// The base.
    pub base: String,
    /// The version.
    pub version: u64,
    /// Its digest.
    pub digest: String,
}

/// How a version differs from the active one.
#[derive(Debug, Clone, Default)]
pub struct ArticleChanges {
    /// Articles that are new or replace those of the same id.
    pub put: Vec<StoredArticle>,
    /// Ids of articles that are left out.
    pub delete: Vec<String>,
}

impl Store {
    /// Returns the active version of every base of every tenant.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn active_versions(&self) -> Result<Vec<ActiveVersion>, StoreError> {
        let rows = sqlx::query(
            "SELECT tenant, base, version, digest FROM knowledge_versions WHERE state = 'active' ORDER BY tenant, base",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ActiveVersion {
                    tenant: row.try_get("tenant")?,
                    base: row.try_get("base")?,
                    version: count(row, "version")?,
                    digest: row.try_get("digest")?,
                })
            })
            .collect()
    }

    /// Returns the versions of a base, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn versions(&self, tenant: &str, base: &str) -> Result<Vec<Version>, StoreError> {
        let rows = sqlx::query(
            "SELECT version, state, reason, digest, articles, passages, created_at FROM knowledge_versions
             WHERE tenant = $1 AND base = $2 ORDER BY version DESC",
        )
        .bind(tenant)
        .bind(base)
        .fetch_all(&self.pool)
        .await?;
        let mut versions: Vec<Version> = rows.iter().map(version_of).collect::<Result<_, _>>()?;
        for at in 0..versions.len() {
            let before = versions.get(at + 1).map_or(0, |version| version.version);
            let changes = self.changes(tenant, base, before, versions[at].version).await?;
            versions[at].changes = Some(changes);
        }
        Ok(versions)
    }

    /// Counts how a version differs from another.
    async fn changes(&self, tenant: &str, base: &str, from: u64, to: u64) -> Result<Changes, StoreError> {
        let row = sqlx::query(
            "WITH old AS (SELECT article, hash FROM knowledge_articles
                          WHERE tenant = $1 AND base = $2 AND version = $3),
                  new AS (SELECT article, hash FROM knowledge_articles
                          WHERE tenant = $1 AND base = $2 AND version = $4)
             SELECT (SELECT COUNT(*) FROM new WHERE article NOT IN (SELECT article FROM old)) AS added,
                    (SELECT COUNT(*) FROM new JOIN old USING (article) WHERE new.hash <> old.hash) AS changed,
                    (SELECT COUNT(*) FROM old WHERE article NOT IN (SELECT article FROM new)) AS removed",
        )
        .bind(tenant)
        .bind(base)
        .bind(from as i64)
        .bind(to as i64)
        .fetch_one(&self.pool)
        .await?;
        Ok(Changes {
            added: count(&row, "added")?,
            changed: count(&row, "changed")?,
            removed: count(&row, "removed")?,
        })
    }

    /// Makes a version in state `building`: the active one with `changes`. If they change nothing,
    /// the active one is returned.
    ///
    /// # Errors
    /// When the database fails, as for a base that does not exist.
    pub async fn new_version(
        &self,
        tenant: &str,
        base: &str,
        reason: &str,
        changes: &ArticleChanges,
    ) -> Result<Version, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let mut hashes = active_hashes(&mut transaction, tenant, base).await?;
        for id in &changes.delete {
            hashes.remove(id);
        }
        for article in &changes.put {
            let hash = article.hash();
            insert_content(&mut transaction, tenant, &hash, article).await?;
            hashes.insert(article.id.clone(), hash);
        }
        let digest = digest(&hashes);
        let active = sqlx::query(
            "SELECT version, state, reason, digest, articles, passages, created_at FROM knowledge_versions
             WHERE tenant = $1 AND base = $2 AND state = 'active' AND digest = $3",
        )
        .bind(tenant)
        .bind(base)
        .bind(&digest)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(row) = active {
            return version_of(&row);
        }
        let version: i64 = sqlx::query(
            "SELECT COALESCE(MAX(version), 0) + 1 AS version FROM knowledge_versions WHERE tenant = $1 AND base = $2",
        )
        .bind(tenant)
        .bind(base)
        .fetch_one(&mut *transaction)
        .await?
        .try_get("version")?;
        let created_at = now();
        sqlx::query(
            "INSERT INTO knowledge_versions
               (tenant, base, version, state, reason, digest, articles, passages, created_at)
             VALUES ($1, $2, $3, 'building', $4, $5, $6, 0, $7)",
        )
        .bind(tenant)
        .bind(base)
        .bind(version)
        .bind(reason)
        .bind(&digest)
        .bind(hashes.len() as i64)
        .bind(&created_at)
        .execute(&mut *transaction)
        .await?;
        for (article, hash) in &hashes {
            sqlx::query(
                "INSERT INTO knowledge_articles (tenant, base, version, article, hash) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(tenant)
            .bind(base)
            .bind(version)
            .bind(article)
            .bind(hash)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(Version {
            version: version as u64,
            state: "building".to_owned(),
            reason: reason.to_owned(),
            digest,
            articles: hashes.len() as u64,
            passages: 0,
            created_at,
            changes: None,
        })
    }

    /// Makes a version the active one and retires the one before; returns whether it exists.
    ///
    /// # Errors
    /// When the database fails; then the old version stays active.
    pub async fn activate_version(
        &self,
        tenant: &str,
        base: &str,
        version: u64,
        passages: u64,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "UPDATE knowledge_versions SET state = 'retired' WHERE tenant = $1 AND base = $2 AND state = 'active'",
        )
        .bind(tenant)
        .bind(base)
        .execute(&mut *transaction)
        .await?;
        let changed = sqlx::query(
            "UPDATE knowledge_versions SET state = 'active', passages = $4
             WHERE tenant = $1 AND base = $2 AND version = $3",
        )
        .bind(tenant)
        .bind(base)
        .bind(version as i64)
        .bind(passages as i64)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 0 {
            return Ok(false);
        }
        sqlx::query("UPDATE knowledge_bases SET active_version = $3 WHERE tenant = $1 AND base = $2")
            .bind(tenant)
            .bind(base)
            .bind(version as i64)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Removes every version that was never finished.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn drop_unfinished_versions(&self) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "DELETE FROM knowledge_articles WHERE EXISTS
               (SELECT 1 FROM knowledge_versions v WHERE v.state = 'building' AND v.tenant = knowledge_articles.tenant
                AND v.base = knowledge_articles.base AND v.version = knowledge_articles.version)",
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM knowledge_versions WHERE state = 'building'")
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Returns every article of a version, by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn version_articles(
        &self,
        tenant: &str,
        base: &str,
        version: u64,
    ) -> Result<Vec<StoredArticle>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.article, c.title, c.category, c.updated, c.format, c.body
             FROM knowledge_articles a JOIN knowledge_contents c ON c.tenant = a.tenant AND c.hash = a.hash
             WHERE a.tenant = $1 AND a.base = $2 AND a.version = $3 ORDER BY a.article",
        )
        .bind(tenant)
        .bind(base)
        .bind(version as i64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stored_article).collect()
    }
}

async fn active_hashes(
    transaction: &mut Transaction<'_, Sqlite>,
    tenant: &str,
    base: &str,
) -> Result<BTreeMap<String, String>, StoreError> {
    let rows = sqlx::query(
        "SELECT a.article, a.hash FROM knowledge_bases b
         JOIN knowledge_articles a ON a.tenant = b.tenant AND a.base = b.base AND a.version = b.active_version
         WHERE b.tenant = $1 AND b.base = $2",
    )
    .bind(tenant)
    .bind(base)
    .fetch_all(&mut **transaction)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("article")?, row.try_get("hash")?))).collect()
}

async fn insert_content(
    transaction: &mut Transaction<'_, Sqlite>,
    tenant: &str,
    hash: &str,
    article: &StoredArticle,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO knowledge_contents (tenant, hash, title, category, updated, format, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant, hash) DO NOTHING",
    )
    .bind(tenant)
    .bind(hash)
    .bind(&article.title)
    .bind(&article.category)
    .bind(&article.updated)
    .bind(&article.format)
    .bind(&article.body)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn digest(hashes: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (article, hash) in hashes {
        hasher.update(format!("{article}\n{hash}\n"));
    }
    hex::encode(hasher.finalize())
}

fn version_of(row: &SqliteRow) -> Result<Version, StoreError> {
    Ok(Version {
        version: count(row, "version")?,
        state: row.try_get("state")?,
        reason: row.try_get("reason")?,
        digest: row.try_get("digest")?,
        articles: count(row, "articles")?,
        passages: count(row, "passages")?,
        created_at: row.try_get("created_at")?,
        changes: None,
    })
}
