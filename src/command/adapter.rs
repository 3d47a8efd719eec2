//! `chatdlm adapter`: which tenants have a tuned form of the model; a running server follows at its next call.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;

use crate::assist::adapters;
use crate::command::Place;
use crate::config::Config;
use crate::engine::adapter::AdapterFile;
use crate::engine::adapter::put;
use crate::engine::config::ModelConfig;
use crate::engine::model::tuned;
use crate::engine::weights::Weights;

/// Installs, removes and lists the adapters of tenants, which `chatdlm train --tune` makes.
///
/// A running server uses them for the calls that open after.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

/// Where the adapters are, and how to print them.
#[derive(Debug, clap::Args)]
struct Shelf {
    #[command(flatten)]
    place: Place,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Checks an adapter against the configured model and gives it to a tenant, in the place of an older one.
    Install {
        /// The tenant.
        tenant: String,
        /// The adapter.
        file: PathBuf,
        #[command(flatten)]
        shelf: Shelf,
    },
    /// Takes a tenant's adapter away: its calls use the base model.
    Remove {
        /// The tenant.
        tenant: String,
        #[command(flatten)]
        shelf: Shelf,
    },
    /// Lists the tenants that have one.
    List {
        #[command(flatten)]
        shelf: Shelf,
    },
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let ((value, text), shelf) = match args.action {
        Action::Install { tenant, file, shelf } => (install(&shelf.place, &tenant, &file)?, shelf),
        Action::Remove { tenant, shelf } => (remove(&shelf.place, &tenant)?, shelf),
        Action::List { shelf } => (list(&shelf.place)?, shelf),
    };
    println!("{}", if shelf.json { value.to_string() } else { text });
    Ok(())
}

fn install(place: &Place, tenant: &str, file: &Path) -> anyhow::Result<(Value, String)> {
    let target = adapters::path(&place.data_dir, tenant)?;
    let adapter = AdapterFile::read(file)?;
    let folder = Config::load(place.config.as_deref())?.model.folder();
    let weights = Weights::open(&folder)?;
    adapter.check_base(&weights.fingerprint()).with_context(|| format!("model {}", folder.display()))?;
    adapter.check_shapes(&tuned::shapes(&ModelConfig::read(&folder)?))?;
    let parent = target.parent().context("the data directory has no name")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    put(&target, &bytes).with_context(|| format!("cannot write {}", target.display()))?;
    let text = format!("{tenant} has {} ({}, {} bytes)", adapter.name, adapter.kind, bytes.len());
    Ok((about(tenant, &adapter, bytes.len() as u64), text))
}

fn remove(place: &Place, tenant: &str) -> anyhow::Result<(Value, String)> {
    let target = adapters::path(&place.data_dir, tenant)?;
    ensure!(target.exists(), "{tenant} has no adapter in {}", place.data_dir.display());
    std::fs::remove_file(&target).with_context(|| format!("cannot remove {}", target.display()))?;
    Ok((json!({"tenant": tenant, "removed": true}), format!("{tenant} has the base model")))
}

fn list(place: &Place) -> anyhow::Result<(Value, String)> {
    let tenants = adapters::tenants(&place.data_dir).context("cannot list the adapters")?;
    let mut rows = Vec::with_capacity(tenants.len());
    let mut text = format!("{:<16} {:<16} {:<12} {:>10}  base", "tenant", "name", "kind", "bytes");
    for tenant in &tenants {
        let path = adapters::path(&place.data_dir, tenant)?;
        match AdapterFile::read(&path) {
            Ok(adapter) => {
                let bytes = std::fs::metadata(&path).map_or(0, |about| about.len());
                let kind = adapter.kind.to_string();
                text += &format!(
                    "\n{tenant:<16} {:<16} {kind:<12} {bytes:>10}  {:.12}",
                    adapter.name, adapter.base
                );
                rows.push(about(tenant, &adapter, bytes));
            }
            Err(error) => {
                text += &format!("\n{tenant:<16} {error}");
                rows.push(json!({"tenant": tenant, "error": error.to_string()}));
            }
        }
    }
    Ok((json!({ "adapters": rows }), text))
}

fn about(tenant: &str, adapter: &AdapterFile, bytes: u64) -> Value {
    json!({
        "tenant": tenant, "name": adapter.name, "kind": adapter.kind.to_string(), "bytes": bytes,
        "base": adapter.base, "tensors": adapter.deltas.len(),
    })
}
