//! Asterisk's AudioSocket: a TCP port without any permission of its own, so only calls that were
//! announced by somebody who may feed calls are taken, each once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use actix_web::HttpResponse;
use actix_web::web;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::assist::Calls;
use crate::event::Speaker;
use crate::server::auth::Ingest;
use crate::server::carriers;
use crate::server::carriers::Shared;
use crate::server::carriers::driver::Connection;
use crate::server::carriers::driver::Driver;
use crate::server::error::ApiError;
use crate::telephony::Opening;
use crate::telephony::audiosocket;
use crate::telephony::audiosocket::AudioSocket;

/// How long an announced call is waited for.
const WAITED: Duration = Duration::from_secs(600);
/// How many calls may be announced at once.
const ANNOUNCED_MAX: usize = 10_000;
/// How many of them may be one tenant's.
const ANNOUNCED_OF_ONE_MAX: usize = 2_000;
/// How many connections may be open at once. Overflow rule: later ones wait to be accepted.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a connection may take to name its call.
const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// The first message: a kind, a length and the UUID.
const FIRST_BYTES: usize = 19;
const UUID_HEADER: [u8; 3] = [1, 0, 16];

/// How AudioSocket is listened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens, as `127.0.0.1:9092`; nowhere when missing. It has no encryption: only on a
    /// private network.
    pub address: Option<String>,
}

/// The calls that are waited for, by UUID. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Announced(Arc<Mutex<HashMap<[u8; 16], Call>>>);

/// A call that is waited for.
#[derive(Debug, Clone)]
struct Call {
    tenant: String,
    speaker: Speaker,
    opening: Opening,
    since: Instant,
}

impl Announced {
    fn add(&self, id: [u8; 16], call: Call) -> Result<(), ApiError> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.retain(|_, call| call.since.elapsed() < WAITED);
        if calls.len() >= ANNOUNCED_MAX {
            return Err(ApiError::Conflict(format!("{ANNOUNCED_MAX} calls are announced already")));
        }
        if calls.values().filter(|other| other.tenant == call.tenant).count() >= ANNOUNCED_OF_ONE_MAX {
            return Err(ApiError::TooMany { retry_after_s: WAITED.as_secs() });
        }
        match calls.entry(id) {
            Entry::Vacant(place) => place.insert(call),
            Entry::Occupied(_) => {
                return Err(ApiError::Conflict("this UUID is announced already".to_owned()));
            }
        };
        Ok(())
    }

    /// Takes an announced call: its UUID lets nobody in a second time.
    fn take(&self, id: [u8; 16]) -> Option<Call> {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.remove(&id).filter(|call| call.since.elapsed() < WAITED)
    }
}

/// A call to wait for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announcement {
    /// The UUID that Asterisk sends first; one is drawn when missing.
    uuid: Option<String>,
    /// The call's name; the UUID when missing. Two UUIDs of one name are its two speakers.
    call: Option<String>,
    agent: Option<String>,
    customer: Option<String>,
    language: Option<String>,
    #[serde(default)]
    knowledge: Vec<String>,
    /// Who is heard: the customer when missing.
    speaker: Option<Speaker>,
}

/// `POST /v1/carriers/audiosocket/calls`: announces a call, and answers with its UUID.
pub(super) async fn announce(
    identity: Ingest,
    body: web::Json<Announcement>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    let Announcement { uuid, call, agent, customer, language, knowledge, speaker } = body.into_inner();
    let id = match &uuid {
        Some(text) => {
            audiosocket::parse_uuid(text).ok_or_else(|| ApiError::invalid("uuid", "this is no UUID"))?
        }
        None => audiosocket::drawn_uuid(),
    };
    let text = audiosocket::uuid_text(&id);
    let call = call.unwrap_or_else(|| text.clone());
    let speaker = speaker.unwrap_or(Speaker::Customer);
    let opening = Opening {
        call: call.clone(),
        agent,
        customer,
        language,
        knowledge,
        is_chat: false,
        speaker: Some(speaker),
        metadata: json!({"uuid": text}),
    };
    let since = Instant::now();
    shared.announced.add(id, Call { tenant: identity.tenant.clone(), speaker, opening, since })?;
    Ok(HttpResponse::Created().json(json!({"uuid": text, "call": call, "expires_s": WAITED.as_secs()})))
}

/// Accepts connections on a thread of their own until the server stops.
///
/// # Errors
/// When the thread cannot be started.
pub fn serve(
    listener: std::net::TcpListener,
    calls: Calls,
    config: carriers::Config,
    shared: Shared,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let thread = std::thread::Builder::new().name("audiosocket".to_owned());
    thread.spawn(move || {
        // Websockets, which the driver serves too, live on one thread each.
        actix_web::rt::System::new().block_on(async move {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(listener, calls, config, shared).await,
                Err(error) => tracing::error!(%error, "AudioSocket is not listened to"),
            }
        });
    })?;
    Ok(())
}

async fn accept(listener: TcpListener, calls: Calls, config: carriers::Config, shared: Shared) {
    let mut draining = calls.draining();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|is_draining| *is_draining) => break,
            accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (listener.accept().await, permit)
            } => accepted,
        };
        let (stream, permit) = match accepted {
            (Ok((stream, _)), permit) => (stream, permit),
            (Err(error), _) => {
                // Too many open files, or a peer that left: the next may do.
                tracing::warn!(%error, "an AudioSocket connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (calls, config, shared) = (calls.clone(), config.clone(), shared.clone());
        actix_web::rt::spawn(async move {
            serve_one(stream, calls, config, shared).await;
            drop(permit);
        });
    }
    drop(draining);
    // Their lines end here, with this thread: all of them must have said their last words.
    let _ = room.acquire_many(CONNECTIONS_MAX as u32).await;
}

/// Waits for the UUID, and serves the call that was announced under it.
async fn serve_one(mut stream: TcpStream, calls: Calls, config: carriers::Config, shared: Shared) {
    let mut first = [0; FIRST_BYTES];
    match tokio::time::timeout(NAMED_WITHIN, stream.read_exact(&mut first)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    let [kind, high, low, id @ ..] = first;
    let call = ([kind, high, low] == UUID_HEADER).then(|| shared.announced.take(id)).flatten();
    let Some(call) = call else {
        tracing::warn!("an AudioSocket connection was refused: nobody announced its call");
        // One that is gone needs no goodbye.
        let _ = stream.write_all(&audiosocket::hangup()).await;
        return;
    };
    let wire = Box::new(AudioSocket::new(call.speaker));
    let line = carriers::line(&calls, &config, &call.tenant, false);
    let driver = Driver::new(Connection::tcp(stream), wire, line, call.tenant, shared.legs, call.opening);
    let draining = calls.draining();
    carriers::counted(calls, driver.serve(draining, Some(first.to_vec()))).await;
}
