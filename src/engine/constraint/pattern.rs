//! The `pattern` of a JSON schema as a regular expression over what a JSON string spells.
//!
//! Patterns are those of ECMAScript, search anywhere in the text unless anchored, and mean characters;
//! what stands between the quotes of JSON has some of them escaped. The pattern is brought to the
//! syntax of the `regex` crate, parsed, and written again character class by character class.

use regex_syntax::hir::Class;
use regex_syntax::hir::ClassUnicode;
use regex_syntax::hir::ClassUnicodeRange;
use regex_syntax::hir::Hir;
use regex_syntax::hir::HirKind;
use regex_syntax::hir::Look;

/// Characters that JSON escapes with a letter, and the letter.
const ESCAPED: [(char, char); 8] = [
    ('"', '"'),
    ('\\', '\\'),
    ('/', '/'),
    ('\u{8}', 'b'),
    ('\u{c}', 'f'),
    ('\n', 'n'),
    ('\r', 'r'),
    ('\t', 't'),
];

/// Returns `pattern` over the inside of a JSON string, where `any` is any one character.
///
/// # Errors
/// What is wrong with the pattern or not supported.
pub fn in_json(pattern: &str, any: &str) -> Result<String, String> {
    let hir = regex_syntax::parse(&of_ecma_script(pattern)?).map_err(|error| match error {
        regex_syntax::Error::Parse(error) => error.kind().to_string(),
        regex_syntax::Error::Translate(error) => error.kind().to_string(),
        _ => "cannot be read".to_owned(),
    })?;
    let branches = branches(&hir);
    let searched: Result<Vec<String>, String> = branches.iter().map(|branch| searched(branch, any)).collect();
    Ok(searched?.join("|"))
}

/// Brings classes and escapes that mean something else in ECMAScript to the `regex` crate's syntax.
fn of_ecma_script(pattern: &str) -> Result<String, String> {
    let mut written = String::new();
    let mut is_in_class = false;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some('d') => written.push_str("[0-9]"),
                Some('D') => written.push_str("[^0-9]"),
                Some('w') => written.push_str("[0-9A-Za-z_]"),
                Some('W') => written.push_str("[^0-9A-Za-z_]"),
                Some('s') => written.push_str(r"[\t\n\v\f\r ]"),
                Some('S') => written.push_str(r"[^\s\x{FEFF}]"),
                Some(next) if next.is_ascii_alphanumeric() && !"tnvfrxu".contains(next) => {
                    return Err(format!("\\{next} is not supported"));
                }
                Some(next) => written.extend(['\\', next]),
                None => return Err("ends in a backslash".to_owned()),
            },
            '[' if is_in_class => written.push_str(r"\["),
            '[' => {
                is_in_class = true;
                written.push('[');
            }
            ']' if is_in_class => {
                is_in_class = false;
                written.push(']');
            }
            '&' | '~' if is_in_class => written.extend(['\\', character]),
            '-' if is_in_class && characters.peek() == Some(&'-') => {
                return Err("-- in a class is not supported".to_owned());
            }
            '.' if !is_in_class => written.push_str(r"[^\n\r\x{2028}\x{2029}]"),
            '(' if !is_in_class && characters.peek() == Some(&'?') => {
                written.push_str("(?");
                characters.next();
                if characters.peek() != Some(&':') {
                    return Err("groups with a question mark other than (?: are not supported".to_owned());
                }
            }
            other => written.push(other),
        }
    }
    Ok(written)
}

/// Returns the alternatives at the top of a pattern.
fn branches(hir: &Hir) -> Vec<Hir> {
    match hir.kind() {
        HirKind::Alternation(branches) => branches.iter().flat_map(self::branches).collect(),
        HirKind::Capture(capture) => branches(&capture.sub),
        _ => vec![hir.clone()],
    }
}

/// Writes one alternative, with any text on the sides that are not anchored.
fn searched(branch: &Hir, any: &str) -> Result<String, String> {
    let mut parts: &[Hir] = match branch.kind() {
        HirKind::Concat(parts) => parts,
        _ => std::slice::from_ref(branch),
    };
    let is_look = |hir: Option<&Hir>, look| hir.is_some_and(|hir| *hir.kind() == HirKind::Look(look));
    let mut written = String::new();
    if is_look(parts.first(), Look::Start) {
        parts = &parts[1..];
    } else {
        written = format!("{any}*");
    }
    let is_anchored = is_look(parts.last(), Look::End);
    if is_anchored {
        parts = &parts[..parts.len() - 1];
    }
    for part in parts {
        written.push_str(&spelled(part)?);
    }
    if !is_anchored {
        written.push_str(&format!("{any}*"));
    }
    Ok(written)
}

/// Writes a part of a pattern as JSON spells it.
fn spelled(hir: &Hir) -> Result<String, String> {
    let all = |parts: &[Hir]| parts.iter().map(spelled).collect::<Result<Vec<String>, String>>();
    Ok(match hir.kind() {
        HirKind::Empty => "(?:)".to_owned(),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).map_err(|_| "bytes are not supported".to_owned())?;
            text.chars().map(|c| class(&ClassUnicode::new([ClassUnicodeRange::new(c, c)]))).collect()
        }
        HirKind::Class(Class::Unicode(unicode)) => class(unicode),
        HirKind::Class(Class::Bytes(bytes)) => match bytes.to_unicode_class() {
            Some(unicode) => class(&unicode),
            None => return Err("bytes are not supported".to_owned()),
        },
        HirKind::Look(_) => return Err("anchors are supported at the ends only".to_owned()),
        HirKind::Repetition(repetition) => {
            let most = repetition.max.map_or(String::new(), |most| most.to_string());
            format!("(?:{}){{{},{most}}}", spelled(&repetition.sub)?, repetition.min)
        }
        HirKind::Capture(capture) => format!("(?:{})", spelled(&capture.sub)?),
        HirKind::Concat(parts) => all(parts)?.concat(),
        HirKind::Alternation(parts) => format!("(?:{})", all(parts)?.join("|")),
    })
}

/// Writes a class of characters: those that may stand as they are, and escapes for those that may not.
fn class(class: &ClassUnicode) -> String {
    let contains = |c: char| class.ranges().iter().any(|range| range.start() <= c && c <= range.end());
    let mut plain = class.clone();
    plain.difference(&ClassUnicode::new(
        [('\0', '\u{1f}'), ('"', '"'), ('\\', '\\')].map(|(from, to)| ClassUnicodeRange::new(from, to)),
    ));
    let mut choices = Vec::new();
    if !plain.ranges().is_empty() {
        choices.push(Hir::class(Class::Unicode(plain)).to_string());
    }
    for (_, letter) in ESCAPED.into_iter().filter(|(character, _)| contains(*character)) {
        choices.push(regex_syntax::escape(&format!("\\{letter}")));
    }
    // Other control characters are not written at all.
    if choices.is_empty() { "[a&&b]".to_owned() } else { format!("(?:{})", choices.join("|")) }
}
