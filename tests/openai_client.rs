//! OpenAI's own Python client against the server: the one that `scripts/setup.sh test` installs, or
//! python3's. Where there is none the tests say that they did not run.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use common::site::Site;

/// Says something that is seen even when the test passes.
fn say(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Returns the Python that the setup made, or else the machine's.
fn python() -> Command {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python3");
    if made.exists() { Command::new(made) } else { Command::new("python3") }
}

/// Returns whether there is a client; says why not.
fn has_client() -> bool {
    let why_not = match python().args(["-c", "import openai"]).output() {
        Err(error) => format!("python3: {error}"),
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned(),
    };
    say(&format!("skipped: OpenAI's Python client is not there ({why_not}); run scripts/setup.sh test"));
    false
}

/// Runs a script of this folder against a server.
async fn run(script: &str, site: Site) {
    let url = site.url("/v1");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    let mut command = python();
    command.arg(script).args([&url, &site.key]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    say(said.trim_end());
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn the_python_client_is_served() {
    if has_client() {
        run("openai_client.py", Site::start().await).await;
    }
}

#[tokio::test]
async fn the_python_client_calls_tools() {
    if has_client() {
        let folder = tempfile::tempdir().unwrap();
        run("openai_tools.py", common::tools::serve(folder.path()).await).await;
    }
}
