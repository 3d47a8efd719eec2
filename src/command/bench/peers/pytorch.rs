//! The same model written in PyTorch, in bf16.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use crate::command::bench::peers::Measured;
use crate::command::bench::peers::Task;
use crate::command::bench::peers::output;

const SCRIPT: &str = include_str!("../../../../benches/lladamoe.py");
/// As many passes tell how long one takes.
const MOST_PASSES: usize = 32;

#[derive(Deserialize)]
struct Report {
    ms_per_pass: f64,
    answer: Vec<u32>,
    is_whole: bool,
}

/// Measures a pass.
pub fn measure(python: &Path, folder: &Path, file: &Path, task: &Task) -> anyhow::Result<Measured> {
    let (script, work) = (folder.join("lladamoe.py"), folder.join("task.json"));
    std::fs::write(&script, SCRIPT)?;
    let asked = json!({
        "model": file, "prompt": task.prompt, "generate_tokens": task.generate_tokens,
        "tokens_per_step": task.tokens_per_step, "block": task.config.block_length(),
        "mask": task.config.mask_token_id, "banned": task.banned,
        "threads": task.threads, "device": task.device, "repeat": task.repeat, "most_passes": MOST_PASSES,
    });
    std::fs::write(&work, asked.to_string())?;
    let said = output(Command::new(python).arg(&script).arg(&work), python)?;
    let line = said.lines().find(|line| line.starts_with('{')).context("the script printed no report")?;
    let report: Report = serde_json::from_str(line).context("the script's report cannot be read")?;
    let answer =
        (report.is_whole && task.tokens_per_step == task.config.block_length()).then_some(report.answer);
    Ok(Measured { ms_per_pass: report.ms_per_pass, answer })
}
