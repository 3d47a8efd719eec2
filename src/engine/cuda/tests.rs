//! The GPU's operations and passes beside the processor's, on an emulated GPU.
//!
//! What is written nowhere reads as NaN there, memory has canaries around it, and threads run in any order.
//! The references' fixtures are run in `command/eval/fixtures.rs`.

mod operations;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;

use super::*;
use crate::engine::cuda::emulator::Emulator;
use crate::engine::cuda::linear::Ending;
use crate::engine::cuda::linear::Operands;
use crate::engine::cuda::machine::Buffer;
use crate::engine::cuda::machine::bytes_of;
use crate::engine::cuda::machine::bytes_of_mut;
use crate::engine::cuda::pack::Form;
use crate::engine::cuda::weights::Weight;
use crate::engine::model::cpu::Cpu;
use crate::engine::model::forward::Asked;
use crate::engine::model::forward::Chunk;
use crate::engine::model::forward::Sight;
use crate::engine::model::forward::forward;
use crate::engine::model::linear::Linear;
use crate::engine::model::linear::Rows;
use crate::engine::model::transformer::Model;
use crate::engine::ops::softmax::peak;
use crate::engine::ops::swiglu::swiglu;
use crate::engine::ops::testing::numbers;
use crate::engine::pages::Pages;
use crate::engine::runner::Runner;
use crate::engine::runner::Slot;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Form as SequenceForm;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Sequence;

/// Memory for keys and values.
const CACHE_BYTES: usize = 4 << 20;

/// The order in which threads run is one for all: whoever changes it is alone.
static ORDER: Mutex<()> = Mutex::new(());

fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/nano")
}

fn on_gpu(gpu: Gpu, folder: &Path, quant: Quant) -> Runner {
    let config = ModelConfig::read(folder).unwrap();
    Runner::new(load(gpu, config, &Weights::open(folder).unwrap(), quant, |_, _| {}).unwrap(), CACHE_BYTES)
}

fn on_cpu(folder: &Path, quant: Quant) -> Runner {
    let config = ModelConfig::read(folder).unwrap();
    let model = Model::load(config, &Weights::open(folder).unwrap(), quant, |_, _| {}).unwrap();
    Runner::new(Box::new(Cpu::new(model)), CACHE_BYTES)
}

/// A linear layer on both sides.
struct Pair {
    gpu: Gpu,
    weight: Weight,
    quant: Quant,
    input: usize,
    numbers: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Pair {
    fn new(quant: Quant, input: usize, outputs: usize, is_gated: bool, has_bias: bool) -> Pair {
        let gpu = emulator::open();
        let rows = outputs * if is_gated { 2 } else { 1 };
        let mut numbers = numbers(rows * input, 1.0, 5);
        if quant == Quant::Bf16 {
            numbers.iter_mut().for_each(|n| *n = half::bf16::from_f32(*n).to_f32());
        }
        let bias = has_bias.then(|| (0..rows).map(|i| i as f32 * 0.125 - 2.0).collect::<Vec<f32>>());
        let form = Form { quant, input, outputs, is_gated };
        let packed = form.pack(|row, to| to.copy_from_slice(&numbers[row * input..(row + 1) * input]));
        let weight = Weight::of_one(&gpu, form, &packed, bias.as_deref()).unwrap();
        Pair { gpu, weight, quant, input, numbers, bias }
    }

    /// Returns what the GPU makes of rows.
    fn on_gpu(&self, x: &[f32], ending: Ending, y: &mut [f32]) {
        let (gpu, rows) = (&self.gpu, x.len() / self.input);
        let x = Buffer::with(gpu, bytes_of(x)).unwrap();
        let stride = self.weight.form.stride();
        let (to, scales) =
            (Buffer::new(gpu, rows * stride * 4).unwrap(), Buffer::new(gpu, rows * stride).unwrap());
        let bounds = Buffer::with(gpu, bytes_of(&[0, rows as u32])).unwrap();
        backend::to_rows(gpu, self.quant, (&to, &scales), x.address, bounds.address + 4, rows, self.input)
            .unwrap();
        let out = Buffer::with(gpu, bytes_of(y)).unwrap();
        let operands = Operands {
            x: to.address,
            x_scales: scales.address,
            y: out.address,
            bounds: bounds.address,
            ..Operands::default()
        };
        linear::apply(gpu, &self.weight, ending, operands, rows).unwrap();
        gpu.download(bytes_of_mut(y), out.address).unwrap();
    }

    /// Returns what the processor makes of rows, `[rows, outputs]` or with ups behind gates.
    fn on_cpu(&self, x: &[f32]) -> Vec<f32> {
        let (input, all) = (self.input, self.numbers.len() / self.input);
        let fill =
            |row: usize, to: &mut [f32]| to.copy_from_slice(&self.numbers[row * input..(row + 1) * input]);
        // 16-bit floats are compared with exact sums of the same numbers.
        let (quant, x) = match self.quant {
            Quant::Bf16 => (Quant::F32, x.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()),
            quant => (quant, x.to_vec()),
        };
        let linear = Linear::from_rows(quant, input, all, self.bias.clone(), fill);
        let mut rows = Rows::default();
        rows.set(quant, &x, input);
        let mut y = vec![0.0; x.len() / input * all];
        linear.apply_parallel(&mut y, &rows);
        y
    }
}

/// Checks that numbers agree within a share of the largest.
fn assert_near(found: &[f32], expected: &[f32], share: f32, of: &str) {
    assert_eq!(found.len(), expected.len(), "{of}");
    let largest = expected.iter().fold(0.0_f32, |largest, v| largest.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= share * largest, "{of}, number {i}: {found} and {expected}");
    }
}

const PRECISIONS: [Quant; 4] = [Quant::F32, Quant::Bf16, Quant::Q8, Quant::Q4];
/// Inputs, outputs and rows: less than a tile, awkward, more than a stage, and rows for every form of the kernel.
const SHAPES: [(usize, usize, usize); 6] =
    [(20, 5, 1), (36, 33, 3), (192, 100, 8), (1100, 40, 21), (96, 130, 65), (300, 70, 150)];

#[test]
fn the_emulator_finds_what_it_is_to_find() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("selftest");
    emulator::compile("selftest.cpp", &[], &program);
    let said = std::process::Command::new(&program).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
}

#[test]
fn linear_layers_give_what_the_processors_give() {
    for (quant, (input, outputs, rows)) in PRECISIONS.into_iter().flat_map(|q| SHAPES.map(|shape| (q, shape)))
    {
        let of = format!("{quant:?} {input} {outputs} {rows}");
        let pair = Pair::new(quant, input, outputs, false, rows % 2 == 1);
        let x = numbers(rows * input, 2.0, 6);
        let expected = pair.on_cpu(&x);
        let mut y = vec![f32::NAN; rows * outputs];
        pair.on_gpu(&x, Ending::Store, &mut y);
        // Integers are exact whatever their order; the groups of 4 bits are added in another.
        let share = if quant == Quant::Q8 { 0.0 } else { 3e-6 };
        assert_near(&y, &expected, share, &of);
        let mut y = vec![1.5; rows * outputs];
        pair.on_gpu(&x, Ending::Add, &mut y);
        let added: Vec<f32> = expected.iter().map(|y| y + 1.5).collect();
        assert_near(&y, &added, 3e-6, &format!("{of}, added"));
        let alone = &x[(rows - 1) * input..];
        let mut last = vec![f32::NAN; outputs];
        pair.on_gpu(alone, Ending::Store, &mut last);
        let mut y = vec![f32::NAN; rows * outputs];
        pair.on_gpu(&x, Ending::Store, &mut y);
        assert_eq!(last, y[(rows - 1) * outputs..], "{of}: a row alone");
    }
    emulator::check();
}

#[test]
fn gated_layers_give_what_the_processors_give() {
    for (quant, (input, outputs, rows)) in PRECISIONS.into_iter().flat_map(|q| SHAPES.map(|shape| (q, shape)))
    {
        let pair = Pair::new(quant, input, outputs, true, rows % 2 == 1);
        let x = numbers(rows * input, 0.5, 7);
        let mut expected = vec![0.0; rows * outputs];
        swiglu(&mut expected, &pair.on_cpu(&x), outputs);
        let mut y = vec![f32::NAN; rows * outputs];
        pair.on_gpu(&x, Ending::Gated, &mut y);
        assert_near(&y, &expected, 1e-5, &format!("{quant:?} {input} {outputs} {rows}"));
    }
    emulator::check();
}

#[test]
fn the_order_in_which_threads_run_changes_no_bit() {
    let _alone = ORDER.lock().unwrap_or_else(PoisonError::into_inner);
    for quant in PRECISIONS {
        let pair = Pair::new(quant, 1100, 40, true, false);
        let x = numbers(21 * 1100, 0.5, 8);
        let found = [(0, 0), (1, 0), (2, 3)].map(|(mode, seed)| {
            emulator::order(mode, seed);
            let mut y = vec![f32::NAN; 21 * 40];
            pair.on_gpu(&x, Ending::Gated, &mut y);
            y
        });
        emulator::order(0, 0);
        assert!(found.iter().all(|y| *y == found[0]), "{quant:?}");
    }
}

#[test]
fn the_bundled_models_logits_are_those_of_the_processor() {
    let folder = bundled();
    let tokens: Vec<u32> = (0..48).map(|i| 300 + i * 17 % 900).collect();
    let sight = Sight::Blocks(16);
    let exact = on_cpu(&folder, Quant::F32).logits(&tokens, sight);
    let check = |quant: Quant, expected: &[f32], allowed: f64| {
        let found = on_gpu(emulator::open(), &folder, quant).logits(&tokens, sight);
        let lost: f64 = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let all: f64 = expected.iter().map(|b| f64::from(*b).powi(2)).sum();
        let share = (lost / all).sqrt();
        assert!(share < allowed, "{quant:?}: {share}");
    };
    check(Quant::F32, &exact, 1e-5);
    check(Quant::Bf16, &exact, 0.03);
    // Keys, values and queries are rounded to 16 bits here, and not there; what is near a level falls to another.
    check(Quant::Q8, &on_cpu(&folder, Quant::Q8).logits(&tokens, sight), 0.03);
    check(Quant::Q4, &on_cpu(&folder, Quant::Q4).logits(&tokens, sight), 0.06);
    emulator::check();
}

fn sequence(config: &ModelConfig, first: u32, prompt: u32) -> Sequence {
    let prompt: Vec<u32> = (0..prompt).map(|i| 300 + (first + i * 31) % 2000).collect();
    let generate = Generate {
        rule: Rule::LowConfidence { steps: 4 },
        banned: vec![config.mask_token_id, config.eos_token_id, config.pad_token_id],
        ..Generate::default()
    };
    Sequence::generate(&prompt, &[None; 32], SequenceForm::of(config), generate)
}

/// Denoises sequences together and returns what each wrote, and how sure it was.
fn write(runner: &mut Runner, sequences: Vec<Sequence>) -> Vec<(Vec<u32>, Vec<f32>)> {
    let mut slots: Vec<Slot> =
        sequences.into_iter().map(|sequence| runner.slot(sequence, Vec::new()).unwrap()).collect();
    while slots.iter().any(|slot| !slot.sequence.is_done) {
        let mut running: Vec<(&mut Slot, usize)> = slots
            .iter_mut()
            .filter(|slot| !slot.sequence.is_done)
            .map(|slot| (slot, usize::MAX / 2))
            .collect();
        runner.step(&mut running);
    }
    let written = slots.iter().map(|s| (s.sequence.canvas().to_vec(), s.sequence.confidences().to_vec()));
    let written = written.collect();
    slots.iter().for_each(|slot| runner.release(slot));
    written
}

#[test]
fn a_sequence_alone_is_written_as_among_others_and_from_recordings() {
    let folder = bundled();
    let gpu = Arc::new(Emulator::default());
    let mut runner = on_gpu(Arc::clone(&gpu) as Gpu, &folder, Quant::Q8);
    let config = runner.config().clone();
    let ask = |i: u32| sequence(&config, i * 7, 20 + 13 * i);
    let together = write(&mut runner, vec![ask(0), ask(1), ask(2)]);
    assert!(*gpu.replayed.lock().unwrap() > 0);
    for i in 0..3 {
        // Prefixes that were kept are computed anew.
        runner.forget(CACHE_BYTES);
        assert_eq!(write(&mut runner, vec![ask(i)])[0], together[i as usize], "sequence {i}");
    }
    emulator::check();
}

#[test]
fn what_is_closed_is_not_likeliest_and_logits_say_the_same() {
    let folder = bundled();
    let config = ModelConfig::read(&folder).unwrap();
    let weights = Weights::open(&folder).unwrap();
    for quant in PRECISIONS {
        let mut cuda = load(emulator::open(), config.clone(), &weights, quant, |_, _| {}).unwrap();
        cuda.pool(2);
        let tokens: Vec<u32> = (0..40).map(|i| 500 + i * 3).collect();
        let mut pages = Pages::new(2);
        let table = [pages.take().unwrap()];
        let wanted = 3..40;
        let chunks = [Chunk {
            tokens: &tokens,
            start: 0,
            sight: Sight::Blocks(8),
            table: &table,
            wanted,
            adapter: None,
        }];
        assert!(forward(&mut *cuda, &chunks, &[]).is_empty());
        let rows = [0, 36, 5];
        let read: Vec<OnceLock<Vec<f32>>> = vec![OnceLock::new(); rows.len()];
        cuda.logits(&rows, &|i, logits| read[i].set(logits.to_vec()).unwrap());
        let mut logits: Vec<Vec<f32>> = read.into_iter().map(|row| row.into_inner().unwrap()).collect();
        let first = logits.iter().map(|row| peak(row).at as u32).collect::<Vec<u32>>();
        let asked: Vec<_> = rows
            .iter()
            .zip(&first)
            .map(|(row, token)| Asked { row: *row, closed: &[0, 1], closed_here: vec![*token] })
            .collect();
        let found = forward(&mut *cuda, &chunks, &asked);
        // Another question of the same form runs the recording.
        let asked: Vec<_> = asked.into_iter().rev().collect();
        assert!(forward(&mut *cuda, &chunks, &asked).iter().eq(found.iter().rev()));
        for ((logits, first), found) in logits.iter_mut().zip(&first).zip(found) {
            for closed in [0, 1, *first] {
                logits[closed as usize] = f32::NEG_INFINITY;
            }
            let peak = peak(logits);
            assert_eq!(found.token, peak.at as u32, "{quant:?}");
            assert!((found.probability - 1.0 / peak.sum).abs() < 1e-5, "{quant:?}");
        }
    }
    emulator::check();
}

#[test]
fn random_weights_of_every_precision_give_numbers() {
    let folder = bundled();
    let config = ModelConfig::read(&folder).unwrap();
    for quant in [Quant::Bf16, Quant::Q8, Quant::Q4] {
        let backend =
            load(emulator::open(), config.clone(), &Weights::Random { seed: 3 }, quant, |_, _| {}).unwrap();
        assert!(backend.weight_bytes() > 0);
        let mut runner = Runner::new(backend, CACHE_BYTES);
        let logits = runner.logits(&[5, 9, 100, 7], Sight::Blocks(4));
        let square = logits.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / logits.len() as f64;
        assert!((0.01..10.0).contains(&square), "{quant:?}: {square}");
    }
    emulator::check();
}

#[test]
fn a_shape_that_kernels_do_not_take_is_refused() {
    let mut config = ModelConfig::read(&bundled()).unwrap();
    config.head_dim = 80;
    let refused = load(emulator::open(), config, &Weights::Random { seed: 3 }, Quant::Q8, |_, _| {});
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("a head of 80 dimensions"), "{error}");
}
