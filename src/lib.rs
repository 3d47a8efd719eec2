//! ChatDLM: a real-time contact-center assistant with its own block-diffusion language model.
//!
//! A call is one actor that emits numbered events; the engine is one thread behind a clonable
//! handle; everything people see is a fold of events. Modules import only from lower floors,
//! siblings never import one another, and `tests/tidy.rs` checks it:
//!
//! | floor | modules |
//! |---|---|
//! | 0 | [`event`] [`engine`] [`hub`] |
//! | 1 | [`prompt`] [`speech`] |
//! | 2 | [`monitor`] [`knowledge`] [`store`] [`bus`] [`corpus`] [`completion`] [`telephony`] |
//! | 3 | [`assist`] |
//! | 4 | [`server`] |
//! | 5 | [`config`] |
//! | 6 | [`app`] |
//! | 7 | [`command`] and the binary |

pub mod app;
pub mod assist;
pub mod bus;
pub mod command;
pub mod completion;
pub mod config;
pub mod corpus;
pub mod engine;
pub mod event;
pub mod hub;
pub mod knowledge;
pub mod monitor;
pub mod prompt;
pub mod server;
pub mod speech;
pub mod store;
pub mod telephony;
