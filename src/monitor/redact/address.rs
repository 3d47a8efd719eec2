//! Finds postal addresses: "14 Larch Row, Millbrook", "flat nine sixty two harbour street", "KM9 2DD".

use super::Category;
use super::cue::Cue;
use super::number::piece_at;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;
use super::token::spelled_letter;

/// Finds street addresses and postcodes.
pub(super) fn find(scene: &Scene<'_>, outcome: &mut Outcome) {
    for at in 0..scene.tokens.len() {
        let range = street_address(scene, outcome, at).or_else(|| postcode(scene, at));
        if let Some((first, last)) = range
            && !outcome.is_taken(first, last)
        {
            outcome.add(first, last, Category::Address);
        }
    }
}

/// Reads backwards and forwards from a word such as "street" at token `at`.
fn street_address(scene: &Scene<'_>, outcome: &Outcome, at: usize) -> Option<(usize, usize)> {
    const MAX_NAME_WORDS: usize = 4;
    if !is_street_type(scene.word(at)) {
        return None;
    }
    let mut first = at;
    let mut words = 0;
    while first > 0 && words <= MAX_NAME_WORDS {
        let before = &scene.tokens[first - 1];
        if is_house_number(scene, first - 1) {
            break;
        }
        if !before.is_word() || is_stop(&before.lower) {
            return None;
        }
        first -= 1;
        words += 1;
    }
    if words == 0 || words > MAX_NAME_WORDS || first == 0 {
        return None;
    }
    while first > 0
        && !outcome.taken[first - 1]
        && (is_house_number(scene, first - 1)
            || matches!(scene.word(first - 1), "flat" | "apartment" | "apt" | "unit" | "number" | ","))
    {
        if scene.word(first - 1) == "," && !(first > 1 && is_house_number(scene, first - 2)) {
            break;
        }
        first -= 1;
    }
    Some((first, town_end(scene, at)))
}

fn is_house_number(scene: &Scene<'_>, at: usize) -> bool {
    match scene.tokens[at].kind {
        Kind::Digits => scene.tokens[at].lower.len() <= 5,
        Kind::Word => piece_at(&scene.tokens, at, true).is_some(),
        _ => false,
    }
}

/// Returns the last token of what follows a street: flat, town, postcode.
fn town_end(scene: &Scene<'_>, street: usize) -> usize {
    const MAX_WORDS: usize = 8;
    let mut last = street;
    let mut at = street + 1;
    let is_clean = scene.tokens[street].is_capitalised;
    while at < scene.tokens.len() && at <= street + MAX_WORDS {
        let token = &scene.tokens[at];
        let is_flat = matches!(token.lower.as_str(), "flat" | "apartment" | "apt" | "unit");
        let is_place = match token.kind {
            Kind::Word => {
                is_flat
                    || if is_clean {
                        token.is_capitalised
                    } else {
                        !is_stop(&token.lower) && at <= street + 2
                    }
            }
            Kind::Digits => true,
            Kind::Mark => {
                if !token.is_mark(',') || !is_clean {
                    break;
                }
                at += 1;
                continue;
            }
            Kind::Placeholder(_) => break,
        };
        if !is_place && token.lower != "in" {
            break;
        }
        if is_place {
            last = at;
        }
        at += 1;
    }
    last
}

/// Reads a British postcode, typed or spelled where one was asked for.
fn postcode(scene: &Scene<'_>, at: usize) -> Option<(usize, usize)> {
    let token = scene.tokens.get(at)?;
    let is_asked = scene.has_cue_before(at, &[Cue::Postcode], 8)
        || (scene.mode != Mode::Written && scene.was_asked(&[Cue::Postcode], 2));
    let is_letters = token.is_word() && token.lower.len() <= 2 && token.lower.is_ascii();
    let is_letters = is_letters || (is_asked && spelled_letter(token).is_some());
    let may_begin = is_letters || (is_asked && piece_at(&scene.tokens, at, false).is_some());
    let is_inside = token.is_glued && at > 0 && scene.tokens[at - 1].kind != Kind::Mark;
    if !may_begin || is_inside {
        return None;
    }
    let mut text = String::new();
    let mut last = at;
    for next in at..(at + 8).min(scene.tokens.len()) {
        let token = &scene.tokens[next];
        if next <= last && next > at {
            continue;
        }
        if let Some(piece) = piece_at(&scene.tokens, next, next > at) {
            text.push_str(&piece.digits);
            last = piece.last;
        } else if let Some(letter) = spelled_letter(token).filter(|_| is_asked || token.lower.len() == 1) {
            text.push(letter.to_ascii_uppercase());
            last = next;
        } else if token.is_word() && token.lower.len() <= 2 && token.is_upper {
            text.push_str(&token.lower.to_uppercase());
            last = next;
        } else {
            break;
        }
        let is_typed = scene.tokens[at].is_upper;
        let goes_on = scene.tokens.get(last + 1).is_some_and(|next| next.is_glued && next.kind != Kind::Mark);
        if is_postcode(&text)
            && !goes_on
            && (is_typed || is_asked)
            && (is_asked || (text.len() >= 6 && last - at <= 4))
        {
            return Some((at, last));
        }
    }
    // Two or three letters and three or four digits were spelled as an answer.
    let mixed =
        text.bytes().any(|byte| byte.is_ascii_alphabetic()) && text.bytes().any(|byte| byte.is_ascii_digit());
    (is_asked && mixed && (4..=8).contains(&text.len())).then_some((at, last))
}

/// Returns whether the letters and digits have the form of a British postcode.
fn is_postcode(text: &str) -> bool {
    let form: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { 'A' }).collect();
    matches!(form.as_str(), "A99AA" | "A999AA" | "AA99AA" | "AA999AA" | "A9A9AA" | "AA9A9AA")
}

fn is_street_type(word: &str) -> bool {
    const TYPES: &str = " street road lane row avenue terrace court gate yard mews close drive way rise square place \
        crescent grove gardens hill walk parade boulevard quay wharf st rd ave cottages bank house view green \
        lodge villas park ";
    !word.is_empty() && TYPES.split(' ').any(|kind| kind == word)
}

fn is_stop(word: &str) -> bool {
    const STOPS: &str = " the a an and or of at in on is it it's to for from with my your our his her their i you we \
        he she they that this then there if but so not no yes yeah please thanks thank can could would will do \
        each every other says said one two minutes hours half long have has had was were be been am are right by way out off up down over just now not tomorrow today either same along ";
    STOPS.split(' ').any(|stop| stop == word)
}
