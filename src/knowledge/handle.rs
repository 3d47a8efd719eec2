//! The indexes that are searched now, behind a clonable handle.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::RwLock;

use crate::event::Card;
use crate::knowledge::article::Article;
use crate::knowledge::article::is_id;
use crate::knowledge::index::BaseIndex;
use crate::knowledge::index::Edition;
use crate::knowledge::index::IndexError;
use crate::knowledge::need;
use crate::knowledge::search;
use crate::knowledge::search::Asked;
use crate::knowledge::search::Question;
use crate::knowledge::search::Ranking;
use crate::knowledge::search::SHOW_FROM;
use crate::prompt::Turn;

/// Says why a search or a change of an index failed.
#[derive(Debug, thiserror::Error)]
pub enum KnowledgeError {
    /// The tenant has no such base.
    #[error("knowledge base {0} does not exist")]
    NoBase(String),
    /// A tenant or base cannot name a folder.
    #[error("{0:?} must be 1 to 128 of the characters A-Z a-z 0-9 . _ -")]
    Name(String),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The search library failed.
    #[error("search library: {0}")]
    Library(#[from] tantivy::TantivyError),
}

/// What was found for a question.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// The best passage of each article, best first.
    pub cards: Vec<Card>,
    /// The same, and behind the best one the other passages of its article.
    pub sources: Vec<Card>,
}

/// A base with the ranking of its articles.
type Ranked = (Arc<BaseIndex>, Ranking);

/// Returns the best cards of all bases, best first.
fn best_cards(ranked: &[Ranked], question: &Question) -> Result<Vec<Card>, KnowledgeError> {
    let asked = Asked::from(&question.turns);
    let mut cards = Vec::new();
    for (index, ranking) in ranked {
        cards.extend(search::cards(index, ranking, &asked, question.limit)?);
    }
    cards.sort_by(|a, b| b.score.total_cmp(&a.score));
    cards.truncate(question.limit);
    Ok(cards)
}

/// Returns the cards, and behind the best one the other passages of its article.
fn sources(ranked: &[Ranked], question: &Question, cards: &[Card]) -> Result<Vec<Card>, KnowledgeError> {
    let mut sources = cards.to_vec();
    if let Some(best) = cards.first()
        && let Some((index, ranking)) = ranked.iter().find(|(index, _)| index.edition.base == best.base)
    {
        let rest = search::rest(index, ranking, &Asked::from(&question.turns), best)?;
        sources.splice(1..1, rest);
    }
    Ok(sources)
}

type Bases = BTreeMap<(String, String), Arc<BaseIndex>>;

/// The searchable knowledge of all tenants. Clones share it.
///
/// A search takes the indexes it needs in one short lock and keeps them to its end, so it sees
/// one whole version of each base, the old or the new.
#[derive(Debug, Clone)]
pub struct Knowledge {
    folder: Arc<PathBuf>,
    bases: Arc<RwLock<Bases>>,
}

impl Knowledge {
    /// Returns a handle without bases whose indexes live under `folder`.
    pub fn new(folder: &Path) -> Knowledge {
        Knowledge { folder: Arc::new(folder.to_owned()), bases: Arc::default() }
    }

    /// Opens the index of an edition if it was built before, else builds it from `articles`. It
    /// is not searched before [`Knowledge::activate`].
    ///
    /// # Errors
    /// When the folder cannot be written or `articles` fails.
    ///
    /// # Blocking
    /// A few milliseconds to open, about a millisecond for each article to build.
    pub fn prepare<E: From<KnowledgeError>>(
        &self,
        edition: Edition,
        articles: impl FnOnce() -> Result<Vec<Article>, E>,
    ) -> Result<Arc<BaseIndex>, E> {
        let folder = self.edition_folder(&edition)?;
        match BaseIndex::open(&folder, edition.clone()) {
            Ok(index) => return Ok(Arc::new(index)),
            Err(IndexError::Stale(_)) => {}
            Err(error) => tracing::warn!(%error, "index is built again"),
        }
        let index = BaseIndex::build(&folder, edition, &articles()?).map_err(KnowledgeError::from)?;
        Ok(Arc::new(index))
    }

    /// Makes `index` the one that its base is searched in, at once and whole.
    pub fn activate(&self, index: Arc<BaseIndex>) {
        let key = (index.edition.tenant.clone(), index.edition.base.clone());
        self.bases.write().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(key, index);
    }

    /// Removes the folders of all versions of a base but the active one. Searches that still read
    /// one of them keep its open files.
    ///
    /// # Errors
    /// When a folder cannot be removed.
    pub fn sweep(&self, tenant: &str, base: &str) -> Result<(), KnowledgeError> {
        let Some(active) = self.active(tenant, base) else { return Ok(()) };
        let folder = self.edition_folder(&active.edition)?;
        let Some(parent) = folder.parent() else { return Ok(()) };
        let failed = |source| IndexError::Folder { path: parent.to_owned(), source };
        for entry in fs::read_dir(parent).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path != folder {
                fs::remove_dir_all(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Returns the active index of a base.
    pub fn active(&self, tenant: &str, base: &str) -> Option<Arc<BaseIndex>> {
        let key = (tenant.to_owned(), base.to_owned());
        self.bases.read().unwrap_or_else(|poisoned| poisoned.into_inner()).get(&key).cloned()
    }

    /// Returns the cards that answer the customer's last turn, best first; none when nothing is
    /// good enough.
    ///
    /// # Errors
    /// [`KnowledgeError::NoBase`] when a named base has no active version.
    ///
    /// # Blocking
    /// Under 5 ms for bases of some thousand passages.
    pub fn search(&self, tenant: &str, question: &Question) -> Result<Vec<Card>, KnowledgeError> {
        Ok(search::worth(self.find(tenant, question)?, SHOW_FROM))
    }

    /// Returns the best card of each article that shares a word with the question, best first,
    /// however weak.
    ///
    /// # Errors
    /// [`KnowledgeError::NoBase`] when a named base has no active version.
    ///
    /// # Blocking
    /// As [`Knowledge::search`].
    pub fn find(&self, tenant: &str, question: &Question) -> Result<Vec<Card>, KnowledgeError> {
        best_cards(&self.ranked(tenant, question)?, question)
    }

    /// Returns what answers the customer's last turn, and what a draft of the answer may quote; nothing when the
    /// best card has a score below `from`.
    ///
    /// # Errors
    /// As [`Knowledge::search`].
    ///
    /// # Blocking
    /// As [`Knowledge::search`].
    pub fn answers(&self, tenant: &str, question: &Question, from: f32) -> Result<Answers, KnowledgeError> {
        let ranked = self.ranked(tenant, question)?;
        let cards = search::worth(best_cards(&ranked, question)?, from);
        Ok(Answers { sources: sources(&ranked, question, &cards)?, cards })
    }

    /// Returns what a draft may quote when the search finds these articles and no other, however weak they are; for
    /// measuring and fitting.
    ///
    /// # Errors
    /// As [`Knowledge::search`].
    ///
    /// # Blocking
    /// As [`Knowledge::search`].
    pub fn sources_among(
        &self,
        tenant: &str,
        question: &Question,
        articles: &[String],
    ) -> Result<Vec<Card>, KnowledgeError> {
        let mut ranked = self.ranked(tenant, question)?;
        for (index, ranking) in &mut ranked {
            for candidate in std::mem::take(&mut ranking.candidates) {
                if articles.contains(&index.passage(candidate.passage)?.article) {
                    ranking.candidates.push(candidate);
                }
            }
        }
        sources(&ranked, question, &best_cards(&ranked, question)?)
    }

    /// Returns the question's bases, each as it is now, with the ranking of its articles.
    fn ranked(&self, tenant: &str, question: &Question) -> Result<Vec<Ranked>, KnowledgeError> {
        let asked = Asked::from(&question.turns);
        let indexes = self.chosen(tenant, &question.bases)?.into_iter();
        indexes
            .map(|index| search::rank(&index, &asked).map(|ranking| (index, ranking)).map_err(Into::into))
            .collect()
    }

    /// Returns what [`need`] sees of a question to one base, for fitting its weights.
    ///
    /// # Errors
    /// [`KnowledgeError::NoBase`] when the base has no active version.
    pub fn need_features(
        &self,
        tenant: &str,
        base: &str,
        turns: &[Turn],
    ) -> Result<Vec<f32>, KnowledgeError> {
        let index = self.active(tenant, base).ok_or_else(|| KnowledgeError::NoBase(base.to_owned()))?;
        let asked = Asked::from(turns);
        Ok(need::features(&asked, &search::rank(&index, &asked)?))
    }

    fn chosen(&self, tenant: &str, names: &[String]) -> Result<Vec<Arc<BaseIndex>>, KnowledgeError> {
        let bases = self.bases.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if names.is_empty() {
            return Ok(bases
                .iter()
                .filter(|((owner, _), _)| owner == tenant)
                .map(|(_, index)| index.clone())
                .collect());
        }
        names
            .iter()
            .map(|name| {
                let key = (tenant.to_owned(), name.clone());
                bases.get(&key).cloned().ok_or_else(|| KnowledgeError::NoBase(name.clone()))
            })
            .collect()
    }

    fn edition_folder(&self, edition: &Edition) -> Result<PathBuf, KnowledgeError> {
        for name in [&edition.tenant, &edition.base] {
            if !is_id(name) {
                return Err(KnowledgeError::Name(name.clone()));
            }
        }
        Ok(self.folder.join(&edition.tenant).join(&edition.base).join(edition.version.to_string()))
    }
}
