//! Calls as carriers send them: recordings over every wire become words, measures and events; what
//! carriers get wrong is marked and harms nobody else.

mod common;

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use audio_codec_algorithms::encode_ulaw;
use chatdlm::app::App;
use chatdlm::config::Config;
use chatdlm::speech::ggml;
use chatdlm::speech::wav;
use chatdlm::store::identity::Role;
use chatdlm::telephony::twilio;
use common::Client;
use serde_json::Value;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

/// What the speech model of these tests hears in everything.
const WORDS: [&str; 5] = ["my", "card", "number", "is", "lost"];
const AUDIOHOOK_SECRET: &str = "c2VjcmV0IG9mIHRoZSB0ZXN0cw==";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/audio").join(name)
}

/// Writes a call of two channels: the customer speaks, then the agent.
fn recording(folder: &Path) -> PathBuf {
    let (customer, rate) = wav::read(&fixture("narrowband.wav")).unwrap();
    let (agent, _) = wav::read(&fixture("read.wav")).unwrap();
    let length = customer[0].len() + agent[0].len() + 16_000;
    let sample = |channel: usize, at: usize| match channel {
        0 => customer[0].get(at).copied().unwrap_or(0),
        _ => at.checked_sub(customer[0].len() + 8_000).and_then(|at| agent[0].get(at)).copied().unwrap_or(0),
    };
    let path = folder.join("call.wav");
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for at in 0..length {
        writer.write_sample(sample(0, at)).unwrap();
        writer.write_sample(sample(1, at)).unwrap();
    }
    writer.finalize().unwrap();
    path
}

/// Returns a configuration with carriers let in by signature, and with this speech model.
fn config(model: Option<&Path>) -> Config {
    let mut config = common::config();
    config.auth.tenant = common::TENANT.to_owned();
    config.calls.emotions = false;
    config.speech.model = model.map(Path::to_owned);
    config.telephony = toml::from_str(&format!(
        r#"
        agent = "alice"
        [twilio]
        token = "token of the tests"
        [[audiohook.keys]]
        key = "signed"
        secret = "{AUDIOHOOK_SECRET}"
        [audiosocket]
        address = "127.0.0.1:0"
        "#
    ))
    .unwrap();
    config
}

async fn replay(app: &App, file: &Path, carrier: &str, key: &str, more: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chatdlm"));
    let audiosocket = app.audiosocket.map(|address| address.to_string()).unwrap_or_default();
    command
        .args(["replay", "--speed", "6", "--json", "--carrier", carrier, "--key", key])
        .args(["--to", &format!("http://{}", app.address), "--audiosocket", &audiosocket])
        .args(more)
        .arg(file)
        .stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output());
    let output = running.await.unwrap().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{carrier}: {stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Returns the settled events of a call as JSON, once it is over.
async fn events(app: &App, call: &str) -> Vec<Value> {
    let key = common::call_key(&format!("{} {call}", common::TENANT));
    loop {
        let envelopes = app.store().events_after(&key, 0, 1_000).await.unwrap();
        let events: Vec<Value> =
            envelopes.iter().map(|envelope| serde_json::to_value(envelope).unwrap()).collect();
        if !of(&events, "call_closed").is_empty() {
            return events;
        }
        // Some carriers hang up and do not wait for the last words.
        tokio::task::yield_now().await;
    }
}

async fn latest_call(app: &App) -> String {
    let page = app.store().calls(common::TENANT, &Default::default(), 1).await.unwrap();
    page[0].call.to_string()
}

fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_over_every_carrier_becomes_words_of_both_speakers() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("words.bin");
    ggml::saying::write_saying(&model, &WORDS).unwrap();
    let file = recording(folder.path());
    let app = common::start(&folder.path().join("data"), config(Some(&model))).await;
    let key = common::ingest_key(&app).await;

    for (carrier, key, more) in [
        ("twilio", &*key, &["--secret", "token of the tests"][..]),
        ("audiohook", "signed", &["--secret", AUDIOHOOK_SECRET]),
        ("vonage", &*key, &[]),
        ("audiosocket", &*key, &[]),
    ] {
        let figures = replay(&app, &file, carrier, key, more).await;
        assert_eq!(figures["errors"], 0, "{carrier}: {figures}");
        let call = latest_call(&app).await;
        let events = events(&app, &call).await;
        let segments = of(&events, "segment");
        for speaker in ["customer", "agent"] {
            let said: Vec<&&Value> =
                segments.iter().filter(|segment| segment["speaker"] == speaker).collect();
            assert!(!said.is_empty(), "{carrier}: nothing of the {speaker} in {segments:?}");
            assert!(said.iter().all(|segment| segment["text"] == WORDS.join(" ")), "{carrier}: {said:?}");
        }
        assert_eq!(of(&events, "prosody").len(), segments.len(), "{carrier}");
        let voice = of(&events, "voice");
        let (customer_ms, agent_ms) = (voice[0]["customer_ms"].as_u64(), voice[0]["agent_ms"].as_u64());
        assert!(customer_ms > Some(5_000) && agent_ms > Some(1_500), "{carrier}: {voice:?}");
        assert_eq!((voice.len(), &voice[0]["recognised"]), (1, &json!(true)), "{carrier}");
        assert_eq!(of(&events, "call_closed").len(), 1, "{carrier}");
        assert!(of(&events, "alert").iter().all(|alert| alert["kind"] != "carrier"), "{carrier}: {events:?}");
        if carrier == "audiohook" {
            assert!(figures["transcripts"].as_u64() >= Some(2), "{figures}");
            assert!(figures["round_trip_ms"]["count"].as_u64() > Some(0), "{figures}");
        }
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_model_a_call_is_measured_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = recording(folder.path());
    let app = common::start(&folder.path().join("data"), config(None)).await;
    let key = common::ingest_key(&app).await;
    replay(&app, &file, "twilio", &key, &[]).await;
    let events = events(&app, &latest_call(&app).await).await;
    let voice = of(&events, "voice")[0];
    assert_eq!((&voice["recognised"], of(&events, "segment").len()), (&json!(false), 0));
    assert!(voice["customer_ms"].as_u64() > Some(5_000), "{voice}");
    app.stop().await.unwrap();
}

#[tokio::test]
async fn only_signed_requests_and_known_keys_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), config(None)).await;
    let key = common::ingest_key(&app).await;
    let twilio_path = "/v1/carriers/twilio";
    let signed = |token: &str| twilio::signature::sign(token, &format!("wss://{}{twilio_path}", app.address));
    let good = signed("token of the tests");
    Client::connect(app.address, twilio_path, ("x-twilio-signature", &good)).await;
    let (_, watch) = app.store().create_key(common::TENANT, "watch", Role::Supervisor).await.unwrap();
    for (path, name, value, status) in [
        (twilio_path, "x-twilio-signature", signed("another"), 401),
        (twilio_path, "x-other", "nothing".to_owned(), 401),
        ("/v1/carriers/vonage", "authorization", "Bearer wrong".to_owned(), 401),
        ("/v1/carriers/vonage", "authorization", format!("Bearer {}", watch.reveal()), 403),
        ("/v1/carriers/audiohook", "x-api-key", "signed".to_owned(), 400),
        ("/v1/carriers/pigeon", "authorization", format!("Bearer {key}"), 404),
    ] {
        let refused = Client::try_connect(app.address, path, (name, &value)).await;
        match refused.err() {
            Some(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                assert_eq!(response.status().as_u16(), status, "{path} with {name}");
            }
            other => panic!("{path} with {name}: {other:?}"),
        }
    }
    for path in
        [format!("/v1/carriers/lca?authorization=Bearer%20{key}"), format!("/v1/carriers/telnyx?key={key}")]
    {
        Client::connect(app.address, &path, ("x-other", "nothing")).await;
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_carrier_gets_wrong_is_marked_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), config(None)).await;
    let key = common::ingest_key(&app).await;
    let bearer = format!("Bearer {key}");
    let header = ("authorization", bearer.as_str());

    // Media before the start ends the connection, and no call came of it.
    let mut early = Client::connect(app.address, "/v1/carriers/twilio", header).await;
    early.send_text(twilio::media(1, "MZ1", "inbound", 1, 0, &[0xFF; 160])).await;
    assert_eq!(u16::from(early.closed().await.unwrap().code), 1008);

    let mut good = Client::connect(app.address, "/v1/carriers/twilio", header).await;
    good.send_text(twilio::connected()).await;
    good.send_text(twilio::start("CAgood", "MZgood", &["inbound"], &[])).await;
    let mut bad = Client::connect(app.address, "/v1/carriers/twilio", header).await;
    bad.send_text(twilio::connected()).await;
    bad.send_text(twilio::start("CAbad", "MZbad", &["inbound"], &[])).await;
    for text in ["no json", "{}", r#"{"event":"media","media":{"payload":"%%%"}}"#] {
        bad.send_text(text).await;
    }
    bad.send_raw(Message::binary(vec![7; 1_000])).await;
    // One that lies about its track.
    bad.send_text(twilio::media(9, "MZbad", "outbound", 1, 0, &[0xFF; 160])).await;
    for chunk in 1..=50 {
        let media = twilio::media(chunk + 1, "MZgood", "inbound", chunk, 0, &[0xFF; 160]);
        good.send_text(media).await;
    }
    good.send_text(twilio::stop(60, "CAgood", "MZgood")).await;
    assert_eq!(u16::from(good.closed().await.unwrap().code), 1000);
    bad.send_text(twilio::stop(60, "CAbad", "MZbad")).await;

    let marked = events(&app, "CAbad").await;
    let messages: Vec<&Value> = of(&marked, "alert").into_iter().filter(|a| a["kind"] == "carrier").collect();
    assert!((2..=8).contains(&messages.len()), "once for each kind: {messages:?}");
    let clean = events(&app, "CAgood").await;
    assert_eq!(of(&clean, "alert").len(), 0, "{clean:?}");
    assert_eq!(of(&clean, "call_closed")[0]["reason"], "hangup");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_carrier_that_vanishes_leaves_its_call_to_come_back_to() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), config(None)).await;
    let key = common::ingest_key(&app).await;
    let path = format!("/v1/carriers/deepgram?key={key}&call=dg-1&agent=alice");
    let said = |text: &str, start: f64, is_final: bool| {
        json!({"type": "Results", "channel_index": [0, 1], "start": start, "duration": 1.0, "is_final": is_final,
               "speech_final": is_final, "channel": {"alternatives": [{"transcript": text, "confidence": 0.9,
               "words": [{"word": text, "start": start, "end": start + 1.0, "confidence": 0.9}]}]}})
    };
    let cookie = common::cookie(&app, "sup", Role::Supervisor).await;
    let mut first = Client::connect(app.address, &path, ("x-other", "nothing")).await;
    first.send(said("hello", 0.5, true)).await;
    // Whoever watches sees the final one settled, and what was under way saved when the socket is gone.
    let mut watcher = loop {
        if let Ok(watcher) = Client::try_watch(&app, "/v1/calls/dg-1/events?after=0", &cookie).await {
            break watcher;
        }
        tokio::task::yield_now().await;
    };
    let mut settled = Vec::new();
    while settled.is_empty() {
        let (segment, _) = watcher.until("segment").await;
        if segment["tentative"] != true {
            settled.push(segment["text"].clone());
        }
    }
    first.send(said("and then", 2.0, false)).await;
    // What a socket that is dropped has not delivered is lost with it, so it is seen to have come first.
    while watcher.until("segment").await.0["tentative"] != true {}
    drop(first);
    while settled.len() < 2 {
        let (segment, _) = watcher.until("segment").await;
        if segment["tentative"] != true {
            settled.push(segment["text"].clone());
        }
    }
    assert_eq!(settled, ["hello", "and then"]);
    let mut second = Client::connect(app.address, &path, ("x-other", "nothing")).await;
    second.send(said("again", 0.0, true)).await;
    second.send(json!({"type": "CloseStream"})).await;
    second.closed().await;
    let events = events(&app, "dg-1").await;
    let texts: Vec<&Value> = of(&events, "segment").iter().map(|segment| &segment["text"]).collect();
    assert_eq!(texts, ["hello", "and then", "again"]);
    assert_eq!(of(&events, "call_closed").len(), 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_speaker_that_was_corrected_is_corrected_in_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), config(None)).await;
    let key = common::ingest_key(&app).await;
    let path = format!("/v1/carriers/assemblyai?key={key}&call=aai-1&speaker=agent");
    let turn = |order: u64, text: &str, label: &str| {
        json!({"type": "Turn", "turn_order": order, "turn_is_formatted": false, "end_of_turn": true,
               "transcript": text, "end_of_turn_confidence": 0.9, "speaker_label": label,
               "words": [{"start": 0, "end": 900, "confidence": 0.9, "text": text, "word_is_final": true}]})
    };
    let mut socket = Client::connect(app.address, &path, ("x-other", "nothing")).await;
    socket.send(json!({"type": "Begin", "id": "b", "expires_at": 1})).await;
    socket.send(turn(0, "welcome", "A")).await;
    socket.send(turn(1, "thanks", "A")).await;
    socket.send(json!({"type": "SpeakerRevision", "revisions": [{"turn_order": 1, "speaker_label": "B", "words": []}]})).await;
    socket.send(json!({"type": "Termination", "audio_duration_seconds": 2})).await;
    socket.closed().await;
    let events = events(&app, "aai-1").await;
    let segments = of(&events, "segment");
    let seen: Vec<(&Value, &Value)> = segments.iter().map(|s| (&s["text"], &s["speaker"])).collect();
    assert_eq!(
        seen,
        [
            (&json!("welcome"), &json!("agent")),
            (&json!("thanks"), &json!("agent")),
            (&json!("thanks"), &json!("customer"))
        ]
    );
    assert_eq!(segments[1]["id"], segments[2]["id"]);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_a_line_that_was_taken_over_still_reach_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("words.bin");
    ggml::saying::write_saying(&model, &WORDS).unwrap();
    let app = common::start(&folder.path().join("data"), config(Some(&model))).await;
    let key = common::ingest_key(&app).await;
    let bearer = format!("Bearer {key}");
    let header = ("authorization", bearer.as_str());
    let (speech, _) = wav::read(&fixture("narrowband.wav")).unwrap();
    let mulaw: Vec<u8> = speech[0].iter().map(|&sample| encode_ulaw(sample)).collect();

    let mut first = Client::connect(app.address, "/v1/carriers/twilio", header).await;
    first.send_text(twilio::connected()).await;
    first.send_text(twilio::start("CAtaken", "MZfirst", &["inbound"], &[])).await;
    // Two seconds of somebody who goes on speaking.
    for (at, chunk) in mulaw.chunks_exact(160).take(100).enumerate() {
        let number = at as u64 + 1;
        first.send_text(twilio::media(number + 1, "MZfirst", "inbound", number, number * 20, chunk)).await;
    }
    let cookie = common::cookie(&app, "sup", Role::Supervisor).await;
    let mut watcher = loop {
        if let Ok(watcher) = Client::try_watch(&app, "/v1/calls/CAtaken/events?after=0", &cookie).await {
            break watcher;
        }
        tokio::task::yield_now().await;
    };
    // Words so far mean that the turn was heard and is not over.
    watcher.until("segment").await;
    let mut second = Client::connect(app.address, "/v1/carriers/twilio", header).await;
    second.send_text(twilio::connected()).await;
    second.send_text(twilio::start("CAtaken", "MZsecond", &["inbound"], &[])).await;
    loop {
        let (segment, _) = watcher.until("segment").await;
        if segment["tentative"] != true {
            assert_eq!(
                (&segment["text"], &segment["speaker"]),
                (&json!(WORDS.join(" ")), &json!("customer"))
            );
            break;
        }
    }
    second.send_text(twilio::stop(2, "CAtaken", "MZsecond")).await;
    let events = events(&app, "CAtaken").await;
    assert_eq!((of(&events, "segment").len(), of(&events, "prosody").len()), (1, 1), "{events:?}");
    app.stop().await.unwrap();
}
