//! Recorded conversations as files: what the trainer, the evaluations and the replayer read.
//!
//! [`rows`] reads JSON lines, [`dialogue`] makes conversations of them whatever their origin, and
//! [`service`] reads a company's folder, [`tasks`] makes training documents of them and [`questions`] of articles
//! alone, and [`timing`] says when each word was said. Nothing here
//! knows how the conversations are used.

pub mod dialogue;
pub mod questions;
pub mod rows;
pub mod service;
pub mod tasks;
pub mod timing;
