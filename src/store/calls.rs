//! Calls as lists, boards and resumes need them: one record each, the fold of its events.

use chrono::DateTime;
use chrono::SecondsFormat;
use chrono::Utc;
use serde::Deserialize;
use serde::Serialize;
use sqlx::QueryBuilder;
use sqlx::Row;

use super::Store;
use super::StoreError;
use crate::event::CallId;
use crate::event::CallKey;
use crate::event::Channel;
use crate::event::Emotion;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Speaker;
use crate::event::Trend;

/// How many of the latest valences a record keeps: the board's emotion line.
const VALENCES_KEPT: usize = 60;

/// Whether a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallPhase {
    /// It may be fed.
    Open,
    /// It was ended by its sender.
    Closed,
    /// Its sender was lost and did not come back in time.
    Interrupted,
}

impl CallPhase {
    /// Returns the word as the database and the interface write it.
    pub fn as_str(self) -> &'static str {
        match self {
            CallPhase::Open => "open",
            CallPhase::Closed => "closed",
            CallPhase::Interrupted => "interrupted",
        }
    }
}

/// What the customer feels now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmotionNow {
    /// The likeliest label of the last reading.
    pub label: Emotion,
    /// How pleasant, −1 to 1.
    pub valence: f32,
    /// Where it is going.
    pub trend: Trend,
}

/// How often things happened in a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCounts {
    /// Final segments.
    pub segments: u64,
    /// Sensitive terms and redactions.
    pub sensitive: u64,
    /// Alerts.
    pub alerts: u64,
    /// Cards pushed.
    pub cards: u64,
    /// Drafts that were finished.
    pub drafts: u64,
    /// Drafts that the agent used, as they were or edited.
    pub drafts_used: u64,
    /// Supervisors' notes.
    pub notes: u64,
}

/// One call: the fold of its settled events, and what its sender said of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Its name.
    pub call: CallId,
    /// The agent's user name.
    pub agent: String,
    /// The customer as the sender names them, redacted.
    pub customer: Option<String>,
    /// Voice or chat.
    pub channel: Channel,
    /// BCP 47 language tag.
    pub language: String,
    /// The knowledge bases that are searched.
    pub knowledge: Vec<String>,
    /// What the sender added, redacted.
    pub metadata: serde_json::Value,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether it goes on.
    pub state: CallPhase,
    /// Why it ended.
    pub reason: Option<String>,
    /// The last settled event's number.
    pub seq: u64,
    /// The highest sender's number that is durable; 0 before the first.
    pub resume_after: u64,
    /// The latest segment's end, in milliseconds from the call's start.
    pub duration_ms: u64,
    /// Who spoke last.
    pub last_speaker: Option<Speaker>,
    /// What was said last, redacted.
    pub last_text: Option<String>,
    /// What the customer feels now.
    pub emotion: Option<EmotionNow>,
    /// The latest valences, oldest first.
    pub valences: Vec<f32>,
    /// The latest alert's message.
    pub last_alert: Option<String>,
    /// What the agent wants of a supervisor, when the call is flagged.
    pub flag: Option<String>,
    /// How often things happened.
    pub counts: CallCounts,
}

impl CallRecord {
    /// Folds one settled envelope in, but for the counts of drafts, which need to know each draft.
    pub fn apply(&mut self, envelope: &Envelope) {
        self.seq = envelope.seq;
        match &envelope.event {
            Event::Segment(segment) => {
                self.counts.segments += 1;
                self.duration_ms = self.duration_ms.max(segment.end_ms);
                self.last_speaker = Some(segment.speaker);
                self.last_text = Some(segment.text.clone());
            }
            Event::Voice(voice) => self.duration_ms = self.duration_ms.max(voice.heard_ms),
            Event::Emotion { label, valence, trend, .. } => {
                self.emotion = Some(EmotionNow { label: *label, valence: *valence, trend: *trend });
                if self.valences.len() == VALENCES_KEPT {
                    self.valences.remove(0);
                }
                self.valences.push(*valence);
            }
            Event::Sensitive { .. } => self.counts.sensitive += 1,
            Event::Alert { kind, message, .. } => {
                self.counts.alerts += 1;
                self.last_alert = Some(message.clone());
                if kind == "flag" {
                    self.flag = Some(message.clone());
                }
            }
            Event::Cards { cards, .. } => self.counts.cards += cards.len() as u64,
            Event::Note { .. } => self.counts.notes += 1,
            Event::CallClosed { reason, .. } => {
                let is_interrupted = reason == INTERRUPTED;
                self.state = if is_interrupted { CallPhase::Interrupted } else { CallPhase::Closed };
                self.ended_at = Some(envelope.at);
                self.reason = Some(reason.clone());
            }
            Event::CallOpened { .. }
            | Event::Prosody { .. }
            | Event::SpeechRate { .. }
            | Event::Draft(_)
            | Event::DraftJudged { .. }
            | Event::Summary { .. } => {}
        }
    }
}

/// The reason of a call that was closed because its sender did not come back.
pub const INTERRUPTED: &str = "interrupted";

/// Which calls to list; every field narrows.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Only calls in this state.
    pub state: Option<CallPhase>,
    /// Only this agent's calls.
    pub agent: Option<String>,
    /// Only calls whose name, agent, customer or transcript contains this text.
    pub text: Option<String>,
    /// Only calls that began at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Only calls that began before this time.
    pub to: Option<DateTime<Utc>>,
    /// Only calls that come after this one in the list: its start and name.
    pub after: Option<(DateTime<Utc>, CallId)>,
}

impl Store {
    /// Returns one call's record.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn call(&self, key: &CallKey) -> Result<Option<CallRecord>, StoreError> {
        let record: Option<String> =
            sqlx::query_scalar("SELECT record FROM calls WHERE tenant = $1 AND call = $2")
                .bind(&key.tenant)
                .bind(key.call.as_str())
                .fetch_optional(&self.pool)
                .await?;
        Ok(record.map(|json| serde_json::from_str(&json)).transpose()?)
    }

    /// Returns up to `limit` of a tenant's calls, the latest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn calls(
        &self,
        tenant: &str,
        filter: &CallFilter,
        limit: u32,
    ) -> Result<Vec<CallRecord>, StoreError> {
        let mut query = QueryBuilder::new("SELECT record FROM calls WHERE tenant = ");
        query.push_bind(tenant.to_owned());
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str());
        }
        if let Some(agent) = &filter.agent {
            query.push(" AND agent = ").push_bind(agent.clone());
        }
        if let Some(from) = filter.from {
            query.push(" AND started_at >= ").push_bind(timestamp(from));
        }
        if let Some(to) = filter.to {
            query.push(" AND started_at < ").push_bind(timestamp(to));
        }
        if let Some((started_at, call)) = &filter.after {
            query.push(" AND (started_at < ").push_bind(timestamp(*started_at));
            query.push(" OR (started_at = ").push_bind(timestamp(*started_at));
            query.push(" AND call < ").push_bind(call.as_str().to_owned()).push("))");
        }
        if let Some(text) = &filter.text {
            let pattern = contains_pattern(text);
            for column in ["call", "agent", "customer"] {
                query.push(if column == "call" { " AND (" } else { " OR " });
                query.push("LOWER(").push(column).push(") LIKE ").push_bind(pattern.clone());
                query.push(" ESCAPE '!'");
            }
            query.push(
                " OR EXISTS (SELECT 1 FROM events WHERE events.tenant = calls.tenant
                  AND events.call = calls.call AND folded LIKE ",
            );
            query.push_bind(pattern).push(" ESCAPE '!'))");
        }
        query.push(" ORDER BY started_at DESC, call DESC LIMIT ").push_bind(i64::from(limit));
        let mut records = Vec::new();
        for row in query.build().fetch_all(&self.pool).await? {
            records.push(serde_json::from_str(&row.try_get::<String, _>("record")?)?);
        }
        Ok(records)
    }

    /// Returns every open call of every tenant.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_calls(&self) -> Result<Vec<CallKey>, StoreError> {
        let rows =
            sqlx::query("SELECT tenant, call FROM calls WHERE state = 'open'").fetch_all(&self.pool).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in rows {
            let tenant: String = row.try_get("tenant")?;
            match row.try_get::<String, _>("call")?.parse() {
                Ok(call) => keys.push(CallKey { tenant, call }),
                Err(error) => tracing::error!(%error, "stored call has no valid name"),
            }
        }
        Ok(keys)
    }
}

/// Returns a time as the tables hold it: fixed width, so that text order is time order.
pub(super) fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Returns the LIKE pattern, escaped with `!`, of texts that contain `text` in any case.
fn contains_pattern(text: &str) -> String {
    let mut pattern = String::from("%");
    for c in text.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
