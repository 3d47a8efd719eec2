//! A 5-gram model of token ids: interpolated, modified Kneser-Ney (Chen and Goodman, "An Empirical
//! Study of Smoothing Techniques for Language Modeling", 1998, section 3).
//!
//! The highest order counts how often a token follows four others; the lower ones count after how
//! many different tokens it does. Every count gives up a discount, which the next lower order shares
//! out. N-grams are kept as 64-bit mixes of their tokens: of a hundred million, two are confused
//! with a chance of about one in 4,000.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::hash::Hasher;

use crate::engine::mixing::GOLDEN;
use crate::engine::mixing::mixed;

/// Tokens of the longest n-gram.
const ORDER: usize = 5;
/// Stands before a document; no token has this id.
const BEGINNING: u32 = u32::MAX;

/// Keys are mixed already.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mixed(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Table<T> = HashMap<u64, T, BuildHasherDefault<Mixed>>;

/// What is known of the tokens that follow a context.
#[derive(Debug, Clone, Copy, Default)]
struct Context {
    /// The sum of their counts.
    total: u32,
    /// How many of them have a count of 1, 2, and 3 or more.
    with_count: [u32; 3],
}

/// One order of the model.
#[derive(Debug, Default)]
struct Level {
    counts: Table<u32>,
    contexts: Table<Context>,
    /// What a count of 1, 2, and 3 or more gives up.
    discounts: [f64; 3],
}

/// A trained model.
#[derive(Debug)]
pub struct Ngram {
    /// The order with a context of as many tokens as its index.
    levels: Vec<Level>,
    vocabulary: usize,
    tokens: usize,
}

impl Ngram {
    /// Counts documents over a vocabulary.
    pub fn train<'a>(documents: impl IntoIterator<Item = &'a [u32]>, vocabulary: usize) -> Ngram {
        let mut ngram =
            Ngram { levels: (0..ORDER).map(|_| Level::default()).collect(), vocabulary, tokens: 0 };
        for document in documents {
            for at in 0..document.len() {
                ngram.count(document, at);
            }
            ngram.tokens += document.len();
        }
        for level in &mut ngram.levels {
            level.discounts = discounts(&level.counts);
        }
        ngram
    }

    /// Returns how many tokens were counted.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    fn count(&mut self, document: &[u32], at: usize) {
        let contexts = contexts(document, at);
        for (level, context) in self.levels.iter_mut().zip(contexts).rev() {
            let count = level.counts.entry(ngram(context, document[at])).or_default();
            let of_context = level.contexts.entry(context).or_default();
            *count += 1;
            of_context.total += 1;
            match *count {
                1 => of_context.with_count[0] += 1,
                2 | 3 => {
                    let more = *count as usize - 1;
                    of_context.with_count[more - 1] -= 1;
                    of_context.with_count[more] += 1;
                }
                _ => {}
            }
            // Lower orders count each longer n-gram once.
            if *count > 1 {
                return;
            }
        }
    }

    /// Returns the probability of the token at `at` after those before it in the document.
    pub fn probability(&self, document: &[u32], at: usize) -> f64 {
        let mut probability = 1.0 / self.vocabulary as f64;
        for (level, context) in self.levels.iter().zip(contexts(document, at)) {
            let Some(of_context) = level.contexts.get(&context) else { return probability };
            let count = level.counts.get(&ngram(context, document[at])).copied().unwrap_or(0);
            let kept = match count {
                0 => 0.0,
                count => f64::from(count) - level.discounts[count.min(3) as usize - 1],
            };
            let given_up: f64 =
                of_context.with_count.iter().zip(level.discounts).map(|(n, d)| f64::from(*n) * d).sum();
            probability = (kept + given_up * probability) / f64::from(of_context.total);
        }
        probability
    }

    /// Returns how unlikely a document is, in nats.
    pub fn nats(&self, document: &[u32]) -> f64 {
        (0..document.len()).map(|at| -self.probability(document, at).ln()).sum()
    }
}

/// Returns the mixes of the last 0 to 4 tokens before a position.
fn contexts(document: &[u32], at: usize) -> [u64; ORDER] {
    let mut contexts = [GOLDEN; ORDER];
    for back in 1..ORDER {
        let token = at.checked_sub(back).map_or(BEGINNING, |at| document[at]);
        contexts[back] = mixed(contexts[back - 1].wrapping_add(GOLDEN) ^ u64::from(token));
    }
    contexts
}

fn ngram(context: u64, token: u32) -> u64 {
    mixed(context ^ (u64::from(token) << 32 | 1))
}

/// Source: Chen and Goodman 1998, equation 26; of counts too few to say, half is given up.
fn discounts(counts: &Table<u32>) -> [f64; 3] {
    let mut having = [0.0; 4];
    for count in counts.values().filter(|count| **count <= 4) {
        having[*count as usize - 1] += 1.0;
    }
    let share = having[0] / (having[0] + 2.0 * having[1]);
    let mut discounts = [0.5; 3];
    for (i, discount) in discounts.iter_mut().enumerate() {
        let count = i as f64 + 1.0;
        let found = count - (count + 1.0) * share * having[i + 1] / having[i];
        // A discount of nothing would leave no chance to what was never seen, one of everything none to
        // what was.
        if found.is_finite() && found > 0.0 && having[i + 1] > 0.0 {
            *discount = found.min(count);
        }
    }
    discounts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&[u32]; 3] = [&[1, 2, 3, 4, 5, 0], &[1, 2, 3, 4, 6, 0], &[2, 3, 4, 5, 7, 7, 7, 0]];

    #[test]
    fn probabilities_after_any_context_add_up_to_one() {
        let ngram = Ngram::train(TEXTS, 9);
        for context in [&[][..], &[1], &[1, 2, 3], &[1, 2, 3, 4], &[8, 8], &[7, 7, 7]] {
            let sum: f64 =
                (0..9).map(|token| ngram.probability(&[context, &[token]].concat(), context.len())).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{context:?}: {sum}");
        }
        assert_eq!(ngram.tokens(), 20);
    }

    #[test]
    fn what_was_seen_is_likelier_and_what_was_not_is_possible() {
        let ngram = Ngram::train(TEXTS, 9);
        let after = |token| ngram.probability(&[1, 2, 3, 4, token], 4);
        assert!(after(5) > after(7) && after(6) > after(7) && after(7) >= after(8) && after(8) > 0.0);
        assert!(ngram.nats(&[1, 2, 3, 4, 5, 0]) < ngram.nats(&[5, 4, 3, 2, 1, 0]));
    }

    #[test]
    fn a_token_that_follows_only_one_other_is_unlikely_elsewhere() {
        // 7 is as frequent as 5, but two of its three times after itself.
        let texts: [&[u32]; 4] = [&[1, 5], &[2, 5], &[3, 5], &[4, 7, 7, 7]];
        let ngram = Ngram::train(texts, 9);
        assert!(ngram.probability(&[8, 5], 1) > ngram.probability(&[8, 7], 1));
    }

    #[test]
    fn discounts_are_those_of_the_paper() {
        let counts: Table<u32> = [1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 9]
            .into_iter()
            .enumerate()
            .map(|(key, n)| (key as u64, n))
            .collect();
        // n1 = 6, n2 = 2, n3 = 1, n4 = 1: Y = 0.6.
        let [one, two, more] = discounts(&counts);
        assert!((one - (1.0 - 2.0 * 0.6 * 2.0 / 6.0)).abs() < 1e-9);
        assert!((two - (2.0 - 3.0 * 0.6 * 1.0 / 2.0)).abs() < 1e-9);
        assert!((more - (3.0 - 4.0 * 0.6 * 1.0 / 1.0)).abs() < 1e-9);
    }
}
