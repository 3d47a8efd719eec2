//! One sequence on its way: prompt, canvas, the block that is being denoised. Integers only.
//!
//! With block-causal attention blocks count from position 0 and what is before the current one is
//! cached exactly. With full attention blocks count from the prompt's end, whatever settles changes
//! every row, and each pass computes them all, unless an approximate cache keeps some.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::engine::config::Attention;
use crate::engine::config::ModelConfig;
use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::fill::Fill;
use crate::engine::constraint::fill::Limits;
use crate::engine::constraint::tokens::Automaton;
use crate::engine::levenshtein::EditedBlock;
use crate::engine::levenshtein::Editing;
use crate::engine::levenshtein::Levenshtein;
use crate::engine::sampler::Block;
use crate::engine::sampler::Candidate;
use crate::engine::sampler::Rule;
use crate::engine::sampler::Settled;
use crate::engine::sampling::Sampling;
use crate::engine::steps::StepPredictor;

pub use self::passes::Passes;

mod passes;

/// What passes of full attention keep of the pass that began a block (Fast-dLLM, arXiv 2505.22618).
///
/// Block-causal attention is always exact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// Nothing: every pass computes every row.
    #[default]
    Exact,
    /// Keys and values before the block.
    Prefix,
    /// Keys and values before and after the block.
    Dual,
}

/// What a model wants of its sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// Which positions a position sees.
    pub attention: Attention,
    /// The block length.
    pub block: usize,
    /// What passes of full attention keep.
    pub cache: CacheMode,
    /// How many positions before its own a token's logits are.
    pub logits_shift: usize,
    /// The id that stands for "not denoised yet".
    pub mask: u32,
    /// The id that ends a text.
    pub end_of_text: u32,
    /// The id that fills what is not used.
    pub pad: u32,
}

impl Form {
    /// Returns what `model` wants, with its own block length and an exact cache.
    pub fn of(model: &ModelConfig) -> Form {
        Form {
            attention: model.attention,
            block: model.block_length(),
            cache: CacheMode::Exact,
            logits_shift: model.logits_shift,
            mask: model.mask_token_id,
            end_of_text: model.eos_token_id,
            pad: model.pad_token_id,
        }
    }
}

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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Generate {
    /// Which positions settle when.
    pub rule: Rule,
    /// Ids that are never written.
    pub banned: Vec<u32>,
    /// Ids that are not written at one position: (position, id).
    pub banned_at: Vec<(usize, u32)>,
    /// Whether an end of text in a finished block ends the sequence.
    pub stops_at_end: bool,
    /// Whether it ends the sequence already when nothing before it is masked any more, as nobody reads
    /// what would follow. The published rules finish the block.
    pub stops_in_block: bool,
    /// How tokens are drawn; the likeliest is taken when `None`.
    pub sampling: Option<Sampling>,
    /// The fewest passes of a block that has as many masks.
    pub min_passes: usize,
    /// How far the threshold may be lowered to meet a deadline; not at all when `None`.
    pub least_threshold: Option<f32>,
}

/// A sequence's tokens and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Sequence {
    /// Prompt and canvas, in whole blocks with block-causal attention; masks where nothing is settled.
    pub tokens: Vec<u32>,
    /// Where the canvas begins.
    pub prompt: usize,
    /// Where the canvas ends; what follows fills the last block.
    pub end: usize,
    /// What the model wants of it.
    pub form: Form,
    /// What it is for.
    pub purpose: Purpose,
    /// Positions whose keys and values the next pass keeps: it computes those from here on.
    pub cached: usize,
    /// Where the block being denoised begins.
    pub current: usize,
    /// Passes of the current block.
    pub pass: usize,
    /// Passes of the current block that began without masks.
    post: usize,
    /// Masks in the current block when it began.
    masks_at_start: usize,
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
    /// What the canvas must become, if a structure is enforced.
    pub fill: Option<Fill>,
    /// What the current block has been, if its tokens may move.
    editing: Option<Editing>,
    /// Predicts passes.
    pub predictor: StepPredictor,
    /// Each block's passes, the current one's last.
    pub history: Vec<Passes>,
    /// Passes until its deadline, if it has one.
    pub passes_left: Option<usize>,
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
    /// Lays out a prompt and a canvas, `None` where the model is to write; with block-causal
    /// attention the rest of the last block is masked too.
    pub fn generate(prompt: &[u32], canvas: &[Option<u32>], form: Form, generate: Generate) -> Sequence {
        let end = prompt.len() + canvas.len();
        let mut tokens = prompt.to_vec();
        let mut frozen = vec![true; prompt.len()];
        for token in canvas {
            tokens.push(token.unwrap_or(form.mask));
            frozen.push(token.is_some());
        }
        if form.attention == Attention::BlockCausal {
            tokens.resize(end.next_multiple_of(form.block), form.mask);
            frozen.resize(tokens.len(), false);
        }
        let mut sequence = Sequence::new(tokens, frozen, form, Purpose::Generate(generate));
        (sequence.prompt, sequence.end) = (prompt.len(), end);
        if form.attention == Attention::Full {
            sequence.current = prompt.len();
        }
        sequence.skip_finished();
        sequence
    }

    /// Lays out tokens of which one position is to be scored.
    ///
    /// With block-causal attention the rest of its block is padding and later blocks are left out:
    /// the position cannot see them.
    pub fn score(tokens: &[u32], position: usize, form: Form) -> Sequence {
        let mut all = tokens.to_vec();
        let form = match form.attention {
            Attention::BlockCausal => form,
            // Only the position itself is asked for.
            Attention::Full => Form { block: 1, ..form },
        };
        let current = position / form.block * form.block;
        if form.attention == Attention::BlockCausal {
            all.resize(current + form.block, form.pad);
        }
        let frozen = vec![true; all.len()];
        let len = tokens.len().min(all.len());
        let mut sequence = Sequence::new(all, frozen, form, Purpose::Score { position });
        (sequence.prompt, sequence.end, sequence.current) = (len, len, current);
        sequence
    }

    fn new(tokens: Vec<u32>, frozen: Vec<bool>, form: Form, purpose: Purpose) -> Sequence {
        Sequence {
            confidences: vec![1.0; tokens.len()],
            tokens,
            prompt: 0,
            end: 0,
            form,
            purpose,
            cached: 0,
            current: 0,
            pass: 0,
            post: 0,
            masks_at_start: 0,
            steps: 0,
            blocks: 0,
            unmasked: 0,
            is_done: false,
            frozen,
            fill: None,
            editing: None,
            predictor: StepPredictor::default(),
            history: Vec::new(),
            passes_left: None,
        }
    }

    /// Returns where the current block ends.
    pub fn block_end(&self) -> usize {
        (self.current + self.form.block).min(self.tokens.len())
    }

    /// Returns where the next pass ends when it may compute `rows` rows: it begins at `cached`.
    ///
    /// A pass of full attention is not divided.
    pub fn pass_end(&self, rows: usize) -> usize {
        match self.form.attention {
            Attention::BlockCausal => {
                let whole = (rows / self.form.block).max(1) * self.form.block;
                (self.cached + whole).min(self.block_end())
            }
            Attention::Full if self.form.cache == CacheMode::Dual && self.pass > 0 => self.block_end(),
            Attention::Full => self.tokens.len(),
        }
    }

    /// Returns how many rows have to be computed until the current block can change.
    pub fn pending(&self) -> usize {
        self.pass_end(self.tokens.len()) - self.cached
    }

    /// Returns how many rows a pass is made of: it has a multiple of them.
    pub fn unit(&self) -> usize {
        match self.form.attention {
            Attention::BlockCausal => self.form.block,
            Attention::Full => self.pending(),
        }
    }

    /// Returns whether only keys and values before the current block are computed next.
    pub fn is_prefilling(&self) -> bool {
        self.form.attention == Attention::BlockCausal && self.pending() > self.form.block
    }

    /// Returns the positions of the current block whose candidates the sampler needs.
    pub fn wanted(&self) -> Vec<usize> {
        match &self.purpose {
            Purpose::Score { position } => vec![*position],
            Purpose::Generate(generate) => (self.current..self.block_end())
                .filter(|p| self.tokens[*p] == self.form.mask || (generate.rule.edits() && !self.frozen[*p]))
                .collect(),
        }
    }

    /// Returns the position whose output row has the logits of `position`; the first has its own.
    pub fn source(&self, position: usize) -> usize {
        position.saturating_sub(self.form.logits_shift)
    }

    /// Returns the positions whose output rows have the logits of the current block.
    pub fn sources(&self) -> Range<usize> {
        self.source(self.current)..self.source(self.block_end() - 1) + 1
    }

    /// Takes note of a pass that only filled the cache up to `end`, short of the current block's.
    pub fn prefilled(&mut self, end: usize) {
        self.cached = end.min(self.current);
    }

    /// Applies the candidates of one pass over the current block; `at` of a candidate counts from the block's start.
    pub fn apply(&mut self, candidates: &[Candidate]) -> Change {
        self.keep();
        let Purpose::Generate(generate) = &self.purpose else {
            self.is_done = true;
            return Change::default();
        };
        let (stops_in_block, min_passes) = (generate.stops_in_block, generate.min_passes);
        let glance = self.glance(candidates);
        let rule = self.rule_now(generate, &glance);
        let masked = glance.confidences.len();
        // A block that must take more passes leaves something for each of them.
        let most = masked.div_ceil(min_passes.saturating_sub(self.pass).max(1));
        let (change, is_done) = match rule {
            Rule::Levenshtein(rule) => self.edit(&rule, most, candidates),
            rule => self.settle(rule, most, candidates),
        };
        self.note(&rule, min_passes, &glance, change.unmasked);
        self.pass += 1;
        self.steps += 1;
        self.unmasked += change.unmasked as u32;
        if is_done {
            self.blocks += 1;
            self.advance();
        } else if stops_in_block && change.edited == 0 && self.is_ended() {
            self.blocks += 1;
            self.is_done = true;
        }
        change
    }

    /// Settles what the rule chooses; returns whether the block is done.
    fn settle(&mut self, rule: Rule, most: usize, candidates: &[Candidate]) -> (Change, bool) {
        let range = self.current..self.block_end();
        let mask = self.form.mask;
        let began_masked = self.tokens[range.clone()].contains(&mask);
        let block = Block {
            tokens: &self.tokens[range.clone()],
            mask,
            masks_at_start: self.masks_at_start,
            pass: self.pass,
        };
        let mut settled = rule.settle(block, candidates);
        settled.keep_surest(most, candidates);
        if let Some(mut fill) = self.fill.take() {
            self.check(&mut settled, candidates, &mut fill);
            self.fill = Some(fill);
        }
        for i in settled.unmasked.iter().chain(&settled.edited) {
            let at = self.current + candidates[*i].at;
            self.tokens[at] = candidates[*i].token;
            self.confidences[at] = candidates[*i].confidence;
        }
        self.post += usize::from(!began_masked);
        let has_masks = self.tokens[range].contains(&mask);
        let is_done = rule.is_done(self.pass + 1, self.post, settled.edited.len(), has_masks, began_masked);
        let change = Change { unmasked: settled.unmasked.len(), edited: settled.edited.len() };
        // A schedule may be over while tokens that contradicted each other are still masked.
        (change, is_done && (self.fill.is_none() || !has_masks))
    }

    /// Edits the block; returns whether it is done.
    fn edit(&mut self, rule: &Levenshtein, most: usize, candidates: &[Candidate]) -> (Change, bool) {
        let range = self.current..self.block_end();
        let mask = self.form.mask;
        let mut editing =
            self.editing.take().unwrap_or_else(|| Editing::new(&self.tokens[range.clone()], mask));
        let block = EditedBlock {
            tokens: &mut self.tokens[range.clone()],
            confidences: &mut self.confidences[range.clone()],
            frozen: &self.frozen[range],
            mask,
            pass: self.pass,
            most,
        };
        let edited = editing.apply(rule, block, candidates);
        self.editing = (!edited.is_done).then_some(editing);
        (Change { unmasked: edited.unmasked, edited: edited.edited }, edited.is_done)
    }

    /// Returns whether the text has an end in the current block and nothing before it is masked.
    fn is_ended(&self) -> bool {
        let block = &self.tokens[self.current.max(self.prompt)..self.block_end()];
        let decided = block.iter().position(|token| *token == self.form.mask).unwrap_or(block.len());
        block[..decided].contains(&self.form.end_of_text)
    }

    /// Enforces a structure on the whole canvas from here on; `vocabulary` is the model's.
    ///
    /// # Errors
    /// When the canvas cannot be filled like that.
    pub fn enforce(&mut self, structure: &Arc<Automaton>, vocabulary: usize) -> Result<(), ConstraintError> {
        let Purpose::Generate(Generate { banned, banned_at, .. }) = &self.purpose else { return Ok(()) };
        let tokens = self.canvas().iter().map(|token| (*token != self.form.mask).then_some(*token)).collect();
        let limits = Limits { vocabulary, banned, banned_at };
        let mut fill = Fill::new(structure, self.prompt, tokens, self.form, limits)?;
        fill.enter(self.block_end());
        self.fill = Some(fill);
        Ok(())
    }

    /// Keeps of what a pass would settle what the enforced structure lets stand together, the surest
    /// first; at least one masked position takes a token.
    fn check(&self, settled: &mut Settled, candidates: &[Candidate], fill: &mut Fill) {
        let surer = |a: &usize, b: &usize| candidates[*b].confidence.total_cmp(&candidates[*a].confidence);
        if settled.unmasked.is_empty() {
            let is_masked = |i: &usize| self.tokens[self.current + candidates[*i].at] == self.form.mask;
            settled.unmasked.extend((0..candidates.len()).filter(is_masked).min_by(surer));
        }
        settled.unmasked.sort_by(surer);
        settled.edited.sort_by(surer);
        // The first one is allowed, whatever it is: its logits were read under the same canvas.
        let mut fits = |i: &usize| {
            let position = self.current + candidates[*i].at;
            !fill.positions().contains(&position) || fill.settle(position, candidates[*i].token)
        };
        settled.unmasked.retain(&mut fits);
        settled.edited.retain(&mut fits);
    }

    /// Takes note of which keys and values the next pass of the current block keeps.
    fn keep(&mut self) {
        self.cached = match (self.form.attention, self.form.cache) {
            (Attention::BlockCausal, _) => self.current,
            (Attention::Full, CacheMode::Exact) => 0,
            // Logits that are shifted need the row before the block too.
            (Attention::Full, CacheMode::Prefix | CacheMode::Dual) => self.sources().start,
        };
    }

    /// Returns the canvas as it stands, masks included.
    pub fn canvas(&self) -> &[u32] {
        &self.tokens[self.prompt..self.end]
    }

    /// Returns how sure the model was of each token of the canvas when it settled.
    pub fn confidences(&self) -> &[f32] {
        &self.confidences[self.prompt..self.end]
    }

    /// Returns how many tokens of the canvas, from its start, will not change any more.
    pub fn settled(&self) -> usize {
        let upto = if self.is_done { self.end } else { self.current.min(self.end) };
        upto.saturating_sub(self.prompt)
    }

    fn advance(&mut self) {
        let block_end = self.block_end();
        let stops = matches!(&self.purpose, Purpose::Generate(g) if g.stops_at_end)
            && self.tokens[self.prompt.min(block_end)..block_end].contains(&self.form.end_of_text);
        self.current = block_end;
        self.pass = 0;
        self.post = 0;
        self.editing = None;
        if self.form.attention == Attention::Full {
            self.cached = 0;
        }
        if stops {
            self.is_done = true;
        } else {
            self.skip_finished();
        }
    }

    /// Moves to the first block that has something to denoise.
    fn skip_finished(&mut self) {
        while self.current < self.tokens.len() {
            let block = self.current..self.block_end();
            let masks = self.tokens[block.clone()].iter().filter(|t| **t == self.form.mask).count();
            if masks > 0 && !self.frozen[block].iter().all(|f| *f) {
                self.masks_at_start = masks;
                let block_end = self.block_end();
                self.fill.iter_mut().for_each(|fill| fill.enter(block_end));
                return;
            }
            self.current = self.block_end();
        }
        self.is_done = true;
    }
}

#[cfg(test)]
mod tests;
