//! What a redactor keeps of a call: what was asked for, what was hidden, what was shown, and the
//! number that each speaker is in the middle of.

use std::collections::VecDeque;

use super::CONTINUES_WITHIN_MS;
use super::Category;
use super::cue::Cue;
use crate::event::Speaker;

/// How many segments back words can say what a number is.
const HEARD_SEGMENTS: usize = 12;
/// How many numbers and names are kept of each kind; the oldest go first.
const KEPT_NUMBERS: usize = 64;

/// A number that may go on in the speaker's next segment.
#[derive(Clone)]
pub(super) struct Open {
    /// What it is taken for.
    pub category: Category,
    /// Digits, and letters of an IBAN, so far.
    pub text: String,
    /// When its last part ended, in milliseconds from the call's start.
    pub end_ms: u64,
}

impl Open {
    /// Returns whether the number has room for `more` characters.
    pub fn has_room_for(&self, more: usize) -> bool {
        self.text.len() + more <= longest(self.category)
    }
}

/// Returns the most characters that a number of the category has.
fn longest(category: Category) -> usize {
    match category {
        Category::PaymentCard | Category::Number => 19,
        Category::Iban => 34,
        Category::Phone => 15,
        Category::Ssn => 9,
        Category::BankAccount => 12,
        Category::Pin => 8,
        _ => 0,
    }
}

/// One segment as the memory keeps it.
pub(super) struct Heard {
    /// Who spoke.
    pub speaker: Speaker,
    /// What numbers it spoke of, in order.
    pub cues: Vec<Cue>,
    /// The secrets it held.
    pub found: Vec<Category>,
}

/// What one final segment adds to the memory.
pub(super) struct Trace {
    /// The segment.
    pub heard: Heard,
    /// The number its speaker is in the middle of.
    pub open: Option<Open>,
    /// Numbers that were hidden.
    pub hidden: Vec<(Category, String)>,
    /// Numbers that were shown.
    pub shown: Vec<String>,
    /// Parts of names that were hidden, in lower case.
    pub names: Vec<String>,
}

/// What is known of a call so far.
#[derive(Default)]
pub(super) struct Memory {
    heard: VecDeque<Heard>,
    open_customer: Option<Open>,
    open_agent: Option<Open>,
    hidden: VecDeque<(Category, String)>,
    shown: VecDeque<String>,
    names: VecDeque<String>,
}

impl Memory {
    /// Adds what a final segment taught.
    pub fn keep(&mut self, trace: Trace) {
        let open = match trace.heard.speaker {
            Speaker::Customer => &mut self.open_customer,
            Speaker::Agent => &mut self.open_agent,
        };
        *open = trace.open;
        push_bounded(&mut self.heard, [trace.heard], HEARD_SEGMENTS);
        push_bounded(&mut self.hidden, trace.hidden, KEPT_NUMBERS);
        push_bounded(&mut self.shown, trace.shown, KEPT_NUMBERS);
        push_bounded(&mut self.names, trace.names, KEPT_NUMBERS);
    }

    /// Returns the segments heard, the newest first.
    pub fn heard(&self) -> impl Iterator<Item = &Heard> {
        self.heard.iter().rev()
    }

    /// Returns the number that the speaker was in the middle of and that may go on at `start_ms`.
    pub fn open(&self, speaker: Speaker, start_ms: u64) -> Option<Open> {
        let open = match speaker {
            Speaker::Customer => self.open_customer.as_ref(),
            Speaker::Agent => self.open_agent.as_ref(),
        };
        open.filter(|open| start_ms <= open.end_ms.saturating_add(CONTINUES_WITHIN_MS)).cloned()
    }

    /// Returns what a number is, if it or a number around it was hidden before.
    pub fn hidden(&self, digits: &str) -> Option<Category> {
        let repeats = |secret: &str| match digits.len() {
            0..3 => false,
            3 => secret == digits || (secret.len() >= 7 && secret.ends_with(digits)),
            _ => secret.contains(digits) || (secret.len() >= 6 && digits.contains(secret)),
        };
        let known = self.hidden.iter().rev().find(|(_, secret)| repeats(secret));
        known.map(|(category, _)| *category)
    }

    /// Returns whether exactly this text was hidden before.
    pub fn is_hidden_text(&self, text: &str) -> bool {
        self.hidden.iter().any(|(_, hidden)| hidden == text)
    }

    /// Returns whether the number or one around it was shown before.
    pub fn is_shown(&self, digits: &str) -> bool {
        digits.len() >= 3 && self.shown.iter().any(|shown| shown.contains(digits))
    }

    /// Returns whether the word, in lower case, is a part of a name that was hidden.
    pub fn is_name(&self, word: &str) -> bool {
        self.names.iter().any(|name| name == word)
    }

    /// Returns whether one of the last `segments` spoke of one of `cues`.
    pub fn heard_any(&self, cues: &[Cue], segments: usize) -> bool {
        self.heard().take(segments).any(|heard| heard.cues.iter().any(|cue| cues.contains(cue)))
    }

    /// Returns whether one of the last `segments` held a secret of the category.
    pub fn found_any(&self, category: Category, segments: usize) -> bool {
        self.heard().take(segments).any(|heard| heard.found.contains(&category))
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, items: impl IntoIterator<Item = T>, limit: usize) {
    queue.extend(items);
    while queue.len() > limit {
        queue.pop_front();
    }
}
