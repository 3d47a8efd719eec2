//! What breaks the rules, and how the client is told.

use super::*;
use crate::telephony::audiohook::message::TEXT_MAX_CHARS;

#[test]
fn offers_that_cannot_be_used_are_refused_with_415() {
    let mut fast = Media::new("PCMU", &["external", "internal"]);
    fast.rate = 16_000;
    for media in [vec![], vec![fast], vec![Media::new("OPUS", &["external"])]] {
        let mut line = Line::new();
        let text = line.client.open(Open { media, ..open() });
        let error = line.fails(&text);
        assert!(matches!(error, WireError::UnknownAudio(_)), "{error:?}");
        let frames = line.hook.refusal(&error);
        let answers = line.read(&frames);
        let [ServerSays::Disconnect { reason, info: Some(info) }] = answers.as_slice() else {
            panic!("{answers:?}")
        };
        assert!(reason == "error" && info.starts_with("415 "), "{reason}: {info}");
        // Once is enough, and the client's goodbye is answered.
        assert_eq!(line.hook.refusal(&error), []);
        assert!(line.hook.is_leaving());
        let close = line.client.close(CloseReason::Disconnect);
        assert_eq!(line.say(&close).0, [Happening::Closed { reason: "disconnect".to_owned() }]);
        assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
    }
}

#[test]
fn a_gap_in_the_numbers_is_named() {
    let mut line = Line::opened(open());
    let due = line.client.ping(None);
    let next = line.client.ping(None);
    assert_eq!(line.fails(&next), WireError::OutOfSequence { expected: 2, got: 3 });
    assert_eq!(line.say(&due).1.len(), 1);
    assert_eq!(line.fails(&due), WireError::OutOfSequence { expected: 3, got: 2 });
    let unheard = next.replace("\"serverseq\":1", "\"serverseq\":9");
    assert_eq!(line.fails(&unheard), WireError::OutOfSequence { expected: 2, got: 9 });
    let foreign = next.replace(SESSION, OTHER);
    assert!(matches!(line.fails(&foreign), WireError::Foreign(_)));
    assert_eq!(line.say(&next).1, [ServerSays::Pong(3)]);
}

#[test]
fn every_mistake_has_its_code() {
    let mut line = Line::opened(open());
    let second = line.client.open(open());
    assert_eq!(line.fails(&second), WireError::OutOfPlace("open".to_owned()));
    let bad = line.client.ping(None).replace("\"ping\"", "\"update\"");
    assert_eq!(
        line.fails(&bad),
        WireError::Malformed("parameters of update: missing field `language`".to_owned())
    );
    let unknown = line.client.ping(None).replace("\"ping\"", &format!("\"{}\"", "x".repeat(100)));
    assert!(line.fails(&unknown).to_string().len() < 100);
    let other_version = line.client.clone().ping(None).replace("\"version\":\"2\"", "\"version\":\"1\"");
    assert_eq!(line.fails(&other_version).code(), "malformed");
    // The numbers of what was understood in part are used up, so the call goes on.
    let ping = line.client.ping(None);
    assert_eq!(line.say(&ping).1, [ServerSays::Pong(5)]);
    for (error, code) in [
        (WireError::Malformed("x".to_owned()), "400 "),
        (WireError::TooEarly("audio"), "409 "),
        (WireError::OutOfPlace("x".to_owned()), "409 "),
        (WireError::OutOfSequence { expected: 1, got: 2 }, "409 "),
        (WireError::Foreign("x".to_owned()), "409 "),
        (WireError::TooLarge { bytes: 2, limit: 1 }, "413 "),
        (WireError::UnknownAudio("x".to_owned()), "415 "),
    ] {
        let mut line = Line::opened(open());
        let frames = line.hook.refusal(&error);
        match line.read(&frames).as_slice() {
            [ServerSays::Disconnect { info: Some(info), .. }] => assert!(info.starts_with(code), "{info}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_open_and_what_is_harmless_comes_first() {
    let early: [fn(&mut Client) -> String; 3] =
        [Client::paused, |client| client.update("en-US"), |client| client.discarded(1)];
    for early in early {
        let mut line = Line::new();
        let text = early(&mut line.client);
        assert!(matches!(line.fails(&text), WireError::TooEarly(_)));
    }
    let mut line = Line::new();
    let ping = line.client.ping(None);
    assert_eq!(line.say(&ping).1, [ServerSays::Pong(1)]);
    let close = line.client.close(CloseReason::Error);
    assert_eq!(line.say(&close).0, [Happening::Closed { reason: "error".to_owned() }]);
    assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
}

#[test]
fn an_organization_other_than_the_headers_is_refused() {
    let mut line = Line::new();
    let text = line.client.open(open()).replace(ORGANIZATION, OTHER);
    assert!(matches!(line.fails(&text), WireError::Foreign(_)));
}

#[test]
fn a_session_without_a_header_is_named_by_its_first_message() {
    let mut client = Client::new(Session { id: SESSION.to_owned(), ..Session::default() });
    let mut hook = AudioHook::new(Session::default());
    let ping = client.ping(None);
    let heard = hook.hear(Message::Text(&ping)).unwrap();
    let [Frame::Text(pong)] = heard.replies.as_slice() else { panic!("{heard:?}") };
    assert_eq!(client.read(pong), Ok(ServerSays::Pong(1)));
    let foreign = client.ping(None).replace(SESSION, OTHER);
    assert!(matches!(hook.hear(Message::Text(&foreign)), Err(WireError::Foreign(_))));
}

#[test]
fn a_wrong_configuration_is_refused_by_name() {
    for (config, field) in [
        (json!({"agent": 5}), "customConfig.agent"),
        (json!({"agent": " "}), "customConfig.agent"),
        (json!({"agent": "x".repeat(201)}), "customConfig.agent"),
        (json!({"knowledge": "tel"}), "customConfig.knowledge"),
        (json!({"knowledge": [5]}), "customConfig.knowledge"),
        (json!({"knowledge": vec!["x"; 33]}), "customConfig.knowledge"),
        (json!({"partials": "yes"}), "customConfig.partials"),
        (json!({"agentassist": 1}), "customConfig.agentassist"),
    ] {
        let mut line = Line::new();
        let text = line.client.open(configured(config));
        let error = line.fails(&text).to_string();
        assert!(error.contains(field), "{error}");
    }
    Line::opened(configured(json!({"agent": null, "knowledge": null, "partials": null})));
}

#[test]
fn a_text_may_have_as_many_characters_as_the_protocol_says_and_no_more() {
    let sized = |line: &mut Line, filler: &str, count: usize| {
        let text = line.client.ping(None);
        let used = text.encode_utf16().count() + "\"x\":\"\"".len();
        let units = filler.encode_utf16().count();
        text.replace("{}", &format!("{{\"x\":\"{}\"}}", filler.repeat((count - used) / units)))
    };
    for filler in ["a", "ü", "猫"] {
        let mut line = Line::opened(open());
        let text = sized(&mut line, filler, TEXT_MAX_CHARS);
        assert_eq!(text.encode_utf16().count(), TEXT_MAX_CHARS);
        assert_eq!(line.say(&text).1.len(), 1);
        let longer = sized(&mut line, filler, TEXT_MAX_CHARS + 1);
        assert_eq!(line.fails(&longer).code(), "message_too_large");
    }
}
