//! What goes back in `event` messages.

use super::*;
use crate::event::Card;
use crate::event::Segment;
use crate::event::Word;
use crate::telephony::audiohook::message::TEXT_MAX_CHARS;

fn segment(text: &str) -> Segment {
    Segment {
        id: "s-1".to_owned(),
        speaker: Speaker::Customer,
        text: text.to_owned(),
        start_ms: 1000,
        end_ms: 2500,
        is_final: true,
    }
}

fn word(text: &str, start_ms: u64, end_ms: u64) -> Word {
    Word { text: text.to_owned(), start_ms, end_ms, confidence: None }
}

/// Tells a segment and returns the transcripts, after what every one must keep.
fn told(line: &mut Line, segment: &Segment, words: Option<&[Word]>) -> Vec<TranscriptSaid> {
    let frames = line.hook.tell(News::Segment(segment, words));
    for frame in &frames {
        let Frame::Text(text) = frame else { panic!("{frame:?}") };
        assert!(text.len() <= TEXT_MAX_CHARS, "{} bytes", text.len());
    }
    let mut transcripts = Vec::new();
    for said in line.read(&frames) {
        let ServerSays::Event(entities) = said else { panic!("{said:?}") };
        for entity in entities {
            let EntitySaid::Transcript(transcript) = entity else { panic!("{entity:?}") };
            let offsets: Vec<u64> = transcript.tokens.iter().map(|token| token.1).collect();
            assert!(offsets.is_sorted_by(|one, next| one < next), "{offsets:?}");
            assert!(message::is_uuid(&transcript.id));
            transcripts.push(transcript);
        }
    }
    transcripts
}

#[test]
fn a_segment_becomes_a_transcript_with_every_field() {
    let mut line = Line::opened(open());
    let words = [word("my", 1000, 1200), word("bill", 1300, 2500)];
    let frames = line.hook.tell(News::Segment(&segment("my bill"), Some(&words)));
    let [Frame::Text(text)] = frames.as_slice() else { panic!("{frames:?}") };
    let said: Value = serde_json::from_str(text).unwrap();
    let id = said["parameters"]["entities"][0]["data"]["id"].clone();
    let token = |value: &str, offset: &str, duration: &str| {
        json!({"type": "word", "value": value, "confidence": 1.0, "offset": offset,
            "duration": duration, "language": "en-US"})
    };
    let expected = json!({"version": "2", "id": SESSION, "type": "event", "seq": 2, "clientseq": 1,
        "parameters": {"entities": [{"type": "transcript", "data": {
            "id": id, "channelId": 0, "isFinal": true, "offset": "PT1S", "duration": "PT1.5S",
            "alternatives": [{"confidence": 1.0, "languages": ["en-US"], "interpretations": [{
                "type": "display", "transcript": "my bill",
                "tokens": [token("my", "PT1S", "PT0.2S"), token("bill", "PT1.3S", "PT1.2S")]}]}]}}]}});
    assert_eq!(said, expected);
}

#[test]
fn a_segment_is_told_once_and_partial_ones_to_who_asks() {
    let partial = Segment { is_final: false, ..segment("my") };
    let mut line = Line::opened(open());
    assert_eq!(told(&mut line, &partial, None), []);
    assert_eq!(told(&mut line, &segment("my bill"), None).len(), 1);
    assert_eq!(told(&mut line, &segment("my bill"), None), []);
    let mut line = Line::opened(configured(json!({"partials": true})));
    let first = told(&mut line, &partial, None).remove(0);
    let last = told(&mut line, &segment("my bill"), None).remove(0);
    assert_eq!((first.is_final, last.is_final, &first.id), (false, true, &last.id));
    assert_eq!(told(&mut line, &partial, None), []);
    let agent = Segment { id: "s-2".to_owned(), speaker: Speaker::Agent, ..segment("hello") };
    assert_eq!(told(&mut line, &agent, None)[0].channel, 1);
    for number in 0..2 * TOLD_MAX {
        told(&mut line, &Segment { id: number.to_string(), ..segment("x") }, None);
    }
    assert_eq!(line.hook.told.len(), TOLD_MAX);
}

#[test]
fn segments_are_told_between_opened_and_closed() {
    let mut line = Line::new();
    assert_eq!(told(&mut line, &segment("x"), None), []);
    let text = line.client.open(open());
    line.say(&text);
    assert_eq!(told(&mut line, &segment("x"), None), []);
    line.tell(News::Opened);
    let close = line.client.close(CloseReason::End);
    line.say(&close);
    assert_eq!(told(&mut line, &segment("x"), None).len(), 1);
    line.tell(News::Finished);
    assert_eq!(told(&mut line, &Segment { id: "s-3".to_owned(), ..segment("x") }, None), []);
}

#[test]
fn words_without_times_share_the_segments_time() {
    let mut line = Line::opened(open());
    let said = told(&mut line, &segment(" one  two\tthree "), None).remove(0);
    let expected = [("one", 1_000_000, 500_000), ("two", 1_500_000, 500_000), ("three", 2_000_000, 500_000)];
    let expected = expected.map(|(text, offset, duration)| (text.to_owned(), offset, duration));
    assert_eq!(said.tokens, expected);
    // Times that stand still, go back or are at the end of what can be counted still rise.
    let words = [word("a", 5, 5), word("b", 5, 2), word("c c", 1, 1), word("", 9, 9), word("d", u64::MAX, 0)];
    let timeless = Segment { id: "s-2".to_owned(), start_ms: 5, end_ms: 0, ..segment("a b c c d") };
    let said = told(&mut line, &Segment { end_ms: 0, ..timeless }, Some(&words[..4])).remove(0);
    assert_eq!(said.tokens.iter().map(|token| token.1).collect::<Vec<_>>(), [5000, 5001, 5002, 5003]);
}

#[test]
fn a_long_segment_is_told_in_parts_and_nothing_is_left_out() {
    let sentence = (0..10_000).map(|number| format!("w{number}")).collect::<Vec<_>>().join(" ");
    let texts = [sentence.clone(), "猫".repeat(30_000), "\u{1}".repeat(30_000), "🙂 ".repeat(10_000)];
    for text in texts {
        let mut line = Line::opened(configured(json!({"partials": true})));
        let long = Segment { end_ms: 600_000, ..segment(&text) };
        let partial = Segment { is_final: false, ..long.clone() };
        assert_eq!(told(&mut line, &partial, None).len(), 1);
        let parts = told(&mut line, &long, None);
        assert!(parts.len() > 1);
        let without_space = |text: &str| text.split_whitespace().collect::<String>();
        let texts: String = parts.iter().map(|part| without_space(&part.text)).collect();
        let tokens: String =
            parts.iter().flat_map(|part| &part.tokens).map(|token| token.0.as_str()).collect();
        assert!(texts == without_space(&text) && tokens == texts, "something was left out");
        let mut ids: Vec<&str> = parts.iter().map(|part| part.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), parts.len());
        assert!(parts.is_sorted_by(|one, next| one.offset_us < next.offset_us));
    }
    let words: Vec<Word> =
        sentence.split(' ').zip(0..).map(|(text, at)| word(text, at * 60, at * 60 + 50)).collect();
    let mut line = Line::opened(open());
    let parts = told(&mut line, &segment(&sentence), Some(&words));
    for part in &parts {
        let tokens: Vec<&str> = part.tokens.iter().map(|token| token.0.as_str()).collect();
        assert_eq!(part.text, tokens.join(" "));
        assert_eq!(part.offset_us, part.tokens[0].1);
    }
    assert_eq!(parts.iter().map(|part| part.tokens.len()).sum::<usize>(), 10_000);
}

fn card(id: &str, passage: &str, score: f32) -> Card {
    Card {
        id: id.to_owned(),
        article: "bill/2024 ü".to_owned(),
        title: "Your bill".to_owned(),
        passage: passage.to_owned(),
        highlights: vec![],
        score,
        base: "tel".to_owned(),
        version: 3,
    }
}

fn suggested(line: &mut Line, cards: &[Card]) -> Vec<Vec<Value>> {
    let frames = line.hook.tell(News::Cards(cards));
    for frame in &frames {
        let Frame::Text(text) = frame else { panic!("{frame:?}") };
        assert!(text.len() <= TEXT_MAX_CHARS, "{} bytes", text.len());
    }
    let said = line.read(&frames);
    said.into_iter()
        .map(|said| match said {
            ServerSays::Event(entities) => match entities.as_slice() {
                [EntitySaid::Suggestions(suggestions)] => suggestions.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn cards_become_articles_for_who_asks() {
    let cards = [card("bill#1", "You can pay late.", 20.0), card("bill#2", "Or not.", 5.0)];
    let mut line = Line::opened(open());
    assert!(suggested(&mut line, &cards).is_empty());
    let mut line = Line::opened(configured(json!({"agentassist": true})));
    assert!(suggested(&mut line, &[]).is_empty());
    let messages = suggested(&mut line, &cards);
    let [articles] = messages.as_slice() else { panic!("{messages:?}") };
    let expected = json!({"type": "article", "id": articles[0]["id"], "confidence": 1.0, "title": "Your bill",
        "excerpts": ["You can pay late."], "documentUri": "/knowledge/tel/bill%2F2024%20%C3%BC",
        "metadata": {"base": "tel", "version": "3"}});
    assert_eq!(articles[0], expected);
    assert_eq!(articles[1]["confidence"], 0.25);
    assert!(message::is_uuid(articles[1]["id"].as_str().unwrap()));
    assert_ne!(articles[0]["id"], articles[1]["id"]);
}

#[test]
fn many_cards_are_several_messages_and_a_long_passage_is_shortened() {
    let mut line = Line::opened(configured(json!({"agentassist": true})));
    let cards: Vec<Card> =
        (0..30).map(|number| card(&format!("bill#{number}"), &"x".repeat(5000), 1.0)).collect();
    let messages = suggested(&mut line, &cards);
    assert!(messages.len() > 1);
    assert_eq!(messages.iter().map(Vec::len).sum::<usize>(), 30);
    for (passage, score) in [("\u{1}".repeat(100_000), f32::NAN), ("🙂".repeat(100_000), -1.0)] {
        let messages =
            suggested(&mut line, &[card("bill#1", &passage, score), card("bill#2", "x", f32::INFINITY)]);
        let excerpt = messages[0][0]["excerpts"][0].as_str().unwrap();
        assert!(excerpt.ends_with('…') && excerpt.chars().count() == 8000);
    }
}
