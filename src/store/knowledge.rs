//! Knowledge bases and their articles, stored by content. The search index is derived from this.
//!
//! A version is a list of references to contents, so a new one copies references, never bodies.
//! It is `building` until its index stands, then `active`, then `retired`; one is active at a time.

use chrono::Utc;
use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;
use sqlx::Row;
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

impl StoredArticle {
    /// Names the content, apart from the id.
    pub(super) fn hash(&self) -> String {
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
