//! What a draft may claim: numbers, amounts, dates, names and codes must stand in transcript or cards,
//! and what is no word at all must not be said.

use std::collections::HashSet;
use std::ops::Range;

use crate::knowledge::term::terms;

/// Words that state a quantity or a date without a digit.
const FIGURES: &str = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen \
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand \
    million zero penny half quarter dozen double percent per cent euro euros pound pounds dollar dollars pence cents monday \
    tuesday wednesday thursday friday saturday sunday january february march april june july august september \
    october november december today tomorrow yesterday tonight noon midnight daily weekly monthly yearly hour \
    hours minute minutes day days week weeks month months year years free refund refunded";

/// What may follow a word after its apostrophe.
const CONTRACTIONS: [&str; 7] = ["t", "s", "m", "re", "ll", "ve", "d"];

/// The words of everything that a draft may rest on, and its numbers as values.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    words: HashSet<String>,
    numbers: HashSet<String>,
}

impl Sources {
    /// Collects the words of transcript and cards.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Sources {
        let mut sources = Sources::default();
        for text in texts {
            sources.words.extend(words(text).map(|(_, word)| word.to_lowercase()));
            sources.numbers.extend(numbers(text).map(|(_, number)| number));
        }
        sources
    }

    /// Returns the byte ranges of `written` that claim what no source says, or that neither a source
    /// nor `is_word` knows as a word.
    pub fn unsupported(&self, written: &str, is_word: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut starts_sentence = true;
        for (range, word) in words(written) {
            let lower = word.to_lowercase();
            let is_name =
                !starts_sentence && word.chars().next().is_some_and(char::is_uppercase) && !is_i(word);
            let has_digit = word.chars().any(|c| c.is_ascii_digit());
            let is_figure = FIGURES.split_whitespace().any(|figure| figure == lower);
            let claims = has_digit || is_figure || is_name || !is_contracted_word(word, &is_word);
            if claims && !self.words.contains(&lower) {
                found.push(range.clone());
            }
            starts_sentence = written[range.end..].trim_start().starts_with(['.', '!', '?']);
        }
        // "Two" and "hundred" may both have been said, and no two hundred.
        for (range, number) in numbers(written) {
            if !self.numbers.contains(&number) && found.iter().all(|known| !range.contains(&known.start)) {
                found.push(range);
            }
        }
        found
    }
}

/// Returns whether a word, or what stands before its one apostrophe, is known.
fn is_contracted_word(word: &str, is_word: impl Fn(&str) -> bool) -> bool {
    let (stem, ending) = word.split_once(['\'', '’']).unwrap_or((word, "s"));
    is_word(stem) && CONTRACTIONS.contains(&ending)
}

fn is_i(word: &str) -> bool {
    matches!(word.split(['\'', '’']).next(), Some("I"))
}

/// Returns the numbers of a text as values, however they are said, with their byte ranges.
fn numbers(text: &str) -> impl Iterator<Item = (Range<usize>, String)> {
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    terms(text).into_iter().filter(move |term| is_number(&term.text)).map(|term| (term.bytes, term.text))
}

/// Splits a text into words with their byte ranges; apostrophes stay inside.
fn words(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let is_inner = |c: char| c.is_alphanumeric() || c == '\'' || c == '’';
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + text[rest..].find(is_inner)?;
        let end = text[start..].find(|c| !is_inner(c)).map_or(text.len(), |n| start + n);
        rest = end;
        Some((start..end, &text[start..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: &str, expected: &[&str]) {
        let sources = Sources::new(["Plan B costs 25 euros a month", "my name is Anna"].into_iter());
        let is_word = |word: &str| !word.ends_with("ingly");
        let found: Vec<&str> =
            sources.unsupported(written, is_word).into_iter().map(|r| &written[r]).collect();
        assert_eq!(found, expected, "{written}");
    }

    #[test]
    fn what_no_source_says_is_found() {
        check("Of course, Anna, that is 25 euros.", &[]);
        check("That is 30 euros by Friday.", &["30", "Friday"]);
        check("Thanks, Peter. I'm sure it's fine.", &["Peter"]);
        check("Certainly. That takes two weeks", &["two", "weeks"]);
        check("", &[]);
    }

    #[test]
    fn words_of_several_numbers_make_no_new_one() {
        let sources = Sources::new(["two people and a hundred seats, or three hundred"].into_iter());
        let check = |written: &str, expected: &[&str]| {
            let found = sources.unsupported(written, |_| true);
            assert_eq!(found.into_iter().map(|range| &written[range]).collect::<Vec<_>>(), expected);
        };
        check("we have two hundred seats", &["two hundred"]);
        check("we have three hundred seats", &[]);
        check("it costs zero", &["zero"]);
    }

    #[test]
    fn what_is_no_word_is_found() {
        check("I'm't sure that’s it, don't worry", &["I'm't"]);
        check("So monthingly", &["monthingly"]);
    }
}
