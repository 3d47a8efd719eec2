//! Contact Lens streams as a forwarder sends them, and what every recognised segment must hold.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::telephony::MESSAGE_MAX_BYTES;
use crate::telephony::segments::WORDS_MAX;

/// Hears a message that must be understood.
pub(in crate::telephony) fn hear(wire: &mut impl Wire, message: &Value) -> Vec<Happening> {
    let heard = wire.hear(Message::Text(&message.to_string())).unwrap();
    assert_eq!(heard.replies, [], "{message}");
    heard.happenings
}

/// Returns a happening in short: `+` opened, `-` closed with its reason, a segment as
/// `id agent 10..20 text` with `~` before what is partial, a revision as `id = agent`.
pub(in crate::telephony) fn short(happening: &Happening) -> String {
    match happening {
        Happening::Opened(opening) => format!("+ {}", opening.call),
        Happening::Closed { reason } => format!("- {reason}"),
        Happening::Segment { segment, .. } => {
            let Segment { id, text, start_ms, end_ms, is_final, .. } = segment;
            let mark = if *is_final { "" } else { "~" };
            format!("{mark}{id} {} {start_ms}..{end_ms} {text}", name(segment.speaker))
        }
        Happening::Revised { segment, speaker } => format!("{segment} = {}", name(*speaker)),
        other => panic!("a stream of recognised speech brought {other:?}"),
    }
}

fn name(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::Agent => "agent",
        Speaker::Customer => "customer",
    }
}

/// Asserts what hearing messages one after the other comes to.
pub(in crate::telephony) fn check(wire: &mut impl Wire, messages: &[Value], expected: &[&str]) {
    let happenings: Vec<Happening> = messages.iter().flat_map(|message| hear(wire, message)).collect();
    assert_sound(&happenings);
    assert_eq!(happenings.iter().map(short).collect::<Vec<_>>(), expected);
}

/// Asserts what holds for all happenings of a connection, whatever was sent.
pub(in crate::telephony) fn assert_sound(happenings: &[Happening]) {
    let mut finals = std::collections::BTreeSet::new();
    for (index, happening) in happenings.iter().enumerate() {
        assert_eq!(matches!(happening, Happening::Opened(_)), index == 0, "{happening:?}");
        assert!(index + 1 == happenings.len() || !matches!(happening, Happening::Closed { .. }));
        let Happening::Segment { segment, words } = happening else { continue };
        assert!(!segment.id.is_empty() && segment.id.len() <= NAME_MAX_BYTES);
        assert!(segment.text.chars().count() <= TEXT_MAX_CHARS);
        assert!(!segment.is_final || !segment.text.trim().is_empty());
        assert!(segment.start_ms <= segment.end_ms && segment.end_ms <= TIME_MAX_MS, "{segment:?}");
        assert!(!finals.contains(&segment.id), "{} was said after it was final", segment.id);
        if segment.is_final {
            finals.insert(segment.id.clone());
        }
        let words = words.as_deref().unwrap_or_default();
        assert!(words.len() <= WORDS_MAX);
        assert!(words.iter().all(|word| word.start_ms <= word.end_ms && word.end_ms <= TIME_MAX_MS));
    }
}

/// Makes valid messages invalid, or nearly: any value in any place, and texts cut anywhere.
pub(in crate::telephony) fn mutated(messages: Vec<Value>) -> impl Strategy<Value = String> {
    let odd = prop_oneof![
        Just(Value::Null),
        Just(json!(-1.0e300)),
        Just(json!(1.0e300)),
        Just(json!(u64::MAX)),
        Just(json!(i64::MIN)),
        Just(json!("")),
        Just(json!([[], {}, 0])),
        any::<String>().prop_map(|text| json!(text)),
        any::<bool>().prop_map(|truth| json!(truth)),
        (0_u64..10).prop_map(|number| json!(number)),
    ];
    (
        prop::sample::select(messages),
        any::<prop::sample::Index>(),
        odd,
        0_u8..10,
        any::<prop::sample::Index>(),
    )
        .prop_map(|(mut message, place, odd, kind, end)| {
            let places = count(&message);
            if kind > 0 && places > 0 {
                replace(&mut message, place.index(places), &odd);
            }
            let text = message.to_string();
            if kind == 1 { text.chars().take(end.index(text.len())).collect() } else { text }
        })
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(values) => values.iter().map(|value| 1 + count(value)).sum(),
        Value::Object(fields) => fields.values().map(|value| 1 + count(value)).sum(),
        _ => 0,
    }
}

/// Puts `odd` in the place of the value with this number; returns the number less what was passed.
fn replace(value: &mut Value, mut place: usize, odd: &Value) -> usize {
    let inner: Vec<&mut Value> = match value {
        Value::Array(values) => values.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => return place,
    };
    for value in inner {
        if place == 0 {
            *value = odd.clone();
            return usize::MAX;
        }
        place = replace(value, place - 1, odd);
        if place == usize::MAX {
            return place;
        }
    }
    place
}

fn event(kind: &str, segments: Value) -> Value {
    json!({
        "Version": "1.0.0", "Channel": "VOICE", "AccountId": "123456789012", "InstanceId": "i-1",
        "ContactId": "c-1", "LanguageCode": "en-US", "EventType": kind, "Segments": segments,
    })
}

fn utterance(transcript: &str, role: &str, content: &str, begin: i64, end: i64) -> Value {
    json!({"Utterance": {
        "Id": format!("u-{begin}"), "TranscriptId": transcript, "ParticipantId": role, "ParticipantRole": role,
        "PartialContent": content, "BeginOffsetMillis": begin, "EndOffsetMillis": end,
    }})
}

fn transcript(id: &str, role: &str, content: &str, begin: i64, end: i64) -> Value {
    json!({"Transcript": {
        "Id": id, "ParticipantId": role, "ParticipantRole": role, "Content": content,
        "BeginOffsetMillis": begin, "EndOffsetMillis": end, "Sentiment": "NEGATIVE",
        "IssuesDetected": [{"CharacterOffsets": {"BeginOffsetChar": 0, "EndOffsetChar": 5}}],
    }})
}

fn contact() -> Vec<Value> {
    vec![
        event("STARTED", Value::Null),
        event("SEGMENTS", json!([utterance("t-1", "AGENT", "Hello, how can", 0, 900)])),
        event("SEGMENTS", json!([transcript("t-1", "AGENT", "Hello, how can I help?", 0, 1500)])),
        event("SEGMENTS", json!([transcript("t-2", "CUSTOMER", "My card is gone.", 1600, 3000)])),
        event("COMPLETED", Value::Null),
    ]
}

#[test]
fn utterances_are_partial_until_their_transcript_replaces_them() {
    let mut messages = contact();
    let judged = json!([
        {"Categories": {"MatchedCategories": ["Cancel"], "MatchedDetails": {}}},
        {"PostContactSummary": {"Status": "COMPLETED", "Content": "A lost card."}},
        {"Surprise": {}},
    ]);
    messages.insert(4, event("SEGMENTS", judged));
    messages.insert(5, event("REVISED", json!([])));
    check(
        &mut ContactLens::new(Opening::default()),
        &messages,
        &[
            "+ c-1",
            "~t-1 agent 0..900 Hello, how can",
            "t-1 agent 0..1500 Hello, how can I help?",
            "t-2 customer 1600..3000 My card is gone.",
            "- hangup",
        ],
    );
}

#[test]
fn utterances_of_one_transcript_follow_or_replace_one_another() {
    let messages = [
        event("SEGMENTS", json!([utterance("t", "AGENT", "Hello", 0, 500)])),
        event("SEGMENTS", json!([utterance("t", "AGENT", "how can", 600, 900)])),
        event("SEGMENTS", json!([utterance("t", "AGENT", "how can I help", 600, 1200)])),
        event("SEGMENTS", json!([utterance("s", "CUSTOMER", "Um", 700, 800)])),
        event("SEGMENTS", json!([utterance("t", "AGENT", "Hello, how may I help?", 0, 1400)])),
    ];
    check(
        &mut ContactLens::new(Opening::default()),
        &messages,
        &[
            "+ c-1",
            "~t agent 0..500 Hello",
            "~t agent 0..900 Hello how can",
            "~t agent 0..1200 Hello how can I help",
            "~s customer 700..800 Um",
            "~t agent 0..1400 Hello, how may I help?",
        ],
    );
}

#[test]
fn a_transcript_is_sent_once_and_no_utterance_comes_after_it() {
    let said = event("SEGMENTS", json!([transcript("t", "AGENT", "Hello.", 0, 500)]));
    let late = event("SEGMENTS", json!([utterance("t", "AGENT", "Hel", 0, 200)]));
    let messages = [said.clone(), said, late];
    check(&mut ContactLens::new(Opening::default()), &messages, &["+ c-1", "t agent 0..500 Hello."]);
}

#[test]
fn the_opening_keeps_what_it_names_and_takes_the_rest_from_the_event() {
    let started = event("STARTED", Value::Null);
    let opened = hear(&mut ContactLens::new(Opening::default()), &started);
    let expected =
        Opening { call: "c-1".to_owned(), language: Some("en-US".to_owned()), ..Opening::default() };
    assert_eq!(opened, [Happening::Opened(expected)]);
    let given = Opening {
        call: "call-7".to_owned(),
        agent: Some("ann".to_owned()),
        language: Some("de".to_owned()),
        ..Opening::default()
    };
    assert_eq!(hear(&mut ContactLens::new(given.clone()), &started), [Happening::Opened(given)]);
}

#[test]
fn arrays_and_kinesis_records_are_unpacked() {
    let record = |event: &Value| json!({"data": STANDARD.encode(event.to_string())});
    let [started, partial, said, reply, completed] = contact().try_into().unwrap();
    let lambda = json!({"Records": [{"kinesis": record(&reply)}, {"kinesis": record(&completed)}]});
    let messages = [json!([started, partial]), json!([{"Data": STANDARD.encode(said.to_string())}]), lambda];
    check(
        &mut ContactLens::new(Opening::default()),
        &messages,
        &[
            "+ c-1",
            "~t-1 agent 0..900 Hello, how can",
            "t-1 agent 0..1500 Hello, how can I help?",
            "t-2 customer 1600..3000 My card is gone.",
            "- hangup",
        ],
    );
}

#[test]
fn the_end_waits_for_the_rest_of_its_message() {
    let batch = json!([
        event("FAILED", Value::Null),
        event("SEGMENTS", json!([transcript("t", "AGENT", "Hello.", 0, 500)])),
    ]);
    let mut wire = ContactLens::new(Opening::default());
    check(&mut wire, &[batch], &["+ c-1", "t agent 0..500 Hello.", "- error"]);
    assert_eq!(hear(&mut wire, &event("COMPLETED", Value::Null)), []);
    let late = event("SEGMENTS", json!([transcript("s", "AGENT", "Bye.", 0, 500)]));
    let error = wire.hear(Message::Text(&late.to_string())).unwrap_err();
    assert_eq!(error.code(), "out_of_place");
}

#[test]
fn what_cannot_be_read_does_not_stop_the_rest_of_its_message() {
    let mut wire = ContactLens::new(Opening::default());
    let batch = json!([
        17,
        {"data": "§"},
        event("SEGMENTS", json!([
            {"Transcript": {"ParticipantRole": "AGENT", "Content": "secret"}},
            {"Transcript": {"Id": "x", "ParticipantRole": "AGENT"}},
            {"Utterance": {"TranscriptId": "x", "PartialContent": "secret"}},
            {"Transcript": {"Id": "t", "ParticipantRole": "AGENT", "Content": "Hello."}},
            {"Transcript": {"Id": "u", "ParticipantRole": "SUPERVISOR", "Content": "Ask for the number."}},
        ])),
    ]);
    let heard = wire.hear(Message::Text(&batch.to_string())).unwrap();
    let happenings: Vec<String> = heard.happenings.iter().map(short).collect();
    assert_eq!(happenings, ["+ c-1", "t agent 0..0 Hello."]);
    let [Frame::Text(reply)] = heard.replies.as_slice() else { panic!("{:?}", heard.replies) };
    assert!(reply.contains("malformed") && !reply.contains("secret"), "{reply}");
}

#[test]
fn a_message_that_brings_nothing_is_refused_by_name() {
    let mut wire = ContactLens::new(Opening::default());
    let mut refused = |text: &str, code: &str| {
        let error = wire.hear(Message::Text(text)).unwrap_err();
        assert_eq!(error.code(), code, "{text}: {error}");
        assert!(matches!(wire.refusal(&error).as_slice(), [Frame::Text(_)]));
    };
    refused("", "malformed");
    refused("3", "malformed");
    refused("{}", "malformed");
    refused(r#"{"EventType":"STARTED"}"#, "malformed");
    refused(r#"{"EventType":"STARTED","ContactId":"a b"}"#, "malformed");
    refused(
        r#"{"EventType":"SEGMENTS","ContactId":"c-1","Segments":[{"BeginOffsetMillis":NaN}]}"#,
        "malformed",
    );
    refused("[[[[[[[[{}]]]]]]]]", "malformed");
    refused(&" ".repeat(MESSAGE_MAX_BYTES + 1), "message_too_large");
    assert_eq!(hear(&mut wire, &event("STARTED", Value::Null)).len(), 1);
    let foreign = json!({"EventType": "STARTED", "ContactId": "c-2"}).to_string();
    assert_eq!(wire.hear(Message::Text(&foreign)).unwrap_err().code(), "foreign");
}

#[test]
fn impossible_times_are_moved_into_the_day() {
    let spoken = |id: &str, begin: Value, end: Value| {
        json!({"Transcript": {"Id": id, "ParticipantRole": "CUSTOMER", "Content": "Yes.",
            "BeginOffsetMillis": begin, "EndOffsetMillis": end}})
    };
    let segments = json!([
        spoken("a", json!(-50), json!(20)),
        spoken("b", json!(500), json!(100)),
        spoken("c", json!(1.0e300), json!(-1.0e300)),
        spoken("d", json!("NaN"), json!(700)),
        spoken("e", Value::Null, Value::Null),
    ]);
    check(
        &mut ContactLens::new(Opening::default()),
        &[event("SEGMENTS", segments)],
        &[
            "+ c-1",
            "a customer 0..20 Yes.",
            "b customer 500..500 Yes.",
            "c customer 86400000..86400000 Yes.",
            "d customer 700..700 Yes.",
            "e customer 86400000..86400000 Yes.",
        ],
    );
}

#[test]
fn a_chat_counts_from_its_first_message_and_leaves_out_what_is_for_machines() {
    let event = |kind: &str, segments: Value| {
        json!({
            "Version": "2.0.0", "Channel": "CHAT", "ContactId": "c-9", "StreamingEventType": kind,
            "StreamingSettings": {"LanguageCode": "en-GB", "Output": "RedactedAndRaw"}, "Segments": segments,
        })
    };
    let message = |id: &str, role: &str, form: &str, at: &str| {
        json!({"Transcript": {"Id": id, "ParticipantId": "p", "ParticipantRole": role, "Content": "Hi",
            "ContentType": form, "Time": {"AbsoluteTime": at}}})
    };
    let mut wire = ContactLens::new(Opening::default());
    let opened = hear(&mut wire, &event("STARTED", Value::Null));
    let [Happening::Opened(opening)] = opened.as_slice() else { panic!("{opened:?}") };
    assert_eq!((opening.language.as_deref(), opening.is_chat), (Some("en-GB"), true));
    let segments = json!([
        message("a", "CUSTOMER", "text/plain", "2026-10-27T03:31:50.735Z"),
        message("b", "CUSTOM_BOT", "text/plain", "2026-10-27T03:31:51.000Z"),
        message(
            "c",
            "AGENT",
            "application/vnd.amazonaws.connect.message.interactive",
            "2026-10-27T03:31:52Z"
        ),
        message("d", "AGENT", "text/markdown", "2026-10-27T03:31:53.735Z"),
        message("e", "AGENT", "text/plain", "1969-01-01T00:00:00Z"),
    ]);
    let happenings: Vec<String> = hear(&mut wire, &event("SEGMENTS", segments)).iter().map(short).collect();
    assert_eq!(happenings, ["a customer 0..0 Hi", "d agent 3000..3000 Hi", "e agent 0..0 Hi"]);
}

#[test]
fn a_huge_text_is_cut_between_words_and_shares_its_time() {
    let text = "nine char ".repeat(2_500);
    let mut wire = ContactLens::new(Opening::default());
    let segments = json!([
        utterance("t", "AGENT", &text, 0, 2_500),
        transcript("t", "AGENT", &text, 0, 2_500),
        transcript(&"i".repeat(300), "AGENT", &"ß".repeat(25_000), 0, 100),
    ]);
    let happenings = hear(&mut wire, &event("SEGMENTS", segments));
    assert_sound(&happenings);
    let said: Vec<&Segment> = happenings
        .iter()
        .filter_map(|happening| match happening {
            Happening::Segment { segment, .. } => Some(segment),
            _ => None,
        })
        .collect();
    let ids: Vec<(&str, usize, u64)> = said
        .iter()
        .take(4)
        .map(|segment| (segment.id.as_str(), segment.text.chars().count(), segment.end_ms))
        .collect();
    assert_eq!(ids, [("t", 9_999, 2_500), ("t", 9_999, 1_000), ("t.2", 9_999, 2_000), ("t.3", 4_999, 2_500)]);
    assert_eq!(said.len(), 7);
    assert_eq!(said[6].id, format!("{}.3", said[4].id));
}

#[test]
fn only_news_that_a_forwarder_can_act_on_is_told() {
    let mut wire = ContactLens::new(Opening::default());
    assert_eq!(wire.tell(News::Opened), []);
    assert_eq!(wire.tell(News::Cards(&[])), []);
    assert!(matches!(
        wire.tell(News::Refused("no agent")).as_slice(),
        [Frame::Text(_), Frame::Close(1008, _)]
    ));
    assert!(matches!(wire.tell(News::Draining).as_slice(), [Frame::Text(_)]));
    assert!(matches!(wire.tell(News::Finished).as_slice(), [Frame::Close(1000, _)]));
}

/// Asserts that a wire outlives garbage, and understands a message after it.
pub(in crate::telephony) fn assert_hardy<W: Wire>(
    mut wire: W,
    messages: &[String],
    bytes: &[u8],
    understood: &Value,
    kept: impl Fn(&W) -> usize,
) {
    let mut happenings = Vec::new();
    for message in messages {
        if let Ok(heard) = wire.hear(Message::Text(message)) {
            happenings.extend(heard.happenings);
        }
        let _ = wire.hear(Message::Binary(bytes));
        // A message may be kept once or twice, in larger pieces; never the stream of them.
        assert!(kept(&wire) <= 64 * 1024, "{} bytes are kept", kept(&wire));
    }
    assert_sound(&happenings);
    if !happenings.iter().any(|happening| matches!(happening, Happening::Closed { .. })) {
        wire.hear(Message::Text(&understood.to_string())).unwrap();
    }
}

proptest! {
    #[test]
    fn no_message_can_break_the_wire(
        messages in prop::collection::vec(prop_oneof![4 => mutated(contact()), 1 => any::<String>()], 0..40),
        bytes in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let opening = Opening { call: "call-7".to_owned(), ..Opening::default() };
        let understood = json!({"EventType": "SEGMENTS", "Segments": [transcript("z", "AGENT", "Yes.", 0, 1)]});
        assert_hardy(ContactLens::new(opening), &messages, &bytes, &understood, |wire| {
            let said = wire.saying.iter().flat_map(|saying| saying.utterances.values());
            said.chain(&wire.sent).map(String::len).sum()
        });
    }
}
