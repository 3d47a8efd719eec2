//! A websocket as the handlers meet it: messages in, messages out, pings and limits taken care of.

use std::time::Duration;

use actix_web::FromRequest;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::dev::Payload;
use actix_web::web;
use actix_web::web::Bytes;
use actix_ws::AggregatedMessage;
use actix_ws::AggregatedMessageStream;
use actix_ws::CloseCode;
use actix_ws::CloseReason;
use actix_ws::Closed;
use actix_ws::ProtocolError;
use actix_ws::Session;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use crate::server::frames::Frames;
use crate::store::Store;
use crate::store::identity::Identity;

/// What is answered to binary messages where only texts are understood.
pub(super) const BINARY: (&str, &str) = ("binary", "binary messages are not understood here");
/// The largest message, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 256 * 1024;
/// How often the other side is pinged, and its permission asked again.
const PING_EVERY: Duration = Duration::from_secs(15);
/// The code of a goodbye without one (RFC 6455, section 7.1.5).
const NO_STATUS: u16 = 1005;
/// After how much silence the other side is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// What came in.
#[derive(Debug)]
pub(super) enum Heard {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// A message that cannot be read; the socket goes on.
    Refused {
        /// The code for programs.
        code: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A message so large that the socket cannot go on.
    TooLarge,
    /// The other side closed, with this code.
    Closed(u16),
    /// The other side is gone, or may not be here any more.
    Gone,
}

/// One websocket. Dropping it closes it without a word.
pub(super) struct Socket {
    session: Session,
    messages: AggregatedMessageStream,
    pings: Interval,
    /// Whether the permission still stands, when that is being asked; a ping follows.
    asked: Option<BoxFuture<'static, bool>>,
    last_heard: Instant,
    store: web::Data<Store>,
    /// Whose permission is asked again; none where a signature let in.
    identity: Option<Identity>,
}

impl Socket {
    /// Answers the request with a websocket.
    ///
    /// # Errors
    /// When the request is no websocket handshake.
    pub async fn open(
        request: &HttpRequest,
        payload: web::Payload,
        store: web::Data<Store>,
        identity: Option<Identity>,
    ) -> Result<(HttpResponse, Socket), actix_web::Error> {
        let frames = Frames::new(payload.into_inner(), MESSAGE_MAX_BYTES as u64);
        let mut guarded: Payload = Payload::Stream { payload: Box::pin(frames) };
        let guarded = web::Payload::from_request(request, &mut guarded).await?;
        let (response, session, messages) = actix_ws::handle(request, guarded)?;
        let messages = messages
            .max_frame_size(MESSAGE_MAX_BYTES)
            .aggregate_continuations()
            .max_continuation_size(MESSAGE_MAX_BYTES);
        let mut pings = tokio::time::interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let last_heard = Instant::now();
        let socket = Socket { session, messages, pings, asked: None, last_heard, store, identity };
        Ok((response, socket))
    }

    /// Returns the next message. Cancelling it may lose a ping or pong, nothing else: a permission that is
    /// being asked for goes on being asked for.
    pub async fn heard(&mut self) -> Heard {
        loop {
            let message = tokio::select! {
                message = self.messages.recv() => message,
                _ = self.pings.tick(), if self.asked.is_none() => {
                    if self.last_heard.elapsed() > SILENCE_MAX {
                        return self.dismiss("nothing was heard for too long").await;
                    }
                    self.asked = Some(is_welcome(self.store.clone(), self.identity.clone()).boxed());
                    continue;
                }
                is_welcome = answered(&mut self.asked) => {
                    self.asked = None;
                    if !is_welcome {
                        return self.dismiss("signed out").await;
                    }
                    if self.session.ping(b"").await.is_err() {
                        return Heard::Gone;
                    }
                    continue;
                }
            };
            self.last_heard = Instant::now();
            match message {
                Some(Ok(AggregatedMessage::Text(text))) => return Heard::Text(text.to_string()),
                Some(Ok(AggregatedMessage::Binary(bytes))) => return Heard::Binary(bytes),
                Some(Ok(AggregatedMessage::Ping(payload))) => self.pong(&payload).await,
                Some(Ok(AggregatedMessage::Pong(_))) => {}
                Some(Ok(AggregatedMessage::Close(reason))) => {
                    let code = reason.as_ref().map_or(NO_STATUS, |reason| reason.code.into());
                    // The other side waits for the same (RFC 6455, section 5.5.1), unless it is gone already.
                    let _ = self.session.clone().close(reason).await;
                    return Heard::Closed(code);
                }
                None => return Heard::Gone,
                Some(Err(ProtocolError::Io(error))) if error.kind() == std::io::ErrorKind::InvalidData => {
                    let message = "the message is not UTF-8".to_owned();
                    return Heard::Refused { code: "invalid_utf8", message };
                }
                Some(Err(ProtocolError::Overflow)) => return Heard::TooLarge,
                Some(Err(ProtocolError::Io(error))) if is_too_large(&error) => return Heard::TooLarge,
                Some(Err(error)) => {
                    tracing::debug!(%error, "websocket broken");
                    return Heard::Gone;
                }
            }
        }
    }

    /// Tells the other side why it has to go.
    async fn dismiss(&self, why: &str) -> Heard {
        self.end(CloseCode::Policy, why).await;
        Heard::Gone
    }

    async fn pong(&mut self, payload: &Bytes) {
        // A socket that cannot be written to shows at the next read.
        let _ = self.session.pong(payload).await;
    }

    /// Sends a text; waits while the other side is slow.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn send(&mut self, text: impl Into<String>) -> Result<(), Closed> {
        self.session.text(text.into()).await
    }

    /// Sends bytes; waits while the other side is slow.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn send_binary(&mut self, bytes: Vec<u8>) -> Result<(), Closed> {
        self.session.binary(bytes).await
    }

    /// Sends a named error.
    ///
    /// # Errors
    /// When the other side is gone.
    pub async fn send_error(&mut self, code: &str, message: &str, seq: Option<u64>) -> Result<(), Closed> {
        let mut error = json!({"type": "error", "code": code, "message": message});
        if let Some(seq) = seq {
            error["seq"] = seq.into();
        }
        self.send(error.to_string()).await
    }

    /// Closes the socket with a code and a reason.
    pub async fn close(self, code: CloseCode, reason: &str) {
        self.end(code, reason).await;
    }

    /// Says goodbye with a code and a reason; what comes after it is not heard any more.
    pub async fn end(&self, code: CloseCode, reason: &str) {
        let reason = CloseReason { code, description: Some(reason.to_owned()) };
        // Closing one that is gone already changes nothing.
        let _ = self.session.clone().close(Some(reason)).await;
    }
}

/// Returns whether the session or key behind a socket still stands.
async fn is_welcome(store: web::Data<Store>, identity: Option<Identity>) -> bool {
    let Some(identity) = identity else { return true };
    match store.still_stands(&identity).await {
        Ok(stands) => stands,
        Err(error) => {
            // Not the user's fault: asked again with the next ping.
            tracing::warn!(%error, "permission could not be asked again");
            true
        }
    }
}

/// Returns the answer; never when nothing is asked.
async fn answered(asked: &mut Option<BoxFuture<'static, bool>>) -> bool {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

/// Returns whether the error is the guard's or the aggregation's, which only their texts tell.
fn is_too_large(error: &std::io::Error) -> bool {
    error.to_string().contains("size")
}
