//! Finds e-mail addresses, written and spoken: "j.smith@example.com", "j dot smith at example dot com".

use super::Category;
use super::cue::Cue;
use super::number::piece_at;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;

/// Finds e-mail addresses and, where one is expected, the beginning of one.
pub(super) fn find(scene: &Scene<'_>, outcome: &mut Outcome) {
    for at in 0..scene.tokens.len() {
        let range = match scene.word(at) {
            "@" => written_around(scene, at).or_else(|| spoken_around(scene, at)),
            "at" => spoken_around(scene, at),
            _ => None,
        };
        if let Some((first, last)) = range
            && !outcome.is_taken(first, last)
        {
            // What a company prints on its letters is nobody's secret: "complaints at …".
            if is_role_mailbox(scene.word(first)) && matches!(scene.word(first + 1), "at" | "@") {
                outcome.take(first, last);
            } else {
                outcome.add(first, last, Category::Email);
            }
        }
    }
    if scene.mode != Mode::Written {
        find_beginning(scene, outcome);
    }
}

/// Reads the glued tokens around an "@".
fn written_around(scene: &Scene<'_>, at: usize) -> Option<(usize, usize)> {
    let tokens = &scene.tokens;
    let mut first = at;
    while first > 0 && tokens[first].is_glued && is_local(scene, first - 1) {
        first -= 1;
    }
    let mut last = at;
    let mut dots = 0;
    while let Some(next) = tokens.get(last + 1).filter(|next| next.is_glued) {
        let is_part = next.is_word() || next.kind == Kind::Digits;
        let joins = (next.is_mark('.') || next.is_mark('-'))
            && tokens.get(last + 2).is_some_and(|after| after.is_glued && after.kind != Kind::Mark);
        if !is_part && !joins {
            break;
        }
        dots += usize::from(next.is_mark('.'));
        last += 1;
    }
    (first < at && dots > 0).then_some((first, last))
}

fn is_local(scene: &Scene<'_>, at: usize) -> bool {
    let token = &scene.tokens[at];
    match token.kind {
        Kind::Word | Kind::Digits => true,
        Kind::Mark => "._%+-".contains(token.lower.as_str()),
        Kind::Placeholder(_) => false,
    }
}

/// Reads "name at domain dot com" around the word "at" or a lone "@".
fn spoken_around(scene: &Scene<'_>, at: usize) -> Option<(usize, usize)> {
    let last = domain_end(scene, at + 1)?;
    let first = local_start(scene, at);
    // "The form at example.com/withdraw": a site with dots as marks is no mailbox by itself.
    let is_site = (at..last).any(|at| scene.word(at) == ".") && scene.word(at) == "at";
    let is_address =
        (first..at).any(|at| is_joiner(scene, at)) || scene.cues.iter().any(|cue| cue.cue == Cue::Email);
    let has_path = scene.tokens.get(last + 1).is_some_and(|next| next.is_glued && next.is_mark('/'));
    (!has_path && (!is_site || is_address)).then_some((first, last))
}

/// Returns the last token of a spoken domain that begins at token `from`.
fn domain_end(scene: &Scene<'_>, from: usize) -> Option<usize> {
    const MAX_HOST_TOKENS: usize = 5;
    let host = (from..from + MAX_HOST_TOKENS).find(|&at| !is_host(scene, at))?;
    let mut last = None;
    let mut dot = host;
    while host > from && is_dot(scene, dot) && is_host(scene, dot + 1) {
        last = Some(dot + 1);
        dot += 2;
    }
    last.filter(|&last| is_top_level(scene.word(last)))
}

/// Returns whether a host may end with the word; "look at that dot on the map" is no address.
fn is_top_level(word: &str) -> bool {
    const DOMAINS: &str = " com org net edu gov mil int info biz name io ai app dev me tv eu uk ie us ca au nz de fr es it \
        pt nl be lu ch dk se fi pl cz gr hu ro ng ke za pk bd br mx ar cl jp kr cn hk sg my ph il ae sa ru ua \
        scot wales london online shop store tech cloud email live example test ";
    DOMAINS.split(' ').any(|domain| !domain.is_empty() && domain == word)
}

fn is_host(scene: &Scene<'_>, at: usize) -> bool {
    let Some(token) = scene.tokens.get(at) else { return false };
    (token.is_word() || token.kind == Kind::Digits) && !matches!(token.lower.as_str(), "dot" | "at")
}

fn is_dot(scene: &Scene<'_>, at: usize) -> bool {
    let is_glued_dot = scene.word(at) == "."
        && scene.tokens[at].is_glued
        && scene.tokens.get(at + 1).is_some_and(|next| next.is_glued && next.is_word());
    is_glued_dot || matches!(scene.word(at), "dot" | "point")
}

/// Returns whether a mailbox belongs to a function rather than a person (RFC 2142 and custom).
fn is_role_mailbox(word: &str) -> bool {
    const ROLES: &str = " complaints complaint phish phishing abuse support help info service services office letters \
        claims privacy security hello care news noreply dpo legal booking reservations customers customer sales billing accounts postmaster webmaster team contact press jobs appeals \
        returns refunds bookings feedback enquiries ";
    ROLES.split(' ').any(|role| !role.is_empty() && role == word)
}

/// Returns the first token of the local part that ends before token `at`.
fn local_start(scene: &Scene<'_>, at: usize) -> usize {
    let mut first = item_start(scene, at, false);
    while first < at && first >= 2 && is_joiner(scene, first - 1) {
        let before = item_start(scene, first - 1, true);
        if before == first - 1 {
            break;
        }
        first = before;
    }
    first
}

fn is_joiner(scene: &Scene<'_>, at: usize) -> bool {
    matches!(
        scene.word(at),
        "dot"
            | "underscore"
            | "dash"
            | "hyphen"
            | "point"
            | "plus"
            | "minus"
            | "period"
            | "."
            | "-"
            | "_"
            | "+"
    )
}

/// Returns the first token of the item that ends before token `end`: a word with the numbers that
/// follow and the initials that precede it, or a spelled word. One that `is_joined` to what follows by a
/// "dot" may be any word.
fn item_start(scene: &Scene<'_>, end: usize, is_joined: bool) -> usize {
    const MAX_TOKENS: usize = 24;
    let floor = end.saturating_sub(MAX_TOKENS);
    let is_number =
        |at: usize| scene.tokens[at].kind == Kind::Digits || piece_at(&scene.tokens, at, true).is_some();
    let mut at = end;
    while at > floor && is_number(at - 1) {
        at -= 1;
    }
    // "Is nil dot smith at …": a number is an item by itself, and leads stay leads before it.
    let may_lead = is_joined && at == end;
    let is_word = |at: usize| {
        scene.tokens[at].is_word() && !is_joiner(scene, at) && (may_lead || !is_lead(scene.word(at)))
    };
    let takes_word = at > floor && is_word(at - 1) && scene.tokens[at - 1].letter().is_none();
    at -= usize::from(takes_word);
    // Before a word "a" is an article, before a joiner or another letter it is spelled.
    let is_initial = |letter: char| !takes_word || !matches!(letter, 'a' | 'i');
    while at > floor && scene.tokens[at - 1].letter().is_some_and(is_initial) {
        at -= 1;
    }
    at
}

/// Returns whether the word leads up to an address rather than being a part of it.
fn is_lead(word: &str) -> bool {
    matches!(
        word,
        "not"
            | "no"
            | "just"
            | "is"
            | "it's"
            | "its"
            | "to"
            | "email"
            | "mail"
            | "address"
            | "that's"
            | "and"
            | "at"
            | "the"
            | "me"
            | "then"
            | "under"
            | "yes"
            | "yeah"
            | "so"
            | "on"
            | "or"
            | "was"
            | "use"
            | "put"
            | "him"
            | "her"
            | "them"
            | "my"
    )
}

/// Finds an address that stops before its end: after "at", "dot" or "underscore" near the end of
/// the segment, where an address was asked for or the segment is still being spoken.
fn find_beginning(scene: &Scene<'_>, outcome: &mut Outcome) {
    const MAX_TAIL_TOKENS: usize = 4;
    let count = scene.tokens.len();
    let is_asked = scene.was_asked(&[Cue::Email], 2) || scene.cues.iter().any(|cue| cue.cue == Cue::Email);
    let from = count.saturating_sub(MAX_TAIL_TOKENS);
    let is_join = |at: usize| {
        matches!(scene.word(at), "dot" | "underscore") || (is_asked && matches!(scene.word(at), "at" | "@"))
    };
    let Some(join) = (from..count).find(|&at| is_join(at)) else { return };
    let first = local_start(scene, join);
    let is_number = first < join && scene.tokens[first].kind == Kind::Digits;
    // "at" is a common word: before it the address must look like one, or be the whole answer.
    let is_short_answer = count <= 6;
    let has_joiner =
        (first..join).any(|at| is_joiner(scene, at)) || is_joiner(scene, join) || is_short_answer;
    let is_likely = (is_asked || scene.mode == Mode::Partial) && !is_number && has_joiner;
    if is_likely && first < join && !outcome.is_taken(first, count - 1) {
        outcome.add(first, count - 1, Category::Email);
    }
}
