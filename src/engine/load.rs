//! What the engine has to do and has done, for those who run it.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;

/// Counts that the engine's thread and its callers keep together.
#[derive(Debug, Default)]
pub struct Load {
    /// Requests that wait to be admitted.
    pub waiting: AtomicUsize,
    /// Sequences that run.
    pub running: AtomicUsize,
    /// Forward passes since the start.
    pub steps: AtomicU64,
    /// Rows computed since the start, prompts included.
    pub rows: AtomicU64,
    /// Tokens of prompts since the start.
    pub prompt_tokens: AtomicU64,
    /// Of these the ones that another sequence had computed already.
    pub reused_tokens: AtomicU64,
    /// Tokens unmasked since the start.
    pub tokens: AtomicU64,
    /// Adapters in memory.
    pub adapters: AtomicUsize,
    /// The memory that they take beside the base model, in bytes.
    pub adapter_bytes: AtomicUsize,
    /// Whether the engine's thread has ended: nothing will be answered any more.
    pub has_stopped: AtomicBool,
}
