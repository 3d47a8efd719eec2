//! Others beside our engine, in one run: the same weights, prompt and passes.
//!
//! A peer is given by the path of its program. It must be LLaDA-MoE, which llama.cpp knows.

pub mod gguf;
mod llama;
mod pytorch;
mod tensors;

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use serde_json::Value;
use serde_json::json;

use crate::command::bench::peers::gguf::Numbers;
use crate::engine::config::Family;
use crate::engine::config::FeedForwardShape;
use crate::engine::config::ModelConfig;
use crate::engine::model::linear::Quant;
use crate::engine::weights::Weights;

/// Which peers are measured too.
#[derive(Debug, Clone, clap::Args)]
pub struct Peers {
    /// Measure llama.cpp too: the path of its llama-diffusion-cli.
    #[arg(long, value_name = "PROGRAM", requires = "tokens_per_step")]
    against_llama: Option<PathBuf>,
    /// Measure PyTorch in bf16 too: the path of a Python interpreter that has it.
    #[arg(long, value_name = "PYTHON", requires = "tokens_per_step")]
    against_pytorch: Option<PathBuf>,
}

/// What all do.
#[derive(Debug)]
pub struct Task<'a> {
    /// The model.
    pub config: &'a ModelConfig,
    /// Its weights.
    pub weights: &'a Weights,
    /// The precision of ours.
    pub quant: Quant,
    /// Token ids.
    pub prompt: &'a [u32],
    /// Ids that are never written.
    pub banned: &'a [u32],
    /// Tokens that follow it.
    pub generate_tokens: usize,
    /// Tokens that settle in a pass.
    pub tokens_per_step: usize,
    /// Threads.
    pub threads: usize,
    /// Where PyTorch computes: `cpu` or `cuda`.
    pub device: &'a str,
    /// How often it is measured; the fastest counts.
    pub repeat: usize,
}

/// How we did.
#[derive(Debug)]
pub struct Ours<'a> {
    /// Of all passes together, prompt and all.
    pub seconds: f64,
    /// How many passes.
    pub passes: u32,
    /// The answer.
    pub answer: &'a [u32],
}

/// What a peer took.
#[derive(Debug)]
struct Measured {
    ms_per_pass: f64,
    /// The answer, where it settled as many tokens in each pass as ours.
    answer: Option<Vec<u32>>,
}

impl Peers {
    /// Fails when the peers cannot do what is asked.
    pub fn check(&self, config: &ModelConfig, batch: usize) -> anyhow::Result<()> {
        if self.against_llama.is_none() && self.against_pytorch.is_none() {
            return Ok(());
        }
        anyhow::ensure!(batch == 1, "peers run one sequence; give --batch 1");
        let sparse =
            |layer: &FeedForwardShape| matches!(layer, FeedForwardShape::Sparse(s) if s.shared_width == 0);
        anyhow::ensure!(
            config.family == Family::LladaMoe && config.layers.iter().all(sparse),
            "peers are measured with LLaDA-MoE; try --shape llada-moe-218m"
        );
        Ok(())
    }

    /// Measures them and returns what each took, and how many times as long as ours.
    ///
    /// # Errors
    /// When a program cannot be run or says something else than is expected.
    pub fn measure(&self, task: &Task, ours: &Ours) -> anyhow::Result<Value> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut report = json!({});
        let mut add = |name: &str, precision: &str, measured: &Measured| {
            let seconds = measured.ms_per_pass * f64::from(ours.passes) / 1e3;
            report[name] = json!({
                "precision": precision,
                "ms_per_pass": measured.ms_per_pass,
                "seconds_for_our_passes": seconds,
                "times_ours": seconds / ours.seconds,
                "same_tokens": measured.answer.as_ref().map(|answer| same(answer, ours.answer)),
            });
        };
        if let Some(program) = &self.against_llama {
            let file = folder.path().join("llama.gguf");
            let (numbers, precision) = match task.quant {
                Quant::F32 => (Numbers::F32, "F32"),
                Quant::Bf16 => (Numbers::Bf16, "BF16"),
                Quant::Q8 => (Numbers::Q8, "Q8_0"),
                Quant::Q4 => (Numbers::Q4, "Q4_0"),
            };
            gguf::write(&file, task.config, task.weights, numbers)?;
            add("llama.cpp", precision, &llama::measure(program, &file, task)?);
        }
        if let Some(python) = &self.against_pytorch {
            let file = folder.path().join("pytorch.gguf");
            gguf::write(&file, task.config, task.weights, Numbers::Bf16)?;
            add("pytorch", "bf16", &pytorch::measure(python, folder.path(), &file, task)?);
        }
        Ok(report)
    }
}

/// Runs a program to its end and returns all that it said.
fn output(command: &mut Command, program: &Path) -> anyhow::Result<String> {
    let run = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    let said = [run.stdout, run.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    anyhow::ensure!(run.status.success(), "{} failed ({}): {}", program.display(), run.status, tail(&said));
    Ok(said)
}

/// Returns the end of what a program said, for an error.
fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.trim().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Returns the share of places that have the same token.
fn same(a: &[u32], b: &[u32]) -> f64 {
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count();
    equal as f64 / a.len().max(b.len()).max(1) as f64
}
