//! Attention of some queries over pages of keys and values, without a matrix of scores in memory.
//!
//! Softmax goes along with the pages (online softmax, arXiv 1805.02867, as FlashAttention does it):
//! each row keeps its largest score, its sum and its weighted values, and rescales them when a page
//! has a larger score. All heads that share keys go through a page together. What a row becomes does
//! not depend on the rows beside it.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::engine::kv_cache::PAGE;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::matmul::matmul;
use crate::engine::ops::simd::exp;
use crate::engine::ops::simd::multiversion;
use crate::engine::ops::softmax::largest;

/// Keys and values of one head in one page.
#[derive(Debug, Clone, Copy)]
pub struct HeadPage<'a> {
    /// `[head_dim, PAGE]`: the positions of a page lie side by side.
    pub keys: &'a [f32],
    /// `[PAGE, head_dim]`.
    pub values: &'a [f32],
}

/// The queries of some rows that see the same keys.
#[derive(Debug, Clone, Copy)]
pub struct Queries<'a> {
    /// Row i is `data[i * stride..][..heads * head_dim]`.
    pub data: &'a [f32],
    /// From one row to the next.
    pub stride: usize,
    /// Rows.
    pub rows: usize,
    /// Query heads that share the keys.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// A form of [`attend`].
pub type Attend = fn(&mut [f32], usize, Queries, &[HeadPage], usize);

/// Writes the attention of the queries over the first `end` positions of the pages; row i of the
/// result is `out[i * out_stride..][..heads * head_dim]`.
pub fn attend(out: &mut [f32], out_stride: usize, q: Queries, pages: &[HeadPage], end: usize) {
    #[cfg(target_arch = "x86_64")]
    if avx512::is_supported(q.head_dim) {
        return avx512::attend(out, out_stride, q, pages, end);
    }
    attend_by_products(out, out_stride, q, pages, end);
}

/// [`attend`] by matrix products, on any processor.
fn attend_by_products(out: &mut [f32], out_stride: usize, q: Queries, pages: &[HeadPage], end: usize) {
    let (head_dim, row_len) = (q.head_dim, q.heads * q.head_dim);
    let rows = q.rows * q.heads;
    let queries: Vec<f32> =
        (0..q.rows).flat_map(|i| &q.data[i * q.stride..i * q.stride + row_len]).copied().collect();
    let queries = View::new(&queries, rows, head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut scores = vec![0.0; rows * PAGE.min(end)];
    let (mut largest, mut sums) = (vec![f32::NEG_INFINITY; rows], vec![0.0; rows]);
    let mut values = vec![0.0; rows * head_dim];
    for (page, start) in pages.iter().zip((0..end).step_by(PAGE)) {
        let seen = PAGE.min(end - start);
        let scores = &mut scores[..rows * seen];
        let keys = View::strided(page.keys, head_dim, seen, PAGE);
        matmul(scores, seen, queries, keys, scale, Write::Replace);
        soften(scores, seen, &mut largest, &mut sums, &mut values, head_dim);
        let weights = View::new(scores, rows, seen);
        matmul(&mut values, head_dim, weights, View::new(page.values, seen, head_dim), 1.0, Write::Add);
    }
    for ((i, values), sum) in values.chunks_exact(head_dim).enumerate().zip(&sums) {
        let at = i / q.heads * out_stride + i % q.heads * head_dim;
        let inverse = 1.0 / sum;
        out[at..at + head_dim].iter_mut().zip(values).for_each(|(out, value)| *out = value * inverse);
    }
}

multiversion! {
    /// Replaces rows of scores by e^(score − largest), after bringing what the rows keep to the
    /// largest score so far.
    fn soften(
        scores: &mut [f32],
        seen: usize,
        largests: &mut [f32],
        sums: &mut [f32],
        values: &mut [f32],
        head_dim: usize,
    ) {
        let kept = largests.iter_mut().zip(sums).zip(values.chunks_exact_mut(head_dim));
        for (row, ((kept_largest, sum), values)) in scores.chunks_exact_mut(seen).zip(kept) {
            let best = largest(row);
            if best > *kept_largest {
                let shrink = exp(*kept_largest - best);
                values.iter_mut().for_each(|v| *v *= shrink);
                *sum *= shrink;
                *kept_largest = best;
            }
            for score in row.iter_mut() {
                *score = exp(*score - *kept_largest);
            }
            let mut lanes = [0.0_f32; 8];
            let chunks = row.chunks_exact(8);
            *sum += chunks.remainder().iter().sum::<f32>();
            for chunk in chunks {
                lanes.iter_mut().zip(chunk).for_each(|(lane, score)| *lane += score);
            }
            *sum += lanes.iter().sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::exact;
    use crate::engine::ops::testing::numbers;

    /// Checks a way to attend, with heads of some width.
    fn check(way: Attend, head_dim: usize) {
        let (rows, heads) = (7, 3);
        let stride = heads * head_dim + 15;
        let q = numbers(rows * stride, 4.0, 1);
        for end in [1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE - 5] {
            let pages: Vec<(Vec<f32>, Vec<f32>)> = (0..end.div_ceil(PAGE) as u64)
                .map(|i| (numbers(head_dim * PAGE, 4.0, 2 + i), numbers(head_dim * PAGE, 4.0, 20 + i)))
                .collect();
            let pages: Vec<HeadPage> = pages.iter().map(|(keys, values)| HeadPage { keys, values }).collect();
            let queries = |from: usize, rows: usize| Queries {
                data: &q[from * stride..],
                stride,
                rows,
                heads,
                head_dim,
            };
            let (mut found, mut expected) = (vec![9.0; rows * stride], vec![9.0; rows * stride]);
            way(&mut found, stride, queries(0, rows), &pages, end);
            exact::attend(&mut expected, stride, queries(0, rows), &pages, end);
            for (a, b) in found.iter().zip(&expected) {
                // Scores of wide heads are in the hundreds here, and their exponentials as much less exact.
                assert!((a - b).abs() < 1e-6 * head_dim as f32, "{a} and {b} with {end} positions");
            }
            for row in 0..rows {
                let mut alone = vec![9.0; stride];
                way(&mut alone, stride, queries(row, 1), &pages, end);
                assert_eq!(alone, found[row * stride..(row + 1) * stride]);
            }
        }
    }

    #[test]
    fn it_agrees_with_sums_in_64_bits_and_rows_with_themselves_alone() {
        for head_dim in [16, 20, 64, 80, 128] {
            check(attend, head_dim);
            check(attend_by_products, head_dim);
        }
    }
}
