//! What became of the cards that calls pushed: counted for each article, for those who keep them.

use chrono::Utc;
use sqlx::sqlite::SqliteConnection;

use super::Store;
use super::StoreError;
use super::calls::timestamp;
use crate::event::CallKey;
use crate::event::Card;
use crate::event::Event;

/// What happened to a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CardUse {
    /// It was pushed to an agent.
    Pushed,
    /// The agent called it useful.
    Useful,
    /// The agent called it wrong.
    Wrong,
}

impl Store {
    /// Notes whether a card that the call pushed was useful to a user, whose first answer counts.
    /// Returns whether the call pushed such a card.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn judge_card(
        &self,
        key: &CallKey,
        card: &str,
        user: &str,
        is_useful: bool,
    ) -> Result<bool, StoreError> {
        let Some(pushed) = self.pushed_card(key, card).await? else { return Ok(false) };
        let mut transaction = self.pool.begin().await?;
        let noted = sqlx::query(
            "INSERT INTO card_feedback (tenant, call, card, user_name, useful, at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, call, card, user_name) DO NOTHING",
        )
        .bind(&key.tenant)
        .bind(key.call.as_str())
        .bind(card)
        .bind(user)
        .bind(i64::from(is_useful))
        .bind(timestamp(Utc::now()))
        .execute(&mut *transaction)
        .await?;
        if noted.rows_affected() == 1 {
            let what = if is_useful { CardUse::Useful } else { CardUse::Wrong };
            count_card(&mut transaction, &key.tenant, &pushed, what).await?;
        }
        transaction.commit().await?;
        Ok(true)
    }

    /// Returns the card of this id that the call pushed.
    async fn pushed_card(&self, key: &CallKey, card: &str) -> Result<Option<Card>, StoreError> {
        let bodies: Vec<String> = sqlx::query_scalar(
            "SELECT body FROM events WHERE tenant = $1 AND call = $2 AND type = 'cards' ORDER BY seq",
        )
        .bind(&key.tenant)
        .bind(key.call.as_str())
        .fetch_all(&self.pool)
        .await?;
        for body in bodies {
            if let Event::Cards { cards, .. } = serde_json::from_str(&body)?
                && let Some(found) = cards.into_iter().find(|pushed| pushed.id == card)
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// Counts what happened to a card of an article.
pub(super) async fn count_card(
    connection: &mut SqliteConnection,
    tenant: &str,
    card: &Card,
    what: CardUse,
) -> Result<(), StoreError> {
    let one_if = |which: CardUse| i64::from(what == which);
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
    .bind(one_if(CardUse::Pushed))
    .bind(one_if(CardUse::Useful))
    .bind(one_if(CardUse::Wrong))
    .execute(connection)
    .await?;
    Ok(())
}
