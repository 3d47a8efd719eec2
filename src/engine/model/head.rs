//! What the head says of a row: the likeliest token and its probability.
//!
//! Logits are computed for a tile of the vocabulary at a time and read while they are in the nearest
//! cache; those of a whole vocabulary are never stored. Tiles are the same for every batch, and what
//! they say is put together in their order.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Rows;
use crate::engine::ops::simd::exp;
use crate::engine::ops::softmax::Peak;
use crate::engine::ops::softmax::peak;

/// Tokens of a tile, a multiple of what the linear layer packs together.
const TILE: usize = 256;
/// Rows that are computed together.
const ROWS: usize = 8;

/// The likeliest token of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likeliest {
    /// The first of the largest logit.
    pub token: u32,
    /// Its probability among those that are not closed.
    pub probability: f32,
}

/// Returns the likeliest token of each of the `count` rows of `x`.
///
/// `close` sets the logits of what a row may not have, of a range of tokens, to −∞.
pub fn likeliest(
    head: &Linear,
    x: &Rows,
    count: usize,
    close: impl Fn(usize, Range<usize>, &mut [f32]) + Sync,
) -> Vec<Likeliest> {
    if count == 0 {
        return Vec::new();
    }
    let vocabulary = head.output();
    let mut peaks = vec![Peak::default(); vocabulary.div_ceil(TILE) * count];
    peaks.par_chunks_exact_mut(count).enumerate().for_each(|(tile, peaks)| {
        let tokens = tile * TILE..((tile + 1) * TILE).min(vocabulary);
        let mut logits = [0.0; ROWS * TILE];
        for (some, peaks) in peaks.chunks_mut(ROWS).enumerate() {
            let first = some * ROWS;
            let logits = &mut logits[..peaks.len() * tokens.len()];
            head.apply_some(logits, tokens.len(), x, first..first + peaks.len(), tokens.clone());
            for (row, (logits, of_row)) in logits.chunks_exact_mut(tokens.len()).zip(peaks).enumerate() {
                close(first + row, tokens.clone(), logits);
                *of_row = peak(logits);
            }
        }
    });
    (0..count)
        .map(|row| {
            let of_row = || peaks.iter().skip(row).step_by(count).enumerate();
            let (mut tile, mut best) = (0, peaks[row]);
            for (i, peak) in of_row() {
                if peak.value > best.value {
                    (tile, best) = (i, *peak);
                }
            }
            // A tile of which everything is closed has nothing to add.
            let open = of_row().filter(|(_, peak)| peak.value > f32::NEG_INFINITY);
            let sum: f32 = open.map(|(_, peak)| peak.sum * exp(peak.value - best.value)).sum();
            Likeliest { token: (tile * TILE + best.at) as u32, probability: 1.0 / sum }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model::linear::Quant;
    use crate::engine::weights::random::normal;

    #[test]
    fn it_says_what_all_logits_together_say() {
        let (input, vocabulary, count) = (24, 2 * TILE + 37, 11);
        let fill = |row: usize, numbers: &mut [f32]| normal(1, row as u64, numbers);
        let mut x = vec![0.0; count * input];
        x.chunks_exact_mut(input).enumerate().for_each(|(row, x)| normal(2, row as u64, x));
        for quant in [Quant::F32, Quant::Q8, Quant::Q4] {
            let head = Linear::from_rows(quant, input, vocabulary, None, fill);
            let mut rows = Rows::default();
            rows.set(quant, &x, input);
            let mut logits = vec![0.0; count * vocabulary];
            head.apply(&mut logits, &rows, 0..count);
            // Row 3 may have nothing of the first two tiles.
            logits[3 * vocabulary..][..2 * TILE].fill(f32::NEG_INFINITY);
            let found = likeliest(&head, &rows, count, |row, tokens, logits| {
                if row == 3 && tokens.start < 2 * TILE {
                    logits.fill(f32::NEG_INFINITY);
                }
            });
            for (row, (logits, found)) in logits.chunks_exact(vocabulary).zip(&found).enumerate() {
                let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = logits.iter().map(|l| f64::from(l - best).exp()).sum();
                let token = logits.iter().position(|l| *l == best).unwrap() as u32;
                assert_eq!(found.token, token, "{quant:?} {row}");
                assert!((f64::from(found.probability) - 1.0 / sum).abs() < 1e-5, "{quant:?} {row}");
            }
        }
    }
}
