//! Enforced structure: what is written must match a regular expression, a list, a JSON schema or a grammar.
//!
//! A canvas is filled in any order, so a parser that reads from left to right does not help. Here a
//! token settles only if the text with holes can still be completed in the positions that are left
//! (the rule of arXiv 2508.10111, for regular languages, where it is exact). In reading order:
//! [`json_schema`] (with [`pattern`]) writes a schema as regular expressions that may call one another,
//! [`grammar`] a grammar; [`regex`] makes an automaton over bytes of one, [`rules`] of several, cut at a
//! depth where they recur; [`tokens`] lifts it to token ids, and [`fill`] follows one canvas. An
//! automaton is compiled once and shared by any number of requests ([`cache`]).

pub mod cache;
pub mod fill;
pub mod grammar;
pub mod json_schema;
pub mod pattern;
pub mod regex;
pub mod rules;
pub mod tokens;

use std::sync::Arc;

use crate::engine::constraint::regex::MAX_STATES;
use crate::engine::constraint::rules::Rules;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::constraint::tokens::Spellings;
use crate::engine::tokenizer::Tokenizer;

/// What a text must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Constraint {
    /// The whole text matches a regular expression in the syntax of the `regex` crate.
    Regex(String),
    /// The text is one of these.
    Choice(Vec<String>),
    /// The text is compact JSON that validates against a schema.
    JsonSchema(serde_json::Value),
    /// The text is one of a context-free grammar in the notation of [`grammar`].
    Grammar(String),
    /// The text is `{"name": …, "arguments": …}` of one of these names, whose arguments validate
    /// against its schema.
    Call(Vec<(String, serde_json::Value)>),
}

/// Says why a structure cannot be enforced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// The regular expression has an error.
    #[error("bad regular expression: {0}")]
    Regex(String),
    /// The grammar has an error.
    #[error("grammar, line {line}: {reason}")]
    Grammar {
        /// Where.
        line: usize,
        /// What.
        reason: String,
    },
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
        self.compile_over(&Arc::new(Spellings::of(tokenizer)))
    }

    /// Compiles the constraint for the vocabulary of these spellings.
    ///
    /// # Errors
    /// As [`Constraint::compile`].
    ///
    /// # Blocking
    /// As [`Constraint::compile`].
    pub fn compile_over(&self, spellings: &Arc<Spellings>) -> Result<Arc<Automaton>, ConstraintError> {
        let bytes = self.rules()?.automaton()?.automaton;
        Ok(Arc::new(Automaton::new(bytes, Arc::clone(spellings))?))
    }

    /// Returns the constraint as rules.
    ///
    /// # Errors
    /// When a schema asks for what cannot be enforced, or a grammar has an error.
    pub fn rules(&self) -> Result<Rules, ConstraintError> {
        let pattern = match self {
            Constraint::Regex(pattern) => pattern.clone(),
            Constraint::Choice(texts) if texts.is_empty() => return Err(ConstraintError::Nothing),
            Constraint::Choice(texts) => {
                texts.iter().map(|text| regex_syntax::escape(text)).collect::<Vec<_>>().join("|")
            }
            Constraint::JsonSchema(schema) => return json_schema::rules(schema),
            Constraint::Grammar(text) => return grammar::rules(text),
            Constraint::Call(tools) => return json_schema::call_rules(tools),
        };
        Ok(Rules { patterns: vec![pattern] })
    }

    /// Returns about how many bytes the constraint itself takes.
    fn bytes(&self) -> usize {
        match self {
            Constraint::Regex(text) | Constraint::Grammar(text) => text.len(),
            Constraint::Choice(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
            Constraint::JsonSchema(schema) => schema.to_string().len(),
            Constraint::Call(tools) => {
                tools.iter().map(|(name, schema)| name.len() + schema.to_string().len()).sum()
            }
        }
    }
}
