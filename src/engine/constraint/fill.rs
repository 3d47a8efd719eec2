//! One constrained canvas on its way: what is known, what is a hole, and what may still settle.
//!
//! Before each position stand two sets of states: those that the tokens before it can lead to, a
//! hole being any token, and those from which the tokens after it can complete the text. A token may
//! settle when it leads from the one set into the other, which is exact: then, and only then, some
//! filling of the other holes is accepted. Both sets follow what settles at once, so that several
//! tokens of one pass are checked one after the other and never contradict each other.
//!
//! A text ends at the end of the canvas or where a token ends it, in an accepting state; what comes
//! after that is padding. That is one state more, behind those of the automaton.

use std::ops::Range;
use std::sync::Arc;

use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::sequence::Form;

/// What else a canvas must keep to.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// The model's ids are below this.
    pub vocabulary: usize,
    /// Ids that are never written.
    pub banned: &'a [u32],
    /// Ids that are not written at one position of the sequence: (position, id).
    pub banned_at: &'a [(usize, u32)],
}

/// The state of one constrained canvas. Positions are those of the sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    automaton: Arc<Automaton>,
    /// Where the canvas begins.
    start: usize,
    /// Its tokens, `None` for a hole.
    tokens: Vec<Option<u32>>,
    end_of_text: u32,
    pad: u32,
    banned: Vec<u32>,
    banned_at: Vec<(usize, u32)>,
    /// Before each position, up to the end of the current block: states that what comes before leads to.
    forward: Vec<States>,
    /// Before each position from the current block on: states that what follows completes.
    backward: Vec<States>,
    /// Where the current block ends, counted from the start of the canvas.
    upto: usize,
}

impl Fill {
    /// Begins a canvas at a position.
    ///
    /// # Errors
    /// When no filling of the holes satisfies the structure.
    ///
    /// # Blocking
    /// As many steps as the canvas has tokens; longer when words of text are banned, since the
    /// structure is then lifted to tokens once more.
    pub fn new(
        automaton: &Arc<Automaton>,
        start: usize,
        tokens: Vec<Option<u32>>,
        form: Form,
        limits: Limits,
    ) -> Result<Fill, ConstraintError> {
        let controls = [form.mask, form.end_of_text, form.pad];
        let is_kept = |id: u32| {
            (id as usize) < limits.vocabulary && !limits.banned.contains(&id) && !controls.contains(&id)
        };
        let keeps_all = (0..automaton.vocabulary() as u32).all(|id| is_kept(id) || !automaton.is_text(id));
        let automaton = if keeps_all { automaton.clone() } else { Arc::new(automaton.restricted(is_kept)?) };
        let none = States::none(automaton.states() + 1);
        let len = tokens.len();
        let mut fill = Fill {
            start,
            tokens,
            end_of_text: form.end_of_text,
            pad: form.pad,
            banned: limits.banned.to_vec(),
            banned_at: limits.banned_at.to_vec(),
            forward: vec![none.clone(); len + 1],
            backward: vec![none; len + 1],
            upto: 0,
            automaton,
        };
        fill.forward[0].insert(0);
        for state in 0..fill.automaton.states() as u32 {
            if fill.automaton.is_accepting(state) {
                fill.backward[len].insert(state);
            }
        }
        let ended = fill.ended();
        fill.backward[len].insert(ended);
        for at in (0..len).rev() {
            // In a long row of holes the sets soon stay the same.
            let is_steady = at + 2 <= len
                && are_holes(&fill.tokens[at..at + 2])
                && fill.backward[at + 1] == fill.backward[at + 2]
                && !fill.banned_at.iter().any(|(p, _)| [at, at + 1].contains(&p.wrapping_sub(start)));
            fill.backward[at] = if is_steady { fill.backward[at + 1].clone() } else { fill.before(at) };
        }
        if fill.backward[0].contains(0) {
            return Ok(fill);
        }
        let is_open = are_holes(&fill.tokens);
        Err(match fill.automaton.shortest() {
            None if is_open => ConstraintError::Unspellable,
            Some(needed) if is_open && needed > len => ConstraintError::TooShort { needed, tokens: len },
            _ => ConstraintError::Unfillable { tokens: len },
        })
    }

    /// Makes the block that ends before `end` the current one; everything before it is settled.
    pub fn enter(&mut self, end: usize) {
        let end = end.saturating_sub(self.start).min(self.tokens.len());
        for at in self.upto..end {
            self.forward[at + 1] = self.after(at);
        }
        self.upto = self.upto.max(end);
    }

    /// Returns the positions of the canvas.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.start + self.tokens.len()
    }

    /// Returns the tokens that may settle at a position of the current block as it stands, at least
    /// one for every hole.
    pub fn allowed(&self, position: usize) -> Vec<u32> {
        let at = position - self.start;
        let wanted = &self.backward[at + 1];
        let ended = self.ended();
        let is_hole = self.tokens[at].is_none();
        let from = self.forward[at].iter().filter(|state| {
            // From other states a hole leads nowhere; for a token that is replaced that is not known.
            *state != ended && (!is_hole || self.backward[at].contains(*state))
        });
        let mut tokens = Vec::new();
        self.automaton.leading(from.collect(), |state| wanted.contains(state), &mut tokens);
        for token in self.endings(at) {
            let leads = |state| self.next(state, token).is_some_and(|next| wanted.contains(next));
            if !tokens.contains(&token) && self.forward[at].iter().any(leads) {
                tokens.push(token);
            }
        }
        tokens.retain(|token| !self.is_banned(at, *token));
        tokens
    }

    /// Hides the logits of tokens that may not settle at a position of the current block.
    ///
    /// What may settle gets a finite logit, so that the likeliest token always is one of them.
    pub fn mask(&self, position: usize, logits: &mut [f32]) {
        let mut allowed = self.allowed(position);
        allowed.sort_unstable();
        let mut allowed = allowed.into_iter().peekable();
        for (id, logit) in logits.iter_mut().enumerate() {
            if allowed.next_if_eq(&(id as u32)).is_none() {
                *logit = f32::NEG_INFINITY;
            } else if !logit.is_finite() {
                *logit = f32::MIN / 2.0;
            }
        }
    }

    /// Settles a token at a position of the current block when the rest can still be completed, and
    /// returns whether it did.
    pub fn settle(&mut self, position: usize, token: u32) -> bool {
        let at = position - self.start;
        let wanted = &self.backward[at + 1];
        let leads = |state| self.next(state, token).is_some_and(|next| wanted.contains(next));
        if self.is_banned(at, token) || !self.forward[at].iter().any(leads) {
            return false;
        }
        self.tokens[at] = Some(token);
        for at in at..self.upto {
            let after = self.after(at);
            if after == self.forward[at + 1] {
                break;
            }
            self.forward[at + 1] = after;
        }
        for at in (0..=at).rev() {
            let before = self.before(at);
            if before == self.backward[at] {
                break;
            }
            self.backward[at] = before;
        }
        true
    }

    /// Returns the state behind the end of the text.
    fn ended(&self) -> u32 {
        self.automaton.states() as u32
    }

    /// Returns where a token leads.
    fn next(&self, state: u32, token: u32) -> Option<u32> {
        let is_end = token == self.end_of_text;
        if state == self.ended() {
            return (is_end || token == self.pad).then_some(state);
        }
        if is_end {
            return self.automaton.is_accepting(state).then_some(self.ended());
        }
        if token == self.pad { None } else { self.automaton.next(state, token) }
    }

    fn is_banned(&self, at: usize, token: u32) -> bool {
        self.banned.contains(&token) || self.banned_at.contains(&(self.start + at, token))
    }

    /// Returns the end of text and the padding, where they may be written.
    fn endings(&self, at: usize) -> impl Iterator<Item = u32> {
        [self.end_of_text, self.pad].into_iter().filter(move |token| !self.is_banned(at, *token))
    }

    /// Returns the words of text that are banned at a hole.
    fn banned_words(&self, at: usize) -> Vec<u32> {
        let here = self.banned_at.iter().filter(|(position, _)| *position == self.start + at);
        here.map(|(_, id)| *id).filter(|id| self.automaton.is_text(*id)).collect()
    }

    /// Returns the states after a position, from those before it.
    fn after(&self, at: usize) -> States {
        let mut after = States::none(self.automaton.states() + 1);
        let token = self.tokens[at];
        let banned = if token.is_none() { self.banned_words(at) } else { Vec::new() };
        for state in self.forward[at].iter() {
            match token {
                Some(token) => self.next(state, token).into_iter().for_each(|next| after.insert(next)),
                None => self.reached(state, &banned, |next| {
                    after.insert(next);
                    false
                }),
            }
            if token.is_none() && self.endings(at).any(|token| self.next(state, token).is_some()) {
                after.insert(self.ended());
            }
        }
        after
    }

    /// Returns the states before a position, from those after it.
    fn before(&self, at: usize) -> States {
        let mut before = States::none(self.automaton.states() + 1);
        let after = &self.backward[at + 1];
        let token = self.tokens[at];
        let banned = if token.is_none() { self.banned_words(at) } else { Vec::new() };
        for state in 0..=self.ended() {
            let mut leads = false;
            match token {
                Some(token) => leads = self.next(state, token).is_some_and(|next| after.contains(next)),
                None => self.reached(state, &banned, |next| {
                    leads = after.contains(next);
                    leads
                }),
            }
            let mut ends = self.endings(at).filter_map(|token| self.next(state, token));
            if leads || (token.is_none() && ends.any(|next| after.contains(next))) {
                before.insert(state);
            }
        }
        before
    }

    /// Visits the states that a hole leads to with text, until told to stop.
    fn reached(&self, state: u32, banned: &[u32], mut stops: impl FnMut(u32) -> bool) {
        if state == self.ended() {
            return;
        }
        if banned.is_empty() {
            self.automaton.reached(state).iter().any(|next| stops(*next));
        } else {
            self.automaton.reached_without(state, banned).into_iter().any(stops);
        }
    }
}

/// Returns whether all are holes.
fn are_holes(tokens: &[Option<u32>]) -> bool {
    tokens.iter().all(Option::is_none)
}

/// A set of states.
#[derive(Debug, Clone, PartialEq, Eq)]
struct States(Box<[u64]>);

impl States {
    fn none(states: usize) -> States {
        States(vec![0; states.div_ceil(64)].into())
    }

    fn insert(&mut self, state: u32) {
        self.0[state as usize / 64] |= 1 << (state % 64);
    }

    fn contains(&self, state: u32) -> bool {
        self.0[state as usize / 64] >> (state % 64) & 1 == 1
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().enumerate().flat_map(|(i, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(i as u32 * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::config::Attention;
    use crate::engine::constraint::tokens::tests::automaton;
    use crate::engine::sequence::CacheMode;

    const MASK: u32 = 0;
    const END: u32 = 1;
    const PAD: u32 = 2;
    const VOCABULARY: [&[u8]; 7] = [b"", b"", b"", b"a", b"b", b"ab", b"ba"];
    const FORM: Form = Form {
        attention: Attention::Full,
        block: 4,
        cache: CacheMode::Exact,
        logits_shift: 0,
        mask: MASK,
        end_of_text: END,
        pad: PAD,
    };
    const PATTERNS: [&str; 7] =
        ["(ab)*", "a*b?a{2,3}", "(a|b)*abb", "ab|ba|bbbb", "(aa|bb)+", "a?b?a?b?a?", "(a(ba)*b|b*){2}"];

    fn fill(
        pattern: &str,
        tokens: &[Option<u32>],
        banned: &[u32],
        at: &[(usize, u32)],
    ) -> Result<Fill, ConstraintError> {
        let automaton = Arc::new(automaton(pattern, &VOCABULARY));
        let limits = Limits { vocabulary: VOCABULARY.len(), banned, banned_at: at };
        Fill::new(&automaton, 10, tokens.to_vec(), FORM, limits)
    }

    /// Returns every full canvas that keeps to `tokens` and satisfies `pattern`: by trying them all.
    fn fillings(pattern: &str, tokens: &[Option<u32>], banned: &[u32], at: &[(usize, u32)]) -> Vec<Vec<u32>> {
        let regex = regex::Regex::new(&format!("^(?:{pattern})$")).expect(pattern);
        let mut found = Vec::new();
        for number in 0..6usize.pow(tokens.len() as u32) {
            let digit = |i: usize| (number / 6usize.pow(i as u32) % 6) as u32 + 1;
            let canvas: Vec<u32> = (0..tokens.len()).map(digit).collect();
            let keeps = canvas.iter().zip(tokens).enumerate().all(|(i, (id, token))| match token {
                Some(token) => token == id,
                None => !banned.contains(id) && !at.contains(&(i + 10, *id)),
            });
            let text = canvas.iter().position(|id| *id == END).unwrap_or(canvas.len());
            let is_padded = canvas[text..].iter().all(|id| [END, PAD].contains(id));
            let is_text = canvas[..text].iter().all(|id| *id > PAD);
            let bytes = canvas[..text].iter().flat_map(|id| VOCABULARY[*id as usize]).copied().collect();
            if keeps && is_padded && is_text && regex.is_match(&String::from_utf8(bytes).expect("ascii")) {
                found.push(canvas);
            }
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Settling in any order keeps exactly those fillings that brute force keeps, and never gets stuck.
        #[test]
        fn what_may_settle_is_what_brute_force_completes(
            pattern in prop::sample::select(PATTERNS.to_vec()),
            frozen in prop::collection::vec(prop::option::weighted(0.2, 1u32..7), 1..6),
            banned in prop::sample::subsequence(vec![END, PAD, 3, 5], 0..2),
            at in prop::collection::vec((10usize..16, 1u32..7), 0..3),
            order in prop::collection::vec((0usize..6, 1u32..7), 12),
        ) {
            let mut tokens = frozen;
            let mut left = fillings(pattern, &tokens, &banned, &at);
            let fill = fill(pattern, &tokens, &banned, &at);
            prop_assert_eq!(fill.is_ok(), !left.is_empty(), "{:?}", fill);
            let Ok(mut fill) = fill else { return Ok(()) };
            fill.enter(10 + tokens.len());
            for (i, token) in order {
                let i = i % tokens.len();
                if tokens[i].is_some() {
                    continue;
                }
                let mut allowed = fill.allowed(10 + i);
                allowed.sort_unstable();
                let mut expected: Vec<u32> = left.iter().map(|canvas| canvas[i]).collect();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(&allowed, &expected);
                prop_assert!(!allowed.is_empty());
                prop_assert_eq!(fill.clone().settle(10 + i, token), expected.contains(&token));
                let token = allowed[token as usize % allowed.len()];
                prop_assert!(fill.settle(10 + i, token));
                tokens[i] = Some(token);
                left.retain(|canvas| canvas[i] == token);
            }
        }

        /// A settled token may be replaced by another when the others can stay.
        #[test]
        fn what_may_replace_is_what_brute_force_completes(
            pattern in prop::sample::select(PATTERNS.to_vec()),
            picks in prop::collection::vec((0usize..4, 0usize..7), 8),
        ) {
            let mut tokens = vec![None; 4];
            let Ok(mut fill) = fill(pattern, &tokens, &[], &[]) else { return Ok(()) };
            fill.enter(14);
            for (i, pick) in picks {
                tokens[i] = None;
                let left = fillings(pattern, &tokens, &[], &[]);
                let mut expected: Vec<u32> = left.iter().map(|canvas| canvas[i]).collect();
                expected.sort_unstable();
                expected.dedup();
                let mut allowed = fill.allowed(10 + i);
                allowed.sort_unstable();
                prop_assert_eq!(&allowed, &expected);
                let token = allowed[pick % allowed.len()];
                prop_assert!(fill.settle(10 + i, token));
                tokens[i] = Some(token);
            }
        }
    }

    #[test]
    fn what_cannot_be_filled_is_named_before_it_starts() {
        let error = |pattern, tokens: &[Option<u32>]| fill(pattern, tokens, &[], &[]).unwrap_err();
        assert_eq!(error("(ab){4}", &[None; 3]), ConstraintError::TooShort { needed: 4, tokens: 3 });
        assert!(fill("(ab){4}", &[None; 4], &[], &[]).is_ok());
        let quoted = [Some(4), Some(4), None];
        assert_eq!(error("(ab)*", &quoted), ConstraintError::Unfillable { tokens: 3 });
        // What is banned may be given all the same.
        assert!(fill("a*b?a{2,3}", &[None, Some(3)], &[3], &[]).is_ok());
        let error = fill("(ab)+", &[None; 4], &[3, 5, 6], &[]).unwrap_err();
        assert_eq!(error, ConstraintError::Unspellable);
    }

    #[test]
    fn masked_logits_leave_an_allowed_token_even_of_broken_ones() {
        let mut fill = fill("ab", &[None; 3], &[], &[]).expect("fits");
        fill.enter(13);
        let mut logits = [f32::NAN; 8];
        fill.mask(10, &mut logits);
        let finite: Vec<usize> = (0..8).filter(|id| logits[*id].is_finite()).collect();
        assert_eq!(finite, [3, 5], "a or ab");
    }

    #[test]
    fn blocks_are_entered_one_after_the_other() {
        let mut fill = fill("(ab)*", &[None; 6], &[], &[]).expect("fits");
        fill.enter(12);
        assert_eq!(fill.allowed(11).len(), 6, "all but the mask");
        assert!(fill.settle(10, 3) && fill.settle(11, 6));
        fill.enter(14);
        assert_eq!(fill.allowed(12), [4, 6]);
        assert!(fill.settle(13, END));
        assert_eq!(fill.allowed(12), [4]);
    }
}
