//! AudioSocket streams, whole and cut, and peers that send something else.

use proptest::prelude::*;

use super::*;

const ID: [u8; 16] = *b"\x40\x32\x5e\xc4\xe4\x4d\x4c\x2f\x9a\x30\xde\xad\xbe\xef\x00\x01";
const NAME: &str = "40325ec4-e44d-4c2f-9a30-deadbeef0001";

fn raw(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    frame(kind, payload, &mut frames);
    frames
}

fn sound(rate_hz: u32, bytes: &[u8]) -> Happening {
    let channels = Channels::One(Speaker::Customer);
    let format = AudioFormat { encoding: Encoding::Linear16, rate_hz, channels };
    Happening::Audio { format, bytes: bytes.to_vec() }
}

fn opened() -> Happening {
    let speaker = Some(Speaker::Customer);
    Happening::Opened(Opening { call: NAME.to_owned(), speaker, ..Opening::default() })
}

fn closed(reason: &str) -> Happening {
    Happening::Closed { reason: reason.to_owned() }
}

fn hear(wire: &mut AudioSocket, bytes: &[u8]) -> Result<Vec<Happening>, WireError> {
    wire.hear(Message::Binary(bytes)).map(|heard| heard.happenings)
}

fn open_wire() -> AudioSocket {
    let mut wire = AudioSocket::new(Speaker::Customer);
    assert_eq!(hear(&mut wire, &uuid(ID)), Ok(vec![opened()]));
    wire
}

#[test]
fn a_call_cut_into_single_bytes_is_the_same_call() {
    let stream = [uuid(ID), audio(8_000, &[1, 2, 3, 4]), raw(KIND_DTMF, b"5"), hangup()].concat();
    let expected = vec![opened(), sound(8_000, &[1, 2, 3, 4]), Happening::Key, closed("hangup")];
    let mut whole = AudioSocket::new(Speaker::Customer);
    assert_eq!(hear(&mut whole, &stream), Ok(expected.clone()));
    let mut cut = AudioSocket::new(Speaker::Customer);
    let pieces: Vec<Happening> = stream.iter().flat_map(|byte| hear(&mut cut, &[*byte]).unwrap()).collect();
    assert_eq!(pieces, expected);
}

#[test]
fn each_kind_has_its_rate_and_may_change_during_a_call() {
    let mut wire = open_wire();
    for (kind, rate_hz) in (0x10..=0x18).zip(RATES_HZ) {
        assert_eq!(hear(&mut wire, &raw(kind, &[7, 0])), Ok(vec![sound(rate_hz, &[7, 0])]));
        assert_eq!(audio(rate_hz, &[7, 0]), raw(kind, &[7, 0]));
    }
    assert_eq!(hear(&mut wire, &raw(0x19, &[7, 0])), Ok(vec![]));
    assert!(audio(11_025, &[7, 0]).is_empty());
}

#[test]
fn anything_before_the_uuid_ends_the_connection() {
    let early = [
        (audio(8_000, &[0, 0]), "audio"),
        (hangup(), "a hangup"),
        (raw(KIND_DTMF, b"1"), "a key"),
        (raw(KIND_ERROR, &[1]), "an error"),
        (b"GET / HTTP/1.1\r\n".repeat(2_000), "an unknown frame"),
    ];
    for (bytes, what) in early {
        let mut wire = AudioSocket::new(Speaker::Agent);
        // A UUID behind it in the same read does not help.
        let error = hear(&mut wire, &[bytes, uuid(ID)].concat()).unwrap_err();
        assert_eq!(error, WireError::TooEarly(what));
        assert!(matches!(wire.refusal(&error).last(), Some(Frame::Close(1002, _))));
        assert_eq!(hear(&mut wire, &uuid(ID)).unwrap_err().code(), "out_of_place");
    }
}

#[test]
fn a_uuid_of_another_length_is_malformed_and_ends_the_connection() {
    for length in [0, 15, 17] {
        let mut wire = AudioSocket::new(Speaker::Agent);
        let error = hear(&mut wire, &raw(KIND_UUID, &vec![1; length])).unwrap_err();
        assert_eq!(error.code(), "malformed");
        assert!(matches!(wire.refusal(&error).last(), Some(Frame::Close(1002, _))));
    }
}

#[test]
fn a_second_uuid_is_refused_and_the_call_goes_on() {
    let mut wire = open_wire();
    let error = hear(&mut wire, &uuid([9; 16])).unwrap_err();
    assert_eq!(error.code(), "out_of_place");
    assert!(wire.refusal(&error).is_empty());
    assert_eq!(hear(&mut wire, &audio(8_000, &[1, 0])), Ok(vec![sound(8_000, &[1, 0])]));
}

#[test]
fn an_odd_payload_is_malformed_and_the_call_goes_on() {
    let mut wire = open_wire();
    assert_eq!(hear(&mut wire, &raw(KIND_AUDIO, &[1, 2, 3])).unwrap_err().code(), "malformed");
    assert_eq!(hear(&mut wire, &raw(KIND_DTMF, b"12")).unwrap_err().code(), "malformed");
    assert_eq!(hear(&mut wire, &raw(KIND_AUDIO, &[])), Ok(vec![]));
    assert_eq!(hear(&mut wire, &raw(KIND_DTMF, b"1")), Ok(vec![Happening::Key]));
}

#[test]
fn good_frames_beside_a_bad_one_are_kept_and_the_error_comes_next() {
    let mut wire = open_wire();
    let mixed = [audio(8_000, &[1, 0]), raw(KIND_AUDIO, &[1]), audio(8_000, &[2, 0])].concat();
    let expected = vec![sound(8_000, &[1, 0]), sound(8_000, &[2, 0])];
    assert_eq!(hear(&mut wire, &mixed), Ok(expected));
    assert_eq!(hear(&mut wire, &[]).unwrap_err().code(), "malformed");
    assert_eq!(hear(&mut wire, &[]), Ok(vec![]));
}

#[test]
fn a_hangup_and_an_error_close_the_call_once() {
    for (bytes, reason) in [(hangup(), "hangup"), (raw(KIND_ERROR, &[4]), "error")] {
        let mut wire = open_wire();
        let twice = [bytes.clone(), bytes.clone()].concat();
        assert_eq!(hear(&mut wire, &twice), Ok(vec![closed(reason)]));
        assert_eq!(hear(&mut wire, &bytes).unwrap_err().code(), "out_of_place");
    }
}

#[test]
fn a_truncated_frame_waits_and_the_largest_one_is_all_that_is_kept() {
    let mut wire = open_wire();
    let large = raw(0x12, &vec![1; 65_535]);
    assert_eq!(large.len(), 65_538);
    assert_eq!(hear(&mut wire, &large[..65_537]), Ok(vec![]));
    assert_eq!(wire.payload.len(), 65_534);
    assert_eq!(hear(&mut wire, &large[65_537..]).unwrap_err().code(), "malformed");
    assert!(wire.payload.is_empty());
}

#[test]
fn long_audio_is_split_between_whole_samples() {
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let heard = hear(&mut open_wire(), &audio(16_000, &bytes)).unwrap();
    assert_eq!(heard.len(), 4);
    let joined: Vec<u8> = heard
        .into_iter()
        .flat_map(|happening| match happening {
            Happening::Audio { bytes, .. } => bytes,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(joined, bytes);
}

#[test]
fn the_end_is_told_as_a_hangup() {
    for (news, code) in [(News::Refused("full"), 1008), (News::Finished, 1000), (News::Draining, 1001)] {
        let frames = open_wire().tell(news);
        assert_eq!(frames[0], Frame::Binary(vec![0, 0, 0]));
        assert!(matches!(&frames[1..], [Frame::Close(told, _)] if *told == code));
    }
    assert!(open_wire().tell(News::Opened).is_empty());
}

#[test]
fn a_text_is_malformed() {
    assert_eq!(open_wire().hear(Message::Text("hello")).unwrap_err().code(), "malformed");
}

#[test]
fn a_uuid_is_read_in_either_case_and_nothing_else_is() {
    assert_eq!(parse_uuid(NAME), Some(ID));
    assert_eq!(parse_uuid(&NAME.to_uppercase()), Some(ID));
    let wrong = ["", "40325ec4e44d4c2f9a30deadbeef0001", "40325ec4-e44d-4c2f-9a30-deadbeef000g", "é-é-é-é-é"];
    for text in wrong {
        assert_eq!(parse_uuid(text), None, "{text}");
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..50);
    (prop_oneof![Just(KIND_DTMF), 0x0F..0x1A_u8, 0x20..0xFF_u8], payload)
        .prop_map(|(kind, payload)| raw(kind, &payload))
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_keep_more_than_a_frame(
        begins in any::<bool>(),
        reads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..2_000), 0..20),
    ) {
        let mut wire = if begins { open_wire() } else { AudioSocket::new(Speaker::Agent) };
        for read in reads {
            if let Ok(heard) = hear(&mut wire, &read) {
                prop_assert!(heard.len() <= read.len());
            }
            prop_assert!(wire.payload.len() <= 65_535);
        }
    }

    #[test]
    fn whatever_the_frames_and_the_cuts_the_next_good_frame_is_understood(
        frames in proptest::collection::vec(any_frame(), 0..20),
        cut in 1..40_usize,
    ) {
        let mut wire = open_wire();
        for read in frames.concat().chunks(cut) {
            let _ = hear(&mut wire, read);
        }
        let _ = hear(&mut wire, &[]);
        prop_assert_eq!(hear(&mut wire, &audio(8_000, &[3, 0])), Ok(vec![sound(8_000, &[3, 0])]));
    }

    #[test]
    fn every_uuid_survives_its_text(id in any::<[u8; 16]>(), text in ".{0,40}") {
        prop_assert_eq!(parse_uuid(&uuid_text(&id)), Some(id));
        let _ = parse_uuid(&text);
    }
}
