//! How a call ended, among the ways its base knows: the name whose words were said.
//!
//! Names such as `locker_opened_remotely` describe an ending in the base's own words. Each of a name's words
//! counts by how often it was said, saturating as in BM25, and by how rare it is in the base's articles.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::knowledge::term::terms;

/// How soon saying a word more often stops counting.
const SATURATION: f32 = 1.5;
/// How much long names are held back: 0 not at all, 1 to the mean of their words.
const LENGTH: f32 = 0.5;

/// The dispositions of one base.
#[derive(Debug)]
pub struct Dispositions {
    /// Each with its words as the index has them.
    names: Vec<(String, Vec<String>)>,
    /// In how many articles a word stands.
    articles_with: HashMap<String, u32>,
    articles: usize,
}

impl Dispositions {
    /// Returns the dispositions of a base with these articles.
    pub fn new(names: &[String], articles: &[String]) -> Dispositions {
        let mut articles_with = HashMap::new();
        for article in articles {
            let words: HashSet<String> = stems(article).into_iter().collect();
            words.into_iter().for_each(|word| *articles_with.entry(word).or_insert(0) += 1);
        }
        let names = names.iter().map(|name| (name.clone(), stems(&name.replace(['_', '-'], " "))));
        Dispositions { names: names.collect(), articles_with, articles: articles.len() }
    }

    /// Returns the names with their scores, the likeliest first; what was said is one text for each turn.
    pub fn rank<'a>(&self, said: impl Iterator<Item = &'a str>) -> Vec<(&str, f32)> {
        let mut times: HashMap<String, f32> = HashMap::new();
        for word in said.flat_map(stems) {
            *times.entry(word).or_default() += 1.0;
        }
        let weight = |word: &String| {
            let said = times.get(word).copied().unwrap_or(0.0);
            let articles_with = self.articles_with.get(word).copied().unwrap_or(0) as f32;
            let rarity = (1.0 + (self.articles as f32 + 1.0) / (articles_with + 0.5)).ln();
            rarity * said / (said + SATURATION)
        };
        let score = |words: &[String]| {
            words.iter().map(weight).sum::<f32>() / (words.len().max(1) as f32).powf(LENGTH)
        };
        let mut ranked: Vec<(&str, f32)> =
            self.names.iter().map(|(name, words)| (name.as_str(), score(words))).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }
}

/// Returns a text's words as the index has them.
fn stems(text: &str) -> Vec<String> {
    terms(text).into_iter().map(|term| term.text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_ending_whose_words_were_said_comes_first() {
        let names = owned(&["card_replaced", "pin_unlocked", "complaint_logged"]);
        let articles = owned(&["Your card and its PIN", "Replacing a card", "How we handle complaints"]);
        let dispositions = Dispositions::new(&names, &articles);
        let first = |said: &[&str]| dispositions.rank(said.iter().copied())[0].0.to_owned();
        assert_eq!(
            first(&["my PIN is locked", "I have unlocked the PIN of your card for you"]),
            "pin_unlocked"
        );
        assert_eq!(
            first(&["I want to complain", "I have logged your complaint about the card"]),
            "complaint_logged"
        );
        assert_eq!(dispositions.rank(std::iter::empty()).len(), 3, "nothing said, everything possible");
    }
}
