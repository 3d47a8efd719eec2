//! `chatdlm pull`: a checkpoint or a speech model from a model hub into a folder.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use indicatif::HumanBytes;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;

use crate::engine::config::ModelConfig;
use crate::hub::Hub;
use crate::hub::checkpoint::Checkpoint;
use crate::hub::fetch::Progress;
use crate::hub::whisper;
use crate::hub::whisper::WhisperModel;

const EXAMPLES: &str = "\
Examples:
  chatdlm pull inclusionAI/LLaDA2.0-mini
  chatdlm pull GSAI-ML/LLaDA-8B-Instruct --to models/llada --revision main
  HF_TOKEN=hf_... chatdlm pull mycompany/private-model --hub https://hub.example
  chatdlm pull whisper base.en --dir models

What was fetched of a file that was cut off is gone on with the next time.";

/// Fetches a checkpoint or a speech model from a model hub.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    speech: Option<Speech>,
    /// The checkpoint, as OWNER/NAME.
    #[arg(required = true)]
    repository: Option<String>,
    /// Branch, tag or commit.
    #[arg(long, default_value = "main")]
    revision: String,
    /// The folder for its files; ./NAME when missing.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
}

/// What is no checkpoint.
#[derive(Debug, clap::Subcommand)]
enum Speech {
    /// Fetches a Whisper model for speech: the larger, the better and the slower.
    Whisper(WhisperArgs),
}

#[derive(Debug, clap::Args)]
struct WhisperArgs {
    /// The model; `.en` knows English alone, `-q5` and `-q8` are smaller and nearly as good.
    #[arg(value_parser = PossibleValuesParser::new(whisper::MODELS.map(|model| model.name)))]
    name: String,
    /// The folder for its file.
    #[arg(long, alias = "to", default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    source: Source,
}

/// Where from.
#[derive(Debug, clap::Args)]
struct Source {
    /// The hub's address.
    #[arg(long, env = "HF_ENDPOINT", default_value = "https://huggingface.co", value_name = "URL")]
    hub: String,
    /// Token for what is not public; better in HF_TOKEN than here, where others see it.
    #[arg(long, env = "HF_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Source {
    fn hub(self) -> anyhow::Result<Hub> {
        Ok(Hub::new(&self.hub, self.token)?)
    }
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Speech::Whisper(args)) = args.speech {
        return pull_whisper(args);
    }
    let hub = args.source.hub()?;
    let repository = args.repository.context("no repository: write OWNER/NAME")?;
    let name = repository.rsplit('/').next().unwrap_or(&repository);
    let folder = args.to.unwrap_or_else(|| Path::new(".").join(name));
    let checkpoint = Checkpoint::begin(&hub, &repository, &args.revision, &folder)?;
    // Before the weights follow.
    ModelConfig::read(&folder).with_context(|| format!("the engine cannot run {repository}"))?;
    let bar = bar(checkpoint.bytes())?;
    checkpoint.finish(&mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    let folder = folder.display();
    println!(
        "{repository} at {} is in {folder} ({}). Use it: chatdlm chat --model {folder}, or model.dir = \"{folder}\" in chatdlm.toml",
        checkpoint.listing.commit,
        HumanBytes(checkpoint.bytes()),
    );
    Ok(())
}

fn pull_whisper(args: WhisperArgs) -> anyhow::Result<()> {
    let hub = args.source.hub()?;
    let model = WhisperModel::named(&args.name).context("no such Whisper model")?;
    let bar = bar(model.bytes)?;
    let path = hub.fetch_whisper(&model, &args.dir, &mut |progress| show(&bar, progress))?;
    bar.finish_and_clear();
    println!(
        "{} is at {path} ({}). Use it: speech.model = \"{path}\" in chatdlm.toml",
        model.name,
        HumanBytes(model.bytes),
        path = path.display(),
    );
    Ok(())
}

fn bar(bytes: u64) -> anyhow::Result<ProgressBar> {
    let style =
        ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left, {msg}")
            .context("progress bar")?;
    Ok(ProgressBar::new(bytes).with_style(style))
}

fn show(bar: &ProgressBar, progress: Progress<'_>) {
    if bar.message() != progress.file {
        bar.set_message(progress.file.to_owned());
    }
    bar.set_position(progress.bytes);
}
