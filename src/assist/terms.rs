//! The sensitive terms of every tenant, compiled once and shared by its running calls.
//!
//! The store is the truth; what is here is derived from it and swapped whole, so that a call uses
//! the old lists or the new ones and never half of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use tokio::task::spawn_blocking;
use tracing::error;
use tracing::info;

use crate::monitor::sensitive::SharedTermLists;
use crate::monitor::sensitive::TermError;
use crate::monitor::sensitive::TermList;
use crate::monitor::sensitive::TermLists;
use crate::store::Store;
use crate::store::identity::UserError;

/// The lists of a tenant that has put none.
const SEED: &str = include_str!("../../knowledge/terms.json");
/// The version of the seed; the store counts from 1.
const SEED_VERSION: i64 = 0;

/// Says why terms could not be read or put.
#[derive(Debug, thiserror::Error)]
pub enum TermsError {
    /// The lists are wrong.
    #[error(transparent)]
    Lists(#[from] TermError),
    /// Somebody else put lists meanwhile.
    #[error("the lists were changed by somebody else: version {0} is the newest")]
    Changed(i64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] UserError),
    /// The thread that compiles them died.
    #[error("cannot compile the term lists: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// The terms of all tenants. Clones share them.
#[derive(Debug, Clone)]
pub struct Terms {
    store: Store,
    tenants: Arc<Mutex<HashMap<String, Known>>>,
}

/// What is known of one tenant.
#[derive(Debug, Clone)]
struct Known {
    version: i64,
    lists: SharedTermLists,
}

impl Terms {
    /// Returns the terms that `store` keeps; nothing is read yet.
    pub fn new(store: Store) -> Terms {
        Terms { store, tenants: Arc::default() }
    }

    /// Returns the lists that the calls of the tenant share; they change under their holder when
    /// new ones are put. A call never fails because of its terms: if the stored ones cannot be
    /// read, it gets the seed's.
    pub async fn of(&self, tenant: &str) -> SharedTermLists {
        if let Some(known) = self.tenants().get(tenant) {
            return known.lists.clone();
        }
        let (lists, version) = match self.stored(tenant).await {
            Ok(found) => found,
            Err(error) => {
                error!(tenant, %error, "stored terms cannot be used, the seed's are");
                let seed = TermLists::from_json(SEED).expect("the seed's terms compile: tested");
                return SharedTermLists::new(seed);
            }
        };
        self.publish(tenant, version, lists)
    }

    /// Returns the lists of the tenant as they were put, and their version.
    ///
    /// # Errors
    /// When the store fails or holds what no longer compiles.
    pub async fn lists(&self, tenant: &str) -> Result<(Vec<TermList>, i64), TermsError> {
        let (lists, version) = self.stored(tenant).await?;
        Ok((lists.lists().to_vec(), version))
    }

    /// Puts new lists in the place of the tenant's old ones. Running calls use them from their
    /// next segment on. Returns their version.
    ///
    /// # Errors
    /// When a list is wrong, `expected` is not the newest version (nothing changes then) or the store fails.
    pub async fn put(
        &self,
        tenant: &str,
        lists: Vec<TermList>,
        expected: Option<i64>,
    ) -> Result<i64, TermsError> {
        let json = serde_json::to_string(&lists).map_err(TermError::from)?;
        let lists = spawn_blocking(move || TermLists::compile(lists)).await??;
        let Some(version) = self.store.put_terms(tenant, &json, expected).await? else {
            let newest = self.store.terms(tenant).await?.map_or(SEED_VERSION, |stored| stored.version);
            return Err(TermsError::Changed(newest));
        };
        self.publish(tenant, version, lists);
        info!(tenant, version, "terms put");
        Ok(version)
    }

    async fn stored(&self, tenant: &str) -> Result<(TermLists, i64), TermsError> {
        let stored = self.store.terms(tenant).await?;
        let (json, version) = match stored {
            Some(stored) => (stored.lists, stored.version),
            None => (SEED.to_owned(), SEED_VERSION),
        };
        Ok((spawn_blocking(move || TermLists::from_json(&json)).await??, version))
    }

    /// Swaps `lists` in unless newer ones were published while these were compiled.
    fn publish(&self, tenant: &str, version: i64, lists: TermLists) -> SharedTermLists {
        let mut tenants = self.tenants();
        let Some(known) = tenants.get_mut(tenant) else {
            let lists = SharedTermLists::new(lists);
            tenants.insert(tenant.to_owned(), Known { version, lists: lists.clone() });
            return lists;
        };
        if version > known.version {
            known.version = version;
            known.lists.swap(lists);
        }
        known.lists.clone()
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_compiles_and_finds_what_it_lists() {
        let seed = TermLists::from_json(SEED).expect("the seed compiles");
        let categories =
            |text: &str| -> Vec<String> { seed.find(text).into_iter().map(|found| found.category).collect() };
        assert_eq!(categories("I'll talk to my lawyer and then the ombudsman"), ["legal", "regulator"]);
        assert_eq!(categories("There is a smell of gas in the kitchen"), ["emergency"]);
        assert!(categories("Landed in Galway, lawyerly weather, no bother").is_empty());
    }

    #[tokio::test]
    async fn an_older_list_never_replaces_a_newer_one() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let store = Store::open(&folder.path().join("test.sqlite")).await.expect("a store");
        let terms = Terms::new(store);
        let lists = |category: &str| {
            let json = format!(
                r#"[{{"category":"{category}","terms":["x"],"match":"word","severity":"info","action":"alert"}}]"#
            );
            TermLists::from_json(&json).expect("lists")
        };
        terms.publish("main", 3, lists("newer"));
        let shared = terms.publish("main", 2, lists("older"));
        assert_eq!(shared.load().lists()[0].category, "newer");
    }
}
