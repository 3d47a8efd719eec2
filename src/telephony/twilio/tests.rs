//! Media Streams of each dialect: what they mean, what they get wrong, arbitrary bytes.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::telephony::MESSAGE_MAX_BYTES;
use crate::telephony::Opening;
use crate::telephony::mistakes::BAD_IN_A_ROW_MAX;

const FRAME: [u8; 160] = [0x7f; 160];

fn hear(wire: &mut Twilio, text: &str) -> Result<Vec<Happening>, WireError> {
    let heard = wire.hear(Message::Text(text))?;
    assert!(heard.replies.is_empty(), "nothing may ever be sent");
    Ok(heard.happenings)
}

fn code(wire: &mut Twilio, text: &str) -> &'static str {
    match hear(wire, text) {
        Ok(happenings) => panic!("{text} was taken as {happenings:?}"),
        Err(error) => error.code(),
    }
}

fn opening(happenings: Result<Vec<Happening>, WireError>) -> Opening {
    match happenings.as_deref() {
        Ok([Happening::Opened(opening)]) => opening.clone(),
        other => panic!("no opening: {other:?}"),
    }
}

fn begun(tracks: &[&str]) -> Twilio {
    let mut wire = Twilio::new(Dialect::Twilio);
    hear(&mut wire, &connected()).unwrap();
    opening(hear(&mut wire, &start("CA1", "MZ1", tracks, &[])));
    wire
}

fn sound(number: u64) -> Vec<u8> {
    let mut bytes = FRAME.to_vec();
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn numbers(happenings: &[Happening]) -> Vec<(Speaker, u64)> {
    let mut numbers = Vec::new();
    for happening in happenings {
        if let Happening::Audio { format, bytes } = happening {
            let Channels::One(speaker) = format.channels else { panic!("a stream has one channel") };
            numbers.push((speaker, u64::from_le_bytes(bytes[..8].try_into().unwrap())));
        }
    }
    numbers
}

fn telnyx_media(track: &str, sequence: Option<u64>, chunk: Option<u64>, number: u64) -> String {
    let mut media = json!({"track": track, "payload": BASE64.encode(sound(number))});
    let mut message = json!({"event": "media", "stream_id": "s-1"});
    if let Some(chunk) = chunk {
        media["chunk"] = json!(chunk.to_string());
    }
    if let Some(sequence) = sequence {
        message["sequence_number"] = json!(sequence.to_string());
    }
    message["media"] = media;
    message.to_string()
}

fn telnyx() -> Twilio {
    let mut wire = Twilio::new(Dialect::Telnyx);
    let start = json!({"event": "start", "sequence_number": "1", "stream_id": "s-1", "start": {
        "user_id": "u-1", "call_control_id": "v3:c-1", "from": "+15551230000", "to": "+15559870000",
        "client_state": "aGV5", "custom_parameters": {"agent": "ann", "auth_token": "s3cret"},
        "media_format": {"encoding": "PCMA", "sample_rate": 8000, "channels": 1}}});
    let opening = opening(hear(&mut wire, &start.to_string()));
    assert_eq!((opening.call.as_str(), opening.agent.as_deref()), ("v3:c-1", Some("ann")));
    assert_eq!(opening.customer.as_deref(), Some("+15551230000"));
    assert_eq!(opening.metadata, json!({"carrier": "telnyx", "account": "u-1", "stream": "s-1"}));
    wire
}

#[test]
fn a_call_is_heard_from_start_to_stop() {
    let mut wire = Twilio::new(Dialect::Twilio);
    assert_eq!(hear(&mut wire, &connected()), Ok(Vec::new()));
    let parameters =
        [("agent", "ann"), ("customer", "bob"), ("language", "de"), ("knowledge", "a, b"), ("queue", "7")];
    let opened = hear(&mut wire, &start("CA1", "MZ1", &["inbound", "outbound"], &parameters));
    let expected = Opening {
        is_chat: false,
        call: "CA1".to_owned(),
        agent: Some("ann".to_owned()),
        customer: Some("bob".to_owned()),
        language: Some("de".to_owned()),
        knowledge: vec!["a".to_owned(), "b".to_owned()],
        speaker: None,
        metadata: json!({"carrier": "twilio", "account": NO_ACCOUNT, "stream": "MZ1", "parameters": {"queue": "7"}}),
    };
    assert_eq!(opening(opened), expected);
    let format =
        |speaker| AudioFormat { encoding: Encoding::Mulaw, rate_hz: 8000, channels: Channels::One(speaker) };
    let heard = hear(&mut wire, &media(2, "MZ1", "inbound", 1, 0, &FRAME));
    let bytes = FRAME.to_vec();
    assert_eq!(heard, Ok(vec![Happening::Audio { format: format(Speaker::Customer), bytes: bytes.clone() }]));
    let heard = hear(&mut wire, &media(3, "MZ1", "outbound", 1, 0, &FRAME));
    assert_eq!(heard, Ok(vec![Happening::Audio { format: format(Speaker::Agent), bytes }]));
    let key = r#"{"event":"dtmf","streamSid":"MZ1","sequenceNumber":"5","dtmf":{"track":"inbound_track","digit":"1"}}"#;
    assert_eq!(hear(&mut wire, key), Ok(vec![Happening::Key]));
    let mark = r#"{"event":"mark","streamSid":"MZ1","sequenceNumber":"4","mark":{"name":"x"}}"#;
    assert_eq!(hear(&mut wire, mark), Ok(Vec::new()));
    let closed = Happening::Closed { reason: "hangup".to_owned() };
    assert_eq!(hear(&mut wire, &stop(6, "CA1", "MZ1")), Ok(vec![closed]));
    assert_eq!(code(&mut wire, &media(7, "MZ1", "inbound", 2, 20, &FRAME)), "out_of_place");
    assert_eq!(code(&mut wire, &stop(8, "CA1", "MZ1")), "out_of_place");
}

#[test]
fn every_bad_message_is_named_and_the_call_goes_on() {
    let mut early = Twilio::new(Dialect::Twilio);
    assert_eq!(code(&mut early, &media(2, "MZ1", "inbound", 1, 0, &FRAME)), "too_early");
    assert_eq!(code(&mut early, &stop(2, "CA1", "MZ1")), "too_early");
    assert_eq!(code(&mut early, r#"{"event":"start"}"#), "malformed");
    assert_eq!(code(&mut early, r#"{"event":"start","start":{"callSid":7}}"#), "malformed");
    assert_eq!(code(&mut early, r#"{"event":"start","start":{}}"#), "malformed");
    assert_eq!(code(&mut early, &start(&"C".repeat(300), "MZ1", &[], &[])), "malformed");
    assert_eq!(code(&mut early, &start("CA1", "MZ1", &["sideways"], &[])), "malformed");

    let mut wire = begun(&["inbound"]);
    let payload = |text: &str| {
        json!({"event": "media", "streamSid": "MZ1", "media": {"track": "inbound", "payload": text}})
            .to_string()
    };
    assert_eq!(code(&mut wire, "{"), "malformed");
    assert_eq!(code(&mut wire, "[]"), "malformed");
    assert_eq!(code(&mut wire, r#"{"event":"dance"}"#), "malformed");
    assert_eq!(code(&mut wire, r#"{"event":"media","streamSid":"MZ1"}"#), "malformed");
    assert_eq!(code(&mut wire, &payload("no base64!")), "malformed");
    assert_eq!(code(&mut wire, &payload(&BASE64.encode(vec![0; 8001]))), "message_too_large");
    assert_eq!(code(&mut wire, &payload(&"!".repeat(200_000))), "message_too_large");
    assert_eq!(code(&mut wire, &" ".repeat(MESSAGE_MAX_BYTES + 1)), "message_too_large");
    assert_eq!(code(&mut wire, &media(2, "MZ1", "outbound", 1, 0, &FRAME)), "foreign");
    assert_eq!(code(&mut wire, &media(2, "MZ2", "inbound", 1, 0, &FRAME)), "foreign");
    assert_eq!(code(&mut wire, &start("CA1", "MZ1", &["inbound"], &[])), "out_of_place");
    assert_eq!(code(&mut wire, &connected()), "out_of_place");
    assert!(wire.hear(Message::Binary(&FRAME)).is_err());
    assert_eq!(wire.refusal(&WireError::OutOfPlace("start".to_owned())), Vec::new());
    assert_eq!(hear(&mut wire, &payload(&BASE64.encode([0; 8000]))).map(|heard| heard.len()), Ok(1));
    assert_eq!(hear(&mut wire, &payload("")), Ok(Vec::new()));
    assert_eq!(hear(&mut wire, &payload("fw")).map(|heard| heard.len()), Ok(1), "padding may be missing");
}

#[test]
fn errors_show_nothing_of_what_was_said_or_pressed() {
    let mut wire = begun(&["inbound"]);
    let secret = "4111111111111111".repeat(8);
    for text in [
        json!({"event": "media", "media": {"track": secret, "payload": ""}}).to_string(),
        json!({"event": "media", "media": secret}).to_string(),
        json!({"event": secret}).to_string(),
        json!({"event": "dtmf", "streamSid": {"digit": secret}}).to_string(),
        format!("{{\"event\":\"dtmf\",\"dtmf\":{{\"digit\":{secret}{secret}x"),
    ] {
        let error = hear(&mut wire, &text).unwrap_err().to_string();
        assert!(!error.contains(&secret[..41]), "{error}");
    }
}

#[test]
fn sloppy_senders_are_understood() {
    // No `connected`, the first number is 2, times at half speed, numbers as numbers, a gap, no tracks.
    let mut wire = Twilio::new(Dialect::Twilio);
    let start = r#"{"event":"start","sequenceNumber":"2","start":{"callSid":"CA1","streamSid":"MZ1"}}"#;
    opening(hear(&mut wire, start));
    let mut passed = Vec::new();
    for (sequence, chunk) in [(3, 1), (4, 2), (9, 7), (8, 6)] {
        let text = json!({"event": "media", "sequenceNumber": sequence, "media": {"track": "inbound",
            "chunk": chunk, "timestamp": 20, "payload": BASE64.encode(sound(chunk))}});
        passed.extend(hear(&mut wire, &text.to_string()).unwrap());
    }
    let customer = |number| (Speaker::Customer, number);
    assert_eq!(numbers(&passed), [customer(1), customer(2), customer(7), customer(6)]);
    let odd = r#"{"event":"media","sequenceNumber":null,"media":{"chunk":-1.5,"payload":"AAAAAAAAAAA="}}"#;
    assert_eq!(numbers(&hear(&mut wire, odd).unwrap()), [customer(0)]);
}

#[test]
fn an_exact_repeat_is_heard_once() {
    let mut wire = begun(&["inbound", "outbound"]);
    let first = media(2, "MZ1", "inbound", 1, 0, &sound(1));
    let second = media(3, "MZ1", "inbound", 2, 20, &sound(2));
    let mut passed = Vec::new();
    for text in [&first, &second, &first, &second] {
        passed.extend(hear(&mut wire, text).unwrap());
    }
    assert_eq!(numbers(&passed), [(Speaker::Customer, 1), (Speaker::Customer, 2)]);
    let other = hear(&mut wire, &media(3, "MZ1", "outbound", 2, 20, &sound(2))).unwrap();
    assert_eq!(numbers(&other), [(Speaker::Agent, 2)]);
}

#[test]
fn the_forms_of_audio_are_told_apart() {
    let check = |dialect: Dialect, format: Value, expected: Result<(Encoding, u32), &str>| {
        let mut wire = Twilio::new(dialect);
        let text = json!({"event": "start", "start": {"callId": "c", "mediaFormat": format}}).to_string();
        match (hear(&mut wire, &text), expected) {
            (Ok(_), Ok((encoding, rate_hz))) => {
                let heard = hear(&mut wire, r#"{"event":"media","media":{"payload":"AAAA"}}"#);
                if encoding == Encoding::Linear16 {
                    assert_eq!(heard.unwrap_err().code(), "malformed", "half a sample");
                }
                let Stage::Streaming(stream) = &wire.stage else { panic!("{text} did not begin") };
                assert_eq!((stream.start.encoding, stream.start.rate_hz), (encoding, rate_hz), "{text}");
            }
            (Err(error), Err(code)) => {
                assert_eq!(error.code(), code, "{text}");
                assert!(matches!(wire.refusal(&error)[..], [Frame::Close(1003, _)]), "{text}");
            }
            (got, expected) => panic!("{dialect} {text}: {got:?}, expected {expected:?}"),
        }
    };
    let linear = |rate_hz| Ok((Encoding::Linear16, rate_hz));
    let mulaw = Ok((Encoding::Mulaw, 8000));
    let alaw = Ok((Encoding::Alaw, 8000));
    let unknown = Err("unknown_audio");
    check(Dialect::Twilio, json!({"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}), mulaw);
    check(Dialect::Twilio, json!({"encoding": "audio/x-alaw", "sampleRate": "8000"}), alaw);
    check(Dialect::Twilio, Value::Null, mulaw);
    check(Dialect::Twilio, json!({"encoding": "audio/x-mulaw", "sampleRate": 16000}), unknown);
    check(Dialect::Twilio, json!({"encoding": "audio/x-mulaw", "channels": 2}), unknown);
    check(Dialect::Twilio, json!({"encoding": "audio/x-l16"}), unknown);
    check(Dialect::Twilio, json!({"encoding": 7}), unknown);
    check(Dialect::SignalWire, json!({"encoding": "audio/x-mulaw"}), mulaw);
    check(Dialect::Telnyx, json!({"encoding": "PCMU", "sample_rate": 8000}), mulaw);
    check(Dialect::Telnyx, json!({"encoding": "PCMA", "sample_rate": 8000}), alaw);
    check(Dialect::Telnyx, json!({"encoding": "OPUS", "sample_rate": 16000}), unknown);
    check(Dialect::Telnyx, Value::Null, unknown);
    check(Dialect::Plivo, json!({"encoding": "audio/x-l16;rate=16000"}), linear(16_000));
    check(Dialect::Plivo, json!({"encoding": "audio/x-l16", "sampleRate": 8000}), linear(8000));
    check(Dialect::Plivo, json!({"encoding": "audio/x-l16; rate=16000", "sampleRate": 8000}), unknown);
    check(Dialect::Plivo, json!({"encoding": "audio/x-mulaw;rate=8000", "sampleRate": "8000"}), mulaw);
    check(Dialect::Exotel, json!({"encoding": "base64", "sample_rate": "8000"}), linear(8000));
    check(Dialect::Exotel, json!({"sample_rate": "24000"}), linear(24_000));
    check(Dialect::Exotel, json!({"encoding": "base64", "sample_rate": "16kHz"}), unknown);
    check(Dialect::Exotel, json!({"encoding": "base64", "sample_rate": 44100}), unknown);
}

#[test]
fn exotel_has_one_track_without_a_name() {
    let mut wire = Twilio::new(Dialect::Exotel);
    hear(&mut wire, r#"{"event":"connected"}"#).unwrap();
    let start = json!({"event": "start", "sequence_number": "1", "stream_sid": "s", "start": {
        "stream_sid": "s", "call_sid": "c", "account_sid": "a", "from": "+91", "to": "+92",
        "custom_parameters": {"knowledge": "faq"},
        "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps"}}});
    let opening = opening(hear(&mut wire, &start.to_string()));
    assert_eq!((opening.call.as_str(), opening.knowledge), ("c", vec!["faq".to_owned()]));
    let media = json!({"event": "media", "sequence_number": 2, "stream_sid": "s",
        "media": {"chunk": 1, "timestamp": "100", "payload": BASE64.encode(sound(9))}});
    assert_eq!(numbers(&hear(&mut wire, &media.to_string()).unwrap()), [(Speaker::Customer, 9)]);
}

#[test]
fn plivo_has_headers_for_parameters() {
    let check = |headers: Value| {
        let mut wire = Twilio::new(Dialect::Plivo);
        let start = json!({"sequenceNumber": 0, "event": "start", "extra_headers": headers, "start": {
            "callId": "c", "streamId": "s", "accountId": "a", "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 8000}}});
        let opening = opening(hear(&mut wire, &start.to_string()));
        assert_eq!(opening.agent.as_deref(), Some("ann"));
        assert_eq!(opening.knowledge, ["a", "b"]);
        assert_eq!(opening.metadata["parameters"], json!({"url": "http://x"}));
    };
    check(json!("{X-PH-agent: ann, X-PH-knowledge: a,b, x-ph-url: http://x, X-PH-Token: t}"));
    check(json!({"X-PH-Agent": "ann", "X-PH-knowledge": "a,b", "X-PH-url": "http://x"}));
    check(json!(r#"{"agent":"ann","knowledge":"a,b","url":"http://x"}"#));
}

#[test]
fn telnyx_frames_are_put_into_order_for_each_track() {
    let mut wire = telnyx();
    let mut passed = Vec::new();
    for (sequence, track, chunk) in
        [(3, "inbound", 2), (2, "inbound", 1), (4, "outbound", 1), (6, "inbound", 3), (5, "outbound", 2)]
    {
        passed.extend(hear(&mut wire, &telnyx_media(track, Some(sequence), Some(chunk), chunk)).unwrap());
    }
    let (customer, agent) = (Speaker::Customer, Speaker::Agent);
    assert_eq!(numbers(&passed), [(customer, 1), (customer, 2), (agent, 1), (customer, 3), (agent, 2)]);
    // Chunk 4 is lost, what waits for it comes with the end.
    assert_eq!(hear(&mut wire, &telnyx_media("inbound", Some(9), Some(5), 5)), Ok(Vec::new()));
    let last = hear(&mut wire, r#"{"event":"stop","stream_id":"s-1"}"#).unwrap();
    assert_eq!(numbers(&last), [(customer, 5)]);
    assert_eq!(last.last(), Some(&Happening::Closed { reason: "hangup".to_owned() }));
}

#[test]
fn telnyx_frames_without_chunks_go_by_their_messages() {
    let mut wire = telnyx();
    let mut passed = Vec::new();
    for (track, sequence) in [("inbound", 2), ("inbound", 4), ("outbound", 3), ("inbound", 5)] {
        passed.extend(hear(&mut wire, &telnyx_media(track, Some(sequence), None, sequence)).unwrap());
    }
    let (customer, agent) = (Speaker::Customer, Speaker::Agent);
    assert_eq!(numbers(&passed), [(customer, 2), (agent, 3), (customer, 4), (customer, 5)]);
    let late = telnyx_media("inbound", Some(1), None, 1);
    assert_eq!(hear(&mut wire, &late), Err(WireError::OutOfSequence { expected: 6, got: 1 }));
    assert_eq!(numbers(&hear(&mut wire, &telnyx_media("inbound", None, None, 7)).unwrap()), [(customer, 7)]);
}

#[test]
fn a_stranger_is_sent_away_and_a_bad_sender_after_fifty_messages() {
    let refuse = |wire: &mut Twilio, text: &str| {
        let error = hear(wire, text).unwrap_err();
        wire.refusal(&error)
    };
    let mut stranger = Twilio::new(Dialect::Twilio);
    assert_eq!(refuse(&mut stranger, "hello"), [Frame::Close(1003, "malformed".to_owned())]);
    let mut eager = Twilio::new(Dialect::Twilio);
    let early = media(1, "MZ1", "inbound", 1, 0, &FRAME);
    assert_eq!(refuse(&mut eager, &early), [Frame::Close(1008, "too_early".to_owned())]);
    hear(&mut eager, &connected()).unwrap();
    assert_eq!(refuse(&mut eager, &early), []);

    let mut wire = begun(&["inbound"]);
    for _ in 0..3 {
        for _ in 1..BAD_IN_A_ROW_MAX {
            assert_eq!(refuse(&mut wire, "{"), []);
        }
        hear(&mut wire, &media(2, "MZ1", "inbound", 1, 0, &FRAME)).unwrap();
    }
    for _ in 1..BAD_IN_A_ROW_MAX {
        refuse(&mut wire, "{");
    }
    assert!(matches!(refuse(&mut wire, "{")[..], [Frame::Close(1008, _)]));
    for news in [News::Opened, News::Refused("no"), News::Cards(&[]), News::Draining, News::Finished] {
        assert_eq!(wire.tell(news), []);
    }
}

#[test]
fn dialects_have_names() {
    for dialect in Dialect::ALL {
        assert_eq!(dialect.to_string().parse(), Ok(dialect));
        assert_eq!(serde_json::to_value(dialect).unwrap(), json!(dialect.as_str()));
    }
    assert_eq!("talkdesk".parse(), Ok(Dialect::SignalWire));
    assert_eq!(serde_json::from_value::<Dialect>(json!("talkdesk")).unwrap(), Dialect::SignalWire);
    assert!("Twilio".parse::<Dialect>().is_err());
}

/// Any message of these carriers with a few bytes changed, or any text at all.
fn texts() -> impl Strategy<Value = String> {
    let numbers = (any::<u64>(), 0..20_u64, 0..40_u64, 0..2000_usize);
    let valid = (0..7_u8, numbers).prop_map(|(kind, (large, sequence, chunk, bytes))| match kind {
        0 => connected(),
        1 => start("CA1", "MZ1", &["inbound", "outbound"], &[("agent", "a"), ("x", "y")]),
        2 => media(sequence, "MZ1", "inbound", chunk, large, &vec![1; bytes]),
        3 => media(large, "MZ1", "outbound", large, sequence, &vec![1; bytes * 5]),
        4 => telnyx_media("outbound", Some(sequence), Some(chunk), chunk).replace("s-1", "MZ1"),
        5 => telnyx_media("inbound", Some(sequence), None, chunk).replace("s-1", "MZ1"),
        _ => r#"{"event":"dtmf","dtmf":{"digit":"1"}}"#.to_owned(),
    });
    let mutated = (valid.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
        let mut bytes = text.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        String::from_utf8_lossy(&bytes).into_owned()
    });
    prop_oneof![valid, mutated, ".{0,200}", "\\{\"event\":\"(start|media|stop)\",.{0,40}\\}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_messages_break_the_wire(
        dialect in prop::sample::select(Dialect::ALL.to_vec()),
        texts in prop::collection::vec(texts(), 0..60),
        bytes in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut wire = Twilio::new(dialect);
        let first = wire.hear(Message::Binary(&bytes));
        prop_assert!(first.is_err());
        for text in &texts {
            if let Err(error) = wire.hear(Message::Text(text)) {
                wire.refusal(&error);
            }
            if let Stage::Streaming(stream) = &wire.stage {
                let kept: usize = stream.orders.iter().flatten().map(Order::kept_bytes).sum();
                prop_assert!(kept <= 3 * stream.second_bytes());
            }
        }
        let is_begun = matches!(wire.stage, Stage::Streaming(_));
        let name = match &wire.stage {
            Stage::Streaming(stream) => stream.start.stream.clone(),
            _ => String::new(),
        };
        let key = json!({"event": "dtmf", "streamSid": name}).to_string();
        prop_assert_eq!(wire.hear(Message::Text(&key)).is_ok(), is_begun);
        // The others all take µ-law.
        let begins = matches!(wire.stage, Stage::Waiting) && dialect != Dialect::Exotel;
        prop_assert_eq!(wire.hear(Message::Text(&start("CA1", "MZ1", &[], &[]))).is_ok(), begins);
    }
}
