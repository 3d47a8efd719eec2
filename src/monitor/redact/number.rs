//! Reads numbers as people type and say them: "4111 1111", "four one double one", "twenty-seven",
//! "oh seven seven double oh". The result is a list of [`Run`]s of [`Piece`]s; what a run means is
//! decided elsewhere.

use super::token::Kind;
use super::token::Token;

/// The smallest unit that is read at once: "4111", "four", "double five", "twenty-seven".
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// First token.
    pub first: usize,
    /// Last token, inclusive.
    pub last: usize,
    /// ASCII digits.
    pub digits: String,
    /// How it was written.
    pub form: Form,
}

/// How a piece was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// With digits.
    Typed,
    /// One digit as a word, or repeated: "four", "double four".
    Single,
    /// A word for two digits: "eleven", "forty", "forty one".
    Compound,
    /// With "hundred" or "thousand".
    Scaled,
}

/// Numbers that are said or typed in one go.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// The pieces, at least one.
    pub pieces: Vec<Piece>,
    /// All digits of the pieces.
    pub digits: String,
    /// Letters that stand directly before, in capitals: "s l oh eight" → `SL`.
    pub letters: String,
    /// Whether it counts something: an amount of money, a time, a percentage.
    pub is_quantity: bool,
    /// Whether a slash parts its pieces.
    pub has_slash: bool,
    /// Whether a plus stands before it.
    pub has_plus: bool,
    /// Whether letters are glued to its end: "9QX", "3rd".
    pub has_suffix: bool,
}

impl Run {
    /// First token.
    pub fn first(&self) -> usize {
        self.pieces[0].first
    }

    /// Last token, inclusive.
    pub fn last(&self) -> usize {
        self.pieces[self.pieces.len() - 1].last
    }

    /// Returns the number of digits.
    pub fn len(&self) -> usize {
        self.digits.len()
    }

    /// Returns whether the digits were said one by one or typed, as numbers that name something
    /// are; amounts and years are said in compounds.
    pub fn is_spelled(&self) -> bool {
        let spelled = |piece: &Piece| matches!(piece.form, Form::Typed | Form::Single);
        self.pieces.iter().all(spelled)
    }

    /// Returns whether the run has the weight of an identifying number.
    pub fn is_strong(&self) -> bool {
        let plain: usize = (self.pieces.iter())
            .filter(|piece| matches!(piece.form, Form::Typed | Form::Single))
            .map(|piece| piece.digits.len())
            .sum();
        plain >= 4 || (self.pieces.len() >= 3 && self.len() >= 6)
    }

    /// Returns whether it is one typed year.
    pub fn is_year(&self) -> bool {
        self.pieces.len() == 1
            && self.len() == 4
            && (self.digits.starts_with("19") || self.digits.starts_with("20"))
    }

    /// Returns the lengths of the typed groups, or of the pieces as said.
    pub fn groups(&self) -> Vec<usize> {
        self.pieces.iter().map(|piece| piece.digits.len()).collect()
    }

    /// Returns whether any piece was said in words.
    pub fn is_spoken(&self) -> bool {
        self.pieces.iter().any(|piece| piece.form != Form::Typed)
    }
}

/// Finds all runs, in order.
pub(super) fn find_runs(tokens: &[Token]) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut at = 0;
    // One word in capitals is a code, a sentence of them is shouting.
    let mut words = tokens.iter().filter(|token| token.is_word() && token.lower.len() > 1);
    let shouts = words.clone().count() > 2 && words.all(|token| token.is_upper);
    while at < tokens.len() {
        let Some(piece) = piece_at(tokens, at, false) else {
            at += 1;
            continue;
        };
        let mut run = run_from(tokens, piece);
        run.letters = letters_before(tokens, run.first(), shouts);
        at = run.last() + 1;
        runs.push(run);
    }
    runs
}

fn run_from(tokens: &[Token], first: Piece) -> Run {
    let mut run = Run {
        letters: String::new(),
        digits: first.digits.clone(),
        is_quantity: first.form == Form::Scaled
            || follows_currency(tokens, first.first)
            || follows_bare_point(tokens, first.first),
        has_slash: false,
        has_plus: first.first > 0 && matches!(tokens[first.first - 1].lower.as_str(), "+" | "plus"),
        has_suffix: false,
        pieces: vec![first],
    };
    // The clock: "9:30". Both sides are quantities and neither goes on.
    let is_clock = |at: usize| tokens.get(at).is_some_and(|t| t.is_mark(':') && t.is_glued);
    loop {
        let last = run.last();
        let after = tokens.get(last + 1);
        if is_clock(last + 1) && tokens.get(last + 2).is_some_and(|t| t.kind == Kind::Digits && t.is_glued) {
            run.is_quantity = true;
            return run;
        }
        if joins_amount(tokens, &run) {
            let Some(piece) = piece_at(tokens, last + 2, false) else { return run };
            run.digits.push_str(&piece.digits);
            run.pieces.push(piece);
            run.is_quantity = true;
            continue;
        }
        if run.is_quantity && !run.digits.starts_with('0') {
            return run;
        }
        if after.is_some_and(|t| t.is_word() && t.is_glued) && tokens[last].kind == Kind::Digits {
            run.has_suffix = true;
            let suffix = tokens[last + 1].lower.as_str();
            run.is_quantity |= matches!(suffix, "st" | "nd" | "rd" | "th") || is_unit(&tokens[last + 1]);
            return run;
        }
        let Some((piece, is_slash)) = next_piece(tokens, last) else { break };
        run.has_slash |= is_slash;
        run.is_quantity = false;
        run.digits.push_str(&piece.digits);
        run.pieces.push(piece);
    }
    let counts = tokens.get(run.last() + 1).is_some_and(|t| is_unit(t) || t.is_mark('%'))
        || (run.first() > 1 && is_clock(run.first() - 1) && tokens[run.first() - 2].kind == Kind::Digits);
    run.is_quantity |= counts && run.len() <= 6;
    run
}

/// Returns whether the last piece goes on as an amount: "1,640" or "89.90".
fn joins_amount(tokens: &[Token], run: &Run) -> bool {
    let last = run.last();
    let (Some(mark), Some(digits)) = (tokens.get(last + 1), tokens.get(last + 2)) else { return false };
    let tail_is_typed = digits.kind == Kind::Digits && digits.is_glued && mark.is_glued;
    let goes_on = tokens.get(last + 3).is_some_and(|t| t.is_glued && (t.is_mark('.') || t.is_mark('-')))
        && tokens.get(last + 4).is_some_and(|t| t.is_glued && t.kind == Kind::Digits);
    let alone = run.pieces.len() == 1 || run.is_quantity;
    if !tail_is_typed || tokens[last].kind != Kind::Digits || !alone {
        return false;
    }
    let is_thousands = mark.is_mark(',') && digits.lower.len() == 3 && tokens[last].lower.len() <= 3;
    let is_decimal = mark.is_mark('.') && digits.lower.len() <= 2 && !goes_on;
    is_thousands || is_decimal
}

/// Returns the piece that follows token `last` over marks and fillers, and whether a slash parts them.
fn next_piece(tokens: &[Token], last: usize) -> Option<(Piece, bool)> {
    const MAX_JOINERS: usize = 4;
    let mut is_slash = false;
    for at in last + 1..(last + 2 + MAX_JOINERS).min(tokens.len()) {
        if let Some(piece) = piece_at(tokens, at, at == last + 1) {
            return Some((piece, is_slash));
        }
        let token = &tokens[at];
        let next_is_glued = tokens.get(at + 1).is_some_and(|next| next.is_glued);
        match token.kind {
            Kind::Mark if "-–‑,()".contains(token.lower.as_str()) => {}
            Kind::Mark if token.is_mark('.') && token.is_glued && next_is_glued => {}
            Kind::Mark if token.is_mark('/') => is_slash = true,
            Kind::Word if matches!(token.lower.as_str(), "slash" | "stroke") => is_slash = true,
            Kind::Word if is_filler(&token.lower) => {}
            _ => return None,
        }
    }
    None
}

/// Returns whether the word is a noise that people make inside a number.
pub(super) fn is_filler(word: &str) -> bool {
    matches!(word, "uh" | "um" | "er" | "erm" | "hmm" | "mm" | "ah" | "dash" | "hyphen" | "space" | "comma")
}

/// Reads one piece at token `at`. Inside a number (`continues`) a lone "o" is a zero.
pub(super) fn piece_at(tokens: &[Token], at: usize, continues: bool) -> Option<Piece> {
    let token = tokens.get(at)?;
    let piece = |last: usize, digits: String, form: Form| Some(Piece { first: at, last, digits, form });
    match token.kind {
        Kind::Digits => return piece(at, token.lower.clone(), Form::Typed),
        Kind::Word => {}
        Kind::Mark | Kind::Placeholder(_) => return None,
    }
    let word = token.lower.as_str();
    if let Some(times) = repetition(word) {
        let next = tokens.get(at + 1)?;
        let digit = match next.kind {
            Kind::Digits if next.lower.len() == 1 => next.lower.clone(),
            Kind::Word => unit(&next.lower).or((next.lower == "o").then_some("0"))?.to_owned(),
            _ => return None,
        };
        return piece(at + 1, digit.repeat(times), Form::Single);
    }
    if word == "oh" || word == "o" {
        // "Oh, one more thing" and "o negative" are no numbers; "oh four" is one.
        let next_counts = tokens.get(at + 1).is_some_and(|next| {
            unit(&next.lower).is_some()
                || teen(&next.lower).is_some()
                || ten(&next.lower).is_some()
                || repetition(&next.lower).is_some()
                || (next.lower == "oh" && piece_at(tokens, at + 1, false).is_some())
        });
        return if continues || next_counts { piece(at, "0".to_owned(), Form::Single) } else { None };
    }
    if matches!(word, "hundred" | "thousand" | "million") {
        return piece(at, "1".to_owned() + scale_zeros(word), Form::Scaled);
    }
    let (mut last, mut digits, mut form) = if let Some(digit) = unit(word) {
        (at, digit.to_owned(), Form::Single)
    } else if let Some(teen) = teen(word) {
        (at, teen.to_owned(), Form::Compound)
    } else {
        let tens = ten(word)?;
        match unit_after_ten(tokens, at) {
            Some((last, digit)) => (last, format!("{tens}{digit}"), Form::Compound),
            None => (at, format!("{tens}0"), Form::Compound),
        }
    };
    if let Some(scale) = tokens.get(last + 1).map(|next| next.lower.as_str())
        && matches!(scale, "hundred" | "thousand" | "million")
    {
        digits.push_str(scale_zeros(scale));
        last += 1;
        form = Form::Scaled;
    }
    piece(last, digits, form)
}

/// Reads the "seven" of "twenty seven" and "twenty-seven".
fn unit_after_ten(tokens: &[Token], at: usize) -> Option<(usize, &'static str)> {
    let next = tokens.get(at + 1)?;
    let (place, word) = match next.is_mark('-') || next.is_mark('‑') {
        true => (at + 2, tokens.get(at + 2)?),
        false => (at + 1, next),
    };
    let digit = unit(&word.lower).filter(|&digit| digit != "0")?;
    Some((place, digit))
}

fn scale_zeros(word: &str) -> &'static str {
    match word {
        "hundred" => "00",
        "thousand" => "000",
        _ => "000000",
    }
}

fn repetition(word: &str) -> Option<usize> {
    match word {
        "double" => Some(2),
        "triple" | "treble" => Some(3),
        "quadruple" => Some(4),
        _ => None,
    }
}

/// Returns the digit that a word says.
pub(super) fn unit(word: &str) -> Option<&'static str> {
    Some(match word {
        "zero" | "oh" | "nought" | "naught" | "nil" | "zeros" | "zeroes" => "0",
        "one" | "ones" => "1",
        "two" | "twos" => "2",
        "three" | "threes" => "3",
        "four" | "fours" => "4",
        "five" | "fives" => "5",
        "six" | "sixes" => "6",
        "seven" | "sevens" => "7",
        "eight" | "eights" => "8",
        "nine" | "nines" => "9",
        _ => return None,
    })
}

/// Returns the two digits of a word from ten to nineteen.
pub(super) fn teen(word: &str) -> Option<&'static str> {
    const TEENS: [&str; 10] = [
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
    const DIGITS: [&str; 10] = ["10", "11", "12", "13", "14", "15", "16", "17", "18", "19"];
    TEENS.iter().position(|&teen| teen == word).map(|place| DIGITS[place])
}

/// Returns the first digit of a word from twenty to ninety.
pub(super) fn ten(word: &str) -> Option<&'static str> {
    Some(match word {
        "twenty" => "2",
        "thirty" => "3",
        "forty" | "fourty" => "4",
        "fifty" => "5",
        "sixty" => "6",
        "seventy" => "7",
        "eighty" => "8",
        "ninety" => "9",
        _ => return None,
    })
}

fn follows_currency(tokens: &[Token], at: usize) -> bool {
    at > 0 && tokens[at - 1].kind == Kind::Mark && "£$€¥₹".contains(tokens[at - 1].lower.as_str())
}

/// Returns whether the number is only the decimals of one: "prices ending in .97".
fn follows_bare_point(tokens: &[Token], at: usize) -> bool {
    at > 0 && tokens[at - 1].is_mark('.') && !tokens[at - 1].is_glued && tokens[at].is_glued
}

/// Returns whether the word after a number makes it an amount of something.
fn is_unit(token: &Token) -> bool {
    const UNITS: &str = " pound pounds quid pence euro euros eur dollar dollars bucks cent cents gbp usd \
        percent per km kilometre kilometres kilometer kilometers mile miles metre metres meters \
        minute minutes min mins hour hours second seconds day days week weeks month months year years \
        night nights times point points row rows line lines people items pages am pm o'clock degrees \
        kilo kilos kg kilograms gram grams gigabytes gigs gig gb mb megs megabytes megabits mbit kwh \
        kilowatt kilowatts watts litres liters units unit percentage stars working business grand \
        users seats employees invoices transactions requests passengers guests adults children bags digits digit numbers ";
    token.is_word() && UNITS.split(' ').any(|unit| unit == token.lower)
}

/// Returns the letters before token `at`, as references have them; "a" and "I" alone are words.
///
/// In a text that `shouts`, all in capitals, a whole word is no code.
fn letters_before(tokens: &[Token], at: usize, shouts: bool) -> String {
    const MAX_TOKENS: usize = 6;
    let mut letters: Vec<String> = Vec::new();
    for token in tokens[..at].iter().rev().take(MAX_TOKENS) {
        if token.is_mark('-') || token.is_mark('/') || token.is_mark(',') {
            continue;
        }
        let is_code =
            token.is_word() && (token.letter().is_some() || (token.is_upper && token.lower.len() <= 4));
        if !is_code || is_common(&token.lower) {
            break;
        }
        letters.push(token.lower.to_uppercase());
    }
    letters.reverse();
    let joined = letters.concat();
    let is_word = matches!(joined.as_str(), "A" | "I" | "O") && !tokens[at].is_glued;
    if is_word || (shouts && joined.len() > 1 && letters.len() == 1) { String::new() } else { joined }
}

/// Returns whether a short word in capitals is just a word.
fn is_common(word: &str) -> bool {
    const WORDS: &str = " is no my me it in at to of on by the and for but yes ok so do be as or oh not was are \
        you pin cvv cvc ssn iban zip card visa amex code dob sms tel ";
    word.len() > 1 && WORDS.split(' ').any(|common| common == word)
}

#[cfg(test)]
mod tests {
    use super::super::token::tokenize;
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let runs = find_runs(&tokenize(text));
        let digits: Vec<&str> = runs.iter().map(|run| run.digits.as_str()).collect();
        assert_eq!(digits, expected, "{text:?}");
    }

    #[test]
    fn numbers_are_read_as_said() {
        check("four one double one, triple zero", &["4111000"]);
        check("forty one eleven eleven eleven", &["41111111"]);
        check("oh seven seven double oh nine double oh three five one", &["07700900351"]);
        check("oh nine twenty-eight", &["0928"]);
        check("oh eight hundred triple five oh one six oh", &["08005550160"]);
        check("double 5 o 1", &["5501"]);
        check("oh, what a day", &[]);
    }

    #[test]
    fn numbers_are_read_as_typed() {
        check("4111 1111-1111.1111", &["4111111111111111"]);
        check("+44 (0)7700 900351", &["4407700900351"]);
        check("£1,640 and 89.90 at 9:30", &["1640", "8990", "9", "30"]);
        check("09/28", &["0928"]);
    }

    #[test]
    fn amounts_are_quantities() {
        for text in ["£640", "1,640", "89.90", "fifty five pounds", "two hundred", "9:30", "12 %"] {
            let runs = find_runs(&tokenize(text));
            assert!(runs.iter().all(|run| run.is_quantity), "{text:?}");
        }
        for text in ["four one one one", "4111 1111", "oh eight hundred triple five"] {
            assert!(!find_runs(&tokenize(text))[0].is_quantity, "{text:?}");
        }
    }

    #[test]
    fn letters_before_a_number_are_kept() {
        let letters = |text: &str| find_runs(&tokenize(text))[0].letters.clone();
        assert_eq!(letters("EM 5520 1843"), "EM");
        assert_eq!(letters("s l oh eight"), "SL");
        assert_eq!(letters("for a twenty"), "");
        assert_eq!(letters("MY CARD IS 4111"), "");
    }
}
