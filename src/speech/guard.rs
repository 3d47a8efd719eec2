//! What Whisper made up: texts that silence and noise bring forth, told by its own doubts and repeats.
//!
//! The thresholds are those of OpenAI's reference decoder (no speech 0.6, mean log-probability −1.0).

use crate::event::Word;

/// From how sure of no speech on a doubtful text is none.
const NO_SPEECH: f32 = 0.6;
/// The mean log-probability of a token below which a text is doubtful, and below which it is none.
const DOUBTFUL: f32 = -1.0;
const HOPELESS: f32 = -1.6;
/// How often a run of words may come again, directly one after the other.
const REPEATS: usize = 3;
/// The longest run of words that is looked for.
const RUN: usize = 6;

/// Returns whether a stretch of speech holds no words at all, by the recogniser's own probabilities.
pub fn is_made_up(no_speech: f32, mean_log_probability: f32) -> bool {
    mean_log_probability < HOPELESS || (no_speech > NO_SPEECH && mean_log_probability < DOUBTFUL)
}

/// Cuts off what repeats itself: a run of words that comes for the fourth time, and all after it.
pub fn cut_repeats(words: &mut Vec<Word>) {
    let folded: Vec<String> = words.iter().map(|word| word.text.to_lowercase()).collect();
    for end in 1..=folded.len() {
        for run in 1..=RUN.min(end / (REPEATS + 1)) {
            let last = &folded[end - run..end];
            let is_repeat =
                (1..=REPEATS).all(|back| &folded[end - (back + 1) * run..end - back * run] == last);
            if is_repeat {
                words.truncate(end - REPEATS * run);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        let word = |text: &str| Word { text: text.to_owned(), start_ms: 0, end_ms: 0, confidence: None };
        text.split(' ').map(word).collect()
    }

    fn check(text: &str, left: &str) {
        let mut words = words(text);
        cut_repeats(&mut words);
        let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts.join(" "), left);
    }

    #[test]
    fn what_comes_four_times_is_said_once() {
        check("you you you you you", "you");
        check("well thank you Thank you thank you thank you for watching", "well thank you");
        check("one two three one two three one two three one two three", "one two three");
    }

    #[test]
    fn people_may_repeat_themselves_a_little() {
        for text in ["no no no", "five five five two", "yes yes I know yes yes I know", "a"] {
            check(text, text);
        }
    }

    #[test]
    fn a_doubtful_text_in_silence_is_none() {
        assert!(is_made_up(0.9, -1.2) && is_made_up(0.1, -2.0));
        assert!(!is_made_up(0.9, -0.4) && !is_made_up(0.2, -1.2));
    }
}
