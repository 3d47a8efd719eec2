//! Training from scratch on a CPU: block-diffusion objective, gradients by hand, AdamW.
//!
//! Reading order: [`objective`] (what is masked), [`network`] (forward and backward) with
//! [`attention`], [`experts`] and [`loss`], [`optimizer`], [`checkpoint`], [`trainer`].

pub mod attention;
pub mod batch;
pub mod checkpoint;
pub mod experts;
mod layer;
pub mod layout;
pub mod loss;
pub mod network;
pub mod objective;
pub mod optimizer;
pub mod trainer;
