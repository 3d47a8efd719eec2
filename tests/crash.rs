//! kill -9 in the middle of calls: every acknowledged segment is there once, and the calls go on.

mod common;

use std::io::BufRead;
use std::io::BufReader;
use std::io::Lines;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use chatdlm::event::Event;
use chatdlm::store::Store;
use chatdlm::store::calls::CallPhase;
use chatdlm::store::identity::Role;
use common::Client;
use common::TENANT;
use common::segment;
use serde_json::json;
use tokio::sync::Barrier;
use tokio::sync::mpsc;

/// How many calls are under way when the server dies.
const CALLS: usize = 6;
/// How many segments each sender has.
const SEGMENTS: u64 = 60;

/// The real binary, serving; killed when dropped.
struct Server {
    process: Child,
    /// Held open: a server whose output nobody takes ends.
    _output: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl Server {
    fn start(folder: &Path, resume_s: &str) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
            .args(["serve", "--data-dir"])
            .arg(folder)
            .env("CHATDLM_SERVER_ADDRESS", "127.0.0.1:0")
            .env("CHATDLM_CALLS_DRAFTS", "false")
            .env("CHATDLM_CALLS_EMOTIONS", "false")
            .env("CHATDLM_CALLS_RESUME_S", resume_s)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let output = process.stdout.take().expect("its output");
        let mut output = BufReader::new(output).lines();
        let first = output.next().expect("a line").expect("text");
        let (_, address) = first.rsplit_once("http://").expect("an address");
        let address = address.parse().expect("an address");
        Server { process, _output: output, address }
    }

    /// Sends SIGKILL.
    fn kill(mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it was killed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the first life's senders share: all have started before any speaks, and each tells of
/// every acknowledged segment.
#[derive(Clone)]
struct FirstLife {
    started: Arc<Barrier>,
    told: mpsc::Sender<()>,
}

/// Sends all segments that the server does not have and ends the call, or returns false when the
/// socket breaks. Notes each acknowledged number in `acknowledged`, then tells that there is one.
async fn feed(
    address: SocketAddr,
    key: &str,
    call: &str,
    acknowledged: &AtomicU64,
    first_life: Option<FirstLife>,
) -> bool {
    let mut sender = Client::feed(address, key).await;
    let resume_after = sender.start(call).await;
    assert!(resume_after >= acknowledged.load(SeqCst), "{call} lost what was acknowledged");
    if let Some(first_life) = &first_life {
        first_life.started.wait().await;
    }
    for seq in resume_after + 1..=SEGMENTS {
        if sender.try_send(segment(seq, &format!("sentence {seq} of {call}"))).await.is_err() {
            return false;
        }
        let Ok(answer) = sender.next().await else { return false };
        assert_eq!(answer, json!({"type": "ack", "seq": seq}));
        acknowledged.store(seq, SeqCst);
        if let Some(first_life) = &first_life {
            // The receiver has seen enough when it is gone.
            let _ = first_life.told.send(()).await;
        }
    }
    sender.send(json!({"type": "end", "reason": "hangup"})).await;
    sender.closed().await;
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_no_acknowledged_segment_and_doubles_none() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("chatdlm.sqlite");
    let key = {
        let store = Store::open(&database).await.unwrap();
        let (_, key) = store.create_key(TENANT, "test", Role::Ingest).await.unwrap();
        store.close().await;
        key.reveal().to_owned()
    };

    // The first life ends by SIGKILL when a third of all segments are acknowledged.
    let server = Server::start(folder.path(), "60");
    let acknowledged: Arc<[AtomicU64; CALLS]> = Arc::default();
    let (told, mut seen) = mpsc::channel(64);
    let first_life = FirstLife { started: Arc::new(Barrier::new(CALLS)), told };
    let mut senders = Vec::new();
    for number in 0..CALLS {
        let (key, acknowledged) = (key.clone(), Arc::clone(&acknowledged));
        let first_life = Some(first_life.clone());
        let address = server.address;
        senders.push(tokio::spawn(async move {
            feed(address, &key, &format!("c-{number}"), &acknowledged[number], first_life).await
        }));
    }
    drop(first_life);
    for _ in 0..CALLS as u64 * SEGMENTS / 3 {
        seen.recv().await.expect("segments are acknowledged");
    }
    server.kill();
    drop(seen);
    for sender in senders {
        assert!(!sender.await.unwrap(), "the server died under every sender");
    }

    // One sender never comes back; the others resume in the second life and finish.
    let server = Server::start(folder.path(), "2");
    for number in 1..CALLS {
        let call = format!("c-{number}");
        assert!(feed(server.address, &key, &call, &acknowledged[number], None).await);
    }
    let store = Store::open(&database).await.unwrap();
    for number in 0..CALLS {
        let key = format!("{TENANT} c-{number}");
        let key = common::call_key(&key);
        let expected = if number == 0 { CallPhase::Interrupted } else { CallPhase::Closed };
        let record = loop {
            let record = store.call(&key).await.unwrap().expect("the call is stored");
            if record.state != CallPhase::Open {
                break record;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(record.state, expected, "c-{number}");
        let events = store.events_after(&key, 0, 10_000).await.unwrap();
        let numbers: Vec<u64> = events.iter().map(|envelope| envelope.seq).collect();
        assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>(), "c-{number} has gaps");
        let ids: Vec<String> = events
            .iter()
            .filter_map(|envelope| match &envelope.event {
                Event::Segment(segment) => Some(segment.id.clone()),
                _ => None,
            })
            .collect();
        let last = if number == 0 { record.resume_after } else { SEGMENTS };
        assert!(last >= acknowledged[number].load(SeqCst), "c-{number} lost what was acknowledged");
        let expected: Vec<String> = (1..=last).map(|seq| format!("s{seq}")).collect();
        assert_eq!(ids, expected, "c-{number}");
    }
    store.close().await;
}
