//! The GPU's loss and gradients beside the processor's, on an emulated GPU.

#[cfg(feature = "mpi")]
use std::process::Command;
#[cfg(feature = "mpi")]
use std::rc::Rc;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::engine::cuda::emulator;
#[cfg(feature = "mpi")]
use crate::engine::train::collective::Collective;
use crate::engine::train::network::Network;
use crate::engine::train::objective;
use crate::engine::train::objective::Example;
use crate::engine::train::objective::Noising;
use crate::engine::train::objective::Objective;
use crate::engine::train::optimizer::Optimizer;
use crate::engine::train::optimizer::OptimizerConfig;
use crate::engine::train::optimizer::Rule;
use crate::engine::train::ownership::Ownership;
use crate::engine::train::shards::Sharding;
use crate::engine::train::shards::Shards;
use crate::engine::train::shards::Stage;
use crate::engine::train::shards::Totals;
use crate::engine::train::trainer;

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
        let passed = trainer.accumulate(batch, &network.expert_bias, how, 0.25, None).unwrap();
        trainer.take_gradients(&mut gradients).unwrap();
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

/// Returns how a network's tensors move, matrices by Muon.
fn tensors(network: &Network) -> Vec<(Range<usize>, Rule)> {
    network.layout.tensors.iter().map(|tensor| (tensor.range.clone(), trainer::rule(tensor))).collect()
}

/// Trains some steps of three passes each and returns the parameters, the moments and the last step's totals.
fn trained(device: Option<Gpu>, sharding: &Sharding, precision: Precision) -> (Network, Optimizer, Totals) {
    let mut network = network(config(1));
    network.precision = precision;
    if let Some(gpu) = device {
        network.compute_on(Trainer::new(gpu, &network.config, &network.layout).expect("a trainer"));
    }
    let collective = &sharding.collective;
    let ownership = Ownership::new(&tensors(&network), collective.size());
    let config = OptimizerConfig { precision, learning_rate: 0.02, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(config, ownership.of(collective.rank()));
    let mut shards = Shards::new(sharding, ownership, &mut network, &optimizer).expect("shards");
    let batches = [Objective::BlockDiffusion, Objective::Masked, Objective::BlockDiffusion].map(batch);
    let mut totals = None;
    for step in 1..=3 {
        let found = shards.accumulate(&mut network, &optimizer, &batches, 0.01);
        shards.step(&mut network, &mut optimizer, found.norm, step, 1.0);
        totals = Some(found);
    }
    shards.fetch(&mut network, &mut optimizer);
    (network, optimizer, totals.expect("a step"))
}

/// Checks that a GPU moves parameters as the processor does.
fn check_steps(sharding: &Sharding, precision: Precision, allowed: f64) {
    let (expected, mut moments, totals) = trained(None, &alone(Stage::Moments), precision);
    let (found, mut of_gpu, of_totals) = trained(Some(emulator::open()), sharding, precision);
    let before = network(config(1)).parameters;
    let moved = |network: &Network, range: &Range<usize>| -> Vec<f32> {
        let now = &network.parameters[range.clone()];
        now.iter().zip(&before[range.clone()]).map(|(now, before)| now - before).collect()
    };
    for tensor in &expected.layout.tensors {
        let distance = distance(&moved(&found, &tensor.range), &moved(&expected, &tensor.range));
        assert!(distance < allowed, "{}: {distance}", tensor.name);
    }
    assert_eq!(of_totals.load, totals.load);
    assert!((f64::from(of_totals.norm / totals.norm) - 1.0).abs() < allowed);
    if sharding.collective.size() == 1 {
        for ((found, second), (expected, other)) in of_gpu.moments().into_iter().zip(moments.moments()) {
            assert!(distance(found, expected) < allowed && distance(second, other) < allowed);
        }
    }
    emulator::check();
}

fn alone(stage: Stage) -> Sharding {
    Sharding { stage, ..Sharding::default() }
}

#[test]
fn steps_on_a_gpu_are_the_processors_whole_and_in_parts() {
    check_steps(&alone(Stage::Moments), Precision::F32, 2e-3);
    check_steps(&alone(Stage::Gradients), Precision::F32, 2e-3);
}

#[test]
fn gradients_of_passes_add_up_until_they_are_taken() {
    let mut network = network(config(1));
    let (first, second) = (batch(Objective::BlockDiffusion), batch(Objective::Masked));
    let mut trainer = Trainer::new(emulator::open(), &network.config, &network.layout).expect("a trainer");
    trainer.set(&network.parameters).unwrap();
    for batch in [&first, &second] {
        network.accumulate(batch, 0.5);
        trainer.accumulate(batch, &network.expert_bias, EXACT, 0.5, None).unwrap();
    }
    let mut found = vec![0.0; network.layout.len];
    trainer.take_gradients(&mut found).unwrap();
    assert!(distance(&found, &network.gradients) < 2e-4);
    trainer.take_gradients(&mut found).unwrap();
    assert!(found.iter().all(|gradient| *gradient == 0.0));
}

/// Runs itself under `mpirun`: two processes, each with a GPU of its own.
#[cfg(feature = "mpi")]
#[test]
fn ranks_with_a_gpu_each_move_parameters_as_one_does() {
    let collective = Rc::new(Collective::start().expect("MPI, where mpirun has started this"));
    if collective.size() > 1 {
        for stage in [Stage::Moments, Stage::Gradients] {
            check_steps(&Sharding { collective: Rc::clone(&collective), stage }, Precision::F32, 2e-3);
        }
        return;
    }
    let is_there = Command::new("mpirun").arg("--version").output().is_ok_and(|out| out.status.success());
    if !is_there {
        eprintln!("not run: there is no mpirun; scripts/setup.sh mpi installs it");
        return;
    }
    let output = Command::new("mpirun")
        .args(["--allow-run-as-root", "--oversubscribe", "-n", "2"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "engine::cuda::train::tests::ranks_with_a_gpu_each_move_parameters_as_one_does"])
        .output()
        .expect("mpirun runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("1 passed").count(), 2, "{said}");
}
