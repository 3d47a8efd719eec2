//! Routing of LLaDA2: sigmoid scores, a bias that only moves the choice, groups, normalised weights.
//!
//! `s = sigmoid(x·Wᵀ)`; `r = s + bias`; of `n_group` groups the `topk_group` with the largest sum
//! of their two best `r` stay; of their experts the `k` largest `r` are chosen; the weight of a
//! chosen expert is `s / (Σ s + 1e-20) · scale`. In f32 throughout (LLaDA2.0 report, arXiv 2512.15745).

/// How experts are chosen.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// Experts a token is sent to.
    pub chosen: usize,
    /// Groups of experts.
    pub groups: usize,
    /// Groups that stay.
    pub kept_groups: usize,
    /// Multiplies the normalised weights.
    pub scale: f32,
}

/// Chooses experts for one token: `scores` `[experts]` after the sigmoid, `bias` `[experts]`;
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
    for (expert, weight) in experts.iter().zip(weights) {
        *weight = scores[*expert as usize] / (sum + 1e-20) * routing.scale;
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

    #[test]
    fn the_bias_moves_the_choice_but_not_the_weight() {
        let routing = Routing { chosen: 2, groups: 1, kept_groups: 1, scale: 1.0 };
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        route(routing, &[0.5, 0.4, 0.3, 0.2], &[0.0, 0.0, 0.0, 1.0], &mut experts, &mut weights);
        assert_eq!(experts, [3, 0]);
        assert!((weights[0] - 0.2 / 0.7).abs() < 1e-6);
        assert!((weights[1] - 0.5 / 0.7).abs() < 1e-6);
    }

    #[test]
    fn experts_outside_the_kept_groups_are_not_chosen() {
        let routing = Routing { chosen: 2, groups: 2, kept_groups: 1, scale: 2.5 };
        let (mut experts, mut weights) = ([0; 2], [0.0; 2]);
        // Expert 0 is the best of all, but its group's two best sum to less.
        route(routing, &[0.9, 0.1, 0.6, 0.6], &[0.0; 4], &mut experts, &mut weights);
        assert_eq!(experts, [2, 3]);
        assert!((weights[0] - 1.25).abs() < 1e-6);
    }
}
