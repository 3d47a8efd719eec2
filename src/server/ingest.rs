//! `GET /v1/calls/ingest`: a sender feeds one call over a websocket.

use std::time::Instant;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web;
use actix_ws::CloseCode;
use actix_ws::Closed;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use serde_json::json;

use crate::assist::Calls;
use crate::assist::Feed;
use crate::assist::calls::Acknowledgement;
use crate::assist::counters::count;
use crate::assist::intake;
use crate::assist::intake::Incoming;
use crate::assist::intake::Refusal;
use crate::assist::intake::Start;
use crate::event::CallKey;
use crate::server::auth::Ingest;
use crate::server::socket::BINARY;
use crate::server::socket::Heard;
use crate::server::socket::Socket;
use crate::store::Store;
use crate::store::identity::Identity;
use crate::store::identity::Role;

/// How many segments may wait for their acknowledgement. Overflow rule: the socket is not read
/// further, so the sender's writes wait.
const WINDOW: usize = 128;
/// What the calls of people who play the customer in the demo begin with.
const TRY_PREFIX: &str = "try-";
/// Closes a socket whose call another socket has taken over.
const TAKEN_OVER: u16 = 4009;

/// Answers the handshake and serves the socket until it ends.
pub(super) async fn ingest(
    request: HttpRequest,
    payload: web::Payload,
    identity: Ingest,
    calls: web::Data<Calls>,
    store: web::Data<Store>,
) -> Result<HttpResponse, actix_web::Error> {
    let (response, socket) = Socket::open(&request, payload, store, Some(identity.0.clone())).await?;
    let calls = calls.get_ref().clone();
    actix_web::rt::spawn(async move { Sender { socket, calls, identity: identity.0 }.serve().await });
    Ok(response)
}

/// How the socket ends.
enum End {
    /// The other side is gone.
    Gone,
    /// We close it.
    Close(CloseCode, String),
}

impl From<Closed> for End {
    fn from(_: Closed) -> End {
        End::Gone
    }
}

/// What waits for the disk.
enum Done {
    /// A segment: its number and when it came.
    Segment { seq: u64, came: Instant, outcome: Result<(), Refusal> },
    /// The end of the call.
    End(Result<(), Refusal>),
}

struct Sender {
    socket: Socket,
    calls: Calls,
    identity: Identity,
}

impl Sender {
    async fn serve(mut self) {
        let end = match self.feed_call().await {
            Ok(end) | Err(end) => end,
        };
        if let End::Close(code, reason) = end {
            self.socket.close(code, &reason).await;
        }
    }

    /// Waits for the start, then feeds the call until one side ends it.
    async fn feed_call(&mut self) -> Result<End, End> {
        let mut stopping = self.calls.stopping();
        let start = tokio::select! {
            _ = stopping.wait_for(|is_stopping| *is_stopping) => return Ok(going_away()),
            start = self.await_start() => start?,
        };
        let call = start.call.clone();
        let tenant = self.identity.tenant.clone();
        if let Some(end) = self.refuse_others_play(&start).await? {
            return Ok(end);
        }
        let mut feed = match self.calls.feed(&tenant, start).await {
            Ok(feed) => feed,
            Err(refusal) => return Ok(self.refuse_and_close(&refusal).await?),
        };
        let resume_after = feed.attached.resume_after;
        self.socket
            .send(json!({"type": "started", "call": call, "resume_after": resume_after}).to_string())
            .await?;

        let mut waiting: FuturesOrdered<BoxFuture<'static, Done>> = FuturesOrdered::new();
        loop {
            tokio::select! {
                biased;
                Some(done) = waiting.next(), if !waiting.is_empty() => {
                    if let Some(end) = self.report(done).await? {
                        return Ok(end);
                    }
                }
                cut_off = &mut feed.attached.detached, if waiting.is_empty() => {
                    // Without a reason the actor has failed: the sender may come back at once.
                    let refusal = cut_off.unwrap_or(Refusal::NotDurable);
                    return Ok(self.refuse_and_close(&refusal).await?);
                }
                _ = stopping.wait_for(|is_stopping| *is_stopping) => return Ok(going_away()),
                heard = self.socket.heard(), if waiting.len() < WINDOW => {
                    if let Some(end) = self.take(heard, &feed, &mut waiting).await? {
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// Returns the start, which must be the first message.
    async fn await_start(&mut self) -> Result<Start, End> {
        let refusal = match self.socket.heard().await {
            Heard::Text(text) => match intake::read(&text) {
                Ok(Incoming::Start(start)) => match self.check_permission(start) {
                    Ok(start) => return Ok(start),
                    Err(end) => end,
                },
                Ok(_) => ("start_expected", "the first message must be a start".to_owned(), None),
                Err((refusal, seq)) => (refusal.code(), refusal.to_string(), seq),
            },
            Heard::Binary(_) => (BINARY.0, BINARY.1.to_owned(), None),
            Heard::Refused { code, message } => (code, message, None),
            Heard::TooLarge => return Err(self.too_large().await?),
            Heard::Closed(_) | Heard::Gone => return Err(End::Gone),
        };
        let (code, message, seq) = refusal;
        count(&self.calls.parts().counters.refused);
        self.socket.send_error(code, &message, seq).await?;
        Err(End::Close(CloseCode::Policy, code.to_owned()))
    }

    /// Machines feed any call of their tenant; people who play the customer only their own.
    fn check_permission(&self, start: Start) -> Result<Start, (&'static str, String, Option<u64>)> {
        let identity = &self.identity;
        if identity.role == Role::Ingest {
            return Ok(start);
        }
        if !start.call.as_str().starts_with(TRY_PREFIX) {
            let message = format!("people may only feed calls whose name begins with {TRY_PREFIX}");
            return Err(("forbidden", message, None));
        }
        if identity.role == Role::Agent && start.agent != identity.name {
            return Err(("forbidden", format!("the agent must be {}", identity.name), None));
        }
        Ok(start)
    }

    /// People who play the customer go on with calls of the agent they named only; a name is easy to guess.
    async fn refuse_others_play(&mut self, start: &Start) -> Result<Option<End>, End> {
        let identity = &self.identity;
        if identity.role == Role::Ingest {
            return Ok(None);
        }
        let key = CallKey { tenant: identity.tenant.clone(), call: start.call.clone() };
        let known = match self.calls.parts().store.call(&key).await {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(%error, "call cannot be read");
                return Ok(Some(self.refuse_and_close(&Refusal::NotDurable).await?));
            }
        };
        if known.is_none_or(|record| record.agent == start.agent) {
            return Ok(None);
        }
        self.socket.send_error("forbidden", "this call is another agent's", None).await?;
        Ok(Some(End::Close(CloseCode::Policy, "forbidden".to_owned())))
    }

    /// Hands a message to the call, or refuses it by name and goes on.
    async fn take(
        &mut self,
        heard: Heard,
        feed: &Feed,
        waiting: &mut FuturesOrdered<BoxFuture<'static, Done>>,
    ) -> Result<Option<End>, End> {
        let (code, message, seq) = match heard {
            Heard::Text(text) => match intake::read(&text) {
                Ok(Incoming::Segment(spoken)) if spoken.segment.is_final => {
                    let seq = spoken.seq;
                    let came = Instant::now();
                    let acknowledgement = feed.say(spoken).await;
                    waiting.push_back(
                        outcome(acknowledgement)
                            .map(move |outcome| Done::Segment { seq, came, outcome })
                            .boxed(),
                    );
                    return Ok(None);
                }
                Ok(Incoming::Segment(spoken)) => {
                    feed.show(spoken.segment);
                    return Ok(None);
                }
                Ok(Incoming::End(end)) => {
                    let acknowledgement = feed.end(end.reason).await;
                    waiting.push_back(outcome(acknowledgement).map(Done::End).boxed());
                    return Ok(None);
                }
                Ok(Incoming::Start(_)) => {
                    ("already_started", "this socket feeds a call already".to_owned(), None)
                }
                Err((refusal, seq)) => (refusal.code(), refusal.to_string(), seq),
            },
            Heard::Binary(_) => (BINARY.0, BINARY.1.to_owned(), None),
            Heard::Refused { code, message } => (code, message, None),
            Heard::TooLarge => return Ok(Some(self.too_large().await?)),
            Heard::Closed(_) | Heard::Gone => return Ok(Some(End::Gone)),
        };
        count(&self.calls.parts().counters.refused);
        self.socket.send_error(code, &message, seq).await?;
        Ok(None)
    }

    /// Tells the sender what became of a message.
    async fn report(&mut self, done: Done) -> Result<Option<End>, Closed> {
        let (refusal, seq) = match done {
            Done::Segment { seq, came, outcome: Ok(()) } => {
                self.socket.send(format!(r#"{{"type":"ack","seq":{seq}}}"#)).await?;
                self.calls.parts().counters.acknowledged.observe(came.elapsed());
                return Ok(None);
            }
            Done::End(Ok(())) => {
                return Ok(Some(End::Close(CloseCode::Normal, "the call is closed".to_owned())));
            }
            Done::Segment { seq, outcome: Err(refusal), .. } => (refusal, Some(seq)),
            Done::End(Err(refusal)) => (refusal, None),
        };
        if let Some(close) = close_code(&refusal) {
            self.socket.send_error(refusal.code(), &refusal.to_string(), seq).await?;
            return Ok(Some(End::Close(close, refusal.code().to_owned())));
        }
        count(&self.calls.parts().counters.refused);
        self.socket.send_error(refusal.code(), &refusal.to_string(), seq).await?;
        Ok(None)
    }

    async fn refuse_and_close(&mut self, refusal: &Refusal) -> Result<End, Closed> {
        let mut error = json!({"type": "error", "code": refusal.code(), "message": refusal.to_string()});
        if let Refusal::CallClosed { resume_after, .. } = refusal {
            error["resume_after"] = (*resume_after).into();
        }
        self.socket.send(error.to_string()).await?;
        Ok(End::Close(close_code(refusal).unwrap_or(CloseCode::Policy), refusal.code().to_owned()))
    }

    async fn too_large(&mut self) -> Result<End, Closed> {
        let message = format!("a message may have {} bytes", super::socket::MESSAGE_MAX_BYTES);
        self.socket.send_error("message_too_large", &message, None).await?;
        Ok(End::Close(CloseCode::Size, "message_too_large".to_owned()))
    }
}

/// An actor that drops the question has failed before it was on disk.
async fn outcome(acknowledgement: Acknowledgement) -> Result<(), Refusal> {
    acknowledgement.await.unwrap_or(Err(Refusal::NotDurable))
}

fn going_away() -> End {
    End::Close(CloseCode::Away, "the server is stopping".to_owned())
}

/// Returns how the socket is closed after a refusal that ends it; `None`: it goes on.
fn close_code(refusal: &Refusal) -> Option<CloseCode> {
    match refusal {
        Refusal::TakenOver => Some(CloseCode::Other(TAKEN_OVER)),
        Refusal::Stopping => Some(CloseCode::Away),
        Refusal::NotDurable => Some(CloseCode::Error),
        Refusal::CallClosed { .. } => Some(CloseCode::Policy),
        _ => None,
    }
}
