//! An automaton over bytes lifted to token ids.
//!
//! A token leads where its bytes lead. Tokens are kept as a trie over classes of bytes: letters that
//! a structure does not tell apart fall together, so that a walk over the whole vocabulary is a
//! walk over a few hundred nodes for most structures. Which states a state reaches with one token is
//! computed once; which tokens lead from one set of states into another is computed when asked for,
//! since rows of a vocabulary for each state would take gigabytes.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;

use rayon::prelude::*;

use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::regex::ByteAutomaton;
use crate::engine::constraint::regex::DEAD;
use crate::engine::constraint::regex::MAX_STATES;
use crate::engine::tokenizer::Tokenizer;

/// The bytes of every token; control tokens have none.
#[derive(Debug)]
pub struct Spellings {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Spellings {
    /// Reads the spellings of a vocabulary.
    pub fn of(tokenizer: &Tokenizer) -> Spellings {
        let mut spellings = Spellings { ends: Vec::new(), bytes: Vec::new() };
        for id in 0..tokenizer.size() as u32 {
            spellings.push(&tokenizer.bytes(id).unwrap_or_default());
        }
        spellings
    }

    /// Adds the next token.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
    }

    /// Returns the bytes of a token, none for a control token or an id outside the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let Some(end) = self.ends.get(id as usize) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        &self.bytes[start as usize..*end as usize]
    }

    /// Returns the number of ids.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

/// A structure over token ids. States are those of the automaton over bytes.
#[derive(Debug)]
pub struct Automaton {
    bytes: ByteAutomaton,
    spellings: Arc<Spellings>,
    trie: Trie,
    /// For each state those that one token reaches, sorted.
    reached: Vec<Vec<u32>>,
    /// The fewest tokens from a state to an accepting one; `None` where tokens do not get there.
    distances: Vec<Option<u32>>,
}

/// Two automata are the same when they are one.
impl PartialEq for Automaton {
    fn eq(&self, other: &Automaton) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Automaton {
    /// Lifts an automaton to the tokens of a vocabulary.
    ///
    /// # Errors
    /// When it is too large or no text of it can be spelled.
    ///
    /// # Blocking
    /// For each state a walk over the trie of the vocabulary.
    pub fn new(bytes: ByteAutomaton, spellings: Arc<Spellings>) -> Result<Automaton, ConstraintError> {
        let lifted = Automaton::with(bytes, spellings, |_| true)?;
        if lifted.shortest().is_none() { Err(ConstraintError::Unspellable) } else { Ok(lifted) }
    }

    /// Returns the same structure over fewer tokens, of which maybe none spells a text alone: others may
    /// be given.
    ///
    /// # Errors
    /// When it is too large.
    ///
    /// # Blocking
    /// As [`Automaton::new`].
    pub fn restricted(&self, keeps: impl Fn(u32) -> bool) -> Result<Automaton, ConstraintError> {
        Automaton::with(self.bytes.clone(), self.spellings.clone(), keeps)
    }

    fn with(
        bytes: ByteAutomaton,
        spellings: Arc<Spellings>,
        keeps: impl Fn(u32) -> bool,
    ) -> Result<Automaton, ConstraintError> {
        if bytes.states() > MAX_STATES {
            return Err(ConstraintError::TooLarge);
        }
        let trie = Trie::of(&bytes, &spellings, keeps);
        let reached: Vec<Vec<u32>> = (0..bytes.states() as u32)
            .into_par_iter()
            .map(|state| trie.reached(&bytes, state, |node| !trie.tokens(node).is_empty()))
            .collect();
        let distances = distances(&bytes, &reached);
        Ok(Automaton { bytes, spellings, trie, reached, distances })
    }

    /// Returns the number of states; the start is state 0.
    pub fn states(&self) -> usize {
        self.bytes.states()
    }

    /// Returns how many bytes it takes, without the spellings that it shares.
    pub fn bytes(&self) -> usize {
        let lists =
            self.reached.iter().map(|reached| size_of_val(reached.as_slice()) + size_of::<Vec<u32>>());
        self.bytes.bytes() + self.trie.bytes() + lists.sum::<usize>() + size_of_val(self.distances.as_slice())
    }

    /// Returns whether a text may end in a state.
    pub fn is_accepting(&self, state: u32) -> bool {
        self.bytes.is_accepting[state as usize]
    }

    /// Returns the fewest tokens of a text; `None` when its tokens spell none.
    pub fn shortest(&self) -> Option<usize> {
        self.distances[0].map(|tokens| tokens as usize)
    }

    /// Returns where a token leads; `None` when nothing that is accepted goes on like this.
    pub fn next(&self, state: u32, token: u32) -> Option<u32> {
        let bytes = self.spellings.bytes(token);
        let next = if bytes.is_empty() { DEAD } else { self.bytes.walk(state, bytes) };
        (next != DEAD).then_some(next)
    }

    /// Returns whether a token is text.
    pub fn is_text(&self, token: u32) -> bool {
        !self.spellings.bytes(token).is_empty()
    }

    /// Returns how many ids the vocabulary has.
    pub fn vocabulary(&self) -> usize {
        self.spellings.len()
    }

    /// Returns the states that some token leads to.
    pub fn reached(&self, state: u32) -> &[u32] {
        &self.reached[state as usize]
    }

    /// Returns the states that some token but those of `except` leads to.
    pub fn reached_without(&self, state: u32, except: &[u32]) -> Vec<u32> {
        let has_others = |node: usize| self.trie.tokens(node).iter().any(|token| !except.contains(token));
        self.trie.reached(&self.bytes, state, has_others)
    }

    /// Appends the tokens that lead from one of `from` to a state that `is_wanted`.
    pub fn leading(&self, from: Vec<u32>, is_wanted: impl Fn(u32) -> bool, tokens: &mut Vec<u32>) {
        let mut sets =
            Sets { automaton: &self.bytes, sets: Vec::new(), ids: HashMap::new(), next: Vec::new() };
        let Some(start) = sets.id(from) else { return };
        // For each set whether it has a wanted state, once known.
        let mut wanted: Vec<Option<bool>> = Vec::new();
        let mut path = vec![start];
        let mut node = 0;
        while node < self.trie.nodes.len() {
            let Node { class, depth, end, .. } = self.trie.nodes[node];
            path.truncate(usize::from(depth));
            let Some(set) = sets.next(path[path.len() - 1], class) else {
                node = end as usize;
                continue;
            };
            path.push(set);
            if !self.trie.tokens(node).is_empty() {
                wanted.resize(sets.sets.len(), None);
                let is_hit = *wanted[set as usize]
                    .get_or_insert_with(|| sets.sets[set as usize].iter().any(|state| is_wanted(*state)));
                if is_hit {
                    tokens.extend_from_slice(self.trie.tokens(node));
                }
            }
            node += 1;
        }
    }
}

/// Returns for each state the fewest tokens to an accepting one, backwards from those.
fn distances(bytes: &ByteAutomaton, reached: &[Vec<u32>]) -> Vec<Option<u32>> {
    let mut sources = vec![Vec::new(); reached.len()];
    for (from, reached) in reached.iter().enumerate() {
        reached.iter().for_each(|to| sources[*to as usize].push(from));
    }
    let mut distances: Vec<Option<u32>> = bytes.is_accepting.iter().map(|a| a.then_some(0)).collect();
    let mut waiting: VecDeque<usize> = (0..reached.len()).filter(|s| bytes.is_accepting[*s]).collect();
    while let Some(state) = waiting.pop_front() {
        for from in &sources[state] {
            if distances[*from].is_none() {
                distances[*from] = distances[state].map(|tokens| tokens + 1);
                waiting.push_back(*from);
            }
        }
    }
    distances
}

/// Tokens by the classes of their bytes; nodes in the order of a walk, so that a walk is a loop.
#[derive(Debug)]
struct Trie {
    nodes: Vec<Node>,
    /// The ids of all nodes, one node's after the other.
    tokens: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    class: u8,
    /// How many bytes come before; 1 for those of a first byte, so that it counts the sets on a path.
    depth: u16,
    /// The node after the last one below this.
    end: u32,
    /// Where its ids begin; they end where the next node's begin.
    first: u32,
}

impl Trie {
    fn of(bytes: &ByteAutomaton, spellings: &Spellings, keeps: impl Fn(u32) -> bool) -> Trie {
        let is_used = |class: u8| (0..bytes.states() as u32).any(|state| bytes.next(state, class) != DEAD);
        let used: Vec<bool> = (0..bytes.classes).map(|class| is_used(class as u8)).collect();
        let mut words: Vec<(Vec<u8>, u32)> = Vec::new();
        for id in (0..spellings.len() as u32).filter(|id| keeps(*id)) {
            let word: Vec<u8> =
                spellings.bytes(id).iter().map(|byte| bytes.class_of[usize::from(*byte)]).collect();
            let is_short = word.len() < usize::from(u16::MAX);
            if !word.is_empty() && is_short && word.iter().all(|class| used[usize::from(*class)]) {
                words.push((word, id));
            }
        }
        words.sort_unstable();
        let mut trie = Trie { nodes: Vec::new(), tokens: Vec::new() };
        // The nodes from the root to the last word's.
        let mut path: Vec<usize> = Vec::new();
        let mut last: &[u8] = &[];
        for (word, id) in &words {
            let shared = word.iter().zip(last).take_while(|(a, b)| a == b).count();
            trie.close(&mut path, shared);
            for class in &word[shared..] {
                path.push(trie.nodes.len());
                let first = trie.tokens.len() as u32;
                trie.nodes.push(Node { class: *class, depth: path.len() as u16, end: 0, first });
            }
            trie.tokens.push(*id);
            last = word;
        }
        trie.close(&mut path, 0);
        trie
    }

    fn bytes(&self) -> usize {
        size_of_val(self.nodes.as_slice()) + size_of_val(self.tokens.as_slice())
    }

    /// Ends the nodes of a path from a depth on.
    fn close(&mut self, path: &mut Vec<usize>, depth: usize) {
        for node in path.drain(depth..) {
            self.nodes[node].end = self.nodes.len() as u32;
        }
    }

    /// Returns the ids that end at a node.
    fn tokens(&self, node: usize) -> &[u32] {
        let end = self.nodes.get(node + 1).map_or(self.tokens.len(), |next| next.first as usize);
        &self.tokens[self.nodes[node].first as usize..end]
    }

    /// Returns the states, sorted, that a state reaches at nodes that count.
    fn reached(&self, bytes: &ByteAutomaton, state: u32, counts: impl Fn(usize) -> bool) -> Vec<u32> {
        let mut reached = Vec::new();
        let mut path = vec![state];
        let mut node = 0;
        while node < self.nodes.len() {
            let Node { class, depth, end, .. } = self.nodes[node];
            path.truncate(usize::from(depth));
            let next = bytes.next(path[path.len() - 1], class);
            if next == DEAD {
                node = end as usize;
                continue;
            }
            path.push(next);
            if !reached.contains(&next) && counts(node) {
                reached.push(next);
            }
            node += 1;
        }
        reached.sort_unstable();
        reached
    }
}

/// Sets of states as they come up in a walk, each known by a number.
struct Sets<'a> {
    automaton: &'a ByteAutomaton,
    /// Sorted states.
    sets: Vec<Vec<u32>>,
    ids: HashMap<Vec<u32>, u32>,
    /// `[sets, classes]`: what follows, once known.
    next: Vec<Follows>,
}

#[derive(Debug, Clone, Copy)]
enum Follows {
    Unknown,
    Nothing,
    Set(u32),
}

impl Sets<'_> {
    /// Returns the number of a set, `None` for the empty one.
    fn id(&mut self, mut set: Vec<u32>) -> Option<u32> {
        set.sort_unstable();
        set.dedup();
        if set.is_empty() {
            return None;
        }
        let fresh = self.sets.len() as u32;
        let id = *self.ids.entry(set.clone()).or_insert(fresh);
        if id == fresh {
            self.sets.push(set);
            self.next.resize(self.sets.len() * self.automaton.classes, Follows::Unknown);
        }
        Some(id)
    }

    /// Returns where a byte of a class leads all states of a set.
    fn next(&mut self, set: u32, class: u8) -> Option<u32> {
        let at = set as usize * self.automaton.classes + usize::from(class);
        match self.next[at] {
            Follows::Nothing => None,
            Follows::Set(id) => Some(id),
            Follows::Unknown => {
                let follows = self.sets[set as usize].iter().map(|s| self.automaton.next(*s, class));
                let id = self.id(follows.filter(|state| *state != DEAD).collect());
                self.next[at] = id.map_or(Follows::Nothing, Follows::Set);
                id
            }
        }
    }
}

#[cfg(test)]
#[allow(missing_docs)]
pub mod tests {
    use super::*;

    /// Returns an automaton over a small vocabulary, ids in its order; no bytes for a control token.
    pub fn automaton(pattern: &str, vocabulary: &[&[u8]]) -> Automaton {
        let mut spellings = Spellings { ends: Vec::new(), bytes: Vec::new() };
        vocabulary.iter().for_each(|bytes| spellings.push(bytes));
        Automaton::new(ByteAutomaton::new(pattern).expect(pattern), Arc::new(spellings)).expect(pattern)
    }

    const VOCABULARY: [&[u8]; 8] = [b"", b"a", b"b", b"ab", b"ba", b"bab", b"\xc3", b"\xa4b"];

    #[test]
    fn tokens_lead_where_their_bytes_lead() {
        let automaton = automaton("(ab)*|ä?b", &VOCABULARY);
        for state in 0..automaton.states() as u32 {
            let mut reached: Vec<u32> = (0..8).filter_map(|token| automaton.next(state, token)).collect();
            reached.sort_unstable();
            reached.dedup();
            assert_eq!(automaton.reached(state), reached, "{state}");
            let mut without: Vec<u32> =
                [1, 2, 4, 5, 6, 7].iter().filter_map(|token| automaton.next(state, *token)).collect();
            without.sort_unstable();
            without.dedup();
            assert_eq!(automaton.reached_without(state, &[3]), without, "{state}");
        }
        assert_eq!(automaton.next(0, 0), None, "a control token is no text");
        assert_eq!(automaton.next(0, 99), None, "an id outside the vocabulary is no text");
        let half = automaton.next(0, 6).expect("half a character leads on");
        let whole = automaton.next(half, 7).expect("and its rest too");
        assert!(automaton.is_accepting(whole));
    }

    #[test]
    fn leading_tokens_are_those_of_some_state_into_some_state() {
        let automaton = automaton("(ab)*|ä?b|b(ab|a)*", &VOCABULARY);
        let states = automaton.states() as u32;
        for from in 0..1u32 << states {
            for to in 0..1u32 << states {
                let is_in = |set: u32, state: u32| set >> state & 1 == 1;
                let sources: Vec<u32> = (0..states).filter(|s| is_in(from, *s)).collect();
                let expected: Vec<u32> = (0..8)
                    .filter(|t| sources.iter().any(|s| automaton.next(*s, *t).is_some_and(|n| is_in(to, n))))
                    .collect();
                let mut tokens = Vec::new();
                automaton.leading(sources, |state| is_in(to, state), &mut tokens);
                tokens.sort_unstable();
                assert_eq!(tokens, expected, "{from:b} {to:b}");
            }
        }
    }

    #[test]
    fn the_shortest_text_is_counted_in_tokens() {
        assert_eq!(automaton("(bab){3}", &VOCABULARY).shortest(), Some(3));
        assert_eq!(automaton("ababab|ä", &VOCABULARY).shortest(), Some(3));
        assert_eq!(automaton("a*", &VOCABULARY).shortest(), Some(0));
        let whole = automaton("abab", &VOCABULARY);
        assert_eq!(whole.shortest(), Some(2));
        assert_eq!(whole.restricted(|id| id != 3).expect("letters are left").shortest(), Some(2), "a bab");
        assert_eq!(whole.restricted(|id| id != 1 && id != 3).expect("it is small").shortest(), None);
    }
}
