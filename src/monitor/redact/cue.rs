//! Words that say what a number is: "card number", "sort code", "order", "booking reference".

mod phrases;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::token::Kind;
use super::token::Token;

/// What a following number is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cue {
    /// A payment card's number.
    Card,
    /// The code on a card.
    CardCode,
    /// "Code" without a word that says which.
    Code,
    /// The end of a card's validity.
    Expiry,
    /// A United States social security number.
    Ssn,
    /// An international bank account number.
    Iban,
    /// A sort code, routing number or bank account.
    BankAccount,
    /// "Account" without a word that says which.
    Account,
    /// Talk of banks and transfers; tells which kind of account is meant.
    Bank,
    /// A telephone number.
    Phone,
    /// A secret number.
    Pin,
    /// A secret word.
    Password,
    /// A date of birth.
    Birth,
    /// A postal address.
    Address,
    /// A postcode or ZIP code.
    Postcode,
    /// An e-mail address.
    Email,
    /// A person's name.
    Name,
    /// The last digits of a number.
    Ending,
    /// Something that may be shown: an order, a booking, a meter.
    Plain,
}

/// A cue and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct CueAt {
    /// What it announces.
    pub cue: Cue,
    /// First token.
    pub first: usize,
    /// Last token, inclusive.
    pub last: usize,
}

type Phrases = HashMap<&'static str, Vec<(Vec<&'static str>, Cue)>>;

/// All phrases by their first word, the longest first.
static BY_FIRST_WORD: LazyLock<Phrases> = LazyLock::new(|| {
    let mut phrases: Phrases = HashMap::new();
    for &(cue, texts) in phrases::PHRASES {
        for text in texts {
            let words: Vec<&str> = text.split(' ').collect();
            phrases.entry(words[0]).or_default().push((words, cue));
        }
    }
    for list in phrases.values_mut() {
        list.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
    }
    phrases
});

/// Finds the cues of a text, in order, the longest phrase at each place.
pub(super) fn find_cues(tokens: &[Token]) -> Vec<CueAt> {
    let mut cues = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let found = BY_FIRST_WORD
            .get(tokens[at].stem())
            .and_then(|list| list.iter().find(|(words, _)| matches_at(tokens, at, words)));
        match found {
            Some((words, cue)) => {
                cues.push(CueAt { cue: *cue, first: at, last: at + words.len() - 1 });
                at += words.len();
            }
            None => at += 1,
        }
    }
    cues.retain(|cue| !is_misled(tokens, cue));
    cues
}

fn matches_at(tokens: &[Token], at: usize, words: &[&str]) -> bool {
    let Some(slice) = tokens.get(at..at + words.len()) else { return false };
    (slice.iter().zip(words))
        .all(|(token, word)| !matches!(token.kind, Kind::Placeholder(_)) && token.stem() == *word)
}

/// Returns whether the neighbours of a cue give it another meaning: "social media".
fn is_misled(tokens: &[Token], cue: &CueAt) -> bool {
    let next = tokens.get(cue.last + 1).map_or("", |token| token.lower.as_str());
    let before = cue.first.checked_sub(1).map_or("", |at| tokens[at].lower.as_str());
    let word = tokens[cue.first].lower.as_str();
    match cue.cue {
        Cue::Ssn => matches!(next, "media" | "worker" | "care" | "services" | "club" | "housing"),
        Cue::Plain => before == "in" && matches!(word, "case" | "order"),
        Cue::Name => before == "my" && (next == "is" || word.ends_with("'s")),
        _ => false,
    }
}
