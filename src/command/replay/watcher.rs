//! One call seen by its watcher: when each event arrives, and at the end, whether all are there once.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::command::replay::call::Call;
use crate::command::replay::call::Stage;
use crate::command::replay::figures::Figures;
use crate::command::replay::figures::Latency;
use crate::command::replay::script;
use crate::command::replay::socket::Server;
use crate::command::replay::socket::Socket;
use crate::command::replay::socket::SocketError;
use crate::event::DraftState;
use crate::event::Speaker;

/// How long after its last message a call may take to be closed.
const CLOSING: Duration = Duration::from_secs(30);
/// How long a finished call's log may pause while it is read back.
const READING: Duration = Duration::from_secs(10);
/// How long a watcher waits before it connects again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a watcher looks at in an envelope. Lean, for a load test reads thousands a second.
#[derive(Debug, Deserialize)]
struct Seen {
    seq: u64,
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    segment: Option<String>,
    speaker: Option<Speaker>,
    #[serde(rename = "final", default)]
    is_final: bool,
    #[serde(default)]
    tentative: bool,
    text: Option<String>,
    tentative_text: Option<String>,
    state: Option<DraftState>,
}

/// Watches a call from its opening to its end and notes how long everything took.
///
/// Returns early when the key may not watch; the figures then say so.
pub async fn watch(call: &Call, server: &Server, key: &str, figures: &Figures) {
    let mut watcher = Watcher { call, figures, after: 0, asked: None, drafts: HashMap::new() };
    let following = async {
        call.reached(Stage::Open).await;
        loop {
            match watcher.follow(server, key).await {
                Ok(()) => return,
                Err(error) if error.is_passing() => sleep(AGAIN).await,
                Err(error) => {
                    let was_blind = error.is_forbidden() && figures.is_blind.swap(true, Ordering::Relaxed);
                    if !was_blind {
                        tracing::warn!(%error, "cannot watch the call, only its acknowledgements are measured");
                    }
                    return;
                }
            }
        }
    };
    let closing = async {
        call.reached(Stage::Over).await;
        sleep(CLOSING).await;
        tracing::warn!(call = %call.id, "the server did not close the call");
    };
    tokio::select! {
        () = following => {}
        () = closing => {}
    }
}

struct Watcher<'a> {
    call: &'a Call,
    figures: &'a Figures,
    /// The last settled envelope's number.
    after: u64,
    /// The turn in which the customer last finished speaking: what a new draft answers.
    asked: Option<usize>,
    /// The drafts that are being written.
    drafts: HashMap<String, Answer>,
}

/// A draft and the turn that it answers.
#[derive(Debug, Clone, Copy)]
struct Answer {
    turn: usize,
    has_text: bool,
}

impl Watcher<'_> {
    /// Follows the call over one connection until it is closed.
    async fn follow(&mut self, server: &Server, key: &str) -> Result<(), SocketError> {
        let mut socket = open(self.call, self.after, server, key).await?;
        while let Some(seen) = socket.receive::<Seen>().await? {
            if !seen.tentative {
                self.after = self.after.max(seen.seq);
            }
            if seen.kind == "call_closed" {
                socket.close().await;
                return Ok(());
            }
            self.note(&seen);
        }
        Err(SocketError::Dropped("the server closed the connection".to_owned()))
    }

    fn note(&mut self, seen: &Seen) {
        let of_segment = seen.segment.as_deref().and_then(script::turn_of);
        match seen.kind.as_str() {
            "segment" if seen.is_final => {
                let turn = seen.id.as_deref().and_then(script::turn_of);
                if seen.speaker == Some(Speaker::Customer) {
                    self.asked = turn;
                }
                self.took(Latency::Segment, turn);
            }
            "sensitive" => self.took(Latency::Sensitive, of_segment),
            "emotion" => self.took(Latency::Emotion, of_segment),
            "cards" => self.took(Latency::Cards, of_segment),
            "draft" => self.note_draft(seen),
            _ => {}
        }
    }

    fn note_draft(&mut self, seen: &Seen) {
        let (Some(id), Some(asked)) = (&seen.id, self.asked) else { return };
        let known = self.drafts.get(id).copied();
        let mut answer = known.unwrap_or(Answer { turn: asked, has_text: false });
        let is_there = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        if !answer.has_text && (is_there(&seen.text) || is_there(&seen.tentative_text)) {
            answer.has_text = true;
            self.took(Latency::DraftFirst, Some(answer.turn));
        }
        if seen.state == Some(DraftState::Done) {
            self.took(Latency::DraftDone, Some(answer.turn));
        }
        match seen.state {
            Some(DraftState::Writing) => self.drafts.insert(id.clone(), answer),
            _ => self.drafts.remove(id),
        };
    }

    fn took(&self, what: Latency, turn: Option<usize>) {
        if let Some(sent_at) = turn.and_then(|turn| self.call.sent_at(turn)) {
            self.figures.took(what, sent_at.elapsed());
        }
    }
}

/// Reads a finished call back and counts what is lost and what is there twice.
///
/// # Errors
/// When the log cannot be read.
pub async fn verify(call: &Call, server: &Server, key: &str, figures: &Figures) -> Result<(), SocketError> {
    let mut socket = open(call, 0, server, key).await?;
    let acked = call.acked();
    let mut times_seen = vec![0_u64; acked.len()];
    loop {
        let received = timeout(READING, socket.receive::<Seen>()).await;
        // A log that ends without the call's end has still told what it holds.
        let Ok(Some(seen)) = received.unwrap_or(Ok(None)) else { break };
        if seen.kind == "call_closed" {
            break;
        }
        let turn = seen.id.as_deref().and_then(script::turn_of);
        if !seen.is_final || seen.kind != "segment" {
            continue;
        }
        if let Some(times) = turn.and_then(|turn| times_seen.get_mut(turn)) {
            *times += 1;
        }
    }
    socket.close().await;
    let lost = acked.iter().zip(&times_seen).filter(|(is_acked, times)| **is_acked && **times == 0).count();
    let duplicated: u64 = times_seen.iter().map(|times| times.saturating_sub(1)).sum();
    figures.lost.fetch_add(lost as u64, Ordering::Relaxed);
    figures.duplicated.fetch_add(duplicated, Ordering::Relaxed);
    Ok(())
}

async fn open(call: &Call, after: u64, server: &Server, key: &str) -> Result<Socket, SocketError> {
    server.connect(&format!("/v1/calls/{}/events?after={after}", call.id), key).await
}
