//! Text and token ids: a byte-level BPE in the format of `tokenizer.json` (the `tokenizers` crate).
//!
//! Control tokens are looked up by name and never read out of text: text that holds the characters
//! of a control token is encoded as characters.

use std::path::Path;

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
}

impl Tokenizer {
    /// Loads `tokenizer.json` of a checkpoint folder.
    ///
    /// # Errors
    /// When the file is missing or is no tokenizer.
    pub fn read(folder: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let mut inner = tokenizers::Tokenizer::from_file(&path).map_err(|error| TokenizerError::Load {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        inner.set_encode_special_tokens(true);
        Ok(Tokenizer { inner })
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
        Ok(Tokenizer { inner })
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
        let encoding =
            self.inner.encode_fast(text, false).map_err(|error| TokenizerError::Failed(error.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// Returns the text of ids; control tokens give nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    /// Returns the vocabulary's own spelling of a token, with byte-level letters.
    pub fn spelling(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
