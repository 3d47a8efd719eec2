//! Both forms of Asterisk's control texts, and senders that send something else.

use proptest::prelude::*;

use super::*;
use crate::telephony::MESSAGE_MAX_BYTES;

const PLAIN: &str = "MEDIA_START connection_id:e226e283 channel:WebSocket/media-1 \
                     channel_id:1700000000.12 format:ulaw optimal_frame_size:160 ptime:20";

fn json_start(format: &str, variables: Value) -> String {
    json!({
        "event": "MEDIA_START", "connection_id": "e226e283", "channel": "WebSocket/media-1",
        "channel_id": "1700000000.12", "format": format, "optimal_frame_size": 320, "ptime": 20,
        "channel_variables": variables,
    })
    .to_string()
}

fn hear(wire: &mut ChanWebsocket, text: &str) -> Result<Vec<Happening>, WireError> {
    wire.hear(Message::Text(text)).map(|heard| heard.happenings)
}

fn hear_bytes(wire: &mut ChanWebsocket, bytes: &[u8]) -> Result<Vec<Happening>, WireError> {
    wire.hear(Message::Binary(bytes)).map(|heard| heard.happenings)
}

fn opening(happenings: &[Happening]) -> &Opening {
    match happenings {
        [Happening::Opened(opening)] => opening,
        other => panic!("{other:?}"),
    }
}

fn open_wire(text: &str) -> ChanWebsocket {
    let mut wire = ChanWebsocket::new(Speaker::Customer);
    opening(&hear(&mut wire, text).unwrap());
    wire
}

fn format_heard(wire: &mut ChanWebsocket, bytes: &[u8]) -> AudioFormat {
    match hear_bytes(wire, bytes).unwrap().as_slice() {
        [Happening::Audio { format, bytes: heard }] if heard == bytes => *format,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_start_in_words_opens_the_call_and_is_answered_in_words() {
    let mut wire = ChanWebsocket::new(Speaker::Customer);
    let happenings = hear(&mut wire, PLAIN).unwrap();
    assert_eq!(opening(&happenings).call, "1700000000.12");
    assert_eq!(opening(&happenings).metadata["channel"], "WebSocket/media-1");
    let channels = Channels::One(Speaker::Customer);
    let format = AudioFormat { encoding: Encoding::Mulaw, rate_hz: 8_000, channels };
    assert_eq!(format_heard(&mut wire, &[0xFF; 160]), format);
    assert_eq!(wire.tell(News::Opened), [Frame::Text("ANSWER".to_owned())]);
    assert_eq!(wire.tell(News::Finished)[0], Frame::Text("HANGUP".to_owned()));
}

#[test]
fn a_start_in_json_opens_the_call_with_its_variables_and_is_answered_in_json() {
    let mut wire = ChanWebsocket::new(Speaker::Customer);
    let variables = json!({
        "AGENT": "maria", "customer": "+441632960001", "language": "de-DE",
        "KNOWLEDGE": "billing, faq,", "speaker": "agent", "campaign": "spring",
    });
    let happenings = hear(&mut wire, &json_start("slin16", variables)).unwrap();
    let opening = opening(&happenings);
    assert_eq!(opening.agent.as_deref(), Some("maria"));
    assert_eq!(opening.customer.as_deref(), Some("+441632960001"));
    assert_eq!(opening.language.as_deref(), Some("de-DE"));
    assert_eq!(opening.knowledge, ["billing", "faq"]);
    assert_eq!(opening.speaker, Some(Speaker::Agent));
    assert_eq!(opening.metadata["channel_variables"]["campaign"], "spring");
    assert_eq!(format_heard(&mut wire, &[0; 640]).channels, Channels::One(Speaker::Agent));
    assert_eq!(wire.tell(News::Opened), [Frame::Text(r#"{"command":"ANSWER"}"#.to_owned())]);
    assert_eq!(wire.tell(News::Refused("full"))[0], Frame::Text(r#"{"command":"HANGUP"}"#.to_owned()));
}

#[test]
fn every_format_has_its_rate() {
    let rates = [
        ("alaw", 8_000),
        ("slin", 8_000),
        ("slin12", 12_000),
        ("slin16", 16_000),
        ("slin24", 24_000),
        ("slin32", 32_000),
        ("slin44", 44_100),
        ("slin48", 48_000),
        ("slin96", 96_000),
        ("slin192", 192_000),
    ];
    for (name, rate_hz) in rates {
        let mut wire = open_wire(&json_start(name, Value::Null));
        assert_eq!(format_heard(&mut wire, &[0, 0]).rate_hz, rate_hz, "{name}");
    }
}

#[test]
fn a_format_that_is_not_taken_ends_the_connection() {
    for name in ["opus", "g722", "slin11", "ULAW", ""] {
        let mut wire = ChanWebsocket::new(Speaker::Customer);
        let error = hear(&mut wire, &json_start(name, Value::Null)).unwrap_err();
        assert_eq!(error.code(), "unknown_audio");
        let frames = wire.refusal(&error);
        assert_eq!(frames[0], Frame::Text(r#"{"command":"HANGUP"}"#.to_owned()));
        assert!(matches!(frames[1], Frame::Close(1003, _)));
        assert_eq!(hear_bytes(&mut wire, &[0, 0]).unwrap_err().code(), "out_of_place");
        assert_eq!(hear(&mut wire, PLAIN).unwrap_err().code(), "out_of_place");
    }
}

#[test]
fn audio_and_keys_before_the_start_are_too_early_and_the_start_is_still_heard() {
    let mut wire = ChanWebsocket::new(Speaker::Customer);
    let error = hear_bytes(&mut wire, &[0; 160]).unwrap_err();
    assert_eq!(error, WireError::TooEarly("audio"));
    assert!(wire.refusal(&error).is_empty());
    assert_eq!(hear(&mut wire, "DTMF_END digit:4"), Err(WireError::TooEarly("a key")));
    opening(&hear(&mut wire, PLAIN).unwrap());
}

#[test]
fn a_second_start_changes_nothing() {
    let mut wire = open_wire(PLAIN);
    let again = json_start("slin48", json!({ "speaker": "agent" }));
    assert_eq!(hear(&mut wire, &again).unwrap_err().code(), "out_of_place");
    assert_eq!(format_heard(&mut wire, &[1; 160]).rate_hz, 8_000);
    assert_eq!(wire.tell(News::Opened), [Frame::Text("ANSWER".to_owned())]);
}

#[test]
fn a_start_without_a_name_can_be_said_again() {
    let mut wire = ChanWebsocket::new(Speaker::Customer);
    let nameless = ["MEDIA_START", "MEDIA_START format:ulaw", r#"{"event":"MEDIA_START","channel_id":7}"#];
    for text in nameless {
        assert_eq!(hear(&mut wire, text).unwrap_err().code(), "malformed", "{text}");
    }
    let happenings = hear(&mut wire, "MEDIA_START connection_id:abc format:alaw").unwrap();
    assert_eq!(opening(&happenings).call, "abc");
}

#[test]
fn a_key_is_a_key_and_which_one_stays_here() {
    let mut wire = open_wire(PLAIN);
    for text in ["DTMF_END digit:7 channel_id:1.2", r#"{"event":"DTMF_END","digit":"7"}"#] {
        assert_eq!(hear(&mut wire, text), Ok(vec![Happening::Key]));
    }
}

#[test]
fn flow_control_and_unknown_events_are_passed_over() {
    let mut wire = open_wire(PLAIN);
    let others = ["MEDIA_XOFF", "MEDIA_XON", "QUEUE_DRAINED", "STATUS queue_length:43", "NEW_EVENT a b:c"];
    for text in others {
        assert_eq!(hear(&mut wire, text), Ok(vec![]), "{text}");
    }
    assert_eq!(hear(&mut wire, r#"{"event":"MEDIA_XOFF"}"#), Ok(vec![]));
    assert_eq!(hear(&mut wire, "{}"), Ok(vec![]));
}

#[test]
fn an_error_of_asterisk_is_reported_and_the_call_goes_on() {
    let mut wire = open_wire(PLAIN);
    let text = "ERROR channel_id:1.2 error_text:ANSWER not supported in passthrough mode";
    let error = hear(&mut wire, text).unwrap_err();
    assert!(error.to_string().contains("ANSWER not supported in passthrough"), "{error}");
    assert!(wire.refusal(&error).is_empty());
    let json = json!({ "event": "ERROR", "error_text": "x".repeat(500) }).to_string();
    assert!(hear(&mut wire, &json).unwrap_err().to_string().len() < 100);
    format_heard(&mut wire, &[1; 160]);
}

#[test]
fn half_a_sample_is_malformed_and_the_call_goes_on() {
    let mut wire = open_wire(&json_start("slin", Value::Null));
    assert_eq!(hear_bytes(&mut wire, &[0; 321]).unwrap_err().code(), "malformed");
    assert_eq!(hear_bytes(&mut wire, &[]), Ok(vec![]));
    format_heard(&mut wire, &[0; 320]);
}

#[test]
fn a_sender_that_lies_about_sizes_is_believed_by_its_bytes_only() {
    let lie = "MEDIA_START channel_id:1.2 format:slin optimal_frame_size:-1 ptime:99999999999999999999";
    let mut wire = open_wire(lie);
    assert_eq!(format_heard(&mut wire, &[0; 322]).rate_hz, 8_000);
}

#[test]
fn a_message_that_is_too_large_ends_the_connection() {
    let mut wire = open_wire(PLAIN);
    let error = hear_bytes(&mut wire, &vec![0; MESSAGE_MAX_BYTES + 1]).unwrap_err();
    assert_eq!(error.code(), "message_too_large");
    assert!(matches!(wire.refusal(&error).last(), Some(Frame::Close(1009, _))));
    assert!(hear(&mut wire, &"A".repeat(MESSAGE_MAX_BYTES + 1)).is_err());
}

#[test]
fn large_variables_are_not_kept() {
    let variables = json!({ "agent": "maria", "note": "x".repeat(10_000) });
    let mut wire = ChanWebsocket::new(Speaker::Customer);
    let happenings = hear(&mut wire, &json_start("ulaw", variables)).unwrap();
    assert_eq!(opening(&happenings).agent.as_deref(), Some("maria"));
    assert!(opening(&happenings).metadata.to_string().len() < METADATA_MAX_BYTES);
}

#[test]
fn a_long_reason_fits_in_a_close_frame() {
    let frames = open_wire(PLAIN).tell(News::Refused(&"ü".repeat(100)));
    assert!(matches!(&frames[1], Frame::Close(1008, reason) if reason.len() == 122));
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_and_the_call_goes_on(
        texts in proptest::collection::vec(any_text(), 0..20),
        bytes in proptest::collection::vec(any::<u8>(), 0..500),
    ) {
        let mut wire = ChanWebsocket::new(Speaker::Customer);
        let _ = hear_bytes(&mut wire, &bytes);
        for text in &texts {
            if let Err(error) = hear(&mut wire, text) {
                prop_assert!(error.to_string().len() < 300);
                let _ = wire.refusal(&error);
            }
            let _ = hear_bytes(&mut wire, &bytes);
        }
        if wire.stage == Stage::Waiting {
            opening(&hear(&mut wire, PLAIN).unwrap());
        }
        if wire.stage != Stage::Over {
            prop_assert_eq!(hear(&mut wire, "DTMF_END digit:1"), Ok(vec![Happening::Key]));
            format_heard(&mut wire, &[0; 160]);
        }
    }
}

/// Anything, and good messages with one character replaced, or cut short.
fn any_text() -> impl Strategy<Value = String> {
    let good = prop_oneof![Just(PLAIN.to_owned()), Just(json_start("slin16", json!({ "agent": "a" })))];
    let replaced =
        (good.clone(), any::<char>(), any::<prop::sample::Index>()).prop_map(|(text, character, index)| {
            let mut characters: Vec<char> = text.chars().collect();
            let at = index.index(characters.len());
            characters[at] = character;
            characters.into_iter().collect()
        });
    let cut = (good, any::<prop::sample::Index>())
        .prop_map(|(text, index)| text.chars().take(index.index(text.len())).collect());
    prop_oneof![".*", "[A-Z_]{0,12} [a-z:_ ]{0,30}", replaced, cut]
}
