//! Attention of one-pass block diffusion, `[noised ‖ clean]`, and its gradient (BD3-LM, arXiv 2503.09573).
//!
//! A document of n tokens is there twice. A noised block sees itself and the clean blocks before
//! it; a clean block sees itself and the clean blocks before it. Scores are computed tile by
//! tile and thrown away; the backward pass computes them again.

use std::ops::Range;

use crate::engine::ops::matmul::Precision;
use crate::engine::ops::matmul::View;
use crate::engine::ops::matmul::Write;
use crate::engine::ops::simd::multiversion;
use crate::engine::ops::softmax::softmax;

/// The sizes of attention.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Query heads.
    pub queries: usize,
    /// Key and value heads.
    pub keys: usize,
    /// Width of a head.
    pub width: usize,
    /// Block length.
    pub block: usize,
    /// How products are rounded.
    pub precision: Precision,
}

/// One half of a document, noised or clean: rows of `[tokens, heads · width]`.
#[derive(Debug, Clone, Copy)]
pub struct Half<'a> {
    /// Queries; empty when nobody needs this half's output.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
}

/// The gradients of one half.
#[derive(Debug)]
pub struct HalfGradient<'a> {
    /// Of the queries.
    pub dq: &'a mut [f32],
    /// Of the keys.
    pub dk: &'a mut [f32],
    /// Of the values.
    pub dv: &'a mut [f32],
}

/// About how many query rows of a head are worked on together. Laying out the keys for a product costs
/// as much as multiplying them by a few dozen rows, so blocks share it.
const TILE: usize = 64;

/// Some blocks of queries of one half, and the keys of which some of them see some.
#[derive(Debug, Clone, Copy)]
struct Tile {
    /// The first query row of the half.
    from: usize,
    /// Query rows, of each head.
    tokens: usize,
    /// Clean keys, from the document's start.
    clean: usize,
    /// Keys of the noised half itself, from `from` on.
    own: usize,
    block: usize,
}

impl Tile {
    fn columns(&self) -> usize {
        self.clean + self.own
    }

    /// Returns the columns that the query at `place` of the tile does not see.
    fn hidden(&self, place: usize) -> [Range<usize>; 3] {
        let block = place / self.block * self.block;
        if self.own == 0 {
            return [self.from + block + self.block..self.clean, 0..0, 0..0];
        }
        let own = self.clean + block;
        [self.from + block..self.clean, self.clean..own, own + self.block..self.columns()]
    }
}

fn tiles(tokens: usize, block: usize, is_noised: bool) -> impl Iterator<Item = Tile> {
    let step = (TILE / block).max(1) * block;
    (0..tokens).step_by(step).map(move |from| {
        let count = step.min(tokens - from);
        let (clean, own) = if is_noised { (from + count - block, count) } else { (from + count, 0) };
        Tile { from, tokens: count, clean, own, block }
    })
}

/// A key head with the query heads that share it, and room for their rows, `[queries · tokens, …]`.
struct Work {
    heads: Heads,
    key_head: usize,
    /// Queries of the tile, one head after the other.
    q: Vec<f32>,
    /// Probabilities over the tile's columns.
    p: Vec<f32>,
    /// Outputs, or their gradient.
    out: Vec<f32>,
    /// Gradient of the scores.
    ds: Vec<f32>,
    /// Gradient of the queries.
    dq: Vec<f32>,
}

impl Work {
    fn new(heads: Heads, key_head: usize) -> Work {
        let empty = Vec::new;
        Work { heads, key_head, q: empty(), p: empty(), out: empty(), ds: empty(), dq: empty() }
    }

    fn group(&self) -> usize {
        self.heads.queries / self.heads.keys
    }

    /// Where the head of a row of the tile lies among the half's queries.
    fn places(&self, tile: Tile) -> impl Iterator<Item = Range<usize>> + use<> {
        let Heads { queries, width, .. } = self.heads;
        let first = self.key_head * self.group();
        (0..self.group()).flat_map(move |head| {
            (0..tile.tokens).map(move |place| {
                let start = ((tile.from + place) * queries + first + head) * width;
                start..start + width
            })
        })
    }

    fn rows(&self, tile: Tile) -> usize {
        self.group() * tile.tokens
    }

    /// Returns the first `count` keys or values from `row` on.
    fn keys<'a>(&self, of: &'a [f32], row: usize, count: usize) -> View<'a> {
        View::strided(&of[self.key_at(row)..], count, self.heads.width, self.key_stride())
    }

    fn key_at(&self, row: usize) -> usize {
        row * self.key_stride() + self.key_head * self.heads.width
    }

    fn key_stride(&self) -> usize {
        self.heads.keys * self.heads.width
    }

    /// Fills `q` and `p`: the softmax over the keys that are seen, 0 for the others.
    fn probabilities(&mut self, tile: Tile, half: Half, clean: Half) {
        let (rows, columns, width) = (self.rows(tile), tile.columns(), self.heads.width);
        let scale = 1.0 / (width as f32).sqrt();
        self.q.clear();
        for place in self.places(tile) {
            self.q.extend_from_slice(&half.q[place]);
        }
        self.p.resize(rows * columns, 0.0);
        let mut p = std::mem::take(&mut self.p);
        let (precision, q) = (self.heads.precision, View::new(&self.q, rows, width));
        let k = self.keys(clean.k, 0, tile.clean).transposed();
        precision.matmul(&mut p, columns, q, k, scale, Write::Replace);
        if tile.own > 0 {
            let k = self.keys(half.k, tile.from, tile.own).transposed();
            precision.matmul(&mut p[tile.clean..], columns, q, k, scale, Write::Replace);
        }
        for (i, row) in p.chunks_exact_mut(columns).enumerate() {
            let hidden = tile.hidden(i % tile.tokens);
            hidden.iter().for_each(|range| row[range.clone()].fill(UNSEEN));
            softmax(row);
            hidden.iter().for_each(|range| row[range.clone()].fill(0.0));
        }
        self.p = p;
    }
}

/// A score that leaves nothing of a key.
const UNSEEN: f32 = -1e30;

/// Writes the attention output of both halves: `noised_out`, and `clean_out` when `clean.q` is there.
pub fn forward(heads: Heads, noised: Half, clean: Half, noised_out: &mut [f32], clean_out: &mut [f32]) {
    for key_head in 0..heads.keys {
        let mut work = Work::new(heads, key_head);
        for (half, out, is_noised) in [(noised, &mut *noised_out, true), (clean, &mut *clean_out, false)] {
            let tokens = half.q.len() / (heads.queries * heads.width);
            for tile in tiles(tokens, heads.block, is_noised) {
                work.probabilities(tile, half, clean);
                weigh_values(&mut work, tile, half, clean);
                for (place, row) in work.places(tile).zip(work.out.chunks_exact(heads.width)) {
                    out[place].copy_from_slice(row);
                }
            }
        }
    }
}

/// Fills `out` with the values weighed by `p`.
fn weigh_values(work: &mut Work, tile: Tile, half: Half, clean: Half) {
    let (rows, width, precision) = (work.rows(tile), work.heads.width, work.heads.precision);
    let mut out = std::mem::take(&mut work.out);
    out.clear();
    out.resize(rows * width, 0.0);
    let (seen, own) = halves_of(&work.p, rows, tile);
    if tile.clean > 0 {
        precision.matmul(&mut out, width, seen, work.keys(clean.v, 0, tile.clean), 1.0, Write::Add);
    }
    if tile.own > 0 {
        precision.matmul(&mut out, width, own, work.keys(half.v, tile.from, tile.own), 1.0, Write::Add);
    }
    work.out = out;
}

/// Returns the columns of the clean keys and those of the tile's own.
fn halves_of(p: &[f32], rows: usize, tile: Tile) -> (View<'_>, View<'_>) {
    let all = View::new(p, rows, tile.columns());
    let own = View { data: &p[tile.clean.min(p.len())..], columns: tile.own, ..all };
    (View { columns: tile.clean, ..all }, own)
}

/// Adds the gradients of keys and values, replaces those of queries; `outs` and `douts` are as in [`forward`].
pub fn backward(
    heads: Heads,
    [noised, clean]: [Half; 2],
    outs: [&[f32]; 2],
    douts: [&[f32]; 2],
    [noised_gradient, mut clean_gradient]: [HalfGradient; 2],
) {
    let HalfGradient { dq: noised_dq, dk: noised_dk, dv: noised_dv } = noised_gradient;
    for key_head in 0..heads.keys {
        let mut work = Work::new(heads, key_head);
        for tile in tiles(noised.q.len() / (heads.queries * heads.width), heads.block, true) {
            work.probabilities(tile, noised, clean);
            work.score_gradient(tile, noised, clean, outs[0], douts[0]);
            work.back_to_clean(tile, clean, &mut clean_gradient);
            work.back_to_own(tile, noised, noised_dk, noised_dv);
            work.write_queries(tile, noised_dq);
        }
        for tile in tiles(clean.q.len() / (heads.queries * heads.width), heads.block, false) {
            work.probabilities(tile, clean, clean);
            work.score_gradient(tile, clean, clean, outs[1], douts[1]);
            work.back_to_clean(tile, clean, &mut clean_gradient);
            work.write_queries(tile, clean_gradient.dq);
        }
    }
}

impl Work {
    /// Fills `out` with dO, and `ds` with dS = P ∘ (dO·Vᵀ − rowsum(dO ∘ O)) · scale.
    fn score_gradient(&mut self, tile: Tile, half: Half, clean: Half, out: &[f32], dout: &[f32]) {
        let (rows, columns, width) = (self.rows(tile), tile.columns(), self.heads.width);
        let precision = self.heads.precision;
        self.out.clear();
        for place in self.places(tile) {
            self.out.extend_from_slice(&dout[place]);
        }
        let mut ds = std::mem::take(&mut self.ds);
        ds.resize(rows * columns, 0.0);
        let d = View::new(&self.out, rows, width);
        let v = self.keys(clean.v, 0, tile.clean).transposed();
        precision.matmul(&mut ds, columns, d, v, 1.0, Write::Replace);
        if tile.own > 0 {
            let v = self.keys(half.v, tile.from, tile.own).transposed();
            precision.matmul(&mut ds[tile.clean..], columns, d, v, 1.0, Write::Replace);
        }
        let scale = 1.0 / (width as f32).sqrt();
        let of_rows = ds.chunks_exact_mut(columns).zip(self.p.chunks_exact(columns));
        for (place, (ds, p)) in self.places(tile).zip(of_rows) {
            let along = out[place.clone()].iter().zip(&dout[place]).map(|(a, b)| a * b).sum();
            softmax_backward(ds, p, along, scale);
        }
        self.ds = ds;
    }

    /// Adds to the clean half dV += Pᵀ·dO and dK += dSᵀ·Q; begins dQ = dS·K.
    fn back_to_clean(&mut self, tile: Tile, clean: Half, gradient: &mut HalfGradient) {
        let (rows, width) = (self.rows(tile), self.heads.width);
        let mut dq = std::mem::take(&mut self.dq);
        dq.clear();
        dq.resize(rows * width, 0.0);
        let (p, _) = halves_of(&self.p, rows, tile);
        let (ds, _) = halves_of(&self.ds, rows, tile);
        if tile.clean > 0 {
            self.back(p, ds, 0, gradient.dk, gradient.dv);
            let k = self.keys(clean.k, 0, tile.clean);
            self.heads.precision.matmul(&mut dq, width, ds, k, 1.0, Write::Add);
        }
        self.dq = dq;
    }

    /// The same for the tile's own keys, and the rest of dQ.
    fn back_to_own(&mut self, tile: Tile, half: Half, dk: &mut [f32], dv: &mut [f32]) {
        let (rows, width) = (self.rows(tile), self.heads.width);
        let mut dq = std::mem::take(&mut self.dq);
        let (_, p) = halves_of(&self.p, rows, tile);
        let (_, ds) = halves_of(&self.ds, rows, tile);
        self.back(p, ds, tile.from, dk, dv);
        let k = self.keys(half.k, tile.from, tile.own);
        self.heads.precision.matmul(&mut dq, width, ds, k, 1.0, Write::Add);
        self.dq = dq;
    }

    fn back(&self, p: View, ds: View, from: usize, dk: &mut [f32], dv: &mut [f32]) {
        let (rows, width, stride, at) = (p.rows, self.heads.width, self.key_stride(), self.key_at(from));
        let (d, q) = (View::new(&self.out, rows, width), View::new(&self.q, rows, width));
        self.heads.precision.matmul(&mut dv[at..], stride, p.transposed(), d, 1.0, Write::Add);
        self.heads.precision.matmul(&mut dk[at..], stride, ds.transposed(), q, 1.0, Write::Add);
    }

    fn write_queries(&self, tile: Tile, dq: &mut [f32]) {
        for (place, row) in self.places(tile).zip(self.dq.chunks_exact(self.heads.width)) {
            dq[place].copy_from_slice(row);
        }
    }
}

multiversion! {
    fn softmax_backward(dp: &mut [f32], p: &[f32], along: f32, scale: f32) {
        for (d, p) in dp.iter_mut().zip(p) {
            *d = p * (*d - along) * scale;
        }
    }
}
