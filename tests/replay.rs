//! The replayer against a running server: everything arrives once, also through a broken line.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use chatdlm::app::App;
use chatdlm::store::identity::Role;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

/// How many connections the broken line cuts, and after how many bytes of the sender.
const CUTS: usize = 4;
const CUT_BYTES: usize = 6000;

/// Runs `chatdlm replay` on the demo's calls of one company, fifty times faster than people.
async fn replay(to: SocketAddr, more: &[&str]) -> (bool, String, String) {
    let recordings = Path::new(env!("CARGO_MANIFEST_DIR")).join("knowledge/bank/calls.jsonl");
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatdlm"));
    command
        .args(["replay", "--speed", "50", "--ramp-s", "0", "--json", "--to", &format!("http://{to}")])
        .args(more)
        .arg(recordings)
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.expect("waited").expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

async fn watch_key(app: &App) -> String {
    let (_, key) = app.store().create_key(common::TENANT, "watch", Role::Supervisor).await.expect("a key");
    key.reveal().to_owned()
}

fn figures(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_of_calls_arrives_once_and_is_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = common::start(folder.path(), common::config()).await;
    let (key, watch_key) = (common::ingest_key(&app).await, watch_key(&app).await);

    let more = ["--calls", "6", "--key", &key, "--watch-key", &watch_key];
    let (is_ok, stdout, stderr) = replay(app.address, &more).await;
    assert!(is_ok, "{stderr}");
    let figures = figures(&stdout);
    assert_eq!(figures["calls"], 6);
    assert!(figures["segments"].as_u64() > Some(60), "{figures}");
    assert_eq!(figures["acked"], figures["segments"]);
    assert_eq!((&figures["lost"], &figures["duplicated"]), (&0.into(), &0.into()));
    assert_eq!(figures["latency_ms"]["ack"]["count"], figures["segments"]);
    assert_eq!(figures["latency_ms"]["segment"]["count"], figures["segments"]);
    assert!(figures["latency_ms"]["segment"]["p95"].as_f64() > Some(0.0), "{figures}");
    app.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_line_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = common::start(folder.path(), common::config()).await;
    let (key, watch_key) = (common::ingest_key(&app).await, watch_key(&app).await);
    let line = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = line.local_addr().expect("an address");
    let cutting = tokio::spawn(cut(line, app.address));

    let more = ["--calls", "2", "--key", &key, "--watch-key", &watch_key];
    let (is_ok, stdout, stderr) = replay(address, &more).await;
    cutting.abort();
    assert!(is_ok, "{stderr}");
    let figures = figures(&stdout);
    assert!(figures["reconnects"].as_u64() > Some(0), "{figures}");
    assert_eq!(figures["acked"], figures["segments"]);
    assert_eq!((&figures["lost"], &figures["duplicated"]), (&0.into(), &0.into()));
    app.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_watcher_only_acknowledgements_are_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;

    let (is_ok, stdout, stderr) = replay(app.address, &["--calls", "1", "--key", &key]).await;
    assert!(is_ok, "{stderr}");
    assert!(stderr.contains("cannot watch"), "{stderr}");
    let figures = figures(&stdout);
    assert_eq!(figures["acked"], figures["segments"]);
    assert_eq!(figures["lost"], Value::Null);
    app.stop().await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_named_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let app = common::start(folder.path(), common::config()).await;
    common::ingest_key(&app).await;

    let (is_ok, stdout, stderr) = replay(app.address, &["--calls", "9", "--key", "wrong"]).await;
    assert!(!is_ok);
    assert_eq!(stdout, "");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("refused /v1/calls/ingest: 401"), "{stderr}");
    app.stop().await.expect("stopped");
}

/// Passes connections on to the server; cuts the first few in the middle of what they send.
async fn cut(line: TcpListener, server: SocketAddr) {
    let mut cuts = 0;
    loop {
        let (mut client, _) = line.accept().await.expect("a client");
        let mut upstream = TcpStream::connect(server).await.expect("the server");
        let is_cut = cuts < CUTS;
        cuts += 1;
        tokio::spawn(async move {
            if !is_cut {
                // Either side may go first; the other then sees the end.
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                return;
            }
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = upstream.split();
            let answering = tokio::io::copy(&mut from_server, &mut to_client);
            let sending = async {
                let mut left = CUT_BYTES;
                let mut buffer = [0; 512];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    let passed = read.min(left);
                    if to_server.write_all(&buffer[..passed]).await.is_err() || passed == left {
                        return;
                    }
                    left -= passed;
                }
            };
            // Dropping both ends is the cut.
            tokio::select! {
                _ = answering => {}
                () = sending => {}
            }
        });
    }
}
