//! The block-diffusion language model engine: readable alone, it knows token ids and text only.
//!
//! In reading order: [`config`] (a checkpoint's shapes), [`tokenizer`], [`sequence`] (tokens on
//! their way), [`sampler`] (what settles), [`constraint`] (what may), [`scheduler`] (who runs), [`runner`] (one step),
//! [`worker`] (the thread) and [`handle`] (what callers hold). Below them [`model`] (the forward
//! pass), [`kv_cache`], [`weights`] and [`ops`] (arithmetic); beside them [`train`].

pub mod config;
pub mod constraint;
pub mod handle;
pub mod kv_cache;
pub mod model;
pub mod ops;
pub mod runner;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod tokenizer;
pub mod train;
pub mod weights;
pub mod worker;
