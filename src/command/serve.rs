//! `chatdlm serve`.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::app::App;
use crate::command::Place;
use crate::command::loading;
use crate::config::Config;
use crate::server::users::link_path;

/// How long stopping may take before the process ends anyway.
const STOP_MAX: Duration = Duration::from_secs(9);

/// Serves the pages, the sockets and the model.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let config = Config::load(args.place.config.as_deref())?;
    let _lock = args.place.lock()?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(serve(config, &args.place));
    // An index that is being built is given up: it is built again at the next start.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(config: Config, place: &Place) -> anyhow::Result<()> {
    let tenant = config.auth.tenant.clone();
    let public_origin = config.auth.public_origin.clone();
    let app = App::start(config, &place.data_dir, loading::bar()).await?;
    let origin = public_origin.unwrap_or_else(|| format!("http://{}", app.address));
    println!("chatdlm serves on {origin}");
    if let Some(token) = app.store().ensure_admin(&tenant).await? {
        println!("first start: sign in as admin once with {origin}{}", link_path(&token));
    }
    until_asked_to_stop().await?;
    stop(app).await
}

/// Stops the server in the time that supervisors of processes grant.
pub(super) async fn stop(app: App) -> anyhow::Result<()> {
    tokio::time::timeout(STOP_MAX, app.stop()).await.context("the server did not stop in time")?
}

/// Returns when the process gets SIGTERM or an interrupt from the terminal.
pub(super) async fn until_asked_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot watch for interrupts")?,
    }
    Ok(())
}
