//! Events to whoever watches: publish and subscribe within the process.
//!
//! The bus may lose, the log may not: a watcher that is too slow misses envelopes, learns that it
//! did, and reads the settled ones from the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::sync::broadcast;

use crate::event::CallKey;
use crate::event::Envelope;
use crate::event::Event;

/// How many envelopes a call's watcher may lag. Overflow rule: the oldest are lost to that
/// watcher, who reads the settled ones from the store.
const CALL_LAG: usize = 256;

/// How many envelopes a watcher of all calls may lag. Overflow rule: the oldest are lost to that
/// watcher, who starts over from a new snapshot.
const TENANT_LAG: usize = 2048;

/// An envelope with its JSON, made once for all watchers.
#[derive(Debug)]
pub struct Published {
    /// The envelope.
    pub envelope: Envelope,
    /// The envelope as the sockets send it.
    pub json: String,
}

/// What a watcher receives from.
pub type Subscription = broadcast::Receiver<Arc<Published>>;

/// Carries envelopes from the call actors to the watch sockets. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Bus {
    topics: Arc<Mutex<Topics>>,
}

/// Only what is watched has a topic.
#[derive(Debug, Default)]
struct Topics {
    calls: HashMap<CallKey, broadcast::Sender<Arc<Published>>>,
    tenants: HashMap<String, broadcast::Sender<Arc<Published>>>,
}

impl Bus {
    /// Shows an envelope to the watchers of its call and, unless it is a segment or tentative, to
    /// the watchers of the tenant; who speaks is shown to them too. Never waits.
    pub fn publish(&self, key: &CallKey, envelope: Envelope) {
        let mut topics = self.topics();
        let is_for_tenant = match envelope.event {
            Event::Voice(_) => true,
            Event::Segment(_) => false,
            _ => !envelope.tentative,
        };
        let is_for_tenant = is_for_tenant && topics.tenants.contains_key(&key.tenant);
        if !is_for_tenant && !topics.calls.contains_key(key) {
            return;
        }
        let json = match serde_json::to_string(&envelope) {
            Ok(json) => json,
            Err(error) => {
                tracing::error!(call = %key.call, %error, "envelope cannot be written as json");
                return;
            }
        };
        let published = Arc::new(Published { envelope, json });
        if is_for_tenant
            && let Some(sender) = topics.tenants.get(&key.tenant)
            && sender.send(Arc::clone(&published)).is_err()
        {
            topics.tenants.remove(&key.tenant);
        }
        if let Some(sender) = topics.calls.get(key)
            && sender.send(published).is_err()
        {
            topics.calls.remove(key);
        }
    }

    /// Returns what one call publishes from now on.
    pub fn watch_call(&self, key: &CallKey) -> Subscription {
        let mut topics = self.topics();
        // A call that publishes nothing more never notices that its last watcher left.
        topics.calls.retain(|_, sender| sender.receiver_count() > 0);
        topics.calls.entry(key.clone()).or_insert_with(|| broadcast::channel(CALL_LAG).0).subscribe()
    }

    /// Returns what all calls of a tenant publish from now on, but segments and tentative envelopes.
    pub fn watch_tenant(&self, tenant: &str) -> Subscription {
        let mut topics = self.topics();
        let sender =
            topics.tenants.entry(tenant.to_owned()).or_insert_with(|| broadcast::channel(TENANT_LAG).0);
        sender.subscribe()
    }

    fn topics(&self) -> MutexGuard<'_, Topics> {
        // The maps stay whole even if a holder panicked: every change is one call.
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
