//! The registry of calls: starts an actor for a call when somebody needs it, and is the only way in.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;

use crate::assist::Parts;
use crate::assist::call::Actor;
use crate::assist::intake::Refusal;
use crate::assist::intake::Spoken;
use crate::assist::intake::Start;
use crate::assist::message::Action;
use crate::assist::message::Attached;
use crate::assist::message::MAILBOX;
use crate::assist::message::Message;
use crate::assist::message::Reply;
use crate::event::CallKey;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Speaker;
use crate::store::StoreError;

/// The calls of this server. Clones share them.
#[derive(Clone)]
pub struct Calls {
    shared: Arc<Shared>,
}

struct Shared {
    parts: Arc<Parts>,
    /// Where actors run: handlers live on single-threaded workers and must not spawn them there.
    runtime: Handle,
    mailboxes: Mutex<HashMap<CallKey, mpsc::Sender<Message>>>,
    /// Every line of a carrier holds a receiver: when all are gone, all have said their last words.
    draining: watch::Sender<bool>,
    /// Every actor and socket holds a receiver: when all are gone, all have ended.
    stopping: watch::Sender<bool>,
}

impl Calls {
    /// Returns a registry whose actors run on `runtime`.
    pub fn new(parts: Parts, runtime: Handle) -> Calls {
        let shared = Shared {
            parts: Arc::new(parts),
            runtime,
            mailboxes: Mutex::default(),
            draining: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
        };
        Calls { shared: Arc::new(shared) }
    }

    /// Returns what every call works with.
    pub fn parts(&self) -> &Parts {
        &self.shared.parts
    }

    /// Returns how many calls have an actor.
    pub fn live(&self) -> usize {
        self.mailboxes().values().filter(|mailbox| !mailbox.is_closed()).count()
    }

    /// Opens a call or goes on with it.
    ///
    /// # Errors
    /// When the call is over, the server stops or the log fails.
    pub async fn feed(&self, tenant: &str, start: Start) -> Result<Feed, Refusal> {
        let key = CallKey { tenant: tenant.to_owned(), call: start.call.clone() };
        loop {
            let (reply, answer) = oneshot::channel();
            let start = Box::new(start.clone());
            let mailbox = self.deliver(&key, Message::Attach { start, reply }).await?;
            match answer.await {
                Ok(Ok(attached)) => return Ok(Feed { mailbox, attached }),
                // An actor that found no call was just ending; a new one opens it.
                Ok(Err(Refusal::NoSuchCall(_))) => {}
                Ok(Err(refusal)) => return Err(refusal),
                Err(_) => return Err(Refusal::NotDurable),
            }
        }
    }

    /// Does something to an open call; returns the draft's id where there is one.
    ///
    /// # Errors
    /// When there is no such call or draft, the call is over, or the log fails.
    pub async fn act(&self, key: &CallKey, action: Action) -> Result<Option<String>, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.deliver(key, Message::Act { action: Box::new(action), reply }).await?;
        answer.await.map_err(|_| Refusal::NotDurable)?
    }

    /// Gives the senders of the calls that the last server left open their time to come back, then
    /// closes those that did not as interrupted.
    ///
    /// # Errors
    /// When the open calls cannot be read.
    pub async fn give_up_lost(&self) -> Result<(), StoreError> {
        let keys = self.shared.parts.store.open_calls().await?;
        if keys.is_empty() {
            return Ok(());
        }
        tracing::info!(calls = keys.len(), "open calls found, waiting for their senders");
        let calls = self.clone();
        let mut stopping = self.stopping();
        let patience = Duration::from_secs(self.shared.parts.config.resume_s);
        self.shared.runtime.spawn(async move {
            tokio::select! {
                _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
                () = tokio::time::sleep(patience) => {}
            }
            for key in keys {
                if calls.deliver(&key, Message::CloseIfLost).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Returns what tells sockets that the server stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.shared.stopping.subscribe()
    }

    /// Returns what tells the lines of carriers that the server is about to stop.
    pub fn draining(&self) -> watch::Receiver<bool> {
        self.shared.draining.subscribe()
    }

    /// Tells the lines of carriers to come to an end while their calls still listen, and waits until they have.
    pub async fn drain(&self) {
        self.shared.draining.send_replace(true);
        self.shared.draining.closed().await;
    }

    /// Opens nothing more, tells actors and sockets to end and waits until they have; calls stay
    /// open in the log, to be resumed.
    pub async fn stop(&self) {
        self.shared.stopping.send_replace(true);
        self.shared.stopping.closed().await;
    }

    /// Puts a message into the mailbox of the call's actor, and starts one if there is none.
    ///
    /// A new actor finds the message when it starts: it could otherwise look for its call, end for
    /// want of one and close the mailbox before the message is in.
    async fn deliver(&self, key: &CallKey, mut message: Message) -> Result<mpsc::Sender<Message>, Refusal> {
        loop {
            let known = self.mailboxes().get(key).cloned();
            if let Some(mailbox) = known {
                match mailbox.send(message).await {
                    Ok(()) => return Ok(mailbox),
                    Err(mpsc::error::SendError(returned)) => message = returned,
                }
            }
            match self.start(key, message)? {
                Started::New(mailbox) => return Ok(mailbox),
                Started::Already(returned) => message = returned,
            }
        }
    }

    /// Starts an actor with its first message, unless somebody else just did.
    fn start(&self, key: &CallKey, first: Message) -> Result<Started, Refusal> {
        let mut mailboxes = self.mailboxes();
        if mailboxes.get(key).is_some_and(|mailbox| !mailbox.is_closed()) {
            return Ok(Started::Already(first));
        }
        let stopping = self.stopping();
        if *stopping.borrow() {
            return Err(Refusal::Stopping);
        }
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        sender.try_send(first).expect("a new mailbox has room");
        mailboxes.insert(key.clone(), sender.clone());
        let calls = self.clone();
        let key = key.clone();
        self.shared.runtime.spawn(async move {
            let parts = Arc::clone(&calls.shared.parts);
            let terms = parts.terms.of(&key.tenant).await;
            let tuned = parts.adapters.of(&key.tenant).await;
            Actor::new(key.clone(), parts, terms, tuned, mailbox).run(stopping).await;
            calls.forget(&key);
        });
        Ok(Started::New(sender))
    }

    /// Removes the mailbox of an actor that ended, unless a new one took its place.
    fn forget(&self, key: &CallKey) {
        let mut mailboxes = self.mailboxes();
        if mailboxes.get(key).is_some_and(mpsc::Sender::is_closed) {
            mailboxes.remove(key);
        }
    }

    fn mailboxes(&self) -> MutexGuard<'_, HashMap<CallKey, mpsc::Sender<Message>>> {
        // The map stays whole even if a holder panicked: every change is one call.
        self.shared.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of starting an actor.
enum Started {
    New(mpsc::Sender<Message>),
    /// There is one; the message comes back.
    Already(Message),
}

/// A sender's way into its call. Dropping it starts the call's waiting for the sender's return.
#[derive(Debug)]
pub struct Feed {
    mailbox: mpsc::Sender<Message>,
    /// Where the call stands, and what resolves when another sender takes over.
    pub attached: Attached,
}

/// Resolves when the message is on disk, or refused.
pub type Acknowledgement = oneshot::Receiver<Result<(), Refusal>>;

impl Feed {
    /// Says a final segment; waits only for a place in the call's mailbox.
    pub async fn say(&self, spoken: Spoken) -> Acknowledgement {
        let feeder = self.attached.feeder;
        self.send(|reply| Message::Say { feeder, spoken: Box::new(spoken), reply }).await
    }

    /// Says what was heard before another sender took over.
    pub(super) async fn say_late(&self, spoken: Spoken) {
        // A call that ended hears no more.
        let _ = self.mailbox.send(Message::SayLate { spoken: Box::new(spoken) }).await;
    }

    /// Shows a partial segment, unless the call is busy: the next one replaces it anyway.
    pub fn show(&self, segment: Segment) {
        let feeder = self.attached.feeder;
        let _ = self.mailbox.try_send(Message::Partial { feeder, segment });
    }

    /// Shows what was sensed beside the words, unless the call is busy: the next one replaces it.
    pub(super) fn show_sensed(&self, event: Event) {
        let feeder = self.attached.feeder;
        let _ = self.mailbox.try_send(Message::Sense { feeder, events: vec![event], is_tentative: true });
    }

    /// Settles what was sensed beside the words; waits only for a place in the call's mailbox.
    pub(super) async fn settle_sensed(&self, events: Vec<Event>) {
        let feeder = self.attached.feeder;
        // A call that ended needs none.
        let _ = self.mailbox.send(Message::Sense { feeder, events, is_tentative: false }).await;
    }

    /// Says that an earlier segment was somebody else's.
    pub(super) async fn revise(&self, segment: String, speaker: Speaker) {
        let feeder = self.attached.feeder;
        // A call that ended is not corrected.
        let _ = self.mailbox.send(Message::Revise { feeder, segment, speaker }).await;
    }

    /// Ends the call; resolves when its last event is on disk.
    pub async fn end(&self, reason: String) -> Acknowledgement {
        let feeder = self.attached.feeder;
        self.send(|reply| Message::End { feeder, reason, reply }).await
    }

    async fn send(&self, message: impl FnOnce(Reply<()>) -> Message) -> Acknowledgement {
        let (reply, answer) = oneshot::channel();
        // A closed mailbox drops the reply, which the answer shows.
        let _ = self.mailbox.send(message(reply)).await;
        answer
    }
}
