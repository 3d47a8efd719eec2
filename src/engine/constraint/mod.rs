//! Enforced structure: what is written must match a regular expression, a list or a JSON schema.
//!
//! A canvas is filled in any order, so a parser that reads from left to right does not help. Here a
//! token settles only if the text with holes can still be completed in the positions that are left
//! (the rule of arXiv 2508.10111, for regular languages, where it is exact). In reading order:
//! [`json_schema`] (with [`pattern`]) writes a schema as a regular expression, [`regex`] makes an automaton over bytes
//! of that, [`tokens`] lifts it to token ids, and [`fill`] follows one canvas.
//!
//! An automaton is compiled once and shared by any number of requests. Recursive grammars are not
//! regular and not taken.

pub mod fill;
pub mod json_schema;
pub mod pattern;
pub mod regex;
pub mod tokens;

use std::sync::Arc;

use crate::engine::constraint::regex::ByteAutomaton;
use crate::engine::constraint::regex::MAX_STATES;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::constraint::tokens::Spellings;
use crate::engine::tokenizer::Tokenizer;

/// What a text must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Constraint {
    /// The whole text matches a regular expression in the syntax of the `regex` crate.
    Regex(String),
    /// The text is one of these.
    Choice(Vec<String>),
    /// The text is compact JSON that validates against a schema.
    JsonSchema(serde_json::Value),
}

/// Says why a structure cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The regular expression has an error.
    #[error("bad regular expression: {0}")]
    Regex(String),
    /// The schema asks for something that cannot be enforced, or has an error.
    #[error("schema at {path}: {reason}")]
    Schema {
        /// Where, as a JSON pointer fragment: `#/properties/name`.
        path: String,
        /// What.
        reason: String,
    },
    /// The automaton would not fit.
    #[error("the structure is too large: its automaton takes more than {MAX_STATES} states")]
    TooLarge,
    /// No text satisfies the structure.
    #[error("no text satisfies the structure")]
    Nothing,
    /// The tokens of the vocabulary, but for those that are banned, spell no text of the structure.
    #[error("the vocabulary cannot spell any text of the structure")]
    Unspellable,
    /// Even the shortest text does not fit.
    #[error("the structure takes {needed} tokens or more, there is room for {tokens}")]
    TooShort {
        /// The tokens of the shortest text.
        needed: usize,
        /// The tokens of the canvas.
        tokens: usize,
    },
    /// The frozen tokens leave no way to fill the rest.
    #[error("the given text cannot be completed to the structure in {tokens} tokens")]
    Unfillable {
        /// The tokens of the canvas.
        tokens: usize,
    },
}

impl Constraint {
    /// Compiles the constraint for a vocabulary.
    ///
    /// # Errors
    /// When it has an error, asks for what cannot be enforced, or is too large.
    ///
    /// # Blocking
    /// Milliseconds for most; up to seconds near the limit and for vocabularies above 100,000.
    pub fn compile(&self, tokenizer: &Tokenizer) -> Result<Arc<Automaton>, ConstraintError> {
        let bytes = ByteAutomaton::new(&self.pattern()?)?;
        Ok(Arc::new(Automaton::new(bytes, Arc::new(Spellings::of(tokenizer)))?))
    }

    /// Returns the constraint as a regular expression.
    ///
    /// # Errors
    /// When a schema asks for what cannot be enforced.
    pub fn pattern(&self) -> Result<String, ConstraintError> {
        match self {
            Constraint::Regex(pattern) => Ok(pattern.clone()),
            Constraint::Choice(texts) if texts.is_empty() => Err(ConstraintError::Nothing),
            Constraint::Choice(texts) => {
                Ok(texts.iter().map(|text| regex_syntax::escape(text)).collect::<Vec<_>>().join("|"))
            }
            Constraint::JsonSchema(schema) => json_schema::pattern(schema),
        }
    }
}
