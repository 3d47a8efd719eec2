//! The event log: append durably, read after a number.

use chrono::DateTime;
use chrono::Utc;
use sqlx::Row;

use super::Store;
use super::StoreError;
use super::writer::Append;
use super::writer::Entry;
use crate::event::CallKey;
use crate::event::Envelope;
use crate::event::Event;

impl Store {
    /// Writes a call's new events and its fold; returns the events when they are on disk.
    ///
    /// # Errors
    /// When the database refuses or is gone: nothing of the append is durable then.
    pub async fn append(&self, append: Append) -> Result<Vec<Entry>, StoreError> {
        self.writer.append(append).await
    }

    /// Returns how many appends wait for the writer.
    pub fn appends_waiting(&self) -> usize {
        self.writer.waiting()
    }

    /// Returns up to `limit` settled envelopes of a call that come after number `after`, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_after(
        &self,
        key: &CallKey,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Envelope>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, at, body FROM events
             WHERE tenant = $1 AND call = $2 AND seq > $3 ORDER BY seq LIMIT $4",
        )
        .bind(&key.tenant)
        .bind(key.call.as_str())
        .bind(i64::try_from(after).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let mut envelopes = Vec::with_capacity(rows.len());
        for row in rows {
            let at: DateTime<Utc> = row
                .try_get::<String, _>("at")?
                .parse()
                .map_err(|_| StoreError::Damaged { key: key.clone(), what: "event time" })?;
            let event: Event = serde_json::from_str(&row.try_get::<String, _>("body")?)?;
            envelopes.push(Envelope {
                call: key.call.clone(),
                seq: row.try_get::<i64, _>("seq")? as u64,
                at,
                tentative: false,
                event,
            });
        }
        Ok(envelopes)
    }

    /// Returns the senders' numbers of a call's logged segments.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ingest_seqs(&self, key: &CallKey) -> Result<Vec<u64>, StoreError> {
        let seqs: Vec<i64> = sqlx::query_scalar(
            "SELECT ingest_seq FROM events
             WHERE tenant = $1 AND call = $2 AND ingest_seq IS NOT NULL ORDER BY ingest_seq",
        )
        .bind(&key.tenant)
        .bind(key.call.as_str())
        .fetch_all(&self.pool)
        .await?;
        Ok(seqs.into_iter().map(|seq| seq as u64).collect())
    }
}
