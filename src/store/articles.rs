//! Reading the articles of a base's active version: one, or a page of a list.

use serde::Serialize;
use sqlx::Row;

use crate::store::Store;
use crate::store::StoreError;
use crate::store::knowledge::StoredArticle;
use crate::store::knowledge::count;
use crate::store::knowledge::stored_article;

/// An article in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArticleHead {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its shelf.
    pub category: Option<String>,
    /// When its author last changed it, as written.
    pub updated: Option<String>,
    /// How often its cards were pushed to agents.
    pub pushed: u64,
    /// How often an agent called one useful.
    pub useful: u64,
    /// How often an agent called one wrong.
    pub wrong: u64,
}

impl Store {
    /// Returns one article of the active version.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn article(
        &self,
        tenant: &str,
        base: &str,
        article: &str,
    ) -> Result<Option<StoredArticle>, StoreError> {
        let row = sqlx::query(
            "SELECT a.article, c.title, c.category, c.updated, c.format, c.body
             FROM knowledge_bases b
             JOIN knowledge_articles a ON a.tenant = b.tenant AND a.base = b.base AND a.version = b.active_version
             JOIN knowledge_contents c ON c.tenant = a.tenant AND c.hash = a.hash
             WHERE b.tenant = $1 AND b.base = $2 AND a.article = $3",
        )
        .bind(tenant)
        .bind(base)
        .bind(article)
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(stored_article).transpose()
    }

    /// Returns up to `limit` articles of the active version after the id `after`, by id, whose
    /// title, id, category or text holds `text`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn articles(
        &self,
        tenant: &str,
        base: &str,
        text: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ArticleHead>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.article, c.title, c.category, c.updated, COALESCE(n.pushed, 0) AS pushed,
                    COALESCE(n.useful, 0) AS useful, COALESCE(n.wrong, 0) AS wrong
             FROM knowledge_bases b
             JOIN knowledge_articles a ON a.tenant = b.tenant AND a.base = b.base AND a.version = b.active_version
             JOIN knowledge_contents c ON c.tenant = a.tenant AND c.hash = a.hash
             LEFT JOIN knowledge_card_counts n ON n.tenant = a.tenant AND n.base = a.base AND n.article = a.article
             WHERE b.tenant = $1 AND b.base = $2 AND a.article > $3
               AND (LOWER(c.title) LIKE $4 ESCAPE '!' OR LOWER(a.article) LIKE $4 ESCAPE '!'
                    OR LOWER(COALESCE(c.category, '')) LIKE $4 ESCAPE '!' OR LOWER(c.body) LIKE $4 ESCAPE '!')
             ORDER BY a.article LIMIT $5",
        )
        .bind(tenant)
        .bind(base)
        .bind(after)
        .bind(contains_pattern(text))
        .bind(limit as i64)
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ArticleHead {
                    id: row.try_get("article")?,
                    title: row.try_get("title")?,
                    category: row.try_get("category")?,
                    updated: row.try_get("updated")?,
                    pushed: count(row, "pushed")?,
                    useful: count(row, "useful")?,
                    wrong: count(row, "wrong")?,
                })
            })
            .collect()
    }
}

/// Returns the LIKE pattern for texts that hold `text`, in lower case, with `!` as escape.
fn contains_pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for character in text.to_lowercase().chars() {
        if matches!(character, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(character);
    }
    pattern.push('%');
    pattern
}
