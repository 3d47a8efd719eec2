//! Routing of rows to experts: a score, a bias that only moves the choice, groups, weights.
//!
//! `s = sigmoid(x·Wᵀ)` or `softmax(x·Wᵀ)`; `r = s + bias`; of the groups those stay whose two best
//! `r` have the largest sum; of their experts the `k` largest `r` are chosen; the weight of a chosen
//! expert is `s · scale`, or `s / (Σ s + 1e-20) · scale`. In f32 throughout (LLaDA2.0 report, arXiv
//! 2512.15745). With a capacity only a pool of experts is open to the rows of a block: those with
//! the largest `max r` over the block (LLaDA2.2 report, equation 1).

/// What makes scores of the router's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Each by itself.
    Sigmoid,
    /// All experts together.
    Softmax,
}

/// How experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// What makes scores of the router's outputs.
    pub score: Score,
    /// Experts a token is sent to.
    pub chosen: usize,
    /// Groups of experts.
    pub groups: usize,
    /// Groups that stay.
    pub kept_groups: usize,
    /// Experts that are open to a block, when they are limited.
    pub capacity: Option<usize>,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalise: bool,
    /// Multiplies the weights.
    pub scale: f32,
}

/// Takes all experts out of a block's choice but the pool that its capacity allows.
///
/// `scores` `[rows, experts]` of the block, after the score; those outside the pool become −∞.
pub fn limit_to_pool(capacity: usize, scores: &mut [f32], bias: &[f32]) {
    let experts = bias.len();
    let best = |expert: usize| {
        let of_rows = scores.iter().skip(expert).step_by(experts);
        of_rows.fold(f32::NEG_INFINITY, |best, score| best.max(score + bias[expert]))
    };
    let ranks: Vec<f32> = (0..experts).map(best).collect();
    let mut order: Vec<usize> = (0..experts).collect();
    // A stable sort: of equal experts the first is in the pool first.
    order.sort_by(|a, b| ranks[*b].total_cmp(&ranks[*a]));
    for closed in order.into_iter().skip(capacity) {
        scores.iter_mut().skip(closed).step_by(experts).for_each(|score| *score = f32::NEG_INFINITY);
    }
}

/// Chooses experts for one token: `scores` `[experts]` after the score, `bias` `[experts]`;
/// writes `routing.chosen` experts, best first, and their weights.
pub fn route(routing: Routing, scores: &[f32], bias: &[f32], experts: &mut [u32], weights: &mut [f32]) {
    let size = scores.len() / routing.groups;
    let rank = |expert: usize| scores[expert] + bias[expert];
    let mut open = 0_u64;
    if routing.kept_groups == routing.groups {
        open = u64::MAX;
    } else {
        let strength = |group: usize| {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for expert in group * size..(group + 1) * size {
                let r = rank(expert);
                if r > first {
                    (first, second) = (r, first);
                } else if r > second {
                    second = r;
                }
            }
            if second == f32::NEG_INFINITY { first } else { first + second }
        };
        for _ in 0..routing.kept_groups {
            let best = largest((0..routing.groups).filter(|g| open & (1 << g) == 0), strength);
            open |= 1 << best;
        }
    }
    let mut sum = 0.0;
    for slot in 0..routing.chosen {
        let taken = &experts[..slot];
        let free =
            (0..scores.len()).filter(|e| open & (1 << (e / size)) != 0 && !taken.contains(&(*e as u32)));
        let expert = largest(free, rank);
        experts[slot] = expert as u32;
        sum += scores[expert];
    }
    let divisor = if routing.normalise { sum + 1e-20 } else { 1.0 };
    for (expert, weight) in experts.iter().zip(weights) {
        *weight = scores[*expert as usize] / divisor * routing.scale;
    }
}

/// Returns the first item with the largest value; 0 when there is none.
fn largest(items: impl Iterator<Item = usize>, value: impl Fn(usize) -> f32) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for item in items {
        let v = value(item);
        if v > best.1 {
            best = (item, v);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Routing = Routing {
        score: Score::Sigmoid,
        chosen: 2,
        groups: 1,
        kept_groups: 1,
        capacity: None,
        normalise: true,
        scale: 1.0,
    };

    #[test]
    fn the_bias_moves_the_choice_but_not_the_weight() {
        let routing = TWO;
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        route(routing, &[0.5, 0.4, 0.3, 0.2], &[0.0, 0.0, 0.0, 1.0], &mut experts, &mut weights);
        assert_eq!(experts, [3, 0]);
        assert!((weights[0] - 0.2 / 0.7).abs() < 1e-6);
        assert!((weights[1] - 0.5 / 0.7).abs() < 1e-6);
    }

    #[test]
    fn experts_outside_the_kept_groups_are_not_chosen() {
        let routing = Routing { groups: 2, kept_groups: 1, scale: 2.5, ..TWO };
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        // Expert 0 is the best of all, but its group's two best sum to less.
        route(routing, &[0.9, 0.1, 0.6, 0.6], &[0.0; 4], &mut experts, &mut weights);
        assert_eq!(experts, [2, 3]);
        assert!((weights[0] - 1.25).abs() < 1e-6);
    }

    #[test]
    fn weights_that_are_not_normalised_stay_scores() {
        let routing = Routing { score: Score::Softmax, normalise: false, ..TWO };
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        route(routing, &[0.1, 0.5, 0.1, 0.3], &[0.0; 4], &mut experts, &mut weights);
        assert_eq!((experts, weights), ([1, 3], [0.5, 0.3]));
    }

    #[test]
    fn a_block_chooses_from_the_experts_that_its_rows_want_most() {
        // Two rows; over both, experts 3 (0.9) and 0 (0.8) are wanted most, 1 is closed to the second.
        let mut scores = [0.8, 0.1, 0.2, 0.3, 0.1, 0.7, 0.2, 0.9];
        limit_to_pool(2, &mut scores, &[0.0; 4]);
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        route(TWO, &scores[4..], &[0.0; 4], &mut experts, &mut weights);
        assert_eq!(experts, [3, 0]);
        assert!((weights[0] - 0.9).abs() < 1e-6);
    }
}
