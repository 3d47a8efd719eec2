//! The block-diffusion language model engine: readable alone.

pub mod config;
pub mod kv_cache;
pub mod model;
pub mod ops;
pub mod tokenizer;
pub mod train;
pub mod weights;
