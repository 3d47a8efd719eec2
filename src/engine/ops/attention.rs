//! Attention of some queries over pages of keys and values, without a matrix of scores in memory.
//!
//! Softmax goes along with the pages (online softmax, arXiv 1805.02867; as FlashAttention does): each
//! row keeps its largest score, its sum and its weighted values, and rescales them when a page has a
//! larger score. A row is computed the same way whichever rows it is computed with.

use crate::engine::kv_cache::PAGE;
use crate::engine::ops::simd::exp;
use crate::engine::ops::simd::multiversion;

/// Keys and values of one head in one page.
#[derive(Debug, Clone, Copy)]
pub struct HeadPage<'a> {
    /// `[head_dim, PAGE]`: positions lie side by side, so that scores are computed in lanes.
    pub keys: &'a [f32],
    /// `[PAGE, head_dim]`.
    pub values: &'a [f32],
}

/// Rows computed together, which share the loads of keys and values.
const ROWS: usize = 4;

/// Writes the attention of query rows over the first `end` positions of the pages.
///
/// Row i of the queries is `q[i * q_stride..][..head_dim]`, and so with `out`.
pub fn attend(
    out: &mut [f32],
    out_stride: usize,
    q: &[f32],
    q_stride: usize,
    head_dim: usize,
    pages: &[HeadPage],
    end: usize,
) {
    let rows = (q.len() - head_dim) / q_stride + 1;
    let mut state = vec![0.0; ROWS * head_dim];
    for first in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - first);
        // Rows that are not there repeat the last one; their result is not written.
        let row = |i: usize| (first + i.min(count - 1)) * q_stride;
        let queries: [&[f32]; ROWS] = std::array::from_fn(|i| &q[row(i)..row(i) + head_dim]);
        attend_rows(&mut state, &queries, pages, end);
        for (i, row) in state.chunks_exact(head_dim).take(count).enumerate() {
            out[(first + i) * out_stride..][..head_dim].copy_from_slice(row);
        }
    }
}

multiversion! {
    fn attend_rows(state: &mut [f32], queries: &[&[f32]; ROWS], pages: &[HeadPage], end: usize) {
        let head_dim = queries[0].len();
        let scale = 1.0 / (head_dim as f32).sqrt();
        state.fill(0.0);
        let mut largest = [f32::NEG_INFINITY; ROWS];
        let mut sums = [0.0_f32; ROWS];
        for (page, start) in pages.iter().zip((0..end).step_by(PAGE)) {
            let seen = PAGE.min(end - start);
            let mut scores = [[0.0_f32; PAGE]; ROWS];
            for (d, keys) in page.keys.chunks_exact(PAGE).enumerate() {
                for (scores, query) in scores.iter_mut().zip(queries) {
                    let q = query[d];
                    for (score, key) in scores.iter_mut().zip(keys) {
                        *score += q * key;
                    }
                }
            }
            for (row, scores) in scores.iter_mut().enumerate() {
                let mut best = largest[row];
                for score in &mut scores[..seen] {
                    *score *= scale;
                    best = if *score > best { *score } else { best };
                }
                let mut lanes = [0.0_f32; PAGE];
                for (lane, score) in lanes.iter_mut().zip(scores.iter()) {
                    *lane = exp(*score - best);
                }
                lanes[seen..].fill(0.0);
                *scores = lanes;
                if best > largest[row] {
                    let shrink = exp(largest[row].max(-1e30) - best);
                    sums[row] *= shrink;
                    state[row * head_dim..(row + 1) * head_dim].iter_mut().for_each(|v| *v *= shrink);
                    largest[row] = best;
                }
                sums[row] += scores.iter().sum::<f32>();
            }
            for (row, weights) in scores.iter().enumerate() {
                let state = &mut state[row * head_dim..(row + 1) * head_dim];
                for (weight, value) in weights[..seen].iter().zip(page.values.chunks_exact(head_dim)) {
                    for (sum, v) in state.iter_mut().zip(value) {
                        *sum += weight * v;
                    }
                }
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            let inverse = 1.0 / sum;
            state[row * head_dim..(row + 1) * head_dim].iter_mut().for_each(|v| *v *= inverse);
        }
    }
}
