//! The one task that writes to the event log, with group commit.
//!
//! It takes what is queued, writes all of it in one transaction and answers every sender only
//! after the commit is on disk: under load a commit's cost is shared by the calls that wait for it.

use tokio::sync::mpsc;
use tokio::sync::oneshot;

use super::StoreError;
use super::calls::CallRecord;
use super::calls::timestamp;
use super::cards::CardUse;
use super::cards::count_card;
use crate::event::CallKey;
use crate::event::Envelope;
use crate::event::Event;
use sqlx::sqlite::SqliteConnection;
use sqlx::sqlite::SqlitePool;

/// How many appends may wait for the writer. Overflow rule: senders wait, and so do their sockets.
const QUEUE: usize = 1024;

/// How many appends share one transaction at most: a commit must not grow slow for the first of them.
const BATCH: usize = 256;

/// What one call adds to its log: all of it becomes durable together, or nothing.
#[derive(Debug)]
pub struct Append {
    /// The call.
    pub key: CallKey,
    /// The call's fold after these events.
    pub record: CallRecord,
    /// The settled envelopes, numbered from the last durable one on.
    pub events: Vec<Entry>,
}

/// One settled envelope on its way to the log.
#[derive(Debug)]
pub struct Entry {
    /// What happened.
    pub envelope: Envelope,
    /// The sender's number, on segments only.
    pub ingest_seq: Option<u64>,
}

pub(super) struct Request {
    append: Append,
    done: oneshot::Sender<Result<Vec<Entry>, StoreError>>,
}

/// The sending half of the writer's queue.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Request>,
}

impl Writer {
    /// Starts the task on the current runtime; it ends when the last clone of the writer is gone.
    pub(super) fn start(pool: SqlitePool) -> Writer {
        let (queue, requests) = mpsc::channel(QUEUE);
        tokio::spawn(run(pool, requests));
        Writer { queue }
    }

    /// Returns the entries when they are on disk.
    pub(super) async fn append(&self, append: Append) -> Result<Vec<Entry>, StoreError> {
        let (done, answer) = oneshot::channel();
        self.queue.send(Request { append, done }).await.map_err(|_| StoreError::Stopped)?;
        answer.await.map_err(|_| StoreError::Stopped)?
    }

    /// Returns how many appends wait.
    pub(super) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }
}

async fn run(pool: SqlitePool, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        match write(&pool, &batch).await {
            Ok(()) => {
                for request in batch.drain(..) {
                    // The call may be gone; its events are on disk all the same.
                    let _ = request.done.send(Ok(request.append.events));
                }
            }
            // One bad append must not cost the others theirs: try each alone.
            Err(error) if batch.len() > 1 => {
                tracing::warn!(appends = batch.len(), %error, "batch refused, writing one by one");
                for request in batch.drain(..) {
                    let outcome = write(&pool, std::slice::from_ref(&request)).await;
                    let _ = request.done.send(outcome.map(|()| request.append.events));
                }
            }
            Err(error) => {
                if let Some(request) = batch.pop() {
                    let _ = request.done.send(Err(error));
                }
            }
        }
    }
}

/// Writes all of `batch` in one transaction.
async fn write(pool: &SqlitePool, batch: &[Request]) -> Result<(), StoreError> {
    let mut transaction = pool.begin().await?;
    for request in batch {
        write_one(&mut transaction, &request.append).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn write_one(connection: &mut SqliteConnection, append: &Append) -> Result<(), StoreError> {
    let CallKey { tenant, call } = &append.key;
    let record = &append.record;
    sqlx::query(
        "INSERT INTO calls (tenant, call, agent, customer, state, started_at, seq, resume_after, record)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (tenant, call) DO UPDATE SET
             state = excluded.state, seq = excluded.seq, resume_after = excluded.resume_after,
             record = excluded.record",
    )
    .bind(tenant)
    .bind(call.as_str())
    .bind(&record.agent)
    .bind(&record.customer)
    .bind(record.state.as_str())
    .bind(timestamp(record.started_at))
    .bind(record.seq as i64)
    .bind(record.resume_after as i64)
    .bind(serde_json::to_string(record)?)
    .execute(&mut *connection)
    .await?;
    for Entry { envelope, ingest_seq } in &append.events {
        sqlx::query(
            "INSERT INTO events (tenant, call, seq, at, type, body, ingest_seq, folded)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(tenant)
        .bind(call.as_str())
        .bind(envelope.seq as i64)
        .bind(timestamp(envelope.at))
        .bind(envelope.event.name())
        .bind(serde_json::to_string(&envelope.event)?)
        .bind(ingest_seq.map(|seq| seq as i64))
        .bind(folded(&envelope.event))
        .execute(&mut *connection)
        .await?;
        if let Event::Cards { cards, .. } = &envelope.event {
            for card in cards {
                count_card(connection, tenant, card, CardUse { pushed: 1, ..CardUse::default() }).await?;
            }
        }
    }
    Ok(())
}

/// Returns the text by which a call is found.
fn folded(event: &Event) -> Option<String> {
    match event {
        Event::Segment(segment) => Some(segment.text.to_lowercase()),
        _ => None,
    }
}
