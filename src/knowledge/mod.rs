//! Question to cards: articles, imports, the tantivy index and its search.
//!
//! Read in this order: [`article`], [`import`] (files to articles), [`passage`] (articles to
//! pieces), [`term`] (what counts as the same word), [`index`] (one version of one base on disk),
//! [`search`] (the ranking), [`need`] (whether to show
//! anything), [`deck`] (what is new in a call), [`disposition`] (how it ended). [`Knowledge`] holds the indexes that
//! are searched now. Nothing here knows the store: whoever owns both keeps them in step.

pub mod article;
pub mod deck;
pub mod disposition;
pub mod import;
pub mod index;
pub mod need;
pub mod passage;
pub mod search;
pub mod seed;
pub mod term;

mod handle;

pub use deck::CardDeck;
pub use handle::Answers;
pub use handle::Knowledge;
pub use handle::KnowledgeError;
pub use search::Question;
