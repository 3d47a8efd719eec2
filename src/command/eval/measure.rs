//! What texts and labels are compared by, and how sure a figure is.
//!
//! Everything here is a pure function. A figure's interval comes from a bootstrap over what was
//! drawn together: calls, dialogues or rows, for the turns of one call are alike (Efron and
//! Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: percentiles).

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::hash::Hash;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::event::Emotion;
use crate::knowledge::term::Term;
use crate::knowledge::term::terms;

/// How often the units are drawn anew.
const DRAWS: usize = 1000;
/// Draws that lie below an interval of 95 %, and above.
const TAIL: usize = DRAWS / 40;
/// Always the same draws.
const SEED: u64 = 95;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Where its interval begins.
    pub low: f64,
    /// Where its interval ends.
    pub high: f64,
    /// Units that were drawn: calls, dialogues or rows.
    pub units: usize,
}

/// Returns a statistic of units and its interval.
pub fn estimate<T>(units: &[T], statistic: impl Fn(&[&T]) -> f64) -> Estimate {
    let all: Vec<&T> = units.iter().collect();
    let value = statistic(&all);
    if units.is_empty() {
        return Estimate { value, low: value, high: value, units: 0 };
    }
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut drawn = Vec::with_capacity(units.len());
    let mut values: Vec<f64> = (0..DRAWS)
        .map(|_| {
            drawn.clear();
            drawn.extend((0..units.len()).map(|_| &units[rng.random_range(0..units.len())]));
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    Estimate { value, low: values[TAIL], high: values[DRAWS - 1 - TAIL], units: units.len() }
}

/// A sum and what it is divided by, of one unit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Share {
    /// The sum.
    pub sum: f64,
    /// How much it is of.
    pub of: f64,
}

/// Returns the sum of all sums over the sum of what they are of, and its interval.
pub fn ratio(units: &[Share]) -> Estimate {
    estimate(units, |units| {
        let (sum, of) = units.iter().fold((0.0, 0.0), |(sum, of), unit| (sum + unit.sum, of + unit.of));
        if of == 0.0 { 0.0 } else { sum / of }
    })
}

/// Returns the mean of values, each with its unit, and its interval over units.
pub fn mean(values: impl IntoIterator<Item = (usize, f64)>) -> Estimate {
    ratio(&shares(values.into_iter().map(|(unit, value)| (unit, Share { sum: value, of: 1.0 }))))
}

/// Adds up the shares of each unit.
pub fn shares(values: impl IntoIterator<Item = (usize, Share)>) -> Vec<Share> {
    let mut units: BTreeMap<usize, Share> = BTreeMap::new();
    for (unit, value) in values {
        let share = units.entry(unit).or_default();
        share.sum += value.sum;
        share.of += value.of;
    }
    units.into_values().collect()
}

/// A label that was said, and the right one.
pub type Pair = (Emotion, Emotion);

/// Gathers pairs, each with its unit, by unit.
pub fn by_unit(pairs: impl IntoIterator<Item = (usize, Pair)>) -> Vec<Vec<Pair>> {
    let mut units: BTreeMap<usize, Vec<Pair>> = BTreeMap::new();
    for (unit, pair) in pairs {
        units.entry(unit).or_default().push(pair);
    }
    units.into_values().collect()
}

/// Returns the F1 of each label that occurs among the right ones.
pub fn label_f1<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Vec<(Emotion, f64)> {
    const LABELS: usize = Emotion::ALL.len();
    let (mut said, mut right, mut hits) = ([0_u32; LABELS], [0_u32; LABELS], [0_u32; LABELS]);
    for &(guess, gold) in pairs {
        said[guess as usize] += 1;
        right[gold as usize] += 1;
        hits[gold as usize] += u32::from(guess == gold);
    }
    let f1 = |label: usize| 2.0 * f64::from(hits[label]) / f64::from(said[label] + right[label]);
    let occurs = Emotion::ALL.into_iter().filter(|label| right[*label as usize] > 0);
    occurs.map(|label| (label, f1(label as usize))).collect()
}

/// Returns the mean F1 of the labels that occur among the right ones.
pub fn macro_f1<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> f64 {
    let of_label = label_f1(pairs);
    of_label.iter().map(|(_, f1)| f1).sum::<f64>() / of_label.len().max(1) as f64
}

/// Returns the share of pairs whose label is right.
pub fn accuracy<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> f64 {
    let (mut hits, mut all) = (0.0, 0.0_f64);
    for (guess, gold) in pairs {
        hits += f64::from(u8::from(guess == gold));
        all += 1.0;
    }
    hits / all.max(1.0)
}

/// Splits into lower-case runs of letters and digits.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

/// Returns ROUGE-L: the F-measure of the longest common subsequence of words (Lin 2004).
pub fn rouge_l(written: &str, answer: &str) -> f64 {
    let (a, b) = (words(written), words(answer));
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let mut row = vec![0_usize; b.len() + 1];
    for x in &a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    2.0 * row[b.len()] as f64 / (a.len() + b.len()) as f64
}

/// Returns the F-measure of the words that two texts share, in whatever order (SQuAD, arXiv 1606.05250).
pub fn token_f1(written: &str, answer: &str) -> f64 {
    bag_f1(&words(written), &words(answer))
}

/// Returns the F-measure of what two bags share.
pub fn bag_f1<T: Eq + Hash>(a: &[T], b: &[T]) -> f64 {
    let mut left: HashMap<&T, usize> = HashMap::new();
    b.iter().for_each(|item| *left.entry(item).or_default() += 1);
    let mut shared = 0;
    for item in a {
        if let Some(count) = left.get_mut(item).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    2.0 * f64::from(shared) / (a.len() + b.len()).max(1) as f64
}

/// Returns the share of the gold facts' terms that stand in what was written, averaged over the facts;
/// numbers are compared as values, however they are said.
pub fn facts_share(written: &str, facts: &[String]) -> f64 {
    let said: HashSet<String> = terms(written).into_iter().map(|term| term.text).collect();
    let facts: Vec<Vec<Term>> =
        facts.iter().map(|fact| terms(fact)).filter(|fact| !fact.is_empty()).collect();
    let kept = |fact: &Vec<Term>| fact.iter().filter(|term| said.contains(&term.text)).count() as f64;
    facts.iter().map(|fact| kept(fact) / fact.len() as f64).sum::<f64>() / facts.len().max(1) as f64
}

/// Names of days and months that are no other word.
const DATES: [&str; 17] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "january",
    "february",
    "april",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// What amounts are counted in, in all the ways it is written, the first of which stands for it.
const UNITS: [&[&str]; 5] = [
    &["euro", "euros", "€"],
    &["pound", "pounds", "£"],
    &["dollar", "dollars", "$"],
    &["cent", "cents", "pence", "penny"],
    &["percent", "%"],
];

/// Returns what a text claims that can be checked: numbers as values however they are said, units of
/// amounts, days and months, codes, and names, which are capitalised words that begin no sentence.
pub fn claims(text: &str) -> Vec<String> {
    let is_number = |term: &Term| term.text.bytes().all(|byte| byte.is_ascii_digit());
    let mut claims: Vec<String> = terms(text).into_iter().filter(is_number).map(|term| term.text).collect();
    let mut begins_sentence = true;
    for token in text.split_whitespace() {
        let word = bare(token);
        let lower = word.to_lowercase();
        let unit = unit(token, &lower);
        let is_i = word.split(['\'', '’']).next() == Some("I");
        let is_name = !begins_sentence && !is_i && word.starts_with(char::is_uppercase);
        if let Some(unit) = unit {
            claims.push(unit.to_owned());
        } else if is_name || is_code(word) || DATES.contains(&lower.as_str()) {
            claims.push(lower);
        }
        begins_sentence = token.trim_end_matches(['"', '”', ')', '\'']).ends_with(['.', '!', '?', ':']);
    }
    claims
}

/// Returns a token without what stands around its word, and without a possessive's ending.
fn bare(token: &str) -> &str {
    let word = token.trim_matches(|c: char| !c.is_alphanumeric());
    word.strip_suffix("'s").or(word.strip_suffix("’s")).unwrap_or(word)
}

/// Returns what a token counts amounts in: its word says it, or a sign that it holds.
fn unit(token: &str, lower: &str) -> Option<&'static str> {
    let says = |name: &&str| match name.starts_with(char::is_alphabetic) {
        true => *name == lower,
        false => token.contains(name),
    };
    UNITS.iter().find(|names| names.iter().any(says)).map(|names| names[0])
}

/// Returns whether a word mixes letters and digits otherwise than "25gb" and "1st" do.
fn is_code(word: &str) -> bool {
    let after_number = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let has_letter = after_number.contains(char::is_alphabetic);
    has_letter && after_number.contains(|c: char| c.is_ascii_digit())
}

/// Returns everything that a claim of a text may rest on.
pub fn sources<'a>(texts: impl IntoIterator<Item = &'a str>) -> HashSet<String> {
    let mut sources = HashSet::new();
    for text in texts {
        sources.extend(claims(text));
        sources.extend(words(text));
        sources.extend(text.split_whitespace().map(|token| bare(token).to_lowercase()));
    }
    sources
}

/// Returns how many claims of a text stand in its sources, and how many it makes.
pub fn grounded(written: &str, sources: &HashSet<String>) -> Share {
    let claims = claims(written);
    let supported = claims.iter().filter(|claim| sources.contains(*claim)).count();
    Share { sum: supported as f64, of: claims.len() as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rouge_l_is_the_longest_common_subsequence() {
        assert_eq!(rouge_l("a b c", "a b c"), 1.0);
        assert_eq!(rouge_l("a x c", "a b c"), 4.0 / 6.0);
        assert_eq!(rouge_l("", "a"), 0.0);
    }

    #[test]
    fn token_f1_knows_no_order_and_counts_each_word_once() {
        assert_eq!(token_f1("c b A", "a, b c."), 1.0);
        assert_eq!(token_f1("a a a a", "a b"), 2.0 / 6.0);
        assert_eq!(token_f1("", ""), 0.0);
        assert_eq!(bag_f1(&[1, 2, 3], &[3, 4, 5]), 2.0 / 6.0);
    }

    #[test]
    fn always_saying_the_commonest_label_scores_low() {
        let pairs = [(Emotion::Neutral, Emotion::Neutral), (Emotion::Neutral, Emotion::Angry)];
        assert!((macro_f1(&pairs) - (2.0 / 3.0) / 2.0).abs() < 1e-9);
        assert_eq!(accuracy(&pairs), 0.5);
        assert_eq!(label_f1(&pairs), [(Emotion::Neutral, 2.0 / 3.0), (Emotion::Angry, 0.0)]);
    }

    #[test]
    fn a_label_that_never_occurs_does_not_count_but_saying_it_does() {
        let pairs = [(Emotion::Sad, Emotion::Neutral), (Emotion::Neutral, Emotion::Neutral)];
        assert_eq!(label_f1(&pairs), [(Emotion::Neutral, 2.0 / 3.0)]);
    }

    #[test]
    fn facts_are_compared_as_values() {
        let facts = ["twenty-five gigabytes".to_owned(), "within 3 days".to_owned()];
        assert_eq!(facts_share("You have 25 gigabytes.", &facts), 0.5);
        assert_eq!(facts_share("25 gigabytes within three days", &facts), 1.0);
        assert_eq!(facts_share("nothing", &facts), 0.0);
    }

    #[test]
    fn claims_are_numbers_units_dates_codes_and_names() {
        let check = |text: &str, expected: &[&str]| assert_eq!(claims(text), expected, "{text}");
        check("That costs twenty-five euros, Anna.", &["25", "euro", "anna"]);
        check("It is €25. Then 3% more", &["25", "3", "euro", "percent"]);
        check("I'm sure I can. Your code is EX14PL, by friday", &["14", "ex14pl", "friday"]);
        check("We may call at 3pm", &["3"]);
        check("", &[]);
    }

    #[test]
    fn claims_stand_in_their_sources_however_they_are_said() {
        let known = sources(["my name is Anna", "Plan B costs €25 a month, ref EX14PL"]);
        let all = Share { sum: 7.0, of: 7.0 };
        assert_eq!(grounded("So, Anna's Plan B is twenty-five euros (EX14PL).", &known), all);
        assert_eq!(grounded("So, Peter, 30 euros", &known), Share { sum: 1.0, of: 3.0 });
    }

    #[test]
    fn an_interval_holds_its_figure_and_narrows_with_more_units() {
        let values = |n: usize| (0..n).map(|i| (i, f64::from(i % 2 == 0)));
        let (few, many) = (mean(values(20)), mean(values(2000)));
        assert_eq!((few.value, few.units), (0.5, 20));
        assert!(few.low < 0.5 && few.high > 0.5, "{few:?}");
        assert!(few.low > 0.2 && few.high < 0.8, "{few:?}");
        assert!(many.high - many.low < (few.high - few.low) / 5.0, "{many:?}");
        assert_eq!(many, mean(values(2000)), "always the same draws");
        assert_eq!(mean([]).units, 0);
    }

    #[test]
    fn what_one_call_says_often_is_no_surer_for_it() {
        let calls = |of_call: usize| {
            mean((0..20 * of_call).map(|i| (i / of_call, f64::from((i / of_call).is_multiple_of(2)))))
        };
        let (once, often) = (calls(1), calls(50));
        assert_eq!((once.value, once.low, once.high), (often.value, often.low, often.high));
    }
}
