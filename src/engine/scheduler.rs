//! Which sequences run in the next step, and with how many rows: integers, no tensor.
//!
//! One step is one forward pass over a budget of rows. Scores go before drafts, newer drafts
//! before older ones; a long prompt takes what is left of the budget, so it never holds up others.

use serde::Deserialize;
use serde::Serialize;

/// How urgent work is; more urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    /// Somebody watches it come.
    Draft,
    /// A label that a person waits for.
    Score,
}

/// A sequence that could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its urgency.
    pub priority: Priority,
    /// When it came, counted up.
    pub arrival: u64,
    /// Rows it wants.
    pub pending: usize,
    /// Rows are given in multiples of this: a block, or all that a pass of full attention computes.
    pub unit: usize,
}

/// Returns (index, rows) of those that run in this step, within `budget` rows but never nobody.
pub fn pack(waiting: &[Waiting], budget: usize) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..waiting.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse((waiting[*i].priority, waiting[*i].arrival)));
    let mut left = budget;
    let mut packed = Vec::new();
    for i in order {
        let w = &waiting[i];
        let rows = w.pending.min(left / w.unit * w.unit);
        if rows > 0 {
            packed.push((i, rows));
            left -= rows;
        } else if packed.is_empty() {
            return vec![(i, w.unit)];
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_go_first_then_newer_drafts_within_the_budget() {
        let draft = |arrival, pending| Waiting { priority: Priority::Draft, arrival, pending, unit: 16 };
        let score = Waiting { priority: Priority::Score, arrival: 0, pending: 32, unit: 16 };
        let waiting = [draft(1, 16), draft(2, 400), score];
        assert_eq!(pack(&waiting, 256), [(2, 32), (1, 224)]);
        assert_eq!(pack(&waiting, 512), [(2, 32), (1, 400), (0, 16)]);
        assert_eq!(pack(&waiting, 1), [(2, 16)]);
        assert!(pack(&[], 256).is_empty());
    }
}
