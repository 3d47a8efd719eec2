//! Serves one connection of a carrier, whatever its wire: reads, answers, feeds the line, ends.

use std::time::Duration;

use actix_ws::CloseCode;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::assist::line::Line;
use crate::assist::line::Tidings;
use crate::event::Speaker;
use crate::server::carriers::legs::Leg;
use crate::server::carriers::legs::Legs;
use crate::server::socket::Heard;
use crate::server::socket::Socket;
use crate::telephony::Frame;
use crate::telephony::Happening;
use crate::telephony::Message;
use crate::telephony::News;
use crate::telephony::Opening;
use crate::telephony::Wire;
use crate::telephony::WireError;

/// How long a connection may take to open its call.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// After how long without a message a connection is taken for dead.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long the carrier has to close a connection whose call is over, before it is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// How long a carrier has to leave when the server goes down.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// How much is read of a TCP connection at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// How long a carrier's read may hold up our answers to it before it is given up.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// The two kinds of connection that carriers open.
pub(super) enum Connection {
    /// A websocket.
    Web(Box<Socket>),
    /// A TCP connection.
    Tcp(TcpStream, Vec<u8>),
}

impl Connection {
    /// Returns a TCP connection.
    pub fn tcp(stream: TcpStream) -> Connection {
        Connection::Tcp(stream, vec![0; READ_BYTES])
    }

    async fn heard(&mut self) -> Heard {
        match self {
            Connection::Web(socket) => socket.heard().await,
            Connection::Tcp(stream, buffer) => match stream.read(buffer).await {
                Ok(0) | Err(_) => Heard::Gone,
                Ok(count) => Heard::Binary(buffer[..count].to_vec().into()),
            },
        }
    }

    /// Sends a frame; returns whether the connection goes on.
    async fn send(&mut self, frame: Frame) -> bool {
        let sending = async {
            match (self, frame) {
                (Connection::Web(socket), Frame::Text(text)) => socket.send(text).await.is_ok(),
                (Connection::Web(socket), Frame::Binary(bytes)) => socket.send_binary(bytes).await.is_ok(),
                (Connection::Web(socket), Frame::Close(code, reason)) => {
                    socket.end(CloseCode::from(code), &reason).await;
                    false
                }
                (Connection::Tcp(stream, _), Frame::Binary(bytes)) => stream.write_all(&bytes).await.is_ok(),
                (Connection::Tcp(_, _), Frame::Text(_)) => true,
                (Connection::Tcp(stream, _), Frame::Close(..)) => {
                    // One that is gone needs no goodbye.
                    let _ = stream.shutdown().await;
                    false
                }
            }
        };
        tokio::time::timeout(SEND_WITHIN, sending).await.unwrap_or(false)
    }
}

/// One connection with its wire and its line.
pub(super) struct Driver {
    pub connection: Connection,
    pub wire: Box<dyn Wire>,
    pub line: Line,
    /// The tenant whose calls these are.
    pub tenant: String,
    /// Where the other speaker's connection is found.
    pub legs: Legs,
    /// What a registration or the URL says of the call beside the carrier.
    pub known: Opening,
}

/// Where a connection stands.
enum Phase {
    /// The call is not open yet.
    Waiting,
    /// The carrier tries the connection.
    Probing,
    /// The call is open.
    Open(Leg),
    /// The call is over; the carrier may close.
    Over,
}

/// What goes on with a connection.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

impl Driver {
    /// Serves until one side ends it. A call that its carrier did not end waits for its return.
    /// `first` was read of it already.
    pub async fn serve(mut self, mut stopping: watch::Receiver<bool>, first: Option<Vec<u8>>) {
        let mut phase = Phase::Waiting;
        if let Some(first) = first
            && self.hear(Heard::Binary(first.into()), &mut phase).await == Next::End
        {
            return self.line.lose().await;
        }
        let mut deadline = Instant::now() + OPEN_WITHIN;
        let mut is_draining = false;
        loop {
            let leg = match &mut phase {
                Phase::Open(Leg::Owner(owned)) => Some(owned),
                _ => None,
            };
            let next = tokio::select! {
                _ = stopping.wait_for(|is_stopping| *is_stopping), if !is_draining => {
                    is_draining = true;
                    deadline = Instant::now() + DRAIN_WITHIN;
                    let frames = self.wire.tell(News::Draining);
                    if frames.is_empty() {
                        self.close(CloseCode::Away, "the server is stopping").await;
                        break;
                    }
                    self.send(frames).await
                }
                happening = joined(leg) => {
                    // What a joined connection says is never the end of the call.
                    let _ = self.line.take(happening).await;
                    Next::GoOn
                }
                progress = self.line.progress() => match self.line.go_on(progress).await {
                    Some(tidings) => self.tell(tidings).await,
                    None => Next::GoOn,
                },
                heard = self.connection.heard() => {
                    let next = self.hear(heard, &mut phase).await;
                    if !is_draining {
                        let patience = match phase {
                            Phase::Waiting => deadline - Instant::now(),
                            Phase::Over => CLOSE_WITHIN,
                            Phase::Probing | Phase::Open(_) => IDLE_MAX,
                        };
                        deadline = Instant::now() + patience;
                    }
                    next
                }
                () = tokio::time::sleep_until(deadline) => {
                    let why = match phase {
                        Phase::Waiting => "no call was started",
                        Phase::Over => "the call is over",
                        _ if is_draining => "the server is stopping",
                        _ => "nothing was heard for too long",
                    };
                    let code = if matches!(phase, Phase::Over) { CloseCode::Normal } else { CloseCode::Away };
                    self.close(code, why).await;
                    Next::End
                }
            };
            if next == Next::End {
                break;
            }
        }
        if matches!(phase, Phase::Open(Leg::Owner(_))) {
            for happening in self.wire.rest() {
                // Only opening can be refused.
                let _ = self.line.take(happening).await;
            }
            self.line.lose().await;
        }
    }

    async fn hear(&mut self, heard: Heard, phase: &mut Phase) -> Next {
        let heard = match &heard {
            Heard::Text(text) => self.wire.hear(Message::Text(text)),
            Heard::Binary(bytes) => self.wire.hear(Message::Binary(bytes)),
            Heard::Refused { message, .. } => Err(WireError::Malformed(message.clone())),
            Heard::TooLarge => {
                let limit = crate::telephony::MESSAGE_MAX_BYTES;
                let error = WireError::TooLarge { bytes: limit + 1, limit };
                self.line.mark(&error).await;
                let frames = self.wire.refusal(&error);
                self.send(frames).await;
                self.close(CloseCode::Size, "message_too_large").await;
                return Next::End;
            }
            Heard::Gone => return Next::End,
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                tracing::debug!(%error, "a carrier's message was refused");
                self.line.mark(&error).await;
                let frames = self.wire.refusal(&error);
                return self.send(frames).await;
            }
        };
        // Answers first: a carrier measures how long they take.
        if self.send(heard.replies).await == Next::End {
            return Next::End;
        }
        for happening in heard.happenings {
            if self.act(happening, phase).await == Next::End {
                return Next::End;
            }
        }
        Next::GoOn
    }

    async fn act(&mut self, happening: Happening, phase: &mut Phase) -> Next {
        match (happening, &mut *phase) {
            (Happening::Opened(opening), Phase::Waiting) => self.open(opening, phase).await,
            (Happening::Probed, Phase::Waiting) => {
                *phase = Phase::Probing;
                Next::GoOn
            }
            (Happening::Closed { reason }, Phase::Open(Leg::Owner(_))) => {
                *phase = Phase::Over;
                for tidings in self.line.finish(reason).await {
                    self.tell(tidings).await;
                }
                self.finished().await
            }
            (Happening::Closed { .. }, _) => {
                *phase = Phase::Over;
                self.finished().await
            }
            (happening, Phase::Open(Leg::Joined(owner))) => match owner.send(happening).await {
                Ok(()) => Next::GoOn,
                // The owner's call is over, and so is this leg of it.
                Err(_) => {
                    *phase = Phase::Over;
                    self.finished().await
                }
            },
            (happening, _) => {
                // Only opening can be refused.
                let _ = self.line.take(happening).await;
                Next::GoOn
            }
        }
    }

    /// Opens the call, or joins the other speaker's connection.
    async fn open(&mut self, opening: Opening, phase: &mut Phase) -> Next {
        let opening = merged(opening, &self.known);
        let leg = match opening.speaker {
            Some(speaker) => Some(self.legs.enter(&self.tenant, &opening.call, speaker)),
            None => None,
        };
        let leg = match leg {
            Some(joined @ Leg::Joined(_)) => joined,
            owner => match self.line.take(Happening::Opened(opening)).await {
                // Nobody can join a line that brings both speakers: its place is its own.
                Ok(()) => owner.unwrap_or_else(|| Legs::default().enter("", "", Speaker::Customer)),
                Err(refusal) => {
                    tracing::warn!(%refusal, "a carrier's call was refused");
                    let frames = self.wire.tell(News::Refused(&refusal.to_string()));
                    self.send(frames).await;
                    self.close(CloseCode::Policy, refusal.code()).await;
                    return Next::End;
                }
            },
        };
        *phase = Phase::Open(leg);
        let frames = self.wire.tell(News::Opened);
        self.send(frames).await
    }

    /// Says goodbye; where the wire has a word for it, the carrier closes.
    async fn finished(&mut self) -> Next {
        let frames = self.wire.tell(News::Finished);
        if frames.is_empty() {
            self.close(CloseCode::Normal, "the call is over").await;
            return Next::End;
        }
        self.send(frames).await
    }

    async fn tell(&mut self, tidings: Tidings) -> Next {
        let frames = match &tidings {
            Tidings::Segment(segment, words) => self.wire.tell(News::Segment(segment, words.as_deref())),
            Tidings::Cards(cards) => self.wire.tell(News::Cards(cards)),
            Tidings::CutOff(refusal) => {
                let frames = self.wire.tell(News::Refused(&refusal.to_string()));
                self.send(frames).await;
                self.close(CloseCode::Away, refusal.code()).await;
                return Next::End;
            }
        };
        self.send(frames).await
    }

    async fn send(&mut self, frames: Vec<Frame>) -> Next {
        for frame in frames {
            if !self.connection.send(frame).await {
                return Next::End;
            }
        }
        Next::GoOn
    }

    async fn close(&mut self, code: CloseCode, reason: &str) {
        self.connection.send(Frame::Close(u16::from(code), reason.to_owned())).await;
    }
}

/// Returns what a joined connection says; never without one.
async fn joined(leg: Option<&mut super::legs::Owned>) -> Happening {
    match leg {
        Some(owned) => owned.next().await,
        None => std::future::pending().await,
    }
}

/// Adds what is known of a call to what its carrier says; the carrier's word counts.
fn merged(opening: Opening, known: &Opening) -> Opening {
    let Opening { call, agent, customer, language, knowledge, is_chat, speaker, metadata } = opening;
    Opening {
        call: if known.call.is_empty() { call } else { known.call.clone() },
        agent: agent.or_else(|| known.agent.clone()),
        customer: customer.or_else(|| known.customer.clone()),
        language: language.or_else(|| known.language.clone()),
        knowledge: if knowledge.is_empty() { known.knowledge.clone() } else { knowledge },
        is_chat,
        speaker: speaker.or(known.speaker),
        metadata,
    }
}
