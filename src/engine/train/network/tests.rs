//! Checks the training network: gradients against finite differences, and that later blocks change nothing.

use clap::ValueEnum;
use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Label;
use crate::engine::train::objective::Noising;
use crate::engine::train::objective::Objective;

pub(in crate::engine::train) fn tiny() -> Llada2Config {
    serde_json::from_value(serde_json::json!({
        "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 23,
        "hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-6, "rope_theta": 100.0,
        "partial_rotary_factor": 0.67, "max_position_embeddings": 64, "num_experts": 4,
        "num_experts_per_tok": 4, "num_shared_experts": 1, "moe_intermediate_size": 5,
        "tie_word_embeddings": true, "block_size": 4, "routed_scaling_factor": 1.5,
        "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }))
    .expect("a configuration")
}

fn network(seed: u64) -> Network {
    let config = tiny();
    let layout = Layout::new(&config).expect("a layout");
    let mut rng = StdRng::seed_from_u64(seed);
    let parameters = (0..layout.len).map(|_| (rng.random::<f32>() - 0.4) * 0.6).collect();
    Network::new(config, parameters, vec![vec![0.0; 4]; 2]).expect("a network")
}

fn batch() -> Batch {
    batch_of(Objective::BlockDiffusion)
}

fn batch_of(objective: Objective) -> Batch {
    let examples = [
        Example { tokens: (3..14).collect(), labels: vec![] },
        Example { tokens: (9..15).collect(), labels: vec![Label { position: 4, weight: 1.0 }] },
    ];
    let noising = Noising { mask: 0, pad: 2, block: 4 };
    let examples: Vec<&Example> = examples.iter().collect();
    objective::prepare(objective, &examples, noising, &mut StdRng::seed_from_u64(5))
}

#[test]
fn every_gradient_agrees_with_finite_differences() {
    for objective in Objective::value_variants() {
        check_gradients(batch_of(*objective));
    }
}

fn check_gradients(batch: Batch) {
    let mut network = network(3);
    network.accumulate(&batch, 1.0);
    let gradients = network.gradients.clone();
    let mut rng = StdRng::seed_from_u64(11);
    for tensor in network.layout.tensors.clone() {
        let largest = gradients[tensor.range.clone()].iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        assert!(largest > 0.0, "{} got no gradient", tensor.name);
        for _ in 0..6 {
            let i = rng.random_range(tensor.range.clone());
            let value = network.parameters[i];
            let h = 4e-3;
            let mut at = |v: f32| {
                network.parameters[i] = v;
                network.evaluate(&batch).weighted
            };
            let (up, down) = (at(value + h), at(value - h));
            at(value);
            let numeric = (up - down) / f64::from(2.0 * h);
            let error = (numeric - f64::from(gradients[i])).abs();
            assert!(error < 0.02 * numeric.abs() + 0.02, "{}: {numeric} and {}", tensor.name, gradients[i]);
        }
    }
}

#[test]
fn later_blocks_do_not_change_earlier_ones() {
    let mut network = network(4);
    let mut batch = batch();
    batch.targets.retain(|t| t.row < 4);
    assert!(!batch.targets.is_empty());
    let before = network.evaluate(&batch);
    // Another token in the second block of the first document.
    batch.clean[6] = 20;
    batch.noised[6] = 20;
    assert_eq!(network.evaluate(&batch), before);
}

#[test]
fn a_causal_row_sees_nothing_that_follows() {
    let mut network = network(4);
    let mut batch = batch_of(Objective::Autoregressive);
    batch.targets.retain(|t| t.row < 6);
    let before = network.evaluate(&batch);
    batch.noised[6] = 20;
    assert_eq!(network.evaluate(&batch), before);
    batch.noised[5] = 20;
    assert_ne!(network.evaluate(&batch), before);
}

#[test]
fn gradients_of_rounded_products_are_near_the_exact_ones() {
    let (mut exact, mut rounded, batch) = (network(3), network(3), batch());
    rounded.precision = Precision::Bf16;
    let (a, b) = (exact.accumulate(&batch, 1.0), rounded.accumulate(&batch, 1.0));
    assert!((a.weighted - b.weighted).abs() < 0.01 * a.weighted, "{a:?} and {b:?}");
    let distance: f32 = exact.gradients.iter().zip(&rounded.gradients).map(|(a, b)| (a - b) * (a - b)).sum();
    let size: f32 = exact.gradients.iter().map(|a| a * a).sum();
    assert!(distance < 1e-3 * size, "{distance} of {size}");
}

#[test]
fn layers_computed_again_give_the_same_gradients_to_the_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let (mut kept, mut again) = (network(3), network(3));
        (kept.precision, again.precision) = (precision, precision);
        again.recomputes = true;
        // Twice, and another batch between: nothing of a pass may stay for the next.
        for scale in [1.0, 0.5] {
            assert_eq!(kept.accumulate(&batch(), scale), again.accumulate(&batch(), scale));
            assert_eq!(kept.gradients, again.gradients);
            let mut other = batch();
            other.clean.reverse();
            assert_eq!(kept.evaluate(&other), again.evaluate(&other));
        }
        assert_eq!(kept.take_load(), again.take_load());
        assert!(again.activation_bytes() < kept.activation_bytes());
    }
}

#[test]
fn parts_add_up_to_the_whole_gradient() {
    let (mut whole, mut by_parts, batch) = (network(3), network(3), batch());
    let loss = whole.accumulate(&batch, 0.5);
    let mut sum = vec![0.0; by_parts.layout.len];
    let mut given = Vec::new();
    let mut done = |part: Range<usize>, gradients: &mut [f32]| {
        sum[part.clone()].iter_mut().zip(gradients).for_each(|(sum, g)| *sum += *g);
        given.push(part);
    };
    let mut work = Vec::new();
    let mut sink = Sink::Parts { work: &mut work, done: &mut done };
    assert_eq!(by_parts.accumulate_into(&batch, 0.5, &mut sink), loss);
    assert_eq!(given, by_parts.parts());
    assert!(by_parts.gradients.iter().all(|g| *g == 0.0));
    for (i, (a, b)) in sum.iter().zip(&whole.gradients).enumerate() {
        assert!((a - b).abs() <= 1e-6 + 1e-5 * b.abs(), "{i}: {a} and {b}");
    }
}
