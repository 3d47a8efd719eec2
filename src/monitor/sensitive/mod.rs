//! Finds the terms that a contact center wants to know of: threats, legal action, self-harm.
//!
//! The lists are compiled once into an immutable [`TermLists`]; a [`SharedTermLists`] swaps a new
//! one in under running calls. Terms are looked for in text that is already redacted; a term whose
//! action says so is replaced by its category as well.

mod folded;
mod replace;

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::RwLock;

use aho_corasick::AhoCorasick;
use regex::RegexBuilder;
use regex::RegexSet;
use regex::RegexSetBuilder;
use serde::Deserialize;
use serde::Serialize;

use crate::event::Severity;
use crate::event::TermAction;
use crate::monitor::redact::Category;
use crate::monitor::redact::Redacted;
use crate::monitor::sensitive::folded::Folded;
use crate::monitor::sensitive::replace::placeholder;
use crate::monitor::sensitive::replace::replace;

/// The most terms in all lists together.
pub const MAX_TERMS: usize = 20_000;
/// The longest term, in characters.
pub const MAX_TERM_CHARACTERS: usize = 200;
/// The most regular expressions in all lists together.
pub const MAX_REGEXES: usize = 200;
/// The most memory one compiled expression may take, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// The most matches in one text; what is beyond is not worth an alert of its own.
const MAX_MATCHES: usize = 256;

/// How a term is compared with a text. Case never matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TermMatch {
    /// Whole words.
    Word,
    /// The beginning of a word.
    Prefix,
    /// A regular expression.
    Regex,
}

/// Terms of one category, as `/v1/terms` has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermList {
    /// The kind of thing: `threat`, `legal`, ….
    pub category: String,
    /// The terms.
    pub terms: Vec<String>,
    /// How they are compared.
    #[serde(rename = "match")]
    pub term_match: TermMatch,
    /// How much they matter.
    pub severity: Severity,
    /// What is done when one is found.
    pub action: TermAction,
}

/// Says what is wrong with term lists.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// The JSON is not a list of term lists.
    #[error("cannot read the term lists: {0}")]
    Json(#[from] serde_json::Error),
    /// A category is empty, too long or has characters other than `a-z`, `0-9` and `_`.
    #[error("category {0:?} must be 1 to 40 of the characters a-z 0-9 _")]
    Category(String),
    /// A category has no terms.
    #[error("category {0} has no terms")]
    Empty(String),
    /// A term is blank or too long.
    #[error("a term of category {category} must have 1 to {MAX_TERM_CHARACTERS} characters: {term:?}")]
    Term {
        /// The term's category.
        category: String,
        /// The beginning of the term.
        term: String,
    },
    /// A regular expression does not compile, or matches the empty text.
    #[error("regular expression {term:?} of category {category} is refused: {reason}")]
    Regex {
        /// The expression's category.
        category: String,
        /// The expression.
        term: String,
        /// Why.
        reason: String,
    },
    /// There are too many terms.
    #[error("{0} terms are too many: {MAX_TERMS} are allowed, of them {MAX_REGEXES} regular expressions")]
    TooMany(usize),
}

/// A term in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTerm {
    /// Its category.
    pub category: String,
    /// The term as listed; when the text was replaced, the placeholder.
    pub term: String,
    /// Start in the text as given back, in Unicode scalar values.
    pub start: usize,
    /// End in the text as given back, in Unicode scalar values, exclusive.
    pub end: usize,
    /// How much it matters.
    pub severity: Severity,
    /// What was done.
    pub action: TermAction,
}

/// Term lists, compiled. Immutable.
#[derive(Debug)]
pub struct TermLists {
    lists: Vec<TermList>,
    /// Words and prefixes, folded; pattern `n` is `listed[n]`.
    automaton: Option<AhoCorasick>,
    /// For each pattern its list and term.
    listed: Vec<(usize, usize)>,
    regex_set: RegexSet,
    regexes: Vec<(regex::Regex, usize, usize)>,
}

impl TermLists {
    /// Compiles the JSON form of term lists.
    ///
    /// # Errors
    /// When the JSON or a list in it is wrong.
    pub fn from_json(json: &str) -> Result<TermLists, TermError> {
        TermLists::compile(serde_json::from_str(json)?)
    }

    /// Compiles term lists.
    ///
    /// # Errors
    /// When a category, a term or an expression is wrong, or there are too many.
    pub fn compile(lists: Vec<TermList>) -> Result<TermLists, TermError> {
        check_sizes(&lists)?;
        let mut patterns = Vec::new();
        let mut listed = Vec::new();
        let mut expressions = Vec::new();
        let mut regexes = Vec::new();
        for (list_at, list) in lists.iter().enumerate() {
            for (term_at, term) in list.terms.iter().enumerate() {
                if list.term_match == TermMatch::Regex {
                    regexes.push((compile_regex(list, term)?, list_at, term_at));
                    expressions.push(term.as_str());
                } else {
                    patterns.push(Folded::new(term.trim()).text);
                    listed.push((list_at, term_at));
                }
            }
        }
        let too_big =
            |reason: String| TermError::Regex { category: "all".to_owned(), term: String::new(), reason };
        let regex_set = RegexSetBuilder::new(&expressions)
            .case_insensitive(true)
            .size_limit(MAX_REGEX_BYTES * 16)
            .build()
            .map_err(|error| too_big(error.to_string()))?;
        let automaton = match patterns.is_empty() {
            true => None,
            false => Some(AhoCorasick::new(&patterns).map_err(|error| too_big(error.to_string()))?),
        };
        Ok(TermLists { lists, automaton, listed, regex_set, regexes })
    }

    /// Returns the lists that were compiled.
    pub fn lists(&self) -> &[TermList] {
        &self.lists
    }

    /// Finds the terms of a redacted text, in order of their place, and replaces those whose
    /// action says so. The spans of the redaction move with the text.
    pub fn apply(&self, redacted: Redacted) -> (Redacted, Vec<FoundTerm>) {
        let mut found = self.find(&redacted.text);
        if found.iter().all(|term| term.action == TermAction::Alert) {
            return (redacted, found);
        }
        let (replaced, mut found) = replace(redacted, &mut found);
        found.truncate(MAX_MATCHES);
        (replaced, found)
    }

    /// Finds the terms of a text, in order of their place: all that are to be replaced, and of the
    /// others so many that a text of nothing but terms stays cheap. Placeholders hold no terms, and
    /// of two terms of one category that overlap the longer one counts.
    pub fn find(&self, text: &str) -> Vec<FoundTerm> {
        let folded = Folded::new(text);
        let mut found = self.find_words(&folded);
        found.extend(self.find_regexes(text));
        found.sort_by_key(|term| (term.start, std::cmp::Reverse(term.end)));
        let placeholders = self.placeholders(text);
        found.retain(|term| {
            !placeholders.iter().any(|range| term.start < range.end && range.start < term.end)
        });
        let mut kept: Vec<FoundTerm> = Vec::new();
        let mut alerts = 0;
        for term in found {
            let is_covered =
                kept.iter().rev().any(|other| other.category == term.category && term.start < other.end);
            let is_alert = term.action == TermAction::Alert;
            if is_covered || (is_alert && alerts == MAX_MATCHES) {
                continue;
            }
            alerts += usize::from(is_alert);
            kept.push(term);
        }
        kept
    }

    fn find_words(&self, folded: &Folded) -> Vec<FoundTerm> {
        let mut found = Vec::new();
        let mut alerts = 0;
        let Some(automaton) = &self.automaton else { return found };
        for hit in automaton.find_overlapping_iter(&folded.text) {
            let (list, term) = self.listed[hit.pattern().as_usize()];
            let is_alert = self.lists[list].action == TermAction::Alert;
            // Overlapping ones are sorted out later, so some more than will be kept.
            if is_alert && alerts == 4 * MAX_MATCHES {
                continue;
            }
            let is_prefix = self.lists[list].term_match == TermMatch::Prefix;
            if !folded.is_word_start(hit.start()) || (!is_prefix && !folded.is_word_end(hit.end())) {
                continue;
            }
            let end = if is_prefix { folded.word_end(hit.end()) } else { hit.end() };
            let (start, end) = folded.characters(hit.start(), end);
            found.push(self.found(list, term, start, end));
            alerts += usize::from(is_alert);
        }
        found
    }

    fn find_regexes(&self, text: &str) -> Vec<FoundTerm> {
        let mut found = Vec::new();
        for at in self.regex_set.matches(text) {
            let (regex, list, term) = &self.regexes[at];
            let mut counted = (0, 0);
            let limit = if self.lists[*list].action == TermAction::Alert { MAX_MATCHES } else { usize::MAX };
            for hit in regex.find_iter(text).filter(|hit| !hit.is_empty()).take(limit) {
                // Counts on from the last hit, so that all hits together are linear.
                let start = counted.1 + text[counted.0..hit.start()].chars().count();
                let end = start + hit.as_str().chars().count();
                counted = (hit.end(), end);
                found.push(self.found(*list, *term, start, end));
            }
        }
        found
    }

    fn found(&self, list: usize, term: usize, start: usize, end: usize) -> FoundTerm {
        let list = &self.lists[list];
        FoundTerm {
            category: list.category.clone(),
            term: list.terms[term].clone(),
            start,
            end,
            severity: list.severity,
            action: list.action,
        }
    }

    /// Returns where placeholders stand, in characters.
    fn placeholders(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        if !text.contains('[') {
            return Vec::new();
        }
        let own = self.lists.iter().map(|list| placeholder(&list.category));
        let known: Vec<String> =
            Category::ALL.iter().map(|category| category.placeholder().to_owned()).chain(own).collect();
        let mut ranges = Vec::new();
        for (at, (byte, _)) in text.char_indices().enumerate().filter(|(_, (_, character))| *character == '[')
        {
            if let Some(hit) = known.iter().find(|known| text[byte..].starts_with(known.as_str())) {
                ranges.push(at..at + hit.chars().count());
            }
        }
        ranges
    }
}

/// Returns what stands in a text instead of a term.
fn check_sizes(lists: &[TermList]) -> Result<(), TermError> {
    let terms = lists.iter().map(|list| list.terms.len()).sum();
    let is_regex = |list: &&TermList| list.term_match == TermMatch::Regex;
    let expressions: usize = lists.iter().filter(is_regex).map(|list| list.terms.len()).sum();
    if terms > MAX_TERMS || expressions > MAX_REGEXES {
        return Err(TermError::TooMany(terms));
    }
    for list in lists {
        let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if list.category.is_empty() || list.category.len() > 40 || !list.category.chars().all(is_allowed) {
            return Err(TermError::Category(list.category.chars().take(40).collect()));
        }
        if list.terms.is_empty() {
            return Err(TermError::Empty(list.category.clone()));
        }
        for term in &list.terms {
            if term.trim().is_empty() || term.chars().count() > MAX_TERM_CHARACTERS {
                let term = term.chars().take(MAX_TERM_CHARACTERS).collect();
                return Err(TermError::Term { category: list.category.clone(), term });
            }
        }
    }
    Ok(())
}

fn compile_regex(list: &TermList, term: &str) -> Result<regex::Regex, TermError> {
    let refuse =
        |reason: String| TermError::Regex { category: list.category.clone(), term: term.to_owned(), reason };
    let regex = RegexBuilder::new(term)
        .case_insensitive(true)
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map_err(|error| refuse(error.to_string()))?;
    if regex.is_match("") {
        return Err(refuse("it matches the empty text".to_owned()));
    }
    Ok(regex)
}

/// Term lists that running calls share; a new list is used from the next segment on.
#[derive(Debug, Clone)]
pub struct SharedTermLists {
    current: Arc<RwLock<Arc<TermLists>>>,
}

impl SharedTermLists {
    /// Shares the lists.
    pub fn new(lists: TermLists) -> SharedTermLists {
        SharedTermLists { current: Arc::new(RwLock::new(Arc::new(lists))) }
    }

    /// Returns the lists as they are now.
    pub fn load(&self) -> Arc<TermLists> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts new lists in the place of the old ones.
    pub fn swap(&self, lists: TermLists) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(lists);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::monitor::redact::Span;

    fn list(category: &str, terms: &[&str], term_match: TermMatch, action: TermAction) -> TermList {
        let terms = terms.iter().map(|&term| term.to_owned()).collect();
        TermList { category: category.to_owned(), terms, term_match, severity: Severity::Warning, action }
    }

    fn lists() -> TermLists {
        TermLists::compile(vec![
            list("legal", &["sue you", "court"], TermMatch::Word, TermAction::Alert),
            list("legal", &["solicitor"], TermMatch::Prefix, TermAction::Alert),
            list("profanity", &["blöd", "damn"], TermMatch::Word, TermAction::Both),
            list("flood", &[r"\bwater\s+(is\s+)?everywhere\b"], TermMatch::Regex, TermAction::Alert),
        ])
        .unwrap()
    }

    /// Checks the stretches of the text that are found.
    fn check(text: &str, expected: &[&str]) {
        let characters: Vec<char> = text.chars().collect();
        let found: Vec<String> =
            lists().find(text).iter().map(|term| characters[term.start..term.end].iter().collect()).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn whole_words_prefixes_and_expressions_are_found_in_any_case() {
        check("I'll SUE  you, in Court.", &["SUE  you", "Court"]);
        check("my solicitors' letter", &["solicitors"]);
        check("courtesy, escort, ｃourt", &[]);
        check("İstanbul: BLÖD! blöder", &["BLÖD"]);
        check("Water is everywhere", &["Water is everywhere"]);
    }

    #[test]
    fn placeholders_hold_no_terms() {
        let lists =
            TermLists::compile(vec![list("bank", &["card", "number"], TermMatch::Word, TermAction::Alert)]);
        assert!(lists.unwrap().find("[payment card] and [number] [bank]").is_empty());
    }

    #[test]
    fn replaced_terms_move_what_follows_and_are_not_named() {
        let text = "damn, [payment card] in court".to_owned();
        let span = Span { category: Category::PaymentCard, start: 6, end: 20, original: 6..25 };
        let (redacted, found) = lists().apply(Redacted { text, spans: vec![span] });
        assert_eq!(redacted.text, "[profanity], [payment card] in court");
        assert_eq!((redacted.spans[0].start, redacted.spans[0].end), (13, 27));
        assert_eq!(found[0].term, "[profanity]");
        assert_eq!((found[0].start, found[0].end), (0, 11));
        assert_eq!((found[1].term.as_str(), found[1].start, found[1].end), ("court", 31, 36));
    }

    #[test]
    fn bad_lists_are_refused_by_name() {
        let refused = |list: TermList| TermLists::compile(vec![list]).unwrap_err();
        let (word, regex, alert) = (TermMatch::Word, TermMatch::Regex, TermAction::Alert);
        assert!(matches!(refused(list("x", &[], word, alert)), TermError::Empty(_)));
        assert!(matches!(refused(list("No", &["a"], word, alert)), TermError::Category(_)));
        assert!(matches!(refused(list("x", &["  "], word, alert)), TermError::Term { .. }));
        assert!(matches!(refused(list("x", &["(a"], regex, alert)), TermError::Regex { .. }));
        assert!(matches!(refused(list("x", &["a*"], regex, alert)), TermError::Regex { .. }));
        assert!(matches!(refused(list("x", &[r"\w{900}{900}"], regex, alert)), TermError::Regex { .. }));
        assert!(matches!(refused(list("x", &vec!["a"; 20_001], word, alert)), TermError::TooMany(_)));
        assert!(matches!(TermLists::from_json("{}").unwrap_err(), TermError::Json(_)));
    }

    #[test]
    fn the_seed_lists_compile_and_find_what_they_are_for() {
        let lists = TermLists::from_json(include_str!("../../../knowledge/terms.json")).unwrap();
        let categories =
            |text: &str| -> Vec<String> { lists.find(text).into_iter().map(|term| term.category).collect() };
        assert_eq!(categories("I'll see you in court, and my solicitor agrees"), ["legal", "legal"]);
        assert_eq!(categories("I want to cancel my contract and switch provider"), ["churn", "churn"]);
        assert_eq!(categories("some days I just don't want to live anymore"), ["self_harm"]);
        assert!(categories("Could you tell me the opening hours of the branch in Court Lane?").is_empty());
    }

    #[test]
    fn a_swap_reaches_those_who_share() {
        let shared = SharedTermLists::new(lists());
        let other = shared.clone();
        let before = other.load();
        shared.swap(TermLists::compile(Vec::new()).unwrap());
        assert_eq!(before.find("court").len(), 1);
        assert!(other.load().find("court").is_empty());
    }

    proptest! {
        #[test]
        fn offsets_are_valid_in_any_text(text in "(\\PC|court|damn |İ|ß| |\\[profanity\\]){0,40}") {
            let (redacted, found) = lists().apply(Redacted { text, spans: Vec::new() });
            let length = redacted.text.chars().count();
            for term in found {
                prop_assert!(term.start < term.end && term.end <= length);
            }
        }
    }

    #[test]
    fn a_term_to_be_replaced_is_replaced_however_many_others_there_are() {
        let lists = TermLists::compile(vec![
            list("refund", &["refund"], TermMatch::Word, TermAction::Alert),
            list("project", &["bluebird"], TermMatch::Word, TermAction::Redact),
        ]);
        let text = "refund ".repeat(2000) + &"bluebird ".repeat(600);
        let (redacted, found) = lists.unwrap().apply(Redacted { text, spans: vec![] });
        assert!(!redacted.text.contains("bluebird"));
        assert_eq!(found.len(), MAX_MATCHES);
    }
}
