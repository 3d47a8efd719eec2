//! What a replay measures: counts, and how long each kind of event took to arrive.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;

/// What is timed, from the moment a final segment was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// Until its sender knew it on disk.
    Ack,
    /// Until a watcher saw it.
    Segment,
    /// Until a watcher saw each sensitive term of it.
    Sensitive,
    /// Until a watcher saw the customer's emotion.
    Emotion,
    /// Until a watcher saw the cards that answer it.
    Cards,
    /// Until a watcher saw the first text of a draft, tentative or not.
    DraftFirst,
    /// Until a watcher saw the draft complete.
    DraftDone,
}

impl Latency {
    const ALL: [(Latency, &'static str); 7] = [
        (Latency::Ack, "ack"),
        (Latency::Segment, "segment"),
        (Latency::Sensitive, "sensitive"),
        (Latency::Emotion, "emotion"),
        (Latency::Cards, "cards"),
        (Latency::DraftFirst, "draft_first"),
        (Latency::DraftDone, "draft_done"),
    ];
}

/// The figures of one replay, shared by all of its calls.
#[derive(Debug, Default)]
pub struct Figures {
    /// Calls that were played to their end.
    pub calls: AtomicU64,
    /// Final segments sent, each counted once.
    pub segments: AtomicU64,
    /// Final segments acknowledged.
    pub acked: AtomicU64,
    /// Acknowledged segments that the server does not have.
    pub lost: AtomicU64,
    /// Segments that the server has more than once.
    pub duplicated: AtomicU64,
    /// Messages that the server refused.
    pub refused: AtomicU64,
    /// Connections that broke and were made anew.
    pub reconnects: AtomicU64,
    /// Calls that are being played now.
    pub live: AtomicU64,
    /// Whether the key may not watch: then nothing but acknowledgements is known.
    pub is_blind: AtomicBool,
    /// Microseconds, by [`Latency`].
    samples: [Mutex<Vec<u32>>; Latency::ALL.len()],
}

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Returns a counter's value.
pub fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Figures {
    /// Notes that something took this long.
    pub fn took(&self, what: Latency, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        self.samples(what).push(micros);
    }

    fn samples(&self, what: Latency) -> MutexGuard<'_, Vec<u32>> {
        // A push cannot leave a vector half changed, so a poisoned lock is still good.
        self.samples[what as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the figures as one JSON object; what could not be seen is null.
    pub fn report(&self) -> Value {
        let is_blind = self.is_blind.load(Ordering::Relaxed);
        let seen = |counter: &AtomicU64| if is_blind { Value::Null } else { value(counter).into() };
        let mut latency_ms = serde_json::Map::new();
        for (what, name) in Latency::ALL {
            let mut micros = self.samples(what).clone();
            micros.sort_unstable();
            let at = |percent| percentile(&micros, percent).map(|micros| f64::from(micros) / 1000.0);
            latency_ms.insert(
                name.to_owned(),
                json!({ "p50": at(50), "p95": at(95), "p99": at(99), "count": micros.len() }),
            );
        }
        json!({
            "calls": value(&self.calls),
            "segments": value(&self.segments),
            "acked": value(&self.acked),
            "lost": seen(&self.lost),
            "duplicated": seen(&self.duplicated),
            "refused": value(&self.refused),
            "reconnects": value(&self.reconnects),
            "latency_ms": latency_ms,
        })
    }
}

/// Returns the nearest-rank percentile of sorted samples.
fn percentile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// Lays a report out for people.
pub fn table(report: &Value) -> String {
    let mut text = String::new();
    for (name, figure) in report.as_object().into_iter().flatten() {
        if name != "latency_ms" {
            text.push_str(&format!("{name:<12} {figure}\n"));
        }
    }
    text.push_str(&format!("\n{:<12} {:>9} {:>9} {:>9} {:>8}\n", "ms", "p50", "p95", "p99", "count"));
    for (name, row) in report["latency_ms"].as_object().into_iter().flatten() {
        let cell = |key: &str| row[key].as_f64().map_or("–".to_owned(), |ms| format!("{ms:.1}"));
        let (p50, p95, p99) = (cell("p50"), cell("p95"), cell("p99"));
        text.push_str(&format!("{name:<12} {p50:>9} {p95:>9} {p99:>9} {:>8}\n", row["count"]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_that_occurred() {
        let samples: Vec<u32> = (1..=200).collect();
        assert_eq!(percentile(&samples, 50), Some(100));
        assert_eq!(percentile(&samples, 95), Some(190));
        assert_eq!(percentile(&samples, 99), Some(198));
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[], 99), None);
    }

    #[test]
    fn what_was_not_seen_is_null() {
        let figures = Figures::default();
        figures.took(Latency::Ack, Duration::from_micros(1500));
        figures.is_blind.store(true, Ordering::Relaxed);
        let report = figures.report();
        assert_eq!(report["latency_ms"]["ack"]["p95"], 1.5);
        assert_eq!(report["latency_ms"]["cards"]["p95"], Value::Null);
        assert_eq!(report["lost"], Value::Null);
        assert!(table(&report).contains("ack"));
    }
}
