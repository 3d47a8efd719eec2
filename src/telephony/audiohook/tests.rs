//! Whole AudioHook conversations without sockets: a client against the wire.

use serde_json::Value;

use super::client::Client;
use super::client::EntitySaid;
use super::client::ServerSays;
use super::client::TranscriptSaid;
use super::message::ContinuedSession;
use super::message::Participant;
use super::opening::cut;
use super::*;
use crate::event::Speaker;
use crate::telephony::Channels;
use crate::telephony::Encoding;
use crate::telephony::MESSAGE_MAX_BYTES;
use crate::telephony::Opening;

mod conversations;
mod events;
mod rules;

const SESSION: &str = "30b0e395-84d3-4570-ac13-9a62d8f514c0";
const ORGANIZATION: &str = "d7934305-0972-4844-938e-9060eef73d05";
const CONVERSATION: &str = "e160e428-53e2-487c-977d-96989bf5c99d";
const OTHER: &str = "11111111-1111-4111-8111-111111111111";

/// Both ends of one connection.
struct Line {
    client: Client,
    hook: AudioHook,
}

impl Line {
    fn new() -> Line {
        let session = Session {
            id: SESSION.to_owned(),
            organization: ORGANIZATION.to_owned(),
            correlation: "c-1".to_owned(),
        };
        Line { client: Client::new(session.clone()), hook: AudioHook::new(session) }
    }

    /// A line whose call is open.
    fn opened(open: Open) -> Line {
        let mut line = Line::new();
        let text = line.client.open(open);
        let (happenings, answers) = line.say(&text);
        assert!(matches!(happenings.as_slice(), [Happening::Opened(_)]), "{happenings:?}");
        assert!(answers.is_empty());
        assert!(matches!(line.tell(News::Opened).as_slice(), [ServerSays::Opened { .. }]));
        line
    }

    fn say(&mut self, text: &str) -> (Vec<Happening>, Vec<ServerSays>) {
        let heard = self.hook.hear(Message::Text(text)).unwrap();
        (heard.happenings, self.read(&heard.replies))
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<Happening> {
        let heard = self.hook.hear(Message::Binary(bytes)).unwrap();
        self.client.audio_sent(bytes.len());
        assert!(heard.replies.is_empty());
        heard.happenings
    }

    fn fails(&mut self, text: &str) -> WireError {
        self.hook.hear(Message::Text(text)).unwrap_err()
    }

    fn tell(&mut self, news: News<'_>) -> Vec<ServerSays> {
        let frames = self.hook.tell(news);
        self.read(&frames)
    }

    fn read(&mut self, frames: &[Frame]) -> Vec<ServerSays> {
        let texts = frames.iter().map(|frame| match frame {
            Frame::Text(text) => text,
            other => panic!("{other:?} is no text"),
        });
        texts.map(|text| self.client.read(text).unwrap()).collect()
    }
}

fn open() -> Open {
    Open {
        conversation_id: CONVERSATION.to_owned(),
        participant: Participant {
            id: OTHER.to_owned(),
            ani: "+15555551234".to_owned(),
            ani_name: "John Doe".to_owned(),
            dnis: "+18005556789".to_owned(),
        },
        media: vec![Media::new("PCMU", &["external", "internal"]), Media::new("PCMU", &["external"])],
        language: Some("en-US".to_owned()),
        ..Open::default()
    }
}

fn configured(config: Value) -> Open {
    Open { custom_config: Some(config.as_object().unwrap().clone()), ..open() }
}

fn stereo() -> AudioFormat {
    let channels = Channels::Two(Speaker::Customer, Speaker::Agent);
    AudioFormat { encoding: Encoding::Mulaw, rate_hz: 8000, channels }
}

#[test]
fn a_call_goes_from_open_to_closed() {
    let mut line = Line::new();
    let config = json!({"agent": "ann", "knowledge": ["tel", "bank"], "somebody": "else's"});
    let text = line.client.open(configured(config));
    let (happenings, answers) = line.say(&text);
    let opening = Opening {
        call: CONVERSATION.to_owned(),
        agent: Some("ann".to_owned()),
        customer: Some("John Doe".to_owned()),
        language: Some("en-US".to_owned()),
        knowledge: vec!["tel".to_owned(), "bank".to_owned()],
        is_chat: false,
        speaker: None,
        metadata: json!({"organization": ORGANIZATION, "session": SESSION, "correlation": "c-1",
            "participant": OTHER, "dnis": "+18005556789"}),
    };
    assert_eq!((happenings, answers), (vec![Happening::Opened(opening)], vec![]));
    let media = Some(Media::new("PCMU", &["external", "internal"]));
    let opened = ServerSays::Opened { media, start_paused: false, languages: None };
    assert_eq!(line.tell(News::Opened), [opened]);
    assert_eq!(line.tell(News::Opened), []);
    let ping = line.client.ping(None);
    assert_eq!(line.say(&ping), (vec![], vec![ServerSays::Pong(2)]));
    let audio = Happening::Audio { format: stereo(), bytes: vec![0x7f; 3200] };
    assert_eq!(line.send(&[0x7f; 3200]), [audio]);
    assert_eq!(line.hook.position_ms(), 200);
    let ping = line.client.ping(Some(12_345));
    assert_eq!(line.say(&ping), (vec![], vec![ServerSays::Pong(3)]));
    let close = line.client.close(CloseReason::End);
    assert_eq!(line.say(&close), (vec![Happening::Closed { reason: "hangup".to_owned() }], vec![]));
    assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
    assert_eq!(line.tell(News::Finished), []);
}

#[test]
fn a_probe_is_answered_in_full_and_no_call_is_opened() {
    for media in [vec![Media::new("PCMU", &["external", "internal"])], vec![]] {
        let mut line = Line::new();
        let probe = line.client.probe(media.clone());
        let (happenings, answers) = line.say(&probe);
        assert_eq!(happenings, [Happening::Probed]);
        let opened =
            ServerSays::Opened { media: media.first().cloned(), start_paused: false, languages: None };
        assert_eq!(answers, [opened]);
        assert_eq!(line.tell(News::Opened), []);
        let ping = line.client.ping(None);
        assert_eq!(line.say(&ping).1, [ServerSays::Pong(2)]);
        let paused = line.client.paused();
        assert_eq!(line.say(&paused), (vec![], vec![]));
        let update = line.client.update("de-DE");
        assert_eq!(line.say(&update), (vec![], vec![ServerSays::Updated]));
        // The public client tries audio too: nothing, or a tone.
        for bytes in [&[][..], &[0; 320]] {
            assert_eq!(line.hook.hear(Message::Binary(bytes)), Ok(Heard::default()));
        }
        assert_eq!(line.tell(News::Draining), []);
        let close = line.client.close(CloseReason::End);
        let (happenings, answers) = line.say(&close);
        assert_eq!(happenings, [Happening::Closed { reason: "hangup".to_owned() }]);
        assert_eq!(answers, []);
        assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
        assert_eq!(line.tell(News::Finished), []);
    }
}

#[test]
fn what_is_left_out_counts_in_the_timeline() {
    let mut line = Line::opened(open());
    line.send(&[0; 1600]);
    let paused = line.client.paused();
    assert_eq!(line.say(&paused).0, [Happening::Hold(true)]);
    // The public suite's client says it twice.
    let paused = line.client.paused();
    assert_eq!(line.say(&paused).0, []);
    assert_eq!(line.hook.hear(Message::Binary(&[0; 1600])), Ok(Heard::default()));
    let resumed = line.client.resumed(10_000_000);
    assert_eq!(line.say(&resumed).0, [Happening::Skipped(10_000), Happening::Hold(false)]);
    assert_eq!((line.hook.position_ms(), line.hook.drift_ms()), (10_100, 0));
    // Less than a millisecond is not lost.
    let spans = [600, 600, 800].map(|us| {
        let discarded = line.client.discarded(us);
        line.say(&discarded).0
    });
    assert_eq!(spans, [vec![], vec![Happening::Skipped(1)], vec![Happening::Skipped(1)]]);
    assert_eq!(line.client.position_us(), 10_102_000);
    // A start that does not fit the received bytes is tolerated, and known.
    let text = line.client.discarded(300_000).replace("PT10.102S\",\"discarded", "PT6.3S\",\"discarded");
    assert_eq!(line.say(&text).0, [Happening::Skipped(300)]);
    assert_eq!((line.hook.position_ms(), line.hook.drift_ms()), (10_402, -3802));
    let resumed = line.client.resumed(0);
    assert_eq!(line.say(&resumed).0, []);
    let endless = line.client.discarded(message::SPAN_MAX_US + 1);
    assert_eq!(line.fails(&endless).code(), "malformed");
}

#[test]
fn a_cut_sample_waits_for_its_other_half() {
    let mut line = Line::opened(Open { media: vec![Media::new("L16", &["external", "internal"])], ..open() });
    let bytes: Vec<u8> = (0..=254).collect();
    let mut heard = Vec::new();
    for part in bytes.chunks(3) {
        for happening in line.send(part) {
            let Happening::Audio { format, bytes } = happening else { panic!("{happening:?}") };
            assert_eq!((format.encoding, bytes.len() % 4), (Encoding::Linear16, 0));
            heard.extend(bytes);
        }
        assert!(line.hook.rest.len() < 4);
    }
    assert_eq!(heard, bytes[..252]);
    assert_eq!(line.send(&[]), []);
    let too_large = vec![0; MESSAGE_MAX_BYTES + 1];
    let error = line.hook.hear(Message::Binary(&too_large)).unwrap_err();
    assert_eq!(error, WireError::TooLarge { bytes: MESSAGE_MAX_BYTES + 1, limit: MESSAGE_MAX_BYTES });
}

#[test]
fn audio_before_opened_is_an_error_and_after_disconnect_is_not_heard() {
    let mut line = Line::new();
    assert_eq!(line.hook.hear(Message::Binary(&[0; 2])), Err(WireError::TooEarly("audio")));
    let text = line.client.open(open());
    line.say(&text);
    assert_eq!(line.hook.hear(Message::Binary(&[0; 2])), Err(WireError::TooEarly("audio")));
    line.tell(News::Opened);
    line.tell(News::Finished);
    assert_eq!(line.hook.hear(Message::Binary(&[0; 2])), Ok(Heard::default()));
    let close = line.client.close(CloseReason::Disconnect);
    line.say(&close);
    assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
    assert_eq!(line.hook.hear(Message::Binary(&[0; 2])), Err(WireError::OutOfPlace("audio".to_owned())));
}

#[test]
fn one_speaker_and_the_other_order_are_taken_too() {
    for (media, channels) in [
        (Media::new("L16", &["internal", "external"]), Channels::Two(Speaker::Agent, Speaker::Customer)),
        (Media::new("PCMU", &["external"]), Channels::One(Speaker::Customer)),
        (Media::new("PCMU", &["internal"]), Channels::One(Speaker::Agent)),
    ] {
        let mut line = Line::new();
        let text = line.client.open(Open { media: vec![media.clone()], ..open() });
        let only = match channels {
            Channels::One(speaker) => Some(speaker),
            Channels::Two(..) => None,
        };
        match line.say(&text).0.as_slice() {
            [Happening::Opened(opening)] => assert_eq!(opening.speaker, only),
            other => panic!("{other:?}"),
        }
        line.tell(News::Opened);
        assert_eq!(line.client.media(), Some(&media));
        match line.send(&[0; 8]).as_slice() {
            [Happening::Audio { format, .. }] => assert_eq!(format.channels, channels),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_session_that_goes_on_with_others_names_them() {
    let mut line = Line::new();
    let earlier = ContinuedSession { id: OTHER.to_owned(), serverseq: 7, clientseq: 9 };
    let text = line.client.open(Open { continued_sessions: Some(vec![earlier.clone()]), ..open() });
    match line.say(&text).0.as_slice() {
        [Happening::Opened(Opening { call, metadata, .. })] => {
            assert_eq!(call, CONVERSATION);
            let expected = json!([{"id": OTHER, "serverseq": 7, "clientseq": 9}]);
            assert_eq!(metadata["continued_sessions"], expected);
        }
        other => panic!("{other:?}"),
    }
    let mut line = Line::new();
    let text = line.client.open(Open { continued_sessions: Some(vec![earlier; 33]), ..open() });
    assert_eq!(line.fails(&text).code(), "malformed");
}

#[test]
fn the_number_stands_in_for_a_missing_name() {
    for (ani_name, ani, customer) in
        [(" ", "+1555", Some("+1555")), ("", "", None), ("Ann", "+1", Some("Ann"))]
    {
        let mut line = Line::new();
        let mut named = open();
        named.participant.ani_name = ani_name.to_owned();
        named.participant.ani = ani.to_owned();
        let text = line.client.open(named);
        match line.say(&text).0.as_slice() {
            [Happening::Opened(opening)] => assert_eq!(opening.customer.as_deref(), customer),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cut(&"ü".repeat(200)).len(), 200);
}

#[test]
fn the_languages_are_told_to_who_asks() {
    let mut line = Line::new();
    line.hook = line.hook.with_languages(vec!["nl".to_owned()]);
    let text = line.client.open(Open { supported_languages: Some(true), ..open() });
    line.say(&text);
    match line.tell(News::Opened).as_slice() {
        [ServerSays::Opened { languages: Some(languages), .. }] => assert_eq!(languages, &["nl-BE", "nl-NL"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_language_is_answered_and_passed_on() {
    let mut line = Line::opened(open());
    let update = line.client.update("es-ES");
    assert_eq!(line.say(&update), (vec![Happening::Language("es-ES".to_owned())], vec![ServerSays::Updated]));
    let bad = line.client.update("not a language");
    assert_eq!(line.fails(&bad).code(), "malformed");
}

#[test]
fn a_complaint_ends_nothing_until_the_client_closes() {
    let mut line = Line::opened(open());
    let error = line.client.error(408, &"x".repeat(1000));
    assert_eq!(line.say(&error), (vec![], vec![]));
    let fault = line.hook.fault().unwrap();
    assert_eq!((fault.code, fault.message.chars().count()), (408, INFO_MAX_CHARS));
    let close = line.client.close(CloseReason::Error);
    assert_eq!(line.say(&close).0, [Happening::Closed { reason: "error".to_owned() }]);
    assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
}

#[test]
fn a_key_is_heard_and_not_which() {
    let mut line = Line::opened(open());
    let text = line.client.ping(None).replace("\"ping\"", "\"dtmf\"").replace("{}", r#"{"digit":"7"}"#);
    assert_eq!(line.say(&text), (vec![Happening::Key], vec![]));
}

#[test]
fn a_refused_call_is_told_and_its_close_is_answered() {
    let mut line = Line::new();
    let text = line.client.open(open());
    line.say(&text);
    let refused = line.tell(News::Refused("another socket feeds this call now"));
    let info = Some("another socket feeds this call now".to_owned());
    assert_eq!(refused, [ServerSays::Disconnect { reason: "error".to_owned(), info }]);
    assert_eq!(line.tell(News::Opened), []);
    let close = line.client.close(CloseReason::Disconnect);
    let (happenings, answers) = line.say(&close);
    assert_eq!(happenings, [Happening::Closed { reason: "disconnect".to_owned() }]);
    assert_eq!(answers, []);
    assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
}

#[test]
fn a_client_that_closes_while_the_call_is_opened_gets_its_answer() {
    for news in [News::Finished, News::Refused("no")] {
        let mut line = Line::new();
        let text = line.client.open(open());
        line.say(&text);
        let close = line.client.close(CloseReason::End);
        assert_eq!(line.say(&close).1, []);
        assert_eq!(line.tell(News::Opened), []);
        assert_eq!(line.tell(news), [ServerSays::Closed]);
    }
}

#[test]
fn a_draining_server_asks_to_come_back_once() {
    let mut line = Line::opened(open());
    assert!(matches!(line.tell(News::Draining).as_slice(), [ServerSays::Reconnect { .. }]));
    assert_eq!(line.tell(News::Draining), []);
    assert_eq!(line.send(&[0; 320]).len(), 1);
    let close = line.client.close(CloseReason::Reconnect);
    assert_eq!(line.say(&close).0, [Happening::Closed { reason: "reconnect".to_owned() }]);
    let mut line = Line::new();
    let text = line.client.open(open());
    line.say(&text);
    assert_eq!(line.tell(News::Draining), []);
    let told = line.tell(News::Opened);
    assert!(matches!(told.as_slice(), [ServerSays::Opened { .. }, ServerSays::Reconnect { .. }]), "{told:?}");
}

#[test]
fn a_call_that_the_service_ends_is_disconnected() {
    let mut line = Line::opened(open());
    let completed = ServerSays::Disconnect { reason: "completed".to_owned(), info: None };
    assert_eq!(line.tell(News::Finished), [completed]);
    let paused = line.client.paused();
    assert_eq!(line.say(&paused), (vec![], vec![]));
    let close = line.client.close(CloseReason::Disconnect);
    assert_eq!(line.say(&close).0, [Happening::Closed { reason: "disconnect".to_owned() }]);
    assert_eq!(line.tell(News::Finished), [ServerSays::Closed]);
}
