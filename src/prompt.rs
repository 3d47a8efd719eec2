//! The textual forms of every task the model knows: what training writes is what serving asks.
//!
//! Control tokens stand in the text as [`Piece::Control`], never as characters, so that a
//! customer who says "<|end|>" says just that.

use crate::event::Speaker;

/// One turn of a conversation, redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who spoke.
    pub speaker: Speaker,
    /// What was said.
    pub text: String,
}
