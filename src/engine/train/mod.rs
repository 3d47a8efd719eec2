//! Training from scratch: block-diffusion objective, gradients by hand, Muon and AdamW.
//!
//! Reading order: [`objective`] (what is masked), [`network`] (forward and backward) with
//! [`attention`], [`experts`] and [`loss`], [`sink`] (where gradients go), [`optimizer`] with [`muon`], [`ownership`],
//! [`collective`] and [`shards`] (several processes), [`checkpoint`], [`trainer`], [`tune`] (a base to an adapter),
//! [`average`] (checkpoints to one). What of it runs on a GPU is in `engine/cuda/train`.

pub mod attention;
pub mod average;
pub mod batch;
pub mod checkpoint;
pub mod collective;
pub mod experts;
mod layer;
pub mod layout;
pub mod loss;
pub mod memory;
pub mod muon;
pub mod network;
pub mod objective;
pub mod optimizer;
pub mod ownership;
pub mod shards;
pub mod sink;
pub mod trainer;
pub mod tune;
