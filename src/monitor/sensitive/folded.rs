//! Text as terms are compared with it, whatever its case, spaces and apostrophes.

/// A text in lower case, with single spaces and straight apostrophes, and the way back.
pub(super) struct Folded {
    pub(super) text: String,
    /// For each byte of `text` the character of the original it comes from; one more for the end.
    origins: Vec<usize>,
}

impl Folded {
    pub(super) fn new(original: &str) -> Folded {
        let mut text = String::with_capacity(original.len());
        let mut origins = Vec::with_capacity(original.len() + 1);
        let mut count = 0;
        for (at, character) in original.chars().enumerate() {
            count = at + 1;
            if character.is_whitespace() {
                if !text.ends_with(' ') {
                    text.push(' ');
                }
            } else if character == '’' {
                text.push('\'');
            } else {
                text.extend(character.to_lowercase());
            }
            origins.resize(text.len(), at);
        }
        origins.push(count);
        Folded { text, origins }
    }

    pub(super) fn is_word_start(&self, at: usize) -> bool {
        let is_inside = |c: char| c.is_alphanumeric();
        let first = self.text[at..].chars().next();
        !first.is_some_and(is_inside) || !self.text[..at].chars().next_back().is_some_and(is_inside)
    }

    pub(super) fn is_word_end(&self, at: usize) -> bool {
        let is_inside = |c: char| c.is_alphanumeric();
        let last = self.text[..at].chars().next_back();
        !last.is_some_and(is_inside) || !self.text[at..].chars().next().is_some_and(is_inside)
    }

    /// Returns the end of the word that byte `at` stands in.
    pub(super) fn word_end(&self, at: usize) -> usize {
        let rest = &self.text[at..];
        at + rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len())
    }

    /// Returns the characters of the original that the bytes come from.
    pub(super) fn characters(&self, start: usize, end: usize) -> (usize, usize) {
        (self.origins[start], self.origins[end - 1] + 1)
    }
}
