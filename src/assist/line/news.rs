//! What a call publishes, as its carrier may be told of it: redacted, with the carrier's own times.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::error::TryRecvError;

use crate::assist::line::Tidings;
use crate::bus::Published;
use crate::bus::Subscription;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Word;

/// How many segments' word times are kept until the call publishes them.
const WORDS_KEPT: usize = 16;

/// A carrier's ear for its call.
pub(super) struct News {
    subscription: Subscription,
    /// Where the connection began, in milliseconds of the call.
    offset_ms: u64,
    /// The latest segments: id, text as it was recognised, words.
    words: VecDeque<(String, String, Vec<Word>)>,
}

impl News {
    pub(super) fn new(subscription: Subscription, offset_ms: u64) -> News {
        News { subscription, offset_ms, words: VecDeque::new() }
    }

    /// Remembers the word times of a segment on its way.
    pub(super) fn remember(&mut self, segment: &Segment, words: &[Word]) {
        if self.words.len() == WORDS_KEPT {
            self.words.pop_front();
        }
        self.words.push_back((segment.id.clone(), segment.text.clone(), words.to_vec()));
    }

    /// Returns the next thing that the call publishes. May be dropped while it waits: nothing is lost.
    pub(super) async fn next(&mut self) -> Arc<Published> {
        loop {
            match self.subscription.recv().await {
                Ok(published) => return published,
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a carrier was too slow for what its call says");
                }
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Returns what has been published and not told, in order.
    pub(super) fn rest(&mut self) -> Vec<Tidings> {
        let mut rest = Vec::new();
        loop {
            match self.subscription.try_recv() {
                Ok(published) => rest.extend(self.tidings(&published)),
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return rest,
            }
        }
    }

    /// Returns what the carrier may be told of something published. Word times go with a segment only
    /// when nothing was taken out of it.
    pub(super) fn tidings(&self, published: &Published) -> Option<Tidings> {
        let since = |ms: u64| ms.saturating_sub(self.offset_ms);
        match &published.envelope.event {
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
