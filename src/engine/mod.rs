//! The block-diffusion language model engine: readable alone.

pub mod config;
pub mod ops;
pub mod tokenizer;
pub mod train;
pub mod weights;
