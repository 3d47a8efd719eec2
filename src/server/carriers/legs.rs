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

/// The place of a connection in its call.
#[derive(Debug)]
pub(super) enum Leg {
    /// It owns the line; what joined connections say comes here.
    Owner(Owned),
    /// It has joined another's line.
    Joined(mpsc::Sender<Happening>),
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
    /// Finds the place of a connection that brings one speaker of a call.
    pub(super) fn enter(&self, tenant: &str, call: &str, speaker: Speaker) -> Leg {
        let key = (tenant.to_owned(), call.to_owned());
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(owner) = owners.get(&key)
            && owner.speaker != speaker
            && !owner.happenings.is_closed()
        {
            return Leg::Joined(owner.happenings.clone());
        }
        let (sender, happenings) = mpsc::channel(WAITING);
        owners.insert(key.clone(), Owner { speaker, happenings: sender });
        Leg::Owner(Owned { legs: self.clone(), key, happenings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_speaker_joins_and_the_same_one_takes_over() {
        let legs = Legs::default();
        let Leg::Owner(first) = legs.enter("main", "c1", Speaker::Customer) else { panic!("the first owns") };
        assert!(matches!(legs.enter("main", "c1", Speaker::Agent), Leg::Joined(_)));
        assert!(matches!(legs.enter("other", "c1", Speaker::Agent), Leg::Owner(_)));
        let Leg::Owner(again) = legs.enter("main", "c1", Speaker::Customer) else { panic!("it came back") };
        drop(first);
        assert!(matches!(legs.enter("main", "c1", Speaker::Agent), Leg::Joined(_)), "the newer one owns");
        drop(again);
        assert!(matches!(legs.enter("main", "c1", Speaker::Agent), Leg::Owner(_)));
    }
}
