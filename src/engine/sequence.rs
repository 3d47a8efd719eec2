//! One sequence on its way: prompt, canvas, the block that is being denoised. Integers only.

use crate::engine::sampler::Candidate;
use crate::engine::sampler::Rule;
use crate::engine::sampling::Sampling;

/// What a sequence is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// Denoise the canvas.
    Generate(Generate),
    /// Score some tokens at one position.
    Score {
        /// The position.
        position: usize,
    },
}

/// How a canvas is denoised.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate {
    /// Which positions settle when.
    pub rule: Rule,
    /// Ids that are never written.
    pub banned: Vec<u32>,
    /// Ids that are not written at one position: (position, id).
    pub banned_at: Vec<(usize, u32)>,
    /// Whether an end of text in a finished block ends the sequence.
    pub stops_at_end: bool,
    /// How tokens are drawn; the likeliest is taken when `None`.
    pub sampling: Option<Sampling>,
    /// The fewest passes of a block that has as many masks.
    pub min_passes: usize,
}

/// A sequence's tokens and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Prompt and canvas in whole blocks; masks where nothing is settled.
    pub tokens: Vec<u32>,
    /// Where the canvas begins.
    pub prompt: usize,
    /// Where the canvas ends; what follows fills the last block.
    pub end: usize,
    /// The block length.
    pub block: usize,
    /// What it is for.
    pub purpose: Purpose,
    /// Positions whose keys and values are final.
    pub cached: usize,
    /// Where the block being denoised begins.
    pub current: usize,
    /// Passes of the current block.
    pub pass: usize,
    /// Passes of the current block that began without masks.
    post: usize,
    /// Denoising passes of all blocks.
    pub steps: u32,
    /// Blocks that took passes.
    pub blocks: u32,
    /// Tokens unmasked so far.
    pub unmasked: u32,
    /// Whether nothing is left to do.
    pub is_done: bool,
    /// How sure the model was of each token when it settled; 1 where it was given.
    confidences: Vec<f32>,
    frozen: Vec<bool>,
    mask: u32,
    end_of_text: u32,
}

/// What one pass did to the current block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Positions unmasked.
    pub unmasked: usize,
    /// Positions replaced.
    pub edited: usize,
}

impl Sequence {
    /// Lays out a prompt and a canvas, `None` where the model is to write; the rest of the last
    /// block is masked too.
    pub fn generate(
        prompt: &[u32],
        canvas: &[Option<u32>],
        block: usize,
        mask: u32,
        end_of_text: u32,
        generate: Generate,
    ) -> Sequence {
        let end = prompt.len() + canvas.len();
        let mut tokens = prompt.to_vec();
        let mut frozen = vec![true; prompt.len()];
        for token in canvas {
            tokens.push(token.unwrap_or(mask));
            frozen.push(token.is_some());
        }
        tokens.resize(end.next_multiple_of(block), mask);
        frozen.resize(tokens.len(), false);
        let mut sequence = Sequence::new(
            tokens,
            frozen,
            prompt.len(),
            end,
            block,
            mask,
            end_of_text,
            Purpose::Generate(generate),
        );
        sequence.skip_finished();
        sequence
    }

    /// Lays out tokens of which one position is to be scored; the rest of its block is padding.
    ///
    /// Later blocks are left out: the position cannot see them.
    pub fn score(tokens: &[u32], position: usize, block: usize, mask: u32, pad: u32) -> Sequence {
        let current = position / block * block;
        let mut all = tokens.to_vec();
        all.resize(current + block, pad);
        let frozen = vec![true; all.len()];
        let len = tokens.len().min(all.len());
        let mut sequence =
            Sequence::new(all, frozen, len, len, block, mask, pad, Purpose::Score { position });
        sequence.current = current;
        sequence
    }

    #[allow(clippy::too_many_arguments)]
    fn new(
        tokens: Vec<u32>,
        frozen: Vec<bool>,
        prompt: usize,
        end: usize,
        block: usize,
        mask: u32,
        end_of_text: u32,
        purpose: Purpose,
    ) -> Sequence {
        Sequence {
            confidences: vec![1.0; tokens.len()],
            tokens,
            prompt,
            end,
            block,
            purpose,
            cached: 0,
            current: 0,
            pass: 0,
            post: 0,
            steps: 0,
            blocks: 0,
            unmasked: 0,
            is_done: false,
            frozen,
            mask,
            end_of_text,
        }
    }

    /// Returns where this pass's chunk ends when it may have `rows` rows: it begins at `cached`.
    pub fn chunk_end(&self, rows: usize) -> usize {
        let whole = (rows / self.block).max(1) * self.block;
        (self.cached + whole).min(self.current + self.block)
    }

    /// Returns how many rows the next pass needs to reach the end of the current block.
    pub fn pending(&self) -> usize {
        self.current + self.block - self.cached
    }

    /// Returns the positions of the current block whose candidates the sampler needs.
    pub fn wanted(&self) -> Vec<usize> {
        match &self.purpose {
            Purpose::Score { position } => vec![*position],
            Purpose::Generate(generate) => (self.current..self.current + self.block)
                .filter(|p| self.tokens[*p] == self.mask || (generate.rule.edits() && !self.frozen[*p]))
                .collect(),
        }
    }

    /// Takes note of a pass that only filled the cache up to `end`, short of the current block's.
    pub fn prefilled(&mut self, end: usize) {
        self.cached = end.min(self.current);
    }

    /// Applies the candidates of one pass over the current block; `at` of a candidate counts from the block's start.
    pub fn apply(&mut self, candidates: &[Candidate]) -> Change {
        self.cached = self.current;
        let Purpose::Generate(generate) = &self.purpose else {
            self.is_done = true;
            return Change::default();
        };
        let (rule, min_passes) = (generate.rule, generate.min_passes);
        let range = self.current..self.current + self.block;
        let began_masked = self.tokens[range.clone()].contains(&self.mask);
        let mut settled = rule.settle(self.pass, &self.tokens[range.clone()], self.mask, candidates);
        let masked = self.tokens[range.clone()].iter().filter(|token| **token == self.mask).count();
        let left = min_passes.saturating_sub(self.pass).max(1);
        settled.keep_surest(masked.div_ceil(left), candidates);
        for i in settled.unmasked.iter().chain(&settled.edited) {
            let at = self.current + candidates[*i].at;
            self.tokens[at] = candidates[*i].token;
            self.confidences[at] = candidates[*i].confidence;
        }
        self.pass += 1;
        self.post += usize::from(!began_masked);
        self.steps += 1;
        self.unmasked += settled.unmasked.len() as u32;
        let has_masks = self.tokens[range].contains(&self.mask);
        if rule.is_done(self.pass, self.post, settled.edited.len(), has_masks, began_masked) {
            self.blocks += 1;
            self.advance();
        }
        Change { unmasked: settled.unmasked.len(), edited: settled.edited.len() }
    }

    /// Returns the canvas as it stands, masks included.
    pub fn canvas(&self) -> &[u32] {
        &self.tokens[self.prompt..self.end]
    }

    /// Returns how sure the model was of each token of the canvas when it settled.
    pub fn confidences(&self) -> &[f32] {
        &self.confidences[self.prompt..self.end]
    }

    /// Returns how many tokens of the canvas will not change any more.
    pub fn settled(&self) -> usize {
        let upto = if self.is_done { self.end } else { self.current.min(self.end) };
        upto.saturating_sub(self.prompt)
    }

    fn advance(&mut self) {
        let block_end = self.current + self.block;
        let stops = matches!(&self.purpose, Purpose::Generate(g) if g.stops_at_end)
            && self.tokens[self.prompt.min(block_end)..block_end].contains(&self.end_of_text);
        self.current = block_end;
        self.pass = 0;
        self.post = 0;
        if stops || self.current >= self.tokens.len() {
            self.is_done = true;
        } else {
            self.skip_finished();
        }
    }

    /// Moves to the first block that has something to denoise.
    fn skip_finished(&mut self) {
        while self.current < self.tokens.len() {
            let block = self.current..self.current + self.block;
            if self.tokens[block.clone()].contains(&self.mask) && !self.frozen[block].iter().all(|f| *f) {
                return;
            }
            self.current += self.block;
        }
        self.is_done = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generate() -> Generate {
        let rule = Rule::Threshold { threshold: 0.5, steps: 4 };
        Generate {
            rule,
            banned: vec![],
            banned_at: vec![],
            stops_at_end: true,
            sampling: None,
            min_passes: 0,
        }
    }

    fn sure(sequence: &Sequence, token: u32) -> Vec<Candidate> {
        let at = |p: &usize| Candidate { at: p - sequence.current, token, confidence: 0.9 };
        sequence.wanted().iter().map(at).collect()
    }

    #[test]
    fn frozen_tokens_stay_and_whole_frozen_blocks_take_no_pass() {
        let canvas = [None, Some(8), Some(8), Some(8), Some(8), Some(8), Some(8), None];
        let mut sequence = Sequence::generate(&[5, 5, 5], &canvas, 4, 0, 1, generate());
        assert_eq!((sequence.current, sequence.pending()), (0, 4));
        let candidates = sure(&sequence, 9);
        sequence.apply(&candidates);
        assert_eq!(sequence.current, 8, "the block of quoted tokens is skipped");
        assert_eq!(sequence.pending(), 12, "its keys and values are still to be computed");
        let candidates = sure(&sequence, 9);
        sequence.apply(&candidates);
        assert!(sequence.is_done);
        assert_eq!(sequence.canvas(), [9, 8, 8, 8, 8, 8, 8, 9]);
        assert_eq!((sequence.steps, sequence.blocks), (2, 2));
    }

    #[test]
    fn an_end_of_text_ends_the_sequence_after_its_block() {
        let mut sequence = Sequence::generate(&[5], &[None; 11], 4, 0, 1, generate());
        let candidates = sure(&sequence, 1);
        sequence.apply(&candidates);
        assert!(sequence.is_done);
        assert_eq!(sequence.settled(), 11);
    }

    #[test]
    fn a_block_takes_as_many_passes_as_it_must() {
        let mut sequence =
            Sequence::generate(&[], &[None; 4], 4, 0, 1, Generate { min_passes: 3, ..generate() });
        let mut settled = Vec::new();
        while !sequence.is_done {
            let candidates = sure(&sequence, 9);
            settled.push(sequence.apply(&candidates).unmasked);
        }
        assert_eq!(settled, [2, 1, 1]);
    }

    #[test]
    fn a_scored_position_is_in_the_block_that_is_computed_last() {
        // The position ends a block; the end of text after it would begin another.
        let sequence = Sequence::score(&[5; 9], 7, 4, 0, 2);
        assert_eq!((sequence.current, sequence.tokens.len()), (4, 8));
        let sequence = Sequence::score(&[5; 6], 4, 4, 0, 2);
        assert_eq!((sequence.current, sequence.tokens), (4, vec![5, 5, 5, 5, 5, 5, 2, 2]));
    }

    #[test]
    fn a_long_prompt_is_prefilled_in_chunks() {
        let mut sequence = Sequence::generate(&[5; 30], &[None; 2], 4, 0, 1, generate());
        assert_eq!(sequence.chunk_end(17), 16);
        sequence.prefilled(16);
        assert_eq!(sequence.chunk_end(17), 32);
        assert_eq!(sequence.wanted(), [30, 31]);
    }
}
