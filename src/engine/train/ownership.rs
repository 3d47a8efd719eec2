//! Which rank keeps and moves which parameters (ZeRO, arXiv 1910.02054): integers only.
//!
//! A matrix stays whole, for Muon moves whole matrices; runs of neighbours go to one rank, so that
//! they travel in few messages. A large table (the embeddings) is cut evenly instead, since AdamW
//! moves every number for itself: else the rank that owned it would keep twice its share of moments
//! and have no matrices to move. So each rank has about the same of gradients, moments and work.

use std::ops::Range;

use crate::engine::train::optimizer::Rule;

/// A table is cut when it is more than this part of a rank's share.
const CUT_SHARE: usize = 8;
/// Numbers of one message, 2 MiB: large enough that its start costs nothing.
pub const BUCKET: usize = 1 << 19;

/// A tensor, or a part of a table, and its owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// Where its numbers are in the flat array.
    pub range: Range<usize>,
    /// How it moves.
    pub rule: Rule,
    /// The rank that keeps its moments and moves it.
    pub owner: usize,
}

/// Neighbouring numbers with one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where they are in the flat array.
    pub range: Range<usize>,
    /// Their owner.
    pub owner: usize,
}

/// The owners of all parameters.
#[derive(Debug, Clone)]
pub struct Ownership {
    /// Everything, in the order in which it lies.
    pub pieces: Vec<Piece>,
    /// The same, neighbours put together.
    runs: Vec<Run>,
}

impl Ownership {
    /// Divides tensors, in the order in which they lie, among `ranks`.
    pub fn new(tensors: &[(Range<usize>, Rule)], ranks: usize) -> Ownership {
        let all: usize = tensors.iter().map(|(range, _)| range.len()).sum();
        let is_cut = |(range, rule): &(Range<usize>, Rule)| {
            *rule == Rule::Table && range.len() * CUT_SHARE * ranks > all
        };
        let whole: usize =
            tensors.iter().filter(|tensor| !is_cut(tensor)).map(|(range, _)| range.len()).sum();
        let mut pieces = Vec::new();
        let mut before = 0;
        for tensor in tensors {
            let (range, rule) = tensor.clone();
            if is_cut(tensor) {
                let cut = |n: usize| range.start + range.len() * n / ranks;
                pieces.extend((0..ranks).map(|owner| Piece {
                    range: cut(owner)..cut(owner + 1),
                    rule,
                    owner,
                }));
                continue;
            }
            // Whoever's share holds the tensor's middle has it.
            let middle = before + range.len() / 2;
            before += range.len();
            pieces.push(Piece { range, rule, owner: middle * ranks / whole.max(1) });
        }
        let mut runs: Vec<Run> = Vec::new();
        for Piece { range, owner, .. } in &pieces {
            match runs.last_mut() {
                Some(run) if run.owner == *owner && run.range.end == range.start => run.range.end = range.end,
                _ => runs.push(Run { range: range.clone(), owner: *owner }),
            }
        }
        Ownership { pieces, runs }
    }

    /// Returns what one rank owns, in the order in which it lies.
    pub fn of(&self, rank: usize) -> Vec<(Range<usize>, Rule)> {
        let mine = self.pieces.iter().filter(|piece| piece.owner == rank);
        mine.map(|piece| (piece.range.clone(), piece.rule)).collect()
    }

    /// Returns how many numbers one rank owns.
    pub fn len_of(&self, rank: usize) -> usize {
        self.runs.iter().filter(|run| run.owner == rank).map(|run| run.range.len()).sum()
    }

    /// Returns the messages of at most `longest` numbers in which `part` of the flat array travels, in order.
    pub fn buckets(&self, part: &Range<usize>, longest: usize) -> Vec<Run> {
        let mut buckets = Vec::new();
        for run in &self.runs {
            let end = run.range.end.min(part.end);
            let mut start = run.range.start.max(part.start);
            while start < end {
                let next = end.min(start.saturating_add(longest));
                buckets.push(Run { range: start..next, owner: run.owner });
                start = next;
            }
        }
        buckets
    }

    /// Returns where a bucket lies when only what its owner owns stands one behind the other.
    pub fn place(&self, bucket: &Run) -> Range<usize> {
        let before = self.runs.iter().filter(|run| run.owner == bucket.owner);
        let start = before.map(|run| run.range.end.min(bucket.range.start).saturating_sub(run.range.start));
        let start = start.sum::<usize>();
        start..start + bucket.range.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of the trainer's default: a table, then layers of vectors, a small table and matrices.
    fn tensors() -> Vec<(Range<usize>, Rule)> {
        let mut tensors: Vec<(Range<usize>, Rule)> = Vec::new();
        let mut add = |len: usize, rule| {
            let start = tensors.last().map_or(0, |(range, _)| range.end);
            tensors.push((start..start + len, rule));
        };
        add(8192 * 192, Rule::Table);
        for _ in 0..4 {
            add(192, Rule::Vector);
            add(320 * 192, Rule::Matrix { rows: 320, columns: 192 });
            add(32 * 192, Rule::Table);
            for _ in 0..3 * 32 {
                add(96 * 192, Rule::Matrix { rows: 96, columns: 192 });
            }
        }
        add(192, Rule::Vector);
        tensors
    }

    #[test]
    fn every_number_has_one_owner_and_every_matrix_stays_whole() {
        let tensors = tensors();
        for ranks in 1..=7 {
            let ownership = Ownership::new(&tensors, ranks);
            let mut at = 0;
            for piece in &ownership.pieces {
                assert_eq!(piece.range.start, at, "{ranks} ranks");
                assert!(piece.owner < ranks);
                at = piece.range.end;
            }
            assert_eq!(at, tensors.last().unwrap().0.end);
            for (range, rule) in tensors.iter().filter(|(_, rule)| *rule != Rule::Table) {
                let is_whole = |piece: &&Piece| piece.range == *range && piece.rule == *rule;
                assert_eq!(ownership.pieces.iter().filter(is_whole).count(), 1, "{ranks} ranks, {range:?}");
            }
            let sum: usize = (0..ranks).map(|rank| ownership.len_of(rank)).sum();
            assert_eq!(sum, at);
        }
    }

    #[test]
    fn shares_of_parameters_moments_and_matrices_are_even() {
        let tensors = tensors();
        let moments = |(range, rule): &(Range<usize>, Rule)| match rule {
            Rule::Matrix { .. } => range.len(),
            Rule::Vector | Rule::Table => 2 * range.len(),
        };
        let matrices = |(range, rule): &(Range<usize>, Rule)| match rule {
            Rule::Matrix { .. } => range.len(),
            Rule::Vector | Rule::Table => 0,
        };
        for ranks in [2, 3, 4, 7] {
            let ownership = Ownership::new(&tensors, ranks);
            for count in [&moments as &dyn Fn(&(Range<usize>, Rule)) -> usize, &matrices] {
                let even = tensors.iter().map(count).sum::<usize>() as f64 / ranks as f64;
                for rank in 0..ranks {
                    let share = ownership.of(rank).iter().map(count).sum::<usize>() as f64;
                    assert!(
                        (share / even - 1.0).abs() < 0.06,
                        "rank {rank} of {ranks}: {share}, even {even}"
                    );
                }
            }
        }
    }

    #[test]
    fn buckets_cover_a_part_and_their_places_follow_one_another() {
        let tensors = tensors();
        let end = tensors.last().unwrap().0.end;
        let ownership = Ownership::new(&tensors, 3);
        for part in [0..end, 100..100, 5000..8192 * 192 + 5000, end - 10..end] {
            let mut at = part.start;
            for bucket in ownership.buckets(&part, BUCKET) {
                assert_eq!(bucket.range.start, at);
                assert!(bucket.range.len() <= BUCKET);
                at = bucket.range.end;
            }
            assert_eq!(at, part.end);
        }
        for rank in 0..3 {
            let mut at = 0;
            for bucket in ownership.buckets(&(0..end), BUCKET).iter().filter(|bucket| bucket.owner == rank) {
                let place = ownership.place(bucket);
                assert_eq!(place.start, at);
                at = place.end;
            }
            assert_eq!(at, ownership.len_of(rank));
        }
    }
}
