//! Finds dates of birth and card expiries; other dates are left, and kept from the other finders.

use super::Category;
use super::cue::Cue;
use super::number::Run;
use super::number::teen;
use super::number::ten;
use super::number::unit;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;

/// A date as said.
#[derive(Debug, Clone, Copy)]
struct Date {
    first: usize,
    last: usize,
    has_day: bool,
    has_month: bool,
    /// The year as said: two digits or four.
    year: Option<u32>,
}

/// People who were born after this year do not ring.
const LAST_BIRTH_YEAR: u32 = 2009;

/// Finds dates and decides each.
pub(super) fn find(scene: &Scene<'_>, outcome: &mut Outcome) {
    let mut at = 0;
    while at < scene.tokens.len() {
        let Some(date) = date_at(scene, at).filter(|date| !outcome.is_taken(date.first, date.last)) else {
            at += 1;
            continue;
        };
        at = date.last + 1;
        if is_expiry(scene, outcome, &date) {
            outcome.add(date.first, date.last, Category::CardExpiry);
        } else if is_birth(scene, &date) || scene.memory.is_hidden_text(&text_of(scene, &date)) {
            outcome.add(date.first, date.last, Category::DateOfBirth);
            outcome.hidden.push((Category::DateOfBirth, text_of(scene, &date)));
        } else if date.has_month && (date.has_day || date.year.is_some()) && is_named_month(scene, &date) {
            outcome.take(date.first, date.last);
        }
    }
}

/// Returns the words of a date, to know them again.
fn text_of(scene: &Scene<'_>, date: &Date) -> String {
    let words: Vec<&str> =
        (date.first..=date.last).map(|at| scene.word(at)).filter(|&word| word != "the").collect();
    words.join(" ")
}

/// Returns whether a month's name or an ordinal makes this a date beyond doubt.
fn is_named_month(scene: &Scene<'_>, date: &Date) -> bool {
    (date.first..=date.last).any(|at| month(scene.word(at)).is_some() || ordinal(scene, at).is_some())
}

fn is_expiry(scene: &Scene<'_>, outcome: &Outcome, date: &Date) -> bool {
    if date.has_day || !date.has_month || date.year.is_none() {
        return false;
    }
    let card = [Cue::Card, Cue::CardCode];
    let near_card = scene.cues.iter().take(64).any(|cue| card.contains(&cue.cue))
        || outcome.findings.iter().any(|finding| finding.category == Category::PaymentCard)
        || (scene.mode != Mode::Written
            && (scene.was_asked(&card, 8) || scene.memory.found_any(Category::PaymentCard, 8)));
    // "The card's 4111 …, 09/28": right after a card nothing else needs to name it.
    let follows_card = outcome.findings.iter().rev().take(24).any(|finding| {
        finding.category == Category::PaymentCard
            && finding.last < date.first
            && date.first - finding.last <= 6
    });
    let named_here = scene.has_cue_before(date.first, &[Cue::Expiry], 8);
    let asked = scene.mode != Mode::Written && scene.was_asked(&[Cue::Expiry], 2);
    follows_card
        || (near_card && (named_here || asked))
        || (asked && scene.is_customer())
        || (near_card && scene.memory.found_any(Category::PaymentCard, 1) && date.first <= 10)
}

fn is_birth(scene: &Scene<'_>, date: &Date) -> bool {
    let named = scene.has_cue_before(date.first, &[Cue::Birth], 16);
    let asked = scene.mode != Mode::Written && scene.was_asked(&[Cue::Birth], 3);
    let is_full = date.has_day && date.has_month;
    let is_old = date.year.is_some_and(|year| (1900..=LAST_BIRTH_YEAR).contains(&year));
    if named || (asked && scene.is_customer()) {
        return is_full || is_old;
    }
    // "Five one double eight" is the beginning of the card that was asked for, not a day in 1988.
    let is_number = scene.mode != Mode::Written
        && (scene.was_asked(&[Cue::Card], 2)
            || scene.memory.open(scene.spoken.speaker, scene.spoken.start_ms).is_some());
    if is_number && !is_named_month(scene, date) {
        return false;
    }
    // A date said again by the other speaker, or together with a name that was asked for.
    let follows = scene.memory.found_any(Category::DateOfBirth, 1)
        || (scene.is_customer() && scene.mode != Mode::Written && scene.was_asked(&[Cue::Name], 1));
    is_full && date.year.is_some() && (follows || (is_old && scene.is_customer()))
}

/// Reads the longest date that begins at token `at`.
fn date_at(scene: &Scene<'_>, at: usize) -> Option<Date> {
    typed(scene, at)
        .or_else(|| day_first(scene, at))
        .or_else(|| month_first(scene, at))
        .or_else(|| spoken_numbers(scene, at))
}

/// "10/4/1980", "1980-04-10", "09/28".
fn typed(scene: &Scene<'_>, at: usize) -> Option<Date> {
    let tokens = &scene.tokens;
    let number = |at: usize| {
        tokens
            .get(at)
            .filter(|token| token.kind == Kind::Digits && token.lower.len() <= 4)?
            .lower
            .parse::<u32>()
            .ok()
    };
    let mark = |at: usize| {
        tokens.get(at).filter(|t| t.is_mark('/') || t.is_mark('-') || t.is_mark('.')).map(|t| t.lower.clone())
    };
    let (one, first_mark, two) = (number(at)?, mark(at + 1)?, number(at + 2)?);
    let begins = at == 0
        || !(tokens[at].is_glued && tokens[at - 1].kind == Kind::Mark && !tokens[at - 1].is_mark('('));
    let glued_after = |at: usize| {
        mark(at).is_some() && tokens[at].is_glued && number(at + 1).is_some() && tokens[at + 1].is_glued
    };
    if begins
        && mark(at + 3).as_ref() == Some(&first_mark)
        && let Some(three) = number(at + 4)
        && !glued_after(at + 5)
    {
        let is_day_or_month = |value: u32| (1..=31).contains(&value);
        let length = |at: usize| tokens[at].lower.len();
        if is_day_or_month(one)
            && is_day_or_month(two)
            && matches!(length(at + 4), 2 | 4)
            && length(at) <= 2
            && length(at + 2) <= 2
            && (length(at + 4) == 4 || first_mark == "/")
        {
            return Some(Date {
                first: at,
                last: at + 4,
                has_day: true,
                has_month: true,
                year: Some(full_year(three)),
            });
        }
        if (1900..=2099).contains(&one) && is_day_or_month(two) && is_day_or_month(three) {
            return Some(Date { first: at, last: at + 4, has_day: true, has_month: true, year: Some(one) });
        }
    }
    let is_month_year = first_mark != "."
        && (1..=12).contains(&one)
        && matches!(tokens[at + 2].lower.len(), 2 | 4)
        && two >= 20;
    let stands_alone = mark(at + 3)
        .is_none_or(|_| !tokens.get(at + 4).is_some_and(|t| t.kind == Kind::Digits && t.is_glued));
    (begins && is_month_year && stands_alone && tokens[at].lower.len() <= 2).then(|| Date {
        first: at,
        last: at + 2,
        has_day: false,
        has_month: true,
        year: Some(full_year(two)),
    })
}

/// "the fourth of november eighty two", "30th of June 1947", "12 May 1988", "nineteenth of the third ninety six".
fn day_first(scene: &Scene<'_>, at: usize) -> Option<Date> {
    let first = at;
    let at = if scene.word(at) == "the" { at + 1 } else { at };
    let (day_last, is_ordinal) = match ordinal(scene, at) {
        Some(last) => (last, true),
        None => (plain_day(scene, at)?, false),
    };
    let mut next = day_last + 1;
    if scene.word(next) == "day" {
        next += 1;
    }
    let has_of = scene.word(next) == "of";
    next += usize::from(has_of);
    // "He's eleven, August nineteenth": the day stands after the month.
    if !is_ordinal && !has_of && ordinal(scene, next + 1).is_some() {
        return None;
    }
    let month_last = if month(scene.word(next)).is_some() {
        next
    } else if is_ordinal && has_of {
        let from = next + usize::from(scene.word(next) == "the");
        ordinal(scene, from)?
    } else {
        return None;
    };
    Some(with_year(scene, first, month_last, true))
}

/// "March the ninth nineteen fifty eight", "July 2, 1971", "November 2027", "march twenty seven".
fn month_first(scene: &Scene<'_>, at: usize) -> Option<Date> {
    month(scene.word(at))?;
    // "May" and "march" are words too; a number must follow.
    let next = at + 1 + usize::from(scene.word(at + 1) == "the");
    if let Some(last) = ordinal(scene, next) {
        return Some(with_year(scene, at, last, true));
    }
    if let Some((last, year)) = year_at(scene, at + 1) {
        let is_day = plain_day(scene, at + 1).filter(|&day| day >= last && year < 32);
        let with_day = is_day.map(|day| with_year(scene, at, day, true)).filter(|date| date.year.is_some());
        return with_day.or(Some(Date {
            first: at,
            last,
            has_day: false,
            has_month: true,
            year: Some(year),
        }));
    }
    let day = plain_day(scene, at + 1)?;
    Some(with_year(scene, at, day, true))
}

/// "oh four twenty nine", "eleven twenty nine" as month and year; "nine nine ninety nine" as a day.
fn spoken_numbers(scene: &Scene<'_>, at: usize) -> Option<Date> {
    let run = scene.runs.get(scene.runs.partition_point(|run| run.first() < at))?;
    if run.first() != at || run.is_quantity || !run.letters.is_empty() {
        return None;
    }
    let groups = run.groups();
    let (first, last) = (run.first(), run.last());
    if let Some(year) = month_and_year(run) {
        // Digits that are not grouped as month and year are an expiry only where one was asked for.
        let is_loose = matches!(groups[..], [4] | [1, 1, 1, 1]);
        let asked = scene.has_cue_before(at, &[Cue::Expiry], 8) || scene.was_asked(&[Cue::Expiry], 2);
        return (!is_loose || asked).then_some(Date {
            first,
            last,
            has_day: false,
            has_month: true,
            year: Some(year),
        });
    }
    let digits = &run.digits;
    // "oh five oh six seventy one", all digits of day, month and year.
    if matches!(groups[..], [1, 1, 1, 1, 2] | [1, 1, 1, 1, 2, 2] | [1, 1, 1, 1, 1, 1]) && run.is_spoken() {
        let asked = scene.has_cue_before(at, &[Cue::Birth], 8) || scene.was_asked(&[Cue::Birth], 2);
        let (one, two): (u32, u32) = (digits[..2].parse().ok()?, digits[2..4].parse().ok()?);
        let is_date = asked && (1..=31).contains(&one) && (1..=31).contains(&two) && one.min(two) <= 12;
        let year: u32 = digits[4..].parse().ok()?;
        return is_date.then(|| Date {
            first,
            last,
            has_day: true,
            has_month: true,
            year: Some(full_year(year)),
        });
    }
    let year_length = match groups[..] {
        [_, _, 2] => 2,
        [_, _, 2, 2] => 4,
        [_, _, 4] => 4,
        _ => return None,
    };
    let day: u32 = run.pieces[0].digits.parse().ok()?;
    let month_number = run.pieces[1].digits.parse::<u32>().ok().filter(|month| (1..=12).contains(month));
    let year: u32 = digits[digits.len() - year_length..].parse().ok()?;
    let is_date = run.is_spoken() && (1..=31).contains(&day) && month_number.is_some();
    is_date.then(|| Date { first, last, has_day: true, has_month: true, year: Some(full_year(year)) })
}

/// Returns whether a number may be the month and year to which a card is valid.
pub(super) fn is_month_and_year(run: &Run) -> bool {
    !run.is_quantity && run.letters.is_empty() && month_and_year(run).is_some()
}

/// Reads "oh four twenty nine", "eleven twenty nine", "0429", "oh nine twenty twenty eight".
fn month_and_year(run: &Run) -> Option<u32> {
    let groups = run.groups();
    let is_short = run.len() == 4 && matches!(groups[..], [1, 1, 2] | [2, 2] | [1, 1, 1, 1] | [4]);
    let is_long = run.len() == 6 && run.is_spoken() && matches!(groups[..], [1, 1, 2, 2] | [2, 2, 2]);
    if !is_short && !is_long {
        return None;
    }
    let month: u32 = run.digits[..2].parse().ok()?;
    let year: u32 = run.digits[2..].parse().ok()?;
    let year = if is_short { 2000 + year } else { year };
    ((1..=12).contains(&month) && (2020..=2049).contains(&year)).then_some(year)
}

/// Adds the year that may follow a day and month.
fn with_year(scene: &Scene<'_>, first: usize, last: usize, has_day: bool) -> Date {
    let mut next = last + 1;
    while matches!(scene.word(next), "," | "in" | "of" | "'" | "’") && next <= last + 2 {
        next += 1;
    }
    match year_at(scene, next) {
        Some((end, year)) => Date { first, last: end, has_day, has_month: true, year: Some(full_year(year)) },
        None => Date { first, last, has_day, has_month: true, year: None },
    }
}

/// Two digits of a birth year are of the last century when they cannot be of this one.
fn full_year(year: u32) -> u32 {
    match year {
        0..=9 => 2000 + year,
        10..=39 => 2000 + year,
        40..=99 => 1900 + year,
        _ => year,
    }
}

/// Reads a year: "1958", "58", "nineteen fifty eight", "two thousand and three", "ninety six".
fn year_at(scene: &Scene<'_>, at: usize) -> Option<(usize, u32)> {
    let token = scene.tokens.get(at)?;
    if token.kind == Kind::Digits {
        let year: u32 = token.lower.parse().ok()?;
        let ends = !scene
            .tokens
            .get(at + 1)
            .is_some_and(|next| next.is_glued && (next.is_word() || next.kind == Kind::Digits));
        let is_year = (1900..=2099).contains(&year) || (token.lower.len() == 2 && (20..=99).contains(&year));
        return (is_year && ends).then_some((at, year));
    }
    if token.lower == "two" && scene.word(at + 1) == "thousand" {
        let next = at + 2 + usize::from(scene.word(at + 2) == "and");
        return match two_digits(scene, next) {
            Some((last, rest)) => Some((last, 2000 + rest)),
            None => Some((at + 1, 2000)),
        };
    }
    if matches!(token.lower.as_str(), "oh" | "o") {
        let digit = unit(scene.word(at + 1)).filter(|&digit| digit != "0")?;
        return Some((at + 1, 2000 + digit.parse::<u32>().ok()?));
    }
    let (last, head) = two_digits(scene, at)?;
    if matches!(head, 19 | 20) {
        let is_oh = matches!(scene.word(last + 1), "oh" | "o");
        let tail = match is_oh {
            true => unit(scene.word(last + 2)).map(|digit| (last + 2, digit.parse().unwrap_or(0))),
            false => two_digits(scene, last + 1),
        };
        if let Some((end, tail)) = tail {
            return Some((end, head * 100 + tail));
        }
        if scene.word(last + 1) == "hundred" {
            return Some((last + 1, head * 100));
        }
    }
    (head >= 20).then_some((last, head))
}

/// Reads a spoken number from one to ninety-nine.
fn two_digits(scene: &Scene<'_>, at: usize) -> Option<(usize, u32)> {
    let word = scene.word(at);
    if let Some(digits) = teen(word) {
        return Some((at, digits.parse().ok()?));
    }
    if let Some(tens) = ten(word) {
        let tens = tens.parse::<u32>().ok()? * 10;
        let next = at + 1 + usize::from(scene.word(at + 1) == "-");
        let digit = unit(scene.word(next)).filter(|&digit| digit != "0");
        return match digit {
            Some(digit) => Some((next, tens + digit.parse::<u32>().ok()?)),
            None => Some((at, tens)),
        };
    }
    unit(word).filter(|&digit| digit != "0").and_then(|digit| Some((at, digit.parse().ok()?)))
}

/// Returns the last token of a day that is no ordinal: "12", "twelve", "twenty two".
fn plain_day(scene: &Scene<'_>, at: usize) -> Option<usize> {
    let token = scene.tokens.get(at)?;
    if token.kind == Kind::Digits {
        let ends = !scene.tokens.get(at + 1).is_some_and(|next| next.is_glued && next.is_word());
        let day = token.lower.parse::<u32>().ok().filter(|_| token.lower.len() <= 2 && ends)?;
        return (1..=31).contains(&day).then_some(at);
    }
    two_digits(scene, at).filter(|&(_, day)| day <= 31).map(|(last, _)| last)
}

/// Returns the last token of an ordinal from first to thirty-first: "30th", "second", "twenty second".
fn ordinal(scene: &Scene<'_>, at: usize) -> Option<usize> {
    const ORDINALS: &str = " first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth \
        thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth ";
    let token = scene.tokens.get(at)?;
    if token.kind == Kind::Digits {
        let suffix = scene.tokens.get(at + 1).filter(|next| next.is_glued)?;
        let is_ordinal = token.lower.len() <= 2 && matches!(suffix.lower.as_str(), "st" | "nd" | "rd" | "th");
        return is_ordinal.then_some(at + 1);
    }
    if !token.is_word() {
        return None;
    }
    if matches!(token.lower.as_str(), "twenty" | "thirty") {
        let next = at + 1 + usize::from(scene.word(at + 1) == "-");
        return ordinal(scene, next).filter(|&last| last == next && scene.tokens[next].is_word());
    }
    ORDINALS.split(' ').any(|word| !word.is_empty() && word == token.lower).then_some(at)
}

/// Returns the number of a month's name.
fn month(word: &str) -> Option<usize> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    const SHORT: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    MONTHS.iter().position(|&month| month == word).or_else(|| SHORT.iter().position(|&month| month == word))
}
