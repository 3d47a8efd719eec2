//! Whole conversations with right and wrong messages in any order, against a model of what must come out.

use proptest::collection::vec;
use proptest::num::u8::ANY as BYTE;
use proptest::prelude::*;

use super::*;
use crate::event::Segment;

#[derive(Debug, Clone)]
enum Step {
    Ping,
    Update,
    Pause,
    Resume(u64),
    Discard(u64),
    Audio(usize),
    Fault,
    Key,
    Segment(bool),
    Draining,
    /// Wrong ones.
    Garbage(String),
    Gap,
    Repeat,
    Foreign,
    Ahead,
    BadParameters,
    SecondOpen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        Just(Step::Ping),
        Just(Step::Update),
        Just(Step::Pause),
        (0..5_000_000_u64).prop_map(Step::Resume),
        (0..3_000_u64).prop_map(Step::Discard),
        (0..5000_usize).prop_map(Step::Audio),
        (0..5000_usize).prop_map(Step::Audio),
        Just(Step::Fault),
        Just(Step::Key),
        any::<bool>().prop_map(Step::Segment),
        Just(Step::Draining),
        ".{0,60}".prop_map(Step::Garbage),
        Just(Step::Gap),
        Just(Step::Repeat),
        Just(Step::Foreign),
        Just(Step::Ahead),
        Just(Step::BadParameters),
        Just(Step::SecondOpen),
    ];
    vec(step, 0..200)
}

/// What a call must have come to.
#[derive(Debug, Default, PartialEq)]
struct Model {
    position_us: u64,
    skipped_us: u64,
    rest: usize,
    is_paused: bool,
    has_drained: bool,
}

impl Model {
    fn skip(&mut self, us: u64) -> Vec<Happening> {
        let before = self.skipped_us / 1000;
        self.skipped_us += us;
        self.position_us += us;
        self.rest = 0;
        match self.skipped_us / 1000 - before {
            0 => vec![],
            ms => vec![Happening::Skipped(ms)],
        }
    }

    /// Plays one right step on the line and checks what came of it.
    fn play(&mut self, line: &mut Line, step: &Step, number: usize) {
        match step {
            Step::Ping => {
                let text = line.client.ping(Some(number as u64));
                let sequence = line.client.sequence();
                assert_eq!(line.say(&text), (vec![], vec![ServerSays::Pong(sequence)]));
            }
            Step::Update => {
                let text = line.client.update("de-DE");
                let language = Happening::Language("de-DE".to_owned());
                assert_eq!(line.say(&text), (vec![language], vec![ServerSays::Updated]));
            }
            Step::Pause => {
                let text = line.client.paused();
                let expected = if self.is_paused { vec![] } else { vec![Happening::Hold(true)] };
                assert_eq!(line.say(&text), (expected, vec![]));
                self.is_paused = true;
                self.rest = 0;
            }
            Step::Resume(us) => {
                let text = line.client.resumed(*us);
                let mut expected = self.skip(*us);
                if std::mem::take(&mut self.is_paused) {
                    expected.push(Happening::Hold(false));
                }
                assert_eq!(line.say(&text), (expected, vec![]));
            }
            Step::Discard(us) => {
                let text = line.client.discarded(*us);
                let expected = self.skip(*us);
                assert_eq!(line.say(&text), (expected, vec![]));
            }
            Step::Audio(bytes) => {
                let heard = line.send(&vec![0; *bytes]);
                if self.is_paused {
                    assert_eq!(heard, []);
                    return;
                }
                let whole = (self.rest + bytes) / 2 * 2;
                self.rest = self.rest + bytes - whole;
                self.position_us += whole as u64 / 2 * 125;
                let expected = Happening::Audio { format: stereo(), bytes: vec![0; whole] };
                assert_eq!(heard, if whole == 0 { vec![] } else { vec![expected] });
            }
            Step::Fault => {
                let text = line.client.error(500, "x");
                assert_eq!(line.say(&text), (vec![], vec![]));
            }
            Step::Key => {
                let text = line.client.ping(None).replace("\"ping\"", "\"dtmf\"");
                assert_eq!(line.say(&text), (vec![Happening::Key], vec![]));
            }
            Step::Segment(is_final) => {
                let segment = Segment {
                    id: number.to_string(),
                    speaker: Speaker::Agent,
                    text: "one two".to_owned(),
                    start_ms: 0,
                    end_ms: number as u64,
                    is_final: *is_final,
                };
                assert_eq!(line.tell(News::Segment(&segment, None)).len(), usize::from(*is_final));
            }
            Step::Draining => {
                let expected = usize::from(!std::mem::replace(&mut self.has_drained, true));
                assert_eq!(line.tell(News::Draining).len(), expected);
            }
            wrong => play_wrong(line, wrong),
        }
    }
}

/// Sends one wrong message; the wire goes on as if it had not come.
fn play_wrong(line: &mut Line, step: &Step) {
    let mut other = line.client.clone();
    let (text, code) = match step {
        Step::Garbage(text) => (text.clone(), "malformed"),
        Step::Gap => {
            other.ping(None);
            (other.ping(None), "out_of_sequence")
        }
        Step::Repeat => {
            let sequence = other.sequence() + 1;
            let due = format!("\"seq\":{sequence}");
            (other.ping(None).replace(&due, &format!("\"seq\":{}", sequence - 1)), "out_of_sequence")
        }
        Step::Foreign => (other.ping(None).replace(SESSION, OTHER), "foreign"),
        Step::Ahead => (other.ping(None).replace("\"serverseq\":", "\"serverseq\":9999"), "out_of_sequence"),
        // The client has counted these two, and so has the wire.
        Step::BadParameters => (line.client.ping(None).replace("\"ping\"", "\"close\""), "malformed"),
        Step::SecondOpen => (line.client.open(open()), "out_of_place"),
        right => panic!("{right:?} is not wrong"),
    };
    assert_eq!(line.fails(&text).code(), code, "{text}");
}

proptest! {
    #[test]
    fn right_messages_are_understood_between_wrong_ones(steps in steps()) {
        let mut line = Line::opened(open());
        let mut model = Model::default();
        for (number, step) in steps.iter().enumerate() {
            model.play(&mut line, step, number);
            prop_assert_eq!(line.hook.position_us, model.position_us);
            prop_assert_eq!(line.hook.rest.len(), model.rest);
            prop_assert!(line.hook.told.len() <= TOLD_MAX);
        }
        let close = line.client.close(CloseReason::End);
        prop_assert_eq!(line.say(&close), (vec![Happening::Closed { reason: "hangup".to_owned() }], vec![]));
        prop_assert_eq!(line.tell(News::Finished), vec![ServerSays::Closed]);
    }

    #[test]
    fn nothing_makes_it_panic_or_keep_what_it_need_not(
        texts in vec(".{0,300}", 0..20), bytes in vec(vec(BYTE, 0..40), 0..20), starts_open: bool,
    ) {
        let mut line = if starts_open { Line::opened(open()) } else { Line::new() };
        for (text, bytes) in texts.iter().zip(&bytes) {
            prop_assert!(line.hook.hear(Message::Text(text)).is_err());
            let heard = line.hook.hear(Message::Binary(bytes));
            prop_assert_eq!(heard.is_ok(), starts_open);
            prop_assert!(line.hook.rest.len() < 2);
        }
        let ping = line.client.ping(None);
        prop_assert_eq!(line.say(&ping).1.len(), 1);
    }

    /// A byte of a right message changed, and a right one after it: whatever the first came to, the wire
    /// takes the next number or the same.
    #[test]
    fn a_changed_message_leaves_the_wire_as_it_was_or_is_counted(
        which in 0..8_usize, at: prop::sample::Index, with in "[ -~ü]",
    ) {
        let mut line = if which == 0 { Line::new() } else { Line::opened(open()) };
        let text = match which {
            0 => line.client.open(configured(json!({"agent": "ann", "knowledge": ["tel"]}))),
            1 => line.client.ping(Some(5)),
            2 => line.client.update("en-GB"),
            3 => line.client.paused(),
            4 => line.client.resumed(1500),
            5 => line.client.discarded(1500),
            6 => line.client.error(400, "x"),
            _ => line.client.close(CloseReason::End),
        };
        let mut changed = text.clone();
        let at = at.index(text.len());
        changed.replace_range(at..=at, &with);
        let before = line.hook.client_sequence;
        let result = line.hook.hear(Message::Text(&changed));
        let after = line.hook.client_sequence;
        prop_assert!(after == before || after == before + 1);
        if let Err(error) = &result {
            prop_assert!(error.to_string().chars().count() < 200);
        } else {
            prop_assert_eq!(after, before + 1);
        }
        if after == before {
            prop_assert!(line.hook.hear(Message::Text(&text)).is_ok());
        }
        let replies = line.hook.refusal(&WireError::TooEarly("audio"));
        prop_assert!(line.hook.is_leaving() || replies.is_empty());
    }
}
