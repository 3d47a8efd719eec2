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
use crate::assist::draft::Drafter;
use crate::assist::intake::Refusal;
use crate::assist::intake::Spoken;
use crate::assist::intake::Start;
use crate::assist::message::Attached;
use crate::assist::message::MAILBOX;
use crate::assist::message::Message;
use crate::assist::message::Reply;
use crate::assist::message::refuse;
use crate::assist::message::send;
use crate::assist::observe::Observer;
use crate::assist::state::CallState;
use crate::assist::work::Work;
use crate::engine::handle::Engine;
use crate::event::CallKey;
use crate::event::Card;
use crate::event::Envelope;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Voice;
use crate::monitor::emotion::EmotionReader;
use crate::monitor::redact::redact_json;
use crate::monitor::redact::redact_text;
use crate::monitor::sensitive::SharedTermLists;
use crate::store::Append;
use crate::store::Entry;
use crate::store::StoreError;
use crate::store::calls::CallCounts;
use crate::store::calls::CallPhase;
use crate::store::calls::CallRecord;
use crate::store::calls::INTERRUPTED;

/// How many events of the log are read at once on recovery.
const RECOVERY_PAGE: u32 = 500;

/// The socket that feeds the call.
struct Feeder {
    id: u64,
    detached: oneshot::Sender<Refusal>,
}

/// The call was ended and waits for its last observations.
pub(super) struct Ending {
    reason: String,
    reply: Option<Reply<()>>,
    until: Instant,
}

/// What goes out when the log has it.
#[derive(Default)]
pub(super) struct Outbox {
    entries: Vec<Entry>,
    pub tentative: Vec<Event>,
    answers: Vec<Box<dyn FnOnce() + Send>>,
}

/// Everything of one call that lives; what must survive is in the log.
pub(super) struct Actor {
    pub key: CallKey,
    pub parts: Arc<Parts>,
    /// Writes the call's drafts, with the experts that its tenant had when it was opened.
    pub drafter: Drafter,
    /// Reads its emotions, likewise.
    pub emotions: Option<EmotionReader>,
    mailbox: mpsc::Receiver<Message>,
    /// `None` until the call is opened.
    pub state: Option<CallState>,
    pub observer: Observer,
    pub work: Work,
    pub outbox: Outbox,
    feeder: Option<Feeder>,
    feeders: u64,
    /// When a call without a sender is given up.
    lost_at: Instant,
    pub ending: Option<Ending>,
    /// The latest customer segment, and the cards that answer it.
    pub question: String,
    pub answers: Vec<Card>,
}

impl Actor {
    /// Returns an actor that knows nothing yet; its tenant's terms are `terms`, its form of the model `tuned`.
    pub fn new(
        key: CallKey,
        parts: Arc<Parts>,
        terms: SharedTermLists,
        tuned: Option<Engine>,
        mailbox: mpsc::Receiver<Message>,
    ) -> Actor {
        let lost_at = Instant::now() + parts.config.resume();
        let (drafter, emotions) = match tuned {
            Some(engine) => (
                parts.drafter.with_engine(&engine),
                parts.emotions.as_ref().map(|reader| reader.with_engine(&engine)),
            ),
            None => (parts.drafter.clone(), parts.emotions.clone()),
        };
        Actor {
            drafter,
            emotions,
            key,
            mailbox,
            state: None,
            observer: Observer::new(terms),
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
                () = reached(deadline) => {
                    // Whoever wanted this actor went away before asking.
                    if self.state.is_none() {
                        return Ok(());
                    }
                    self.give_up();
                }
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
                let corrects = matches!(&envelope.event, Event::Segment(segment) if state.knows(&segment.id));
                state.recover(envelope);
                if !corrects {
                    self.observer.recover(envelope);
                }
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
    fn deadline(&self) -> Option<Instant> {
        match (&self.ending, &self.feeder) {
            (Some(ending), _) => Some(ending.until),
            (None, None) => Some(self.lost_at),
            (None, Some(_)) => None,
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
            // A sender that came back and left again is waited for anew.
            Message::CloseIfLost if self.feeders == 0 && self.state.is_some() && !is_over => {
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
            Message::Say { feeder, .. }
            | Message::Partial { feeder, .. }
            | Message::Sense { feeder, .. }
            | Message::Revise { feeder, .. }
            | Message::End { feeder, .. }
                if !self.is_fed_by(feeder) =>
            {
                refuse(message, &Refusal::TakenOver);
            }
            message if self.ending.is_some() => refuse(message, &self.closed()),
            Message::Say { spoken, reply, .. } => self.hear(*spoken, reply),
            Message::SayLate { spoken } => self.settle_spoken(*spoken, None),
            Message::Partial { segment, .. } => {
                let segment = self.observer.partial(segment);
                self.outbox.tentative.push(Event::Segment(segment));
            }
            Message::Sense { events, is_tentative: true, .. } => {
                if let (Some(state), Some(Event::Voice(voice))) = (&mut self.state, events.last()) {
                    // For whoever takes the line over, though the log need not have it.
                    state.voice.clone_from(voice);
                }
                self.outbox.tentative.extend(events);
            }
            Message::Sense { events, .. } => events.into_iter().for_each(|event| self.settle(event)),
            Message::Revise { segment, speaker, .. } => self.revise(&segment, speaker),
            Message::End { reason, reply, .. } => {
                self.drop_draft();
                let until = Instant::now() + self.parts.config.ending();
                let reason = self.observer.written(&reason);
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
        let seq = self.state.as_ref().map_or(0, |state| state.record.seq);
        let resume_after = self.state.as_ref().map_or(0, |state| state.record.resume_after);
        let duration_ms = self.state.as_ref().map_or(0, |state| state.record.duration_ms);
        let known =
            self.state.iter().flat_map(|state| &state.segments).map(|known| known.id.clone()).collect();
        let voice = self.state.as_ref().map_or_else(Voice::default, |state| state.voice.clone());
        let feeder = self.feeders;
        let attached = Attached { seq, resume_after, duration_ms, voice, known, feeder, detached: cut_off };
        self.answer(reply, attached);
    }

    fn open(&mut self, start: Start) {
        let Start { call, agent, customer, channel, language, started_at, knowledge, metadata } = start;
        let knowledge = knowledge.unwrap_or_default();
        let customer = customer.map(|name| self.observer.written(&redact_text(&name)));
        self.observer.set_channel(channel);
        self.state = Some(CallState::new(CallRecord {
            call,
            agent: agent.clone(),
            customer: customer.clone(),
            channel,
            language: language.clone(),
            knowledge: knowledge.clone(),
            metadata: redact_json(&metadata),
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
        self.settle_spoken(spoken, Some(seq));
        self.answer(reply, ());
    }

    /// Settles a final segment, redacted, with what is seen in it at once; the customer's newest is asked about.
    fn settle_spoken(&mut self, spoken: Spoken, seq: Option<u64>) {
        let (id, speaker, end_ms) =
            (spoken.segment.id.clone(), spoken.segment.speaker, spoken.segment.end_ms);
        let newest = self.state.as_ref().and_then(|state| state.segments.back());
        // What comes late may have been overtaken.
        let is_newest = seq.is_some() || newest.is_none_or(|newest| newest.end_ms <= end_ms);
        for event in self.observer.segment(spoken) {
            let ingest_seq = seq.filter(|_| matches!(event, Event::Segment(_)));
            self.settle_from(event, ingest_seq);
        }
        count(&self.parts.counters.segments);
        if speaker == Speaker::Customer && is_newest {
            self.ask(id);
        }
    }

    /// Settles a segment again under its true speaker, if it is one of the latest; the customer's newest
    /// word is then searched for and read as if it had come so.
    fn revise(&mut self, id: &str, speaker: Speaker) {
        let Some(state) = &self.state else { return };
        let Some(known) = state.segments.iter().find(|known| known.id == id) else { return };
        if known.speaker == speaker {
            return;
        }
        let is_newest = state.segments.back().is_some_and(|newest| newest.id == id);
        let corrected = Segment { speaker, ..known.clone() };
        self.settle(Event::Segment(corrected));
        if is_newest && speaker == Speaker::Customer {
            self.ask(id.to_owned());
        }
    }

    /// Looks for what answers the customer's segment, and reads their emotion.
    fn ask(&mut self, id: String) {
        self.drop_draft();
        self.question.clone_from(&id);
        self.start_search(id.clone());
        self.start_reading(id);
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

    /// Numbers an event, folds it in and puts it on its way to the log.
    pub fn settle(&mut self, event: Event) {
        self.settle_from(event, None);
    }

    /// Settles an event that a sender's message caused.
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

/// Returns at the deadline; never without one.
async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Returns when the sender of the call is gone; never when there is none.
async fn lost(feeder: &mut Option<Feeder>) {
    match feeder {
        Some(feeder) => feeder.detached.closed().await,
        None => std::future::pending().await,
    }
}
