//! Two connections of one call: some carriers send each speaker over a socket of its own.
//!
//! The first owns the call's line. A second one of the other speaker joins it: what happens there is
//! handed to the owner, in order. A second one of the same speaker is the first come back, and takes over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::sync::mpsc;

use crate::event::Speaker;
use crate::telephony::Happening;

/// How many happenings of a joined connection wait. Overflow rule: its socket is not read further.
const WAITING: usize = 64;

/// The calls whose line a second speaker may join, by tenant and the carrier's name of the call.
#[derive(Debug, Clone, Default)]
pub struct Legs {
    owners: Arc<Mutex<HashMap<(String, String), Owner>>>,
}

#[derive(Debug, Clone)]
struct Owner {
    speaker: Speaker,
    happenings: mpsc::Sender<Happening>,
}

/// An owned line. Dropping it lets another take its place.
#[derive(Debug)]
pub(super) struct Owned {
    legs: Legs,
    key: (String, String),
    happenings: mpsc::Receiver<Happening>,
}

impl Owned {
    /// Returns what a joined connection says; never when there is none.
    pub async fn next(&mut self) -> Happening {
        match self.happenings.recv().await {
            Some(happening) => happening,
            None => std::future::pending().await,
        }
    }

    /// Returns what joined connections have said and nobody has heard, and hears no more.
    pub fn rest(&mut self) -> Vec<Happening> {
        self.happenings.close();
        std::iter::from_fn(|| self.happenings.try_recv().ok()).collect()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.happenings.close();
        let mut owners = self.legs.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.get(&self.key).is_some_and(|owner| owner.happenings.is_closed()) {
            owners.remove(&self.key);
        }
    }
}

impl Legs {
    /// Returns the way into the other speaker's line of this call, if there is one.
    pub(super) fn join(&self, tenant: &str, call: &str, speaker: Speaker) -> Option<mpsc::Sender<Happening>> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = owners.get(&(tenant.to_owned(), call.to_owned()))?;
        let is_other = owner.speaker != speaker && !owner.happenings.is_closed();
        is_other.then(|| owner.happenings.clone())
    }

    /// Makes a line of this speaker, which is open, the one that others join.
    pub(super) fn own(&self, tenant: &str, call: &str, speaker: Speaker) -> Owned {
        let key = (tenant.to_owned(), call.to_owned());
        let (sender, happenings) = mpsc::channel(WAITING);
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.insert(key.clone(), Owner { speaker, happenings: sender });
        Owned { legs: self.clone(), key, happenings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_speaker_joins_and_the_same_one_takes_over() {
        let legs = Legs::default();
        assert!(legs.join("main", "c1", Speaker::Agent).is_none(), "nobody is there");
        let mut first = legs.own("main", "c1", Speaker::Customer);
        let joined = legs.join("main", "c1", Speaker::Agent).unwrap();
        assert!(legs.join("other", "c1", Speaker::Agent).is_none());
        assert!(legs.join("main", "c1", Speaker::Customer).is_none(), "the same one takes over");
        joined.try_send(Happening::Key).unwrap();
        assert_eq!(first.rest(), [Happening::Key]);
        let again = legs.own("main", "c1", Speaker::Customer);
        drop(first);
        assert!(legs.join("main", "c1", Speaker::Agent).is_some(), "the newer one owns");
        drop(again);
        assert!(legs.join("main", "c1", Speaker::Agent).is_none());
    }
}
