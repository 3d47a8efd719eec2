//! Structures that were compiled, for the next request that asks for the same.
//!
//! One cache belongs to one vocabulary. Requests that ask for the same structure at the same time
//! compile it once; what was not asked for the longest goes first when there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use crate::engine::constraint::Constraint;
use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::constraint::tokens::Spellings;
use crate::engine::tokenizer::Tokenizer;

/// The most structures that are kept.
const MAX_ENTRIES: usize = 64;
/// The most bytes that they may take together.
const MAX_BYTES: usize = 64 << 20;

type Compiled = Arc<OnceLock<Result<Arc<Automaton>, ConstraintError>>>;

/// The structures of one vocabulary.
#[derive(Debug)]
pub struct Structures {
    spellings: OnceLock<Arc<Spellings>>,
    entries: Mutex<Entries>,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Entries {
    /// By what was asked for.
    entries: HashMap<Constraint, Entry>,
    /// Counts the requests.
    now: u64,
}

#[derive(Debug)]
struct Entry {
    compiled: Compiled,
    /// When it was asked for last.
    used: u64,
    /// Bytes, once they are known.
    bytes: usize,
}

impl Default for Structures {
    fn default() -> Structures {
        Structures::bounded(MAX_ENTRIES, MAX_BYTES)
    }
}

impl Structures {
    fn bounded(max_entries: usize, max_bytes: usize) -> Structures {
        Structures { spellings: OnceLock::new(), entries: Mutex::default(), max_entries, max_bytes }
    }

    /// Returns a structure over the vocabulary, which must be the same at every call.
    ///
    /// # Errors
    /// As [`Constraint::compile`].
    ///
    /// # Blocking
    /// As [`Constraint::compile`] when it is not there yet.
    pub fn compile(
        &self,
        constraint: &Constraint,
        tokenizer: &Tokenizer,
    ) -> Result<Arc<Automaton>, ConstraintError> {
        let compiled = self.entry(constraint);
        let result = compiled.get_or_init(|| {
            let spellings = self.spellings.get_or_init(|| Arc::new(Spellings::of(tokenizer)));
            constraint.compile_over(spellings)
        });
        self.measure(constraint, result.as_ref().map_or(0, |automaton| automaton.bytes()));
        result.clone()
    }

    fn entry(&self, constraint: &Constraint) -> Compiled {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.now += 1;
        let now = entries.now;
        if let Some(entry) = entries.entries.get_mut(constraint) {
            entry.used = now;
            return Arc::clone(&entry.compiled);
        }
        let compiled = Compiled::default();
        let bytes = constraint.bytes();
        let entry = Entry { compiled: Arc::clone(&compiled), used: now, bytes };
        entries.entries.insert(constraint.clone(), entry);
        compiled
    }

    /// Notes how large a structure came out, and drops what is too much.
    fn measure(&self, constraint: &Constraint, bytes: usize) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.entries.get_mut(constraint) {
            entry.bytes = constraint.bytes() + bytes;
        }
        let entries = &mut entries.entries;
        if constraint.bytes() + bytes > self.max_bytes {
            // It would push out all others.
            entries.remove(constraint);
        }
        while entries.len() > self.max_entries
            || entries.values().map(|entry| entry.bytes).sum::<usize>() > self.max_bytes
        {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            match oldest {
                Some(oldest) => entries.remove(&oldest),
                None => return,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["yes or no, maybe 123"].into_iter(), 280, &["<|mask|>"]).expect("trains")
    }

    fn of(structures: &Structures, constraint: &Constraint) -> Arc<Automaton> {
        structures.compile(constraint, &tokenizer()).expect("compiles")
    }

    #[test]
    fn the_same_structure_is_compiled_once() {
        let structures = Structures::default();
        let schema = |kind: &str| Constraint::JsonSchema(json!({"type": kind, "title": "x"}));
        let first = of(&structures, &schema("integer"));
        assert!(Arc::ptr_eq(&first, &of(&structures, &schema("integer"))), "it is reused");
        assert!(!Arc::ptr_eq(&first, &of(&structures, &schema("boolean"))));
        let grammar = Constraint::Grammar("root ::= \"yes\" | \"no\"".to_owned());
        assert!(Arc::ptr_eq(&of(&structures, &grammar), &of(&structures, &grammar)));
        // One that is compiled anew accepts the same.
        let alone = schema("integer").compile(&tokenizer()).expect("compiles");
        assert_eq!((alone.states(), alone.shortest()), (first.states(), first.shortest()));
        for id in 0..280 {
            assert_eq!(alone.next(0, id), first.next(0, id), "{id}");
        }
    }

    #[test]
    fn many_at_once_compile_it_once() {
        let structures = Structures::default();
        let constraint = Constraint::Regex("(yes|no){1,40}".to_owned());
        let found: Vec<Arc<Automaton>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| of(&structures, &constraint))).collect();
            threads.into_iter().map(|thread| thread.join().expect("goes well")).collect()
        });
        assert!(found.iter().all(|automaton| Arc::ptr_eq(automaton, &found[0])));
    }

    #[test]
    fn what_was_not_asked_for_the_longest_goes_first() {
        let structures = Structures::bounded(2, usize::MAX);
        let [a, b, c] = ["a", "b", "c"].map(|text| Constraint::Regex(text.to_owned()));
        let (first, second) = (of(&structures, &a), of(&structures, &b));
        of(&structures, &a);
        of(&structures, &c);
        assert!(Arc::ptr_eq(&first, &of(&structures, &a)), "asked for after b");
        assert!(!Arc::ptr_eq(&second, &of(&structures, &b)), "compiled anew");
    }

    #[test]
    fn what_takes_too_many_bytes_is_not_kept() {
        let (small, large) =
            (Constraint::Regex("yes".to_owned()), Constraint::Regex("[a-z]{300}".to_owned()));
        let bytes = |constraint: &Constraint| constraint.compile(&tokenizer()).expect("compiles").bytes();
        assert!(bytes(&small) < bytes(&large) / 2);
        let structures = Structures::bounded(10, bytes(&large) - 1);
        let first = of(&structures, &small);
        assert!(!Arc::ptr_eq(&of(&structures, &large), &of(&structures, &large)));
        assert!(Arc::ptr_eq(&of(&structures, &small), &first), "and pushes nothing out");
    }

    #[test]
    fn a_refusal_is_the_same_every_time() {
        let structures = Structures::default();
        let bad = Constraint::Regex("(a".to_owned());
        let refused = || structures.compile(&bad, &tokenizer()).expect_err("is refused");
        assert_eq!(refused(), refused());
    }
}
