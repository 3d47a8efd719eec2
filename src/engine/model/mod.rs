//! The serving forward pass: plain slices, keys and values cached, many sequences together.
//!
//! One pass for all families ([`forward`]) over a dozen operations, which the processor ([`cpu`]) and a GPU have.
//! The processor keeps a model as a [`transformer`] with [`feed_forward`], over [`linear`] layers, and the [`head`].
//! A file for each family says what it publishes and calls its tensors. [`tuned`] has the experts of an adapter.

pub mod arithmetic;
pub mod common;
pub mod cpu;
pub mod dream;
pub mod feed_forward;
pub mod forward;
pub mod head;
pub mod linear;
pub mod llada;
pub mod llada2;
pub mod lladamoe;
pub mod loader;
pub mod names;
pub mod sdar;
pub mod transformer;
pub mod tuned;
