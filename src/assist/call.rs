//! The actor of one call: owns its state, is the only one to make its envelopes.
//!
//! It takes what waits in its mailbox, turns it into settled events, writes them as one append,
//! and only when they are on disk publishes them and answers. Searches, readings and drafts go on
//! beside that and come back as more events. When the log cannot be written the actor ends: what
//! it believed is void, the store is the truth, and the next message starts a new one from there.

use std::sync::Arc;

use chrono::Utc;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::assist::Parts;
use crate::assist::counters::count;
use crate::assist::draft::DraftRequest;
use crate::assist::draft::DraftUpdate;
use crate::assist::draft::EditRequest;
use crate::assist::intake::Refusal;
use crate::assist::intake::Spoken;
use crate::assist::intake::Start;
use crate::assist::observe::Observer;
use crate::assist::state::CallState;
use crate::assist::work::Found;
use crate::assist::work::Progress;
use crate::assist::work::Reading;
use crate::assist::work::Work;
use crate::assist::work::Writing;
use crate::event::CallKey;
use crate::event::Card;
use crate::event::Draft;
use crate::event::DraftState;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Severity;
use crate::event::Speaker;
use crate::event::Verdict;
use crate::knowledge::Question;
use crate::store::Append;
use crate::store::Entry;
use crate::store::StoreError;
use crate::store::calls::CallCounts;
use crate::store::calls::CallPhase;
use crate::store::calls::CallRecord;
use crate::store::calls::INTERRUPTED;

/// How many messages wait for a call. Overflow rule: final segments and people wait, and with
/// them their sockets; partial segments are dropped, the next one replaces them anyway.
pub(super) const MAILBOX: usize = 64;
/// How many events of the log are read at once on recovery.
const RECOVERY_PAGE: u32 = 500;
/// The most cards that a search returns.
const CARDS_MAX: usize = 3;
/// How many turns a search and an emotion reading see.
const TURNS_SEARCHED: usize = 8;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a sender gets when its call is open.
#[derive(Debug)]
pub struct Attached {
    /// The highest sender's number that is durable.
    pub resume_after: u64,
    /// Names this attachment in what the sender says.
    pub(super) feeder: u64,
    /// Resolves when the sender is cut off: with the reason, or with nothing when the call ended.
    pub detached: oneshot::Receiver<Refusal>,
}

/// Spans of a finished draft to write anew.
#[derive(Debug, Clone)]
pub struct Rewrite {
    /// The draft.
    pub draft: String,
    /// The stretches that may change: `[start, end)` in Unicode scalar values.
    pub spans: Vec<(usize, usize)>,
    /// What the agent wants of them.
    pub instruction: Option<String>,
    /// Texts that must stand in the result.
    pub must_include: Vec<String>,
    /// Texts that must not stand in the changed spans.
    pub forbid: Vec<String>,
    /// The most tokens a span may take.
    pub max_tokens: Option<usize>,
}

/// What people do to a call. Their texts are redacted before they come here.
#[derive(Debug, Clone)]
pub enum Action {
    /// Writes a new draft for the latest question.
    Draft {
        /// What the agent wants of it.
        instruction: Option<String>,
    },
    /// Rewrites spans of a draft.
    Rewrite(Rewrite),
    /// Says what became of a draft.
    Judge {
        /// The draft.
        draft: String,
        /// The agent's verdict.
        verdict: Verdict,
        /// The text as used.
        text: Option<String>,
    },
    /// Whispers to the agent.
    Note {
        /// The supervisor's user name.
        from: String,
        /// The note.
        text: String,
    },
    /// Asks a supervisor to look.
    Flag {
        /// What the agent says.
        message: String,
    },
}

#[derive(Debug)]
pub(super) enum Message {
    Attach {
        start: Box<Start>,
        reply: Reply<Attached>,
    },
    Say {
        feeder: u64,
        spoken: Box<Spoken>,
        reply: Reply<()>,
    },
    Partial {
        feeder: u64,
        segment: Segment,
    },
    End {
        feeder: u64,
        reason: String,
        reply: Reply<()>,
    },
    Act {
        action: Box<Action>,
        reply: Reply<Option<String>>,
    },
    /// The server has waited long enough for this call's sender.
    CloseIfLost,
}

/// The socket that feeds the call.
struct Feeder {
    id: u64,
    detached: oneshot::Sender<Refusal>,
}

/// The call was ended and waits for its last observations.
struct Ending {
    reason: String,
    reply: Option<Reply<()>>,
    until: Instant,
}

/// What goes out when the log has it.
#[derive(Default)]
struct Outbox {
    entries: Vec<Entry>,
    tentative: Vec<Event>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

pub(super) struct Actor {
    key: CallKey,
    parts: Arc<Parts>,
    mailbox: mpsc::Receiver<Message>,
    /// `None` until the call is opened.
    state: Option<CallState>,
    observer: Observer,
    work: Work,
    outbox: Outbox,
    feeder: Option<Feeder>,
    feeders: u64,
    /// When a call without a sender is given up.
    lost_at: Instant,
    ending: Option<Ending>,
    /// The latest customer segment, and the cards that answer it.
    question: String,
    answers: Vec<Card>,
}

impl Actor {
    pub fn new(key: CallKey, parts: Arc<Parts>, mailbox: mpsc::Receiver<Message>) -> Actor {
        let lost_at = Instant::now() + parts.config.resume();
        Actor {
            key,
            mailbox,
            state: None,
            observer: Observer::default(),
            work: Work::default(),
            outbox: Outbox::default(),
            feeder: None,
            feeders: 0,
            lost_at,
            ending: None,
            question: String::new(),
            answers: Vec::new(),
            parts,
        }
    }

    /// Lives until the call is over, nobody ever opened it, or the server stops.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let outcome = match self.recover().await {
            Ok(()) => self.work_on(&mut stopping).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            tracing::error!(call = %self.key.call, %error, "call actor ended: its log failed");
        }
        let is_stopping = *stopping.borrow();
        self.turn_away(outcome.is_err(), is_stopping).await;
    }

    async fn work_on(&mut self, stopping: &mut watch::Receiver<bool>) -> Result<(), StoreError> {
        let mut inbox = Vec::with_capacity(MAILBOX);
        while !self.is_over() {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                _ = stopping.wait_for(|is_stopping| *is_stopping) => return Ok(()),
                received = self.mailbox.recv_many(&mut inbox, MAILBOX) => {
                    if received == 0 {
                        return Ok(());
                    }
                    for message in inbox.drain(..) {
                        self.take(message);
                    }
                    if self.state.is_none() {
                        return Ok(());
                    }
                }
                () = lost(&mut self.feeder) => {
                    self.feeder = None;
                    self.lost_at = Instant::now() + self.parts.config.resume();
                    tracing::info!(call = %self.key.call, "sender lost");
                }
                progress = self.work.progress() => self.go_on(progress),
                () = tokio::time::sleep_until(deadline) => self.give_up(),
            }
            self.finish_if_observed();
            self.flush().await?;
        }
        Ok(())
    }

    /// Brings the state back from the log.
    async fn recover(&mut self) -> Result<(), StoreError> {
        let Some(record) = self.parts.store.call(&self.key).await? else { return Ok(()) };
        if record.state != CallPhase::Open {
            self.state = Some(CallState::new(record));
            return Ok(());
        }
        let mut state = CallState::new(CallRecord {
            seq: 0,
            valences: Vec::new(),
            counts: CallCounts::default(),
            ..record
        });
        state.ingested.extend(self.parts.store.ingest_seqs(&self.key).await?);
        loop {
            let page = self.parts.store.events_after(&self.key, state.record.seq, RECOVERY_PAGE).await?;
            for envelope in &page {
                state.recover(envelope);
                self.observer.recover(envelope);
                if let Event::Cards { cards, .. } = &envelope.event {
                    self.answers.clone_from(cards);
                }
            }
            if page.len() < RECOVERY_PAGE as usize {
                break;
            }
        }
        self.state = Some(state);
        Ok(())
    }

    /// Refuses what still waits, so that nobody waits for ever.
    async fn turn_away(&mut self, has_failed: bool, is_stopping: bool) {
        let refusal = match (&self.state, has_failed, is_stopping) {
            (_, true, _) => Refusal::NotDurable,
            (Some(state), _, _) if state.record.state != CallPhase::Open => self.closed(),
            (_, _, true) => Refusal::Stopping,
            _ => Refusal::NoSuchCall(self.key.call.clone()),
        };
        self.mailbox.close();
        while let Some(message) = self.mailbox.recv().await {
            refuse(message, &refusal);
        }
        if let Some(feeder) = self.feeder.take()
            && (has_failed || is_stopping)
        {
            // The sender may be gone already.
            let _ = feeder.detached.send(refusal);
        }
    }

    fn is_over(&self) -> bool {
        self.state.as_ref().is_some_and(|state| state.record.state != CallPhase::Open)
    }

    fn closed(&self) -> Refusal {
        let resume_after = self.state.as_ref().map_or(0, |state| state.record.resume_after);
        Refusal::CallClosed { call: self.key.call.clone(), resume_after }
    }

    /// Returns when the call is given up if nothing happens.
    fn deadline(&self) -> Instant {
        match (&self.ending, &self.feeder) {
            (Some(ending), _) => ending.until,
            (None, None) => self.lost_at,
            // Nothing is due: far enough not to matter.
            (None, Some(_)) => Instant::now() + self.parts.config.resume(),
        }
    }

    fn give_up(&mut self) {
        if let Some(ending) = &mut self.ending {
            let reason = std::mem::take(&mut ending.reason);
            self.close(reason);
        } else if self.feeder.is_none() {
            self.close(INTERRUPTED.to_owned());
        }
    }

    fn finish_if_observed(&mut self) {
        if !self.is_over() && !self.work.is_observing() && self.ending.is_some() {
            self.give_up();
        }
    }

    fn take(&mut self, message: Message) {
        let is_over = self.is_over();
        match message {
            Message::CloseIfLost if self.feeder.is_none() && self.state.is_some() && !is_over => {
                self.close(INTERRUPTED.to_owned());
            }
            Message::CloseIfLost => {}
            message if is_over => refuse(message, &self.closed()),
            Message::Attach { start, reply } => self.attach(*start, reply),
            message if self.state.is_none() => refuse(message, &Refusal::NoSuchCall(self.key.call.clone())),
            Message::Act { action, reply } => match self.act(*action) {
                Ok(made) => self.answer(reply, made),
                Err(refusal) => send(reply, Err(refusal)),
            },
            Message::Say { feeder, .. } | Message::Partial { feeder, .. } | Message::End { feeder, .. }
                if !self.is_fed_by(feeder) =>
            {
                refuse(message, &Refusal::TakenOver);
            }
            message if self.ending.is_some() => refuse(message, &self.closed()),
            Message::Say { spoken, reply, .. } => self.hear(*spoken, reply),
            Message::Partial { segment, .. } => {
                let segment = self.observer.partial(segment);
                self.outbox.tentative.push(Event::Segment(segment));
            }
            Message::End { reason, reply, .. } => {
                self.drop_draft();
                let until = Instant::now() + self.parts.config.ending();
                self.ending = Some(Ending { reason, reply: Some(reply), until });
            }
        }
    }

    fn is_fed_by(&self, feeder: u64) -> bool {
        self.feeder.as_ref().is_some_and(|known| known.id == feeder)
    }

    /// Opens the call or goes on with it; a sender that was there is cut off.
    fn attach(&mut self, start: Start, reply: Reply<Attached>) {
        if self.state.is_none() {
            self.open(start);
        }
        if let Some(older) = self.feeder.take() {
            // The older socket may be gone already.
            let _ = older.detached.send(Refusal::TakenOver);
        }
        self.feeders += 1;
        let (detached, cut_off) = oneshot::channel();
        self.feeder = Some(Feeder { id: self.feeders, detached });
        let resume_after = self.state.as_ref().map_or(0, |state| state.record.resume_after);
        self.answer(reply, Attached { resume_after, feeder: self.feeders, detached: cut_off });
    }

    fn open(&mut self, start: Start) {
        let Start { call, agent, customer, channel, language, started_at, knowledge, metadata } = start;
        let knowledge = knowledge.unwrap_or_default();
        self.state = Some(CallState::new(CallRecord {
            call,
            agent: agent.clone(),
            customer: customer.clone(),
            channel,
            language: language.clone(),
            knowledge: knowledge.clone(),
            metadata,
            started_at,
            ended_at: None,
            state: CallPhase::Open,
            reason: None,
            seq: 0,
            resume_after: 0,
            duration_ms: 0,
            last_speaker: None,
            last_text: None,
            emotion: None,
            valences: Vec::new(),
            last_alert: None,
            flag: None,
            counts: CallCounts::default(),
        }));
        self.settle(Event::CallOpened { agent, customer, channel, language, knowledge });
        count(&self.parts.counters.calls_opened);
        tracing::info!(call = %self.key.call, tenant = %self.key.tenant, "call opened");
    }

    /// Takes a final segment: once, in order, redacted.
    fn hear(&mut self, spoken: Spoken, reply: Reply<()>) {
        let Some(state) = &self.state else { return };
        let seq = spoken.seq;
        if state.ingested.contains(&seq) {
            count(&self.parts.counters.segments_repeated);
            // Answered with the rest: the first one may be on its way to the disk.
            self.answer(reply, ());
            return;
        }
        let last = state.record.resume_after;
        if seq < last {
            send(reply, Err(Refusal::OutOfOrder { seq, last }));
            return;
        }
        let id = spoken.segment.id.clone();
        let speaker = spoken.segment.speaker;
        let end_ms = spoken.segment.end_ms;
        for event in self.observer.segment(spoken) {
            let ingest_seq = matches!(event, Event::Segment(_)).then_some(seq);
            self.settle_from(event, ingest_seq);
        }
        count(&self.parts.counters.segments);
        self.answer(reply, ());
        if speaker == Speaker::Customer {
            self.drop_draft();
            self.question.clone_from(&id);
            self.start_search(id.clone());
            self.start_reading(id, end_ms);
        }
    }

    fn recent_turns(&self) -> Vec<crate::prompt::Turn> {
        let Some(state) = &self.state else { return Vec::new() };
        let skipped = state.turns.len().saturating_sub(TURNS_SEARCHED);
        state.turns.iter().skip(skipped).cloned().collect()
    }

    fn start_search(&mut self, segment: String) {
        let Some(state) = &self.state else { return };
        let tenant = self.key.tenant.clone();
        let knowledge = self.parts.knowledge.clone();
        // A base that does not exist, or not any more, must not cost the others.
        let named = &state.record.knowledge;
        let bases: Vec<String> =
            named.iter().filter(|base| knowledge.active(&tenant, base).is_some()).cloned().collect();
        if bases.is_empty() && !named.is_empty() {
            self.go_on(Progress::Found(Found { segment, cards: Some(Vec::new()) }));
            return;
        }
        let question = Question { turns: self.recent_turns(), bases, limit: CARDS_MAX };
        let searches = Arc::clone(&self.parts.searches);
        let call = self.key.call.clone();
        self.work.search(async move {
            let _permit = searches.acquire_owned().await;
            let found = tokio::task::spawn_blocking(move || knowledge.search(&tenant, &question)).await;
            let cards = match found {
                Ok(Ok(cards)) => Some(cards),
                Ok(Err(error)) => {
                    tracing::warn!(%call, %error, "search failed");
                    None
                }
                Err(error) => {
                    tracing::error!(%call, %error, "search panicked");
                    None
                }
            };
            Found { segment, cards }
        });
    }

    fn start_reading(&mut self, segment: String, end_ms: u64) {
        let Some(reader) = self.parts.emotions.clone() else { return };
        if !self.parts.config.emotions {
            return;
        }
        let turns = self.recent_turns();
        self.work.read(async move { Reading { segment, end_ms, scores: reader.read(&turns).await } });
    }

    fn go_on(&mut self, progress: Progress) {
        match progress {
            Progress::Found(found) => self.found(found),
            Progress::Read(reading) => self.read(reading),
            Progress::Wrote(update) => self.wrote(update),
        }
    }

    /// Pushes what is new, and drafts an answer to the latest question.
    fn found(&mut self, found: Found) {
        let Some(state) = &mut self.state else { return };
        let cards = found.cards.unwrap_or_default();
        let new = state.deck.observe(cards.clone());
        if !new.is_empty() {
            self.parts.counters.cards.fetch_add(new.len() as u64, std::sync::atomic::Ordering::Relaxed);
            self.settle(Event::Cards { segment: found.segment.clone(), cards: new });
        }
        if found.segment == self.question {
            self.answers = cards;
            if self.parts.config.drafts && self.ending.is_none() {
                self.start_draft(None);
            }
        }
    }

    fn read(&mut self, reading: Reading) {
        match reading.scores {
            Ok(scores) => {
                count(&self.parts.counters.emotions);
                for event in self.observer.emotion(reading.segment, reading.end_ms, scores) {
                    self.settle(event);
                }
            }
            Err(error) => tracing::warn!(call = %self.key.call, %error, "emotion not read"),
        }
    }

    /// Starts a draft for the latest question and returns its id.
    fn start_draft(&mut self, instruction: Option<String>) -> String {
        self.drop_draft();
        let Some(state) = &mut self.state else { return String::new() };
        let id = state.next_draft_id();
        let request = DraftRequest { turns: state.turns(), cards: self.answers.clone(), instruction };
        let stream = self.parts.drafter.draft(request);
        self.work.writing = Some(Writing { id: id.clone(), stream, shown: None, original: None });
        id
    }

    fn start_rewrite(&mut self, rewrite: Rewrite) -> Result<String, Refusal> {
        let Some(state) = &self.state else { return Err(Refusal::NoSuchDraft(rewrite.draft)) };
        let Some(finished) = state.finished_draft(&rewrite.draft).cloned() else {
            return Err(Refusal::NoSuchDraft(rewrite.draft));
        };
        check_spans(&finished.draft.text, &rewrite.spans)?;
        self.drop_draft();
        let context =
            DraftRequest { turns: finished.turns, cards: finished.cards, instruction: rewrite.instruction };
        let stream = self.parts.drafter.edit(EditRequest {
            context,
            text: finished.draft.text.clone(),
            spans: rewrite.spans,
            must_include: rewrite.must_include,
            forbid: rewrite.forbid,
            max_tokens: rewrite.max_tokens,
        });
        let id = rewrite.draft;
        self.work.writing =
            Some(Writing { id: id.clone(), stream, shown: None, original: Some(finished.draft) });
        Ok(id)
    }

    /// Shows a draft as it stands, or settles it.
    fn wrote(&mut self, update: Option<DraftUpdate>) {
        let Some(mut writing) = self.work.writing.take() else { return };
        match update {
            Some(update) if update.state == DraftState::Writing => {
                self.outbox.tentative.push(Event::Draft(draft(&writing.id, update.clone())));
                writing.shown = Some(update);
                self.work.writing = Some(writing);
            }
            Some(update) if update.state == DraftState::Done => {
                count(&self.parts.counters.drafts_done);
                self.settle(Event::Draft(draft(&writing.id, update)));
            }
            Some(update) if update.state == DraftState::Dropped => {
                count(&self.parts.counters.drafts_dropped);
                self.settle(Event::Draft(draft(&writing.id, update)));
            }
            Some(update) => self.fail_draft(writing, update),
            None => self.fail_draft(writing, failure("the engine stopped")),
        }
    }

    /// Settles a failure. A rewrite that failed leaves the draft as it was and says why.
    fn fail_draft(&mut self, writing: Writing, update: DraftUpdate) {
        count(&self.parts.counters.drafts_failed);
        let error = update.error.clone();
        tracing::warn!(call = %self.key.call, draft = %writing.id, error = ?error, "draft failed");
        let settled = match writing.original {
            Some(original) => Draft { error, ..original },
            None => draft(&writing.id, update),
        };
        self.settle(Event::Draft(settled));
    }

    /// Cancels the draft under way; if somebody saw it, it is settled as dropped.
    fn drop_draft(&mut self) {
        let Some(writing) = self.work.writing.take() else { return };
        count(&self.parts.counters.drafts_dropped);
        let Some(shown) = writing.shown else { return };
        let dropped = match writing.original {
            Some(original) => Draft { state: DraftState::Dropped, ..original },
            None => {
                draft(&writing.id, DraftUpdate { state: DraftState::Dropped, tentative_text: None, ..shown })
            }
        };
        self.settle(Event::Draft(dropped));
    }

    fn act(&mut self, action: Action) -> Result<Option<String>, Refusal> {
        match action {
            Action::Draft { instruction } => return Ok(Some(self.start_draft(instruction))),
            Action::Rewrite(rewrite) => return self.start_rewrite(rewrite).map(Some),
            Action::Judge { draft, verdict, text } => {
                let is_known =
                    self.state.as_ref().is_some_and(|state| state.finished_draft(&draft).is_some());
                if !is_known {
                    return Err(Refusal::NoSuchDraft(draft));
                }
                self.settle(Event::DraftJudged { id: draft, verdict, text });
            }
            Action::Note { from, text } => self.settle(Event::Note { from, text }),
            Action::Flag { message } => self.settle(Event::Alert {
                kind: "flag".to_owned(),
                severity: Severity::Critical,
                message,
                segment: None,
            }),
        }
        Ok(None)
    }

    /// Settles the end; whoever asked for it is answered when it is on disk.
    fn close(&mut self, reason: String) {
        self.drop_draft();
        let counters = &self.parts.counters;
        count(if reason == INTERRUPTED { &counters.calls_interrupted } else { &counters.calls_closed });
        tracing::info!(call = %self.key.call, %reason, "call closed");
        let duration_ms = self.state.as_ref().map_or(0, |state| state.record.duration_ms);
        self.settle(Event::CallClosed { reason, duration_ms });
        if let Some(reply) = self.ending.take().and_then(|ending| ending.reply) {
            self.answer(reply, ());
        }
    }

    fn settle(&mut self, event: Event) {
        self.settle_from(event, None);
    }

    /// Numbers an event, folds it in and puts it on its way to the log.
    fn settle_from(&mut self, event: Event, ingest_seq: Option<u64>) {
        let Some(state) = &mut self.state else { return };
        let envelope = Envelope {
            call: self.key.call.clone(),
            seq: state.record.seq + 1,
            at: Utc::now(),
            tentative: false,
            event,
        };
        state.apply(&envelope, ingest_seq);
        self.outbox.entries.push(Entry { envelope, ingest_seq });
    }

    /// Answers when all that was settled so far is on disk.
    fn answer<T: Send + 'static>(&mut self, reply: Reply<T>, value: T) {
        self.outbox.answers.push(Box::new(move || send(reply, Ok(value))));
    }

    /// Writes what was settled; then, and only then, shows it and answers.
    ///
    /// On failure the answers are dropped with the actor, which their askers take as a refusal.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let Some(state) = &self.state else { return Ok(()) };
        let Outbox { entries, tentative, answers } = std::mem::take(&mut self.outbox);
        if !entries.is_empty() {
            let append = Append { key: self.key.clone(), record: state.record.clone(), events: entries };
            for entry in self.parts.store.append(append).await? {
                self.parts.bus.publish(&self.key, entry.envelope);
            }
        }
        for event in tentative {
            let call = self.key.call.clone();
            let envelope = Envelope { call, seq: state.record.seq, at: Utc::now(), tentative: true, event };
            self.parts.bus.publish(&self.key, envelope);
        }
        for answer in answers {
            answer();
        }
        Ok(())
    }
}

/// Returns when the sender of the call is gone; never when there is none.
async fn lost(feeder: &mut Option<Feeder>) {
    match feeder {
        Some(feeder) => feeder.detached.closed().await,
        None => std::future::pending().await,
    }
}

fn send<T>(reply: Reply<T>, answer: Result<T, Refusal>) {
    // Whoever asked may have left; the answer is only for them.
    let _ = reply.send(answer);
}

fn refuse(message: Message, refusal: &Refusal) {
    match message {
        Message::Attach { reply, .. } => send(reply, Err(refusal.clone())),
        Message::Say { reply, .. } | Message::End { reply, .. } => send(reply, Err(refusal.clone())),
        Message::Act { reply, .. } => send(reply, Err(refusal.clone())),
        Message::Partial { .. } | Message::CloseIfLost => {}
    }
}

fn check_spans(text: &str, spans: &[(usize, usize)]) -> Result<(), Refusal> {
    let length = text.chars().count();
    let mut from = 0;
    if spans.is_empty() {
        return Err(invalid_spans("name at least one".to_owned()));
    }
    for &(start, end) in spans {
        if start < from || end < start || end > length {
            let why = format!("[{start}, {end}) must be ascending, not overlap and end by {length}");
            return Err(invalid_spans(why));
        }
        from = end;
    }
    Ok(())
}

fn invalid_spans(why: String) -> Refusal {
    Refusal::InvalidField { field: "spans", why }
}

fn draft(id: &str, update: DraftUpdate) -> Draft {
    let DraftUpdate { text, tentative_text, quotes, cards, state, steps, tokens, error } = update;
    Draft { id: id.to_owned(), text, tentative_text, state, cards, quotes, steps, tokens, error }
}

fn failure(error: &str) -> DraftUpdate {
    DraftUpdate {
        text: String::new(),
        tentative_text: None,
        quotes: Vec::new(),
        cards: Vec::new(),
        state: DraftState::Failed,
        steps: 0,
        tokens: 0,
        error: Some(error.to_owned()),
    }
}
