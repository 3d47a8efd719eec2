//! Knowledge bases: versions of articles by content. The search index is derived from this.
//!
//! A version is a list of references to contents, so a new one copies references, never bodies.
//! It is `building` until its index stands, then `active`, then `retired`; one is active at a time.

use std::collections::BTreeMap;

use chrono::Utc;
use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::Transaction;
use sqlx::sqlite::SqliteRow;

use crate::store::Store;
use crate::store::StoreError;

/// A knowledge base with its active version's size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// BCP 47 language tag.
    pub language: String,
    /// The version that is searched; none before the first import.
    pub version: Option<u64>,
    /// How many articles that has.
    pub articles: u64,
    /// How many passages that has.
    pub passages: u64,
}

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

/// An article as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredArticle {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its shelf.
    pub category: Option<String>,
    /// When its author last changed it, as written.
    pub updated: Option<String>,
    /// `markdown` or `text`.
    pub format: String,
    /// Its text.
    pub body: String,
}

/// How a version differs from the active one.
#[derive(Debug, Clone, Default)]
pub struct ArticleChanges {
    /// Articles that are new or replace those of the same id.
    pub put: Vec<StoredArticle>,
    /// Ids of articles that are left out.
    pub delete: Vec<String>,
}

impl StoredArticle {
    /// Names the content, apart from the id.
    fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let none = String::new();
        let fields = [
            &self.title,
            self.category.as_ref().unwrap_or(&none),
            self.updated.as_ref().unwrap_or(&none),
            &self.format,
            &self.body,
        ];
        for field in fields {
            hasher.update((field.len() as u64).to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hex::encode(hasher.finalize())
    }
}

impl Store {
    /// Creates a base or changes its title and language; returns whether it is new.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_base(
        &self,
        tenant: &str,
        base: &str,
        title: &str,
        language: &str,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let existed = sqlx::query("SELECT 1 FROM knowledge_bases WHERE tenant = $1 AND base = $2")
            .bind(tenant)
            .bind(base)
            .fetch_optional(&mut *transaction)
            .await?
            .is_some();
        sqlx::query(
            "INSERT INTO knowledge_bases (tenant, base, title, language, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant, base) DO UPDATE SET title = excluded.title, language = excluded.language",
        )
        .bind(tenant)
        .bind(base)
        .bind(title)
        .bind(language)
        .bind(now())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(!existed)
    }

    /// Returns the tenant's bases by id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn bases(&self, tenant: &str) -> Result<Vec<Base>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.base, b.title, b.language, b.active_version,
                    COALESCE(v.articles, 0) AS articles, COALESCE(v.passages, 0) AS passages
             FROM knowledge_bases b
             LEFT JOIN knowledge_versions v
               ON v.tenant = b.tenant AND v.base = b.base AND v.version = b.active_version
             WHERE b.tenant = $1 ORDER BY b.base",
        )
        .bind(tenant)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Base {
                    id: row.try_get("base")?,
                    title: row.try_get("title")?,
                    language: row.try_get("language")?,
                    version: row.try_get::<Option<i64>, _>("active_version")?.map(|version| version as u64),
                    articles: count(row, "articles")?,
                    passages: count(row, "passages")?,
                })
            })
            .collect()
    }

    /// Returns one base.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn base(&self, tenant: &str, base: &str) -> Result<Option<Base>, StoreError> {
        Ok(self.bases(tenant).await?.into_iter().find(|found| found.id == base))
    }

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

pub(super) fn stored_article(row: &SqliteRow) -> Result<StoredArticle, StoreError> {
    Ok(StoredArticle {
        id: row.try_get("article")?,
        title: row.try_get("title")?,
        category: row.try_get("category")?,
        updated: row.try_get("updated")?,
        format: row.try_get("format")?,
        body: row.try_get("body")?,
    })
}

pub(super) fn count(row: &SqliteRow, column: &str) -> Result<u64, StoreError> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or_default())
}

pub(super) fn now() -> String {
    Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
