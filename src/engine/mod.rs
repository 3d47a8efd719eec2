//! The block-diffusion language model engine: readable alone, it knows token ids and text only.
//!
//! In reading order: [`config`] (a checkpoint's shapes), [`tokenizer`] and [`template`] (a
//! conversation as ids), [`sequence`] (tokens on their way), [`sampler`] (what settles) with
//! [`levenshtein`] (what moves), [`sampling`] (chance), [`steps`] (how many passes it will take),
//! [`constraint`] (what may stand), [`scheduler`] (who runs), [`runner`] (one step), [`worker`] (the
//! thread) and [`handle`] (what callers hold), with [`load`]. Below them [`model`] (the forward pass), where it is computed ([`device`], [`cuda`]), [`kv_cache`] with its
//! [`pages`], [`weights`] and [`ops`] (arithmetic); beside them [`adapter`] (a tuning as a file) and [`train`].

pub mod adapter;
pub mod config;
pub mod constraint;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
pub mod cuda;
pub mod device;
pub mod handle;
pub mod kv_cache;
pub mod levenshtein;
pub mod load;
pub mod mixing;
pub mod model;
pub mod ops;
pub mod pages;
pub mod runner;
pub mod sampler;
pub mod sampling;
pub mod scheduler;
pub mod sequence;
pub mod steps;
pub mod template;
pub mod tokenizer;
pub mod train;
pub mod weights;
pub mod worker;
