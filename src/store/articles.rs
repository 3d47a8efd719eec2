//! The articles of a base's versions, and what became of their cards.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::store::Store;
use crate::store::StoreError;
use crate::store::knowledge::ArticleHead;
use crate::store::knowledge::CardFeedback;
use crate::store::knowledge::StoredArticle;
use crate::store::knowledge::count;

impl Store {
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
    /// title, id or category holds `text`.
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
                    OR LOWER(COALESCE(c.category, '')) LIKE $4 ESCAPE '!')
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

    /// Counts what happened to a card of `article`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn record_card_feedback(
        &self,
        tenant: &str,
        base: &str,
        article: &str,
        feedback: CardFeedback,
    ) -> Result<(), StoreError> {
        let one_if = |which: CardFeedback| i64::from(feedback == which);
        sqlx::query(
            "INSERT INTO knowledge_card_counts (tenant, base, article, pushed, useful, wrong)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (tenant, base, article) DO UPDATE SET
               pushed = knowledge_card_counts.pushed + excluded.pushed,
               useful = knowledge_card_counts.useful + excluded.useful,
               wrong = knowledge_card_counts.wrong + excluded.wrong",
        )
        .bind(tenant)
        .bind(base)
        .bind(article)
        .bind(one_if(CardFeedback::Pushed))
        .bind(one_if(CardFeedback::Useful))
        .bind(one_if(CardFeedback::Wrong))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn stored_article(row: &SqliteRow) -> Result<StoredArticle, StoreError> {
    Ok(StoredArticle {
        id: row.try_get("article")?,
        title: row.try_get("title")?,
        category: row.try_get("category")?,
        updated: row.try_get("updated")?,
        format: row.try_get("format")?,
        body: row.try_get("body")?,
    })
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
