//! A plain search over whole articles: BM25 (Robertson and Zaragoza 2009, equation 3.15) of words as
//! they stand, without grammar words.

use std::collections::HashMap;

use crate::command::eval::measure::words;

/// Saturation, and how much a text's length counts: what most programs take.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Grammar words of English.
const STOP_WORDS: &str = "i me my myself we our ours you your yours he him his she her it its they them their what \
    which who this that these those am is are was were be been being have has had do does did a an the and but if \
    or because as until while of at by for with about against between into through during before after above below \
    to from up down in out on off over under again then once here there when where why how all any both each few \
    more most other some such no nor not only own same so than too very s t can will just don should now ve ll m \
    re d";

/// Texts that are searched.
#[derive(Debug)]
pub struct Bm25 {
    /// How often each word stands in each text.
    texts: Vec<HashMap<String, f64>>,
    lengths: Vec<f64>,
    /// In how many texts each word stands.
    having: HashMap<String, f64>,
}

impl Bm25 {
    /// Takes in texts.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Bm25 {
        let mut index = Bm25 { texts: Vec::new(), lengths: Vec::new(), having: HashMap::new() };
        for text in texts {
            let mut counts: HashMap<String, f64> = HashMap::new();
            content_words(text).for_each(|word| *counts.entry(word).or_default() += 1.0);
            counts.keys().for_each(|word| *index.having.entry(word.clone()).or_default() += 1.0);
            index.lengths.push(counts.values().sum());
            index.texts.push(counts);
        }
        index
    }

    /// Returns the texts by their number, best first; equals in the order they were taken in.
    pub fn rank(&self, question: &str) -> Vec<usize> {
        let all = self.texts.len() as f64;
        let mean = self.lengths.iter().sum::<f64>() / all.max(1.0);
        let mut scores = vec![0.0; self.texts.len()];
        for word in content_words(question) {
            let Some(having) = self.having.get(&word) else { continue };
            let rarity = (1.0 + (all - having + 0.5) / (having + 0.5)).ln();
            for ((text, length), score) in self.texts.iter().zip(&self.lengths).zip(&mut scores) {
                let count = text.get(&word).unwrap_or(&0.0);
                *score += rarity * count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length / mean));
            }
        }
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order
    }
}

fn content_words(text: &str) -> impl Iterator<Item = String> {
    let is_grammar = |word: &String| STOP_WORDS.split_whitespace().any(|stop| stop == word);
    words(text).into_iter().filter(move |word| !is_grammar(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_and_short_texts_come_first() {
        let index = Bm25::new([
            "refunds take a week",
            "the roaming bill, the bill for data, and how a bill is paid",
            "roaming",
            "bill bill",
        ]);
        assert_eq!(index.rank("what about roaming?")[..2], [2, 1]);
        assert_eq!(index.rank("Refunds for a bill")[0], 0);
        assert_eq!(index.rank("the of and"), [0, 1, 2, 3]);
    }
}
