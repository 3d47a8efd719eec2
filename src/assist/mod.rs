//! Where the parts meet: the call actor, the registry of calls, prompts and drafts.
//!
//! Read in this order: [`intake`] (what senders say), `state` (the fold of a call's log),
//! `observe` (a segment to its events), `work` (search, reading, draft under way), `message`
//! (what is said to an actor), `call` and `answer` (the actor), [`calls`] (the registry and the only way in),
//! [`mod@line`] (a carrier's way in: audio and events to segments). [`library`] and [`terms`] keep what calls look up in step with the store, [`adapters`] the model of each tenant with its file.

pub mod adapters;
mod answer;
mod call;
pub mod calls;
mod canvas;
pub mod counters;
pub mod draft;
mod ground;
pub mod intake;
pub mod library;
pub mod line;
mod message;
mod observe;
pub mod quote;
mod rewrite;
mod state;
pub mod terms;
mod work;
mod writing;

pub use calls::Calls;
pub use calls::Feed;
pub use message::Action;
pub use message::Attached;
pub use message::Rewrite;

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::assist::adapters::Adapters;
use crate::assist::counters::Counters;
use crate::assist::draft::Drafter;
use crate::assist::line::Speech;
use crate::assist::terms::Terms;
use crate::bus::Bus;
use crate::engine::handle::Engine;
use crate::knowledge::Knowledge;
use crate::monitor::emotion::EmotionReader;
use crate::store::Store;

/// How calls behave.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a call waits for a lost sender, in seconds.
    pub resume_s: u64,
    /// Whether a draft is written for each question of a customer.
    pub drafts: bool,
    /// Whether the customer's emotion is read.
    pub emotions: bool,
    /// How long a call that ends waits for its last cards and emotion, in milliseconds.
    pub ending_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config { resume_s: 60, drafts: true, emotions: true, ending_ms: 2000 }
    }
}

impl Config {
    fn resume(&self) -> Duration {
        Duration::from_secs(self.resume_s)
    }

    fn ending(&self) -> Duration {
        Duration::from_millis(self.ending_ms)
    }
}

/// What every call works with. Clones share it.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The log.
    pub store: Store,
    /// Where envelopes are shown.
    pub bus: Bus,
    /// What is searched.
    pub knowledge: Knowledge,
    /// What terms are looked for.
    pub terms: Terms,
    /// How many searches may run at once: each takes a core while it runs.
    pub searches: Arc<Semaphore>,
    /// Writes drafts.
    pub drafter: Drafter,
    /// Reads emotions; `None` without a model.
    pub emotions: Option<EmotionReader>,
    /// The tuned forms of the model that tenants have.
    pub adapters: Adapters,
    /// Makes words of the audio of carriers.
    pub speech: Speech,
    /// The engine behind both, to see what it does.
    pub engine: Option<Engine>,
    /// What is counted.
    pub counters: Arc<Counters>,
    /// How calls behave.
    pub config: Config,
}
