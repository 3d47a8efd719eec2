//! The GPU's loss and gradients beside the processor's, on an emulated GPU.

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::engine::cuda::emulator;
use crate::engine::train::network::Network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::objective::Objective;

/// Widths that are no round numbers, and more queries than keys.
fn config(shared_experts: usize) -> Llada2Config {
    serde_json::from_value(serde_json::json!({
        "architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "vocab_size": 53,
        "hidden_size": 36, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "rms_norm_eps": 1e-6, "rope_theta": 100.0,
        "partial_rotary_factor": 0.67, "max_position_embeddings": 256, "num_experts": 6,
        "num_experts_per_tok": 2, "num_shared_experts": shared_experts, "moe_intermediate_size": 20,
        "tie_word_embeddings": true, "block_size": 4, "routed_scaling_factor": 1.5,
        "mask_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }))
    .expect("a configuration")
}

fn network(config: Llada2Config) -> Network {
    let layout = Layout::new(&config).expect("a layout");
    let mut rng = StdRng::seed_from_u64(7);
    let parameters = (0..layout.len).map(|_| (rng.random::<f32>() - 0.45) * 0.5).collect();
    let bias = vec![(0..config.num_experts).map(|i| i as f32 * 0.01).collect(); config.num_hidden_layers];
    Network::new(config, parameters, bias).expect("a network")
}

fn batch(objective: Objective) -> Batch {
    // More than a tile of rows, documents of several lengths, one shorter than a block.
    let examples: Vec<Example> = [37, 90, 3, 21]
        .into_iter()
        .map(|length| Example { tokens: (0..length).map(|i| 3 + i * 7 % 50).collect(), labels: vec![] })
        .collect();
    let noising = Noising { mask: 0, pad: 2, block: 4 };
    let examples: Vec<&Example> = examples.iter().collect();
    objective::prepare(objective, &examples, noising, &mut StdRng::seed_from_u64(5))
}

/// Returns how much two arrays differ, as a share of the second.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let lost: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let all: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (lost / all.max(1e-30)).sqrt()
}

fn check(config: Llada2Config, batch: &Batch, how: How, allowed: f64) {
    let mut network = network(config.clone());
    network.precision = how.precision;
    let expected = network.accumulate(batch, 0.25);
    let load = network.take_load();
    let mut trainer = Trainer::new(emulator::open(), &config, &network.layout).expect("a trainer");
    trainer.set(&network.parameters).unwrap();
    let mut gradients = vec![f32::NAN; network.layout.len];
    // Twice: the second pass finds the memory of the first.
    for _ in 0..2 {
        let passed = trainer.accumulate(batch, &network.expert_bias, how, 0.25, &mut gradients).unwrap();
        assert_eq!(passed.load, load);
        let (found, expected) = (passed.loss, expected);
        assert_eq!((found.rows, found.weight), (expected.rows, expected.weight));
        assert!((found.nats - expected.nats).abs() < allowed * expected.nats, "{found:?} and {expected:?}");
        assert!((found.weighted - expected.weighted).abs() < allowed * expected.weighted);
        for tensor in &network.layout.tensors {
            let (found, expected) =
                (&gradients[tensor.range.clone()], &network.gradients[tensor.range.clone()]);
            let distance = distance(found, expected);
            assert!(distance < allowed, "{} {how:?}: {distance}", tensor.name);
        }
    }
    let evaluated = trainer.evaluate(batch, &network.expert_bias, how).unwrap();
    let expected = network.evaluate(batch);
    assert_eq!((evaluated.loss.hits, evaluated.loss.rows), (expected.hits, expected.rows));
    emulator::check();
}

const EXACT: How = How { precision: Precision::F32, recomputes: false };

#[test]
fn losses_and_gradients_are_the_processors_for_every_objective() {
    for objective in [Objective::BlockDiffusion, Objective::Masked, Objective::Autoregressive] {
        check(config(2), &batch(objective), EXACT, 2e-4);
    }
}

#[test]
fn a_layer_without_a_shared_expert_is_computed() {
    check(config(0), &batch(Objective::BlockDiffusion), EXACT, 2e-4);
}

#[test]
fn layers_computed_again_give_the_same() {
    check(config(1), &batch(Objective::BlockDiffusion), How { recomputes: true, ..EXACT }, 2e-4);
}

#[test]
fn sixteen_bits_stay_near() {
    let how = How { precision: Precision::Bf16, recomputes: false };
    check(config(1), &batch(Objective::BlockDiffusion), how, 0.03);
}
