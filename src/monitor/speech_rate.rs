//! How fast each person speaks: words per minute and syllables per second of speaking time, over
//! the last thirty seconds and over the call.
//!
//! Speaking time is the time of the words and the short gaps between them; pauses of 250 ms and
//! more do not count (de Jong and Bosker, 2013, on that threshold). Where a recogniser gives no
//! word times, the words are spread evenly over the segment. Where we heard the speech ourselves its time is what was
//! heard of it: a recogniser's word times are rough.

use std::collections::VecDeque;

use crate::event::Event;
use crate::event::RateLevel;
use crate::event::Speaker;
use crate::event::Word;

/// The window, in milliseconds.
pub const WINDOW_MS: u64 = 30_000;
/// Gaps between words from this length on are pauses.
const PAUSE_MS: u64 = 250;
/// Nobody says a word in less or more; times outside are a recogniser's mistakes.
const WORD_MS: std::ops::RangeInclusive<u64> = 60..=2_000;
/// With less speaking time in the window a rate means nothing.
const MIN_SPEAKING_MS: u64 = 1_500;
/// The most words kept in a window, more than the window holds at the shortest word.
const MAX_WINDOW_WORDS: usize = 512;
/// Below the first a speaker becomes slow, above the second stops being so, in words per minute.
const SLOW: (f32, f32) = (100.0, 112.0);
/// Above the second a speaker becomes fast, below the first stops being so, in words per minute.
const FAST: (f32, f32) = (163.0, 175.0);

/// One word as it counts.
#[derive(Debug, Clone, Copy)]
struct Said {
    end_ms: u64,
    speaking_ms: u64,
    words: u32,
    syllables: u32,
}

/// One speaker's words.
#[derive(Debug, Clone)]
struct Pace {
    window: VecDeque<Said>,
    call_words: u64,
    call_speaking_ms: u64,
    level: RateLevel,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { window: VecDeque::new(), call_words: 0, call_speaking_ms: 0, level: RateLevel::Normal }
    }
}

/// The speech rates of both speakers of one call.
#[derive(Debug, Clone, Default)]
pub struct SpeechRates {
    customer: Pace,
    agent: Pace,
}

impl SpeechRates {
    /// Returns the rates after a final segment, as an [`Event::SpeechRate`].
    ///
    /// `text` is the segment before redaction, for placeholders are not what was said; `spoken_ms` is how long it was
    /// spoken in without pauses, where that was heard. `None` as
    /// long as too little was said, and when the segment's times are of no use.
    pub fn hear(
        &mut self,
        speaker: Speaker,
        text: &str,
        span_ms: (u64, u64),
        words: &[Word],
        spoken_ms: Option<u64>,
    ) -> Option<Event> {
        let mut said = match words {
            [] => spread(text, span_ms),
            words => timed(words),
        };
        if let Some(spoken_ms) = spoken_ms.filter(|ms| *ms > 0) {
            stretch(&mut said, spoken_ms);
        }
        let now_ms = said.last()?.end_ms;
        let pace = match speaker {
            Speaker::Customer => &mut self.customer,
            Speaker::Agent => &mut self.agent,
        };
        for word in said {
            pace.call_words += u64::from(word.words);
            pace.call_speaking_ms += word.speaking_ms;
            pace.window.push_back(word);
            if pace.window.len() > MAX_WINDOW_WORDS {
                pace.window.pop_front();
            }
        }
        pace.window.retain(|word| word.end_ms <= now_ms && now_ms - word.end_ms < WINDOW_MS);
        let speaking_ms: u64 = pace.window.iter().map(|word| word.speaking_ms).sum();
        if speaking_ms < MIN_SPEAKING_MS {
            return None;
        }
        let words: u32 = pace.window.iter().map(|word| word.words).sum();
        let syllables: u32 = pace.window.iter().map(|word| word.syllables).sum();
        let words_per_minute = per_minute(u64::from(words), speaking_ms);
        pace.level = next_level(pace.level, words_per_minute);
        Some(Event::SpeechRate {
            speaker,
            words_per_minute,
            articulation_rate: per_minute(u64::from(syllables), speaking_ms) / 60.0,
            call_words_per_minute: per_minute(pace.call_words, pace.call_speaking_ms),
            window_ms: WINDOW_MS,
            level: pace.level,
        })
    }
}

fn per_minute(count: u64, speaking_ms: u64) -> f32 {
    (count as f64 * 60_000.0 / speaking_ms as f64) as f32
}

/// Returns the level, which changes only beyond the dead band.
fn next_level(level: RateLevel, words_per_minute: f32) -> RateLevel {
    match level {
        RateLevel::Slow if words_per_minute < SLOW.1 => RateLevel::Slow,
        RateLevel::Fast if words_per_minute > FAST.0 => RateLevel::Fast,
        _ if words_per_minute < SLOW.0 => RateLevel::Slow,
        _ if words_per_minute > FAST.1 => RateLevel::Fast,
        _ => RateLevel::Normal,
    }
}

/// Gives words together the time that was heard, each the share that it had.
fn stretch(said: &mut [Said], spoken_ms: u64) {
    let sum: u64 = said.iter().map(|word| word.speaking_ms).sum();
    for word in said {
        let own = u128::from(word.speaking_ms) * u128::from(spoken_ms) / u128::from(sum.max(1));
        word.speaking_ms = clamp_word(own as u64, word.words);
    }
}

/// Takes the recogniser's word times; a word that ends before it starts counts as a short one.
fn timed(words: &[Word]) -> Vec<Said> {
    let mut said = Vec::with_capacity(words.len());
    for (place, word) in words.iter().enumerate() {
        let (count, syllables) = spoken(&word.text);
        if count == 0 {
            continue;
        }
        let own_ms = word.end_ms.saturating_sub(word.start_ms);
        let gap_ms = match words.get(place + 1) {
            Some(next) => next.start_ms.saturating_sub(word.end_ms),
            None => 0,
        };
        let gap_ms = if gap_ms < PAUSE_MS { gap_ms } else { 0 };
        said.push(Said {
            end_ms: word.end_ms,
            speaking_ms: clamp_word(own_ms.saturating_add(gap_ms), count),
            words: count,
            syllables,
        });
    }
    said
}

/// Spreads the words of a segment evenly over its span.
fn spread(text: &str, (start_ms, end_ms): (u64, u64)) -> Vec<Said> {
    let counts: Vec<(u32, u32)> =
        text.split_whitespace().map(spoken).filter(|&(count, _)| count > 0).collect();
    let total: u64 = counts.iter().map(|&(count, _)| u64::from(count)).sum();
    if total == 0 || end_ms <= start_ms {
        return Vec::new();
    }
    let span_ms = end_ms - start_ms;
    let mut before = 0;
    let mut said = Vec::with_capacity(counts.len());
    for (count, syllables) in counts {
        before += u64::from(count);
        // In 128 bits, so that no span can overflow.
        let share = |part: u64| (u128::from(span_ms) * u128::from(part) / u128::from(total)) as u64;
        said.push(Said {
            end_ms: start_ms + share(before),
            speaking_ms: clamp_word(share(u64::from(count)), count),
            words: count,
            syllables,
        });
    }
    said
}

fn clamp_word(speaking_ms: u64, words: u32) -> u64 {
    let words = u64::from(words);
    speaking_ms.clamp(WORD_MS.start() * words, WORD_MS.end() * words)
}

/// Returns the words and syllables of a written word; typed numbers count as they are read out.
fn spoken(text: &str) -> (u32, u32) {
    let mut words = 0;
    let mut syllables = 0;
    for part in text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’') {
        let digits = part.chars().filter(char::is_ascii_digit).count();
        let letters = part.chars().filter(|c| c.is_alphabetic()).count();
        if digits > 0 {
            let (count, sounds) = number_sounds(part);
            words += count;
            syllables += sounds;
        }
        if letters > 0 && digits == 0 {
            words += 1;
            syllables += syllables_of(part);
        }
    }
    (words, syllables)
}

/// Returns the words and syllables of digits: two at most are read as a number, more one by one.
fn number_sounds(part: &str) -> (u32, u32) {
    const DIGITS: [u32; 10] = [2, 1, 1, 1, 1, 1, 1, 2, 1, 1];
    const TEENS: [u32; 10] = [1, 3, 1, 2, 2, 2, 2, 3, 2, 2];
    let digits: Vec<usize> =
        part.bytes().filter(u8::is_ascii_digit).map(|digit| usize::from(digit - b'0')).collect();
    match digits[..] {
        [1, unit] => (1, TEENS[unit]),
        [tens, unit] if tens > 1 => {
            let head = if tens == 7 { 3 } else { 2 };
            if unit == 0 { (1, head) } else { (2, head + DIGITS[unit]) }
        }
        _ => (digits.len() as u32, digits.iter().map(|&digit| DIGITS[digit]).sum()),
    }
}

/// Counts the syllables of an English word: groups of vowels, without the silent ones. Right for
/// about nine words in ten, which is enough for a rate.
fn syllables_of(word: &str) -> u32 {
    let lower: Vec<char> = word.chars().flat_map(char::to_lowercase).filter(|c| c.is_alphabetic()).collect();
    let is_vowel = |c: char| {
        matches!(c, 'a' | 'e' | 'i' | 'o' | 'u' | 'y' | 'é' | 'è' | 'á' | 'í' | 'ó' | 'ú' | 'ü' | 'ö' | 'ä')
    };
    let mut count = 0;
    let mut previous_is_vowel = false;
    for &character in &lower {
        let vowel = is_vowel(character);
        count += u32::from(vowel && !previous_is_vowel);
        previous_is_vowel = vowel;
    }
    let tail: String = lower.iter().rev().take(3).rev().collect();
    let before_tail = |from_end: usize| lower.len().checked_sub(from_end).map(|at| lower[at]);
    let is_silent_e = tail.ends_with('e')
        && before_tail(2).is_some_and(|c| !is_vowel(c))
        && !(tail.ends_with("le") && before_tail(3).is_some_and(|c| !is_vowel(c)));
    let is_silent_ed =
        tail.ends_with("ed") && before_tail(3).is_some_and(|c| !is_vowel(c) && c != 't' && c != 'd');
    let is_silent_es = tail.ends_with("es")
        && before_tail(3).is_some_and(|c| !is_vowel(c) && !matches!(c, 's' | 'x' | 'z' | 'h' | 'c' | 'g'));
    if count > 1 && (is_silent_e || is_silent_ed || is_silent_es) {
        count -= 1;
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_syllables(word: &str, expected: u32) {
        assert_eq!(spoken(word).1, expected, "{word}");
    }

    #[test]
    fn the_time_that_was_heard_counts_where_it_is_known() {
        let rate = |spoken_ms| {
            let text = "word ".repeat(20);
            match SpeechRates::default().hear(Speaker::Customer, &text, (0, 10_000), &[], spoken_ms) {
                Some(Event::SpeechRate { words_per_minute, .. }) => words_per_minute,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((rate(None), rate(Some(0))), (120.0, 120.0));
        assert_eq!(rate(Some(8_000)), 150.0, "two seconds were pauses");
    }

    #[test]
    fn syllables_are_counted_as_spoken() {
        for (word, expected) in [
            ("the", 1),
            ("hello", 2),
            ("table", 2),
            ("made", 1),
            ("walked", 1),
            ("wanted", 2),
            ("telephone", 3),
            ("account", 2),
            ("information", 4),
            ("boxes", 2),
            ("I've", 1),
            ("7", 2),
            ("17", 3),
            ("20", 2),
            ("75", 4),
            ("4111", 4),
            ("£12.50", 3),
        ] {
            check_syllables(word, expected);
        }
    }

    /// Speaks `words` words a minute for `seconds` seconds, in segments of ten words.
    fn speak(rates: &mut SpeechRates, from_ms: u64, words: u64, seconds: u64) -> Option<Event> {
        let word_ms = 60_000 / words;
        let mut event = None;
        let mut at_ms = from_ms;
        while at_ms < from_ms + seconds * 1_000 {
            let end_ms = at_ms + 10 * word_ms;
            event = rates.hear(Speaker::Customer, &"word ".repeat(10), (at_ms, end_ms), &[], None);
            at_ms = end_ms;
        }
        event
    }

    fn level(event: Option<Event>) -> RateLevel {
        match event {
            Some(Event::SpeechRate { level, .. }) => level,
            other => panic!("no speech rate but {other:?}"),
        }
    }

    #[test]
    fn pauses_do_not_count_as_speaking() {
        let mut rates = SpeechRates::default();
        // Ten words at 150 words a minute, then a minute of silence, then ten more.
        rates.hear(Speaker::Agent, &"word ".repeat(10), (0, 4_000), &[], None);
        let event = rates.hear(Speaker::Agent, &"word ".repeat(10), (64_000, 68_000), &[], None);
        let Some(Event::SpeechRate { words_per_minute, articulation_rate, call_words_per_minute, .. }) =
            event
        else {
            panic!("no speech rate");
        };
        assert!((words_per_minute - 150.0).abs() < 0.1, "{words_per_minute}");
        assert!((call_words_per_minute - 150.0).abs() < 0.1, "{call_words_per_minute}");
        assert!((articulation_rate - 2.5).abs() < 0.01, "{articulation_rate}");
    }

    #[test]
    fn word_times_win_over_the_span() {
        let words: Vec<Word> = (0..10)
            .map(|at| Word {
                text: "word".to_owned(),
                start_ms: at * 1_000,
                end_ms: at * 1_000 + 300,
                confidence: None,
            })
            .collect();
        let event = SpeechRates::default().hear(Speaker::Customer, "", (0, 10_000), &words, None);
        let Some(Event::SpeechRate { words_per_minute, .. }) = event else { panic!("no speech rate") };
        assert!((words_per_minute - 200.0).abs() < 0.1, "{words_per_minute}");
    }

    #[test]
    fn the_level_has_a_dead_band() {
        let mut rates = SpeechRates::default();
        assert_eq!(level(speak(&mut rates, 0, 140, 30)), RateLevel::Normal);
        assert_eq!(level(speak(&mut rates, 40_000, 170, 40)), RateLevel::Normal);
        assert_eq!(level(speak(&mut rates, 100_000, 190, 40)), RateLevel::Fast);
        assert_eq!(level(speak(&mut rates, 200_000, 170, 40)), RateLevel::Fast);
        assert_eq!(level(speak(&mut rates, 300_000, 150, 40)), RateLevel::Normal);
        assert_eq!(level(speak(&mut rates, 400_000, 90, 40)), RateLevel::Slow);
    }

    proptest! {
        #[test]
        fn garbage_times_never_give_absurd_rates(
            segments in prop::collection::vec(
                (".{0,40}", any::<u64>(), any::<u64>(), prop::collection::vec((any::<u64>(), any::<u64>()), 0..5)),
                1..20,
            ),
        ) {
            let mut rates = SpeechRates::default();
            for (text, start_ms, end_ms, times) in segments {
                let words: Vec<Word> = times
                    .into_iter()
                    .map(|(start_ms, end_ms)| Word { text: "hello".to_owned(), start_ms, end_ms, confidence: None })
                    .collect();
                if let Some(Event::SpeechRate { words_per_minute, articulation_rate, call_words_per_minute, .. }) =
                    rates.hear(Speaker::Customer, &text, (start_ms, end_ms), &words, None)
                {
                    prop_assert!((0.0..=1_001.0).contains(&words_per_minute));
                    prop_assert!((0.0..=1_001.0).contains(&call_words_per_minute));
                    prop_assert!(articulation_rate.is_finite() && articulation_rate >= 0.0);
                }
            }
        }
    }
}
