//! What a call publishes, as its carrier may be told of it: redacted, with the carrier's own times.
//!
//! The bus may lose what a slow carrier has not taken: a gap in the numbers is read from the log.

use std::collections::VecDeque;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::error::TryRecvError;

use crate::assist::line::Tidings;
use crate::bus::Subscription;
use crate::event::CallKey;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Word;
use crate::store::Store;

/// How many segments' word times are kept until the call publishes them.
const WORDS_KEPT: usize = 16;
/// How many events are read from the log at once.
const PAGE: u32 = 256;

/// A carrier's ear for its call.
pub(super) struct News {
    subscription: Subscription,
    store: Store,
    key: CallKey,
    /// The number of the last settled event that was taken.
    seen: u64,
    /// Whether the log has settled events after it that the bus did not bring.
    has_missed: bool,
    /// What may be told and was not.
    waiting: VecDeque<Tidings>,
    /// Where the connection began, in milliseconds of the call.
    offset_ms: u64,
    /// The latest segments: id, text as it was recognised, words.
    words: VecDeque<(String, String, Vec<Word>)>,
}

impl News {
    /// Returns an ear for what the call settles after number `seen`.
    pub(super) fn new(
        subscription: Subscription,
        store: Store,
        key: CallKey,
        seen: u64,
        offset_ms: u64,
    ) -> News {
        let (waiting, words) = (VecDeque::new(), VecDeque::new());
        News { subscription, store, key, seen, has_missed: false, waiting, offset_ms, words }
    }

    /// Remembers the word times of a segment on its way.
    pub(super) fn remember(&mut self, segment: &Segment, words: &[Word]) {
        if self.words.len() == WORDS_KEPT {
            self.words.pop_front();
        }
        self.words.push_back((segment.id.clone(), segment.text.clone(), words.to_vec()));
    }

    /// Returns the next thing that may be told. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Tidings {
        loop {
            if let Some(tidings) = self.waiting.pop_front() {
                return tidings;
            }
            if self.has_missed {
                self.catch_up().await;
                continue;
            }
            match self.subscription.recv().await {
                Ok(published) => self.take(&published.envelope),
                Err(RecvError::Lagged(_)) => self.has_missed = true,
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Returns what has been published and not told, in order.
    pub(super) async fn rest(&mut self) -> Vec<Tidings> {
        loop {
            match self.subscription.try_recv() {
                Ok(published) => self.take(&published.envelope),
                Err(TryRecvError::Lagged(_)) => self.has_missed = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        while self.has_missed {
            self.catch_up().await;
        }
        Vec::from(std::mem::take(&mut self.waiting))
    }

    /// Reads on in the log. A log that cannot be read is asked again when the next event shows the gap.
    async fn catch_up(&mut self) {
        match self.store.events_after(&self.key, self.seen, PAGE).await {
            Ok(page) => {
                self.has_missed = page.len() == PAGE as usize;
                for envelope in page {
                    self.seen = envelope.seq;
                    let tidings = self.tidings(&envelope.event);
                    self.waiting.extend(tidings);
                }
            }
            Err(error) => {
                self.has_missed = false;
                tracing::warn!(%error, call = %self.key.call, "a carrier missed what its call said");
            }
        }
    }

    fn take(&mut self, envelope: &Envelope) {
        if !envelope.tentative {
            if envelope.seq <= self.seen {
                return;
            }
            if envelope.seq > self.seen + 1 {
                self.has_missed = true;
                return;
            }
            self.seen = envelope.seq;
        }
        let tidings = self.tidings(&envelope.event);
        self.waiting.extend(tidings);
    }

    /// Returns what the carrier may be told of an event. Word times go with a segment only when nothing was
    /// taken out of it.
    fn tidings(&self, event: &Event) -> Option<Tidings> {
        let since = |ms: u64| ms.saturating_sub(self.offset_ms);
        match event {
            Event::Segment(segment) => {
                let known =
                    self.words.iter().find(|(id, text, _)| *id == segment.id && *text == segment.text);
                let word = |word: &Word| Word {
                    start_ms: since(word.start_ms),
                    end_ms: since(word.end_ms),
                    ..word.clone()
                };
                let words = known.map(|(_, _, words)| words.iter().map(word).collect());
                let (start_ms, end_ms) = (since(segment.start_ms), since(segment.end_ms));
                Some(Tidings::Segment(Segment { start_ms, end_ms, ..segment.clone() }, words))
            }
            Event::Cards { cards, .. } => Some(Tidings::Cards(cards.clone())),
            _ => None,
        }
    }
}
