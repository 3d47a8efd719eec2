//! Deepgram streams as a forwarder sends them.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::telephony::contact_lens::tests::assert_hardy;
use crate::telephony::contact_lens::tests::assert_sound;
use crate::telephony::contact_lens::tests::check;
use crate::telephony::contact_lens::tests::hear;
use crate::telephony::contact_lens::tests::mutated;
use crate::telephony::contact_lens::tests::short;

const STEREO: Channels = Channels::Two(Speaker::Customer, Speaker::Agent);
const MIXED: Channels = Channels::One(Speaker::Agent);

fn wire(channels: Channels) -> Deepgram {
    Deepgram::new(Opening { call: "call-7".to_owned(), ..Opening::default() }, channels)
}

/// How a result ends.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    Interim,
    Settled,
    Speech,
}
use Ends::*;

/// A result whose words share its time; `voices` are their speakers, where they are told apart.
fn results(channel: u32, start: f64, duration: f64, said: &str, voices: &[u64], ends: Ends) -> Value {
    let said_words: Vec<&str> = said.split_whitespace().collect();
    let step = duration / said_words.len().max(1) as f64;
    let words: Vec<Value> = said_words
        .iter()
        .enumerate()
        .map(|(index, word)| {
            let from = start + step * index as f64;
            let plain = word.to_lowercase();
            let mut word = json!({"word": plain, "punctuated_word": word, "start": from, "end": from + step});
            if let Some(voice) = voices.get(index) {
                word["speaker"] = json!(voice);
            }
            word
        })
        .collect();
    json!({
        "type": "Results", "channel_index": [channel, 2], "start": start, "duration": duration,
        "is_final": ends != Interim, "speech_final": ends == Speech, "from_finalize": false,
        "channel": {"alternatives": [{"transcript": said, "confidence": 0.98, "words": words}]},
        "metadata": {"request_id": "req-1", "model_uuid": "m", "model_info": {"name": "nova-3"}},
    })
}

fn utterance_end(channel: u32) -> Value {
    json!({"type": "UtteranceEnd", "channel": [channel, 2], "last_word_end": 2.0})
}

fn metadata() -> Value {
    json!({"type": "Metadata", "request_id": "req-1", "sha256": "0", "duration": 9.0, "channels": 2})
}

#[test]
fn a_segment_grows_until_the_speech_ends() {
    let messages = [
        json!({"type": "SpeechStarted", "channel": [0, 2], "timestamp": 0.2}),
        results(0, 0.0, 1.0, "my card", &[], Interim),
        results(0, 0.0, 2.0, "My card", &[], Settled),
        results(0, 2.0, 0.5, "is", &[], Interim),
        results(1, 2.0, 1.0, "Yes?", &[], Interim),
        results(0, 2.0, 1.0, "is gone.", &[], Speech),
        results(0, 3.0, 1.0, "Hello?", &[], Settled),
        utterance_end(0),
        json!({"type": "Surprise"}),
        metadata(),
    ];
    check(
        &mut wire(STEREO),
        &messages,
        &[
            "+ call-7",
            "~req-1-0-0 customer 0..1000 my card",
            "~req-1-0-0 customer 0..2000 My card",
            "~req-1-0-0 customer 0..2500 My card is",
            "~req-1-1-2000 agent 2000..3000 Yes?",
            "req-1-0-0 customer 0..3000 My card is gone.",
            "~req-1-0-1 customer 3000..4000 Hello?",
            "req-1-0-1 customer 3000..4000 Hello?",
            "req-1-1-2000 agent 2000..3000 Yes?",
            "- hangup",
        ],
    );
}

#[test]
fn words_come_with_their_times() {
    let happenings = hear(&mut wire(STEREO), &results(1, 1.0, 1.0, "Good morning.", &[], Speech));
    let [_, Happening::Segment { words: Some(words), .. }] = happenings.as_slice() else {
        panic!("{happenings:?}")
    };
    let word =
        |text: &str, start_ms, end_ms| Word { text: text.to_owned(), start_ms, end_ms, confidence: None };
    assert_eq!(*words, [word("Good", 1000, 1500), word("morning.", 1500, 2000)]);
}

#[test]
fn a_change_of_the_voice_splits_a_result() {
    let messages = [
        results(0, 0.0, 4.0, "Hello there. Hi I", &[3, 3, 0, 0], Interim),
        results(0, 0.0, 4.0, "Hello there. Hi, I", &[3, 3, 0, 0], Settled),
        results(0, 4.0, 2.0, "am Bo. Right.", &[0, 0, 3], Speech),
        results(0, 6.0, 1.0, "Third voice.", &[5, 5], Speech),
    ];
    check(
        &mut wire(MIXED),
        &messages,
        &[
            "+ call-7",
            "~req-1-0-0 agent 0..2000 Hello there.",
            "~req-1-0-1 customer 2000..4000 Hi I",
            "req-1-0-0 agent 0..2000 Hello there.",
            "~req-1-0-1 customer 2000..4000 Hi, I",
            "req-1-0-1 customer 2000..5333 Hi, I am Bo.",
            "req-1-0-2 agent 5333..6000 Right.",
            "req-1-0-3 customer 6000..7000 Third voice.",
        ],
    );
}

#[test]
fn one_channel_without_voices_is_one_speaker() {
    let messages = [results(0, 0.0, 1.0, "Hello.", &[], Speech), results(0, 1.0, 1.0, "Hm.", &[], Speech)];
    let expected = ["+ call-7", "req-1-0-0 agent 0..1000 Hello.", "req-1-0-1 agent 1000..2000 Hm."];
    check(&mut wire(MIXED), &messages, &expected);
}

#[test]
fn a_guess_that_comes_to_nothing_is_emptied_and_its_name_used_again() {
    let messages = [
        results(0, 0.0, 1.0, "hm", &[], Interim),
        results(0, 0.0, 1.0, "", &[], Speech),
        results(0, 1.0, 1.0, "Hello.", &[], Speech),
        results(0, 2.0, 1.0, "", &[], Settled),
        utterance_end(0),
    ];
    let expected = [
        "+ call-7",
        "~req-1-0-0 customer 0..1000 hm",
        "~req-1-0-0 customer 1000..1000 ",
        "req-1-0-0 customer 1000..2000 Hello.",
    ];
    check(&mut wire(STEREO), &messages, &expected);
}

#[test]
fn finalize_ends_a_segment_and_the_end_of_the_stream_takes_what_has_not_settled() {
    let mut flushed = results(0, 0.0, 1.0, "One moment.", &[], Settled);
    flushed["from_finalize"] = json!(true);
    let messages = [
        flushed,
        results(0, 1.0, 1.0, "I am", &[], Settled),
        results(0, 2.0, 1.0, "looking", &[], Interim),
        json!({"type": "CloseStream"}),
        metadata(),
        utterance_end(0),
    ];
    let expected = [
        "+ call-7",
        "req-1-0-0 customer 0..1000 One moment.",
        "~req-1-0-1 customer 1000..2000 I am",
        "~req-1-0-1 customer 1000..3000 I am looking",
        "req-1-0-1 customer 1000..3000 I am looking",
        "- hangup",
    ];
    let mut wire = wire(STEREO);
    check(&mut wire, &messages, &expected);
    let late = results(0, 3.0, 1.0, "for it", &[], Settled).to_string();
    assert_eq!(wire.hear(Message::Text(&late)).unwrap_err().code(), "out_of_place");
}

#[test]
fn what_was_settled_is_not_taken_twice() {
    let settled = results(0, 1.0, 2.0, "My card", &[], Settled);
    let messages =
        [settled.clone(), settled, results(0, 1.0, 1.5, "my cart", &[], Interim), utterance_end(0)];
    let expected = [
        "+ call-7",
        "~req-1-0-1000 customer 1000..3000 My card",
        "~req-1-0-1000 customer 1000..3000 My card",
        "~req-1-0-1000 customer 1000..3000 My card",
        "req-1-0-1000 customer 1000..3000 My card",
    ];
    check(&mut wire(STEREO), &messages, &expected);
}

#[test]
fn a_new_transcription_goes_on_where_the_last_one_ended() {
    let mut again = results(0, 0.0, 1.0, "Are you there?", &[], Speech);
    again["metadata"]["request_id"] = json!("req-2");
    let first = results(0, 0.0, 2.0, "Hello?", &[], Settled);
    let messages = [first.clone(), json!({"type": "Error", "description": "NET-0001"}), again, metadata()];
    let expected = [
        "+ call-7",
        "~req-1-0-0 customer 0..2000 Hello?",
        "req-1-0-0 customer 0..2000 Hello?",
        "req-2-0-1 customer 2000..3000 Are you there?",
    ];
    let mut wire = wire(STEREO);
    check(&mut wire, &messages, &expected);
    assert_eq!(wire.hear(Message::Text(&first.to_string())).unwrap_err().code(), "foreign");
}

#[test]
fn a_forwarder_that_comes_back_uses_no_name_twice() {
    let mut names = std::collections::BTreeSet::new();
    for (from, results_each) in [(0_u32, 40), (40, 5)] {
        let mut wire = wire(STEREO);
        for index in from..from + results_each {
            for happening in hear(&mut wire, &results(0, f64::from(index), 1.0, "Yes.", &[], Speech)) {
                if let Happening::Segment { segment, .. } = happening {
                    assert!(names.insert(segment.id));
                }
            }
        }
    }
    assert_eq!(names.len(), 45);
}

#[test]
fn missing_fields_and_impossible_times_are_survived() {
    let mut negative = results(0, -5.0, 2.0, "Yes.", &[], Speech);
    negative["channel"]["alternatives"][0]["words"][0]["end"] = json!(-7.0);
    let mut endless = results(0, 1.0e300, 1.0e300, "No.", &[], Speech);
    endless["channel"]["alternatives"][0]["words"] = json!([{"word": "no"}, {"start": 1.0}, 5]);
    let messages = [
        json!({"type": "Results"}),
        negative,
        json!({"type": "Results", "is_final": true, "channel": {"alternatives": [{"transcript": "Well."}]}}),
        endless,
        json!({"type": "UtteranceEnd"}),
    ];
    let expected = [
        "+ call-7",
        "req-1-0-0 customer 0..0 Yes.",
        "~req-1-0-1 customer 0..0 Well.",
        "req-1-0-1 customer 0..86400000 Well. No.",
    ];
    check(&mut wire(STEREO), &messages, &expected);
}

#[test]
fn what_is_no_event_of_the_call_is_refused_by_name() {
    let mut wire = wire(MIXED);
    let mut refused = |text: &str, code: &str| {
        assert_eq!(wire.hear(Message::Text(text)).unwrap_err().code(), code, "{text}");
    };
    refused("[]", "malformed");
    refused(r#"{"type":"Results","start":NaN}"#, "malformed");
    refused(&results(1, 0.0, 1.0, "Hi.", &[], Speech).to_string(), "foreign");
    refused(&" ".repeat(300_000), "message_too_large");
}

#[test]
fn speech_that_never_ends_is_cut_at_the_limits() {
    let mut wire = wire(STEREO);
    let mut happenings = Vec::new();
    for index in 0..300_u32 {
        let said = "word ".repeat(50);
        happenings.extend(hear(&mut wire, &results(0, f64::from(index), 1.0, said.trim(), &[], Settled)));
        assert!(wire.runs[0].settled.as_ref().unwrap().text.len() <= TEXT_MAX_CHARS);
    }
    let short_words = "a ".repeat(3_000);
    for index in 300..304_u32 {
        let said = results(0, f64::from(index), 1.0, short_words.trim(), &[], Settled);
        happenings.extend(hear(&mut wire, &said));
        assert!(wire.runs[0].settled.as_ref().unwrap().words.len() <= WORDS_MAX);
    }
    let huge = "nine char ".repeat(2_500);
    let huge =
        json!({"type": "Results", "speech_final": true, "channel": {"alternatives": [{"transcript": huge}]}});
    happenings.extend(hear(&mut wire, &huge));
    assert_sound(&happenings);
    let is_final =
        |happening: &&Happening| matches!(happening, Happening::Segment { segment, .. } if segment.is_final);
    let words: usize = happenings
        .iter()
        .filter(is_final)
        .map(|happening| short(happening).split_whitespace().count() - 3)
        .sum();
    assert_eq!(words, 300 * 50 + 4 * 3_000 + 2 * 2_500);
}

proptest! {
    #[test]
    fn no_message_can_break_the_wire(
        messages in prop::collection::vec(
            prop_oneof![
                8 => mutated(vec![
                    results(0, 0.0, 1.0, "Hello there you", &[0, 1, 0], Interim),
                    results(0, 0.0, 2.0, "Hello there you", &[0, 1, 0], Settled),
                    results(1, 2.0, 2.0, "Yes", &[], Speech),
                    results(1, 1.0, 1.0, "", &[], Settled),
                    utterance_end(0),
                ]),
                1 => mutated(vec![metadata(), json!({"type": "Error"})]),
                1 => any::<String>(),
            ],
            0..40,
        ),
        bytes in prop::collection::vec(any::<u8>(), 0..50),
        channels in prop::sample::select(vec![STEREO, MIXED]),
    ) {
        let understood = json!({"type": "Results", "channel": {"alternatives": [{"transcript": "Yes."}]}});
        assert_hardy(wire(channels), &messages, &bytes, &understood, |wire| {
            let runs = wire.runs.iter().flat_map(|run| run.settled.iter().chain(&run.unsettled));
            runs.map(|piece| piece.text.len() + piece.words.len() * size_of::<Word>()).sum()
        });
    }
}
