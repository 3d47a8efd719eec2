//! The `chatdlm` command: parses arguments, sets up logging, calls the library.

use std::process::ExitCode;

use chatdlm::command::Command;
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Real-time contact-center assistant with its own block-diffusion language model engine.
#[derive(Debug, Parser)]
#[command(name = "chatdlm", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The demo prints the links to click; what a service logs would bury them.
    let level = if matches!(cli.command, Command::Demo(_)) { "warn" } else { "warn,chatdlm=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match chatdlm::command::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
