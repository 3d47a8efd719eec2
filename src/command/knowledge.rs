//! `chatdlm knowledge`: the same library as the server's, on the data directory.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::bail;
use anyhow::ensure;

use crate::assist::library::Library;
use crate::assist::library::article;
use crate::command::Place;
use crate::config::Config;
use crate::event::Speaker;
use crate::knowledge::Knowledge;
use crate::knowledge::Question;
use crate::knowledge::article::is_id;
use crate::prompt::Turn;
use crate::store::Store;
use crate::store::imports::ImportState;

/// Imports, searches and exports knowledge bases.
///
/// A running server holds its data directory: upload through its page or API while it runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// The tenant whose knowledge it is; the configured one when missing.
    #[arg(long, global = true)]
    tenant: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Imports md, txt, html, csv, json files and zips of these; creates the base if it is new.
    Import {
        /// The base's id.
        base: String,
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Prints the passages that answer a question.
    Search {
        /// The question.
        text: String,
        /// Searches only this base.
        #[arg(long)]
        base: Option<String>,
        /// Prints the passages as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Writes the active version's articles as Markdown files.
    Export {
        /// The base's id.
        base: String,
        /// The folder to write to.
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let tenant = match args.tenant {
        Some(tenant) => tenant,
        None => Config::load(args.place.config.as_deref())?.auth.tenant,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let data_dir = &args.place.data_dir;
        fs::create_dir_all(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        let store = Store::open(&data_dir.join("chatdlm.sqlite")).await?;
        match args.action {
            Action::Import { base, files } => {
                let _lock = args.place.lock()?;
                let library = Library::open(store.clone(), data_dir).await?;
                import(&store, &library, &tenant, &base, &files).await
            }
            Action::Search { text, base, json } => {
                search(&Library::view(store, data_dir).await?, &tenant, text, base, json)
            }
            Action::Export { base, out } => export(&store, &tenant, &base, &out).await,
        }
    })
}

async fn import(
    store: &Store,
    library: &Library,
    tenant: &str,
    base: &str,
    files: &[PathBuf],
) -> anyhow::Result<()> {
    ensure!(is_id(base), "base {base:?} must be 1 to 128 of the characters A-Z a-z 0-9 . _ -");
    let mut upload = library.upload()?;
    for path in files {
        let target = upload.add(&path.to_string_lossy());
        fs::copy(path, target).with_context(|| format!("cannot read {}", path.display()))?;
    }
    if store.base(tenant, base).await?.is_none() {
        store.put_base(tenant, base, base, "en").await?;
    }
    let mut progress = library.progress();
    let id = library.import(tenant, base, upload).await?;
    let import = loop {
        progress.mark_unchanged();
        let import = store.import(tenant, &id).await?.context("the import vanished")?;
        if import.state.is_final() {
            break import;
        }
        progress.changed().await?;
    };
    for file in &import.files {
        match &file.error {
            Some(error) => eprintln!("{}: {error}", file.file),
            None => println!("{}: {} articles, {} passages", file.file, file.articles, file.passages),
        }
    }
    match (import.state, import.version) {
        (ImportState::Active, Some(version)) => println!("{base}: version {version} is active"),
        _ => bail!("{}", import.error.unwrap_or_else(|| "import failed".to_owned())),
    }
    let refused = import.files.iter().filter(|file| file.error.is_some()).count();
    ensure!(refused == 0, "{refused} files were not read in full: see above");
    Ok(())
}

fn search(
    knowledge: &Knowledge,
    tenant: &str,
    text: String,
    base: Option<String>,
    json: bool,
) -> anyhow::Result<()> {
    let turns = vec![Turn { speaker: Speaker::Customer, text }];
    let question = Question { turns, bases: base.into_iter().collect(), limit: 5 };
    let found = knowledge.find(tenant, &question)?;
    if json {
        println!("{}", serde_json::to_string(&found)?);
        return Ok(());
    }
    for card in found {
        println!("{:.2}  {} · {} ({})", card.score, card.base, card.title, card.id);
        for line in card.passage.lines() {
            println!("      {line}");
        }
    }
    Ok(())
}

async fn export(store: &Store, tenant: &str, base: &str, out: &std::path::Path) -> anyhow::Result<()> {
    let found =
        store.base(tenant, base).await?.with_context(|| format!("knowledge base {base} does not exist"))?;
    let version = found.version.with_context(|| format!("knowledge base {base} has no active version"))?;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let stored = store.version_articles(tenant, base, version).await?;
    let count = stored.len();
    for article in stored.into_iter().map(article) {
        let path = out.join(format!("{}.md", article.id));
        fs::write(&path, article.to_markdown())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{base}: {count} articles of version {version} in {}", out.display());
    Ok(())
}
