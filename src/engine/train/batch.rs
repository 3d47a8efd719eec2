//! What one pass of training takes.

use std::ops::Range;

use crate::engine::train::loss::Target;

/// Documents of whole blocks, one behind the other.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The tokens that go in, with masks: `[tokens]`.
    pub noised: Vec<u32>,
    /// The tokens as they are, `[tokens]`; empty when there is one stream only.
    pub clean: Vec<u32>,
    /// Where each document lies; lengths are multiples of the block.
    pub documents: Vec<Range<usize>>,
    /// What rows must predict.
    pub targets: Vec<Target>,
    /// What rows see.
    pub sight: Sight,
}

/// What the rows of a document see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sight {
    /// A noised block sees itself and the clean blocks before it, a clean block itself and the clean
    /// blocks before it; blocks have the model's length (BD3-LM, arXiv 2503.09573).
    #[default]
    Paired,
    /// There is one stream: a block of this length sees itself and what stands before it. With 1 that
    /// is causal attention.
    Single(usize),
}

impl Batch {
    /// Returns how many rows go through the layers: both streams.
    pub fn rows(&self) -> usize {
        self.noised.len() + self.clean.len()
    }
}
