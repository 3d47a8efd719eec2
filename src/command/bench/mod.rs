//! `chatdlm bench`: how fast it is, beside what the machine allows and beside others.

mod engine;
mod machine;
mod peers;
mod place;
mod reference;
mod shapes;
mod speech;
mod train;

use crate::command::bench::engine::EngineArgs;
use crate::command::bench::speech::SpeechArgs;
use crate::command::bench::train::TrainArgs;

/// Measures speed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Tokens a second of the engine: prompts first, then denoising.
    Engine(EngineArgs),
    /// How many calls recognition of speech keeps up with.
    Speech(SpeechArgs),
    /// Tokens a second of the trainer, and its loss; beside a reference trainer in PyTorch, if it is given.
    Train(TrainArgs),
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Engine(args) => engine::run(args),
        What::Speech(args) => speech::run(&args),
        What::Train(args) => train::run(&args),
    }
}
