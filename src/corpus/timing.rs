//! When each word of a recorded conversation was said.
//!
//! Most recordings are text without times. Then they are derived from the text: a word takes time
//! by its syllables (about 160 words a minute, each speaker a little faster or slower), commas and
//! full stops add breath, and speakers pause before they answer. Real times are kept where every
//! turn has them. The same dialogue always gets the same times.

use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::corpus::dialogue::Dialogue;
use crate::event::Speaker;
use crate::event::Word;

/// What every word costs, whatever its length, at a rate of 1.
const WORD_MS: f64 = 84.0;
/// What each syllable adds. With English words this makes 160 words a minute, breaths aside.
const SYLLABLE_MS: f64 = 222.0;
/// The breath after a comma.
const COMMA_MS: f64 = 160.0;
/// The breath after a full stop.
const STOP_MS: f64 = 380.0;

/// One turn with the times of its words.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedTurn {
    /// Who speaks.
    pub speaker: Speaker,
    /// The whole turn.
    pub text: String,
    /// Its words; they are all of the text that is not white space, in order.
    pub words: Vec<Word>,
    /// Start, in milliseconds from the call's start.
    pub start_ms: u64,
    /// End, in milliseconds from the call's start.
    pub end_ms: u64,
}

/// Where the times of a conversation come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSource {
    /// Every turn has its start and end.
    Spans,
    /// Every turn has a start only, as typed messages do.
    Starts,
    /// They are derived from the text.
    Text,
}

/// Says where [`times`] takes a conversation's times from.
pub fn source(dialogue: &Dialogue) -> TimeSource {
    let mut last_ms = 0;
    let (mut has_starts, mut has_ends) = (true, true);
    for turn in &dialogue.turns {
        // Times that run backwards are no times.
        has_starts &= turn.start_ms.is_some_and(|start_ms| start_ms >= last_ms);
        has_ends &= turn.end_ms.zip(turn.start_ms).is_some_and(|(end_ms, start_ms)| end_ms > start_ms);
        last_ms = turn.start_ms.unwrap_or(last_ms);
    }
    match (has_starts, has_ends) {
        (true, true) => TimeSource::Spans,
        (true, false) => TimeSource::Starts,
        _ => TimeSource::Text,
    }
}

/// Returns the turns of a conversation that say anything, with the time of every word.
pub fn times(dialogue: &Dialogue) -> Vec<TimedTurn> {
    let source = source(dialogue);
    let mut hasher = DefaultHasher::new();
    dialogue.id.hash(&mut hasher);
    let mut random = StdRng::seed_from_u64(hasher.finish());
    let paces = [random.random_range(0.88..1.14), random.random_range(0.94..1.1)];

    let mut timed: Vec<TimedTurn> = Vec::with_capacity(dialogue.turns.len());
    let mut now_ms = 400;
    for (turn, speaker) in dialogue.turns.iter().zip(dialogue.roles()) {
        let text = turn.text.trim();
        if text.is_empty() {
            continue;
        }
        let pace = paces[speaker as usize] * random.random_range(0.93..1.07);
        let pause_ms = match timed.last() {
            None => 0,
            Some(last) if last.speaker == speaker => random.random_range(250..600),
            Some(_) => random.random_range(350..1100),
        };
        let start_ms = match source {
            TimeSource::Text => now_ms + pause_ms,
            TimeSource::Spans | TimeSource::Starts => turn.start_ms.unwrap_or(now_ms),
        };
        let mut words = speak(text, start_ms, pace);
        if let (TimeSource::Spans, Some(end_ms)) = (source, turn.end_ms) {
            stretch(&mut words, start_ms, end_ms);
        }
        let end_ms = words.last().map_or(start_ms, |word| word.end_ms);
        now_ms = end_ms;
        timed.push(TimedTurn { speaker, text: text.to_owned(), words, start_ms, end_ms });
    }
    timed
}

/// Speaks a text from `start_ms` on, `pace` times as fast as most people.
fn speak(text: &str, start_ms: u64, pace: f64) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at_ms = start_ms as f64;
    for word in text.split_whitespace() {
        let end_ms = at_ms + (WORD_MS + SYLLABLE_MS * f64::from(syllables(word))) / pace;
        words.push(Word {
            text: word.to_owned(),
            start_ms: at_ms as u64,
            end_ms: end_ms as u64,
            confidence: None,
        });
        let breath_ms = match word.chars().next_back() {
            Some(',' | ';' | ':') => COMMA_MS,
            Some('.' | '!' | '?' | '…') => STOP_MS,
            _ => 0.0,
        };
        at_ms = end_ms + breath_ms / pace;
    }
    words
}

/// Fits words into a known span, keeping their proportions.
fn stretch(words: &mut [Word], start_ms: u64, end_ms: u64) {
    let Some(last_ms) = words.last().map(|word| word.end_ms) else { return };
    let factor = (end_ms - start_ms) as f64 / (last_ms - start_ms).max(1) as f64;
    let fit = |at_ms: u64| start_ms + ((at_ms - start_ms) as f64 * factor).round() as u64;
    for word in words {
        word.start_ms = fit(word.start_ms);
        word.end_ms = fit(word.end_ms);
    }
}

/// Estimates how many syllables an English word has when spoken; a figure is one to three.
fn syllables(word: &str) -> u32 {
    let mut count = 0;
    let mut was_vowel = false;
    let letters: Vec<char> =
        word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    for &c in &letters {
        let is_vowel = matches!(c, 'a' | 'e' | 'i' | 'o' | 'u' | 'y') || (c.is_alphabetic() && !c.is_ascii());
        if c.is_ascii_digit() {
            count += if matches!(c, '0' | '7') { 2 } else { 1 };
        } else if is_vowel && !was_vowel {
            count += 1;
        }
        was_vowel = is_vowel;
    }
    // A silent e: "phone", but not "the" and not "table".
    if count > 1 && letters.ends_with(&['e']) && !letters.ends_with(&['l', 'e']) {
        count -= 1;
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::dialogue::DialogueTurn;

    fn dialogue(turns: &[(&str, Option<u64>, Option<u64>)]) -> Dialogue {
        let turns = turns
            .iter()
            .map(|&(text, start_ms, end_ms)| DialogueTurn {
                text: text.into(),
                start_ms,
                end_ms,
                ..Default::default()
            })
            .collect();
        Dialogue { id: "d".into(), turns, ..Default::default() }
    }

    const SPEECH: &str = "Hello, this is Priya from Northline. I can see that your bill went up last month, \
        and the reason is that the discount on your plan ended on the first of May. Would you like me to look \
        at what else we could do for you?";

    #[test]
    fn derived_speech_is_as_fast_as_people() {
        let turns = times(&dialogue(&[(SPEECH, None, None)]));
        let words = turns[0].words.len() as f64;
        let words_per_minute = words * 60_000.0 / (turns[0].end_ms - turns[0].start_ms) as f64;
        assert!((130.0..200.0).contains(&words_per_minute), "{words_per_minute}");
    }

    #[test]
    fn words_and_turns_follow_each_other() {
        let turns = times(&dialogue(&[(SPEECH, None, None), ("  ", None, None), ("yes please", None, None)]));
        assert_eq!(turns.len(), 2);
        assert!(turns[1].start_ms > turns[0].end_ms);
        for turn in &turns {
            assert_eq!(turn.words.first().unwrap().start_ms, turn.start_ms);
            assert_eq!(turn.words.last().unwrap().end_ms, turn.end_ms);
            assert!(turn.words.windows(2).all(|pair| pair[0].end_ms <= pair[1].start_ms));
        }
    }

    #[test]
    fn the_same_dialogue_gets_the_same_times() {
        let call = dialogue(&[(SPEECH, None, None), ("right", None, None)]);
        assert_eq!(times(&call), times(&call));
    }

    #[test]
    fn known_spans_are_kept() {
        let call = dialogue(&[("hello there", Some(3720), Some(6390)), ("hi", Some(7000), Some(7100))]);
        assert_eq!(source(&call), TimeSource::Spans);
        let turns = times(&call);
        assert_eq!((turns[0].start_ms, turns[0].end_ms), (3720, 6390));
        assert_eq!((turns[1].start_ms, turns[1].end_ms), (7000, 7100));
    }

    #[test]
    fn typed_messages_keep_their_starts_and_broken_times_are_dropped() {
        assert_eq!(source(&dialogue(&[("a", Some(0), None), ("b", Some(17_000), None)])), TimeSource::Starts);
        assert_eq!(source(&dialogue(&[("a", Some(9), None), ("b", Some(4), None)])), TimeSource::Text);
        assert_eq!(source(&dialogue(&[("a", Some(9), None), ("b", None, None)])), TimeSource::Text);
    }

    #[test]
    fn syllables_are_counted_as_people_speak() {
        let check = |word, expected| assert_eq!(syllables(word), expected, "{word}");
        check("phone", 1);
        check("the", 1);
        check("table", 2);
        check("customer", 3);
        check("4070", 7);
        check("–", 1);
    }
}
