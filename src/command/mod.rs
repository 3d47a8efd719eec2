//! One file for each subcommand: its arguments and what it does.

mod adapter;
mod bench;
mod chat;
mod demo;
mod eval;
mod generate;
mod infill;
mod key;
mod knowledge;
mod loading;
mod pull;
mod replay;
mod screen;
mod serve;
mod train;
mod transcribe;
mod tune;
mod user;
mod words;

use std::fs::File;
use std::fs::TryLockError;
use std::path::PathBuf;

use anyhow::Context;

/// What `chatdlm` can do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Serves the pages, the sockets and the model.
    Serve(serve::Args),
    /// Serves on 127.0.0.1:8080 with seed knowledge, users and recorded calls replayed live.
    Demo(demo::Args),
    /// Streams recorded calls into a server; with --calls it is the load generator.
    Replay(replay::Args),
    /// Writes what is said in a recording, with times.
    Transcribe(transcribe::Args),
    /// Talks with the model in the terminal.
    Chat(chat::Args),
    /// Goes on with a text.
    Generate(generate::Args),
    /// Fills the holes of a text; nothing else of it changes.
    Infill(infill::Args),
    /// Fetches a checkpoint from a model hub.
    Pull(pull::Args),
    /// Trains a model from scratch, goes on from a checkpoint, or tunes one to a company with --tune.
    Train(train::Args),
    /// Gives tenants tuned forms of the model, takes them away and lists them.
    Adapter(adapter::Args),
    /// Measures the engine.
    Bench(bench::Args),
    /// Checks fixtures and measures redaction, knowledge and the model on labelled data.
    #[command(subcommand)]
    Eval(eval::Eval),
    /// Imports, searches and exports knowledge bases.
    Knowledge(knowledge::Args),
    /// Adds, lists and disables users.
    User(user::Args),
    /// Creates, lists and revokes machine keys.
    Key(key::Args),
}

/// Where the data and the configuration are; shared by every command that opens them.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Folder of the database and the index.
    #[arg(long, default_value = "./chatdlm-data", env = "CHATDLM_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Configuration file (TOML).
    #[arg(long)]
    pub config: Option<PathBuf>,
}

impl Place {
    /// Makes the data directory and keeps other servers and imports off it while the file is open.
    ///
    /// # Errors
    /// When somebody else has it, or it cannot be made.
    pub fn lock(&self) -> anyhow::Result<File> {
        let folder = &self.data_dir;
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create the data directory {}", folder.display()))?;
        let path = folder.join("lock");
        let lock = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "{} is in use by another chatdlm: stop it first, or give another --data-dir",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Returns the path of the database file.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join(crate::app::DATABASE)
    }
}

/// Runs one command to its end.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Transcribe(args) => transcribe::run(&args),
        Command::Chat(args) => chat::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Infill(args) => infill::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Train(args) => train::run(args),
        Command::Adapter(args) => adapter::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Knowledge(args) => knowledge::run(args),
        Command::User(args) => user::run(args),
        Command::Key(args) => key::run(args),
    }
}
