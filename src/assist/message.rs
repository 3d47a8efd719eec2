//! What may be said to a call's actor, and how it answers.

use tokio::sync::oneshot;

use crate::assist::intake::Refusal;
use crate::assist::intake::Spoken;
use crate::assist::intake::Start;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Verdict;
use crate::event::Voice;

/// How many messages wait for a call. Overflow rule: final segments and people wait, and with
/// them their sockets; what is tentative is dropped, the next of its kind replaces it anyway.
pub(super) const MAILBOX: usize = 64;

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a sender gets when its call is open.
#[derive(Debug)]
pub struct Attached {
    /// The number of the call's last event so far.
    pub seq: u64,
    /// The highest sender's number that is durable.
    pub resume_after: u64,
    /// The end of what was said so far, in milliseconds from the call's start.
    pub duration_ms: u64,
    /// What the call's speech measured until its last sender left.
    pub voice: Voice,
    /// The ids of the latest segments that are logged.
    pub known: Vec<String>,
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

/// What people do to a call. Their texts are redacted by the call, which knows what it has hidden.
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
    /// The words of something that a sender heard before another took over.
    SayLate {
        spoken: Box<Spoken>,
    },
    Partial {
        feeder: u64,
        segment: Segment,
    },
    /// What was sensed beside the words: it holds no text of the call's people.
    Sense {
        feeder: u64,
        events: Vec<Event>,
        is_tentative: bool,
    },
    /// A segment was somebody else's.
    Revise {
        feeder: u64,
        segment: String,
        speaker: Speaker,
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

/// Answers one who asked.
pub(super) fn send<T>(reply: Reply<T>, answer: Result<T, Refusal>) {
    // Whoever asked may have left; the answer is only for them.
    let _ = reply.send(answer);
}

/// Answers a message with a refusal.
pub(super) fn refuse(message: Message, refusal: &Refusal) {
    match message {
        Message::Attach { reply, .. } => send(reply, Err(refusal.clone())),
        Message::Say { reply, .. } | Message::End { reply, .. } => send(reply, Err(refusal.clone())),
        Message::Act { reply, .. } => send(reply, Err(refusal.clone())),
        Message::SayLate { .. }
        | Message::Partial { .. }
        | Message::Sense { .. }
        | Message::Revise { .. }
        | Message::CloseIfLost => {}
    }
}
