//! Finds passwords: what stands after "password is" and its like.

use super::Category;
use super::cue::Cue;
use super::number::piece_at;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;

/// How far after the word "password" the password may begin, in tokens.
const REACH: usize = 14;

/// Finds what is said to be a password.
pub(super) fn find(scene: &Scene<'_>, outcome: &mut Outcome) {
    for cue in scene.cues.iter().filter(|cue| cue.cue == Cue::Password) {
        let end = (cue.last + REACH).min(scene.tokens.len());
        let range = (cue.last..end).find_map(|at| after_verb(scene, cue.last, at));
        if let Some((first, last)) = range
            && !outcome.is_taken(first, last)
        {
            outcome.add(first, last, Category::Password);
        }
    }
    find_mixed(scene, outcome);
}

/// Finds words glued to figures, as passwords are written, where the talk is of passwords.
fn find_mixed(scene: &Scene<'_>, outcome: &mut Outcome) {
    let here = scene.cues.iter().any(|cue| cue.cue == Cue::Password);
    if !here && (scene.mode == Mode::Written || !scene.was_asked(&[Cue::Password], 4)) {
        return;
    }
    for at in 1..scene.tokens.len() {
        let (word, digits) = (&scene.tokens[at - 1], &scene.tokens[at]);
        let is_mixed = word.is_word()
            && word.lower.chars().count() >= 3
            && digits.kind == Kind::Digits
            && digits.is_glued
            && !(word.is_glued && at >= 2 && scene.tokens[at - 2].is_mark('@'));
        if is_mixed && !outcome.is_taken(at - 1, at) {
            let last = password_end(scene, at - 1).unwrap_or(at);
            outcome.add(at - 1, last, Category::Password);
        }
    }
}

/// Reads a password after "is", "was", "'s" or ":" at token `at`.
fn after_verb(scene: &Scene<'_>, cue: usize, at: usize) -> Option<(usize, usize)> {
    let word = scene.word(at);
    let is_verb = match at == cue {
        true => word.ends_with("'s"),
        false => {
            matches!(word, "is" | "was" | "it's" | ":" | "=" | "that's") || (at == cue + 1 && word == "-")
        }
    };
    if !is_verb {
        return None;
    }
    let first = at + 1;
    let last = password_end(scene, first)?;
    Some((first, last))
}

/// Returns the last token of the password that begins at token `first`, if it looks like one.
fn password_end(scene: &Scene<'_>, first: usize) -> Option<usize> {
    const MAX_WORDS: usize = 3;
    let token = scene.tokens.get(first)?;
    if is_stop(&token.lower) || token.kind == Kind::Mark {
        return None;
    }
    let mut last = first;
    while scene.tokens.get(last + 1).is_some_and(|next| next.is_glued && is_inside(scene, last + 1)) {
        last += 1;
    }
    let is_typed = last > first || token.is_capitalised || token.kind == Kind::Digits;
    if is_typed {
        return Some(last);
    }
    // Spoken: up to three words and the numbers after them.
    let mut words = 1;
    while let Some(next) = scene.tokens.get(last + 1) {
        if let Some(piece) = piece_at(&scene.tokens, last + 1, true) {
            last = piece.last;
        } else if words < MAX_WORDS && next.is_word() && !is_stop(&next.lower) {
            words += 1;
            last += 1;
        } else {
            break;
        }
    }
    Some(last)
}

/// Returns whether a glued token belongs to the password: not a full stop or comma at its end.
fn is_inside(scene: &Scene<'_>, at: usize) -> bool {
    let token = &scene.tokens[at];
    let goes_on = scene.tokens.get(at + 1).is_some_and(|next| next.is_glued && next.kind != Kind::Mark);
    match token.kind {
        Kind::Word | Kind::Digits => true,
        Kind::Mark => goes_on || "!#$%&*+@^_~".contains(token.lower.as_str()),
        Kind::Placeholder(_) => false,
    }
}

/// Returns whether the word cannot begin or belong to a password.
fn is_stop(word: &str) -> bool {
    const STOPS: &str = " a an the not no wrong correct right incorrect invalid too also still then that this it its \
        it's is was what where when how why who if so and but or to for from with on in at of by my your our i \
        you we he she they them me him her being been be gone lost locked expired weak safe short long secure \
        case saying never always just only something anything nothing everything going there here now rejected \
        refused accepted changed reset needed required asked sent different same old new okay fine good ";
    STOPS.split(' ').any(|stop| stop == word)
}
