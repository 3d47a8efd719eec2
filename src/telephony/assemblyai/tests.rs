//! AssemblyAI streams as a forwarder sends them.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::telephony::contact_lens::tests::assert_hardy;
use crate::telephony::contact_lens::tests::assert_sound;
use crate::telephony::contact_lens::tests::check;
use crate::telephony::contact_lens::tests::hear;
use crate::telephony::contact_lens::tests::mutated;

fn wire() -> AssemblyAi {
    AssemblyAi::new(Opening { call: "call-7".to_owned(), ..Opening::default() }, Speaker::Agent)
}

fn begin() -> Value {
    json!({"type": "Begin", "id": "s-1", "expires_at": 1_759_796_682})
}

/// How far a turn has come.
#[derive(Clone, Copy, PartialEq)]
enum Comes {
    Partial,
    Plain,
    Formatted,
}
use Comes::*;

/// A turn whose words take 100 ms each from `order` seconds on; those behind `|` may still change.
fn turn(order: u64, said: &str, label: Option<&str>, comes: Comes) -> Value {
    let (settled, rest) = said.split_once('|').unwrap_or((said, ""));
    let settled_words = settled.split_whitespace().count();
    let words: Vec<Value> = settled
        .split_whitespace()
        .chain(rest.split_whitespace())
        .enumerate()
        .map(|(index, word)| {
            let start = order * 1000 + index as u64 * 100;
            let is_settled = index < settled_words;
            json!({"start": start, "end": start + 90, "confidence": 0.9, "text": word, "word_is_final": is_settled})
        })
        .collect();
    let mut turn = json!({
        "type": "Turn", "turn_order": order, "turn_is_formatted": comes == Formatted,
        "end_of_turn": comes != Partial, "transcript": settled.trim(), "end_of_turn_confidence": 0.5,
        "words": words, "utterance": "",
    });
    if let Some(label) = label {
        turn["speaker_label"] = json!(label);
    }
    turn
}

fn revision(revisions: &[(u64, &str)]) -> Value {
    let revisions: Vec<Value> = revisions
        .iter()
        .map(|(order, label)| json!({"turn_order": order, "speaker_label": label, "words": []}))
        .collect();
    json!({"type": "SpeakerRevision", "revisions": revisions})
}

fn termination() -> Value {
    json!({"type": "Termination", "audio_duration_seconds": 4, "session_duration_seconds": 5})
}

#[test]
fn a_turn_is_partial_until_it_ends() {
    let messages = [
        begin(),
        json!({"type": "SpeechStarted", "timestamp": 10}),
        turn(0, "|hi", None, Partial),
        turn(0, "hi|my", None, Partial),
        json!({"type": "Heartbeat", "total_audio_received_ms": 900}),
        json!({"type": "Warning", "warning_code": 1, "warning": "slow"}),
        turn(0, "hi my name", None, Plain),
        turn(1, "yes", None, Plain),
        termination(),
    ];
    check(
        &mut wire(),
        &messages,
        &[
            "+ call-7",
            "~s-1-0 agent 0..90 hi",
            "~s-1-0 agent 0..190 hi my",
            "s-1-0 agent 0..290 hi my name",
            "s-1-1 agent 1000..1090 yes",
            "- hangup",
        ],
    );
}

#[test]
fn formatted_text_is_waited_for_once_it_is_known_to_come() {
    let messages = [
        begin(),
        turn(0, "hello bo", None, Plain),
        turn(0, "Hello, Bo.", None, Formatted),
        turn(1, "are you there", None, Plain),
        turn(1, "Are you there?", None, Formatted),
        turn(2, "lost", None, Plain),
        turn(3, "next", None, Partial),
        turn(3, "next one", None, Plain),
        turn(4, "last", None, Formatted),
    ];
    let expected = [
        "+ call-7",
        "s-1-0 agent 0..190 hello bo",
        "~s-1-1 agent 1000..1290 are you there",
        "s-1-1 agent 1000..1290 Are you there?",
        "~s-1-2 agent 2000..2090 lost",
        "s-1-2 agent 2000..2090 lost",
        "~s-1-3 agent 3000..3090 next",
        "s-1-3 agent 3000..3190 next one",
        "s-1-4 agent 4000..4090 Last",
    ];
    let mut messages = messages.to_vec();
    messages[8]["transcript"] = json!("Last");
    check(&mut wire(), &messages, &expected);
}

#[test]
fn the_session_may_say_that_it_formats() {
    let mut begin = begin();
    begin["configuration"] = json!({"format_turns": true});
    let messages = [begin, turn(0, "hello", None, Plain), turn(0, "Hello.", None, Formatted)];
    let expected = ["+ call-7", "~s-1-0 agent 0..90 hello", "s-1-0 agent 0..90 Hello."];
    check(&mut wire(), &messages, &expected);
}

#[test]
fn whoever_is_heard_first_is_the_configured_speaker() {
    let messages = [
        turn(0, "Hello.", Some("B"), Formatted),
        turn(1, "Hi.", Some("A"), Formatted),
        turn(2, "Hm.", Some("UNKNOWN"), Formatted),
        turn(3, "Well.", Some("C"), Formatted),
        turn(4, "Right.", Some("B"), Formatted),
    ];
    let expected = [
        "+ call-7",
        "assemblyai-0 agent 0..90 Hello.",
        "assemblyai-1 customer 1000..1090 Hi.",
        "assemblyai-2 agent 2000..2090 Hm.",
        "assemblyai-3 customer 3000..3090 Well.",
        "assemblyai-4 agent 4000..4090 Right.",
    ];
    check(&mut wire(), &messages, &expected);
}

#[test]
fn a_correction_revises_only_speakers_that_really_change() {
    let messages = [
        begin(),
        turn(0, "Hello.", Some("A"), Formatted),
        turn(1, "Hi.", Some("A"), Formatted),
        turn(2, "wait", Some("A"), Plain),
        revision(&[(0, "A"), (1, "B"), (2, "B"), (9, "B"), (0, "UNKNOWN")]),
        turn(2, "Wait.", None, Formatted),
        revision(&[(1, "C"), (2, "A")]),
        turn(0, "Hello.", Some("B"), Formatted),
        json!({"type": "SpeakerRevision"}),
    ];
    let expected = [
        "+ call-7",
        "s-1-0 agent 0..90 Hello.",
        "s-1-1 agent 1000..1090 Hi.",
        "~s-1-2 agent 2000..2090 wait",
        "s-1-1 = customer",
        "s-1-2 customer 2000..2090 Wait.",
        "s-1-2 = agent",
        "s-1-0 = customer",
    ];
    check(&mut wire(), &messages, &expected);
}

#[test]
fn turns_out_of_order_are_said_once_each() {
    let messages = [
        begin(),
        turn(1, "second", None, Partial),
        turn(0, "first", None, Partial),
        turn(0, "first", None, Plain),
        turn(0, "fir", None, Partial),
        turn(2, "third", None, Partial),
        turn(1, "second", None, Plain),
        termination(),
    ];
    let expected = [
        "+ call-7",
        "~s-1-1 agent 1000..1090 second",
        "~s-1-0 agent 0..90 first",
        "s-1-0 agent 0..90 first",
        "s-1-1 agent 1000..1090 second",
        "~s-1-2 agent 2000..2090 third",
        "s-1-2 agent 2000..2090 third",
        "- hangup",
    ];
    let mut wire = wire();
    check(&mut wire, &messages, &expected);
    assert_eq!(hear(&mut wire, &revision(&[(0, "B")])), []);
    let late = turn(3, "late", None, Plain).to_string();
    assert_eq!(wire.hear(Message::Text(&late)).unwrap_err().code(), "out_of_place");
}

#[test]
fn an_error_ends_the_turn_and_another_session_goes_on() {
    let mut again = begin();
    again["id"] = json!("s-2");
    let messages = [
        begin(),
        turn(2, "are you|there", None, Partial),
        json!({"error_code": 3007, "error": "too slow"}),
        json!({"type": "Error", "error_code": 3007, "error": "too slow"}),
        again,
        turn(0, "Yes.", None, Formatted),
        begin(),
        begin(),
        turn(2, "No.", None, Formatted),
    ];
    let expected = [
        "+ call-7",
        "~s-1-2 agent 2000..2290 are you there",
        "s-1-2 agent 2000..2290 are you there",
        "s-2.2-0 agent 2290..2380 Yes.",
        "s-1.3-2 agent 4380..4470 No.",
    ];
    check(&mut wire(), &messages, &expected);
}

#[test]
fn an_emptied_turn_is_shown_empty_and_may_still_come() {
    let messages = [
        begin(),
        turn(0, "hm", None, Partial),
        turn(0, "", None, Plain),
        turn(1, "", None, Plain),
        turn(0, "Hm.", None, Plain),
    ];
    let expected = ["+ call-7", "~s-1-0 agent 0..90 hm", "~s-1-0 agent 90..90 ", "s-1-0 agent 0..90 Hm."];
    check(&mut wire(), &messages, &expected);
}

#[test]
fn missing_fields_and_impossible_times_are_survived() {
    let word = |start: Value, end: Value| json!({"text": "yes", "start": start, "end": end});
    let ended = |order: u64, words: Value| json!({"type": "Turn", "turn_order": order, "end_of_turn": true, "transcript": "Yes.", "words": words});
    let messages = [
        ended(0, Value::Null),
        ended(1, json!([word(json!(-10), json!(-20))])),
        ended(2, json!([word(json!(500), json!(20)), {"start": 3}, 7])),
        ended(3, json!([word(json!(1.0e300), Value::Null)])),
        json!({"type": "Turn", "turn_order": u64::MAX}),
    ];
    let expected = [
        "+ call-7",
        "assemblyai-0 agent 0..0 Yes.",
        "assemblyai-1 agent 0..0 Yes.",
        "assemblyai-2 agent 500..500 Yes.",
        "assemblyai-3 agent 86400000..86400000 Yes.",
    ];
    let mut wire = wire();
    check(&mut wire, &messages, &expected);
    for text in ["{}", "null", r#"{"type":"Turn"}"#, r#"{"type":"Turn","turn_order":NaN}"#] {
        assert_eq!(wire.hear(Message::Text(text)).unwrap_err().code(), "malformed", "{text}");
    }
}

#[test]
fn huge_turns_are_cut_and_old_ones_forgotten() {
    let mut wire = wire();
    let huge = json!({
        "type": "Turn", "turn_order": 0, "end_of_turn": true, "transcript": "nine char ".repeat(2_500),
        "words": vec![json!({"text": "x", "start": 0, "end": 9}); 6_000],
    });
    let mut happenings = hear(&mut wire, &huge);
    assert_eq!(happenings.len(), 4);
    for order in 1..=(TURNS_MAX as u64 + 5) {
        happenings.extend(hear(&mut wire, &turn(order, "yes", Some("A"), Plain)));
    }
    assert_sound(&happenings);
    assert_eq!(wire.turns.len(), TURNS_MAX);
    assert_eq!(hear(&mut wire, &turn(0, "again", Some("A"), Plain)), []);
    assert_eq!(hear(&mut wire, &revision(&[(0, "B")])), []);
}

proptest! {
    #[test]
    fn no_message_can_break_the_wire(
        messages in prop::collection::vec(
            prop_oneof![
                8 => mutated(vec![
                    turn(0, "hello|there", Some("A"), Partial),
                    turn(0, "hello there", Some("A"), Plain),
                    turn(0, "Hello there.", Some("A"), Formatted),
                    turn(1, "yes", Some("B"), Plain),
                    revision(&[(0, "B"), (1, "A")]),
                ]),
                1 => mutated(vec![begin(), termination(), json!({"type": "Error"})]),
                1 => any::<String>(),
            ],
            0..40,
        ),
        bytes in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let understood = turn(7, "Yes.", None, Plain);
        assert_hardy(wire(), &messages, &bytes, &understood, |wire| {
            let running = wire.running.iter().map(|running| {
                running.segment.text.len() + running.words.len() * size_of::<Word>()
            });
            running.sum::<usize>() + wire.turns.len()
        });
    }
}
