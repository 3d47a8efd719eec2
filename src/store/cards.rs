//! What became of the cards that calls pushed: counted for each article, for those who keep them.

use chrono::Utc;
use sqlx::sqlite::SqliteConnection;

use super::Store;
use super::StoreError;
use super::calls::timestamp;
use crate::event::CallKey;
use crate::event::Card;
use crate::event::Event;

/// By how much the counts of a card's article change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CardUse {
    /// How often it was pushed to an agent.
    pub pushed: i64,
    /// How many agents call it useful.
    pub useful: i64,
    /// How many agents call it wrong.
    pub wrong: i64,
}

/// Which card of a call somebody speaks of.
#[derive(Debug, Clone, Copy)]
pub struct CardName<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its base; the first card of this id when missing.
    pub base: Option<&'a str>,
}

impl Store {
    /// Notes whether a card that the call pushed was useful to a user, whose latest answer counts;
    /// `None` takes the answer back. Returns whether the call pushed such a card.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn judge_card(
        &self,
        key: &CallKey,
        card: CardName<'_>,
        user: &str,
        is_useful: Option<bool>,
    ) -> Result<bool, StoreError> {
        let Some(pushed) = self.pushed_card(key, card).await? else { return Ok(false) };
        let card = format!("{}/{}", pushed.base, pushed.id);
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let before: Option<i64> = sqlx::query_scalar(
            "DELETE FROM card_feedback WHERE tenant = $1 AND call = $2 AND card = $3 AND user_name = $4
             RETURNING useful",
        )
        .bind(&key.tenant)
        .bind(key.call.as_str())
        .bind(&card)
        .bind(user)
        .fetch_optional(&mut *transaction)
        .await?;
        if let Some(is_useful) = is_useful {
            sqlx::query(
                "INSERT INTO card_feedback (tenant, call, card, user_name, useful, at)
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(&key.tenant)
            .bind(key.call.as_str())
            .bind(&card)
            .bind(user)
            .bind(i64::from(is_useful))
            .bind(timestamp(Utc::now()))
            .execute(&mut *transaction)
            .await?;
        }
        let before = before.map(|useful| useful == 1);
        let change =
            |verdict: bool| i64::from(is_useful == Some(verdict)) - i64::from(before == Some(verdict));
        let change = CardUse { pushed: 0, useful: change(true), wrong: change(false) };
        count_card(&mut transaction, &key.tenant, &pushed, change).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Returns the card of this name that the call pushed.
    async fn pushed_card(&self, key: &CallKey, card: CardName<'_>) -> Result<Option<Card>, StoreError> {
        let is_meant =
            |pushed: &Card| pushed.id == card.id && card.base.is_none_or(|base| pushed.base == base);
        let bodies: Vec<String> = sqlx::query_scalar(
            "SELECT body FROM events WHERE tenant = $1 AND call = $2 AND type = 'cards' ORDER BY seq",
        )
        .bind(&key.tenant)
        .bind(key.call.as_str())
        .fetch_all(&self.pool)
        .await?;
        for body in bodies {
            if let Event::Cards { cards, .. } = serde_json::from_str(&body)?
                && let Some(found) = cards.into_iter().find(is_meant)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Counts what happened to a card, for its article.
pub(super) async fn count_card(
    connection: &mut SqliteConnection,
    tenant: &str,
    card: &Card,
    change: CardUse,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO knowledge_card_counts (tenant, base, article, pushed, useful, wrong)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (tenant, base, article) DO UPDATE SET
           pushed = knowledge_card_counts.pushed + excluded.pushed,
           useful = knowledge_card_counts.useful + excluded.useful,
           wrong = knowledge_card_counts.wrong + excluded.wrong",
    )
    .bind(tenant)
    .bind(&card.base)
    .bind(&card.article)
    .bind(change.pushed)
    .bind(change.useful)
    .bind(change.wrong)
    .execute(connection)
    .await?;
    Ok(())
}
