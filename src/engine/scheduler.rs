//! Which sequences run in the next step, and with how many rows: integers, no tensor.
//!
//! One step is one forward pass over a budget of rows. Scores go before drafts. Among equals the
//! owner that was given the fewest rows goes first (start-time fair queueing, Goyal, Vin and Cheng
//! 1996: who comes anew begins where the least served stands, so that nobody waits forever), and of
//! one owner what belongs to the newest turn.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::HashSet;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

/// How urgent work is; more urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Priority {
    /// Somebody watches it come.
    Draft,
    /// A label that a person waits for.
    Score,
}

/// For whom work is done, of which turn it is, and until when it is worth doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Claim {
    /// Shares of the engine are equal among owners; work without one has a share of its own.
    pub owner: Option<OwnerId>,
    /// Of one owner the highest goes first.
    pub turn: u64,
    /// When it has passed before the work begins, the work is refused.
    pub deadline: Option<Instant>,
}

/// Somebody among whom the engine is shared: a call, or a request of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(u64);

impl OwnerId {
    /// Returns the owner of this name, whatever names it.
    pub fn of(name: &impl Hash) -> OwnerId {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        OwnerId(hasher.finish())
    }
}

/// Whose share work is counted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// That of an owner who was named.
    Named(OwnerId),
    /// Its own, known by its arrival.
    Alone(u64),
}

impl Owner {
    /// Returns whose share the work of a claim is counted to.
    pub fn of(claim: &Claim, arrival: u64) -> Owner {
        claim.owner.map_or(Owner::Alone(arrival), Owner::Named)
    }
}

/// A sequence that could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its urgency.
    pub priority: Priority,
    /// Whose share it is counted to.
    pub owner: Owner,
    /// The turn it belongs to.
    pub turn: u64,
    /// How many passes are predicted until it is done: of one turn what is done soonest goes first.
    pub passes: u32,
    /// When it came, counted up.
    pub arrival: u64,
    /// Rows it wants.
    pub pending: usize,
    /// Rows are given in multiples of this: a block, or all that a pass of full attention computes.
    pub unit: usize,
}

/// Who was given how much.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    /// Rows given to those who have work, and to those who were given more than the least served of them.
    served: HashMap<Owner, u64>,
}

impl Scheduler {
    /// Takes note of all who have work, whether it runs or waits: counts for new owners begin where the
    /// least served stands, and who has no work and was served no more than that is forgotten.
    pub fn enrol(&mut self, waiting: &[Waiting]) {
        if waiting.is_empty() {
            self.served.clear();
            return;
        }
        let known = waiting.iter().filter_map(|w| self.served.get(&w.owner).copied());
        let least = known.min().unwrap_or(0);
        let present: HashSet<Owner> = waiting.iter().map(|w| w.owner).collect();
        self.served.retain(|owner, served| *served > least || present.contains(owner));
        for w in waiting {
            self.served.entry(w.owner).or_insert(least);
        }
    }

    /// Returns (index, rows) of those that run in this step, within `budget` rows but never nobody:
    /// one whose unit is larger than the budget runs alone.
    pub fn pack(&mut self, waiting: &[Waiting], budget: usize) -> Vec<(usize, usize)> {
        let since = arrivals_of_owners(waiting);
        let mut open: Vec<usize> = (0..waiting.len()).collect();
        let mut left = budget;
        let mut packed = Vec::new();
        while let Some(at) = (0..open.len()).min_by_key(|at| self.rank(&waiting[open[*at]], since[open[*at]]))
        {
            let i = open.swap_remove(at);
            let w = &waiting[i];
            let unit = w.unit.max(1);
            let fits = w.pending.min(left / unit * unit);
            let rows = if fits == 0 && packed.is_empty() { unit } else { fits };
            if rows > 0 {
                packed.push((i, rows));
                left = left.saturating_sub(rows);
                let least = self.least();
                *self.served.entry(w.owner).or_insert(least) += rows as u64;
            }
            if left == 0 {
                break;
            }
        }
        packed
    }

    /// Returns which of those that wait to be admitted goes first.
    pub fn first(&self, waiting: &[Waiting]) -> Option<usize> {
        let since = arrivals_of_owners(waiting);
        (0..waiting.len()).min_by_key(|i| self.rank(&waiting[*i], since[*i]))
    }

    /// Orders work: the least goes first. Owners served alike take turns in the order they came.
    fn rank(&self, w: &Waiting, since: u64) -> (Reverse<Priority>, u64, u64, Owner, Reverse<u64>, u32, u64) {
        let served = self.served.get(&w.owner).copied().unwrap_or_else(|| self.least());
        (Reverse(w.priority), served, since, w.owner, Reverse(w.turn), w.passes, w.arrival)
    }

    fn least(&self) -> u64 {
        self.served.values().copied().min().unwrap_or(0)
    }
}

/// Returns for each when the first of its owner and its urgency came.
fn arrivals_of_owners(waiting: &[Waiting]) -> Vec<u64> {
    let mut first: HashMap<(Owner, Priority), u64> = HashMap::new();
    for w in waiting {
        let since = first.entry((w.owner, w.priority)).or_insert(w.arrival);
        *since = w.arrival.min(*since);
    }
    waiting.iter().map(|w| first[&(w.owner, w.priority)]).collect()
}

#[cfg(test)]
mod tests;
