//! `chatdlm key`: works on the data directory itself, also while a server runs on it.

use serde_json::json;

use crate::command::user::Tenancy;
use crate::store::identity::Role;

/// Creates, lists and revokes machine keys.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Creates a key and prints it, this once.
    Create {
        /// What you call it: 1 to 64 of the characters A-Z a-z 0-9 . _ @ + -
        name: String,
        /// ingest, or what the program may do as agent, supervisor or admin.
        #[arg(long, default_value = "ingest")]
        role: Role,
        #[command(flatten)]
        tenancy: Tenancy,
    },
    /// Lists the keys, without the keys themselves.
    List {
        #[command(flatten)]
        tenancy: Tenancy,
    },
    /// Makes a key useless, at once.
    Revoke {
        /// The id that `list` shows.
        id: String,
        #[command(flatten)]
        tenancy: Tenancy,
    },
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(act(args.action))
}

async fn act(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Create { name, role, tenancy } => {
            let (about, key) = tenancy.open().await?.create_key(&tenancy.tenant()?, &name, role).await?;
            let mut value = json!(about);
            value["key"] = json!(key.reveal());
            tenancy.print(
                &value,
                &format!("created {} ({role}); it is shown this once:\n{}", about.id, key.reveal()),
            );
        }
        Action::List { tenancy } => {
            let keys = tenancy.open().await?.keys(&tenancy.tenant()?).await?;
            let mut text = format!("{:<16} {:<24} {:<11} {:<8} last used", "id", "name", "role", "state");
            for key in &keys {
                let state = if key.revoked { "revoked" } else { "active" };
                let last_used_at = key.last_used_at.as_deref().unwrap_or("never");
                let role = key.role.as_str();
                text += &format!("\n{:<16} {:<24} {role:<11} {state:<8} {last_used_at}", key.id, key.name);
            }
            tenancy.print(&json!({ "keys": keys }), &text);
        }
        Action::Revoke { id, tenancy } => {
            tenancy.open().await?.revoke_key(&tenancy.tenant()?, &id).await?;
            tenancy.print(&json!({ "id": id, "revoked": true }), &format!("revoked {id}"));
        }
    }
    Ok(())
}
