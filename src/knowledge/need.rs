//! Does the customer's last turn need an answer from the base? A small logistic model.
//!
//! Retrieval scores do not tell: people name the subject while they chat, and ask without naming
//! it. What tells is how they talk, so the features are the shape of the turn, a few words and
//! word pairs, and how the ranking came about; none knows a company. The weights are those that
//! `chatdlm eval knowledge --split train --fit` prints.

use std::collections::HashSet;

use crate::knowledge::search::Asked;
use crate::knowledge::search::Ranking;

/// The shape of a turn, with weights. The order is that of `shape`.
pub const SHAPE: [(&str, f32); 15] = [
    ("always", -1.05),
    ("confidence", -0.65),
    ("last_turn_score", 1.19),
    ("coverage", 0.77),
    ("known_terms", 0.43),
    ("question_mark", 1.44),
    ("length", 0.16),
    ("terms", -1.52),
    ("thanks", -1.94),
    ("digits", -1.46),
    ("spoken_digits", -0.98),
    ("opening", -1.80),
    ("late", -0.71),
    ("answers_agent", -0.16),
    ("reaction", 0.27),
];

/// Words and word pairs, with weights.
pub const WORDS: [(&str, f32); 78] = [
    ("a", -0.13),
    ("actually", 0.62),
    ("am i", 0.51),
    ("and", 0.27),
    ("and do", 0.76),
    ("and how", 0.63),
    ("and if", 0.59),
    ("and my", 0.70),
    ("and the", 0.62),
    ("and what", 0.86),
    ("another", 0.60),
    ("are", 0.28),
    ("because", 0.26),
    ("call", -0.58),
    ("can", 0.29),
    ("can i", 0.82),
    ("can't", 0.43),
    ("charge", 0.74),
    ("code", -0.44),
    ("come", 0.37),
    ("comes", 0.55),
    ("cost", 0.57),
    ("do", 0.32),
    ("do i", 0.74),
    ("does", 0.42),
    ("does that", 0.66),
    ("don't want", 0.80),
    ("for that", 0.65),
    ("get", 0.28),
    ("go", 0.38),
    ("gone", 0.63),
    ("had", -0.40),
    ("honestly", -0.62),
    ("how", 0.54),
    ("how long", 0.90),
    ("how much", 0.78),
    ("i", 0.11),
    ("i just", 0.46),
    ("i was", -0.48),
    ("i'll", -0.29),
    ("if", 0.34),
    ("is", 0.10),
    ("is it", 0.41),
    ("is that", 0.36),
    ("is there", 0.74),
    ("it", 0.14),
    ("know", -0.29),
    ("long", 0.54),
    ("next", 0.46),
    ("no no", -1.06),
    ("oh", -0.34),
    ("or", 0.49),
    ("pay", 0.43),
    ("paying", 0.61),
    ("so i", -0.37),
    ("so what", 0.67),
    ("sorry", -0.43),
    ("still", 0.33),
    ("stop", 0.61),
    ("tell me", 0.48),
    ("than", -0.56),
    ("that", 0.08),
    ("that's", -0.23),
    ("the money", 0.62),
    ("they're", 0.69),
    ("too", 0.59),
    ("very", -0.51),
    ("we're", 0.61),
    ("what", 0.40),
    ("what do", 0.50),
    ("what does", 1.02),
    ("what if", 1.05),
    ("what's", 0.90),
    ("when", 0.65),
    ("where", -0.21),
    ("which", 0.06),
    ("why", 0.31),
    ("will", 0.43),
];

/// How many features there are.
pub const FEATURES: usize = SHAPE.len() + WORDS.len();

/// Returns the features of a question: the shape, then 1 for each word that stands in the turn.
pub(super) fn features(asked: &Asked<'_>, ranking: &Ranking) -> Vec<f32> {
    let text = asked.last.to_lowercase().replace('’', "'");
    let words: Vec<&str> =
        text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'').filter(|word| !word.is_empty()).collect();
    let mut features = shape(asked, ranking, &text, &words);
    let pairs = words.windows(2).map(|pair| pair.join(" "));
    let said: HashSet<String> = words.iter().map(|word| (*word).to_owned()).chain(pairs).collect();
    features.extend(WORDS.iter().map(|(word, _)| flag(said.contains(*word))));
    features
}

/// Returns the chance that a turn with these features needs an answer.
pub(super) fn chance(features: &[f32]) -> f32 {
    let weights = SHAPE.iter().chain(&WORDS).map(|(_, weight)| weight);
    let sum: f32 = features.iter().zip(weights).map(|(feature, weight)| feature * weight).sum();
    1.0 / (1.0 + (-sum).exp())
}

fn shape(asked: &Asked<'_>, ranking: &Ranking, text: &str, words: &[&str]) -> Vec<f32> {
    const SPOKEN_DIGITS: [&str; 12] =
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero", "oh", "double"];
    const THANKS: [&str; 4] = ["thank", "thanks", "cheers", "bye"];
    const REACTIONS: [&str; 11] =
        ["yes", "yeah", "yep", "no", "nope", "okay", "ok", "right", "sure", "fine", "good"];
    let share = |count: usize, most: usize| count.min(most) as f32 / most as f32;
    let terms = asked.terms.values().filter(|&&ago| ago == 0).count();
    // A softmax over the articles: near 1 when one stands out.
    let best = ranking.candidates.first().map_or(0.0, |candidate| candidate.score);
    let others: f32 = ranking.candidates.iter().map(|candidate| ((candidate.score - best) / 2.0).exp()).sum();
    vec![
        1.0,
        1.0 / others.max(1.0),
        ranking.last_turn_score / 10.0,
        ranking.last_turn_score / (2.6 * ranking.rarity + 1.0),
        ranking.known_terms as f32 / (terms + 1) as f32,
        flag(text.contains('?')),
        share(words.len(), 40),
        share(terms, 12),
        flag(words.iter().any(|word| THANKS.contains(word))),
        share(text.bytes().filter(u8::is_ascii_digit).count(), 8),
        share(words.iter().filter(|word| SPOKEN_DIGITS.contains(word)).count(), 6),
        flag(asked.turns == 2),
        flag(asked.turns > 10),
        flag(asked.before.contains('?')),
        flag(words.first().is_some_and(|word| REACTIONS.contains(word))),
    ]
}

fn flag(is_so: bool) -> f32 {
    f32::from(u8::from(is_so))
}
