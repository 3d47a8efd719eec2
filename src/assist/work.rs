//! What a call has under way beside its log: one search, one emotion reading, one draft.
//!
//! Nothing here is waited for by an acknowledgement. Dropping a part cancels it.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use crate::assist::draft::DraftStream;
use crate::assist::draft::DraftUpdate;
use crate::event::Card;
use crate::event::Draft;
use crate::event::Emotion;
use crate::knowledge::Answers;
use crate::monitor::emotion::EmotionError;

/// How many customer segments may wait for their emotion. Overflow rule: the oldest goes unread.
const READINGS_WAITING: usize = 4;

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a search found for a segment.
#[derive(Debug)]
pub(super) struct Found {
    pub segment: String,
    /// Nothing when the search failed, which it logged.
    pub answers: Answers,
}

/// What was read from a segment.
#[derive(Debug)]
pub(super) struct Reading {
    pub segment: String,
    pub scores: Result<BTreeMap<Emotion, f32>, EmotionError>,
}

/// A draft being written.
#[derive(Debug)]
pub(super) struct Writing {
    pub id: String,
    pub stream: DraftStream,
    /// The customer segment that it answers, and the cards that it may rest on; none of a rewrite, whose cards
    /// were shown with the draft.
    pub question: String,
    pub cards: Vec<Card>,
    /// The latest state that was shown.
    pub shown: Option<DraftUpdate>,
    /// The finished draft that is being rewritten.
    pub original: Option<Draft>,
    /// Whether somebody asked for it by name and waits for what becomes of it.
    pub is_promised: bool,
}

/// Something under way went on.
#[derive(Debug)]
pub(super) enum Progress {
    Found(Found),
    Read(Reading),
    /// `None`: the stream ended without a last update.
    Wrote(Option<DraftUpdate>),
}

/// What is under way. Segments that wait for a search replace one another: only the latest
/// question is worth answering.
#[derive(Default)]
pub(super) struct Work {
    search: Option<Pending<Found>>,
    next_search: Option<Pending<Found>>,
    reading: Option<Pending<Reading>>,
    next_readings: VecDeque<Pending<Reading>>,
    pub writing: Option<Writing>,
}

impl Work {
    /// Searches when the search under way is done; replaces one that waits.
    pub fn search(&mut self, search: impl Future<Output = Found> + Send + 'static) {
        let slot = if self.search.is_none() { &mut self.search } else { &mut self.next_search };
        *slot = Some(Box::pin(search));
    }

    /// Reads an emotion after those that wait.
    pub fn read(&mut self, reading: impl Future<Output = Reading> + Send + 'static) {
        if self.reading.is_none() {
            self.reading = Some(Box::pin(reading));
            return;
        }
        if self.next_readings.len() == READINGS_WAITING {
            self.next_readings.pop_front();
        }
        self.next_readings.push_back(Box::pin(reading));
    }

    /// Returns whether a search or a reading is under way: what a call that ends waits for.
    pub fn is_observing(&self) -> bool {
        self.search.is_some() || self.reading.is_some()
    }

    /// Returns the next progress; waits forever when nothing is under way. Cancel-safe.
    pub async fn progress(&mut self) -> Progress {
        let Work { search, next_search, reading, next_readings, writing } = self;
        tokio::select! {
            found = pending(search) => {
                *search = next_search.take();
                Progress::Found(found)
            }
            read = pending(reading) => {
                *reading = next_readings.pop_front();
                Progress::Read(read)
            }
            update = next_update(writing) => Progress::Wrote(update),
        }
    }
}

/// Waits for the future in the slot, or forever.
async fn pending<T>(slot: &mut Option<Pending<T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn next_update(writing: &mut Option<Writing>) -> Option<DraftUpdate> {
    match writing {
        Some(writing) => writing.stream.next().await,
        None => std::future::pending().await,
    }
}
