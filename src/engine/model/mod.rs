//! The serving forward pass: plain slices, keys and values cached, many sequences together.

pub mod linear;
pub mod llada2;
