//! Several checkpoints of one run, or of runs that began with the same weights, as one: the weighted mean of
//! their parameters ("Model soups", arXiv 2203.05482; "Averaging weights leads to wider optima",
//! arXiv 1803.05407). What each has learned by heart differs, what all have learned stays.

use std::path::PathBuf;

use crate::engine::model::llada2::Llada2Config;
use crate::engine::train::network::Network;
use crate::engine::train::trainer::TrainError;
use crate::engine::train::trainer::begun;

/// Returns the mean of checkpoints with the shape of `config`, each with its weight; weights need not add up
/// to 1. Tokens that one of them does not know count as the mean of those it knows.
///
/// # Errors
/// When a checkpoint cannot be read, has another shape, or there is none.
pub fn average(checkpoints: &[(PathBuf, f32)], config: &Llada2Config) -> Result<Network, TrainError> {
    let all: f32 = checkpoints.iter().map(|(_, weight)| weight).sum();
    let mut mean: Option<Network> = None;
    for (folder, weight) in checkpoints {
        let mut network = begun(folder, config.clone())?;
        let share = weight / all;
        let Network { parameters, expert_bias, .. } = &mut network;
        parameters.iter_mut().chain(expert_bias.iter_mut().flatten()).for_each(|number| *number *= share);
        match &mut mean {
            None => mean = Some(network),
            Some(mean) => {
                let sums = mean.parameters.iter_mut().chain(mean.expert_bias.iter_mut().flatten());
                let more = network.parameters.iter().chain(network.expert_bias.iter().flatten());
                sums.zip(more).for_each(|(sum, number)| *sum += number);
            }
        }
    }
    mean.ok_or(TrainError::NoData)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::train::checkpoint;
    use crate::engine::train::layout::Layout;
    use crate::engine::train::network::tests::tiny;

    #[test]
    fn each_number_is_the_weighted_mean() {
        let config = tiny();
        let layout = Layout::new(&config).expect("a layout");
        let folder = tempfile::tempdir().expect("a folder");
        let mut checkpoints = Vec::new();
        for (name, number, weight) in [("a", 1.0, 1.0), ("b", 4.0, 2.0)] {
            let bias = vec![vec![number; config.num_experts]; config.num_hidden_layers];
            let network = Network::new(config.clone(), vec![number; layout.len], bias).expect("a network");
            checkpoint::write_model(&folder.path().join(name), &network).expect("is written");
            checkpoints.push((folder.path().join(name), weight));
        }
        let mean = average(&checkpoints, &config).expect("is averaged");
        let numbers = mean.parameters.iter().chain(mean.expert_bias.iter().flatten());
        assert!(numbers.into_iter().all(|number| (number - 3.0).abs() < 1e-5));
        assert!(matches!(average(&[], &config), Err(TrainError::NoData)));
    }
}
