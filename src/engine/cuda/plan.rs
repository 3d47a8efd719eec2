//! What a pass works on, as the GPU's kernels read it: tokens, positions, places in pages, pieces of attention.
//!
//! All of it goes to the GPU in one copy, to where it was in the pass before, so that recorded launches find it.

use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::CudaError;
use crate::engine::cuda::machine::Gpu;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::kv_cache::PAGE;
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Chunk;

/// Counts at the beginning of a plan, whose places [`Counts`] names.
const COUNTS: usize = 16;
/// Where among them the bounds of the rows stand that the head is asked about.
const ASKED: usize = 9;
/// Numbers of a piece: `Piece` in `kernels/attention.cu`.
const OF_PIECE: usize = 5;

/// How much a pass has of everything, rounded up: passes of one form run the same launches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Size {
    /// Rows.
    pub rows: usize,
    /// Rows that somebody wants.
    pub wanted: usize,
    /// Pieces of attention.
    pub pieces: usize,
    /// The most rows of a piece.
    pub piece_rows: usize,
    /// Rows that the head is asked about.
    pub asked: usize,
}

/// Where the parts of a plan begin, in numbers from its beginning.
#[derive(Debug, Clone, Copy)]
struct Places {
    tokens: usize,
    positions: usize,
    places: usize,
    wanted: usize,
    pieces: usize,
    blocks: usize,
    wanted_blocks: usize,
    asked: usize,
    closed_starts: usize,
    tables: usize,
}

/// A plan on the GPU.
#[derive(Debug)]
pub struct Plan {
    gpu: Gpu,
    buffer: Buffer,
    room: Size,
    numbers: Vec<u32>,
}

/// Rows of a pass, or those of them that somebody wants: the addresses of what kernels read of them.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Of their number, behind a zero: the bounds of one weight's rows.
    pub bounds: u64,
    /// Of their number.
    pub rows: u64,
    /// Of the number of their slots: rows times the experts of each.
    pub slots: u64,
    /// Of the first row of each block and the end of the last.
    pub blocks: u64,
    /// Of the number of blocks.
    pub block_count: u64,
}

/// What the head reads of the rows that it is asked about: addresses.
#[derive(Debug, Clone, Copy)]
pub struct AskedRows {
    /// Of their number, behind a zero.
    pub bounds: u64,
    /// Of their number.
    pub count: u64,
    /// Which of the wanted rows they are.
    pub rows: u64,
    /// Where the closed tokens of each begin, counted from `closed`.
    pub closed_starts: u64,
    /// What they are counted from.
    pub closed: u64,
}

impl Size {
    /// Returns the size of some chunks, and of what is asked about them.
    pub fn of(chunks: &[Chunk], asked: &[Asked]) -> Size {
        let pieces = chunks.iter().flat_map(|chunk| chunk.pieces(chunk.positions()));
        let (count, most) =
            pieces.fold((0, 0), |(count, most), (piece, _)| (count + 1, most.max(piece.len())));
        Size {
            rows: round_up(chunks.iter().map(|chunk| chunk.tokens.len()).sum()),
            wanted: round_up(chunks.iter().map(|chunk| chunk.wanted.len()).sum()),
            pieces: round_up(count),
            piece_rows: round_up(most),
            asked: round_up(asked.len()),
        }
    }

    /// Returns what has room for both.
    pub fn max(self, other: Size) -> Size {
        Size {
            rows: self.rows.max(other.rows),
            wanted: self.wanted.max(other.wanted),
            pieces: self.pieces.max(other.pieces),
            piece_rows: self.piece_rows.max(other.piece_rows),
            asked: self.asked.max(other.asked),
        }
    }
}

/// Returns the next number of rows for which launches are recorded: a power of two or, from 256 on, a multiple
/// of an eighth of one.
fn round_up(count: usize) -> usize {
    match count {
        0 => 0,
        1..=256 => count.next_power_of_two(),
        _ => count.next_multiple_of(count.next_power_of_two() / 8),
    }
}

impl Places {
    fn of(room: Size) -> Places {
        let tokens = COUNTS;
        let positions = tokens + room.rows;
        let places = positions + room.rows;
        let wanted = places + room.rows;
        let pieces = wanted + room.wanted;
        let blocks = pieces + OF_PIECE * room.pieces;
        let wanted_blocks = blocks + room.pieces + 1;
        let asked = wanted_blocks + room.pieces + 1;
        let closed_starts = asked + room.asked;
        Places {
            tokens,
            positions,
            places,
            wanted,
            pieces,
            blocks,
            wanted_blocks,
            asked,
            closed_starts,
            tables: closed_starts + room.asked + 1,
        }
    }
}

impl Plan {
    /// Makes an empty plan.
    ///
    /// # Errors
    /// When the GPU has too little memory.
    pub fn new(gpu: &Gpu) -> Result<Plan, CudaError> {
        let buffer = Buffer::new(gpu, 0)?;
        Ok(Plan { gpu: gpu.clone(), buffer, room: Size::default(), numbers: Vec::new() })
    }

    /// Makes room for a pass; returns whether the plan, or what is in it, lies elsewhere than before.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn reserve(&mut self, size: Size, chunks: &[Chunk], asked: &[Asked]) -> Result<bool, CudaError> {
        let pages: usize = chunks.iter().map(|chunk| chunk.table.len()).sum();
        let closed: usize = asked.iter().map(|asked| asked.closed.len() + asked.closed_here.len()).sum();
        let room = self.room.max(size);
        let numbers = Places::of(room).tables + (pages + closed).next_power_of_two();
        let has_moved = room != self.room;
        self.room = room;
        Ok(self.buffer.reserve(numbers * size_of::<u32>())? || has_moved)
    }

    /// Writes a pass's plan; each row takes `chosen` experts.
    ///
    /// # Errors
    /// When the copy fails.
    pub fn write(&mut self, chunks: &[Chunk], asked: &[Asked], chosen: usize) -> Result<(), CudaError> {
        let at = Places::of(self.room);
        let numbers = &mut self.numbers;
        numbers.clear();
        numbers.resize(at.tables, 0);
        let (mut row, mut wanted, mut piece, mut wanted_blocks) = (0, 0, 0, 0);
        for chunk in chunks {
            let table = numbers.len() - at.tables;
            numbers.extend(chunk.table.iter().map(|page| page.index() as u32));
            for (token, position) in chunk.tokens.iter().zip(chunk.positions()) {
                let place = chunk.table[position / PAGE].index() * PAGE + position % PAGE;
                numbers[at.tokens + row] = *token;
                numbers[at.positions + row] = position as u32;
                numbers[at.places + row] = place as u32;
                if chunk.wanted.contains(&position) {
                    numbers[at.wanted + wanted] = row as u32;
                    wanted += 1;
                }
                row += 1;
            }
            let first_row = row - chunk.tokens.len();
            for (positions, end) in chunk.pieces(chunk.positions()) {
                let first = first_row + positions.start - chunk.start;
                let of_piece = [first, positions.len(), end, table, usize::from(chunk.wants(&positions))]
                    .map(|n| n as u32);
                numbers[at.pieces + OF_PIECE * piece..][..OF_PIECE].copy_from_slice(&of_piece);
                numbers[at.blocks + piece] = first as u32;
                piece += 1;
            }
            let mut first = wanted - chunk.wanted.len();
            for (positions, _) in chunk.pieces(chunk.wanted.clone()) {
                numbers[at.wanted_blocks + wanted_blocks] = first as u32;
                first += positions.len();
                wanted_blocks += 1;
            }
        }
        numbers[at.blocks + piece] = row as u32;
        numbers[at.wanted_blocks + wanted_blocks] = wanted as u32;
        for (i, asked) in asked.iter().enumerate() {
            numbers[at.asked + i] = asked.row as u32;
            numbers[at.closed_starts + i] = numbers.len() as u32;
            numbers.extend(asked.closed.iter().chain(&asked.closed_here));
        }
        numbers[at.closed_starts + asked.len()] = numbers.len() as u32;
        let of_rows = [0, row, row * chosen, piece];
        let of_wanted = [0, wanted, wanted * chosen, wanted_blocks];
        let counts = of_rows.into_iter().chain(of_wanted).chain([piece, 0, asked.len()]);
        for (number, count) in numbers.iter_mut().zip(counts) {
            *number = count as u32;
        }
        self.gpu.upload(self.buffer.address, bytes_of(numbers))
    }

    fn address(&self, number: usize) -> u64 {
        self.buffer.address + (number * size_of::<u32>()) as u64
    }

    /// Returns the address of the rows' tokens.
    pub fn tokens(&self) -> u64 {
        self.address(Places::of(self.room).tokens)
    }

    /// Returns the address of the rows' positions.
    pub fn positions(&self) -> u64 {
        self.address(Places::of(self.room).positions)
    }

    /// Returns the address of the rows' places in the cache.
    pub fn places(&self) -> u64 {
        self.address(Places::of(self.room).places)
    }

    /// Returns the address of the numbers of wanted rows.
    pub fn wanted(&self) -> u64 {
        self.address(Places::of(self.room).wanted)
    }

    /// Returns the address of the pieces of attention.
    pub fn pieces(&self) -> u64 {
        self.address(Places::of(self.room).pieces)
    }

    /// Returns the address of the number of pieces.
    pub fn piece_count(&self) -> u64 {
        self.address(8)
    }

    /// Returns the address of all tables.
    pub fn tables(&self) -> u64 {
        self.address(Places::of(self.room).tables)
    }

    /// Returns what is to be read of all rows.
    pub fn all(&self) -> Counts {
        self.counts(0, Places::of(self.room).blocks)
    }

    /// Returns what is to be read of the wanted rows, once they are alone.
    pub fn kept(&self) -> Counts {
        self.counts(4, Places::of(self.room).wanted_blocks)
    }

    /// Returns what is to be read of the rows that the head is asked about.
    pub fn asked(&self) -> AskedRows {
        let at = Places::of(self.room);
        AskedRows {
            bounds: self.address(ASKED),
            count: self.address(ASKED + 1),
            rows: self.address(at.asked),
            closed_starts: self.address(at.closed_starts),
            closed: self.address(0),
        }
    }

    fn counts(&self, first: usize, blocks: usize) -> Counts {
        Counts {
            bounds: self.address(first),
            rows: self.address(first + 1),
            slots: self.address(first + 2),
            blocks: self.address(blocks),
            block_count: self.address(first + 3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_few() {
        assert_eq!([0, 1, 3, 32, 33, 256].map(round_up), [0, 1, 4, 32, 64, 256]);
        assert_eq!([257, 300, 1000, 2048].map(round_up), [320, 320, 1024, 2048]);
    }
}
