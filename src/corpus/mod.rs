//! Recorded conversations as files: what the trainer, the evaluations and the replayer read.
//!
//! [`rows`] reads JSON lines, [`dialogue`] makes conversations of them whatever their origin,
//! [`service`] reads a company's folder, [`tasks`] makes training documents of them and [`questions`]
//! of articles alone, [`relevance`] asks which card answers, [`labels`] says what emotion labels mean and which rows are kept from training,
//! and [`timing`] says when each word was said. Nothing here knows how the conversations are used.

pub mod dialogue;
pub mod labelled;
pub mod labels;
pub mod questions;
pub mod relevance;
pub mod rows;
pub mod service;
pub mod tasks;
pub mod timing;
