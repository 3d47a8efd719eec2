//! What class follows which: in a call emotions do not come one by one. The angry stay angry, the satisfied
//! have nothing more to say.
//!
//! A first-order Markov chain, as the ratio of a class's chance after another one to its chance anywhere.

/// What is counted for each pair that was never seen, so that nothing is impossible.
const PRIOR: f32 = 1.0;
/// How much of what the chain says is believed: the best of three on calls that it was not learned from.
const TRUST: f32 = 0.3;

/// A learned chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    classes: usize,
    /// `[classes, classes]`: the chance of the second after the first, against its chance anywhere.
    ratios: Vec<f32>,
}

impl Chain {
    /// Counts which class follows which; every sequence holds classes below `classes`.
    pub fn learn(sequences: &[Vec<usize>], classes: usize) -> Chain {
        let mut pairs = vec![PRIOR; classes * classes];
        let mut anywhere = vec![PRIOR; classes];
        for sequence in sequences {
            sequence.iter().for_each(|class| anywhere[*class] += 1.0);
            sequence.windows(2).for_each(|pair| pairs[pair[0] * classes + pair[1]] += 1.0);
        }
        let all: f32 = anywhere.iter().sum();
        for after in pairs.chunks_mut(classes.max(1)) {
            let sum: f32 = after.iter().sum();
            after.iter_mut().zip(&anywhere).for_each(|(pair, count)| *pair = *pair / sum / (count / all));
        }
        Chain { classes, ratios: pairs }
    }

    /// Takes `[classes, classes]` ratios as they were written; `None` when they are of another number.
    pub fn of(ratios: Vec<f32>, classes: usize) -> Option<Chain> {
        (ratios.len() == classes * classes).then_some(Chain { classes, ratios })
    }

    /// Returns the ratios, `[classes, classes]`.
    pub fn ratios(&self) -> &[f32] {
        &self.ratios
    }

    /// Returns what is to be added to the logarithms of the next one's chances, when the last one was of each
    /// class with chance `last`.
    pub fn after(&self, last: &[f32]) -> Vec<f32> {
        let ratio = |to: usize| {
            let from = last.iter().enumerate();
            from.map(|(from, chance)| chance * self.ratios[from * self.classes + to]).sum::<f32>()
        };
        (0..self.classes).map(|to| TRUST * ratio(to).max(f32::MIN_POSITIVE).ln()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_often_follows_gains_and_what_never_does_loses() {
        let chain = Chain::learn(&[vec![0, 1, 0, 1, 0, 1], vec![2, 2, 2]], 3);
        let after = chain.after(&[1.0, 0.0, 0.0]);
        assert!(after[1] > 0.0 && after[0] < 0.0 && after[2] < 0.0, "{after:?}");
        let even = Chain::learn(&[], 3).after(&[0.2, 0.3, 0.5]);
        assert!(even.iter().all(|gain| gain.abs() < 1e-6), "{even:?}");
        assert_eq!(Chain::of(chain.ratios().to_vec(), 3), Some(chain));
        assert_eq!(Chain::of(vec![1.0; 8], 3), None);
    }
}
