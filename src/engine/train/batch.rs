//! What one pass of training takes.

use std::ops::Range;

use crate::engine::train::loss::Target;

/// Documents of whole blocks, one behind the other, noised and clean.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The tokens with masks, `[tokens]`.
    pub noised: Vec<u32>,
    /// The tokens as they are, `[tokens]`.
    pub clean: Vec<u32>,
    /// Where each document lies; lengths are multiples of the block.
    pub documents: Vec<Range<usize>>,
    /// What the masked rows must predict.
    pub targets: Vec<Target>,
}
