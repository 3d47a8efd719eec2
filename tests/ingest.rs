//! Feeding a call over a real websocket: acknowledgements, resume, repeats, refusals, take-over.

mod common;

use chatdlm::store::identity::Role;
use common::Client;
use common::segment;
use common::start_message;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::Data;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

#[tokio::test]
async fn a_call_is_fed_watched_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let cookie = common::cookie(&app, "alice", Role::Agent).await;

    let mut sender = Client::ingest(&app, &key).await;
    assert_eq!(sender.start("c-1").await, 0);
    sender.say(1, "hello, my bill is too high").await;

    let mut watcher = Client::watch(&app, "/v1/calls/c-1/events?after=0", &cookie).await;
    let opened = watcher.receive().await;
    assert_eq!((opened["type"].as_str(), opened["seq"].as_u64()), (Some("call_opened"), Some(1)));
    let (said, _) = watcher.until("segment").await;
    assert_eq!(said["text"], "hello, my bill is too high");

    let mut partial = segment(2, "and there");
    partial["final"] = false.into();
    sender.send(partial).await;
    let (shown, _) = watcher.until("segment").await;
    assert_eq!((shown["tentative"].as_bool(), shown["text"].as_str()), (Some(true), Some("and there")));
    sender.say(2, "and there is a fee").await;
    let (settled, _) = watcher.until("segment").await;
    assert_eq!((settled.get("tentative"), settled["text"].as_str()), (None, Some("and there is a fee")));

    sender.send(json!({"type": "end", "reason": "hangup"})).await;
    let close = sender.closed().await.expect("a close frame");
    assert_eq!(u16::from(close.code), 1000);
    let (closed, _) = watcher.until("call_closed").await;
    assert_eq!((closed["reason"].as_str(), closed["duration_ms"].as_u64()), (Some("hangup"), Some(2900)));
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_sender_that_comes_back_and_repeats_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let cookie = common::cookie(&app, "alice", Role::Agent).await;

    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(1, "one").await;
    sender.say(2, "two").await;
    drop(sender);

    let mut sender = Client::ingest(&app, &key).await;
    assert_eq!(sender.start("c-1").await, 2);
    for seq in 1..=3 {
        sender.say(seq, "again").await;
    }

    let mut watcher = Client::watch(&app, "/v1/calls/c-1/events", &cookie).await;
    let mut texts = Vec::new();
    while texts.len() < 3 {
        let (said, _) = watcher.until("segment").await;
        texts.push(said["text"].as_str().unwrap().to_owned());
    }
    assert_eq!(texts, ["one", "two", "again"]);
    app.stop().await.unwrap();
}

#[tokio::test]
async fn bad_messages_are_refused_by_name_and_the_call_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(5, "a gap is allowed").await;

    let mut late = segment(9, "late");
    late["end_ms"] = 1.into();
    for (message, code, seq) in [
        ("{nonsense".to_owned(), "malformed", None),
        (json!({"type": "dance", "seq": 6}).to_string(), "unknown_type", Some(6)),
        (segment(4, "never seen").to_string(), "out_of_order", Some(4)),
        (segment(6, &"x".repeat(20_000)).to_string(), "text_too_long", Some(6)),
        (late.to_string(), "bad_times", Some(9)),
        (start_message("c-1").to_string(), "already_started", None),
    ] {
        sender.send_text(message).await;
        let refused = sender.receive().await;
        assert_eq!(refused["type"], "error", "{refused}");
        assert_eq!((refused["code"].as_str(), refused["seq"].as_u64()), (Some(code), seq), "{refused}");
        assert!(refused["message"].as_str().is_some_and(|message| !message.is_empty()), "{refused}");
    }
    sender.send_raw(Message::binary(vec![0xff; 10])).await;
    assert_eq!(sender.receive().await["code"], "binary");
    sender.say(6, "still here").await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_no_text_or_far_too_long_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    let no_utf8 = Frame::message(vec![b'{', 0xff, 0xfe], OpCode::Data(Data::Text), true);
    sender.send_raw(Message::Frame(no_utf8)).await;
    assert_eq!(sender.receive().await["code"], "invalid_utf8");
    sender.say(1, "still here").await;

    sender.send(segment(2, &"x".repeat(300_000))).await;
    assert_eq!(sender.receive().await["code"], "message_too_large");
    let close = sender.closed().await.expect("a close frame");
    assert_eq!(u16::from(close.code), 1009);
    let mut sender = Client::ingest(&app, &key).await;
    assert_eq!(sender.start("c-1").await, 1, "the call itself is open");
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_socket_begins_with_a_start_of_an_open_call() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.send(segment(1, "hello")).await;
    assert_eq!(sender.receive().await["code"], "start_expected");
    assert_eq!(u16::from(sender.closed().await.expect("a close frame").code), 1008);

    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(1, "goodbye").await;
    sender.send(json!({"type": "end", "reason": "hangup"})).await;
    sender.closed().await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.send(start_message("c-1")).await;
    let refused = sender.receive().await;
    assert_eq!((refused["code"].as_str(), refused["resume_after"].as_u64()), (Some("call_closed"), Some(1)));
    assert_eq!(u16::from(sender.closed().await.expect("a close frame").code), 1008);
    assert!(Client::try_feed(app.address, "cdlm_wrong").await.is_err());
    app.stop().await.unwrap();
}

#[tokio::test]
async fn the_newer_of_two_sockets_feeds_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let mut older = Client::ingest(&app, &key).await;
    older.start("c-1").await;
    older.say(1, "one").await;
    let mut newer = Client::ingest(&app, &key).await;
    assert_eq!(newer.start("c-1").await, 1);
    assert_eq!(older.receive().await["code"], "taken_over");
    assert_eq!(u16::from(older.closed().await.expect("a close frame").code), 4009);
    newer.say(2, "two").await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_stopping_server_says_goodbye_and_keeps_calls_open() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let key = common::ingest_key(&app).await;
    let mut sender = Client::ingest(&app, &key).await;
    sender.start("c-1").await;
    sender.say(1, "one").await;
    let stopping = tokio::spawn(app.stop());
    assert_eq!(u16::from(sender.closed().await.expect("a close frame").code), 1001);
    stopping.await.unwrap().unwrap();

    let app = common::start(folder.path(), common::config()).await;
    let mut sender = Client::ingest(&app, &key).await;
    assert_eq!(sender.start("c-1").await, 1);
    app.stop().await.unwrap();
}
