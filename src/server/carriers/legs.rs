//! Two connections of one call: some carriers send each speaker over a socket of its own.
//!
//! The first owns the call's line. A second one of the other speaker joins it: what happens there is
//! handed to the owner, in order. A second one of the same speaker is the first come back, and takes over.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::mpsc;

use crate::event::Speaker;
use crate::telephony::Happening;

/// How many happenings of a joined connection wait. Overflow rule: its socket is not read further.
const WAITING: usize = 64;

static LINES: AtomicU64 = AtomicU64::new(0);

/// The calls whose line a second speaker may join, by tenant and the carrier's name of the call.
#[derive(Debug, Clone, Default)]
pub struct Legs {
    owners: Arc<Mutex<HashMap<(String, String), Owner>>>,
}

#[derive(Debug, Clone)]
struct Owner {
    speaker: Speaker,
    number: u64,
    happenings: mpsc::Sender<Happening>,
}

/// The place of a connection in its call.
#[derive(Debug)]
pub(super) enum Entry {
    /// It joins the other speaker's line.
    Joined(mpsc::Sender<Happening>),
    /// Its line is the first.
    Owner(Owned),
    /// There is a line of the same speaker: when this one is open it takes over.
    Taken,
}

/// An owned line. Dropping it lets another take its place.
#[derive(Debug)]
pub(super) struct Owned {
    legs: Legs,
    key: (String, String),
    /// Tells this line's entry from a newer one's.
    number: u64,
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

    /// Lets nobody else join.
    pub fn leave(&self) {
        let mut owners = self.legs.owners.lock().unwrap_or_else(PoisonError::into_inner);
        // Only this line's own entry: a newer line of the call has another channel.
        if owners.get(&self.key).is_some_and(|owner| owner.number == self.number) {
            owners.remove(&self.key);
        }
    }

    /// Returns what the joined connections still say, and nothing when all of them are gone; after
    /// [`Owned::leave`].
    pub async fn last(&mut self) -> Option<Happening> {
        self.happenings.recv().await
    }

    /// Returns what joined connections have said and nobody has heard, and hears no more.
    pub fn rest(&mut self) -> Vec<Happening> {
        self.happenings.close();
        std::iter::from_fn(|| self.happenings.try_recv().ok()).collect()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.leave();
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

    /// Finds the place of a connection that brings this speaker. What joins a line before it is open waits
    /// for it.
    pub(super) fn enter(&self, tenant: &str, call: &str, speaker: Speaker) -> Entry {
        let key = (tenant.to_owned(), call.to_owned());
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        match owners.get(&key).filter(|owner| !owner.happenings.is_closed()) {
            Some(owner) if owner.speaker != speaker => Entry::Joined(owner.happenings.clone()),
            Some(_) => Entry::Taken,
            None => Entry::Owner(self.owned(owners, key, speaker)),
        }
    }

    /// Makes a line of this speaker, which is open, the one that others join.
    pub(super) fn own(&self, tenant: &str, call: &str, speaker: Speaker) -> Owned {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        self.owned(owners, (tenant.to_owned(), call.to_owned()), speaker)
    }

    fn owned(
        &self,
        mut owners: MutexGuard<'_, HashMap<(String, String), Owner>>,
        key: (String, String),
        speaker: Speaker,
    ) -> Owned {
        let (sender, happenings) = mpsc::channel(WAITING);
        let number = LINES.fetch_add(1, Relaxed);
        owners.insert(key.clone(), Owner { speaker, number, happenings: sender });
        drop(owners);
        Owned { legs: self.clone(), key, number, happenings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_speaker_joins_and_the_same_one_takes_over() {
        let legs = Legs::default();
        let Entry::Owner(mut first) = legs.enter("main", "c1", Speaker::Customer) else {
            panic!("it is free")
        };
        assert!(matches!(legs.enter("main", "c1", Speaker::Customer), Entry::Taken));
        let joined = legs.join("main", "c1", Speaker::Agent).unwrap();
        assert!(matches!(legs.enter("other", "c1", Speaker::Agent), Entry::Owner(_)));
        joined.try_send(Happening::Key).unwrap();
        assert_eq!(first.rest(), [Happening::Key]);
        let again = legs.own("main", "c1", Speaker::Customer);
        drop(first);
        assert!(legs.join("main", "c1", Speaker::Agent).is_some(), "the newer one owns");
        drop(again);
        assert!(matches!(legs.enter("main", "c1", Speaker::Agent), Entry::Owner(_)));
    }
}
