//! One recorded call on its way into a server, over the ingest socket as `GET /v1/calls/ingest` has it.
//!
//! The sender keeps nothing but the plan and what is acknowledged. When the connection breaks it
//! connects again, asks where to resume, and sends on from there: nothing is lost, and what is
//! repeated is recognised by its number.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use chrono::DateTime;
use chrono::Utc;
use serde::Deserialize;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep;
use tokio::time::sleep_until;
use tokio::time::timeout;

use crate::command::replay::figures::Figures;
use crate::command::replay::figures::Latency;
use crate::command::replay::figures::count;
use crate::command::replay::script::Script;
use crate::command::replay::socket::Server;
use crate::command::replay::socket::Socket;
use crate::command::replay::socket::SocketError;
use crate::event::CallId;
use crate::event::Channel;

/// How long the server may take to answer a start, an acknowledgement or an end.
const ANSWER: Duration = Duration::from_secs(15);
/// How long a sender tries to come back; a server closes calls whose sender stays away for longer.
const GIVE_UP: Duration = Duration::from_secs(60);
/// The waits between two attempts to come back.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Says why a call could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server cannot be reached, or not by us.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The server did not take the call.
    #[error("the server refused call {call}: {message} ({code})")]
    Refused {
        /// The call.
        call: CallId,
        /// The server's name for the reason.
        code: String,
        /// The server's words.
        message: String,
    },
    /// The server is there but says nothing.
    #[error("no answer from the server within {} seconds", ANSWER.as_secs())]
    Silent,
}

/// How far a call has come, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The server does not know it yet.
    New,
    /// The server knows it.
    Open,
    /// Nothing more will be sent.
    Over,
}

/// One call that is being played.
#[derive(Debug)]
pub struct Call {
    /// Its name at the server.
    pub id: CallId,
    /// The agent who has it.
    pub agent: String,
    /// The knowledge bases that it asks for; none leaves the choice to the server.
    pub knowledge: Vec<String>,
    /// The plan.
    pub script: Arc<Script>,
    /// How many times faster than people it is played.
    pub speed: f64,
    /// How much of it has been said already when it is opened, in milliseconds of the recording.
    pub begun_ms: u64,
    stage: watch::Sender<Stage>,
    progress: Mutex<Vec<Progress>>,
}

/// How far one turn has come.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    sent_at: Option<Instant>,
    answer: Answer,
}

/// What the server said to a turn's final segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Answer {
    #[default]
    None,
    Acked,
    Refused,
}

/// What a sender says, but for segments.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Outgoing<'a> {
    Start {
        call: &'a CallId,
        agent: &'a str,
        channel: Channel,
        language: &'static str,
        started_at: DateTime<Utc>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        knowledge: &'a [String],
    },
    End {
        reason: &'static str,
    },
}

/// What a server answers.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Incoming {
    Started {
        resume_after: u64,
    },
    Ack {
        seq: u64,
    },
    Error {
        code: String,
        message: String,
        seq: Option<u64>,
    },
    #[serde(other)]
    Other,
}

impl Call {
    /// Makes a call that plays a script from its beginning at natural speed.
    pub fn new(id: CallId, agent: &str, script: Arc<Script>) -> Self {
        let progress = Mutex::new(vec![Progress::default(); script.turns.len()]);
        let knowledge = script.knowledge.clone();
        let stage = watch::Sender::new(Stage::New);
        Self { id, agent: agent.to_owned(), knowledge, script, speed: 1.0, begun_ms: 0, stage, progress }
    }

    /// Waits until the call has come as far as `stage`.
    pub async fn reached(&self, stage: Stage) {
        // The sender lives as long as the call itself.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// Returns when a turn's final segment was first sent.
    pub fn sent_at(&self, turn: usize) -> Option<Instant> {
        self.progress().get(turn)?.sent_at
    }

    /// Returns, for each turn, whether its final segment was acknowledged.
    pub fn acked(&self) -> Vec<bool> {
        self.progress().iter().map(|turn| turn.answer == Answer::Acked).collect()
    }

    /// Tells whether the server has said something to every final segment.
    fn is_answered(&self) -> bool {
        self.progress().iter().all(|turn| turn.answer != Answer::None)
    }

    fn progress(&self) -> MutexGuard<'_, Vec<Progress>> {
        // Every change is one store, so a poisoned lock is still good.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plays the call to its end, through broken connections.
    ///
    /// # Errors
    /// When the server declines the call, or stays away for a minute.
    ///
    /// # Cancellation
    /// Dropping leaves the call open at the server until it gives it up.
    pub async fn play(&self, server: &Server, key: &str, figures: &Figures) -> Result<(), CallError> {
        let begun = Duration::from_millis(self.begun_ms).div_f64(self.speed);
        let origin = Instant::now() - begun;
        let mut sender = Sender { call: self, figures, origin, opened_at: None, end_sent: false };
        let mut wait = BACKOFF[0];
        let mut failing_since = None;
        let outcome = loop {
            let error = match sender.play_once(server, key).await {
                Ok(()) => break Ok(()),
                // The call was closed by the end that we sent before the connection broke.
                Err(CallError::Refused { .. }) if sender.end_sent => break Ok(()),
                Err(CallError::Socket(error)) if !error.is_passing() => break Err(error.into()),
                Err(error @ CallError::Refused { .. }) => break Err(error),
                Err(error) => error,
            };
            if sender.opened_at.take().is_some_and(|at| at.elapsed() > BACKOFF[1]) {
                (wait, failing_since) = (BACKOFF[0], None);
            }
            if failing_since.get_or_insert_with(Instant::now).elapsed() > GIVE_UP {
                break Err(error);
            }
            tracing::debug!(call = %self.id, %error, "connecting again");
            count(&figures.reconnects);
            sleep(wait.mul_f64(rand::random_range(0.5..1.5))).await;
            wait = (wait * 2).min(BACKOFF[1]);
        };
        self.stage.send_replace(Stage::Over);
        outcome
    }
}

/// A call's sender, from one connection to the next.
struct Sender<'a> {
    call: &'a Call,
    figures: &'a Figures,
    /// When the call began, on our clock.
    origin: Instant,
    /// When the server took the call over the present connection.
    opened_at: Option<Instant>,
    end_sent: bool,
}

impl Sender<'_> {
    /// Plays what is left of the call over one connection.
    async fn play_once(&mut self, server: &Server, key: &str) -> Result<(), CallError> {
        let mut socket = server.connect("/v1/calls/ingest", key).await?;
        let resume_after = self.start(&mut socket).await?;
        self.opened_at = Some(Instant::now());
        self.call.stage.send_if_modified(|stage| {
            let is_new = *stage == Stage::New;
            *stage = (*stage).max(Stage::Open);
            is_new
        });
        self.note_acked(resume_after);

        let steps = &self.call.script.steps;
        let mut next = usize::try_from(resume_after).unwrap_or(usize::MAX).min(steps.len());
        let mut heard_at = Instant::now();
        loop {
            while steps.get(next).is_some_and(|step| !step.is_final) && self.is_due(next + 1) {
                // Something newer replaces this guess at once.
                next += 1;
            }
            if next == steps.len() && self.call.is_answered() {
                break;
            }
            tokio::select! {
                answer = socket.receive() => {
                    heard_at = Instant::now();
                    let gone = || SocketError::Dropped("the server closed the connection".to_owned());
                    self.hear(answer?.ok_or_else(gone)?);
                }
                () = sleep_until(self.due_at(next)), if next < steps.len() => {
                    self.send(&mut socket, next).await?;
                    next += 1;
                    heard_at = Instant::now();
                }
                () = sleep_until(heard_at + ANSWER), if next == steps.len() => return Err(CallError::Silent),
            }
        }
        socket.send(&Outgoing::End { reason: "hangup" }).await?;
        self.end_sent = true;
        // The server closes the connection when the end is on disk.
        while let Ok(Some(_)) =
            timeout(ANSWER, socket.receive::<Incoming>()).await.map_err(|_| CallError::Silent)?
        {}
        socket.close().await;
        Ok(())
    }

    /// Opens or resumes the call; returns the number of the last durable message.
    async fn start(&self, socket: &mut Socket) -> Result<u64, CallError> {
        let call = self.call;
        let start = Outgoing::Start {
            call: &call.id,
            agent: &call.agent,
            channel: call.script.channel,
            language: "en",
            started_at: Utc::now() - self.origin.elapsed(),
            knowledge: &call.knowledge,
        };
        socket.send(&start).await?;
        let answer = timeout(ANSWER, socket.receive()).await.map_err(|_| CallError::Silent)??;
        match answer {
            Some(Incoming::Started { resume_after }) => Ok(resume_after),
            Some(Incoming::Error { code, message, .. }) => {
                Err(CallError::Refused { call: call.id.clone(), code, message })
            }
            Some(Incoming::Ack { .. } | Incoming::Other) => {
                let text = "the server answered a start with something else".to_owned();
                Err(SocketError::Dropped(text).into())
            }
            None => Err(SocketError::Dropped("the server closed the connection".to_owned()).into()),
        }
    }

    async fn send(&self, socket: &mut Socket, index: usize) -> Result<(), SocketError> {
        let step = self.call.script.steps[index];
        if step.is_final {
            let mut progress = self.call.progress();
            let turn = &mut progress[step.turn];
            if turn.sent_at.is_none() {
                turn.sent_at = Some(Instant::now());
                count(&self.figures.segments);
            }
        }
        socket.send(&self.call.script.message(index)).await
    }

    fn hear(&self, answer: Incoming) {
        match answer {
            Incoming::Ack { seq } => self.note_acked(seq),
            Incoming::Error { code, message, seq } => {
                tracing::warn!(call = %self.call.id, code, message, "the server refused a message");
                count(&self.figures.refused);
                // Nobody waits for its acknowledgement; what follows gets its own.
                let index = seq.and_then(|seq| usize::try_from(seq).ok()?.checked_sub(1));
                let step = index.and_then(|index| self.call.script.steps.get(index));
                if let Some(step) = step.filter(|step| step.is_final) {
                    self.call.progress()[step.turn].answer = Answer::Refused;
                }
            }
            Incoming::Started { .. } | Incoming::Other => {}
        }
    }

    /// Notes that all messages up to `seq` are on disk.
    fn note_acked(&self, seq: u64) {
        let script = &self.call.script;
        let mut progress = self.call.progress();
        let durable = usize::try_from(seq).unwrap_or(usize::MAX).min(script.steps.len());
        // Newest first: everything before an acknowledged turn was acknowledged with it.
        for step in script.steps[..durable].iter().rev().filter(|step| step.is_final) {
            let turn = &mut progress[step.turn];
            match turn.answer {
                Answer::None => turn.answer = Answer::Acked,
                Answer::Acked => break,
                Answer::Refused => continue,
            }
            count(&self.figures.acked);
            if let Some(sent_at) = turn.sent_at {
                self.figures.took(Latency::Ack, sent_at.elapsed());
            }
        }
    }

    fn due_at(&self, index: usize) -> Instant {
        let at_ms = self.call.script.steps.get(index).map_or(0, |step| step.at_ms);
        self.origin + Duration::from_millis(at_ms).div_f64(self.call.speed)
    }

    fn is_due(&self, index: usize) -> bool {
        index < self.call.script.steps.len() && self.due_at(index) <= Instant::now()
    }
}
