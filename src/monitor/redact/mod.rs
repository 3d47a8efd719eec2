//! Takes secrets out of what people say and write, before anything is stored, prompted, logged or
//! shown.
//!
//! A [`Redactor`] lives in one call's actor. It takes each segment as recognised and gives the text
//! with placeholders such as `[payment card]`, and where they stand. Numbers are found typed,
//! spoken ("four double one"), mixed, and split over several segments of one speaker.
//!
//! A segment leaves the actor at once, so a number that goes on in the next segment must be
//! recognised by its beginning. The rule, in this order:
//!
//! 1. Whole numbers that prove themselves (Luhn, modulo 97, the shape of a social security number,
//!    an e-mail address) go, whatever was said around them.
//! 2. What was hidden once in the call is hidden again when either speaker repeats it or a part of
//!    it; what was shown once (an order number, the company's own line) may be repeated.
//! 3. A number that follows an unfinished one of the same speaker within [`CONTINUES_WITHIN_MS`]
//!    goes with it.
//! 4. The nearest words that name a number decide: in the segment, else in what was said just
//!    before by either speaker ("could you read me the card number", "what's your booking").
//! 5. Numbers that nothing names: customer's telephone numbers go; so does, as `[number]`, every
//!    number of nine or more digits, and one of four or more at the end of a segment with which a
//!    card number may begin.
//!
//! A partial segment is judged by the same rules and leaves no trace in the redactor; digits at its
//! very end are hidden as soon as there are two of them and nothing names them as harmless.
//!
//! What it does not do: find names and addresses that nothing announces, or read numbers of
//! other languages than English.

mod address;
mod check;
mod cue;
mod date;
mod email;
mod iban;
mod judge;
mod memory;
mod name;
mod number;
mod password;
mod scene;
mod token;

use crate::event::Severity;
use crate::event::Speaker;
use memory::Memory;
use scene::Mode;
use scene::Scene;

/// How long after an unfinished number a speaker's next digits still belong to it.
pub const CONTINUES_WITHIN_MS: u64 = 20_000;

/// A kind of secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    /// The number of a payment card, or a part of it.
    PaymentCard,
    /// The security code of a card.
    CardCode,
    /// The end of a card's validity.
    CardExpiry,
    /// An international bank account number.
    Iban,
    /// A national bank account, sort code or routing number.
    BankAccount,
    /// A United States social security number.
    Ssn,
    /// An e-mail address.
    Email,
    /// A customer's telephone number.
    Phone,
    /// A postal address or a part of it.
    Address,
    /// A date of birth.
    DateOfBirth,
    /// A secret word.
    Password,
    /// A secret number.
    Pin,
    /// A person's name.
    Name,
    /// Digits that may belong to one of the others.
    Number,
}

impl Category {
    /// All categories.
    pub const ALL: [Category; 14] = [
        Category::PaymentCard,
        Category::CardCode,
        Category::CardExpiry,
        Category::Iban,
        Category::BankAccount,
        Category::Ssn,
        Category::Email,
        Category::Phone,
        Category::Address,
        Category::DateOfBirth,
        Category::Password,
        Category::Pin,
        Category::Name,
        Category::Number,
    ];

    /// Returns the name that events and labelled data use.
    pub fn as_str(self) -> &'static str {
        match self {
            Category::PaymentCard => "payment_card",
            Category::CardCode => "card_code",
            Category::CardExpiry => "card_expiry",
            Category::Iban => "iban",
            Category::BankAccount => "bank_account",
            Category::Ssn => "ssn",
            Category::Email => "email",
            Category::Phone => "phone",
            Category::Address => "address",
            Category::DateOfBirth => "date_of_birth",
            Category::Password => "password",
            Category::Pin => "pin",
            Category::Name => "name",
            Category::Number => "number",
        }
    }

    /// Returns what stands in the text instead.
    pub fn placeholder(self) -> &'static str {
        match self {
            Category::PaymentCard => "[payment card]",
            Category::CardCode => "[card code]",
            Category::CardExpiry => "[card expiry]",
            Category::Iban => "[iban]",
            Category::BankAccount => "[bank account]",
            Category::Ssn => "[ssn]",
            Category::Email => "[email]",
            Category::Phone => "[phone]",
            Category::Address => "[address]",
            Category::DateOfBirth => "[date of birth]",
            Category::Password => "[password]",
            Category::Pin => "[pin]",
            Category::Name => "[name]",
            Category::Number => "[number]",
        }
    }

    /// Returns how much it matters that somebody said it: what opens an account or pays is a
    /// warning, what identifies a person is information.
    pub fn severity(self) -> Severity {
        match self {
            Category::PaymentCard
            | Category::CardCode
            | Category::Ssn
            | Category::Password
            | Category::Pin => Severity::Warning,
            _ => Severity::Info,
        }
    }
}

/// A segment as recognised, before redaction. It never leaves the actor.
#[derive(Clone, Copy)]
pub struct Spoken<'a> {
    /// Who spoke.
    pub speaker: Speaker,
    /// What was said, with secrets.
    pub text: &'a str,
    /// Start, in milliseconds from the call's start.
    pub start_ms: u64,
    /// End, in milliseconds from the call's start.
    pub end_ms: u64,
}

/// A placeholder in a redacted text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The kind of secret that stood there.
    pub category: Category,
    /// Start in the redacted text, in Unicode scalar values.
    pub start: usize,
    /// End in the redacted text, in Unicode scalar values, exclusive.
    pub end: usize,
    /// The stretch of the original text that it replaces, in Unicode scalar values.
    pub original: std::ops::Range<usize>,
}

/// A text without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The text with placeholders.
    pub text: String,
    /// The new placeholders, in order; those of an earlier redaction are not among them.
    pub spans: Vec<Span>,
}

/// Redacts the segments of one call, in order.
///
/// After a restart it is brought up to date by giving it the stored segments again: placeholders
/// stand for what they replaced.
#[derive(Default)]
pub struct Redactor {
    memory: Memory,
}

impl std::fmt::Debug for Redactor {
    /// Shows nothing: the memory holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Returns a redactor that has heard nothing.
    pub fn new() -> Redactor {
        Redactor::default()
    }

    /// Redacts a final segment and remembers what it means for the next ones.
    pub fn redact_final(&mut self, spoken: Spoken<'_>) -> Redacted {
        let scene = Scene::new(spoken, &self.memory, Mode::Final);
        let outcome = scene.judge();
        let redacted = replace(spoken.text, &scene.byte_ranges(&outcome.findings));
        let trace = scene.trace(outcome);
        self.memory.keep(trace);
        redacted
    }

    /// Redacts a segment that will still change, without remembering it.
    pub fn redact_partial(&self, spoken: Spoken<'_>) -> Redacted {
        redact_with(&self.memory, spoken, Mode::Partial)
    }

    /// Redacts a text that somebody wrote in this call: a draft as used, a note. What the call has
    /// shown may stand in it, what the call has hidden may not.
    pub fn redact_written(&self, text: &str) -> Redacted {
        let spoken = Spoken { speaker: Speaker::Agent, text, start_ms: u64::MAX, end_ms: u64::MAX };
        redact_with(&self.memory, spoken, Mode::Written)
    }
}

/// Redacts a text without a call: names of chats, metadata, queries, what is logged or indexed.
///
/// Redacting the result again changes nothing.
pub fn redact_text(text: &str) -> String {
    // Each round replaces at least one token that is no placeholder, so that it comes to rest; in
    // practice the second round finds nothing.
    const MAX_ROUNDS: usize = 8;
    let memory = Memory::default();
    let mut current = text.to_owned();
    for _ in 0..MAX_ROUNDS {
        let spoken = Spoken { speaker: Speaker::Customer, text: &current, start_ms: 0, end_ms: 0 };
        let redacted = redact_with(&memory, spoken, Mode::Written);
        if redacted.spans.is_empty() {
            break;
        }
        current = redacted.text;
    }
    current
}

/// Redacts every text and number of a JSON value; the name of a field tells what its value is.
pub fn redact_json(value: &serde_json::Value) -> serde_json::Value {
    redact_field("", value)
}

fn redact_field(name: &str, value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        Value::String(text) => Value::String(redact_named(name, text)),
        Value::Number(number) => {
            let text = number.to_string();
            let redacted = redact_named(name, &text);
            if redacted == text { value.clone() } else { Value::String(redacted) }
        }
        Value::Array(items) => items.iter().map(|item| redact_field(name, item)).collect(),
        Value::Object(fields) => {
            let redact = |(key, field): (&String, &Value)| (redact_text(key), redact_field(key, field));
            Value::Object(fields.iter().map(redact).collect())
        }
    }
}

/// Redacts `text` as if "`name` is" stood before it.
fn redact_named(name: &str, text: &str) -> String {
    let lead = format!("{} is ", name.replace(['_', '-', '.'], " "));
    match redact_text(&format!("{lead}{text}")).strip_prefix(&lead) {
        Some(redacted) => redacted.to_owned(),
        None => redact_text(text),
    }
}

fn redact_with(memory: &Memory, spoken: Spoken<'_>, mode: Mode) -> Redacted {
    let scene = Scene::new(spoken, memory, mode);
    let outcome = scene.judge();
    replace(spoken.text, &scene.byte_ranges(&outcome.findings))
}

/// Puts placeholders where the findings stand: byte ranges, in order, not overlapping.
fn replace(text: &str, ranges: &[(std::ops::Range<usize>, Category)]) -> Redacted {
    let mut redacted = String::with_capacity(text.len());
    let mut spans = Vec::with_capacity(ranges.len());
    let (mut from, mut original_at, mut redacted_at) = (0, 0, 0);
    for (range, category) in ranges {
        let between = &text[from..range.start];
        redacted.push_str(between);
        original_at += between.chars().count();
        redacted_at += between.chars().count();
        let original_end = original_at + text[range.clone()].chars().count();
        let end = redacted_at + category.placeholder().chars().count();
        redacted.push_str(category.placeholder());
        spans.push(Span {
            category: *category,
            start: redacted_at,
            end,
            original: original_at..original_end,
        });
        (from, original_at, redacted_at) = (range.end, original_end, end);
    }
    redacted.push_str(&text[from..]);
    Redacted { text: redacted, spans }
}
