//! Cuts a text into words, digits, marks and placeholders. Everything else in this folder counts
//! in tokens; bytes and characters come back only when the text is put together again.

use super::Category;

/// What a token is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Letters, with apostrophes inside.
    Word,
    /// Decimal digits of any script.
    Digits,
    /// One character that is neither letter, digit nor space.
    Mark,
    /// A placeholder of an earlier redaction.
    Placeholder(Category),
}

/// One token and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The token in lower case; digits in ASCII.
    pub lower: String,
    /// What it is made of.
    pub kind: Kind,
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte in the text.
    pub end: usize,
    /// Whether no space stands before it.
    pub is_glued: bool,
    /// Whether it begins with a capital letter.
    pub is_capitalised: bool,
    /// Whether all its letters are capitals.
    pub is_upper: bool,
}

impl Token {
    /// Returns the word without a possessive or shortened "is": `card's` → `card`.
    pub fn stem(&self) -> &str {
        self.lower.strip_suffix("'s").unwrap_or(&self.lower)
    }

    /// Returns whether the token is exactly this mark.
    pub fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark && self.lower.starts_with(mark)
    }

    /// Returns whether the token is a word.
    pub fn is_word(&self) -> bool {
        self.kind == Kind::Word
    }

    /// Returns the letter if the token is a single ASCII letter.
    pub fn letter(&self) -> Option<char> {
        let mut characters = self.lower.chars();
        match (self.kind, characters.next(), characters.next()) {
            (Kind::Word, Some(letter), None) if letter.is_ascii_lowercase() => Some(letter),
            _ => None,
        }
    }
}

/// Returns the letter that a token spells: itself, or by the telephone alphabet ("delta").
pub(super) fn spelled_letter(token: &Token) -> Option<char> {
    const ALPHABET: [&str; 26] = [
        "alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliet", "kilo",
        "lima", "mike", "november", "oscar", "papa", "quebec", "romeo", "sierra", "tango", "uniform",
        "victor", "whiskey", "xray", "yankee", "zulu",
    ];
    let by_alphabet = || {
        let place = ALPHABET.iter().position(|word| *word == token.lower)?;
        char::from_digit(place as u32 + 10, 36)
    };
    token.letter().or_else(by_alphabet)
}

/// Cuts `text` into tokens, in linear time.
pub(super) fn tokenize(text: &str) -> Vec<Token> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut is_glued = false;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let start = text.len() - rest.len();
        if character.is_whitespace() {
            is_glued = false;
            rest = &rest[character.len_utf8()..];
            continue;
        }
        if is_invisible(character) {
            rest = &rest[character.len_utf8()..];
            continue;
        }
        let (kind, length) = measure(rest, character);
        let source = &rest[..length];
        let lower = match kind {
            Kind::Digits => source.chars().filter_map(digit_value).map(ascii_digit).collect(),
            Kind::Word => source
                .chars()
                .filter(|&c| !is_invisible(c))
                .map(|c| if c == '’' { '\'' } else { c })
                .flat_map(char::to_lowercase)
                .collect(),
            Kind::Mark | Kind::Placeholder(_) => source.to_owned(),
        };
        tokens.push(Token {
            lower,
            kind,
            start,
            end: start + length,
            is_glued,
            is_capitalised: character.is_uppercase(),
            is_upper: source.chars().all(|c| c.is_uppercase()),
        });
        is_glued = true;
        rest = &rest[length..];
    }
    tokens
}

/// Returns the kind and the length in bytes of the token at the head of `rest`.
fn measure(rest: &str, first: char) -> (Kind, usize) {
    if first == '[' {
        for category in Category::ALL {
            if rest.starts_with(category.placeholder()) {
                return (Kind::Placeholder(category), category.placeholder().len());
            }
        }
    }
    if digit_value(first).is_some() {
        let keeps_on = |c: char| digit_value(c).is_some() || is_invisible(c);
        return (Kind::Digits, rest.find(|c| !keeps_on(c)).unwrap_or(rest.len()));
    }
    if !first.is_alphabetic() {
        return (Kind::Mark, first.len_utf8());
    }
    let mut end = 0;
    let mut characters = rest.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let is_inner_apostrophe = matches!(character, '\'' | '’')
            && characters.peek().is_some_and(|&(_, next)| next.is_alphabetic());
        let keeps_on = character.is_alphabetic() || is_invisible(character);
        if (!keeps_on && !is_inner_apostrophe) || digit_value(character).is_some() {
            break;
        }
        end = at + character.len_utf8();
    }
    (Kind::Word, end)
}

/// Returns the value of a decimal digit, also of the scripts that chats and input methods produce.
fn digit_value(character: char) -> Option<u32> {
    const ZEROS: [u32; 6] = [0x0660, 0x06F0, 0x0966, 0x09E6, 0xFF10, 0x1D7CE];
    if let Some(value) = character.to_digit(10) {
        return Some(value);
    }
    let code = u32::from(character);
    // The mathematical digits repeat the ten digits in five styles.
    if (0x1D7CE..=0x1D7FF).contains(&code) {
        return Some((code - 0x1D7CE) % 10);
    }
    ZEROS.iter().find(|&&zero| (zero..zero + 10).contains(&code)).map(|zero| code - zero)
}

fn ascii_digit(value: u32) -> char {
    char::from_digit(value, 10).expect("digit values are below ten")
}

/// Returns whether the character has no width, so that it could hide inside a number.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{00AD}' | '\u{200B}'..='\u{200F}' | '\u{2060}' | '\u{FEFF}' | '\u{FE0F}' | '\u{20E3}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let tokens = tokenize(text);
        let words: Vec<&str> = tokens.iter().map(|token| token.lower.as_str()).collect();
        assert_eq!(words, expected, "{text:?}");
    }

    #[test]
    fn words_digits_and_marks_part() {
        check(
            "It's VP3 9QX, card’s 4111-1111.",
            &["it's", "vp", "3", "9", "qx", ",", "card's", "4111", "-", "1111", "."],
        );
    }

    #[test]
    fn digits_of_other_scripts_become_ascii() {
        check("４１１１ ٤١ 4\u{200B}1", &["4111", "41", "41"]);
    }

    #[test]
    fn placeholders_stay_whole_and_only_real_ones() {
        check("[payment card] [four one]", &["[payment card]", "[", "four", "one", "]"]);
    }
}
