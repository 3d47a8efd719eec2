//! A regular expression to the smallest automaton over bytes that accepts the same whole texts.
//!
//! Syntax and Unicode are those of the `regex` crate, whose determinisation does the work; what is
//! kept is a table over classes of bytes without states that lead nowhere. Every text is taken
//! whole: the expression is anchored on both sides.

use std::collections::HashMap;

use regex_automata::Anchored;
use regex_automata::Input;
use regex_automata::MatchKind;
use regex_automata::dfa::Automaton as _;
use regex_automata::dfa::StartKind;
use regex_automata::dfa::dense;
use regex_automata::nfa::thompson;
use regex_automata::util::syntax;

use crate::engine::constraint::ConstraintError;

/// The most states of an automaton.
pub const MAX_STATES: usize = 8192;

/// The most bytes that one part of the determinisation may take.
pub const MAX_BYTES: usize = 64 << 20;

/// Where a byte leads that no accepted text has there.
pub const DEAD: u32 = u32::MAX;

/// An automaton over bytes; the start is state 0 and every state leads to an accepting one.
#[derive(Debug, Clone)]
pub struct ByteAutomaton {
    /// The class of each byte: bytes of one class lead everywhere to the same states.
    pub class_of: [u8; 256],
    /// How many classes there are.
    pub classes: usize,
    /// `[states, classes]`: the next state or [`DEAD`].
    next: Vec<u32>,
    /// Whether a text may end in a state.
    pub is_accepting: Vec<bool>,
}

impl ByteAutomaton {
    /// Builds the automaton of a regular expression.
    ///
    /// # Errors
    /// When the expression has an error, is too large, or accepts nothing.
    ///
    /// # Blocking
    /// Up to seconds for expressions near the limit.
    pub fn new(pattern: &str) -> Result<ByteAutomaton, ConstraintError> {
        ByteAutomaton::of_dfa(determinizer(MAX_BYTES).build(pattern))
    }

    /// Builds the automaton of one of several [`rules`](crate::engine::constraint::rules): calls are
    /// bytes that no text has.
    ///
    /// # Errors
    /// As [`ByteAutomaton::new`].
    ///
    /// # Blocking
    /// As [`ByteAutomaton::new`].
    pub fn with_calls(pattern: &str) -> Result<ByteAutomaton, ConstraintError> {
        let syntax = syntax::Config::new().utf8(false);
        ByteAutomaton::of_dfa(determinizer(MAX_BYTES).syntax(syntax).build(pattern))
    }

    /// Builds the automaton of one that is ambiguous, in no more bytes than that.
    ///
    /// # Errors
    /// When it is too large or accepts nothing.
    ///
    /// # Blocking
    /// Up to seconds near the limit.
    pub fn of_nfa(nfa: &thompson::NFA, bytes: usize) -> Result<ByteAutomaton, ConstraintError> {
        ByteAutomaton::of_dfa(determinizer(bytes).build_from_nfa(nfa))
    }

    fn of_dfa(
        built: Result<dense::DFA<Vec<u32>>, dense::BuildError>,
    ) -> Result<ByteAutomaton, ConstraintError> {
        let dfa =
            built.map_err(|error| match error.is_size_limit_exceeded() || is_nfa_too_large(&error) {
                true => ConstraintError::TooLarge,
                false => ConstraintError::Regex(reason(&error)),
            })?;
        let table = Table::of(&dfa)?.without_dead_ends()?;
        Ok(table.smallest())
    }

    /// Returns how many bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.next.as_slice()) + self.is_accepting.len()
    }

    /// Returns the number of states.
    pub fn states(&self) -> usize {
        self.is_accepting.len()
    }

    /// Returns where a byte of a class leads, or [`DEAD`].
    pub fn next(&self, state: u32, class: u8) -> u32 {
        self.next[state as usize * self.classes + usize::from(class)]
    }

    /// Returns where bytes lead, or [`DEAD`].
    pub fn walk(&self, mut state: u32, bytes: &[u8]) -> u32 {
        for byte in bytes {
            if state == DEAD {
                return DEAD;
            }
            state = self.next(state, self.class_of[usize::from(*byte)]);
        }
        state
    }
}

/// Returns what makes automata, in no more bytes than that for each of its parts.
fn determinizer(bytes: usize) -> dense::Builder {
    // All matches are followed, not the preferred one: whether the whole text is one is what counts.
    let config = dense::Config::new()
        .match_kind(MatchKind::All)
        .start_kind(StartKind::Anchored)
        .dfa_size_limit(Some(bytes))
        .determinize_size_limit(Some(bytes));
    let mut builder = dense::Builder::new();
    builder.configure(config).thompson(thompson::Config::new().nfa_size_limit(Some(bytes)));
    builder
}

/// Returns whether the determinisation did not even begin, for lack of room.
fn is_nfa_too_large(error: &dyn std::error::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<thompson::BuildError>());
    cause.is_some_and(|cause| cause.size_limit().is_some())
}

/// Returns what an error comes from in the end.
fn reason(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => reason(source),
        None => error.to_string(),
    }
}

/// An automaton on the way: a row of 256 next states for each state, the start first.
struct Table {
    rows: Vec<[u32; 256]>,
    is_accepting: Vec<bool>,
}

impl Table {
    /// Numbers the states that can be reached.
    fn of(dfa: &dense::DFA<Vec<u32>>) -> Result<Table, ConstraintError> {
        let input = Input::new("").anchored(Anchored::Yes);
        let start =
            dfa.start_state_forward(&input).map_err(|error| ConstraintError::Regex(error.to_string()))?;
        let mut ids = vec![start];
        let mut numbers = HashMap::from([(start, 0)]);
        let mut table = Table { rows: Vec::new(), is_accepting: Vec::new() };
        while table.rows.len() < ids.len() {
            let id = ids[table.rows.len()];
            let mut row = [DEAD; 256];
            for byte in 0..=u8::MAX {
                let next = dfa.next_state(id, byte);
                if dfa.is_dead_state(next) || dfa.is_quit_state(next) {
                    continue;
                }
                row[usize::from(byte)] = *numbers.entry(next).or_insert_with(|| {
                    ids.push(next);
                    ids.len() as u32 - 1
                });
            }
            table.rows.push(row);
            table.is_accepting.push(dfa.is_match_state(dfa.next_eoi_state(id)));
            // Smallest automata have fewer states; not so many fewer.
            if ids.len() > 8 * MAX_STATES {
                return Err(ConstraintError::TooLarge);
            }
        }
        Ok(table)
    }

    /// Cuts off what leads to no accepting state.
    fn without_dead_ends(mut self) -> Result<Table, ConstraintError> {
        let mut sources = vec![Vec::new(); self.rows.len()];
        for (from, row) in self.rows.iter().enumerate() {
            for to in row.iter().filter(|to| **to != DEAD) {
                if sources[*to as usize].last() != Some(&from) {
                    sources[*to as usize].push(from);
                }
            }
        }
        let mut is_live = self.is_accepting.clone();
        let mut waiting: Vec<usize> = (0..is_live.len()).filter(|s| is_live[*s]).collect();
        while let Some(state) = waiting.pop() {
            for from in &sources[state] {
                if !is_live[*from] {
                    is_live[*from] = true;
                    waiting.push(*from);
                }
            }
        }
        if !is_live[0] {
            return Err(ConstraintError::Nothing);
        }
        for to in self.rows.iter_mut().flat_map(|row| row.iter_mut()) {
            if *to != DEAD && !is_live[*to as usize] {
                *to = DEAD;
            }
        }
        Ok(self)
    }

    /// Returns the classes of bytes and how many there are.
    fn classes(&self) -> ([u8; 256], usize) {
        let mut class_of = [0; 256];
        let mut columns: HashMap<Vec<u32>, u8> = HashMap::new();
        for byte in 0..256 {
            let column = self.rows.iter().map(|row| row[byte]).collect();
            let fresh = columns.len() as u8;
            class_of[byte] = *columns.entry(column).or_insert(fresh);
        }
        (class_of, columns.len())
    }

    /// Merges states that accept the same texts (Hopcroft 1971).
    fn smallest(&self) -> ByteAutomaton {
        let (class_of, classes) = self.classes();
        let mut byte_of = vec![0; classes];
        for (byte, class) in class_of.iter().enumerate() {
            byte_of[usize::from(*class)] = byte;
        }
        // The state where dead ends lead is one more, so that the table is total.
        let states = self.rows.len();
        let next = |state: usize, class: usize| match self.rows.get(state).map(|r| r[byte_of[class]]) {
            Some(to) if to != DEAD => to as usize,
            _ => states,
        };
        let mut sources = vec![Vec::new(); (states + 1) * classes];
        for state in 0..=states {
            for class in 0..classes {
                sources[next(state, class) * classes + class].push(state);
            }
        }
        let (accepting, others) = (0..=states).partition(|s| self.is_accepting.get(*s) == Some(&true));
        let mut groups: Vec<Vec<usize>> = vec![accepting, others];
        let mut group_of = vec![0; states + 1];
        groups[1].iter().for_each(|state| group_of[*state] = 1);
        let mut waiting = vec![0, 1];
        let mut waits = vec![true, true];
        while let Some(group) = waiting.pop() {
            waits[group] = false;
            let members = groups[group].clone();
            for class in 0..classes {
                let mut touched: HashMap<usize, Vec<usize>> = HashMap::new();
                for from in members.iter().flat_map(|to| &sources[to * classes + class]) {
                    touched.entry(group_of[*from]).or_default().push(*from);
                }
                for (old, part) in touched {
                    if part.len() == groups[old].len() {
                        continue;
                    }
                    let new = groups.len();
                    part.iter().for_each(|state| group_of[*state] = new);
                    groups[old].retain(|state| group_of[*state] == old);
                    groups.push(part);
                    // The smaller half is enough, but what waits must wait in both parts.
                    let next = if waits[old] || groups[new].len() <= groups[old].len() { new } else { old };
                    waits.push(false);
                    waits[next] = true;
                    waiting.push(next);
                }
            }
        }
        self.merged(&group_of, class_of, &byte_of)
    }

    /// Writes the automaton of groups of states, numbered from the start's.
    fn merged(&self, group_of: &[usize], class_of: [u8; 256], byte_of: &[usize]) -> ByteAutomaton {
        let dead = group_of[self.rows.len()];
        let mut numbers = HashMap::from([(group_of[0], 0u32)]);
        let mut examples = vec![0];
        let mut automaton =
            ByteAutomaton { class_of, classes: byte_of.len(), next: Vec::new(), is_accepting: Vec::new() };
        while automaton.is_accepting.len() < examples.len() {
            let state = examples[automaton.is_accepting.len()];
            automaton.is_accepting.push(self.is_accepting[state]);
            for byte in byte_of {
                let to = self.rows[state][*byte];
                automaton.next.push(if to == DEAD || group_of[to as usize] == dead {
                    DEAD
                } else {
                    *numbers.entry(group_of[to as usize]).or_insert_with(|| {
                        examples.push(to as usize);
                        examples.len() as u32 - 1
                    })
                });
            }
        }
        automaton
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks which texts are accepted and how many states that takes.
    fn check(pattern: &str, states: usize, accepted: &[&str], refused: &[&str]) {
        let automaton = ByteAutomaton::new(pattern).expect(pattern);
        let accepts = |text: &str| {
            let end = automaton.walk(0, text.as_bytes());
            end != DEAD && automaton.is_accepting[end as usize]
        };
        accepted.iter().for_each(|text| assert!(accepts(text), "{pattern} refuses {text:?}"));
        refused.iter().for_each(|text| assert!(!accepts(text), "{pattern} accepts {text:?}"));
        assert_eq!(automaton.states(), states, "{pattern}");
    }

    #[test]
    fn whole_texts_are_accepted_by_the_smallest_automaton() {
        check("", 1, &[""], &["a"]);
        check("abc", 4, &["abc"], &["", "ab", "abcd", "xabc"]);
        check("a|ab|abc", 4, &["a", "ab", "abc"], &["abcd", "b"]);
        check("(ab)*", 2, &["", "ab", "abab"], &["a", "aba"]);
        check("a*?", 1, &["", "aaa"], &["b"]);
        check("^x$", 2, &["x"], &["xx"]);
        check("(a|b)*a(a|b)", 4, &["aa", "bbab"], &["ba", "bb", ""]);
        check("(xa?b?|yb?|z)?", 4, &["", "xab", "xb", "yb", "z"], &["ya", "xba"]);
        check("ä", 3, &["ä"], &["a", "Ä"]);
    }

    #[test]
    fn errors_are_named() {
        let error = |pattern: &str| ByteAutomaton::new(pattern).unwrap_err();
        assert!(matches!(error("(a"), ConstraintError::Regex(reason) if reason.contains("unclosed group")));
        assert!(matches!(error(r"\bx"), ConstraintError::Regex(_)));
        assert!(matches!(error("[a&&b]"), ConstraintError::Nothing));
        assert!(matches!(error(r"\w{20000}"), ConstraintError::TooLarge));
    }
}
