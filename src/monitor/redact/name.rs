//! Finds names of people where something announces them: a title, "my name is", or a question.

use super::Category;
use super::cue::Cue;
use super::cue::CueAt;
use super::number::piece_at;
use super::scene::Finding;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;

/// Finds names after titles and announcements, and those that the call has hidden before.
pub(super) fn find(scene: &Scene<'_>, outcome: &mut Outcome) {
    for at in 0..scene.tokens.len() {
        let range = titled(scene, at).or_else(|| announced(scene, at)).or_else(|| known(scene, at));
        if let Some((first, last)) = range
            && !outcome.is_taken(first, last)
        {
            outcome.add(first, last, Category::Name);
        }
    }
    find_spelled(scene, outcome);
    if let Some((first, last)) = answered(scene)
        && !outcome.is_taken(first, last)
    {
        outcome.add(first, last, Category::Name);
    }
}

/// Returns the parts of the names that were found, in lower case, to find them again.
pub(super) fn parts(scene: &Scene<'_>, findings: &[Finding]) -> Vec<String> {
    let names = findings.iter().filter(|finding| finding.category == Category::Name);
    let tokens = names.flat_map(|finding| &scene.tokens[finding.first..=finding.last]);
    tokens
        .filter(|token| token.is_word() && token.lower.chars().count() >= 3 && !is_title(&token.lower))
        .map(|token| token.stem().to_owned())
        .collect()
}

/// "Mr Ainscough", "mrs okonjo".
fn titled(scene: &Scene<'_>, at: usize) -> Option<(usize, usize)> {
    if !is_title(scene.word(at)) {
        return None;
    }
    let first_word = at + 1 + usize::from(scene.word(at + 1) == ".");
    let last = name_end(scene, first_word, 1)?;
    Some((at, last))
}

/// "my name is …", "it's Caroline Whitlock", "in the name of …".
fn announced(scene: &Scene<'_>, at: usize) -> Option<(usize, usize)> {
    if !scene.is_customer() {
        return None;
    }
    let is_clean = is_written_with_capitals(scene);
    let says_name = match scene.word(at) {
        "name" | "surname" => matches!(scene.word(at + 1), "is" | "was").then_some(at + 2),
        "name's" | "surname's" | "i'm" if !is_clean || scene.word(at) != "i'm" => Some(at + 1),
        "of" if scene.word(at.wrapping_sub(1)) == "name" => Some(at + 1),
        _ => None,
    };
    if let Some(next) = says_name
        && let Some(last) = name_end(scene, next, 3)
    {
        let words = (next..=last).filter(|&at| scene.tokens[at].is_word()).count();
        let is_own =
            matches!(scene.word(at.wrapping_sub(1)), "my" | "her" | "his" | "your" | "full" | "maiden");
        if is_clean || words >= 2 || (is_own && scene.ends_within(last, 0)) {
            return Some((next, last));
        }
        return None;
    }
    // With capitals a first and a last name after a word that leads up to people are enough.
    let leads = matches!(
        scene.word(at),
        "it's"
            | "i'm"
            | "that's"
            | "he's"
            | "she's"
            | "is"
            | "under"
            | "for"
            | "called"
            | "of"
            | "by"
            | "and"
            | "me"
            | "mr"
            | "mrs"
            | "professor"
            | "named"
            | "cashier"
            | ","
            | "."
            | "to"
            | "with"
    );
    let asked = scene.mode != Mode::Written && scene.was_asked(&[Cue::Name], 2);
    let is_strong_lead = matches!(
        scene.word(at),
        "it's" | "i'm" | "he's" | "she's" | "under" | "for" | "named" | "cashier" | "professor"
    );
    if !is_clean || !leads || !(asked || is_strong_lead || scene.has_cue_before(at + 1, &[Cue::Name], 6)) {
        return None;
    }
    let next = if scene.tokens.get(at + 1).is_some_and(|token| token.is_mark(',')) { at + 2 } else { at + 1 };
    let last = name_end(scene, next, 3)?;
    let words = (next..=last).filter(|&at| scene.tokens[at].is_word()).count();
    let is_professor = scene.word(at) == "professor";
    let goes_on = scene.tokens.get(last + 1).is_some_and(|token| token.is_word() && token.is_capitalised);
    ((words >= 2 && !goes_on) || is_professor).then_some((next, last))
}

/// The answer to "your full name, please".
fn answered(scene: &Scene<'_>) -> Option<(usize, usize)> {
    if !scene.is_customer() || scene.mode == Mode::Written || !scene.was_asked(&[Cue::Name], 2) {
        return None;
    }
    let mut at = 0;
    while at < scene.tokens.len()
        && at < 8
        && (is_lead(scene.word(at)) || scene.tokens[at].kind == Kind::Mark)
    {
        at += 1;
    }
    let last = name_end(scene, at, 3)?;
    let words = (at..=last).filter(|&at| scene.tokens[at].is_word()).count();
    let was_just_asked = scene.was_asked(&[Cue::Name], 1);
    let next = scene.tokens.get(last + 1);
    let stops = next.is_none_or(|token| token.kind != Kind::Word || is_written_with_capitals(scene));
    if next.is_some_and(|token| matches!(token.lower.as_str(), "is" | "was" | "has" | "are")) {
        return None;
    }
    let is_answer = words >= 2 || (was_just_asked && stops);
    is_answer.then_some((at, last))
}

/// "o k o r o", "A-M-A-R-A, dot, L": names and mailboxes spelled by letters.
fn find_spelled(scene: &Scene<'_>, outcome: &mut Outcome) {
    const MIN_LETTERS: usize = 4;
    let was = |cue: Cue| {
        scene.cues.iter().any(|at| at.cue == cue)
            || (scene.mode != Mode::Written && scene.was_asked(&[cue], 2))
    };
    let mut at = 0;
    while at < scene.tokens.len() {
        let mut letters = 0;
        let mut last = at;
        let mut next = at;
        while let Some(token) = scene.tokens.get(next) {
            if token.letter().is_some() {
                (letters, last) = (letters + 1, next);
            } else if !matches!(token.lower.as_str(), "-" | "," | "dot" | "underscore" | "double")
                || letters == 0
            {
                break;
            }
            next += 1;
        }
        let has_number = piece_at(&scene.tokens, next, true).is_some();
        if letters >= MIN_LETTERS && !has_number && !outcome.is_taken(at, last) && scene.is_customer() {
            let found =
                |category: Category| outcome.findings.iter().any(|finding| finding.category == category);
            let category =
                match (was(Cue::Email) || found(Category::Email), was(Cue::Name) || found(Category::Name)) {
                    (true, _) => Some(Category::Email),
                    (false, true) => Some(Category::Name),
                    (false, false) => None,
                };
            if let Some(category) = category {
                outcome.add(at, last, category);
            }
        }
        at = next.max(at + 1);
    }
}

/// A part of a name that was hidden before.
fn known(scene: &Scene<'_>, at: usize) -> Option<(usize, usize)> {
    let token = &scene.tokens[at];
    let could_be = token.is_word() && (token.is_capitalised || !is_written_with_capitals(scene));
    if !could_be || is_common(token.stem()) || !scene.memory.is_name(token.stem()) {
        return None;
    }
    Some((at, at))
}

/// Returns the last token of a name of at most `max_words` words that begins at token `first`.
fn name_end(scene: &Scene<'_>, first: usize, max_words: usize) -> Option<usize> {
    let is_clean = is_written_with_capitals(scene);
    let is_part = |at: usize| {
        scene.tokens.get(at).is_some_and(|token| {
            let looks_right = if is_clean { token.is_capitalised } else { true };
            let is_cue = scene.cues.binary_search_by(|cue| covers(cue, at)).is_ok();
            token.is_word()
                && !is_cue
                && looks_right
                && token.lower.chars().count() > 1
                && !is_common(token.stem())
        })
    };
    if !is_part(first) {
        return None;
    }
    let mut last = first;
    let mut words = 1;
    while words < max_words {
        let hyphen = scene.tokens.get(last + 1).is_some_and(|t| t.is_mark('-') && t.is_glued);
        let next = last + 1 + usize::from(hyphen);
        if !is_part(next) {
            break;
        }
        last = next;
        words += 1;
    }
    Some(last)
}

/// Orders a cue by where it stands to token `at`; equal when it holds the token.
fn covers(cue: &CueAt, at: usize) -> std::cmp::Ordering {
    if cue.last < at {
        std::cmp::Ordering::Less
    } else if cue.first > at {
        std::cmp::Ordering::Greater
    } else {
        std::cmp::Ordering::Equal
    }
}

fn is_written_with_capitals(scene: &Scene<'_>) -> bool {
    scene.tokens.first().is_some_and(|token| token.is_capitalised || token.kind != Kind::Word)
}

fn is_title(word: &str) -> bool {
    matches!(word, "mr" | "mrs" | "ms" | "miss" | "mister" | "mx")
}

fn is_lead(word: &str) -> bool {
    matches!(
        word,
        "it's"
            | "its"
            | "yes"
            | "yeah"
            | "sure"
            | "my"
            | "the"
            | "name"
            | "name's"
            | "is"
            | "i'm"
            | "this"
            | "uh"
            | "um"
            | "oh"
            | "okay"
            | "ok"
            | "of"
            | "course"
            | "that's"
            | "hi"
            | "hello"
            | "well"
            | "er"
            | "erm"
            | "right"
            | "and"
            | "it"
            | "full"
            | "on"
            | "account"
            | "i"
            | "am"
            | "certainly"
    )
}

/// Returns whether the word is too common to be taken for a name.
fn is_common(word: &str) -> bool {
    const WORDS: &str = " a an the and or but so if then than that this these those there here it its it's is was \
        are were be been being am i i'm i've i'd you your yours we our they their he his she her him them me my mine \
        not no yes yeah yep nope ok okay sure please thanks thank sorry well right just only very really quite \
        to of in on at by for from with about into over under up down out off as do does did done have has had \
        will would can could should may might must shall what when where which who whom why how all any some \
        one two three four five six seven eight nine ten zero oh double triple first second third last next \
        date birth born day month year today tomorrow yesterday monday tuesday wednesday thursday friday saturday \
        sunday january february march april june july august september october november december number order \
        account phone email mail address postcode card bank code name hi hello good morning afternoon evening \
        calling speaking still again now never always because hold hang wait moment sec second got get give \
        already though too also like um uh er erm ah let let's don't can't won't didn't isn't wasn't doesn't \
        fine great lovely perfect afraid trying looking ringing going having getting there's that's what's mum \
        dad husband wife son daughter mother father sister brother policy booking same new old another other \
        quickly notice authorization wonderful different free need cancelled want hiya ha alright \
        glad happy ready done not home back locked stuck worried sure lost following under age pressure ";
    WORDS.split(' ').any(|common| common == word)
}
