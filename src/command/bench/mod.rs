//! `chatdlm bench`: how fast it is, beside what the machine allows and beside others.

mod engine;
mod machine;
mod peers;
mod shapes;

use crate::command::bench::engine::EngineArgs;

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
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let What::Engine(args) = args.what;
    engine::run(args)
}
