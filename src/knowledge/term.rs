//! Text to search terms: the one place that says what counts as the same word.
//!
//! Articles and questions go through the same function: lower case, apostrophes folded, spoken
//! numbers as digits ("twenty-five" is "25"), stop words dropped, stems. Each term keeps the bytes
//! it came from, so that a match can be highlighted.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use tantivy::tokenizer::Language;
use tantivy::tokenizer::Stemmer;
use tantivy::tokenizer::TextAnalyzer;
use tantivy::tokenizer::Token;
use tantivy::tokenizer::TokenStream;
use tantivy::tokenizer::Tokenizer;

/// A searchable word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The normal form that is indexed.
    pub text: String,
    /// The bytes of the source text that it came from.
    pub bytes: Range<usize>,
}

/// Words that say nothing about the subject: grammar, and what people say on the phone.
const STOP_WORDS: &str = "a about actually after again ah all alright also although am an and any anyway are aren't \
    as ask at aye basically be because been before being bit both but by bye can can't cause come could couldn't did \
    didn't do does doesn't doing don't down each eh else er erm even ever every fine for from get gets getting give go \
    goes going gone gonna good got gotta great had has hasn't have haven't having he he's hello her here hers hey hi \
    him his hm hmm how huh i i'd i'll i'm i've if in into is isn't it it's its just kind know let let's like listen \
    look lot made make makes many may maybe me mean might mine moment more most much must my myself need never no \
    nope not nothing now of off oh ok okay on once one only onto or other our ours out over own perfect please put \
    quite rather really right said same saw say saying says see seems she she's should so some somebody someone \
    something sorry sort still such suppose sure take tell than thank thanks that that's the their them then there \
    there's these they they're thing things think this those though through till to told too uh um under until up us \
    very want wanted wants was wasn't way we we'll we're we've well went were what what's when where whether which \
    while who why will wish with won't would wouldn't yeah yep yes yet you you'd you'll you're you've your yours \
    yourself lovely cheers";

static STOPS: LazyLock<HashSet<&'static str>> = LazyLock::new(|| STOP_WORDS.split_whitespace().collect());

/// Returns the search terms of `text` in order.
pub fn terms(text: &str) -> Vec<Term> {
    let mut analyzer = analyzer();
    let mut stream = analyzer.token_stream(text);
    let mut terms = Vec::new();
    while let Some(token) = stream.next() {
        terms.push(Term { text: token.text.clone(), bytes: token.offset_from..token.offset_to });
    }
    terms
}

/// Each term of `related.txt` with those beside it.
static RELATED: LazyLock<HashMap<String, BTreeSet<String>>> = LazyLock::new(|| {
    let mut related: HashMap<String, BTreeSet<String>> = HashMap::new();
    for line in include_str!("related.txt").lines().filter(|line| !line.starts_with('#')) {
        let group: Vec<String> = terms(line).into_iter().map(|term| term.text).collect();
        for term in &group {
            related
                .entry(term.clone())
                .or_default()
                .extend(group.iter().filter(|other| *other != term).cloned());
        }
    }
    related
});

/// Returns whether a word, in lower case, carries no meaning of its own.
pub fn is_stop_word(word: &str) -> bool {
    STOPS.contains(word)
}

/// Returns terms that mean about the same as `term`.
pub fn related_terms(term: &str) -> impl Iterator<Item = &'static String> + use<> {
    RELATED.get(term).into_iter().flatten()
}

/// Returns what splits and stems for tantivy as [`terms`] does.
pub(super) fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(WordTokenizer).filter(Stemmer::new(Language::English)).build()
}

/// Gives tantivy the words of [`kept_words`].
#[derive(Clone)]
struct WordTokenizer;

struct WordStream {
    tokens: Vec<Token>,
    at: usize,
}

impl Tokenizer for WordTokenizer {
    type TokenStream<'a> = WordStream;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream {
        let tokens = kept_words(text)
            .into_iter()
            .enumerate()
            .map(|(position, word)| Token {
                offset_from: word.bytes.start,
                offset_to: word.bytes.end,
                position,
                text: word.text,
                position_length: 1,
            })
            .collect();
        WordStream { tokens, at: 0 }
    }
}

impl TokenStream for WordStream {
    fn advance(&mut self) -> bool {
        self.at += 1;
        self.at <= self.tokens.len()
    }

    fn token(&self) -> &Token {
        &self.tokens[self.at - 1]
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.tokens[self.at - 1]
    }
}

/// Returns the words of `text` that say something, unstemmed, with numbers as digits.
fn kept_words(text: &str) -> Vec<Term> {
    let words = words(text);
    let mut kept = Vec::with_capacity(words.len());
    let mut at = 0;
    while at < words.len() {
        if let Some((number, count)) = spoken_number(&words[at..]) {
            let bytes = words[at].bytes.start..words[at + count - 1].bytes.end;
            kept.push(Term { text: number.to_string(), bytes });
            at += count;
            continue;
        }
        let word = &words[at];
        at += 1;
        if STOPS.contains(word.text.as_str()) {
            continue;
        }
        let bare = word.text.strip_suffix("'s").unwrap_or(&word.text).replace('\'', "");
        let is_letter = bare.len() == 1 && !bare.as_bytes()[0].is_ascii_digit();
        if !bare.is_empty() && !is_letter && !STOPS.contains(bare.as_str()) {
            kept.push(Term { text: bare, bytes: word.bytes.clone() });
        }
    }
    kept
}

/// Splits into lower-case runs of letters, digits and inner apostrophes. A digit run inside a
/// word is split off ("25gb" is "25", "gb"), and digit groups stay whole ("1,500" is "1500").
fn words(text: &str) -> Vec<Term> {
    let mut words: Vec<Term> = Vec::new();
    let mut current: Option<Term> = None;
    let mut was_digit = false;
    let mut characters = text.char_indices().peekable();
    while let Some((start, character)) = characters.next() {
        let end = start + character.len_utf8();
        let follows = characters.peek().map(|&(_, next)| next);
        let is_digit = character.is_ascii_digit();
        let joins = match character {
            '\'' | '’' => current.is_some() && follows.is_some_and(char::is_alphabetic),
            ',' => current.is_some() && was_digit && is_thousands_group(&text[end..]),
            _ => false,
        };
        if !character.is_alphanumeric() && !joins {
            words.extend(current.take());
            continue;
        }
        if character.is_alphanumeric() && current.is_some() && is_digit != was_digit {
            words.extend(current.take());
        }
        let word = current.get_or_insert_with(|| Term { text: String::new(), bytes: start..end });
        word.bytes.end = end;
        match character {
            ',' => continue,
            '’' | '\'' => word.text.push('\''),
            _ => word.text.extend(character.to_lowercase()),
        }
        if character.is_alphanumeric() {
            was_digit = is_digit;
        }
    }
    words.extend(current);
    words
}

fn is_thousands_group(rest: &str) -> bool {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits == 3
}

/// Reads a number in words at the start of `words`: its value and how many words it takes.
///
/// "one" alone is a pronoun more often than a number, so it does not count.
fn spoken_number(words: &[Term]) -> Option<(u64, usize)> {
    let mut total = 0;
    let mut group: Option<u64> = None;
    let mut count = 0;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if word.text == "and" && group.is_some_and(|group| group >= 100) {
            at += 1;
            continue;
        }
        let Some(value) = number_word(&word.text) else { break };
        group = match (value, group) {
            (1000, group) => {
                total += group.unwrap_or(1) * 1000;
                Some(0)
            }
            (100, None | Some(0)) => Some(100),
            (100, Some(group)) if group < 100 => Some(group * 100),
            (value, None) => Some(value),
            // "twenty five" adds up, "five twenty" is two numbers.
            (value, Some(group)) if value < 10 && group % 10 == 0 && group % 100 != 10 => Some(group + value),
            (value, Some(group)) if value < 100 && group % 100 == 0 => Some(group + value),
            _ => break,
        };
        at += 1;
        count = at;
    }
    let value = total + group?;
    if count == 1 && value == 1 { None } else { Some((value, count)) }
}

fn number_word(word: &str) -> Option<u64> {
    const UNITS: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    if let Some(at) = UNITS.iter().position(|unit| *unit == word) {
        return Some(at as u64);
    }
    if let Some(at) = TENS.iter().position(|ten| *ten == word) {
        return Some((at as u64 + 2) * 10);
    }
    match word {
        "hundred" => Some(100),
        "thousand" => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = terms(text).into_iter().map(|term| term.text).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn spoken_and_written_numbers_are_one_term() {
        check("twenty-five gigabytes", &["25", "gigabyt"]);
        check("25 gigabytes", &["25", "gigabyt"]);
        check("one thousand five hundred euros", &["1500", "euro"]);
        check("1,500 euros", &["1500", "euro"]);
        check("two hundred and fifty", &["250"]);
        check("five twenty", &["5", "20"]);
        check("25GB", &["25", "gb"]);
        check("one of those, three and four", &["3", "4"]);
        check("ten thousand", &["10000"]);
    }

    #[test]
    fn fillers_and_grammar_are_dropped_and_words_are_stemmed() {
        check("Uh, I'd like my refunds, please", &["refund"]);
        check("the driver’s licence", &["driver", "licenc"]);
    }

    #[test]
    fn terms_know_their_bytes() {
        let text = "Zażółć €1,500 at the gate";
        let found: Vec<&str> = terms(text).iter().map(|term| &text[term.bytes.clone()]).collect();
        assert_eq!(found, ["Zażółć", "1,500", "gate"]);
    }
}
