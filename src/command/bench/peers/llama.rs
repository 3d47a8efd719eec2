//! llama.cpp's diffusion program, which computes all rows anew in every pass.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::command::bench::peers::Measured;
use crate::command::bench::peers::Task;
use crate::command::bench::peers::gguf::spelling;
use crate::command::bench::peers::output;
use crate::command::bench::peers::tail;

/// The rule that settles what is surest.
const BY_CONFIDENCE: &str = "4";

/// Runs until one is complete.
const ATTEMPTS: usize = 3;

/// Measures a pass. However few tokens settle in one, it takes as long: so whole blocks do, in as few
/// passes as there are blocks.
pub fn measure(program: &Path, file: &Path, task: &Task) -> anyhow::Result<Measured> {
    let length = task.prompt.len() + task.generate_tokens;
    let block = task.config.block_length();
    anyhow::ensure!(
        length.is_multiple_of(block),
        "prompt and answer have {length} tokens, which is no multiple of the block length {block}"
    );
    let prompt: String = task.prompt.iter().map(|id| spelling(*id)).collect();
    let mut command = Command::new(program);
    let (length, steps) = (length.to_string(), (length / block).to_string());
    command.arg("-m").arg(file).args(["-p", &prompt, "-c", &length, "-b", &length, "-ub", &length]);
    command.args(["--diffusion-block-length", &block.to_string(), "--diffusion-steps", &steps]);
    command.args(["--diffusion-algorithm", BY_CONFIDENCE, "--temp", "0", "--top-k", "1"]);
    command.args(["-t", &task.threads.to_string()]);
    let mut fastest = f64::INFINITY;
    let mut said = String::new();
    for _ in 0..task.repeat {
        // Its logger sometimes ends before it has written the last lines.
        let time = (0..ATTEMPTS).find_map(|_| {
            let run = output(&mut command, program);
            run.map(|text| {
                said = text;
                time_per_step(&said)
            })
            .transpose()
        });
        fastest =
            fastest.min(time.with_context(|| {
                format!("{} tells no time per step: {}", program.display(), tail(&said))
            })??);
    }
    let answer = (task.tokens_per_step == block).then(|| ids(&said));
    Ok(Measured { ms_per_pass: fastest, answer })
}

/// Returns the milliseconds of a step.
fn time_per_step(said: &str) -> Option<f64> {
    let (_, after) = said.split_once("time per step: ")?;
    after.split_once("ms")?.0.parse().ok()
}

/// Returns the ids that are spelled after what tells the time.
fn ids(said: &str) -> Vec<u32> {
    let answer = said.split_once("time per step: ").map_or("", |(_, after)| after);
    answer.split("<t").skip(1).filter_map(|rest| rest.split_once('>')?.0.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_answer_are_read_from_what_it_says() {
        let said = "prompt <t3>\ntotal time: 500.50ms, time per step: 125.13ms, sampling time per step: 1.00ms\n\n\
                    <t17><t4><t8191>\n";
        assert_eq!(time_per_step(said), Some(125.13));
        assert_eq!(ids(said), [17, 4, 8191]);
        assert_eq!(time_per_step("error: unsupported model"), None);
    }
}
