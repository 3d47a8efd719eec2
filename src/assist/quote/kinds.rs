//! What a sentence holds, and what a question asks for, by their forms: amounts, times, figures of speech. None
//! knows a company.

use std::sync::LazyLock;

use regex::Regex;

/// Kinds of sentences, each with its form.
pub(super) struct Sentence {
    /// "within 14 working days".
    pub duration: bool,
    /// "free", "refunded".
    pub free: bool,
    /// A number to call.
    pub phone: bool,
    /// Money or a percentage.
    pub amount: bool,
    /// A day.
    pub date: bool,
    /// "not", "only".
    pub negative: bool,
}

/// Kinds of questions; one may be of several.
pub(super) struct Question {
    /// About money or quantity.
    pub how_much: bool,
    /// About time.
    pub how_long: bool,
    /// Whether something is so, or allowed.
    pub whether: bool,
}

struct Forms {
    duration: Regex,
    free: Regex,
    phone: Regex,
    amount: Regex,
    date: Regex,
    negative: Regex,
    how_much: Regex,
    how_long: Regex,
    whether: Regex,
}

static FORMS: LazyLock<Forms> = LazyLock::new(|| {
    let form = |parts: &[&str]| Regex::new(&format!("(?i){}", parts.join("|"))).expect("the forms are ours");
    Forms {
        duration: form(&[concat!(
            r"\b(?:\d[\d.,]*|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fourteen|fifteen|twenty|",
            r"thirty|sixty|ninety|half|an?)[\s-]+(?:(?:working|business|calendar|full|more)\s+)?",
            r"(?:second|minute|hour|day|night|week|fortnight|month|year|quarter)s?\b"
        )]),
        free: form(&[
            r"\b(?:free|waived?|no (?:fee|charge|cost)|refund(?:ed|s)?|paid back|credited?|returned)\b",
        ]),
        phone: form(&[r"\b\d{3,4}[- ]\d{3,4}\b", r"\b(?:call|text|phone|ring|dial|on)\b[^.]*\b\d{3,}\b"]),
        amount: form(&[
            r"[€£$]\s?\d",
            r"\d\s?[€£$%]",
            r"\d[\d.,]*\s?(?:%|(?:euros?|pounds?|dollars?|cents?|pence|per ?cent|gbp|usd|eur)\b)",
        ]),
        date: form(&[
            r"\b(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b",
            r"\b(?:january|february|march|april|june|july|august|september|october|november|december)\b",
            r"\bweekdays?\b",
            r"\b\d{1,2}(?:st|nd|rd|th)\b",
        ]),
        negative: form(&[
            r"\b(?:not|no|never|cannot|can't|nothing|none|without|only|isn't|don't|doesn't|won't)\b",
        ]),
        how_much: form(&[
            r"\bhow m(?:uch|any)\b",
            r"\b(?:costs?|prices?|charged?s?|fees?|pay(?:ing)?|expensive|money|free|cheaper|limit|refund|extra)\b",
            r"\bfor that\b.*\bget\b",
        ]),
        how_long: form(&[
            r"\bhow (?:long|soon|fast|quick|quickly|many (?:days|weeks|months|hours))\b",
            r"\b(?:when|what time|deadline|by when|days?|weeks?|today|tomorrow|tonight|weekend|take|wait|hours?|until)\b",
            r"\b(?:last(?:s|ing)?|too late)\b",
            r"\bstill\b.*\btime\b",
        ]),
        whether: form(&[
            r"\b(?:can|could|may) (?:i|we|you|he|she|they|it|my|someone|somebody)\b",
            r"\b(?:is|are) (?:it|that|there|they|this|we)\b",
            r"\bdo(?:es)? (?:i|you|it|that|this|they|the|my|we)\b",
            r"\b(?:am i|allowed|possible)\b",
            r"\bwill (?:i|it|you|they|that|the|my|we)\b",
        ]),
    }
});

impl Sentence {
    /// Looks at a sentence of a card.
    pub fn of(text: &str) -> Sentence {
        let (text, forms) = (text.replace('’', "'"), &*FORMS);
        Sentence {
            duration: forms.duration.is_match(&text),
            free: forms.free.is_match(&text),
            phone: forms.phone.is_match(&text),
            amount: forms.amount.is_match(&text),
            date: forms.date.is_match(&text),
            negative: forms.negative.is_match(&text),
        }
    }
}

impl Question {
    /// Looks at what the customer says.
    pub fn of(text: &str) -> Question {
        let (text, forms) = (text.replace('’', "'"), &*FORMS);
        Question {
            how_much: forms.how_much.is_match(&text),
            how_long: forms.how_long.is_match(&text),
            whether: forms.whether.is_match(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_of_the_kinds_of_what_they_hold() {
        let sentence =
            Sentence::of("Call 555-0161 within 14 working days: 25 euros are paid back on Friday.");
        assert!(sentence.phone && sentence.duration && sentence.amount && sentence.free && sentence.date);
        assert!(!sentence.negative && Sentence::of("You can’t change it.").negative);
        let plain = Sentence::of("The engineer rings the bell.");
        assert!(!plain.phone && !plain.duration && !plain.amount && !plain.free && !plain.date);
    }

    #[test]
    fn questions_are_of_the_kinds_of_what_they_ask() {
        let question = Question::of("How much is it, and how long does it take?");
        assert!(question.how_much && question.how_long && question.whether);
        let none = Question::of("My name is Ann.");
        assert!(!none.how_much && !none.how_long && !none.whether);
    }
}
