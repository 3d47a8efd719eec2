//! Texts as numbers: TF-IDF of word 1–2-grams and character 2–4-grams.
//!
//! Counts are damped (1 + ln), weighted by rarity, and each of the two groups has length 1, to which what
//! was never seen counts too: of foreign talk little is left, and little is said. Character n-grams stay
//! within a word and see its borders.

use std::collections::HashMap;

/// A text as numbers: (feature, value).
pub type Sparse = Vec<(u32, f32)>;

/// The n-grams that count, and their rarity.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// Each n-gram's number and rarity, by its hash.
    pub features: HashMap<u64, (u32, f32)>,
    /// The rarity of an n-gram that was never seen.
    unseen: f32,
}

impl Vocabulary {
    /// Takes the n-grams that stand in `least` texts or more.
    pub fn of<'a>(texts: impl Iterator<Item = &'a str>, least: u32) -> Vocabulary {
        let mut having: HashMap<u64, u32> = HashMap::new();
        let mut all = 0;
        for text in texts {
            for group in grams(text) {
                group.keys().for_each(|gram| *having.entry(*gram).or_default() += 1);
            }
            all += 1;
        }
        let mut kept: Vec<(u64, u32)> = having.into_iter().filter(|(_, n)| *n >= least).collect();
        // The order of a hash map is another one each time, and with it the last bits of every sum.
        kept.sort_unstable();
        let rarity = |n: u32| ((1.0 + all as f32) / (1.0 + n as f32)).ln() + 1.0;
        let numbered = kept.into_iter().zip(0..);
        Vocabulary::with(numbered.map(|((gram, n), i)| (gram, (i, rarity(n)))).collect())
    }

    /// Takes n-grams with their numbers and rarities.
    pub fn with(features: HashMap<u64, (u32, f32)>) -> Vocabulary {
        let unseen = features.values().map(|(_, rarity)| *rarity).fold(0.0, f32::max);
        Vocabulary { features, unseen }
    }

    /// Returns a text's features in the order of their numbers, words before characters.
    pub fn read(&self, text: &str) -> Sparse {
        let mut sparse = Vec::new();
        for group in grams(text) {
            let start = sparse.len();
            let mut unseen: Vec<f32> = Vec::new();
            for (gram, count) in group {
                let damped = 1.0 + (count as f32).ln();
                match self.features.get(&gram) {
                    Some((feature, rarity)) => sparse.push((*feature, damped * rarity)),
                    None => unseen.push((damped * self.unseen).powi(2)),
                }
            }
            let values = &mut sparse[start..];
            values.sort_unstable_by_key(|(feature, _)| *feature);
            let seen = values.iter().map(|(_, value)| value * value).sum::<f32>();
            // In one order always, whatever that of the map was, for the same last bits.
            unseen.sort_unstable_by(f32::total_cmp);
            let length = (seen + unseen.iter().sum::<f32>()).sqrt();
            values.iter_mut().for_each(|(_, value)| *value /= length);
        }
        sparse
    }
}

/// Counts the n-grams of words, and those of characters, each as a hash.
fn grams(text: &str) -> [HashMap<u64, u32>; 2] {
    let mut groups = [HashMap::new(), HashMap::new()];
    let mut count = |group: usize, gram: &[&str]| {
        *groups[group].entry(hash(group as u8, gram)).or_default() += 1;
    };
    let lower = text.to_lowercase();
    let is_inner = |c: char| c.is_alphanumeric() || c == '\'';
    let words: Vec<&str> = lower.split(|c: char| !is_inner(c)).filter(|word| !word.is_empty()).collect();
    for length in 1..=2 {
        words.windows(length).for_each(|gram| count(0, gram));
    }
    for word in lower.split_whitespace() {
        let word = format!(" {word} ");
        let ends: Vec<usize> = word.char_indices().map(|(at, _)| at).chain([word.len()]).collect();
        for length in 2..=4 {
            ends.windows(length + 1).for_each(|at| count(1, &[&word[at[0]..at[length]]]));
        }
    }
    groups
}

/// Returns the FNV-1a hash of a group and its parts, which is the same on every machine and in every file.
fn hash(group: u8, parts: &[&str]) -> u64 {
    let separated = parts.iter().flat_map(|part| part.bytes().chain([0]));
    [group].into_iter().chain(separated).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
