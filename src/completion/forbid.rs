//! What may not stand in a text: found in whatever case, across the borders of tokens, and between
//! what was written and what stood before.

use std::sync::Arc;

use crate::completion::Completer;
use crate::completion::CompletionError;

/// Texts that may not appear, and the tokens that spell one of them alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forbid {
    texts: Vec<(String, Vec<char>)>,
    /// Never written: wherever they stood, they would spell what is forbidden.
    pub(super) tokens: Vec<u32>,
}

/// A forbidden text that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence<'a> {
    /// As it was forbidden.
    pub text: &'a str,
    /// The places of the tokens that wrote it or a part of it.
    pub places: Vec<usize>,
}

impl Completer {
    /// Prepares texts that may not appear. Empty ones forbid nothing.
    ///
    /// # Errors
    /// When one of them stands in what must be included.
    ///
    /// # Blocking
    /// Reads the whole vocabulary when there are any.
    pub fn forbid(&self, texts: &[String], included: &[String]) -> Result<Arc<Forbid>, CompletionError> {
        let texts: Vec<(String, Vec<char>)> =
            texts.iter().filter(|text| !text.is_empty()).map(|text| (text.clone(), lowered(text))).collect();
        for included in included {
            if let Some((forbidden, _)) = texts.iter().find(|(_, text)| holds(&lowered(included), text)) {
                let (included, forbidden) = (included.clone(), forbidden.clone());
                return Err(CompletionError::Contradiction { included, forbidden });
            }
        }
        let mut forbid = Forbid { texts, tokens: Vec::new() };
        if !forbid.texts.is_empty() {
            let tokenizer = self.engine().tokenizer();
            for id in 0..self.engine().model().vocab_size as u32 {
                let bytes = tokenizer.bytes(id).unwrap_or_default();
                let spelled = lowered(&String::from_utf8_lossy(&bytes));
                if forbid.texts.iter().any(|(_, text)| holds(&spelled, text)) {
                    forbid.tokens.push(id);
                }
            }
        }
        Ok(Arc::new(forbid))
    }
}

impl Forbid {
    /// Returns whether nothing is forbidden.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns what forbidden text was written, of a text whose every byte has the place of the token
    /// that wrote it, if one did. What stood there before is not looked for.
    pub fn find(&self, bytes: &[u8], places: &[Option<usize>]) -> Vec<Offence<'_>> {
        // Each character in lower case, which may be several, with its place.
        let mut characters: Vec<char> = Vec::new();
        let mut written: Vec<Option<usize>> = Vec::new();
        let mut at = 0;
        for chunk in bytes.utf8_chunks() {
            let broken =
                (!chunk.invalid().is_empty()).then_some((char::REPLACEMENT_CHARACTER, chunk.invalid().len()));
            let valid = chunk.valid().chars().map(|character| (character, character.len_utf8()));
            for (character, length) in valid.chain(broken) {
                characters.extend(character.to_lowercase());
                written.resize(characters.len(), places[at..at + length].iter().flatten().next().copied());
                at += length;
            }
        }
        let mut offences = Vec::new();
        for (text, lowered) in &self.texts {
            for (window, places) in characters.windows(lowered.len()).zip(written.windows(lowered.len())) {
                let mut places: Vec<usize> = places.iter().flatten().copied().collect();
                places.dedup();
                if window == lowered && !places.is_empty() {
                    offences.push(Offence { text, places });
                }
            }
        }
        offences
    }
}

fn lowered(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn holds(text: &[char], part: &[char]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_found_across_tokens_and_cases_but_not_in_what_stood() {
        let texts = ["refund", "ä b", "x"].map(|text| (text.to_owned(), lowered(text)));
        let forbid = Forbid { texts: texts.into(), tokens: vec![] };
        // Text by text, with the place of each token; none for what stood.
        let check = |stretches: &[(&str, Option<usize>)], expected: &[(&str, &[usize])]| {
            let (mut bytes, mut places) = (Vec::new(), Vec::new());
            for (text, place) in stretches {
                bytes.extend_from_slice(text.as_bytes());
                places.resize(bytes.len(), *place);
            }
            let found = forbid.find(&bytes, &places);
            let found: Vec<(&str, &[usize])> = found.iter().map(|o| (o.text, o.places.as_slice())).collect();
            assert_eq!(found, expected, "{stretches:?}");
        };
        check(&[("a re", Some(3)), ("FU", Some(4)), ("nds", Some(5))], &[("refund", &[3, 4, 5])]);
        check(&[("a ref", None), ("und", Some(1))], &[("refund", &[1])]);
        check(&[("a refund x", None), (" of", Some(1))], &[]);
        check(&[("Ä", Some(0)), (" ", Some(1)), ("B", None)], &[("ä b", &[0, 1])]);
        check(&[("x", Some(0)), ("yX", Some(1))], &[("x", &[0]), ("x", &[1])]);
    }
}
