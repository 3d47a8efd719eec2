//! Checks who goes first, and over random arrivals that nobody waits for whom they must not.

use proptest::prelude::*;

use super::*;

fn owner(number: u64) -> Owner {
    Owner::Named(OwnerId(number))
}

const DRAFT: Waiting = Waiting {
    priority: Priority::Draft,
    owner: Owner::Alone(0),
    turn: 0,
    passes: 0,
    arrival: 0,
    pending: 16,
    unit: 16,
};
const SCORE: Waiting = Waiting { priority: Priority::Score, ..DRAFT };

impl Scheduler {
    /// Runs a step of those who all have work.
    fn step(&mut self, waiting: &[Waiting], budget: usize) -> Vec<(usize, usize)> {
        self.enrol(waiting);
        self.pack(waiting, budget)
    }
}

#[test]
fn scores_go_first_and_the_budget_holds() {
    let draft = |arrival, pending| Waiting { owner: Owner::Alone(arrival), arrival, pending, ..DRAFT };
    let score = Waiting { owner: Owner::Alone(9), arrival: 9, pending: 32, ..SCORE };
    let waiting = [draft(1, 400), draft(2, 16), score];
    assert_eq!(Scheduler::default().step(&waiting, 256), [(2, 32), (0, 224)]);
    assert_eq!(Scheduler::default().step(&waiting, 512), [(2, 32), (0, 400), (1, 16)]);
    assert_eq!(Scheduler::default().step(&waiting, 1), [(2, 16)], "never nobody");
    assert!(Scheduler::default().step(&[], 256).is_empty());
    assert_eq!(Scheduler::default().first(&waiting), Some(2));
}

#[test]
fn of_one_owner_the_newest_turn_goes_first_and_then_what_is_done_soonest() {
    let draft = |arrival, turn, passes| Waiting { owner: owner(1), arrival, turn, passes, ..DRAFT };
    let waiting = [draft(1, 4, 1), draft(2, 5, 9), draft(3, 5, 2), draft(4, 3, 1)];
    let order: Vec<usize> = Scheduler::default().step(&waiting, 64).iter().map(|(i, _)| *i).collect();
    assert_eq!(order, [2, 1, 0, 3]);
}

#[test]
fn owners_take_turns_however_much_each_asks_for() {
    // The first owner has four drafts, the others one each.
    let waiting: Vec<Waiting> = [1, 1, 1, 1, 2, 3]
        .iter()
        .zip(0..)
        .map(|(number, arrival)| Waiting { owner: owner(*number), arrival, pending: 32, ..DRAFT })
        .collect();
    let mut scheduler = Scheduler::default();
    let mut rows = [0; 4];
    for _ in 0..30 {
        for (i, share) in scheduler.step(&waiting, 32) {
            let Owner::Named(OwnerId(number)) = waiting[i].owner else { panic!("all are named") };
            rows[number as usize] += share;
        }
    }
    assert_eq!(rows[1..], [320, 320, 320]);
    // Whoever comes anew is no more behind, and no more ahead, than the least served.
    let late = Waiting { owner: owner(4), arrival: 9, ..DRAFT };
    let all: Vec<Waiting> = waiting.into_iter().chain([late]).collect();
    let packed = scheduler.step(&all, 128);
    assert!(packed.contains(&(6, 16)), "{packed:?}");
    scheduler.enrol(&[]);
    assert!(scheduler.served.is_empty(), "nobody is remembered when nothing is to do");
}

/// Work that comes at some step: (steps since the last came, owner, whether it is a score, turn, units,
/// rows of a unit).
type Arrival = (usize, u64, bool, u64, usize, usize);

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let unit = prop_oneof![Just(8_usize), Just(16), Just(40)];
    let arrival = (0..3_usize, 0..5_u64, prop::bool::weighted(0.3), 0..4_u64, 1..6_usize, unit);
    prop::collection::vec(arrival, 1..60)
}

proptest! {
    #[test]
    fn over_random_arrivals_all_is_done_and_nobody_waits_for_what_is_less_urgent(
        arrivals in arrivals(),
        budget in prop_oneof![Just(16_usize), Just(32), Just(100)],
    ) {
        let mut scheduler = Scheduler::default();
        let mut coming = arrivals.iter().zip(0_u64..).peekable();
        let mut waiting: Vec<Waiting> = Vec::new();
        let (mut idle, mut total, mut steps) = (0, 0, 0);
        while coming.peek().is_some() || !waiting.is_empty() {
            while let Some(((_, number, is_score, turn, units, unit), arrival)) =
                coming.next_if(|((gap, ..), _)| *gap <= idle)
            {
                idle = 0;
                total += units;
                let priority = if *is_score { Priority::Score } else { Priority::Draft };
                let (owner, turn, unit) = (owner(*number), *turn, *unit);
                waiting.push(Waiting { priority, owner, turn, passes: 0, arrival, pending: units * unit, unit });
            }
            idle += 1;
            steps += 1;
            let scores: Vec<Waiting> =
                waiting.iter().copied().filter(|w| w.priority == Priority::Score).collect();
            let mut without_drafts = scheduler.clone();
            without_drafts.enrol(&waiting);
            let for_scores = without_drafts.pack(&scores, budget);
            let packed = scheduler.step(&waiting, budget);

            prop_assert!(waiting.is_empty() || !packed.is_empty(), "never nobody");
            let rows: usize = packed.iter().map(|(_, rows)| rows).sum();
            let is_alone = packed.len() == 1 && rows == waiting[packed[0].0].unit;
            prop_assert!(rows <= budget || is_alone, "{rows} rows of {budget}");
            for (i, rows) in &packed {
                prop_assert!(*rows <= waiting[*i].pending && rows.is_multiple_of(waiting[*i].unit));
            }
            // What scores are given is what they would be given if there were no drafts.
            let given = |of: &[Waiting], packed: &[(usize, usize)]| -> Vec<(u64, usize)> {
                let scores = packed.iter().filter(|(i, _)| of[*i].priority == Priority::Score);
                scores.map(|(i, rows)| (of[*i].arrival, *rows)).collect()
            };
            prop_assert_eq!(given(&waiting, &packed), given(&scores, &for_scores));
            // Of one owner an older turn runs only where a newer one of the same unit has all it wants.
            for (older, _) in &packed {
                let older = &waiting[*older];
                for (i, newer) in waiting.iter().enumerate() {
                    let is_same = newer.owner == older.owner && newer.priority == older.priority;
                    if is_same && newer.unit == older.unit && newer.turn > older.turn {
                        let given = packed.iter().find(|(p, _)| *p == i).map_or(0, |(_, rows)| *rows);
                        prop_assert_eq!(given, newer.pending);
                    }
                }
            }
            for (i, rows) in packed {
                waiting[i].pending -= rows;
            }
            waiting.retain(|w| w.pending > 0);
            prop_assert!(steps <= total + 3 * arrivals.len(), "each step does a unit or waits for the next");
        }
    }

    /// Others may ask for as much as they like, and new owners may come without end.
    #[test]
    fn a_draft_waits_no_longer_than_for_one_unit_of_each_owner_before_it(
        before in 0..6_u64,
        units in 1..9_usize,
        new_owners_each_step in 0..3_u64,
        head_start in 0..20_usize,
    ) {
        let mut scheduler = Scheduler::default();
        let mut waiting: Vec<Waiting> = (0..before)
            .map(|number| Waiting { owner: owner(number), arrival: number, pending: 16 * units, ..DRAFT })
            .collect();
        for _ in 0..head_start {
            scheduler.step(&waiting, 16 * units);
        }
        let mine = Waiting { owner: owner(99), arrival: 100, ..DRAFT };
        waiting.push(mine);
        let mut arrival = 100;
        for step in 0.. {
            let packed = scheduler.step(&waiting, 16 * units);
            if packed.iter().any(|(i, _)| waiting[*i] == mine) {
                break;
            }
            prop_assert!(step <= before, "after {step} steps behind {before} owners");
            for _ in 0..new_owners_each_step {
                arrival += 1;
                waiting.push(Waiting { owner: owner(arrival), arrival, pending: 16 * units, ..DRAFT });
            }
        }
    }
}
