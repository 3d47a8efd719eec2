//! Keys and values of all sequences, in pages: a settled block's are computed once, on its final tokens.
//!
//! A page has `[layer][kv_head]` of keys `[head_dim, PAGE]` and values `[PAGE, head_dim]`, allocated
//! when it is first used. A sequence's pages are its table. The block being denoised writes its own
//! pages in every pass; pages before it may be shared with sequences that began the same.

use crate::engine::config::ModelConfig;
use crate::engine::ops::attention::HeadPage;
use crate::engine::pages::PageId;
use crate::engine::pages::Pages;

/// Positions of a page.
pub const PAGE: usize = 64;

/// The pages and what is in them.
#[derive(Debug)]
pub struct KvCache {
    /// Who has which page.
    pub pages: Pages,
    data: Vec<Vec<f32>>,
    kv_heads: usize,
    head_dim: usize,
    page_len: usize,
}

impl KvCache {
    /// Makes a cache of at most about `bytes`, and of one page at least; none is allocated yet.
    pub fn new(config: &ModelConfig, bytes: usize) -> KvCache {
        let page_len = KvCache::bytes_per_position(config) / size_of::<f32>() * PAGE;
        let count = (bytes / (page_len * size_of::<f32>())).max(1);
        KvCache {
            pages: Pages::new(count),
            data: Vec::new(),
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            page_len,
        }
    }

    /// Returns how many bytes a position takes in a model of this configuration.
    pub fn bytes_per_position(config: &ModelConfig) -> usize {
        2 * size_of::<f32>() * config.layers.len() * config.num_key_value_heads * config.head_dim
    }

    /// Returns how many positions there is room for.
    pub fn capacity(&self) -> usize {
        self.pages.count() * PAGE
    }

    /// Takes the pages for `positions` of one sequence, of which the first `shared` are there
    /// already; `None`, and nothing is taken, while too many are held by others.
    pub fn take(&mut self, positions: usize, shared: Vec<PageId>) -> Option<Vec<PageId>> {
        let wanted = positions.div_ceil(PAGE).saturating_sub(shared.len());
        if wanted > self.pages.available() {
            self.pages.release_all(&shared);
            return None;
        }
        let mut table = shared;
        for _ in 0..wanted {
            let page = self.pages.take().expect("as many are available");
            if self.data.len() <= page.index() {
                self.data.resize_with(page.index() + 1, Vec::new);
            }
            self.data[page.index()].resize(self.page_len, 0.0);
            table.push(page);
        }
        Some(table)
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
        let data = &mut self.data[page.index()][start..start + 2 * half];
        let (keys, values) = data.split_at_mut(half);
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
