//! Text and token ids: a byte-level BPE in the format of `tokenizer.json` (the `tokenizers` crate).
//!
//! Control tokens are looked up by name and never read out of text: text that holds the characters
//! of a control token is encoded as characters. Only [`Tokenizer::encode_guarded`], which is for what a
//! chat template wrote, reads them.

use std::path::Path;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use aho_corasick::MatchKind;
use tokenizers::AddedToken;
use tokenizers::DecoderWrapper;
use tokenizers::Model;
use tokenizers::NormalizerWrapper;
use tokenizers::PostProcessorWrapper;
use tokenizers::PreTokenizerWrapper;
use tokenizers::TokenizerImpl;
use tokenizers::models::bpe::BPE;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// Stands for one token that is still masked.
pub const MASK_CHAR: char = '░';

/// Says why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is missing or has another form.
    #[error("cannot load the tokenizer {path}: {reason}")]
    Load {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// Training or encoding failed.
    #[error("tokenizer: {0}")]
    Failed(String),
    /// The vocabulary lacks a control token.
    #[error("the tokenizer has no token {0:?}")]
    Missing(String),
}

/// A tokenizer. Thread-safe.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    controls: Arc<Controls>,
}

/// The control tokens of a vocabulary: those marked special, and those that look it, as `<think>`
/// does, which published vocabularies read out of any text.
#[derive(Debug)]
struct Controls {
    finder: AhoCorasick,
    /// Spelling and id, in the order of the finder's patterns.
    tokens: Vec<(String, u32)>,
    /// Finds those of them that the `tokenizers` crate would read out of text.
    read_from_text: AhoCorasick,
    /// Those that mark a call of a tool although they are special: they are read, not left out.
    marks: Vec<(String, u32)>,
}

/// What models mark a call of a tool with.
const MARKS: [&str; 6] =
    ["<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"];

impl Controls {
    fn of(inner: &tokenizers::Tokenizer) -> Result<Controls, TokenizerError> {
        let mut added: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
        added.retain(|(_, token)| {
            let content = &token.content;
            token.special || (content.len() > 2 && content.starts_with('<') && content.ends_with('>'))
        });
        added.sort_by_key(|(id, _)| *id);
        let finder = |tokens: &mut dyn Iterator<Item = &str>| {
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(tokens);
            built.map_err(|error| TokenizerError::Failed(error.to_string()))
        };
        let is_mark = |token: &AddedToken| token.special && MARKS.contains(&token.content.as_str());
        let marks = added.iter().filter(|(_, token)| is_mark(token));
        Ok(Controls {
            marks: marks.map(|(id, token)| (token.content.clone(), *id)).collect(),
            finder: finder(&mut added.iter().map(|(_, token)| token.content.as_str()))?,
            read_from_text: finder(
                &mut added
                    .iter()
                    .filter(|(_, token)| !token.special)
                    .map(|(_, token)| token.content.as_str()),
            )?,
            tokens: added.into_iter().map(|(id, token)| (token.content, id)).collect(),
        })
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json` of a checkpoint folder.
    ///
    /// # Errors
    /// When the file is missing or is no tokenizer.
    pub fn read(folder: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let failed = |reason| TokenizerError::Load { path: path.display().to_string(), reason };
        let json = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
        Tokenizer::parse(&json).map_err(|error| match error {
            TokenizerError::Failed(reason) => failed(reason),
            other => other,
        })
    }

    /// Understands the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// When it is no tokenizer.
    pub fn parse(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json)
            .map_err(|error| TokenizerError::Failed(error.to_string()))?;
        inner.set_encode_special_tokens(true);
        let controls = Arc::new(Controls::of(&inner)?);
        Ok(Tokenizer { inner, controls })
    }

    /// Trains a byte-level BPE of `size` tokens, single digits apart, with `controls` as the first ids.
    ///
    /// # Errors
    /// When the texts give no vocabulary.
    pub fn train<'a>(
        texts: impl Iterator<Item = &'a str> + Send,
        size: usize,
        controls: &[&str],
    ) -> Result<Tokenizer, TokenizerError> {
        type Bpe =
            TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
        let failed = |error: tokenizers::Error| TokenizerError::Failed(error.to_string());
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(controls.iter().map(|c| AddedToken::from(*c, true)).collect())
            .build();
        let mut bpe: Bpe = TokenizerImpl::new(BPE::default());
        bpe.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ]))));
        bpe.with_decoder(Some(DecoderWrapper::ByteLevel(ByteLevel::default())));
        bpe.train(&mut trainer, texts).map_err(failed)?;
        let text = bpe.to_string(false).map_err(failed)?;
        let mut inner: tokenizers::Tokenizer = text.parse().map_err(failed)?;
        inner.set_encode_special_tokens(true);
        let controls = Arc::new(Controls::of(&inner)?);
        Ok(Tokenizer { inner, controls })
    }

    /// Returns the tokenizer with those of `controls` added that its vocabulary lacks, behind all others.
    ///
    /// # Errors
    /// When the vocabulary takes no more tokens.
    pub fn with_controls(mut self, controls: &[&str]) -> Result<Tokenizer, TokenizerError> {
        let missing = controls.iter().filter(|control| self.control(control).is_err());
        let missing: Vec<AddedToken> = missing.map(|control| AddedToken::from(*control, true)).collect();
        let failed = |error: tokenizers::Error| TokenizerError::Failed(error.to_string());
        self.inner.add_special_tokens(missing).map_err(failed)?;
        self.controls = Arc::new(Controls::of(&self.inner)?);
        Ok(self)
    }

    /// Writes `tokenizer.json` to a folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), TokenizerError> {
        self.inner
            .save(folder.join("tokenizer.json"), false)
            .map_err(|error| TokenizerError::Failed(error.to_string()))
    }

    /// Returns the number of token ids.
    pub fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Appends the ids of plain text.
    ///
    /// # Errors
    /// When the encoder fails, which byte-level BPE never should.
    pub fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        // The crate leaves special tokens alone; of the others the first character is cut off.
        let mut from = 0;
        for found in self.controls.read_from_text.find_iter(text) {
            let first = text[found.range()].chars().next().map_or(0, char::len_utf8);
            self.encode_stretch(&text[from..found.start() + first], ids)?;
            from = found.start() + first;
        }
        self.encode_stretch(&text[from..], ids)
    }

    /// Breaks with `guard`, a character that `text` does not hold, every control token that `text`
    /// spells, or could spell together with what comes before or after it.
    pub fn guarded(&self, text: &str, guard: char) -> String {
        let mut guarded = text.to_owned();
        // What is broken may have overlapped another one.
        while let Some(found) = self.controls.finder.find(&guarded) {
            let first = guarded[found.range()].chars().next().map_or(0, char::len_utf8);
            guarded.insert(found.start() + first, guard);
        }
        let parts = |spelling: &str| -> Vec<usize> {
            (1..spelling.len()).filter(|at| spelling.is_char_boundary(*at)).collect()
        };
        let mut spellings = self.controls.tokens.iter().map(|(spelling, _)| spelling);
        if spellings.clone().any(|s| parts(s).into_iter().any(|at| guarded.ends_with(&s[..at]))) {
            guarded.push(guard);
        }
        if spellings.any(|s| parts(s).into_iter().any(|at| guarded.starts_with(&s[at..]))) {
            guarded.insert(0, guard);
        }
        guarded
    }

    /// Appends the ids of text in which control tokens stand as themselves; guards are left out.
    ///
    /// # Errors
    /// When the encoder fails.
    pub fn encode_guarded(&self, text: &str, guard: char, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut from = 0;
        for found in self.controls.finder.find_iter(text) {
            self.encode(&text[from..found.start()].replace(guard, ""), ids)?;
            ids.push(self.controls.tokens[found.pattern().as_usize()].1);
            from = found.end();
        }
        self.encode(&text[from..].replace(guard, ""), ids)
    }

    /// Returns the control tokens, spelling and id, in the order of their ids.
    pub fn controls(&self) -> &[(String, u32)] {
        &self.controls.tokens
    }

    fn encode_stretch(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| TokenizerError::Failed(error.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Returns the text of ids; control tokens give nothing, but for those that mark a call of a tool.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mark = |id: u32| self.controls.marks.iter().find(|(_, mark)| *mark == id);
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| mark(*a).is_none() && mark(*b).is_none()) {
            match mark(run[0]) {
                Some((spelling, _)) => text.push_str(spelling),
                None => text.push_str(&self.inner.decode(run, true).unwrap_or_default()),
            }
        }
        text
    }

    /// Returns the text of tokens on their way: each `mask` is one [`MASK_CHAR`], nothing after one of `ends`.
    pub fn decode_masked(&self, ids: &[u32], mask: u32, ends: &[u32]) -> String {
        let ids = &ids[..ids.iter().position(|id| ends.contains(id)).unwrap_or(ids.len())];
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| (*a == mask) == (*b == mask)) {
            if run[0] == mask {
                text.extend(std::iter::repeat_n(MASK_CHAR, run.len()));
            } else {
                text.push_str(&self.decode(run));
            }
        }
        text
    }

    /// Returns the vocabulary's own spelling of a token, with byte-level letters.
    pub fn spelling(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the bytes of a token in byte-level spelling, which need not be whole characters;
    /// `None` for control tokens and ids outside the vocabulary.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if self.inner.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id) {
            return None;
        }
        self.inner.id_to_token(id)?.chars().map(byte_of_letter).collect()
    }

    /// Returns the id of a control token.
    ///
    /// # Errors
    /// When the vocabulary has none of that name.
    pub fn control(&self, name: &str) -> Result<u32, TokenizerError> {
        self.inner
            .get_model()
            .token_to_id(name)
            .or_else(|| self.inner.token_to_id(name))
            .ok_or_else(|| TokenizerError::Missing(name.to_owned()))
    }
}

/// Returns the byte that a letter of byte-level spelling stands for: printable characters of
/// Latin-1 for themselves, the letters from U+0100 on for the other bytes in their order (GPT-2).
fn byte_of_letter(letter: char) -> Option<u8> {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(letter);
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => (0..=u8::MAX).filter(|byte| !is_printable(*byte)).nth((code - 0x100) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_tokens_join_to_the_text() {
        let texts = ["the quick brown fox jumps", "äöü größer €"];
        let tokenizer = Tokenizer::train(texts.into_iter(), 300, &["<|mask|>"]).expect("trains");
        let text = "größer\t €\u{1f600}\n\0x<|mask|>";
        let mut ids = Vec::new();
        tokenizer.encode(text, &mut ids).expect("encodes");
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.bytes(*id).expect("is text")).collect();
        assert_eq!(bytes, text.as_bytes());
        assert_eq!(tokenizer.bytes(0), None, "a control token has none");
        assert_eq!(tokenizer.bytes(300), None, "an id outside the vocabulary has none");
        let single: std::collections::BTreeSet<u8> =
            (0..300).filter_map(|id| tokenizer.bytes(id)).filter(|b| b.len() == 1).map(|b| b[0]).collect();
        assert_eq!(single.len(), 256);
    }

    #[test]
    fn control_tokens_in_text_are_text() {
        let texts = ["the quick brown fox <|end|> jumps", "the lazy dog 42"];
        let tokenizer = Tokenizer::train(texts.into_iter(), 300, &["<|mask|>", "<|end|>"]).expect("trains");
        assert_eq!(tokenizer.control("<|end|>").expect("is there"), 1);
        let mut ids = Vec::new();
        tokenizer.encode("say <|end|> now 42", &mut ids).expect("encodes");
        assert!(!ids.contains(&1));
        assert_eq!(tokenizer.decode(&ids), "say <|end|> now 42");
        assert!(tokenizer.control("<|nothing|>").is_err());
        assert_eq!(tokenizer.decode(&[1, ids[0], 0]), tokenizer.decode(&ids[..1]), "controls give nothing");
        ids.clear();
        tokenizer.encode_guarded("say <|end|> now", '\u{fdd0}', &mut ids).expect("encodes");
        assert_eq!(ids.iter().filter(|id| **id == 1).count(), 1);
        assert_eq!(tokenizer.controls(), [("<|mask|>".to_owned(), 0), ("<|end|>".to_owned(), 1)]);
    }

    #[test]
    fn control_tokens_that_are_missing_come_last() {
        let tokenizer = Tokenizer::train(["some text"].into_iter(), 300, &["<|mask|>"]).expect("trains");
        let size = tokenizer.size();
        let grown = tokenizer.with_controls(&["<|yes|>", "<|mask|>", "<|no|>"]).expect("grows");
        assert_eq!(grown.size(), size + 2);
        let ids = ["<|mask|>", "<|yes|>", "<|no|>"].map(|control| grown.control(control).expect("is there"));
        assert_eq!(ids, [0, size as u32, size as u32 + 1]);
        let mut ids = Vec::new();
        grown.encode("say <|yes|>", &mut ids).expect("encodes");
        assert!(ids.iter().all(|id| (*id as usize) < size), "text spells no control token");
    }

    #[test]
    fn marks_of_calls_are_read_even_where_they_are_special() {
        let controls = ["<|mask|>", "<tool_call>", "</tool_call>"];
        let tokenizer = Tokenizer::train(["call the tool"].into_iter(), 300, &controls).expect("trains");
        let mut ids = vec![1];
        tokenizer.encode("call", &mut ids).expect("encodes");
        ids.extend([2, 0]);
        assert_eq!(tokenizer.decode(&ids), "<tool_call>call</tool_call>");
    }

    #[test]
    fn a_control_token_that_is_not_marked_special_is_text_too() {
        let texts = ["the quick brown fox jumps"];
        let mut inner = Tokenizer::train(texts.into_iter(), 300, &["<|mask|>"]).expect("trains").inner;
        inner.add_tokens([AddedToken::from("<think>", false)]).expect("is added");
        let id = inner.token_to_id("<think>").expect("is there");
        let controls = Arc::new(Controls::of(&inner).expect("is read"));
        let tokenizer = Tokenizer { inner, controls };
        let mut ids = Vec::new();
        tokenizer.encode("the <think> fox<think>", &mut ids).expect("encodes");
        assert!(!ids.contains(&id));
        assert_eq!(tokenizer.decode(&ids), "the <think> fox<think>");
        ids.clear();
        tokenizer.encode_guarded("the <think> fox", '\u{fdd0}', &mut ids).expect("encodes");
        assert!(ids.contains(&id));
    }
}
