//! What a model must beat, trained on the same rows: an n-gram model of tokens, a plain search. The
//! linear classifier of texts is `monitor::words`.

pub mod bm25;
pub mod ngram;
