//! Finds international bank account numbers: "DE89 3704 …", "d e eight nine three seven oh four …".

use super::Category;
use super::check;
use super::cue::Cue;
use super::memory::Open;
use super::number::is_filler;
use super::number::piece_at;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;
use super::token::spelled_letter;

/// Letters and digits that begin as an IBAN does.
struct Candidate {
    /// First token.
    first: usize,
    /// Last token, inclusive.
    last: usize,
    /// Country, check digits and account, in capitals.
    text: String,
}

/// Finds whole IBANs anywhere, and beginnings of IBANs where the talk is of banks.
pub(super) fn find(scene: &Scene<'_>, outcome: &mut Outcome) {
    let mut at = 0;
    while at < scene.tokens.len() {
        // Letters inside may be in lower case where the whole proves itself.
        let candidate = candidate_at(scene, at, true)
            .filter(|found| check::is_iban(&found.text))
            .or_else(|| candidate_at(scene, at, false));
        let Some(candidate) = candidate.filter(|found| !outcome.is_taken(found.first, found.last)) else {
            at += 1;
            continue;
        };
        let is_whole = check::is_iban(&candidate.text);
        if !is_whole && !is_likely(scene, &candidate) {
            at += 1;
            continue;
        }
        outcome.add(candidate.first, candidate.last, Category::Iban);
        let digits: String = candidate.text.chars().filter(char::is_ascii_digit).collect();
        outcome.hidden.push((Category::Iban, digits));
        let length = check::iban_length(&candidate.text[..2]).unwrap_or(0);
        outcome.open = (!is_whole && candidate.text.len() < length).then(|| Open {
            category: Category::Iban,
            text: candidate.text.clone(),
            end_ms: scene.spoken.end_ms,
        });
        outcome.open_last = Some(candidate.last);
        at = candidate.last + 1;
    }
}

/// Reads country letters, two check digits and what follows at token `at`.
fn candidate_at(scene: &Scene<'_>, at: usize, is_any_case: bool) -> Option<Candidate> {
    let tokens = &scene.tokens;
    let token = tokens.get(at).filter(|token| token.is_word())?;
    let spelled = |at: usize| tokens.get(at).and_then(spelled_letter);
    let (mut next, country) = match (spelled(at), spelled(at + 1)) {
        (Some(one), Some(two)) => (at + 2, format!("{one}{two}").to_uppercase()),
        _ => (at + 1, token.lower.to_uppercase()),
    };
    let length = check::iban_length(&country)?;
    let mut text = country;
    let mut last = next - 1;
    let mut skipped = 0;
    while next < tokens.len() && text.len() < length {
        let is_inside = text.len() >= 4;
        if let Some(piece) = piece_at(tokens, next, true) {
            text.push_str(&piece.digits);
            (last, next, skipped) = (piece.last, piece.last + 1, 0);
            continue;
        }
        let token = &tokens[next];
        let is_short = token.lower.len() <= 4 && token.lower.is_ascii();
        let is_letters = token.letter().is_some() || (is_short && (token.is_upper || is_any_case));
        if is_inside && token.is_word() && is_letters {
            text.push_str(&token.lower.to_uppercase());
            (last, next, skipped) = (next, next + 1, 0);
            continue;
        }
        let joins = token.is_mark('-') || token.is_mark(',') || token.is_mark(' ') || is_filler(&token.lower);
        skipped += 1;
        if !joins || skipped > 3 {
            break;
        }
        next += 1;
    }
    // Two check digits are enough where an IBAN is being read out.
    let is_expected = scene.was_asked(&[Cue::Iban], 3) || scene.has_cue_before(at, &[Cue::Iban], 8);
    let enough = if is_expected && scene.mode != Mode::Written { 2 } else { 4 };
    let begins = text[2..].len() >= enough && text[2..4].bytes().all(|byte| byte.is_ascii_digit());
    begins.then_some(Candidate { first: at, last, text })
}

/// Returns whether an unfinished or mistyped IBAN may stand here.
fn is_likely(scene: &Scene<'_>, candidate: &Candidate) -> bool {
    let token = &scene.tokens[candidate.first];
    let is_english = token.lower.len() == 2
        && !token.is_upper
        && matches!(token.lower.as_str(), "is" | "no" | "me" | "it" | "be" | "at" | "so" | "do" | "by");
    if is_english {
        return false;
    }
    let digits = candidate.text.len() - 2;
    let number: String = candidate.text.chars().filter(char::is_ascii_digit).collect();
    if scene.memory.is_shown(&number) {
        return false;
    }
    let ibans = [Cue::Iban, Cue::Bank, Cue::BankAccount, Cue::Account];
    let is_named = scene.has_cue_before(candidate.first, &ibans, 24);
    let is_plain = scene.has_cue_before(candidate.first, &[Cue::Plain], 6);
    if is_plain || scene.mode == Mode::Written {
        return (is_named && !is_plain) || digits >= 16;
    }
    let was_named = scene.was_asked(&[Cue::Iban], 8) || scene.was_asked(&[Cue::Bank, Cue::BankAccount], 3);
    let was_plain = scene.was_asked(&[Cue::Plain], 1) && !scene.was_asked(&[Cue::Iban], 4);
    if was_plain && !is_named {
        return digits >= 18;
    }
    let is_account_like =
        scene.tokens[candidate.first..=candidate.last].iter().all(|token| token.kind != Kind::Mark);
    is_named
        || (was_named && digits >= 5)
        || (scene.was_asked(&[Cue::Iban], 3) && scene.is_customer())
        || digits >= 14
        || (digits >= 10 && is_account_like)
}
