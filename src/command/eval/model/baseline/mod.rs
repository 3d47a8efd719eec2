//! What a model must beat, trained on the same rows: an n-gram model of tokens, a linear classifier
//! of texts, a plain search.

pub mod bm25;
pub mod linear;
pub mod ngram;
