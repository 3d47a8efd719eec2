//! `chatdlm pull` against a local server that speaks as the Hugging Face hub does: a small fixture
//! comes whole, survives cut connections, and what is wrong is named and not left behind.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use actix_web::App;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::HttpServer;
use actix_web::body::SizedStream;
use actix_web::web;
use actix_web::web::Bytes;
use chatdlm::engine::tokenizer::Tokenizer;
use chatdlm::hub::Hub;
use chatdlm::hub::HubError;
use chatdlm::hub::checkpoint::Checkpoint;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::Value;
use serde_json::json;
use sha2::Digest;

const COMMIT: &str = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
const SHARD: &str = "model-00001-of-00001.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A request as the server saw it.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    range: Option<String>,
    token: Option<String>,
    is_hub: bool,
}

/// What the server has and does; changed by the tests while it runs.
#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// What the list says that is not so.
    listed: BTreeMap<String, Value>,
    /// After how many bytes the next answers with weights are cut.
    cuts: Vec<usize>,
    ignores_ranges: bool,
    /// The status of everything.
    refuses: Option<u16>,
    /// Where weights are: another host, as far as a client can tell.
    storage: Option<SocketAddr>,
    asked: Vec<Asked>,
}

/// The hub.
struct Site {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Site {
    /// Serves a small checkpoint in one shard, with files beside it that nobody needs.
    fn start() -> Site {
        let folder = Path::new("tests/fixtures/llada2_moe");
        let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let made = tempfile::tempdir().unwrap();
        let texts = ["the quick brown fox jumps over the lazy dog"];
        let controls = ["<|mask|>", "<|end|>", "<|pad|>"];
        Tokenizer::train(texts.into_iter(), 300, &controls).unwrap().write(made.path()).unwrap();
        let index = json!({"weight_map": {"model.norm.weight": SHARD, "lm_head.weight": SHARD}});
        let mut state = State::default();
        for (name, content) in [
            ("config.json", read("config.json")),
            ("tokenizer.json", std::fs::read(made.path().join("tokenizer.json")).unwrap()),
            ("generation_config.json", b"{}".to_vec()),
            (INDEX, index.to_string().into_bytes()),
            (SHARD, read("model.safetensors")),
            ("README.md", b"read me".to_vec()),
            ("original/weights.bin", vec![7; 100]),
        ] {
            state.files.insert(name.to_owned(), content);
        }
        let state = Arc::new(Mutex::new(state));
        let site = Site { address: serve(&state), state };
        let storage = serve(&site.state);
        site.change(|state| state.storage = Some(storage));
        site
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    fn hub(&self) -> Hub {
        let mut hub = Hub::new(&format!("http://{}/", self.address), Some("secret".to_owned())).unwrap();
        hub.patience = Duration::ZERO;
        hub
    }

    /// Pulls and returns what was asked for meanwhile.
    fn pull(&self, folder: &Path) -> (Result<(), HubError>, Vec<Asked>) {
        self.change(|state| state.asked.clear());
        let hub = self.hub();
        let checkpoint = Checkpoint::begin(&hub, "me/tiny", "main", folder);
        let result = checkpoint.and_then(|checkpoint| checkpoint.finish(&mut |_| {}));
        (result, self.change(|state| state.asked.clone()))
    }

    /// Pulls what cannot be had.
    fn refusal(&self) -> String {
        let folder = tempfile::tempdir().unwrap();
        let (result, _) = self.pull(folder.path());
        let weights = names(folder.path()).into_iter().filter(|name| name.contains(".safetensors"));
        assert_eq!(weights.filter(|name| name != INDEX).count(), 0, "nothing is left");
        result.unwrap_err().to_string()
    }
}

fn serve(state: &Arc<Mutex<State>>) -> SocketAddr {
    let state = web::Data::from(Arc::clone(state));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let app = move || App::new().app_data(state.clone()).default_service(web::to(answer));
            let server = HttpServer::new(app).workers(1).disable_signals();
            let server = server.bind(("127.0.0.1", 0)).unwrap();
            sender.send(server.addrs()[0]).unwrap();
            server.run().await.unwrap();
        });
    });
    receiver.recv().unwrap()
}

/// Answers as the hub and its storage do.
async fn answer(request: HttpRequest, state: web::Data<Mutex<State>>) -> HttpResponse {
    let mut state = state.lock().unwrap();
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = request.path().to_owned();
    let is_hub = !path.starts_with("/blob/");
    let asked = Asked { path: path.clone(), range: header("range"), token: header("authorization"), is_hub };
    state.asked.push(asked.clone());
    if let Some(status) = state.refuses {
        return HttpResponse::build(status.try_into().unwrap()).finish();
    }
    if path == "/api/models/me/tiny/revision/main" {
        assert_eq!(request.query_string(), "blobs=true");
        return HttpResponse::Ok().json(list(&state));
    }
    let name = path.strip_prefix("/blob/");
    let name = name.or_else(|| path.strip_prefix(&format!("/me/tiny/resolve/{COMMIT}/")));
    let Some((name, content)) = name.and_then(|name| Some((name, state.files.get(name)?.clone()))) else {
        return HttpResponse::NotFound().finish();
    };
    let is_weights = name.ends_with(".safetensors");
    if is_weights && is_hub {
        let storage = state.storage.unwrap();
        let location = format!("http://{storage}/blob/{name}?signature=x");
        return HttpResponse::Found().insert_header(("location", location)).finish();
    }
    let from = asked.range.filter(|_| !state.ignores_ranges);
    let from = from.map(|range| range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap());
    let rest = Bytes::copy_from_slice(&content[from.unwrap_or(0)..]);
    let mut response = if from.is_some() { HttpResponse::PartialContent() } else { HttpResponse::Ok() };
    if let Some(from) = from {
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        response.insert_header(("content-range", range));
    }
    if is_weights && !state.cuts.is_empty() {
        let part = rest.slice(..state.cuts.remove(0));
        let cut = async {
            // What came before is sent first.
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        };
        let body = stream::iter([Ok(part)]).chain(stream::once(cut)).boxed_local();
        return response.body(SizedStream::new(rest.len() as u64, body));
    }
    response.body(rest)
}

/// Returns the list of files with their checksums.
fn list(state: &State) -> Value {
    let sibling = |(name, content): (&String, &Vec<u8>)| {
        let mut blob = format!("blob {}\0", content.len()).into_bytes();
        blob.extend_from_slice(content);
        let mut sibling = json!({
            "rfilename": name, "size": content.len(), "blobId": hex::encode(sha1::Sha1::digest(&blob)),
        });
        if name.ends_with(".safetensors") {
            let sha256 = hex::encode(sha2::Sha256::digest(content));
            sibling["lfs"] = json!({"sha256": sha256, "size": content.len(), "pointerSize": 134});
            // The checksum of the pointer, not of the file.
            sibling["blobId"] = json!("0".repeat(40));
        }
        for (field, value) in state.listed.get(name).and_then(Value::as_object).into_iter().flatten() {
            sibling[field] = value.clone();
        }
        sibling
    };
    let siblings: Vec<Value> = state.files.iter().map(sibling).collect();
    json!({"id": "me/tiny", "sha": COMMIT, "private": false, "siblings": siblings})
}

/// Returns the names of all files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

fn chatdlm(arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatdlm"));
    let output = command.args(arguments).env("HF_TOKEN", "secret").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_checkpoint_comes_whole_and_writes() {
    let site = Site::start();
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("models/tiny");
    let (to, hub) = (folder.to_str().unwrap(), format!("http://{}", site.address));
    let (is_fine, said, complaint) = chatdlm(&["pull", "me/tiny", "--to", to, "--hub", &hub]);
    assert!(is_fine, "{complaint}");
    assert!(said.lines().count() == 1 && said.contains(&format!("--model {to}")), "{said}");
    assert!(said.contains(COMMIT), "{said}");
    let mut expected = vec!["config.json", "generation_config.json", SHARD, INDEX, "tokenizer.json"];
    expected.sort_unstable();
    assert_eq!(names(&folder), expected, "what the engine needs and nothing else");
    for name in expected {
        let content = site.change(|state| state.files[name].clone());
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), content, "{name}");
    }
    let asked = site.change(|state| state.asked.clone());
    let is_token = |asked: &Asked| asked.token.as_deref() == Some("Bearer secret");
    assert!(asked.iter().filter(|asked| asked.is_hub).all(is_token), "{asked:?}");
    let elsewhere: Vec<&Asked> = asked.iter().filter(|asked| !asked.is_hub).collect();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].token, None, "the token is the hub's alone");

    let (is_fine, text, complaint) =
        chatdlm(&["generate", "the quick", "--model", to, "--max-tokens", "6", "--json"]);
    assert!(is_fine, "{complaint}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["generated_tokens"].as_u64().is_some() && report["model"] == "tiny", "{report}");

    let (result, asked) = site.pull(&folder);
    result.unwrap();
    assert_eq!(asked.len(), 1, "what is there and right is not fetched again: {asked:?}");
    std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
    let (result, asked) = site.pull(&folder);
    result.unwrap();
    assert!(asked.len() == 2 && asked[1].path.ends_with("/tokenizer.json"), "{asked:?}");
}

#[test]
fn a_cut_connection_is_gone_on_with() {
    let site = Site::start();
    let folder = tempfile::tempdir().unwrap();
    let content = site.change(|state| state.files[SHARD].clone());
    let ranges = |asked: &[Asked]| -> Vec<String> {
        let weights = asked.iter().filter(|asked| !asked.is_hub);
        weights.map(|asked| asked.range.clone().unwrap_or_default()).collect()
    };
    // Twice within one call, at ever later bytes.
    site.change(|state| state.cuts = vec![content.len() / 2, 1000]);
    let (result, asked) = site.pull(folder.path());
    result.unwrap();
    let half = content.len() / 2;
    assert_eq!(ranges(&asked), ["", &format!("bytes={half}-"), &format!("bytes={}-", half + 1000)]);
    assert_eq!(std::fs::read(folder.path().join(SHARD)).unwrap(), content);

    // Given up, and gone on with by the next call.
    let folder = tempfile::tempdir().unwrap();
    site.change(|state| state.cuts = vec![5000, 0, 0, 0, 0]);
    let (result, _) = site.pull(folder.path());
    assert!(
        matches!(&result, Err(HubError::Dropped { file, bytes: 5000, .. }) if file == SHARD),
        "{result:?}"
    );
    let parts: Vec<String> =
        names(folder.path()).into_iter().filter(|name| name.ends_with(".part")).collect();
    assert_eq!(parts.len(), 1);
    assert_eq!(std::fs::read(folder.path().join(&parts[0])).unwrap(), content[..5000]);
    let (result, asked) = site.pull(folder.path());
    result.unwrap();
    assert_eq!(ranges(&asked), ["bytes=5000-"]);
    assert_eq!(std::fs::read(folder.path().join(SHARD)).unwrap(), content);
    assert!(names(folder.path()).iter().all(|name| !name.ends_with(".part")));
}

#[test]
fn a_hub_without_ranges_is_asked_from_the_start() {
    let site = Site::start();
    let folder = tempfile::tempdir().unwrap();
    let content = site.change(|state| {
        state.ignores_ranges = true;
        state.cuts = vec![3000, 2000];
        state.files[SHARD].clone()
    });
    let (result, asked) = site.pull(folder.path());
    result.unwrap();
    assert_eq!(asked.iter().filter(|asked| !asked.is_hub).count(), 3);
    assert_eq!(std::fs::read(folder.path().join(SHARD)).unwrap(), content);
}

#[test]
fn what_the_hub_did_not_say_is_not_left_behind() {
    let site = Site::start();
    let wrong = json!({"lfs": {"sha256": "0".repeat(64), "size": 10_000, "pointerSize": 134}});
    for (size, is_named) in [(None, "checksum"), (Some(10_000), "checksum")] {
        let length = site.change(|state| state.files[SHARD].len());
        let mut listed = wrong.clone();
        listed["lfs"]["size"] = size.unwrap_or(length).into();
        site.change(|state| state.listed.insert(SHARD.to_owned(), listed));
        let error = site.refusal();
        assert!(error.contains(SHARD) && error.contains(is_named), "{error}");
    }
    site.change(|state| state.listed.insert("config.json".into(), json!({"blobId": "1".repeat(40)})));
    let folder = tempfile::tempdir().unwrap();
    assert!(
        matches!(site.pull(folder.path()).0, Err(HubError::Checksum { file, .. }) if file == "config.json")
    );
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[test]
fn a_name_that_leaves_the_folder_is_refused() {
    let site = Site::start();
    for name in ["../outside.safetensors", "/outside.safetensors", "a/../../outside.safetensors"] {
        site.change(|state| {
            state.files.insert(name.to_owned(), vec![1, 2, 3]);
            let index = json!({"weight_map": {"model.norm.weight": name}});
            state.files.insert(INDEX.to_owned(), index.to_string().into_bytes());
        });
        let folder = tempfile::tempdir().unwrap();
        let (result, asked) = site.pull(&folder.path().join("in"));
        assert!(matches!(&result, Err(HubError::Name(found)) if found == name), "{result:?}");
        assert!(asked.iter().all(|asked| !asked.path.contains("outside")), "it is not even asked for");
        assert_eq!(names(folder.path()), ["in"]);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let site = Site::start();
    let says = |expected: &[&str]| {
        let error = site.refusal();
        assert!(expected.iter().all(|expected| error.contains(expected)), "{error} lacks {expected:?}");
    };
    for (status, expected) in [
        (401, &["refuses me/tiny at main", "HF_TOKEN"][..]),
        (403, &["refuses me/tiny at main", "HF_TOKEN"]),
        (404, &["has no me/tiny at main"]),
        (418, &["418", "me/tiny"]),
        (503, &["503"]),
    ] {
        site.change(|state| (state.refuses, state.asked) = (Some(status), Vec::new()));
        says(expected);
        let tries = site.change(|state| state.asked.len());
        assert_eq!(tries, if status == 503 { 5 } else { 1 }, "only what may pass is tried again");
    }
    site.change(|state| state.refuses = None);
    site.change(|state| {
        state.listed.insert(SHARD.into(), json!({"lfs": {"sha256": "0".repeat(64), "size": 1u64 << 60}}))
    });
    says(&["has room for", "1152921504"]);
    let index = site.change(|state| state.files.remove(INDEX)).unwrap();
    says(&["has no model.safetensors in me/tiny"]);
    site.change(|state| state.files.insert(INDEX.to_owned(), index));
    let tokenizer = site.change(|state| state.files.remove("tokenizer.json")).unwrap();
    says(&["has no tokenizer.json in me/tiny"]);
    site.change(|state| state.files.insert("tokenizer.json".to_owned(), tokenizer));
    site.change(|state| {
        state.files.insert("config.json".to_owned(), b"{\"architectures\": [\"GPT2LMHeadModel\"]}".to_vec())
    });
    let folder = tempfile::tempdir().unwrap();
    let (to, hub) = (folder.path().to_str().unwrap(), format!("http://{}", site.address));
    let (is_fine, _, complaint) = chatdlm(&["pull", "me/tiny", "--to", to, "--hub", &hub]);
    assert!(!is_fine && complaint.contains("GPT2LMHeadModel"), "{complaint}");
    assert!(!folder.path().join(SHARD).exists(), "said before the weights are fetched");
    let (is_fine, _, complaint) = chatdlm(&["pull", "tiny", "--hub", &hub]);
    assert!(!is_fine && complaint.contains("OWNER/NAME"), "{complaint}");
}

#[test]
fn a_single_file_can_be_had_too() {
    let site = Site::start();
    let folder = tempfile::tempdir().unwrap();
    let hub = site.hub();
    let listing = hub.list("me/tiny", "main").unwrap();
    let file = listing.file("original/weights.bin").unwrap();
    let mut told = Vec::new();
    hub.fetch(&listing, &[file], folder.path(), &mut |progress| told.push((progress.bytes, progress.of)))
        .unwrap();
    assert_eq!(std::fs::read(folder.path().join("original/weights.bin")).unwrap(), vec![7; 100]);
    assert_eq!(told.last(), Some(&(100, 100)));
    assert!(PathBuf::from(folder.path()).join("original").is_dir());
}
