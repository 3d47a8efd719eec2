//! Keys and values of one sequence: a settled block's are computed once, on its final tokens.
//!
//! Contiguous for each layer and head, `[layer][kv_head][position][head_dim]`, allocated once for
//! the whole sequence. The block being denoised writes here too; the next pass overwrites it.

use crate::engine::config::ModelConfig;

/// The keys and values of one sequence.
#[derive(Debug, Clone)]
pub struct KvCache {
    keys: Vec<f32>,
    values: Vec<f32>,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl KvCache {
    /// Allocates room for `capacity` positions.
    pub fn new(config: &ModelConfig, capacity: usize) -> KvCache {
        let len = config.layers.len() * config.num_key_value_heads * capacity * config.head_dim;
        KvCache {
            keys: vec![0.0; len],
            values: vec![0.0; len],
            capacity,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// Returns how many bytes a position takes in a model of this configuration.
    pub fn bytes_per_position(config: &ModelConfig) -> usize {
        2 * size_of::<f32>() * config.layers.len() * config.num_key_value_heads * config.head_dim
    }

    /// Returns how many positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes the key and value of one head at one position, each `[head_dim]`.
    pub fn write(&mut self, layer: usize, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let at = ((layer * self.kv_heads + head) * self.capacity + position) * self.head_dim;
        self.keys[at..at + self.head_dim].copy_from_slice(key);
        self.values[at..at + self.head_dim].copy_from_slice(value);
    }

    /// Returns the keys of one head up to `end`, `[end, head_dim]`.
    pub fn keys(&self, layer: usize, head: usize, end: usize) -> &[f32] {
        &self.keys[self.range(layer, head, end)]
    }

    /// Returns the values of one head up to `end`, `[end, head_dim]`.
    pub fn values(&self, layer: usize, head: usize, end: usize) -> &[f32] {
        &self.values[self.range(layer, head, end)]
    }

    fn range(&self, layer: usize, head: usize, end: usize) -> std::ops::Range<usize> {
        let start = (layer * self.kv_heads + head) * self.capacity * self.head_dim;
        start..start + end * self.head_dim
    }
}
