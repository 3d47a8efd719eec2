//! English word stems, so that "refunded" finds "refunds".
//!
//! Source: M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980. Names follow
//! the paper: the measure of a stem is the number of its vowel-consonant sequences.

/// Returns the stem of a lower-case word. Words that hold anything but `a-z` come back unchanged.
pub fn stem(word: &str) -> String {
    if word.len() <= 2 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word.to_owned();
    }
    let mut letters = word.as_bytes().to_vec();
    strip_plural(&mut letters);
    strip_past_and_gerund(&mut letters);
    if letters.last() == Some(&b'y') && has_vowel(&letters[..letters.len() - 1]) {
        replace_end(&mut letters, 1, "i");
    }
    replace_first(&mut letters, DOUBLE_SUFFIXES, 0);
    replace_first(&mut letters, ADJECTIVE_SUFFIXES, 0);
    strip_last_suffix(&mut letters);
    strip_final_e(&mut letters);
    String::from_utf8(letters).expect("only ASCII letters were replaced by ASCII letters")
}

/// Step 2 of the paper.
const DOUBLE_SUFFIXES: &[(&str, &str)] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("abli", "able"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
];

/// Step 3 of the paper.
const ADJECTIVE_SUFFIXES: &[(&str, &str)] = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Step 4 of the paper, longest of each ending first.
const LAST_SUFFIXES: &[&str] = &[
    "ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize",
    "ion", "al", "er", "ic", "ou",
];

fn strip_plural(letters: &mut Vec<u8>) {
    if letters.ends_with(b"sses") || letters.ends_with(b"ies") {
        replace_end(letters, 2, "");
    } else if letters.ends_with(b"s") && !letters.ends_with(b"ss") {
        replace_end(letters, 1, "");
    }
}

fn strip_past_and_gerund(letters: &mut Vec<u8>) {
    if letters.ends_with(b"eed") {
        if measure(&letters[..letters.len() - 3]) > 0 {
            replace_end(letters, 1, "");
        }
        return;
    }
    let suffix = if letters.ends_with(b"ed") {
        2
    } else if letters.ends_with(b"ing") {
        3
    } else {
        return;
    };
    if !has_vowel(&letters[..letters.len() - suffix]) {
        return;
    }
    replace_end(letters, suffix, "");
    let is_double = ends_with_double_consonant(letters);
    if letters.ends_with(b"at") || letters.ends_with(b"bl") || letters.ends_with(b"iz") {
        letters.push(b'e');
    } else if is_double && !matches!(letters.last(), Some(b'l' | b's' | b'z')) {
        letters.pop();
    } else if measure(letters) == 1 && ends_consonant_vowel_consonant(letters) {
        letters.push(b'e');
    }
}

/// Replaces the first suffix of `table` that stands at the end, if what is left has a measure
/// above `least`.
fn replace_first(letters: &mut Vec<u8>, table: &[(&str, &str)], least: usize) {
    for (suffix, replacement) in table {
        if letters.ends_with(suffix.as_bytes()) {
            if measure(&letters[..letters.len() - suffix.len()]) > least {
                replace_end(letters, suffix.len(), replacement);
            }
            return;
        }
    }
}

fn strip_last_suffix(letters: &mut Vec<u8>) {
    for suffix in LAST_SUFFIXES {
        if !letters.ends_with(suffix.as_bytes()) {
            continue;
        }
        let rest = &letters[..letters.len() - suffix.len()];
        let may_strip = *suffix != "ion" || matches!(rest.last(), Some(b's' | b't'));
        if may_strip && measure(rest) > 1 {
            replace_end(letters, suffix.len(), "");
        }
        return;
    }
}

fn strip_final_e(letters: &mut Vec<u8>) {
    if letters.last() == Some(&b'e') {
        let rest = &letters[..letters.len() - 1];
        if measure(rest) > 1 || (measure(rest) == 1 && !ends_consonant_vowel_consonant(rest)) {
            letters.pop();
        }
    }
    if letters.ends_with(b"ll") && measure(letters) > 1 {
        letters.pop();
    }
}

fn replace_end(letters: &mut Vec<u8>, count: usize, replacement: &str) {
    letters.truncate(letters.len() - count);
    letters.extend_from_slice(replacement.as_bytes());
}

fn is_consonant(letters: &[u8], at: usize) -> bool {
    match letters[at] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => at == 0 || !is_consonant(letters, at - 1),
        _ => true,
    }
}

fn has_vowel(letters: &[u8]) -> bool {
    (0..letters.len()).any(|at| !is_consonant(letters, at))
}

fn measure(letters: &[u8]) -> usize {
    (1..letters.len()).filter(|&at| !is_consonant(letters, at - 1) && is_consonant(letters, at)).count()
}

fn ends_with_double_consonant(letters: &[u8]) -> bool {
    let last = letters.len();
    last >= 2 && letters[last - 1] == letters[last - 2] && is_consonant(letters, last - 1)
}

fn ends_consonant_vowel_consonant(letters: &[u8]) -> bool {
    let last = letters.len();
    last >= 3
        && is_consonant(letters, last - 3)
        && !is_consonant(letters, last - 2)
        && is_consonant(letters, last - 1)
        && !matches!(letters[last - 1], b'w' | b'x' | b'y')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_one_word_share_their_stem() {
        for (one, other) in [
            ("refunded", "refunds"),
            ("cancellation", "cancellations"),
            ("deliveries", "delivery"),
            ("charging", "charged"),
            ("hopping", "hopped"),
        ] {
            assert_eq!(stem(one), stem(other), "{one} and {other}");
        }
    }

    #[test]
    fn the_examples_of_the_paper_hold() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("agreed", "agre"),
            ("plastered", "plaster"),
            ("sing", "sing"),
            ("conflated", "conflat"),
            ("falling", "fall"),
            ("filing", "file"),
            ("happy", "happi"),
            ("relational", "relat"),
            ("hopefulness", "hope"),
            ("adjustment", "adjust"),
            ("adoption", "adopt"),
            ("controll", "control"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }

    #[test]
    fn short_words_numbers_and_other_scripts_stay() {
        for word in ["is", "25gb", "żółw", ""] {
            assert_eq!(stem(word), word);
        }
    }
}
