//! Serves one connection of a carrier, whatever its wire: reads, answers, feeds the line, ends.

use std::time::Duration;

use actix_ws::CloseCode;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::assist::intake::Refusal;
use crate::assist::line::Line;
use crate::assist::line::Tidings;
use crate::server::carriers::legs::Entry;
use crate::server::carriers::legs::Legs;
use crate::server::carriers::legs::Owned;
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
/// After how long without a message a connection is taken for dead. A websocket answers pings meanwhile, and
/// may have nothing to say during a hold.
const WEB_IDLE_MAX: Duration = Duration::from_secs(1_800);
const TCP_IDLE_MAX: Duration = Duration::from_secs(120);
/// How long the carrier has to close a connection whose call is over, before it is closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);
/// How long a carrier has to leave when the server goes down.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// The codes of a goodbye in good order, and of one without a code (RFC 6455, section 7.4.1).
const HUNG_UP: [u16; 3] = [1000, 1001, 1005];
/// How long the other speaker's connection has to hang up too, before the call is over without it.
const HANG_UP_WITHIN: Duration = Duration::from_millis(500);
/// The reason of a carrier that ends a connection to come back with another.
const RECONNECT: &str = "reconnect";
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

    fn idle_max(&self) -> Duration {
        match self {
            Connection::Web(_) => WEB_IDLE_MAX,
            Connection::Tcp(..) => TCP_IDLE_MAX,
        }
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
    connection: Connection,
    wire: Box<dyn Wire>,
    line: Line,
    /// The tenant whose calls these are.
    tenant: String,
    /// Where the other speaker's connection is found.
    legs: Legs,
    /// What a registration or the URL says of the call beside the carrier.
    known: Opening,
    phase: Phase,
    /// When the connection is ended if nothing happens.
    deadline: Instant,
    /// Whether the carrier was told to go for its mistakes, and has a moment for that.
    is_leaving: bool,
    /// The call as it was opened.
    opening: Opening,
}

/// Where a connection stands.
enum Phase {
    /// The call is not open yet.
    Waiting,
    /// The carrier tries the connection.
    Probing,
    /// The call is open, and this connection brings all of it.
    Alone,
    /// The call is open; the other speaker's connection may join.
    Owner(Owned),
    /// This connection has joined the other speaker's.
    Joined(mpsc::Sender<Happening>),
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
    /// Returns a connection that nothing was heard of; the words of `known` count where the carrier has none.
    pub fn new(
        connection: Connection,
        wire: Box<dyn Wire>,
        line: Line,
        tenant: String,
        legs: Legs,
        known: Opening,
    ) -> Driver {
        let (phase, deadline) = (Phase::Waiting, Instant::now() + OPEN_WITHIN);
        let opening = Opening::default();
        Driver { connection, wire, line, tenant, legs, known, phase, deadline, is_leaving: false, opening }
    }

    /// Serves until one side ends it. A call that its carrier did not end waits for its return.
    /// `first` was read of it already.
    pub async fn serve(mut self, mut draining: watch::Receiver<bool>, first: Option<Vec<u8>>) {
        let mut next = match first {
            Some(first) => self.hear(Heard::Binary(first.into())).await,
            None => Next::GoOn,
        };
        let mut is_draining = false;
        while next == Next::GoOn {
            next = tokio::select! {
                _ = until(&mut draining), if !is_draining => {
                    is_draining = true;
                    self.deadline = Instant::now() + DRAIN_WITHIN;
                    self.drain().await
                }
                happening = joined(&mut self.phase) => {
                    self.take(happening).await;
                    Next::GoOn
                }
                progress = self.line.progress() => match self.line.go_on(progress).await {
                    Some(tidings) => self.tell(tidings).await,
                    None => Next::GoOn,
                },
                heard = self.connection.heard() => {
                    let next = self.hear(heard).await;
                    if !is_draining && !self.is_leaving && !matches!(self.phase, Phase::Waiting | Phase::Over) {
                        self.deadline = Instant::now() + self.connection.idle_max();
                    }
                    next
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    let (code, why) = match self.phase {
                        Phase::Over => (CloseCode::Normal, "the call is over"),
                        _ if is_draining => (CloseCode::Away, "the server is stopping"),
                        _ if self.is_leaving => (CloseCode::Protocol, "the stream was faulty"),
                        Phase::Waiting => (CloseCode::Policy, "no call was started"),
                        _ => (CloseCode::Away, "nothing was heard for too long"),
                    };
                    self.close(code, why).await
                }
            };
        }
        self.let_go().await;
    }

    /// Says what was heard of a call that its carrier did not end, and leaves it open.
    async fn let_go(&mut self) {
        let rest = self.wire.rest();
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Owner(mut owned) => {
                let of_others = owned.rest();
                for happening in rest.into_iter().chain(of_others) {
                    self.take(happening).await;
                }
                self.line.lose().await;
            }
            Phase::Alone => {
                for happening in rest {
                    self.take(happening).await;
                }
                self.line.lose().await;
            }
            Phase::Joined(owner) => {
                for happening in rest {
                    // An owner that is gone hears nothing.
                    let _ = owner.send(happening).await;
                }
            }
            Phase::Waiting | Phase::Probing | Phase::Over => {}
        }
    }

    async fn hear(&mut self, heard: Heard) -> Next {
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
                return self.close(CloseCode::Size, "message_too_large").await;
            }
            Heard::Closed(code) if HUNG_UP.contains(code) && self.wire.hangs_up_by_closing() => {
                self.end("hangup".to_owned()).await;
                return self.close(CloseCode::Normal, "the call is over").await;
            }
            Heard::Closed(_) | Heard::Gone => return Next::End,
        };
        let heard = match heard {
            Ok(heard) => heard,
            Err(error) => {
                tracing::debug!(%error, "a carrier's message was refused");
                self.line.mark(&error).await;
                let frames = self.wire.refusal(&error);
                if self.wire.is_leaving() && !std::mem::replace(&mut self.is_leaving, true) {
                    self.deadline = Instant::now() + CLOSE_WITHIN;
                }
                return self.send(frames).await;
            }
        };
        // Answers first: a carrier measures how long they take.
        if self.send(heard.replies).await == Next::End {
            return Next::End;
        }
        for happening in heard.happenings {
            if self.act(happening).await == Next::End {
                return Next::End;
            }
        }
        Next::GoOn
    }

    async fn act(&mut self, happening: Happening) -> Next {
        match (happening, &self.phase) {
            (Happening::Opened(opening), Phase::Waiting) => self.open(opening).await,
            // A call that is open is not opened again.
            (Happening::Opened(_), _) => Next::GoOn,
            (Happening::Probed, Phase::Waiting) => {
                self.phase = Phase::Probing;
                Next::GoOn
            }
            (Happening::Closed { reason }, _) => {
                self.end(reason).await;
                let frames = self.wire.tell(News::Finished);
                self.goodbye(frames, CloseCode::Normal, "the call is over").await
            }
            (happening, Phase::Joined(owner)) => match owner.send(happening).await {
                Ok(()) => Next::GoOn,
                Err(mpsc::error::SendError(happening)) => self.come_back(happening).await,
            },
            (happening, _) => {
                self.take(happening).await;
                Next::GoOn
            }
        }
    }

    /// Feeds the line; only opening can be refused.
    async fn take(&mut self, happening: Happening) {
        let _ = self.line.take(happening).await;
    }

    /// Opens the call, or joins the other speaker's connection.
    async fn open(&mut self, opening: Opening) -> Next {
        self.opening = merged(opening, &self.known);
        match self.enter().await {
            Ok(phase) => {
                self.phase = phase;
                let frames = self.wire.tell(News::Opened);
                self.send(frames).await
            }
            Err(refusal) => self.refuse(&refusal).await,
        }
    }

    /// Finds the place of this connection in its call.
    async fn enter(&mut self) -> Result<Phase, Refusal> {
        let call = &self.opening.call;
        let Some(speaker) = self.opening.speaker else {
            self.line.take(Happening::Opened(self.opening.clone())).await?;
            return Ok(Phase::Alone);
        };
        let entry = self.legs.enter(&self.tenant, call, speaker);
        if let Entry::Joined(owner) = entry {
            return Ok(Phase::Joined(owner));
        }
        self.line.take(Happening::Opened(self.opening.clone())).await?;
        Ok(Phase::Owner(match entry {
            Entry::Owner(owned) => owned,
            Entry::Joined(_) | Entry::Taken => self.legs.own(&self.tenant, &self.opening.call, speaker),
        }))
    }

    /// Goes on alone after the connection that this one had joined is gone, unless the call is over.
    async fn come_back(&mut self, happening: Happening) -> Next {
        self.line.is_whole = true;
        match self.enter().await {
            Ok(Phase::Joined(owner)) => {
                // An owner that is gone again hears nothing.
                let _ = owner.send(happening).await;
                self.phase = Phase::Joined(owner);
                Next::GoOn
            }
            Ok(phase) => {
                self.phase = phase;
                self.take(happening).await;
                Next::GoOn
            }
            Err(refusal) => self.refuse(&refusal).await,
        }
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Next {
        tracing::warn!(%refusal, "a carrier's call was refused");
        let frames = self.wire.tell(News::Refused(&refusal.to_string()));
        self.goodbye(frames, CloseCode::Policy, refusal.code()).await
    }

    /// Ends the call, unless another connection owns it or the carrier means to come back.
    async fn end(&mut self, reason: String) {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            phase @ (Phase::Alone | Phase::Owner(_)) if reason == RECONNECT => {
                self.phase = phase;
                self.let_go().await;
            }
            phase @ (Phase::Alone | Phase::Owner(_)) => {
                if let Phase::Owner(mut owned) = phase {
                    owned.leave();
                    let until = Instant::now() + HANG_UP_WITHIN;
                    while let Ok(Some(happening)) = tokio::time::timeout_at(until, owned.last()).await {
                        self.take(happening).await;
                    }
                }
                for tidings in self.line.finish(reason).await {
                    self.tell(tidings).await;
                }
            }
            Phase::Waiting | Phase::Probing | Phase::Joined(_) | Phase::Over => {}
        }
    }

    /// Asks the carrier to come back to another server, where its wire has a word for that.
    async fn drain(&mut self) -> Next {
        let frames = self.wire.tell(News::Draining);
        if frames.is_empty() {
            return self.close(CloseCode::Away, "the server is stopping").await;
        }
        self.send(frames).await
    }

    async fn tell(&mut self, tidings: Tidings) -> Next {
        let frames = match &tidings {
            Tidings::Segment(segment, words) => self.wire.tell(News::Segment(segment, words.as_deref())),
            Tidings::Cards(cards) => self.wire.tell(News::Cards(cards)),
            Tidings::CutOff(refusal) => return self.cut_off(refusal).await,
        };
        self.send(frames).await
    }

    /// Another connection took the call: the other speaker's is joined, any other has it alone.
    async fn cut_off(&mut self, refusal: &Refusal) -> Next {
        let (call, speaker) = (&self.opening.call, self.opening.speaker);
        if let Some(owner) = speaker.and_then(|speaker| self.legs.join(&self.tenant, call, speaker)) {
            self.phase = Phase::Joined(owner);
            return Next::GoOn;
        }
        self.phase = Phase::Over;
        self.refuse(refusal).await
    }

    /// Says the last frames; where the wire leaves closing to the carrier, it has a moment for that.
    async fn goodbye(&mut self, frames: Vec<Frame>, code: CloseCode, reason: &str) -> Next {
        self.phase = Phase::Over;
        if frames.is_empty() {
            return self.close(code, reason).await;
        }
        self.deadline = Instant::now() + CLOSE_WITHIN;
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

    async fn close(&mut self, code: CloseCode, reason: &str) -> Next {
        self.connection.send(Frame::close(u16::from(code), reason)).await;
        Next::End
    }
}

/// Returns when the server is about to stop.
async fn until(draining: &mut watch::Receiver<bool>) {
    // A server that is gone drains for ever.
    let _ = draining.wait_for(|is_draining| *is_draining).await;
}

/// Returns what a joined connection says; never without one.
async fn joined(phase: &mut Phase) -> Happening {
    match phase {
        Phase::Owner(owned) => owned.next().await,
        _ => std::future::pending().await,
    }
}

/// Adds what is known of a call to what its carrier says. Whoever names the call beside the carrier means it;
/// for the rest the carrier's word counts.
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
        metadata: if metadata.is_null() { known.metadata.clone() } else { metadata },
    }
}
