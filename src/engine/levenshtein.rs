//! LLaDA2.2's decoder: masks become tokens, tokens become others, and places vanish or open up.
//!
//! Beside tokens of text the model may put two instructions: DELETE takes a place out and what
//! follows closes up, INSERT opens a mask before what stands there. The block keeps its length: what
//! is missing at the end is masked, what is too much is cut off. Where tokens of the request stand in
//! the block, each stretch between them is edited for itself, so that they stay where they are.
//!
//! A block always comes to its end: masks that it began with only grow fewer, an even share at least
//! in each pass; once they are gone `max_post_steps` passes may edit, the last of which settles every
//! mask and gives no instruction.

use serde::Deserialize;
use serde::Serialize;

use crate::engine::sampler::Candidate;
use crate::engine::sampler::Choice;
use crate::engine::sampler::Rule;
use crate::engine::sampler::even_share;

/// How often a pass that would come back to an earlier state tries to avoid it.
const MOST_DETOURS: usize = 5;

/// The rule with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Levenshtein {
    /// The least confidence that settles a mask.
    pub threshold: f32,
    /// The least confidence that replaces or takes out a settled token, or opens a place before it.
    pub editing_threshold: f32,
    /// The most passes that masks of the block's beginning are shared out over.
    pub steps: usize,
    /// Passes after the last of those is settled.
    pub max_post_steps: usize,
    /// The instruction to take a place out.
    pub delete: u32,
    /// The instruction to open a mask.
    pub insert: u32,
}

impl Levenshtein {
    /// Returns the rule that replaces tokens but moves none.
    pub fn without_instructions(self) -> Rule {
        let Levenshtein { threshold, editing_threshold, max_post_steps, .. } = self;
        Rule::ThresholdEdit { threshold, editing_threshold, max_post_steps }
    }

    fn is_instruction(&self, token: u32) -> bool {
        token == self.delete || token == self.insert
    }
}

/// A block between its passes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Editing {
    /// Where a mask stands that was there when the block began.
    original: Vec<bool>,
    /// How many there were.
    originals: usize,
    /// Passes since the last of them was settled.
    post: usize,
    /// The states that the block was in.
    seen: Vec<Vec<u32>>,
}

/// The block that a pass changes.
#[derive(Debug)]
pub struct EditedBlock<'a> {
    /// Its tokens.
    pub tokens: &'a mut [u32],
    /// How sure the model was of each when it settled.
    pub confidences: &'a mut [f32],
    /// Which of them stay.
    pub frozen: &'a [bool],
    /// The id of a masked one.
    pub mask: u32,
    /// The number of the pass, from 0.
    pub pass: usize,
    /// The most masks that may settle, as long as no pass is the last.
    pub most: usize,
}

/// What a pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edited {
    /// Masks that were settled or followed as instructions.
    pub unmasked: usize,
    /// Settled tokens that were replaced, taken out or moved on.
    pub edited: usize,
    /// Whether the block needs no further pass.
    pub is_done: bool,
}

/// A position as it would be after the pass.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    token: u32,
    confidence: f32,
    is_original: bool,
}

impl Editing {
    /// Begins a block.
    pub fn new(tokens: &[u32], mask: u32) -> Editing {
        let original: Vec<bool> = tokens.iter().map(|token| *token == mask).collect();
        let originals = original.iter().filter(|o| **o).count();
        Editing { original, originals, post: 0, seen: vec![tokens.to_vec()] }
    }

    /// Applies the candidates of one pass; `at` of a candidate counts from the block's start.
    pub fn apply(&mut self, rule: &Levenshtein, block: EditedBlock<'_>, candidates: &[Candidate]) -> Edited {
        let mask = block.mask;
        let left = self.original.iter().filter(|o| **o).count();
        self.post = if left == 0 { self.post + 1 } else { 0 };
        let (chosen, is_last) = self.chosen(rule, &block, candidates, left);

        // What each position takes, in the order of the candidates.
        let mut taken: Vec<(usize, Choice)> = Vec::new();
        for (i, candidate) in candidates.iter().enumerate() {
            let choice = if is_last { candidate.text } else { candidate.choice() };
            let old = block.tokens[candidate.at];
            let is_taken = match old == mask {
                true => chosen.contains(&i),
                false => choice.token != old && choice.confidence > rule.editing_threshold,
            };
            if is_taken && !block.frozen[candidate.at] {
                taken.push((i, choice));
            }
        }
        let mut places = self.edited(rule, &block, candidates, &taken);
        let is_new = |places: &[Place], seen: &[Vec<u32>]| !seen.iter().any(|state| is_state(places, state));
        let is_over = is_state(&places, block.tokens) && !block.tokens.contains(&mask);
        if !is_last && !is_over {
            // The least sure changes give way first, to the next likeliest token of text.
            let mut order: Vec<usize> = (0..taken.len()).collect();
            order.sort_by(|a, b| taken[*a].1.confidence.total_cmp(&taken[*b].1.confidence));
            for at in order.into_iter().take(MOST_DETOURS) {
                if is_new(&places, &self.seen) {
                    break;
                }
                taken[at].1 = candidates[taken[at].0].second;
                places = self.edited(rule, &block, candidates, &taken);
            }
        }
        let is_masked = |(i, _): &&(usize, Choice)| block.tokens[candidates[*i].at] == mask;
        let unmasked = taken.iter().filter(is_masked).count();
        let is_same = is_state(&places, block.tokens);
        for (i, place) in places.iter().enumerate() {
            block.tokens[i] = place.token;
            block.confidences[i] = place.confidence;
            self.original[i] = place.is_original;
        }
        self.seen.push(block.tokens.to_vec());
        let is_done = !block.tokens.contains(&mask) && (is_same || self.post >= rule.max_post_steps);
        Edited { unmasked, edited: taken.len() - unmasked, is_done }
    }

    /// Returns the candidates whose masks settle, and whether this is the last pass.
    fn chosen(
        &self,
        rule: &Levenshtein,
        block: &EditedBlock<'_>,
        candidates: &[Candidate],
        left: usize,
    ) -> (Vec<usize>, bool) {
        let mut masked: Vec<usize> =
            (0..candidates.len()).filter(|i| block.tokens[candidates[*i].at] == block.mask).collect();
        // A stable sort: of equal positions the first settles first.
        masked.sort_by(|a, b| candidates[*b].confidence.total_cmp(&candidates[*a].confidence));
        let sure = masked.iter().filter(|i| candidates[**i].confidence > rule.threshold).count();
        let need = match block.pass < rule.steps {
            true => even_share(self.originals, rule.steps, block.pass) + masked.len() - left,
            false => masked.len(),
        };
        let all = masked.clone();
        masked.truncate(sure.max(need).min(block.most.max(1)));
        let covered = masked.iter().filter(|i| self.original[candidates[**i].at]).count();
        let is_last = match rule.max_post_steps {
            0 => covered == left,
            most => self.post >= most,
        };
        if is_last { (all, true) } else { (masked, false) }
    }

    /// Returns the block with what was taken put in place, stretch by stretch.
    fn edited(
        &self,
        rule: &Levenshtein,
        block: &EditedBlock<'_>,
        candidates: &[Candidate],
        taken: &[(usize, Choice)],
    ) -> Vec<Place> {
        let mut choices = vec![None; block.tokens.len()];
        for (i, choice) in taken {
            choices[candidates[*i].at] = Some(*choice);
        }
        let opened = Place { token: block.mask, confidence: 1.0, is_original: false };
        let old = |i: usize| Place {
            token: block.tokens[i],
            confidence: block.confidences[i],
            is_original: self.original[i],
        };
        let mut places: Vec<Place> = Vec::new();
        for stretch in block.frozen.chunk_by(|a, b| a == b) {
            let start = places.len();
            for (i, choice) in choices.iter().enumerate().skip(start).take(stretch.len()) {
                match choice {
                    None => places.push(old(i)),
                    Some(choice) if choice.token == rule.delete => {}
                    // The mask that was there has been asked: it counts among the opened ones now.
                    Some(choice) if choice.token == rule.insert => {
                        places.extend([opened, Place { is_original: false, ..old(i) }]);
                    }
                    Some(Choice { token, confidence }) => {
                        places.push(Place { token: *token, confidence: *confidence, is_original: false });
                    }
                }
            }
            places.resize(start + stretch.len(), opened);
        }
        debug_assert!(places.iter().all(|place| !rule.is_instruction(place.token)));
        places
    }
}

fn is_state(places: &[Place], state: &[u32]) -> bool {
    places.iter().map(|place| place.token).eq(state.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: u32 = 0;
    const DELETE: u32 = 8;
    const INSERT: u32 = 9;
    const RULE: Levenshtein = Levenshtein {
        threshold: 0.7,
        editing_threshold: 0.5,
        steps: 4,
        max_post_steps: 3,
        delete: DELETE,
        insert: INSERT,
    };

    /// A block with what the model would put at each place that may change.
    struct Case {
        tokens: Vec<u32>,
        confidences: Vec<f32>,
        frozen: Vec<bool>,
        editing: Editing,
        pass: usize,
    }

    impl Case {
        fn new(tokens: &[u32], frozen: &[usize]) -> Case {
            Case {
                tokens: tokens.to_vec(),
                confidences: vec![1.0; tokens.len()],
                frozen: (0..tokens.len()).map(|i| frozen.contains(&i)).collect(),
                editing: Editing::new(tokens, MASK),
                pass: 0,
            }
        }

        /// Runs a pass on made-up logits: (position, token, probability); elsewhere what stands there
        /// is certain and for a mask nothing is. The likeliest text is 5, the next likeliest 6.
        fn pass(&mut self, rule: &Levenshtein, said: &[(usize, u32, f32)]) -> Edited {
            let candidate = |at: usize| {
                let of_mask = self.tokens[at] == MASK;
                let silent = if of_mask { (at, 5, 0.01) } else { (at, self.tokens[at], 0.99) };
                let (_, token, confidence) = said.iter().copied().find(|s| s.0 == at).unwrap_or(silent);
                let said = Choice { token, confidence };
                let text = match rule.is_instruction(token) {
                    true => Choice { token: 5, confidence: 0.6 },
                    false => said,
                };
                let second =
                    Choice { token: if text.token == 5 && token == 5 { 6 } else { 5 }, confidence: 0.2 };
                Candidate { at, token, confidence, entropy: 0.0, text, second }
            };
            let candidates: Vec<Candidate> =
                (0..self.tokens.len()).filter(|at| !self.frozen[*at]).map(candidate).collect();
            let block = EditedBlock {
                tokens: &mut self.tokens,
                confidences: &mut self.confidences,
                frozen: &self.frozen,
                mask: MASK,
                pass: self.pass,
                most: usize::MAX,
            };
            self.pass += 1;
            self.editing.apply(rule, block, &candidates)
        }
    }

    #[test]
    fn masks_settle_that_are_sure_and_an_even_share_where_none_is() {
        let mut case = Case::new(&[MASK; 4], &[]);
        let edited = case.pass(&RULE, &[(0, 5, 0.8), (2, 6, 0.9)]);
        assert_eq!((case.tokens.as_slice(), edited.unmasked), (&[5, MASK, 6, MASK][..], 2));
        case.pass(&RULE, &[(3, 7, 0.2)]);
        assert_eq!(case.tokens, [5, MASK, 6, 7], "one of four masks over four passes");
        assert_eq!(case.confidences[2..], [0.9, 0.2]);
    }

    #[test]
    fn a_deletion_closes_up_and_opens_a_mask_at_the_end() {
        let mut case = Case::new(&[MASK, 5, 6, 7], &[]);
        let edited = case.pass(&RULE, &[(0, DELETE, 0.8), (2, DELETE, 0.6)]);
        assert_eq!(case.tokens, [5, 7, MASK, MASK]);
        assert_eq!(edited, Edited { unmasked: 1, edited: 1, is_done: false });
        let mut case = Case::new(&[5, 6], &[]);
        case.pass(&RULE, &[(0, DELETE, 0.4)]);
        assert_eq!(case.tokens, [5, 6], "not sure enough");
    }

    #[test]
    fn an_insertion_opens_a_mask_and_what_is_too_much_is_cut_off() {
        let mut case = Case::new(&[5, 6, 7, 4], &[]);
        let edited = case.pass(&RULE, &[(1, INSERT, 0.6)]);
        assert_eq!(case.tokens, [5, MASK, 6, 7]);
        assert_eq!(edited, Edited { unmasked: 0, edited: 1, is_done: false });
        // The opened mask settles in the next pass, sure or not.
        case.pass(&RULE, &[(1, 4, 0.1)]);
        assert_eq!(case.tokens, [5, 4, 6, 7]);
    }

    #[test]
    fn tokens_are_replaced_when_another_is_sure_enough() {
        let mut case = Case::new(&[5, 6, MASK], &[]);
        let edited = case.pass(&RULE, &[(0, 7, 0.6), (1, 7, 0.5), (2, 7, 0.9)]);
        assert_eq!((case.tokens.as_slice(), edited.edited), (&[7, 6, 7][..], 1));
    }

    #[test]
    fn given_tokens_stay_where_they_are_and_each_stretch_is_edited_for_itself() {
        let mut case = Case::new(&[3, MASK, 5, 6, 3, 4, MASK], &[0, 4]);
        case.pass(&RULE, &[(1, DELETE, 0.9), (2, DELETE, 0.9), (5, INSERT, 0.9), (6, 7, 0.1)]);
        assert_eq!(case.tokens, [3, 6, MASK, MASK, 3, MASK, 4]);
    }

    #[test]
    fn a_block_is_done_when_a_pass_changes_nothing() {
        let mut case = Case::new(&[MASK, 5], &[]);
        assert!(!case.pass(&RULE, &[(0, 6, 0.9)]).is_done, "it may still be edited");
        assert!(case.pass(&RULE, &[]).is_done);
        assert_eq!(case.tokens, [6, 5]);
    }

    #[test]
    fn the_last_pass_settles_every_mask_and_follows_no_instruction() {
        let mut case = Case::new(&[MASK, 4, 4], &[]);
        // It goes on and on deleting, each time in another state.
        case.pass(&RULE, &[(0, 6, 0.9)]);
        case.pass(&RULE, &[(1, DELETE, 0.9)]);
        assert_eq!(case.tokens, [6, 4, MASK]);
        case.pass(&RULE, &[(0, 7, 0.9), (2, INSERT, 0.1)]);
        let last = case.pass(&RULE, &[(1, DELETE, 0.9), (2, DELETE, 0.9)]);
        assert!(last.is_done);
        assert_eq!(case.tokens, [7, 5, 5], "the likeliest text instead");
    }

    #[test]
    fn without_passes_after_it_the_pass_that_covers_all_masks_is_the_last() {
        let rule = Levenshtein { max_post_steps: 0, ..RULE };
        let mut case = Case::new(&[MASK, MASK], &[]);
        let edited = case.pass(&rule, &[(0, DELETE, 0.9), (1, 6, 0.9)]);
        assert!(edited.is_done);
        assert_eq!(case.tokens, [5, 6]);
    }

    #[test]
    fn a_state_that_was_there_before_is_avoided() {
        let mut case = Case::new(&[4, 6], &[]);
        case.pass(&RULE, &[(0, 7, 0.9)]);
        assert_eq!(case.tokens, [7, 6]);
        case.pass(&RULE, &[(0, 4, 0.9)]);
        assert_eq!(case.tokens, [5, 6], "back to 4 would go round in circles");
    }

    /// A model that says whatever it likes, forever: the block still ends.
    #[test]
    fn every_block_ends() {
        use rand::RngExt;
        use rand::SeedableRng;
        let mut random = rand::rngs::StdRng::seed_from_u64(5);
        for _ in 0..300 {
            let length = random.random_range(1..9);
            let tokens: Vec<u32> = (0..length).map(|_| [MASK, MASK, 4][random.random_range(0..3)]).collect();
            let frozen: Vec<usize> = (0..length).filter(|i| tokens[*i] == 4).take(2).collect();
            let rule = Levenshtein {
                max_post_steps: random.random_range(0..4),
                steps: random.random_range(1..6),
                ..RULE
            };
            let mut case = Case::new(&tokens, &frozen);
            let mut passes = 0;
            loop {
                let said: Vec<(usize, u32, f32)> =
                    (0..length).map(|at| (at, random.random_range(4..10), random.random())).collect();
                let edited = case.pass(&rule, &said);
                passes += 1;
                assert_eq!(case.tokens.len(), length);
                assert!(frozen.iter().all(|i| case.tokens[*i] == 4), "given tokens stay");
                if edited.is_done {
                    break;
                }
                assert!(passes <= rule.steps + rule.max_post_steps + 1, "{tokens:?} {rule:?}");
            }
            assert!(case.tokens.iter().all(|token| ![MASK, DELETE, INSERT].contains(token)));
        }
    }
}
