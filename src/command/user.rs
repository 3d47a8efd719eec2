//! `chatdlm user`: works on the data directory itself, also while a server runs on it.

use std::io::BufRead;

use anyhow::Context;
use chrono::Duration;
use serde_json::json;

use crate::command::Place;
use crate::config::Config;
use crate::server::users::link_path;
use crate::store::Store;
use crate::store::identity::Role;
use crate::store::password;
use crate::store::users::LINK_HOURS;
use crate::store::users::UserChange;

/// Adds, lists and disables users, and makes one-time sign-in links.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Adds a user and prints a one-time link, or none if a password is given.
    Add {
        /// 1 to 64 of the characters A-Z a-z 0-9 . _ @ + -
        name: String,
        /// agent, supervisor or admin.
        #[arg(long, default_value = "agent")]
        role: Role,
        /// Reads the password from the first line of the standard input.
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        tenancy: Tenancy,
    },
    /// Lists the users.
    List {
        #[command(flatten)]
        tenancy: Tenancy,
    },
    /// Keeps a user out, and ends their sessions and links.
    Disable {
        /// The user's name.
        name: String,
        #[command(flatten)]
        tenancy: Tenancy,
    },
    /// Prints a new one-time link, which replaces the one before.
    Link {
        /// The user's name.
        name: String,
        #[command(flatten)]
        tenancy: Tenancy,
    },
}

/// Whose users or keys, and how to print them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Tenancy {
    #[command(flatten)]
    pub place: Place,
    /// The tenant; that of the configuration if not given.
    #[arg(long)]
    tenant: Option<String>,
    /// Prints JSON.
    #[arg(long)]
    pub json: bool,
}

impl Tenancy {
    /// Returns the tenant.
    pub fn tenant(&self) -> anyhow::Result<String> {
        match &self.tenant {
            Some(tenant) => Ok(tenant.clone()),
            None => Ok(Config::load(self.place.config.as_deref())?.auth.tenant),
        }
    }

    /// Opens the store of the data directory, making both if they are new.
    pub async fn open(&self) -> anyhow::Result<Store> {
        let folder = &self.place.data_dir;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = self.place.database();
        Store::open(&file).await.with_context(|| format!("cannot open {}", file.display()))
    }

    /// Prints `value` as JSON, or `text`.
    pub fn print(&self, value: &serde_json::Value, text: &str) {
        match self.json {
            true => println!("{value}"),
            false => println!("{text}"),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let tenant = args.action.tenancy().tenant()?;
    let acted =
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(act(args.action));
    acted.with_context(|| format!("tenant {tenant}"))
}

impl Action {
    fn tenancy(&self) -> &Tenancy {
        let (Action::Add { tenancy, .. }
        | Action::List { tenancy }
        | Action::Disable { tenancy, .. }
        | Action::Link { tenancy, .. }) = self;
        tenancy
    }
}

async fn act(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Add { name, role, password_stdin, tenancy } => {
            let password_hash = match password_stdin {
                true => Some(password::hash(&first_line()?)?),
                false => None,
            };
            let store = tenancy.open().await?;
            let user = store.add_user(&tenancy.tenant()?, &name, role, password_hash.as_deref()).await?;
            if password_hash.is_some() {
                tenancy.print(&json!(user), &format!("added {name} ({role})"));
                return Ok(());
            }
            print_link(&store, &tenancy, &name, &format!("added {name} ({role})\n")).await
        }
        Action::List { tenancy } => {
            let users = tenancy.open().await?.users(&tenancy.tenant()?).await?;
            let mut text = format!("{:<24} {:<11} {:<9} created", "name", "role", "state");
            for user in &users {
                let state = if user.disabled { "disabled" } else { "active" };
                let role = user.role.as_str();
                text += &format!("\n{:<24} {role:<11} {state:<9} {}", user.name, user.created_at);
            }
            tenancy.print(&json!({ "users": users }), &text);
            Ok(())
        }
        Action::Disable { name, tenancy } => {
            let change = UserChange { disabled: Some(true), ..UserChange::default() };
            let user = tenancy.open().await?.change_user(&tenancy.tenant()?, &name, change).await?;
            tenancy.print(&json!(user), &format!("disabled {name}"));
            Ok(())
        }
        Action::Link { name, tenancy } => {
            let store = tenancy.open().await?;
            anyhow::ensure!(!store.user(&tenancy.tenant()?, &name).await?.disabled, "{name} is disabled");
            print_link(&store, &tenancy, &name, "").await
        }
    }
}

async fn print_link(store: &Store, tenancy: &Tenancy, name: &str, before: &str) -> anyhow::Result<()> {
    let token = store.create_link(&tenancy.tenant()?, name, Duration::hours(LINK_HOURS)).await?;
    let link = link_path(&token);
    let text = format!("{before}{name} signs in once, within {LINK_HOURS} hours, at your server's\n{link}");
    tenancy.print(&json!({ "name": name, "link": link }), &text);
    Ok(())
}

fn first_line() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
