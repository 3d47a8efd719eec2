//! OpenAI's own Python client against the server, where python3 has it; elsewhere it says that it did not run.

mod common;

use std::io::Write;
use std::process::Command;

/// Says something that is seen even when the test passes.
fn say(text: &str) {
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

#[tokio::test]
async fn the_python_client_is_served() {
    let found = Command::new("python3").args(["-c", "import openai"]).output();
    let why_not = match found {
        Err(error) => Some(format!("python3: {error}")),
        Ok(output) if !output.status.success() => {
            String::from_utf8_lossy(&output.stderr).lines().last().map(str::to_owned)
        }
        Ok(_) => None,
    };
    if let Some(why_not) = why_not {
        say(&format!("skipped: OpenAI's Python client is not there ({why_not}); pip install openai"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let url = format!("http://{}/v1", app.address);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openai_client.py");
    let run = move || Command::new("python3").args([script, &url, &key]).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    say(said.trim_end());
    app.stop().await.unwrap();
}
