//! `chatdlm demo`.

/// Serves on 127.0.0.1:8080 with seed knowledge, users and recorded calls replayed live.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
