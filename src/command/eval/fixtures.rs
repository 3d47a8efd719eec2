//! `chatdlm eval fixtures`: does the engine compute what the reference implementation computed?
//!
//! A fixture folder is a checkpoint with `cases.json` and `expected.safetensors`: forward cases give
//! the logits of some tokens, decode cases give every step of a decoding rule. In 32-bit floats logits
//! must agree within 2e-4 and decode traces token for token. In 16 bits, on a GPU, the nearest quarter of
//! the rows must differ by no more than 5 % of their logits (as root mean squares): rows whose experts are
//! chosen by less than the precision go to others, and differ by more, as do those that see them. No trace
//! is compared, for a choice between two near tokens changes all that follows.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

use crate::engine::config::ModelConfig;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::model::forward::Sight;
use crate::engine::model::linear::Quant;
use crate::engine::runner::Runner;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::sequence::Sequence;
use crate::engine::weights::Weights;

/// Memory for keys and values: cases are tiny.
const CACHE_BYTES: usize = 64 << 20;
/// The largest difference of a logit in 32-bit floats.
const TOLERANCE: f32 = 2e-4;
/// The largest share of the nearest rows' logits that is lost in 16 bits: every product loses a part in 256.
const TOLERANCE_BF16: f64 = 0.05;

/// Runs every case of reference fixture folders.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Fixture folders: config.json, model.safetensors, cases.json, expected.safetensors.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Where the engine computes.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// In 16 bits, which a GPU has.
    #[arg(long)]
    bf16: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Cases {
    #[serde(default)]
    forward: Vec<ForwardCase>,
    #[serde(default)]
    decode: Vec<DecodeCase>,
}

#[derive(Deserialize)]
struct ForwardCase {
    input_ids: Vec<u32>,
    attention: Attention,
    logits: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Attention {
    Full,
    BlockCausal { block_length: usize },
}

#[derive(Deserialize)]
struct DecodeCase {
    rule: String,
    prompt: Vec<u32>,
    block_length: usize,
    gen_length: usize,
    #[serde(default)]
    steps: Option<usize>,
    #[serde(default)]
    threshold: Option<f32>,
    #[serde(default)]
    editing_threshold: Option<f32>,
    #[serde(default)]
    max_post_steps: Option<usize>,
    mask_id: u32,
    #[serde(default)]
    eos_id: Option<u32>,
    output_ids: Vec<u32>,
    forward_passes: u32,
    trace: Vec<Vec<Pass>>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Pass {
    unmasked: usize,
    #[serde(default)]
    edited: usize,
    tokens: Vec<u32>,
}

/// Runs the command.
///
/// # Errors
/// When a folder cannot be read or any case does not reproduce.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut results = Vec::new();
    let quant = if args.bf16 { Quant::Bf16 } else { Quant::F32 };
    for folder in &args.folders {
        let outcome = check_on(args.device, quant, folder)
            .with_context(|| format!("cannot check {}", folder.display()));
        match outcome {
            Ok(cases) => results.extend(cases),
            Err(error) => results.push((format!("{}", folder.display()), Err(format!("{error:#}")))),
        }
    }
    let failed = results.iter().filter(|(_, r)| r.is_err()).count();
    if args.json {
        let cases: Vec<_> = results
            .iter()
            .map(|(name, r)| serde_json::json!({"case": name, "ok": r.is_ok(), "detail": r.as_ref().map_or_else(Clone::clone, Clone::clone)}))
            .collect();
        println!(
            "{}",
            serde_json::json!({"cases": cases, "passed": results.len() - failed, "failed": failed})
        );
    } else {
        for (name, result) in &results {
            match result {
                Ok(detail) => println!("ok    {name}: {detail}"),
                Err(reason) => println!("FAIL  {name}: {reason}"),
            }
        }
        println!("{} passed, {failed} failed", results.len() - failed);
    }
    anyhow::ensure!(failed == 0, "{failed} of {} fixture cases do not reproduce", results.len());
    Ok(())
}

/// A case's name, and what was compared or why it failed.
type CaseResult = (String, Result<String, String>);

/// Checks every case of one folder on a device.
fn check_on(device: Device, quant: Quant, folder: &Path) -> anyhow::Result<Vec<CaseResult>> {
    let config = ModelConfig::read(folder)?;
    let backend = device::load(device, config, &Weights::open(folder)?, quant, |_, _| {})?;
    check_folder(folder, Runner::new(backend, CACHE_BYTES), quant)
}

/// Checks every case of one folder with what has been loaded from it.
///
/// # Errors
/// When the folder is no fixture; a case that fails is a result.
pub fn check_folder(folder: &Path, mut runner: Runner, quant: Quant) -> anyhow::Result<Vec<CaseResult>> {
    let text = std::fs::read_to_string(folder.join("cases.json")).context("cannot read cases.json")?;
    let cases: Cases = serde_json::from_str(&text).context("cannot understand cases.json")?;
    let expected_bytes =
        std::fs::read(folder.join("expected.safetensors")).context("cannot read expected.safetensors")?;
    let expected = safetensors::SafeTensors::deserialize(&expected_bytes).context("expected.safetensors")?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut results = Vec::new();
    for (i, case) in cases.forward.iter().enumerate() {
        let view = expected.tensor(&case.logits).with_context(|| format!("no tensor {}", case.logits))?;
        let logits: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        results.push((format!("{name} forward {i}"), check_forward(&mut runner, case, &logits, quant)));
    }
    let traced = if quant == Quant::F32 { cases.decode.as_slice() } else { &[] };
    for (i, case) in traced.iter().enumerate() {
        results.push((format!("{name} decode {i} ({})", case.rule), check_decode(&mut runner, case)));
    }
    Ok(results)
}

fn check_forward(
    runner: &mut Runner,
    case: &ForwardCase,
    expected: &[f32],
    quant: Quant,
) -> Result<String, String> {
    let sight = match case.attention {
        Attention::BlockCausal { block_length } => Sight::Blocks(block_length),
        Attention::Full => Sight::Below(case.input_ids.len()),
    };
    let logits = runner.logits(&case.input_ids, sight);
    if logits.len() != expected.len() {
        return Err(format!("{} logits, expected {}", logits.len(), expected.len()));
    }
    if quant == Quant::Bf16 {
        let square = |sum: f64, v: f32| sum + f64::from(v).powi(2);
        let row = expected.len() / case.input_ids.len();
        let rows = logits.chunks_exact(row).zip(expected.chunks_exact(row));
        let mut shares: Vec<f64> = rows
            .map(|(logits, expected)| {
                let lost = logits.iter().zip(expected).map(|(a, b)| a - b).fold(0.0, square);
                (lost / expected.iter().copied().fold(0.0, square)).sqrt()
            })
            .collect();
        shares.sort_by(f64::total_cmp);
        let (quarter, middle) = (shares[shares.len() / 4], shares[shares.len() / 2]);
        let said = format!(
            "a quarter of {} rows within {:.2} %, half within {:.2} %",
            shares.len(),
            100.0 * quarter,
            100.0 * middle
        );
        return if quarter <= TOLERANCE_BF16 { Ok(said) } else { Err(said) };
    }
    let largest = logits.iter().zip(expected).fold(0.0_f32, |d, (a, b)| d.max((a - b).abs()));
    if largest.is_nan() || largest > TOLERANCE {
        return Err(format!("logits differ by {largest:e}, allowed {TOLERANCE:e}"));
    }
    Ok(format!("{} logits within {largest:.1e}", logits.len()))
}

fn check_decode(runner: &mut Runner, case: &DecodeCase) -> Result<String, String> {
    let rule = rule(case)?;
    // Rules without an end of text fill the whole canvas.
    let generate = Generate {
        rule,
        banned: vec![],
        banned_at: vec![],
        stops_at_end: case.eos_id.is_some(),
        sampling: None,
        min_passes: 0,
        ..Generate::default()
    };
    let model = Form::of(runner.config());
    let end_of_text = case.eos_id.unwrap_or(model.end_of_text);
    let form = Form { block: case.block_length, mask: case.mask_id, end_of_text, ..model };
    let sequence = Sequence::generate(&case.prompt, &vec![None; case.gen_length], form, generate);
    let Some(mut slot) = runner.slot(sequence, Vec::new()) else {
        return Err("the case is too long for the cache".to_owned());
    };
    let mut trace: Vec<Vec<Pass>> = Vec::new();
    let mut blocks_before = 0;
    let mut is_new_block = true;
    while !slot.sequence.is_done {
        let block = slot.sequence.current..slot.sequence.block_end();
        let outcomes = runner.step(&mut [(&mut slot, usize::MAX / 2)]);
        let Some(change) = &outcomes[0].change else { continue };
        if is_new_block {
            trace.push(Vec::new());
        }
        let tokens = slot.sequence.tokens[block].to_vec();
        if let Some(passes) = trace.last_mut() {
            passes.push(Pass { unmasked: change.unmasked, edited: change.edited, tokens });
        }
        is_new_block = slot.sequence.blocks != blocks_before;
        blocks_before = slot.sequence.blocks;
    }
    for (b, (found, expected)) in trace.iter().zip(&case.trace).enumerate() {
        for (p, (found, expected)) in found.iter().zip(expected).enumerate() {
            if found != expected {
                return Err(format!("block {b} pass {p}: {found:?}, expected {expected:?}"));
            }
        }
    }
    let passes = |trace: &[Vec<Pass>]| trace.iter().map(Vec::len).collect::<Vec<_>>();
    if passes(&trace) != passes(&case.trace) {
        return Err(format!("passes of the blocks {:?}, expected {:?}", passes(&trace), passes(&case.trace)));
    }
    if slot.sequence.steps != case.forward_passes {
        return Err(format!("{} forward passes, expected {}", slot.sequence.steps, case.forward_passes));
    }
    let output = &slot.sequence.tokens[..slot.sequence.end.min(slot.sequence.tokens.len())];
    if !output.starts_with(&case.output_ids) && !case.output_ids.starts_with(output) {
        return Err(format!("output {output:?}, expected {:?}", case.output_ids));
    }
    Ok(format!("{} passes, {} tokens", slot.sequence.steps, case.output_ids.len()))
}

fn rule(case: &DecodeCase) -> Result<Rule, String> {
    let threshold = || case.threshold.ok_or(format!("a {} case without threshold", case.rule));
    let steps = || case.steps.ok_or(format!("a {} case without steps", case.rule));
    match case.rule.as_str() {
        "threshold" => Ok(Rule::Threshold { threshold: threshold()?, steps: steps()? }),
        "threshold_edit" => Ok(Rule::ThresholdEdit {
            threshold: threshold()?,
            editing_threshold: case.editing_threshold.ok_or("an editing case without editing_threshold")?,
            max_post_steps: case.max_post_steps.ok_or("an editing case without max_post_steps")?,
        }),
        // The case states the passes of the whole canvas.
        "low_confidence" => {
            let blocks = case.gen_length.div_ceil(case.block_length).max(1);
            Ok(Rule::LowConfidence { steps: steps()? / blocks })
        }
        other => Err(format!("decoding rule {other:?} is not supported")),
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;
    use crate::engine::cuda;

    #[test]
    fn a_gpu_computes_what_every_familys_reference_computed() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut cases = 0;
        for folder in std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()) {
            if !folder.join("cases.json").is_file() {
                continue;
            }
            for quant in [Quant::F32, Quant::Bf16] {
                let config = ModelConfig::read(&folder).unwrap();
                let weights = Weights::open(&folder).unwrap();
                let backend = cuda::load(cuda::emulator::open(), config, &weights, quant, |_, _| {}).unwrap();
                let results = check_folder(&folder, Runner::new(backend, CACHE_BYTES), quant).unwrap();
                for (name, result) in results {
                    println!("{quant:?} {name}: {result:?}");
                    assert!(result.is_ok(), "{quant:?} {name}: {result:?}");
                    cases += 1;
                }
            }
        }
        assert!(cases > 20, "{cases} cases");
    }
}
