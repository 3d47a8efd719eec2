//! Watching calls over real websockets: hand-over from the log, who may see what, lists, wishes.

mod common;

use chatdlm::app::App;
use chatdlm::store::identity::Role;
use common::Client;
use common::segment;
use reqwest::Method;
use reqwest::StatusCode;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

/// Returns a server on a folder of its own, and a key that feeds calls.
async fn serve() -> (TempDir, App, String) {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    (folder, app, key)
}

/// Sends a request of somebody signed in.
async fn request(app: &App, cookie: &str, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let url = format!("http://{}{path}", app.address);
    let mut request = reqwest::Client::new().request(method.clone(), url).header("cookie", cookie);
    if method != Method::GET {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    let text = answer.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_watcher_sees_every_settled_event_once_wherever_it_starts() {
    let (_folder, app, key) = serve().await;
    let cookie = common::cookie(&app, "sam", Role::Supervisor).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    for seq in 1..=20 {
        sender.say(seq, "one of the first").await;
    }

    // The second half is said while watchers join at every number.
    let mut watchers = Vec::new();
    for seq in 21..=40 {
        let path = format!("/v1/calls/c-1/events?after={}", seq - 15);
        watchers.push((seq - 15, Client::watch(&app, &path, &cookie).await));
        sender.send(segment(seq, "one of the last")).await;
    }
    sender.send(json!({"type": "end", "reason": "hangup"})).await;
    sender.closed().await;
    for (after, mut watcher) in watchers {
        let (closed, before) = watcher.until("call_closed").await;
        let settled = before.iter().chain([&closed]).filter(|envelope| envelope.get("tentative").is_none());
        let numbers: Vec<u64> = settled.map(|envelope| envelope["seq"].as_u64().unwrap()).collect();
        let expected: Vec<u64> = (after + 1..=closed["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, expected);
    }
    app.stop().await.unwrap();
}

#[tokio::test]
async fn supervisors_get_a_snapshot_and_then_what_happens_but_segments() {
    let (_folder, app, key) = serve().await;
    let alice = common::cookie(&app, "alice", Role::Agent).await;
    let sam = common::cookie(&app, "sam", Role::Supervisor).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(1, "my card is 4111 1111 1111 1111").await;

    let mut board = Client::watch(&app, "/v1/events", &sam).await;
    let snapshot = board.receive().await;
    assert_eq!(snapshot["type"], "snapshot");
    assert_eq!(snapshot["calls"][0]["call"], "c-1");
    assert_eq!(snapshot["calls"][0]["agent"], "alice");
    let last = snapshot["calls"][0]["last_text"].as_str().unwrap();
    assert!(!last.contains("4111"), "{last}");

    let (status, _) =
        request(&app, &alice, Method::POST, "/v1/calls/c-1/flag", json!({"message": "please listen"})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    sender.say(2, "and it expires soon").await;
    let (status, _) =
        request(&app, &sam, Method::POST, "/v1/calls/c-1/notes", json!({"text": "stay calm"})).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (note, before) = board.until("note").await;
    assert_eq!((note["from"].as_str(), note["text"].as_str()), (Some("sam"), Some("stay calm")));
    assert!(before.iter().any(|event| event["type"] == "alert" && event["kind"] == "flag"));
    assert!(before.iter().all(|event| event["type"] != "segment"));

    let (_, call) = request(&app, &sam, Method::GET, "/v1/calls/c-1", Value::Null).await;
    assert_eq!(call["flag"], "please listen");
    assert_eq!(call["counts"]["segments"], 2);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn agents_see_their_own_calls_only_and_tenants_never_meet() {
    let (_folder, app, key) = serve().await;
    let alice = common::cookie(&app, "alice", Role::Agent).await;
    let ben = common::cookie(&app, "ben", Role::Agent).await;
    let stranger = common::cookie_of(&app, "other", "sue", Role::Supervisor).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(1, "the purple umbrella").await;

    for (cookie, expected) in
        [(&alice, StatusCode::OK), (&ben, StatusCode::NOT_FOUND), (&stranger, StatusCode::NOT_FOUND)]
    {
        let (status, _) = request(&app, cookie, Method::GET, "/v1/calls/c-1", Value::Null).await;
        assert_eq!(status, expected);
        let refused = Client::try_watch(&app, "/v1/calls/c-1/events", cookie).await.is_err();
        assert_eq!(refused, expected != StatusCode::OK);
        let (_, list) = request(&app, cookie, Method::GET, "/v1/calls?state=open", Value::Null).await;
        let listed = list["calls"].as_array().unwrap().len();
        assert_eq!(listed, usize::from(expected == StatusCode::OK));
    }
    for (query, found) in [
        ("q=PURPLE", 1),
        ("q=green", 0),
        ("agent=alice&state=open", 1),
        ("state=closed", 0),
        ("from=2026-01-03T00:00:00Z", 0),
        ("to=2026-01-03T00:00:00Z", 1),
    ] {
        let sam = format!("/v1/calls?{query}");
        let (status, list) = request(&app, &alice, Method::GET, &sam, Value::Null).await;
        assert_eq!((status, list["calls"].as_array().unwrap().len()), (StatusCode::OK, found), "{query}");
    }
    let (status, _) = request(&app, &alice, Method::POST, "/v1/calls/c-1/notes", json!({"text": "x"})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = request(&app, &alice, Method::GET, "/v1/calls?cursor=nonsense", Value::Null).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn lists_go_on_at_their_cursor() {
    let (_folder, app, key) = serve().await;
    let sam = common::cookie(&app, "sam", Role::Supervisor).await;
    // Held open: a dropped sender would start the calls' waiting.
    let mut senders = Vec::new();
    for number in 0..5 {
        let mut sender = Client::ingest(&app, &key).await;
        sender.start(&format!("c-{number}")).await;
        senders.push(sender);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/calls?limit=2".to_owned();
    loop {
        let (_, list) = request(&app, &sam, Method::GET, &path, Value::Null).await;
        seen.extend(
            list["calls"].as_array().unwrap().iter().map(|call| call["call"].as_str().unwrap().to_owned()),
        );
        let Some(next) = list["next"].as_str() else { break };
        path = format!("/v1/calls?limit=2&cursor={next}");
    }
    assert_eq!(seen, ["c-4", "c-3", "c-2", "c-1", "c-0"]);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_model_drafts_fail_visibly_and_the_call_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = common::config();
    config.model.dir = Some(folder.path().join("no-model"));
    let app = common::start(folder.path(), config).await;
    let key = common::ingest_key(&app).await;
    let alice = common::cookie(&app, "alice", Role::Agent).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    let mut watcher = Client::watch(&app, "/v1/calls/c-1/events", &alice).await;
    let (status, made) = request(&app, &alice, Method::POST, "/v1/calls/c-1/drafts", json!({})).await;
    assert_eq!((status, made["id"].as_str()), (StatusCode::ACCEPTED, Some("d1")));
    let (draft, _) = watcher.until("draft").await;
    assert_eq!((draft["id"].as_str(), draft["state"].as_str()), (Some("d1"), Some("failed")));
    assert!(draft["error"].as_str().is_some_and(|error| !error.is_empty()));
    sender.say(1, "are you there?").await;
    let missing = "/v1/calls/c-1/drafts/d9/judgement";
    let (status, _) = request(&app, &alice, Method::POST, missing, json!({"verdict": "accepted"})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn calls_are_found_by_what_was_said_in_any_case_and_by_nothing_else() {
    let (_folder, app, key) = serve().await;
    let sam = common::cookie(&app, "sam", Role::Supervisor).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(1, "Mein ÄRGER ist \"groß\"").await;
    for (text, found) in [("ärger", 1), ("\"GROSS", 0), ("\"groß\"", 1), ("start_ms", 0), ("speaker", 0)] {
        let mut path: String = "/v1/calls?q=".to_owned();
        path.extend(text.bytes().map(|byte| format!("%{byte:02X}")));
        let (status, list) = request(&app, &sam, Method::GET, &path, Value::Null).await;
        assert_eq!((status, list["calls"].as_array().unwrap().len()), (StatusCode::OK, found), "{text}");
    }
    app.stop().await.unwrap();
}

#[tokio::test]
async fn an_answer_to_a_card_can_be_changed_and_taken_back() {
    let (_folder, app, key) = serve().await;
    app.knowledge().seed(common::TENANT).await.unwrap();
    let alice = common::cookie(&app, "alice", Role::Agent).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    let mut watcher = Client::watch(&app, "/v1/calls/c-1/events", &alice).await;
    sender.say(1, "what happens to my contract when my father has died, bereavement").await;
    let (pushed, _) = watcher.until("cards").await;
    let card = &pushed["cards"][0];
    let (base, article) = (card["base"].as_str().unwrap(), card["article"].as_str().unwrap());
    let path = format!("/v1/calls/c-1/cards/{}/feedback", card["id"].as_str().unwrap().replace('#', "%23"));
    let counted = async || {
        let heads = app.store().articles(common::TENANT, base, "", "", 1000).await.unwrap();
        let found = heads.into_iter().find(|head| head.id == article).unwrap();
        (found.useful, found.wrong)
    };
    for (body, expected) in [
        (json!({"useful": true, "base": base}), (1, 0)),
        (json!({"useful": true}), (1, 0)),
        (json!({"useful": false}), (0, 1)),
        (json!({"useful": null}), (0, 0)),
    ] {
        let (status, answer) = request(&app, &alice, Method::POST, &path, body.clone()).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
        assert_eq!(counted().await, expected, "{body}");
    }
    let (status, _) = request(&app, &alice, Method::POST, &path, json!({})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "nothing said is no answer");
    let elsewhere = json!({"useful": true, "base": "nowhere"});
    let (status, _) = request(&app, &alice, Method::POST, &path, elsewhere).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn what_people_type_is_redacted_wherever_it_is_kept() {
    let (_folder, app, key) = serve().await;
    let sam = common::cookie(&app, "sam", Role::Supervisor).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    let terms = json!([{"category": "project", "terms": ["bluebird"], "match": "word",
                        "severity": "info", "action": "redact"}]);
    let admin = common::cookie(&app, "root", Role::Admin).await;
    assert_eq!(request(&app, &admin, Method::PUT, "/v1/terms", terms).await.0, StatusCode::OK);
    let note = json!({"text": "card 4111 1111 1111 1111, and say nothing of bluebird"});
    assert_eq!(
        request(&app, &sam, Method::POST, "/v1/calls/c-1/notes", note).await.0,
        StatusCode::NO_CONTENT
    );
    sender.send(json!({"type": "end", "reason": "paid with 4111 1111 1111 1111"})).await;
    sender.closed().await;
    let mut watcher = Client::watch(&app, "/v1/calls/c-1/events", &sam).await;
    let (closed, before) = watcher.until("call_closed").await;
    let note = before.iter().find(|event| event["type"] == "note").unwrap();
    assert_eq!(note["text"], "card [payment card], and say nothing of [project]");
    assert_eq!(closed["reason"], "paid with [payment card]");
    app.stop().await.unwrap();
}

#[tokio::test]
async fn routes_know_their_methods() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let client = reqwest::Client::new();
    for (method, path, expected) in [
        (Method::HEAD, "/", 200),
        (Method::HEAD, "/healthz", 200),
        (Method::POST, "/healthz", 405),
        (Method::DELETE, "/v1/events", 405),
        (Method::GET, "/nowhere", 404),
    ] {
        let url = format!("http://{}{path}", app.address);
        let answer = client.request(method.clone(), url).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{method} {path}");
    }
    app.stop().await.unwrap();
}
