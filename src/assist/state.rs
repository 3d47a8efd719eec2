//! A call's state as the fold of its settled events: what the actor keeps, and gets back from the
//! log after a restart.

use std::collections::BTreeSet;
use std::collections::VecDeque;

use crate::event::Card;
use crate::event::Draft;
use crate::event::DraftState;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Verdict;
use crate::event::Voice;
use crate::knowledge::CardDeck;
use crate::prompt::Turn;
use crate::store::calls::CallRecord;

/// How many of the latest segments are kept for prompts, searches and corrections.
const SEGMENTS_KEPT: usize = 32;
/// How many finished drafts can be rewritten.
const DRAFTS_KEPT: usize = 8;
/// How many pushed cards are kept for rewriting drafts that rest on them.
const CARDS_KEPT: usize = 24;

/// A finished draft and what it was written from.
#[derive(Debug, Clone)]
pub(super) struct FinishedDraft {
    pub draft: Draft,
    pub turns: Vec<Turn>,
    pub cards: Vec<Card>,
    /// Whether an agent used it.
    pub is_used: bool,
}

/// What a call is, as far as its log tells.
#[derive(Debug)]
pub(super) struct CallState {
    /// What lists and boards show.
    pub record: CallRecord,
    /// The senders' numbers of the logged segments.
    pub ingested: BTreeSet<u64>,
    /// What the call's speech measured until its last sender left.
    pub voice: Voice,
    /// The latest segments, redacted, oldest first.
    pub segments: VecDeque<Segment>,
    /// The latest cards, oldest first.
    pub cards: VecDeque<Card>,
    /// What was pushed and when its topic was last met.
    pub deck: CardDeck,
    /// The latest finished drafts, oldest first.
    pub drafts: VecDeque<FinishedDraft>,
    /// The highest number in a draft's id.
    pub last_draft: u64,
    /// The highest number of a draft that was finished.
    last_finished: u64,
}

impl CallState {
    /// Returns the state before the first event.
    pub fn new(record: CallRecord) -> CallState {
        CallState {
            record,
            ingested: BTreeSet::new(),
            voice: Voice::default(),
            segments: VecDeque::new(),
            cards: VecDeque::new(),
            deck: CardDeck::default(),
            drafts: VecDeque::new(),
            last_draft: 0,
            last_finished: 0,
        }
    }

    /// Folds one settled envelope in; `ingest_seq` is the sender's number of a segment.
    pub fn apply(&mut self, envelope: &Envelope, ingest_seq: Option<u64>) {
        self.record.apply(envelope);
        if let Some(seq) = ingest_seq {
            self.ingested.insert(seq);
            self.record.resume_after = self.record.resume_after.max(seq);
        }
        match &envelope.event {
            Event::Segment(segment) => match self.segments.iter_mut().find(|known| known.id == segment.id) {
                Some(known) => known.clone_from(segment),
                None => push_bounded(&mut self.segments, segment.clone(), SEGMENTS_KEPT),
            },
            Event::Voice(voice) => self.voice.clone_from(voice),
            Event::Cards { cards, .. } => {
                for card in cards {
                    push_bounded(&mut self.cards, card.clone(), CARDS_KEPT);
                }
            }
            Event::Draft(draft) => {
                if let Some(number) = draft_number(&draft.id) {
                    self.last_draft = self.last_draft.max(number);
                }
                if draft.state == DraftState::Done {
                    self.keep_draft(draft);
                }
            }
            Event::DraftJudged { id, verdict: Verdict::Accepted | Verdict::Edited, .. } => {
                if let Some(judged) = self.drafts.iter_mut().find(|finished| finished.draft.id == *id)
                    && !std::mem::replace(&mut judged.is_used, true)
                {
                    self.record.counts.drafts_used += 1;
                }
            }
            _ => {}
        }
    }

    /// Folds one envelope of the log in, which after a restart also brings back the card deck.
    pub fn recover(&mut self, envelope: &Envelope) {
        self.apply(envelope, None);
        if let Event::Cards { cards, .. } = &envelope.event {
            self.deck.observe(cards.clone());
        }
    }

    /// Returns whether a segment of this id is one of the latest.
    pub fn knows(&self, id: &str) -> bool {
        self.segments.iter().any(|known| known.id == id)
    }

    /// Returns the id of the next draft.
    pub fn next_draft_id(&mut self) -> String {
        self.last_draft += 1;
        format!("d{}", self.last_draft)
    }

    /// Returns the finished draft of this id.
    pub fn finished_draft(&self, id: &str) -> Option<&FinishedDraft> {
        self.drafts.iter().find(|finished| finished.draft.id == id)
    }

    /// Returns the latest turns, oldest first.
    pub fn turns(&self) -> Vec<Turn> {
        let turn = |segment: &Segment| Turn { speaker: segment.speaker, text: segment.text.clone() };
        self.segments.iter().map(turn).collect()
    }

    /// Keeps a draft; a rewritten one replaces its older form and keeps what it was written from.
    fn keep_draft(&mut self, draft: &Draft) {
        let number = draft_number(&draft.id).unwrap_or(0);
        if number > self.last_finished {
            self.last_finished = number;
            self.record.counts.drafts += 1;
        }
        if let Some(known) = self.drafts.iter_mut().find(|finished| finished.draft.id == draft.id) {
            known.draft = draft.clone();
            return;
        }
        let is_used = |card: &&Card| draft.cards.contains(&card.id);
        let cards = self.cards.iter().filter(is_used).cloned().collect();
        let finished = FinishedDraft { draft: draft.clone(), turns: self.turns(), cards, is_used: false };
        push_bounded(&mut self.drafts, finished, DRAFTS_KEPT);
    }
}

/// Appends and forgets the oldest beyond `limit`.
fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() == limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn draft_number(id: &str) -> Option<u64> {
    id.strip_prefix('d')?.parse().ok()
}
