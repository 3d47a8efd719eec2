//! Segment to observations: emotion, speech rate, sensitive terms, redaction.

pub mod arousal;
mod chain;
pub mod emotion;
pub mod redact;
pub mod sensitive;
pub mod speech_rate;
pub mod trend;
pub mod words;
