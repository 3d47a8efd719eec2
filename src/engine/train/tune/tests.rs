//! Checks tuning on a tiny base: what moves, what it learns, and that the file says the same.

use super::*;
use crate::engine::model::llada2::Llada2Config;
use crate::engine::train::batch::Batch;
use crate::engine::train::loss::Target;

fn base() -> Network {
    let config: Llada2Config = serde_json::from_value(serde_json::json!({
        "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 40,
        "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "rms_norm_eps": 1e-6, "rope_theta": 100.0,
        "partial_rotary_factor": 0.5, "max_position_embeddings": 64, "num_experts": 4,
        "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": 12,
        "tie_word_embeddings": true, "block_size": 4,
        "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }))
    .expect("a configuration");
    let layout = Layout::new(&config).expect("a layout");
    let mut parameters = vec![1.0; layout.len];
    for tensor in layout.tensors.iter().filter(|tensor| tensor.shape.len() > 1) {
        let numbers = &mut parameters[tensor.range.clone()];
        random::normal(random::key(7, &tensor.name), 0, numbers);
        numbers.iter_mut().for_each(|number| *number *= 0.3);
    }
    Network::new(config, parameters, vec![vec![0.0; 4]; 2]).expect("a network")
}

/// A fact: after "10 11 12 13" comes "30 31 32 33", and something else after another question.
fn facts() -> Vec<Example> {
    let example = |tokens: [u32; 8]| Example { tokens: tokens.to_vec(), labels: vec![] };
    vec![example([10, 11, 12, 13, 30, 31, 32, 33]), example([14, 15, 16, 17, 34, 35, 36, 37])]
}

fn options(kind: Kind, steps: u64) -> TuneOptions {
    TuneOptions {
        device: Device::Cpu,
        kind,
        batch_tokens: 32,
        schedule: Schedule { warm_up: 5, decay: steps / 2, steps },
        optimizer: OptimizerConfig { learning_rate: 3e-2, weight_decay: 0.0, ..OptimizerConfig::default() },
        seed: 5,
    }
}

/// Returns the mean probability that the network gives the answer to the first question, all of it masked.
fn certainty(network: &mut Network) -> f64 {
    let fact = &facts()[0].tokens;
    let target = |row: usize| Target { row, token: fact[row], weight: 1.0 };
    let mut batch = Batch {
        noised: fact.clone(),
        clean: fact.clone(),
        documents: std::iter::once(0..8).collect(),
        targets: (4..8).map(target).collect(),
        ..Batch::default()
    };
    batch.noised[4..].fill(0);
    let loss = network.evaluate(&batch);
    (-loss.weighted / loss.weight).exp()
}

#[test]
fn a_tuned_network_knows_a_fact_that_its_base_did_not() {
    for kind in [Kind::Experts, Kind::LowRank { rank: 4 }] {
        assert!(certainty(&mut base()) < 0.1);
        let mut losses = Vec::new();
        let mut tuning = tune(base(), &facts(), &options(kind, 300), |progress| {
            losses.push(progress.loss);
            true
        })
        .unwrap();
        let certain = certainty(&mut tuning.network);
        assert!(certain > 0.6, "{kind}: {certain}");
        assert_eq!(losses.len(), 300);
    }
}

#[test]
fn nothing_but_routed_experts_and_routers_moves() {
    for kind in [Kind::Experts, Kind::LowRank { rank: 2 }] {
        let before = base();
        let tuning = tune(base(), &facts(), &options(kind, 8), |_| true).unwrap();
        for tensor in &before.layout.tensors {
            let (old, new) =
                (&before.parameters[tensor.range.clone()], &tuning.network.parameters[tensor.range.clone()]);
            let is_tuned = tensor.name.contains(".mlp.experts.") || tensor.name.ends_with(".mlp.gate.weight");
            assert_eq!(old != new, is_tuned, "{kind}: {}", tensor.name);
        }
        assert_eq!(before.expert_bias, tuning.network.expert_bias);
    }
}

#[test]
fn a_matrix_of_low_rank_is_the_base_plus_the_product_of_its_factors() {
    let before = base();
    let tuning = tune(base(), &facts(), &options(Kind::LowRank { rank: 3 }, 5), |_| true).unwrap();
    let mut checked = 0;
    for part in tuning.parts.iter().filter(|part| part.rank.is_some()) {
        let ([rows, columns], values) = (part.shape, &tuning.values[part.range.clone()]);
        let (a, b) = values.split_at(3 * columns);
        for row in 0..rows {
            for column in 0..columns {
                let at = part.tensor.range.start + row * columns + column;
                let sum: f32 = (0..3).map(|r| b[row * 3 + r] * a[r * columns + column]).sum();
                let (found, expected) = (tuning.network.parameters[at], before.parameters[at] + sum);
                assert!((found - expected).abs() < 1e-5, "{}: {found} and {expected}", part.tensor.name);
                checked += usize::from(sum != 0.0);
            }
        }
    }
    assert!(checked > 1000, "{checked} numbers changed");
}

#[test]
fn a_base_with_the_file_is_the_tuned_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors");
    let mut sizes = Vec::new();
    for kind in [Kind::Experts, Kind::LowRank { rank: 2 }] {
        let tuning = tune(base(), &facts(), &options(kind, 40), |_| true).unwrap();
        let file = AdapterFile { name: "x".into(), kind, base: "y".into(), deltas: tuning.deltas() };
        sizes.push(file.write(&path).unwrap());
        let mut applied = base();
        apply(&AdapterFile::read(&path).unwrap(), &mut applied).unwrap();
        let (mut distance, mut size) = (0.0, 0.0);
        for ((new, tuned), old) in applied.parameters.iter().zip(&tuning.network.parameters).zip(&tuning.base)
        {
            distance += (new - tuned) * (new - tuned);
            size += (tuned - old) * (tuned - old);
        }
        assert!(size > 0.0 && distance < 1e-4 * size, "{kind}: {distance} of {size}");
        // What an adapter of a larger model changes is not there.
        let mut other = file.clone();
        other.deltas.insert("model.layers.9.mlp.gate.weight".into(), Delta::eight([4, 16], &[0.5; 64]));
        assert!(matches!(apply(&other, &mut base()), Err(AdapterError::Unknown { .. })));
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn without_examples_there_is_nothing_to_tune_on() {
    let error = tune(base(), &[], &options(Kind::Experts, 5), |_| true).unwrap_err();
    assert!(matches!(error, TrainError::NoData));
}
