//! Calls as FreeSWITCH and jambonz fork them, and senders that send something else.

use proptest::prelude::*;

use super::*;
use crate::telephony::Encoding;
use crate::telephony::MESSAGE_MAX_BYTES;

/// What jambonz sends for a call that comes in.
const JAMBONZ: &str = r#"{"sampleRate":16000,"mixType":"stereo","callSid":"aad0115d","direction":"inbound",
    "from":"+15083084809","to":"+15083728363","callerName":"","transcription":true}"#;
const KEY: &str = r#"{"event":"dtmf","dtmf":"5","duration":"1600"}"#;
const MONO: AudioFormat =
    AudioFormat { encoding: Encoding::Linear16, rate_hz: 8_000, channels: Channels::One(Speaker::Customer) };

fn nameless() -> AudioFork {
    AudioFork::new(MONO, None)
}

fn named() -> AudioFork {
    AudioFork::new(MONO, Some("c-1".to_owned()))
}

fn hear(wire: &mut AudioFork, text: &str) -> Result<Vec<Happening>, WireError> {
    wire.hear(Message::Text(text)).map(|heard| heard.happenings)
}

fn hear_bytes(wire: &mut AudioFork, bytes: &[u8]) -> Result<Vec<Happening>, WireError> {
    wire.hear(Message::Binary(bytes)).map(|heard| heard.happenings)
}

fn opened_by(wire: &mut AudioFork, text: &str) -> Opening {
    match hear(wire, text).unwrap().as_slice() {
        [Happening::Opened(opening)] => opening.clone(),
        other => panic!("{other:?}"),
    }
}

fn format_heard(wire: &mut AudioFork, bytes: &[u8]) -> AudioFormat {
    match hear_bytes(wire, bytes).unwrap().as_slice() {
        [Happening::Audio { format, bytes: heard }] if heard == bytes => *format,
        other => panic!("{other:?}"),
    }
}

fn segment(is_final: bool) -> Segment {
    let text = "my card does not work".to_owned();
    Segment { id: "s-1".to_owned(), speaker: Speaker::Customer, text, start_ms: 0, end_ms: 900, is_final }
}

#[test]
fn a_jambonz_call_opens_with_its_own_form() {
    let mut wire = nameless();
    let opening = opened_by(&mut wire, JAMBONZ);
    assert_eq!(opening.call, "aad0115d");
    assert_eq!(opening.customer.as_deref(), Some("+15083084809"));
    assert_eq!(opening.metadata["to"], "+15083728363");
    let format = format_heard(&mut wire, &[0; 1280]);
    assert_eq!(format.rate_hz, 16_000);
    assert_eq!(format.channels, Channels::Two(Speaker::Customer, Speaker::Agent));
}

#[test]
fn the_customer_of_a_call_out_is_whom_it_calls() {
    let opening = opened_by(&mut named(), r#"{"direction":"outbound","from":"100","to":"200"}"#);
    assert_eq!(opening.customer.as_deref(), Some("200"));
    let opening = opened_by(&mut named(), r#"{"from":"100","customer":"C-7","knowledge":["a"," "]}"#);
    assert_eq!(opening.customer.as_deref(), Some("C-7"));
    assert_eq!(opening.knowledge, ["a"]);
}

#[test]
fn the_first_channel_is_whoever_is_forked() {
    let check = |channels, mix: &str, expected| {
        let mut wire = AudioFork::new(AudioFormat { channels, ..MONO }, Some("c".to_owned()));
        let opening = opened_by(&mut wire, &json!({ "mixType": mix }).to_string());
        assert_eq!(opening.speaker.is_some(), mix == "mono");
        assert_eq!(format_heard(&mut wire, &[0; 4]).channels, expected);
    };
    let (customer, agent) = (Speaker::Customer, Speaker::Agent);
    check(Channels::One(agent), "stereo", Channels::Two(agent, customer));
    check(Channels::Two(agent, customer), "stereo", Channels::Two(agent, customer));
    check(Channels::Two(customer, agent), "mono", Channels::One(customer));
    check(Channels::One(customer), "mixed", Channels::One(customer));
}

#[test]
fn metadata_without_a_form_leaves_the_given_one() {
    let mut wire = nameless();
    assert_eq!(opened_by(&mut wire, r#"{"to":"1","from":"2","callid":"x@y"}"#).call, "x@y");
    assert_eq!(format_heard(&mut wire, &[0; 320]), MONO);
}

#[test]
fn the_given_name_wins_over_the_metadata() {
    assert_eq!(opened_by(&mut named(), JAMBONZ).call, "c-1");
    // Any JSON may be metadata.
    assert_eq!(opened_by(&mut named(), r#""hello""#).metadata, json!("hello"));
    assert_eq!(opened_by(&mut named(), "[1]").call, "c-1");
}

#[test]
fn metadata_that_is_no_json_is_malformed_and_a_named_call_begins_with_its_audio() {
    let mut wire = named();
    assert_eq!(hear(&mut wire, "call from 100").unwrap_err().code(), "malformed");
    let happenings = hear_bytes(&mut wire, &[1, 0]).unwrap();
    let speaker = Some(Speaker::Customer);
    let opening = Opening { call: "c-1".to_owned(), speaker, ..Opening::default() };
    let audio = Happening::Audio { format: MONO, bytes: vec![1, 0] };
    assert_eq!(happenings, [Happening::Opened(opening), audio]);
    // What comes now is no metadata any more.
    assert_eq!(hear(&mut wire, JAMBONZ), Ok(vec![]));
    assert_eq!(format_heard(&mut wire, &[1, 0]), MONO);
}

#[test]
fn a_call_without_a_name_cannot_begin() {
    let mut wire = nameless();
    let error = hear_bytes(&mut wire, &[0, 0]).unwrap_err();
    assert_eq!(error, WireError::TooEarly("audio"));
    assert!(wire.refusal(&error).is_empty());
    for text in ["{}", "3", r#"{"callSid":""}"#, r#"{"callSid":7}"#, "{"] {
        assert_eq!(hear(&mut wire, text).unwrap_err().code(), "malformed", "{text}");
    }
    assert_eq!(opened_by(&mut wire, JAMBONZ).call, "aad0115d");
}

#[test]
fn a_rate_or_a_mix_that_is_not_taken_ends_the_connection() {
    let wrong = [
        json!({ "sampleRate": 11_025 }),
        json!({ "sampleRate": 0 }),
        json!({ "sampleRate": -8_000 }),
        json!({ "sampleRate": 8_000.5 }),
        json!({ "sampleRate": "x".repeat(1_000) }),
        json!({ "sampleRate": null }),
        json!({ "mixType": "quadro" }),
        json!({ "mixType": 2 }),
    ];
    for metadata in wrong {
        let mut wire = named();
        let error = hear(&mut wire, &metadata.to_string()).unwrap_err();
        assert_eq!(error.code(), "unknown_audio", "{metadata}");
        assert!(error.to_string().len() < 120);
        assert!(matches!(wire.refusal(&error).last(), Some(Frame::Close(1003, _))));
        assert_eq!(hear_bytes(&mut wire, &[0, 0]).unwrap_err().code(), "out_of_place");
    }
    let mut wire = named();
    opened_by(&mut wire, r#"{"sampleRate":"16000"}"#);
    assert_eq!(format_heard(&mut wire, &[0, 0]).rate_hz, 16_000);
}

#[test]
fn a_key_is_never_metadata_and_never_leaves() {
    let mut wire = named();
    assert_eq!(hear(&mut wire, KEY), Err(WireError::TooEarly("a key")));
    opened_by(&mut wire, "{}");
    assert_eq!(hear(&mut wire, KEY), Ok(vec![Happening::Key]));
}

#[test]
fn the_last_text_closes_the_call_and_others_do_not() {
    let mut wire = named();
    opened_by(&mut wire, JAMBONZ);
    for text in [r#"{"type":"playDone","data":{"id":"1"}}"#, JAMBONZ, "7", "[]"] {
        assert_eq!(hear(&mut wire, text), Ok(vec![]));
    }
    assert_eq!(hear(&mut wire, "bye").unwrap_err().code(), "malformed");
    let closed = Happening::Closed { reason: "hangup".to_owned() };
    assert_eq!(hear(&mut wire, r#"{"event":"stop"}"#), Ok(vec![closed]));
    assert_eq!(hear(&mut wire, r#"{"event":"stop"}"#).unwrap_err().code(), "out_of_place");
    assert_eq!(hear_bytes(&mut wire, &[0; 4]).unwrap_err().code(), "out_of_place");
}

#[test]
fn stereo_that_is_mono_in_truth_is_noticed() {
    let mut wire = nameless();
    opened_by(&mut wire, JAMBONZ);
    assert_eq!(hear_bytes(&mut wire, &[0; 642]).unwrap_err().code(), "malformed");
    assert_eq!(hear_bytes(&mut wire, &[]), Ok(vec![]));
    format_heard(&mut wire, &[0; 640]);
}

#[test]
fn half_a_sample_opens_no_call() {
    let mut wire = named();
    assert_eq!(hear_bytes(&mut wire, &[0]).unwrap_err().code(), "malformed");
    assert_eq!(opened_by(&mut wire, JAMBONZ).metadata["callSid"], "aad0115d");
}

#[test]
fn segments_are_told_only_where_the_metadata_asks() {
    let words = [Word { text: "my".to_owned(), start_ms: 0, end_ms: 90, confidence: None }];
    let mut wire = nameless();
    opened_by(&mut wire, JAMBONZ);
    for is_final in [false, true] {
        let frames = wire.tell(News::Segment(&segment(is_final), Some(&words)));
        let [Frame::Text(text)] = frames.as_slice() else { panic!("{frames:?}") };
        let told: Value = serde_json::from_str(text).unwrap();
        assert_eq!(told["type"], "transcription");
        assert_eq!(told["data"]["speaker"], "customer");
        assert_eq!(told["data"]["final"], is_final);
        assert_eq!(told["data"]["words"][0]["text"], "my");
    }
    for metadata in ["{}", r#"{"transcription":"true"}"#, r#"{"transcription":false}"#] {
        let mut wire = named();
        opened_by(&mut wire, metadata);
        assert!(wire.tell(News::Segment(&segment(true), None)).is_empty(), "{metadata}");
    }
}

#[test]
fn a_refused_or_finished_call_is_told_to_disconnect() {
    let disconnect = Frame::Text(r#"{"type":"disconnect"}"#.to_owned());
    let frames = named().tell(News::Refused(&"ü".repeat(200)));
    assert_eq!(frames[0], disconnect);
    assert!(matches!(&frames[1], Frame::Close(1008, reason) if reason.len() == 122));
    assert_eq!(named().tell(News::Finished)[0], disconnect);
    assert!(named().tell(News::Draining).is_empty());
}

#[test]
fn large_messages_are_refused_and_large_metadata_is_not_kept() {
    let mut wire = named();
    let metadata = json!({ "note": "x".repeat(10_000), "agent": "maria" }).to_string();
    let opening = opened_by(&mut wire, &metadata);
    assert_eq!(opening.agent.as_deref(), Some("maria"));
    assert!(opening.metadata.to_string().len() < 100);
    let error = hear_bytes(&mut wire, &vec![0; MESSAGE_MAX_BYTES + 1]).unwrap_err();
    assert_eq!(error.code(), "message_too_large");
    assert!(matches!(wire.refusal(&error).last(), Some(Frame::Close(1009, _))));
    let deep = "[".repeat(100_000);
    assert_eq!(hear(&mut wire, &deep).unwrap_err().code(), "malformed");
}

fn any_text() -> impl Strategy<Value = String> {
    let good = prop_oneof![Just(JAMBONZ.to_owned()), Just(KEY.to_owned())];
    let replaced =
        (good.clone(), any::<char>(), any::<prop::sample::Index>()).prop_map(|(text, character, index)| {
            let mut characters: Vec<char> = text.chars().collect();
            let at = index.index(characters.len());
            characters[at] = character;
            characters.into_iter().collect()
        });
    let cut = (good, any::<prop::sample::Index>())
        .prop_map(|(text, index)| text.chars().take(index.index(text.len())).collect());
    prop_oneof![".*", replaced, cut]
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_and_the_call_goes_on(
        has_name in any::<bool>(),
        messages in proptest::collection::vec(
            (any_text(), proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
    ) {
        let mut wire = if has_name { named() } else { nameless() };
        for (text, bytes) in &messages {
            if let Err(error) = hear(&mut wire, text) {
                prop_assert!(error.to_string().len() < 300);
                let _ = wire.refusal(&error);
            }
            let _ = hear_bytes(&mut wire, bytes);
        }
        if wire.stage == Stage::Waiting {
            opened_by(&mut wire, JAMBONZ);
        }
        if wire.stage == Stage::Open {
            prop_assert_eq!(hear(&mut wire, KEY), Ok(vec![Happening::Key]));
            format_heard(&mut wire, &[0; 64]);
        }
    }
}
