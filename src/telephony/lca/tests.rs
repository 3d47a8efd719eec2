//! Calls as LCA's public client sends them, and clients that send something else.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::telephony::MESSAGE_MAX_BYTES;

fn event(name: &str) -> String {
    json!({
        "callId": "c-1", "fromNumber": "+9165551234", "toNumber": "+8001112222", "agentId": "maria",
        "samplingRate": 8_000, "callEvent": name,
    })
    .to_string()
}

fn hear(wire: &mut Lca, text: &str) -> Result<Vec<Happening>, WireError> {
    wire.hear(Message::Text(text)).map(|heard| heard.happenings)
}

/// Returns the audio that a message brings.
fn hear_bytes(wire: &mut Lca, bytes: &[u8]) -> Result<Vec<u8>, WireError> {
    let heard = wire.hear(Message::Binary(bytes))?;
    match heard.happenings.as_slice() {
        [] => Ok(Vec::new()),
        [Happening::Audio { format, bytes }] => {
            let channels = Channels::Two(Speaker::Customer, Speaker::Agent);
            let expected = AudioFormat { encoding: Encoding::Linear16, rate_hz: 8_000, channels };
            assert_eq!(*format, expected);
            assert!(bytes.len().is_multiple_of(4));
            Ok(bytes.clone())
        }
        other => panic!("{other:?}"),
    }
}

fn open_wire() -> Lca {
    let mut wire = Lca::new();
    assert!(matches!(hear(&mut wire, &event("START")).unwrap().as_slice(), [Happening::Opened(_)]));
    wire
}

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap().to_le_bytes();
    let padding = vec![0; body.len() % 2];
    [name.as_slice(), &size, body, &padding].concat()
}

fn fmt(form: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
    let sample = channels * bits / 8;
    [
        form.to_le_bytes().as_slice(),
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &(rate * u32::from(sample)).to_le_bytes(),
        &sample.to_le_bytes(),
        &bits.to_le_bytes(),
    ]
    .concat()
}

/// Returns a WAV header whose audio has no known end, with these chunks between the form and the audio.
fn wav(format: &[u8], others: &[u8]) -> Vec<u8> {
    let sizeless = [0xFF; 4];
    [b"RIFF".as_slice(), &sizeless, b"WAVE", &chunk(b"fmt ", format), others, b"data", &sizeless].concat()
}

fn plain_wav() -> Vec<u8> {
    wav(&fmt(1, 2, 8_000, 16), &[])
}

/// Returns the audio that is heard when the stream is cut into messages of so many bytes.
fn heard_in_pieces(stream: &[u8], piece: usize) -> Vec<u8> {
    let mut wire = open_wire();
    stream.chunks(piece).flat_map(|bytes| hear_bytes(&mut wire, bytes).unwrap()).collect()
}

#[test]
fn a_call_opens_is_heard_and_ends() {
    let mut wire = Lca::new();
    let happenings = hear(&mut wire, &event("START")).unwrap();
    let [Happening::Opened(opening)] = happenings.as_slice() else { panic!("{happenings:?}") };
    assert_eq!(opening.call, "c-1");
    assert_eq!(opening.agent.as_deref(), Some("maria"));
    assert_eq!(opening.customer.as_deref(), Some("+9165551234"));
    assert_eq!(opening.metadata, json!({ "to_number": "+8001112222" }));
    assert_eq!(hear_bytes(&mut wire, &[1, 2, 3, 4]), Ok(vec![1, 2, 3, 4]));
    assert_eq!(hear(&mut wire, &event("SPEAKER_CHANGE")), Ok(vec![]));
    let closed = Happening::Closed { reason: "hangup".to_owned() };
    assert_eq!(hear(&mut wire, &event("END")), Ok(vec![closed]));
    assert_eq!(hear(&mut wire, &event("END")).unwrap_err().code(), "out_of_place");
    assert_eq!(hear(&mut wire, &event("START")).unwrap_err().code(), "out_of_place");
    assert_eq!(hear_bytes(&mut wire, &[0; 4]).unwrap_err().code(), "out_of_place");
}

#[test]
fn a_wav_header_is_dropped_wherever_it_is_cut() {
    let audio: Vec<u8> = (0..100).collect();
    let stream = [plain_wav(), audio.clone()].concat();
    assert_eq!(plain_wav().len(), 44);
    for piece in 1..=stream.len() {
        assert_eq!(heard_in_pieces(&stream, piece), audio, "pieces of {piece}");
    }
}

#[test]
fn a_wav_header_with_notes_does_not_swap_the_speakers() {
    let audio: Vec<u8> = (0..100).collect();
    let notes = chunk(b"LIST", b"INFOISFT\x0e\0\0\0Lavf60.16.100\0");
    assert_eq!(notes.len() % 4, 2);
    let odd = chunk(b"bext", &[7; 601]);
    let extensible = [fmt(0xFFFE, 2, 8_000, 16), vec![0; 24]].concat();
    for header in [wav(&fmt(1, 2, 8_000, 16), &notes), wav(&extensible, &[notes, odd].concat())] {
        let stream = [header, audio.clone()].concat();
        for piece in [1, 3, 44, 45, 200, 4_000] {
            assert_eq!(heard_in_pieces(&stream, piece), audio, "pieces of {piece}");
        }
    }
}

#[test]
fn audio_that_only_begins_like_a_header_is_audio() {
    let nearly = [b"RIFFabcdWAVY".to_vec(), b"RIFEabcdWAVE".to_vec(), b"RIFE".to_vec(), vec![0; 44]];
    for audio in nearly {
        for piece in [1, 4, 100] {
            assert_eq!(heard_in_pieces(&audio, piece), audio);
        }
    }
    // Only the first audio of a call can be a header.
    let mut wire = open_wire();
    hear_bytes(&mut wire, &[0; 4]).unwrap();
    assert_eq!(hear_bytes(&mut wire, &plain_wav()), Ok(plain_wav()));
}

#[test]
fn a_wav_file_that_is_not_what_was_promised_ends_the_connection() {
    let lies = [
        fmt(1, 2, 16_000, 16),
        fmt(1, 1, 8_000, 16),
        fmt(1, 2, 8_000, 8),
        fmt(7, 2, 8_000, 8),
        fmt(1, 0, 0, 0),
    ];
    for format in lies {
        let mut wire = open_wire();
        let error = hear_bytes(&mut wire, &wav(&format, &[])).unwrap_err();
        assert_eq!(error.code(), "unknown_audio");
        assert!(matches!(wire.refusal(&error).as_slice(), [Frame::Close(1003, _)]));
        assert_eq!(hear_bytes(&mut wire, &[0; 4]).unwrap_err().code(), "out_of_place");
    }
}

#[test]
fn a_wav_header_without_an_end_is_given_up() {
    let mut wire = open_wire();
    let huge = [b"RIFF\0\0\0\0WAVEjunk".as_slice(), &[0xFF; 4]].concat();
    assert_eq!(hear_bytes(&mut wire, &huge).unwrap_err().code(), "unknown_audio");
    let mut wire = open_wire();
    hear_bytes(&mut wire, b"RIFF\0\0\0\0WAVE").unwrap();
    let result = (0..10_000).find_map(|_| {
        assert!(wire.kept.len() <= WAV_HEADER_MAX_BYTES);
        hear_bytes(&mut wire, b"junk\0\0\0\0").err()
    });
    assert_eq!(result.unwrap().code(), "unknown_audio");
    assert!(wire.kept.is_empty());
}

#[test]
fn odd_bytes_wait_for_the_rest_of_their_sample() {
    let mut wire = open_wire();
    assert_eq!(hear_bytes(&mut wire, &[1, 2, 3, 4, 5]), Ok(vec![1, 2, 3, 4]));
    assert_eq!(hear_bytes(&mut wire, &[]), Ok(vec![]));
    assert_eq!(hear_bytes(&mut wire, &[6, 7]), Ok(vec![]));
    assert_eq!(hear_bytes(&mut wire, &[8, 9]), Ok(vec![5, 6, 7, 8]));
    assert_eq!(wire.kept, [9]);
}

#[test]
fn audio_and_the_end_before_the_start_are_too_early_and_the_start_is_still_heard() {
    let mut wire = Lca::new();
    let error = hear_bytes(&mut wire, &[0; 4]).unwrap_err();
    assert_eq!(error, WireError::TooEarly("audio"));
    assert!(wire.refusal(&error).is_empty());
    assert_eq!(hear(&mut wire, &event("END")), Err(WireError::TooEarly("END")));
    assert!(hear(&mut wire, &event("START")).is_ok());
}

#[test]
fn a_second_start_and_the_end_of_another_call_change_nothing() {
    let mut wire = open_wire();
    assert_eq!(hear(&mut wire, &event("START")).unwrap_err().code(), "out_of_place");
    let other = json!({ "callId": "c-2", "callEvent": "START", "samplingRate": 16_000 }).to_string();
    assert_eq!(hear(&mut wire, &other).unwrap_err().code(), "out_of_place");
    let end = json!({ "callId": "c-2", "callEvent": "END" }).to_string();
    assert_eq!(hear(&mut wire, &end).unwrap_err().code(), "foreign");
    assert_eq!(hear_bytes(&mut wire, &[0; 4]), Ok(vec![0; 4]));
    assert!(hear(&mut wire, r#"{"callEvent":"END"}"#).is_ok());
}

#[test]
fn a_rate_that_is_not_taken_ends_the_connection() {
    let rates = [
        json!(0),
        json!(7_999),
        json!(47_999),
        json!(96_000),
        json!(-8_000),
        json!(8_000.5),
        json!("fast"),
        Value::Null,
    ];
    for rate in rates {
        let mut wire = Lca::new();
        let start = json!({ "callId": "c-1", "callEvent": "START", "samplingRate": rate }).to_string();
        let error = hear(&mut wire, &start).unwrap_err();
        assert_eq!(error.code(), "unknown_audio", "{start}");
        assert!(matches!(wire.refusal(&error).as_slice(), [Frame::Close(1003, _)]));
        assert_eq!(hear_bytes(&mut wire, &[0; 4]).unwrap_err().code(), "out_of_place");
    }
    let text = json!({ "callId": 7, "callEvent": "START", "samplingRate": "44100" }).to_string();
    assert!(hear(&mut Lca::new(), &text).is_ok());
}

#[test]
fn texts_that_say_nothing_are_malformed_and_the_call_goes_on() {
    let mut wire = open_wire();
    for text in ["", "START", "[]", "{", "{}", r#"{"callEvent":true}"#] {
        assert_eq!(hear(&mut wire, text).unwrap_err().code(), "malformed", "{text}");
    }
    let mut waiting = Lca::new();
    let nameless = json!({ "callEvent": "START", "samplingRate": 8_000, "callId": " " }).to_string();
    assert_eq!(hear(&mut waiting, &nameless).unwrap_err().code(), "malformed");
    assert!(hear(&mut waiting, &event("START")).is_ok());
    assert_eq!(hear_bytes(&mut wire, &[0; 4]), Ok(vec![0; 4]));
}

#[test]
fn a_message_that_is_too_large_ends_the_connection() {
    let mut wire = open_wire();
    let error = hear_bytes(&mut wire, &vec![0; MESSAGE_MAX_BYTES + 1]).unwrap_err();
    assert_eq!(error.code(), "message_too_large");
    assert!(matches!(wire.refusal(&error).as_slice(), [Frame::Close(1009, _)]));
}

#[test]
fn a_long_reason_fits_in_a_close_frame() {
    let frames = open_wire().tell(News::Refused(&"ü".repeat(100)));
    assert!(matches!(frames.as_slice(), [Frame::Close(1008, reason)] if reason.len() == 122));
    assert!(open_wire().tell(News::Opened).is_empty());
}

/// Anything, and good texts with one character replaced.
fn any_text() -> impl Strategy<Value = String> {
    let names = prop_oneof![Just("START"), Just("END"), Just("OTHER")];
    let replaced =
        (names, any::<char>(), any::<prop::sample::Index>()).prop_map(|(name, character, index)| {
            let mut characters: Vec<char> = event(name).chars().collect();
            let at = index.index(characters.len());
            characters[at] = character;
            characters.into_iter().collect::<String>()
        });
    prop_oneof![".*", replaced]
}

/// Anything, and a WAV header with one byte replaced.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let replaced = (any::<u8>(), 0..44_usize).prop_map(|(byte, at)| {
        let mut header = plain_wav();
        header[at] = byte;
        header
    });
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), replaced]
}

proptest! {
    #[test]
    fn no_message_makes_it_panic_or_keep_much_and_the_call_goes_on(
        begins in any::<bool>(),
        messages in proptest::collection::vec((any_text(), any_bytes()), 0..20),
    ) {
        let mut wire = if begins { open_wire() } else { Lca::new() };
        for (text, bytes) in &messages {
            if let Err(error) = hear(&mut wire, text) {
                prop_assert!(error.to_string().len() < 200);
                let _ = wire.refusal(&error);
            }
            let _ = wire.hear(Message::Binary(bytes));
            prop_assert!(wire.kept.len() <= WAV_HEADER_MAX_BYTES);
        }
        if wire.stage == Stage::Waiting {
            prop_assert!(hear(&mut wire, &event("START")).is_ok());
        }
        if wire.stage != Stage::Over {
            let end = json!({ "callEvent": "END" }).to_string();
            prop_assert!(hear(&mut wire, &end).is_ok());
        }
    }

    #[test]
    fn the_audio_is_the_same_however_it_is_cut(
        audio in proptest::collection::vec(any::<u8>(), 0..400),
        has_header in any::<bool>(),
        piece in 1..60_usize,
    ) {
        let header = if has_header { plain_wav() } else { vec![0; 4] };
        let heard = heard_in_pieces(&[header, audio.clone()].concat(), piece);
        let expected = if has_header { audio } else { [vec![0; 4], audio].concat() };
        prop_assert_eq!(&heard[..], &expected[..expected.len() - expected.len() % 4]);
    }
}
