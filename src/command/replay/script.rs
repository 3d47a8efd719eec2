//! What a sender says about one recorded call, and when: the recording turned into a plan.
//!
//! While somebody speaks, the recogniser's guesses grow word group by word group (partial
//! segments); when they stop, the final segment follows. Typed messages come whole.

use serde::Serialize;

use crate::corpus::dialogue::Dialogue;
use crate::corpus::timing;
use crate::corpus::timing::TimeSource;
use crate::corpus::timing::TimedTurn;
use crate::event::Channel;
use crate::event::Speaker;
use crate::event::Word;

/// How long a recogniser listens before it shows its next guess.
const PARTIAL_EVERY_MS: u64 = 500;

/// One recorded call, ready to be sent as often as one likes.
#[derive(Debug)]
pub struct Script {
    /// The recording's id.
    pub recording: String,
    /// Voice or chat.
    pub channel: Channel,
    /// The knowledge bases that the recording's articles belong to.
    pub knowledge: Vec<String>,
    /// What is said; a turn's segment is named by its index, see [`segment_id`].
    pub turns: Vec<TimedTurn>,
    /// The messages in the order in which they are sent; a message's `seq` is its index plus one.
    pub steps: Vec<Step>,
}

/// One message of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When it is sent, in milliseconds from the call's start.
    pub at_ms: u64,
    /// The turn that it is about.
    pub turn: usize,
    /// How many of the turn's words have been heard.
    pub heard: usize,
    /// Whether the turn is over.
    pub is_final: bool,
}

/// A segment as it stands on the wire.
#[derive(Debug, Serialize)]
pub struct SegmentMessage<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    seq: u64,
    id: String,
    speaker: Speaker,
    text: String,
    start_ms: u64,
    end_ms: u64,
    #[serde(rename = "final")]
    is_final: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    words: Option<&'a [Word]>,
}

/// Returns the name of a turn's segment.
pub fn segment_id(turn: usize) -> String {
    format!("s{}", turn + 1)
}

/// Returns the turn that a segment's name stands for.
pub fn turn_of(segment: &str) -> Option<usize> {
    segment.strip_prefix('s')?.parse::<usize>().ok()?.checked_sub(1)
}

impl Script {
    /// Plans a recording. Without a `channel`, starts without ends mean chat and all else is voice.
    pub fn new(dialogue: &Dialogue, channel: Option<Channel>) -> Self {
        let recorded = match timing::source(dialogue) {
            TimeSource::Starts => Channel::Chat,
            TimeSource::Spans | TimeSource::Text => Channel::Voice,
        };
        let channel = channel.unwrap_or(recorded);
        let turns = timing::times(dialogue);
        let mut steps = Vec::new();
        for (turn, timed) in turns.iter().enumerate() {
            let heard = timed.words.len();
            let at_ms = if recorded == Channel::Chat { timed.start_ms } else { timed.end_ms };
            if channel == Channel::Voice {
                steps.extend(partials(turn, timed));
            }
            steps.push(Step { at_ms, turn, heard, is_final: true });
        }
        // Speakers may talk over each other.
        steps.sort_by_key(|step| step.at_ms);
        Script { recording: dialogue.id.clone(), channel, knowledge: bases(dialogue), turns, steps }
    }

    /// Returns the message of a step.
    pub fn message(&self, index: usize) -> SegmentMessage<'_> {
        let step = self.steps[index];
        let turn = &self.turns[step.turn];
        let heard = &turn.words[..step.heard];
        let spoken = || heard.iter().map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        let is_timed = step.is_final && self.channel == Channel::Voice;
        SegmentMessage {
            kind: "segment",
            seq: index as u64 + 1,
            id: segment_id(step.turn),
            speaker: turn.speaker,
            text: if step.is_final { turn.text.clone() } else { spoken() },
            start_ms: turn.start_ms,
            end_ms: heard.last().map_or(turn.end_ms, |word| word.end_ms),
            is_final: step.is_final,
            words: is_timed.then_some(heard),
        }
    }
}

/// Returns the guesses while a turn is spoken, without the last word: that one comes with the final.
fn partials(turn: usize, timed: &TimedTurn) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut shown_ms = timed.start_ms;
    for (index, word) in timed.words.iter().enumerate().take(timed.words.len().saturating_sub(1)) {
        if word.end_ms >= shown_ms + PARTIAL_EVERY_MS {
            shown_ms = word.end_ms;
            steps.push(Step { at_ms: word.end_ms, turn, heard: index + 1, is_final: false });
        }
    }
    steps
}

/// Returns the bases of the articles that a recording names: `bank` for `bank-card-lost`.
fn bases(dialogue: &Dialogue) -> Vec<String> {
    let named = dialogue.turns.iter().flat_map(|turn| &turn.articles).chain(&dialogue.articles);
    let mut bases: Vec<String> =
        named.filter_map(|id| id.split_once('-')).map(|(base, _)| base.to_owned()).collect();
    bases.sort();
    bases.dedup();
    bases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue(row: &str) -> Dialogue {
        serde_json::from_str(row).unwrap()
    }

    const SPOKEN: &str = r#"{"id":"bank-1","knowledge":["bank-card-lost"],"turns":[
        {"speaker":"customer","text":"hello I think I have lost my card on the train this morning"},
        {"speaker":"agent","text":"oh no"}]}"#;

    #[test]
    fn speech_grows_word_by_word_until_it_is_final() {
        let script = Script::new(&dialogue(SPOKEN), None);
        assert_eq!(script.channel, Channel::Voice);
        assert_eq!(script.knowledge, ["bank"]);
        assert!(script.steps.windows(2).all(|pair| pair[0].at_ms <= pair[1].at_ms));
        let first: Vec<&Step> = script.steps.iter().filter(|step| step.turn == 0).collect();
        assert!(first.len() > 4, "{first:?}");
        assert!(first.windows(2).all(|pair| pair[0].heard < pair[1].heard));
        let finals = script.steps.iter().filter(|step| step.is_final).count();
        assert_eq!(finals, 2);
    }

    #[test]
    fn a_final_segment_has_all_words_with_times_and_a_partial_has_none() {
        let script = Script::new(&dialogue(SPOKEN), None);
        let partial = serde_json::to_value(script.message(0)).unwrap();
        assert_eq!(
            (&partial["seq"], &partial["id"], &partial["final"]),
            (&1.into(), &"s1".into(), &false.into())
        );
        assert!(partial.get("words").is_none());
        let last = serde_json::to_value(script.message(script.steps.len() - 1)).unwrap();
        assert_eq!(last["type"], "segment");
        assert_eq!(last["text"], "oh no");
        assert_eq!(last["words"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn typed_messages_come_whole_at_their_time() {
        let row = r#"{"id":"x","turns":[{"speaker":"customer","text":"hi there, it is me","start_ms":0},
            {"speaker":"agent","text":"hello","start_ms":17000}]}"#;
        let script = Script::new(&dialogue(row), None);
        assert_eq!(script.channel, Channel::Chat);
        let at: Vec<u64> = script.steps.iter().map(|step| step.at_ms).collect();
        assert_eq!(at, [0, 17_000]);
        assert!(serde_json::to_value(script.message(0)).unwrap().get("words").is_none());
    }

    #[test]
    fn segments_name_their_turns() {
        assert_eq!(turn_of(&segment_id(41)), Some(41));
        assert_eq!(turn_of("s0"), None);
        assert_eq!(turn_of("x1"), None);
    }
}
