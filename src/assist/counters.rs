//! What the service counts about itself.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

/// The upper bounds of the histogram's buckets, in milliseconds.
pub const BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

/// A latency histogram.
#[derive(Debug, Default)]
pub struct Histogram {
    /// How many fell into each bucket of [`BOUNDS_MS`]; the last is for all that took longer.
    pub buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    /// The sum, in microseconds.
    pub sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: std::time::Duration) {
        let ms = duration.as_secs_f64() * 1000.0;
        let bucket = BOUNDS_MS.iter().position(|&bound| ms <= bound as f64).unwrap_or(BOUNDS_MS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(duration.as_micros() as u64, Relaxed);
    }

    /// Returns the bound below which this share of all durations lies; `None` before the first.
    pub fn quantile_ms(&self, share: f64) -> Option<u64> {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut sum = 0;
        let bucket = counts.iter().position(|count| {
            sum += count;
            sum >= wanted && sum > 0
        })?;
        Some(BOUNDS_MS[bucket.min(BOUNDS_MS.len() - 1)])
    }
}

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls opened.
    pub calls_opened: AtomicU64,
    /// Calls closed by their sender.
    pub calls_closed: AtomicU64,
    /// Calls whose sender did not come back.
    pub calls_interrupted: AtomicU64,
    /// Final segments logged.
    pub segments: AtomicU64,
    /// Segments that were repeated and changed nothing.
    pub segments_repeated: AtomicU64,
    /// Messages refused.
    pub refused: AtomicU64,
    /// Carriers' connections that are open.
    pub lines: AtomicUsize,
    /// Carriers' connections since the start.
    pub lines_opened: AtomicU64,
    /// Messages that broke their wire's rules.
    pub wire_errors: AtomicU64,
    /// Cards pushed.
    pub cards: AtomicU64,
    /// Emotions read.
    pub emotions: AtomicU64,
    /// Drafts finished.
    pub drafts_done: AtomicU64,
    /// Drafts that failed.
    pub drafts_failed: AtomicU64,
    /// Drafts that a newer question dropped.
    pub drafts_dropped: AtomicU64,
    /// From a final segment's arrival to its acknowledgement.
    pub acknowledged: Histogram,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
