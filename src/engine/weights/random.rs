//! Weights made up of nothing, for measuring shapes whose checkpoints are not at hand.
//!
//! Any row of any tensor can be had at once: its numbers depend on the seed, the tensor's name and
//! the row only, by a counter put through SplitMix64.

use crate::engine::mixing::GOLDEN;
use crate::engine::mixing::mixed;

/// Returns what sets the numbers of one tensor apart from others': FNV-1a of its name, mixed with the seed.
pub fn key(seed: u64, name: &str) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash) ^ mixed(seed))
}

/// Returns what a vector is filled with: norms with one, biases with zero.
pub fn constant(name: &str) -> f32 {
    if name.ends_with("bias") { 0.0 } else { 1.0 }
}

/// Writes numbers of mean 0 and variance 1: sums of four uniform ones, which is near enough to normal.
pub fn normal(key: u64, row: u64, numbers: &mut [f32]) {
    // Four uniform numbers of 16 bits have together the variance (2³² − 1) / 3.
    const SCALE: f32 = 2.642_868_9e-5;
    let start = mixed(key ^ row.wrapping_mul(GOLDEN));
    for (i, number) in numbers.iter_mut().enumerate() {
        let bits = mixed(start.wrapping_add((i as u64 + 1).wrapping_mul(GOLDEN)));
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        *number = (sum as i32 - 2 * 0xffff) as f32 * SCALE;
    }
}

/// Returns `count` token ids below `vocabulary`.
pub fn tokens(seed: u64, count: usize, vocabulary: usize) -> Vec<u32> {
    let number = |i: u64| mixed(seed.wrapping_add((i + 1).wrapping_mul(GOLDEN)));
    (0..count as u64).map(|i| (number(i) % vocabulary as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_mean_0_and_variance_1_and_rows_differ() {
        let (mut first, mut second) = (vec![0.0; 100_000], vec![0.0; 100_000]);
        normal(key(1, "a"), 0, &mut first);
        normal(key(1, "a"), 1, &mut second);
        let mean = |of: &dyn Fn(usize) -> f32| (0..100_000).map(|i| f64::from(of(i))).sum::<f64>() / 1e5;
        assert!(mean(&|i| first[i]).abs() < 0.02);
        assert!((mean(&|i| first[i] * first[i]) - 1.0).abs() < 0.02);
        assert!(mean(&|i| first[i] * second[i]).abs() < 0.02);
        normal(key(1, "b"), 0, &mut second);
        assert!(mean(&|i| first[i] * second[i]).abs() < 0.02);
    }

    #[test]
    fn a_row_is_always_the_same() {
        let (mut long, mut short) = ([0.0; 9], [0.0; 5]);
        normal(key(3, "a"), 7, &mut long);
        normal(key(3, "a"), 7, &mut short);
        assert_eq!(long[..5], short);
    }

    #[test]
    fn tokens_stay_within_their_bounds() {
        let ids = tokens(5, 1_000, 10);
        assert!(ids.iter().all(|id| *id < 10));
        assert!((0..10).all(|id| ids.contains(&id)));
    }
}
