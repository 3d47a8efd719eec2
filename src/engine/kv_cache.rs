//! Keys and values of all sequences, in pages: a settled block's are computed once, on its final tokens.
//!
//! A page has `[layer][kv_head]` of keys `[head_dim, PAGE]` and values `[PAGE, head_dim]`, allocated
//! when it is first used. A sequence's pages are its table. The block being denoised writes its own
//! pages in every pass; pages before it may be shared with sequences that began the same. Who has
//! which page is known to [`crate::engine::pages`].

use crate::engine::config::ModelConfig;
use crate::engine::ops::attention::HeadPage;
use crate::engine::pages::PageId;

/// Positions of a page.
pub const PAGE: usize = 64;

/// What is in the pages.
#[derive(Debug)]
pub struct KvCache {
    data: Vec<Vec<f32>>,
    kv_heads: usize,
    head_dim: usize,
    page_len: usize,
}

impl KvCache {
    /// Makes a cache for a model; nothing is allocated yet.
    pub fn new(config: &ModelConfig) -> KvCache {
        KvCache {
            data: Vec::new(),
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            page_len: KvCache::bytes_per_position(config) / size_of::<f32>() * PAGE,
        }
    }

    /// Returns how many bytes a position takes in a model of this configuration.
    pub fn bytes_per_position(config: &ModelConfig) -> usize {
        2 * size_of::<f32>() * config.layers.len() * config.num_key_value_heads * config.head_dim
    }

    /// Makes room for so many pages; what was in them is lost.
    pub fn pool(&mut self, pages: usize) {
        self.data = vec![Vec::new(); pages];
    }

    /// Writes the key and value of one head at one position of a sequence, each `[head_dim]`.
    pub fn write(
        &mut self,
        table: &[PageId],
        layer: usize,
        head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let (page, at) = (table[position / PAGE], position % PAGE);
        let (start, half) = (self.start(layer, head), self.head_dim * PAGE);
        let data = &mut self.data[page.index()];
        if data.is_empty() {
            data.resize(self.page_len, 0.0);
        }
        let (keys, values) = data[start..start + 2 * half].split_at_mut(half);
        for (lanes, k) in keys.chunks_exact_mut(PAGE).zip(key) {
            lanes[at] = *k;
        }
        values[at * self.head_dim..(at + 1) * self.head_dim].copy_from_slice(value);
    }

    /// Returns the keys and values of one head up to `end`, page by page.
    pub fn read(&self, table: &[PageId], layer: usize, head: usize, end: usize) -> Vec<HeadPage<'_>> {
        let (start, half) = (self.start(layer, head), self.head_dim * PAGE);
        let page = |page: &PageId| {
            let (keys, values) = self.data[page.index()][start..start + 2 * half].split_at(half);
            HeadPage { keys, values }
        };
        table[..end.div_ceil(PAGE)].iter().map(page).collect()
    }

    fn start(&self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * 2 * self.head_dim * PAGE
    }
}
