//! [`attend`](super::attend) with AVX-512: keys and values are read where they lie, scores of a page
//! stay in registers until they are weights.
//!
//! Six rows go through a page together, or what is left of them; each row's sums are made in the
//! same order however many there are.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use crate::engine::kv_cache::PAGE;
use crate::engine::ops::attention::HeadPage;
use crate::engine::ops::attention::Queries;

/// Rows that go together: six by four registers of sums leave room for the factors.
const ROWS: usize = 6;
/// Numbers of a register.
const LANES: usize = 16;
/// Registers of a page's scores.
const REGISTERS: usize = PAGE / LANES;

/// Whether this processor has the instructions and they fit heads of this width.
pub fn is_supported(head_dim: usize) -> bool {
    is_x86_feature_detected!("avx512f") && head_dim.is_multiple_of(LANES)
}

/// What a row keeps from page to page beside its weighted values.
#[derive(Clone, Copy)]
struct Kept {
    largest: f32,
    sum: f32,
    /// What brings the values so far to the largest of this page.
    shrink: f32,
}

/// As [`attend`](super::attend).
///
/// # Panics
/// When [`is_supported`] is false or something is too short: a bug of the caller.
pub fn attend(out: &mut [f32], out_stride: usize, q: Queries, pages: &[HeadPage], end: usize) {
    let (head_dim, row_len) = (q.head_dim, q.heads * q.head_dim);
    if q.rows == 0 || end == 0 {
        return;
    }
    assert!(is_supported(head_dim), "attention on this processor");
    assert!((q.rows - 1) * q.stride + row_len <= q.data.len(), "queries within their slice");
    assert!((q.rows - 1) * out_stride + row_len <= out.len(), "outputs within their slice");
    let is_whole =
        |page: &HeadPage| page.keys.len() == head_dim * PAGE && page.values.len() == head_dim * PAGE;
    assert!(end <= pages.len() * PAGE && pages.iter().all(is_whole), "pages for all positions");
    let mut values = vec![0.0; ROWS * head_dim];
    for first in (0..q.rows * q.heads).step_by(ROWS) {
        let count = ROWS.min(q.rows * q.heads - first);
        let row = |i: usize, stride: usize| {
            let i = first + i.min(count - 1);
            i / q.heads * stride + i % q.heads * head_dim
        };
        let queries: [&[f32]; ROWS] = std::array::from_fn(|i| &q.data[row(i, q.stride)..][..head_dim]);
        // SAFETY: the features are there, and the asserts above put queries and pages within their slices.
        let kept = unsafe {
            match count {
                1 => rows::<1>(&queries, pages, end, &mut values),
                2 => rows::<2>(&queries, pages, end, &mut values),
                3 => rows::<3>(&queries, pages, end, &mut values),
                4 => rows::<4>(&queries, pages, end, &mut values),
                5 => rows::<5>(&queries, pages, end, &mut values),
                _ => rows::<6>(&queries, pages, end, &mut values),
            }
        };
        for (i, values) in values.chunks_exact(head_dim).enumerate().take(count) {
            let inverse = 1.0 / kept[i].sum;
            let out = &mut out[row(i, out_stride)..][..head_dim];
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value * inverse);
        }
    }
}

/// Leaves the weighted values of `R` rows in `values` `[ROWS, head_dim]`, not yet divided by their sums.
///
/// # Safety
/// Needs AVX-512 F; every query has `head_dim` numbers, there are pages for `end` positions.
#[target_feature(enable = "avx512f")]
unsafe fn rows<const R: usize>(
    queries: &[&[f32]; ROWS],
    pages: &[HeadPage],
    end: usize,
    values: &mut [f32],
) -> [Kept; ROWS] {
    let head_dim = queries[0].len();
    let mut kept = [Kept { largest: f32::NEG_INFINITY, sum: 0.0, shrink: 0.0 }; ROWS];
    let mut weights = [[0.0; PAGE]; ROWS];
    values.fill(0.0);
    for (page, start) in pages.iter().zip((0..end).step_by(PAGE)) {
        let seen = PAGE.min(end - start);
        // SAFETY: the caller's contract; a block of columns ends within `head_dim`.
        unsafe {
            let scores = scores::<R>(queries, page.keys);
            for row in 0..R {
                kept[row] = soften(scores[row], seen, head_dim, kept[row], &mut weights[row]);
            }
            let mut column = 0;
            while column + REGISTERS * LANES <= head_dim {
                add_values::<R, REGISTERS>(&weights, &kept, seen, page.values, head_dim, column, values);
                column += REGISTERS * LANES;
            }
            while column < head_dim {
                add_values::<R, 1>(&weights, &kept, seen, page.values, head_dim, column, values);
                column += LANES;
            }
        }
    }
    kept
}

/// Returns the products of `R` queries with the keys of a page.
///
/// # Safety
/// As for [`rows`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn scores<const R: usize>(queries: &[&[f32]; ROWS], keys: &[f32]) -> [[__m512; REGISTERS]; R] {
    let mut sums = [[_mm512_setzero_ps(); REGISTERS]; R];
    for d in 0..queries[0].len() {
        // SAFETY: `keys` has a line of a page's positions for each of `head_dim`, which is what a query has.
        unsafe {
            let line = keys.as_ptr().add(d * PAGE);
            let line: [__m512; REGISTERS] = std::array::from_fn(|i| _mm512_loadu_ps(line.add(i * LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let q = _mm512_set1_ps(*queries[row].get_unchecked(d));
                for (sum, keys) in sums.iter_mut().zip(line) {
                    *sum = _mm512_fmadd_ps(q, keys, *sum);
                }
            }
        }
    }
    sums
}

/// Turns the scores of one row into weights, of the first `seen` positions; returns what it keeps.
#[inline]
#[target_feature(enable = "avx512f")]
fn soften(
    scores: [__m512; REGISTERS],
    seen: usize,
    head_dim: usize,
    before: Kept,
    weights: &mut [f32; PAGE],
) -> Kept {
    let scale = _mm512_set1_ps(1.0 / (head_dim as f32).sqrt());
    let mut lanes = [0; REGISTERS];
    let (mut scaled, mut best) = (scores, _mm512_set1_ps(f32::NEG_INFINITY));
    for (i, score) in scaled.iter_mut().enumerate() {
        lanes[i] = first(seen.saturating_sub(i * LANES));
        *score = _mm512_mul_ps(*score, scale);
        best = _mm512_mask_max_ps(best, lanes[i], best, *score);
    }
    let largest = before.largest.max(_mm512_reduce_max_ps(best));
    let shrink = if largest > before.largest { (before.largest - largest).exp() } else { 1.0 };
    let mut sum = _mm512_setzero_ps();
    for (i, (score, to)) in scaled.into_iter().zip(weights.chunks_exact_mut(LANES)).enumerate() {
        let weight = _mm512_maskz_mov_ps(lanes[i], exp(_mm512_sub_ps(score, _mm512_set1_ps(largest))));
        sum = _mm512_add_ps(sum, weight);
        // SAFETY: `to` is one register wide.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), weight) };
    }
    Kept { largest, sum: before.sum * shrink + _mm512_reduce_add_ps(sum), shrink }
}

/// Shrinks `N` registers of the values of `R` rows, from `column` on, and adds those of a page.
///
/// # Safety
/// As for [`rows`]; `column` and `N` registers are within `head_dim`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn add_values<const R: usize, const N: usize>(
    weights: &[[f32; PAGE]; ROWS],
    kept: &[Kept; ROWS],
    seen: usize,
    page: &[f32],
    head_dim: usize,
    column: usize,
    values: &mut [f32],
) {
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    // SAFETY: the caller's contract; `values` has `head_dim` numbers for each of `ROWS` rows.
    unsafe {
        for (row, sums) in sums.iter_mut().enumerate() {
            let from = values.as_ptr().add(row * head_dim + column);
            let shrink = _mm512_set1_ps(kept[row].shrink);
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = _mm512_mul_ps(_mm512_loadu_ps(from.add(i * LANES)), shrink);
            }
        }
        for position in 0..seen {
            let line = page.as_ptr().add(position * head_dim + column);
            let line: [__m512; N] = std::array::from_fn(|i| _mm512_loadu_ps(line.add(i * LANES)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = _mm512_set1_ps(*weights[row].get_unchecked(position));
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum = _mm512_fmadd_ps(weight, value, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let to = values.as_mut_ptr().add(row * head_dim + column);
            for (i, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(to.add(i * LANES), sum);
            }
        }
    }
}

/// The mask of the first `count` of 16.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    if count < LANES { (1 << count) - 1 } else { !0 }
}

/// [`crate::engine::ops::simd::exp`] of sixteen numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(x, _mm512_set1_ps(-87.0));
    let whole = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693_359_4), x);
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.121_944_4e-4), rest);
    let mut polynomial = _mm512_set1_ps(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = _mm512_fmadd_ps(polynomial, rest, _mm512_set1_ps(coefficient));
    }
    let squared = _mm512_mul_ps(rest, rest);
    let mantissa = _mm512_fmadd_ps(polynomial, squared, _mm512_add_ps(rest, _mm512_set1_ps(1.0)));
    _mm512_scalef_ps(mantissa, whole)
}
