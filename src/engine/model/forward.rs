//! One forward pass, written once over a dozen operations, and what it is computed over.
//!
//! A pass takes chunks of several sequences and computes their rows together. Keys and values of a
//! chunk are written to its sequence's pages, where all rows that see them read them. Two things
//! compute it: the processor ([`super::cpu`]) and, where it is built for and there, a GPU.
//! References: the modelling files published with the checkpoints; proven by the fixtures in `tests`.

use std::fmt::Debug;
use std::ops::Range;

use crate::engine::config::ModelConfig;
use crate::engine::model::head::Likeliest;
use crate::engine::model::tuned::Adapter;
use crate::engine::pages::PageId;

/// Rows of full attention that are computed at a time.
const FULL_ATTENTION_ROWS: usize = 32;

/// Which positions of its sequence a row sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Its own block of this length and all before it; a chunk holds whole blocks.
    Blocks(usize),
    /// All positions below this one.
    Below(usize),
}

/// Some positions of one sequence, to be computed in one pass.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// The tokens.
    pub tokens: &'a [u32],
    /// The position of the first.
    pub start: usize,
    /// Which positions each row sees.
    pub sight: Sight,
    /// Where the sequence's keys and values are; what the rows see beside themselves is there already.
    pub table: &'a [PageId],
    /// The positions whose output somebody wants; the others' keys and values are computed only.
    pub wanted: Range<usize>,
    /// Whose experts its rows run through; the base's when `None`.
    pub adapter: Option<&'a Adapter>,
}

impl Chunk<'_> {
    /// Returns the positions of its tokens.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.start + self.tokens.len()
    }

    /// Returns some of the chunk's positions in pieces, each with the end of what its rows see.
    pub fn pieces(&self, positions: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let (step, sight) = match self.sight {
            Sight::Blocks(block) => (block, None),
            Sight::Below(end) => (FULL_ATTENTION_ROWS, Some(end)),
        };
        positions.clone().step_by(step).map(move |from| {
            let piece = from..(from + step).min(positions.end);
            (piece.clone(), sight.unwrap_or(piece.end))
        })
    }

    /// Returns whether somebody wants a row of a piece.
    pub fn wants(&self, piece: &Range<usize>) -> bool {
        piece.start < self.wanted.end && self.wanted.start < piece.end
    }
}

/// Which norm comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Before the attention of a layer.
    Attention(usize),
    /// Before the feed-forward part of a layer.
    FeedForward(usize),
    /// Before the head.
    Head,
}

/// What is left to do once a pass has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// All of its operations.
    Compute,
    /// Nothing: they were recorded in an earlier pass of the same form and run again.
    Replayed,
}

/// A row of the output that the head is asked about, and what may not stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// Among the rows that the last pass's chunks want.
    pub row: usize,
    /// Tokens that are closed wherever the sequence writes.
    pub closed: &'a [u32],
    /// Tokens that are closed here.
    pub closed_here: Vec<u32>,
}

/// Reads the logits of one row asked for, by its place among them; may run on several threads.
pub type Read<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// What computes forward passes: it has the weights, the keys and values, and the rows on their way.
///
/// Operations that fail, as on a device that is lost, panic: the engine's thread ends, and who waits for it
/// is told so.
pub trait Backend: Debug + Send {
    /// Returns the shapes.
    fn config(&self) -> &ModelConfig;
    /// Returns what computes, in a word.
    fn device(&self) -> String;
    /// Returns whether chunks may run through the experts of an adapter.
    fn takes_adapters(&self) -> bool;
    /// Returns how many bytes of memory the weights take.
    fn weight_bytes(&self) -> usize;
    /// Returns how many bytes the keys and values of a position take.
    fn bytes_per_position(&self) -> usize;
    /// Makes room for the keys and values of so many pages; what was in them is lost.
    fn pool(&mut self, pages: usize);

    /// Takes the chunks, and what the head will be asked about them, and turns their tokens to rows.
    fn begin(&mut self, chunks: &[Chunk], asked: &[Asked]) -> Begun;
    /// Norms the rows into the form that linear layers take.
    fn norm(&mut self, norm: Norm);
    /// Computes queries, keys and values of the normed rows.
    fn project(&mut self, layer: usize);
    /// Norms and turns queries and keys, and puts keys and values in their pages.
    fn place(&mut self, layer: usize, chunks: &[Chunk]);
    /// Lets queries attend; in the last layer of the pieces only of which a row is wanted.
    fn attend(&mut self, layer: usize, chunks: &[Chunk]);
    /// Drops the rows that nobody wants.
    fn keep_wanted(&mut self, chunks: &[Chunk]);
    /// Adds the output of the attention to the rows.
    fn add_attended(&mut self, layer: usize);
    /// Adds the feed-forward part of the normed rows to the rows.
    fn add_feed_forward(&mut self, layer: usize, chunks: &[Chunk]);
    /// Ends the pass: what was begun is computed, or will be before anybody reads it.
    fn end(&mut self);

    /// Returns the likeliest token of each row that the last pass was asked about.
    fn likeliest(&mut self, asked: &[Asked]) -> Vec<Likeliest>;
    /// Computes the logits of rows of the output, `[vocabulary]` each, and lets them be read.
    fn logits(&mut self, rows: &[usize], read: Read);
    /// Returns how many bytes of weights the last pass read, with the head's.
    fn touched_bytes(&self) -> usize;
}

/// Computes all chunks together and fills their pages; returns the likeliest token of each row asked about. What
/// the chunks want of the output, one behind the other, is with the backend until the next pass.
///
/// # Panics
/// When a table is too short for its chunk, which is a bug of the scheduler, or when the device fails.
pub fn forward(backend: &mut dyn Backend, chunks: &[Chunk], asked: &[Asked]) -> Vec<Likeliest> {
    if backend.begin(chunks, asked) == Begun::Compute {
        compute(backend, chunks);
    }
    backend.likeliest(asked)
}

/// Runs the operations of a pass that has begun.
fn compute(backend: &mut dyn Backend, chunks: &[Chunk]) {
    let layers = backend.config().layers.len();
    for layer in 0..layers {
        backend.norm(Norm::Attention(layer));
        backend.project(layer);
        backend.place(layer, chunks);
        let is_last = layer + 1 == layers;
        if is_last && chunks.iter().all(|chunk| chunk.wanted.is_empty()) {
            break;
        }
        backend.attend(layer, chunks);
        if is_last {
            backend.keep_wanted(chunks);
        }
        backend.add_attended(layer);
        backend.norm(Norm::FeedForward(layer));
        backend.add_feed_forward(layer, chunks);
        if is_last {
            backend.norm(Norm::Head);
        }
    }
    backend.end();
}
