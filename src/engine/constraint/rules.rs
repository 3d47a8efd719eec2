//! Rules that call one another, as an automaton over bytes.
//!
//! A rule is a regular expression with calls in it. Calls that come back to the rule they came from
//! make a structure that no automaton can follow to any depth, so that depth is cut: as many calls of
//! recursive rules may be open at once as a budget of states allows. What is left out is what nests
//! deeper, never what is wrong: every text of the automaton is one of the rules. A call at the end of
//! a rule leaves nothing to come back for and is a jump, so lists that recurse to one side are
//! whole (the classes of grammars that are regular though recursive: Nederhof 2000, "Practical
//! experiments with regular approximation of context-free languages").

use std::collections::HashMap;

use regex_automata::nfa::thompson;
use regex_automata::nfa::thompson::BuildError;
use regex_automata::nfa::thompson::Transition;
use regex_automata::util::primitives::StateID;

use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::regex;
use crate::engine::constraint::regex::ByteAutomaton;
use crate::engine::constraint::regex::DEAD;

/// The most rules.
pub const MAX_RULES: usize = 512;
/// The most calls of recursive rules that may be open at once.
pub const MAX_DEPTH: usize = 64;
/// The most states that an automaton may take to nest deeper.
pub const MAX_RECURSIVE_STATES: usize = 4096;
/// The most bytes that one try at a depth may take.
const MAX_BYTES: usize = 2 << 20;
/// The byte that begins a call: no text has it, for it is no part of UTF-8.
const CALL: u8 = 0xff;

/// Rules, the first of which is the whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Regular expressions with calls.
    pub patterns: Vec<String>,
}

/// Returns the regular expression of a call.
pub fn call(rule: usize) -> String {
    format!(r"(?-u:\x{CALL:02X}\x{:02X}\x{:02X})", rule >> 8 & 0xff, rule & 0xff)
}

/// Rules as an automaton.
#[derive(Debug, Clone)]
pub struct Cut {
    /// What accepts the texts.
    pub automaton: ByteAutomaton,
    /// How many calls of recursive rules may be open at once; `None` when nothing is cut off.
    pub depth: Option<usize>,
}

impl Rules {
    /// Returns the automaton that nests as deep as the budget of states allows.
    ///
    /// # Errors
    /// When a rule has an error, nothing is accepted, or the automaton is too large even without
    /// recursion.
    ///
    /// # Blocking
    /// Up to seconds near the limits.
    pub fn automaton(&self) -> Result<Cut, ConstraintError> {
        let has_calls = self.patterns.len() > 1 || self.patterns[0].contains(&call(0));
        if !has_calls {
            return Ok(Cut { automaton: ByteAutomaton::new(&self.patterns[0])?, depth: None });
        }
        let nets = Nets::of(&self.patterns)?;
        if !nets.recurs() {
            return nets.cut(0, regex::MAX_BYTES);
        }
        let fits = |depth: usize| match nets.cut(depth, MAX_BYTES) {
            Ok(cut) if cut.automaton.states() > MAX_RECURSIVE_STATES => Err(ConstraintError::TooLarge),
            other => other,
        };
        // Doubled until it is whole or too large, then halved in between.
        let (mut best, mut low, mut high) = (fits(0), 0, 1);
        let mut is_too_large = matches!(best, Err(ConstraintError::TooLarge));
        while !is_too_large && low < MAX_DEPTH {
            match fits(high) {
                Ok(whole @ Cut { depth: None, .. }) => return Ok(whole),
                Err(ConstraintError::TooLarge) => is_too_large = true,
                found => (best, low, high) = (found, high, high * 2),
            }
        }
        while is_too_large && high - low > 1 {
            let middle = low + (high - low) / 2;
            match fits(middle) {
                Err(ConstraintError::TooLarge) => high = middle,
                found => (best, low) = (found, middle),
            }
        }
        best
    }
}

/// The rules as automata of their own, with calls as edges.
struct Nets {
    /// `None` for a rule that accepts nothing.
    nets: Vec<Option<Net>>,
    /// `[rules, rules]`: whether one may come to call another.
    reaches: Vec<Vec<bool>>,
}

/// One rule: state 0 is its start.
struct Net {
    edges: Vec<Vec<Edge>>,
    is_accepting: Vec<bool>,
}

#[derive(Clone, Copy)]
enum Edge {
    Bytes { start: u8, end: u8, to: usize },
    Call { rule: usize, to: usize },
}

impl Net {
    fn of(automaton: &ByteAutomaton) -> Net {
        let next = |state: usize, byte: u8| {
            let to = automaton.next(state as u32, automaton.class_of[usize::from(byte)]);
            (to != DEAD).then_some(to as usize)
        };
        let mut edges = vec![Vec::new(); automaton.states()];
        for (state, edges) in edges.iter_mut().enumerate() {
            for byte in 0..CALL {
                let Some(to) = next(state, byte) else { continue };
                match edges.last_mut() {
                    Some(Edge::Bytes { end, to: last, .. }) if *last == to && *end + 1 == byte => *end = byte,
                    _ => edges.push(Edge::Bytes { start: byte, end: byte, to }),
                }
            }
            let Some(called) = next(state, CALL) else { continue };
            for high in 0..=u8::MAX {
                let Some(middle) = next(called, high) else { continue };
                for low in 0..=u8::MAX {
                    if let Some(to) = next(middle, low) {
                        let rule = usize::from(high) << 8 | usize::from(low);
                        edges.push(Edge::Call { rule, to });
                    }
                }
            }
        }
        Net { edges, is_accepting: automaton.is_accepting.clone() }
    }

    /// Returns whether nothing follows a state, so that a call that leads to it is the last.
    fn is_end(&self, state: usize) -> bool {
        self.is_accepting[state] && self.edges[state].is_empty()
    }
}

impl Nets {
    fn of(patterns: &[String]) -> Result<Nets, ConstraintError> {
        let mut nets = Vec::new();
        for pattern in patterns {
            nets.push(match ByteAutomaton::with_calls(pattern) {
                Ok(automaton) => Some(Net::of(&automaton)),
                Err(ConstraintError::Nothing) => None,
                Err(error) => return Err(error),
            });
        }
        let called = |rule: usize| {
            let edges = nets[rule].iter().flat_map(|net: &Net| net.edges.iter().flatten());
            edges.filter_map(|edge| if let Edge::Call { rule, .. } = edge { Some(*rule) } else { None })
        };
        let mut reaches = vec![vec![false; patterns.len()]; patterns.len()];
        for (rule, reaches) in reaches.iter_mut().enumerate() {
            let mut waiting: Vec<usize> = called(rule).collect();
            while let Some(other) = waiting.pop() {
                if !reaches[other] {
                    reaches[other] = true;
                    waiting.extend(called(other));
                }
            }
        }
        Ok(Nets { nets, reaches })
    }

    /// Returns whether a rule that matters calls itself.
    fn recurs(&self) -> bool {
        (0..self.nets.len()).any(|rule| (rule == 0 || self.reaches[0][rule]) && self.reaches[rule][rule])
    }

    /// Returns the automaton in which so many calls of recursive rules may be open.
    fn cut(&self, depth: usize, bytes: usize) -> Result<Cut, ConstraintError> {
        let mut unfolding = Unfolding {
            nets: self,
            builder: thompson::Builder::new(),
            instances: HashMap::new(),
            waiting: Vec::new(),
            depth,
            is_cut: false,
        };
        let nfa = unfolding.nfa(bytes).map_err(|error| match error.size_limit() {
            Some(_) => ConstraintError::TooLarge,
            None => ConstraintError::Regex(error.to_string()),
        })?;
        let automaton = ByteAutomaton::of_nfa(&nfa, bytes)?;
        Ok(Cut { automaton, depth: unfolding.is_cut.then_some(depth) })
    }
}

/// Rules on their way to one automaton that needs no stack: a copy of a rule for each place that it
/// comes back to.
struct Unfolding<'a> {
    nets: &'a Nets,
    builder: thompson::Builder,
    /// Where the copy of a rule begins that comes back to a state.
    instances: HashMap<Instance, StateID>,
    waiting: Vec<(Instance, StateID)>,
    depth: usize,
    is_cut: bool,
}

/// A copy of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Instance {
    rule: usize,
    /// The state that follows its end.
    back: StateID,
    /// The calls of recursive rules that are open.
    depth: usize,
}

impl Unfolding<'_> {
    fn nfa(&mut self, bytes: usize) -> Result<thompson::NFA, Box<BuildError>> {
        self.builder.set_size_limit(Some(bytes))?;
        self.builder.start_pattern()?;
        let end = self.builder.add_match()?;
        let fail = self.builder.add_fail()?;
        let start = self.start(Instance { rule: 0, back: end, depth: 0 })?;
        while let Some((instance, start)) = self.waiting.pop() {
            self.unfold(instance, start, fail)?;
        }
        self.builder.finish_pattern(start)?;
        Ok(self.builder.build(start, start)?)
    }

    /// Returns where a copy begins; it is made later if it is new.
    fn start(&mut self, instance: Instance) -> Result<StateID, Box<BuildError>> {
        if let Some(start) = self.instances.get(&instance) {
            return Ok(*start);
        }
        let start = self.builder.add_union(Vec::new())?;
        self.instances.insert(instance, start);
        self.waiting.push((instance, start));
        Ok(start)
    }

    fn unfold(&mut self, instance: Instance, start: StateID, fail: StateID) -> Result<(), Box<BuildError>> {
        let Some(net) = &self.nets.nets[instance.rule] else { return Ok(()) };
        let mut states = vec![start];
        for _ in 1..net.edges.len() {
            states.push(self.builder.add_union(Vec::new())?);
        }
        for (state, edges) in net.edges.iter().enumerate() {
            // With a second way out the builder does not take the state for a plain arrow: those it
            // follows without end where they make a ring.
            self.builder.patch(states[state], fail)?;
            if net.is_accepting[state] {
                self.builder.patch(states[state], instance.back)?;
            }
            for edge in edges {
                let next = match *edge {
                    Edge::Bytes { start, end, to } => {
                        self.builder.add_range(Transition { start, end, next: states[to] })?
                    }
                    Edge::Call { rule, to } => match self.called(instance, net, rule, states[to], to) {
                        Some(called) => self.start(called)?,
                        None => continue,
                    },
                };
                self.builder.patch(states[state], next)?;
            }
        }
        Ok(())
    }

    /// Returns the copy that a call leads to, `None` where it would nest too deep.
    fn called(
        &mut self,
        caller: Instance,
        net: &Net,
        rule: usize,
        back: StateID,
        to: usize,
    ) -> Option<Instance> {
        if net.is_end(to) {
            return Some(Instance { rule, ..caller });
        }
        let is_recursive = self.nets.reaches[rule][caller.rule];
        let depth = caller.depth + usize::from(is_recursive);
        if depth > self.depth {
            self.is_cut = true;
            return None;
        }
        Some(Instance { rule, back, depth })
    }
}
