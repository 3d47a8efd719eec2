//! Bytes to segments: what carriers send, made into turns of speech, and turns into words.
//!
//! Read in this order: [`audio`] (bytes to samples), [`resample`] (any rate to 16 kHz), [`activity`] (where
//! somebody speaks), [`prosody`] (how it sounds), [`contrast`] (against
//! the turns before), [`talk`] (who speaks when), [`listener`] (all of these for
//! one call), [`whisper`] (words, on threads of their own), [`guard`] (what it made up), [`ggml`] (its files), [`wav`] (recordings).

pub mod activity;
pub mod audio;
pub mod contrast;
pub mod ggml;
pub mod guard;
pub mod listener;
pub mod prosody;
pub mod resample;
pub mod talk;
pub mod wav;
pub mod whisper;

use std::path::PathBuf;

use serde::Deserialize;

use crate::speech::activity::TurnRules;
use crate::speech::listener::ListenRules;

/// How speech is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A Whisper model in ggml form; without one there is no transcript from audio.
    pub model: Option<PathBuf>,
    /// How many turns are recognised at once, each on a core.
    pub threads: usize,
    /// How much more must be heard for the next partial text, in milliseconds.
    pub partial_ms: u64,
    /// The pause that ends a turn, in milliseconds.
    pub pause_ms: u64,
}

impl Default for Config {
    fn default() -> Config {
        Config { model: None, threads: 1, partial_ms: 1_000, pause_ms: TurnRules::default().pause_ms }
    }
}

impl Config {
    /// Returns how calls are listened to; `is_recognised`: somebody makes words of it.
    pub fn rules(&self, is_recognised: bool) -> ListenRules {
        let turns = TurnRules { pause_ms: self.pause_ms.clamp(200, 5_000), ..TurnRules::default() };
        ListenRules { turns, partial_ms: is_recognised.then_some(self.partial_ms.max(250)) }
    }
}
