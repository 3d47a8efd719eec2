//! `GET /v1/calls/{call}/events` and `GET /v1/events`: websockets that show what happens.
//!
//! A watcher subscribes first and reads the store second, so nothing falls between; settled
//! numbers tell what it has seen, so nothing is shown twice. When it was too slow for the bus it
//! reads the store again.

use std::collections::HashMap;
use std::sync::Arc;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web;
use actix_ws::CloseCode;
use actix_ws::Closed;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

use crate::assist::Calls;
use crate::bus::Published;
use crate::bus::Subscription;
use crate::event::CallId;
use crate::event::CallKey;
use crate::event::Event;
use crate::server::auth::Agent;
use crate::server::auth::Supervisor;
use crate::server::calls::visible_call;
use crate::server::socket::Heard;
use crate::server::socket::Socket;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::calls::CallFilter;
use crate::store::calls::CallPhase;

/// How many envelopes are read from the log at once.
const PAGE: u32 = 500;
/// The most open calls that a snapshot shows.
const SNAPSHOT_MAX: u32 = 2000;

/// Where a watcher of a call starts.
#[derive(Debug, Deserialize)]
pub(super) struct Start {
    /// The last settled number that it has.
    #[serde(default)]
    after: u64,
}

/// Watches one call.
pub(super) async fn watch_call(
    request: HttpRequest,
    payload: web::Payload,
    identity: Agent,
    path: web::Path<CallId>,
    start: web::Query<Start>,
    calls: web::Data<Calls>,
    store: web::Data<Store>,
) -> Result<HttpResponse, actix_web::Error> {
    let (key, _) = visible_call(&store, &identity.0, path.into_inner()).await?;
    let (response, socket) = Socket::open(&request, payload, store.clone(), Some(identity.0)).await?;
    let subscription = calls.parts().bus.watch_call(&key);
    let stopping = calls.stopping();
    let watcher = CallWatcher { socket, store, key, subscription, seen: start.after };
    actix_web::rt::spawn(serve(watcher, stopping));
    Ok(response)
}

/// Watches all calls of the tenant.
pub(super) async fn watch_tenant(
    request: HttpRequest,
    payload: web::Payload,
    identity: Supervisor,
    calls: web::Data<Calls>,
    store: web::Data<Store>,
) -> Result<HttpResponse, actix_web::Error> {
    let tenant = identity.tenant.clone();
    let (response, socket) = Socket::open(&request, payload, store.clone(), Some(identity.0)).await?;
    let subscription = calls.parts().bus.watch_tenant(&tenant);
    let stopping = calls.stopping();
    let watcher = TenantWatcher { socket, store, tenant, subscription, seen: HashMap::new() };
    actix_web::rt::spawn(serve(watcher, stopping));
    Ok(response)
}

/// Why a watcher ends.
enum End {
    /// The other side is gone.
    Gone,
    /// The other side sent more than is taken.
    TooLarge,
    /// The store failed.
    Failed(StoreError),
}

impl From<Closed> for End {
    fn from(_: Closed) -> End {
        End::Gone
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> End {
        End::Failed(error)
    }
}

/// What both watchers do, each in its way.
trait Watcher {
    /// Sends all that the store has and this watcher has not.
    async fn catch_up(&mut self) -> Result<(), End>;
    /// Sends one envelope of the bus, unless it was sent.
    async fn show(&mut self, published: &Published) -> Result<(), End>;
    /// The two ends between which the watcher stands.
    fn ends(&mut self) -> (&mut Socket, &mut Subscription);
    /// Gives the socket back.
    fn into_socket(self) -> Socket;
}

async fn serve(mut watcher: impl Watcher, mut stopping: tokio::sync::watch::Receiver<bool>) {
    let end = tokio::select! {
        _ = stopping.wait_for(|is_stopping| *is_stopping) => None,
        end = follow(&mut watcher) => Some(end),
    };
    let socket = watcher.into_socket();
    match end {
        None => socket.close(CloseCode::Away, "the server is stopping").await,
        Some(End::Gone) => {}
        Some(End::TooLarge) => socket.close(CloseCode::Size, "message_too_large").await,
        Some(End::Failed(error)) => {
            tracing::error!(%error, "watcher closed: the store failed");
            socket.close(CloseCode::Error, "the log cannot be read").await;
        }
    }
}

/// Follows the bus until the other side is gone or the store fails.
async fn follow(watcher: &mut impl Watcher) -> End {
    if let Err(end) = watcher.catch_up().await {
        return end;
    }
    loop {
        let (socket, subscription) = watcher.ends();
        let received = tokio::select! {
            heard = socket.heard() => match heard {
                Heard::Closed(_) | Heard::Gone => return End::Gone,
                Heard::TooLarge => return End::TooLarge,
                // Watchers have nothing to say.
                Heard::Text(_) | Heard::Binary(_) | Heard::Refused { .. } => continue,
            },
            received = subscription.recv() => received,
        };
        let shown = match received {
            Ok(published) => {
                let published: Arc<Published> = published;
                watcher.show(&published).await
            }
            Err(RecvError::Lagged(_)) => watcher.catch_up().await,
            // The topic was given up while nobody received: cannot be while we hold it.
            Err(RecvError::Closed) => return End::Gone,
        };
        if let Err(end) = shown {
            return end;
        }
    }
}

struct CallWatcher {
    socket: Socket,
    store: web::Data<Store>,
    key: CallKey,
    subscription: Subscription,
    /// The last settled number that was sent.
    seen: u64,
}

impl Watcher for CallWatcher {
    async fn catch_up(&mut self) -> Result<(), End> {
        loop {
            let page = self.store.events_after(&self.key, self.seen, PAGE).await?;
            for envelope in &page {
                let json = serde_json::to_string(envelope).map_err(StoreError::from)?;
                self.socket.send(json).await?;
                self.seen = envelope.seq;
            }
            if page.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    async fn show(&mut self, published: &Published) -> Result<(), End> {
        let envelope = &published.envelope;
        if envelope.tentative {
            // One from before what was sent from the store is replaced already.
            if envelope.seq >= self.seen {
                self.socket.send(published.json.as_str()).await?;
            }
            return Ok(());
        }
        if envelope.seq <= self.seen {
            return Ok(());
        }
        if envelope.seq > self.seen + 1 {
            // It was published, so it is in the log, and all before it are.
            return self.catch_up().await;
        }
        self.socket.send(published.json.as_str()).await?;
        self.seen = envelope.seq;
        Ok(())
    }

    fn ends(&mut self) -> (&mut Socket, &mut Subscription) {
        (&mut self.socket, &mut self.subscription)
    }

    fn into_socket(self) -> Socket {
        self.socket
    }
}

struct TenantWatcher {
    socket: Socket,
    store: web::Data<Store>,
    tenant: String,
    subscription: Subscription,
    /// The last settled number of each open call that its snapshot held.
    seen: HashMap<CallId, u64>,
}

impl Watcher for TenantWatcher {
    /// Sends a snapshot, which replaces all that was sent before.
    async fn catch_up(&mut self) -> Result<(), End> {
        let open = CallFilter { state: Some(CallPhase::Open), ..CallFilter::default() };
        let calls = self.store.calls(&self.tenant, &open, SNAPSHOT_MAX).await?;
        self.seen = calls.iter().map(|record| (record.call.clone(), record.seq)).collect();
        self.socket.send(json!({"type": "snapshot", "calls": calls}).to_string()).await?;
        Ok(())
    }

    async fn show(&mut self, published: &Published) -> Result<(), End> {
        let envelope = &published.envelope;
        if !envelope.tentative && self.seen.get(&envelope.call).is_some_and(|&seen| envelope.seq <= seen) {
            return Ok(());
        }
        if matches!(envelope.event, Event::CallClosed { .. }) {
            self.seen.remove(&envelope.call);
        }
        self.socket.send(published.json.as_str()).await?;
        Ok(())
    }

    fn ends(&mut self) -> (&mut Socket, &mut Subscription) {
        (&mut self.socket, &mut self.subscription)
    }

    fn into_socket(self) -> Socket {
        self.socket
    }
}
