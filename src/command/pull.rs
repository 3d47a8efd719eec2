//! `chatdlm pull`: a checkpoint from a model hub into a folder.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use indicatif::HumanBytes;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use crate::engine::config::ModelConfig;
use crate::hub::Hub;
use crate::hub::checkpoint::Checkpoint;

const EXAMPLES: &str = "\
Examples:
  chatdlm pull inclusionAI/LLaDA2.0-mini
  chatdlm pull GSAI-ML/LLaDA-8B-Instruct --to models/llada --revision main
  HF_TOKEN=hf_... chatdlm pull mycompany/private-model --hub https://hub.example

What was fetched of a file that was cut off is gone on with the next time.";

/// Fetches a checkpoint from a model hub.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The checkpoint, as OWNER/NAME.
    repository: String,
    /// Branch, tag or commit.
    #[arg(long, default_value = "main")]
    revision: String,
    /// The folder for its files; ./NAME when missing.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// The hub's address.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co", value_name = "URL")]
    hub: String,
    /// Token for what is not public; better in HF_TOKEN than here, where others see it.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let hub = Hub::new(&args.hub, args.token)?;
    let name = args.repository.rsplit('/').next().unwrap_or(&args.repository);
    let folder = args.to.unwrap_or_else(|| Path::new(".").join(name));
    let checkpoint = Checkpoint::begin(&hub, &args.repository, &args.revision, &folder)?;
    // Before the weights follow.
    ModelConfig::read(&folder).with_context(|| format!("the engine cannot run {}", args.repository))?;
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}")
            .context("progress bar")?;
    let bar = ProgressBar::new(checkpoint.bytes()).with_style(style);
    checkpoint.finish(&mut |progress| {
        if bar.message() != progress.file {
            bar.set_message(progress.file.to_owned());
        }
        bar.set_position(progress.bytes);
    })?;
    bar.finish_and_clear();
    let folder = folder.display();
    println!(
        "{} at {} is in {folder} ({}). Use it: chatdlm chat --model {folder}, or model.dir = \"{folder}\" in chatdlm.toml",
        args.repository,
        checkpoint.listing.commit,
        HumanBytes(checkpoint.bytes()),
    );
    Ok(())
}
