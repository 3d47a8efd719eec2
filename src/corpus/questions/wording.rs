//! How a customer would ask for a sentence: rules over English words.
//!
//! A rule looks at how the sentence, its heading or its title is built; what no rule fits is asked for by its
//! topic. Rules may give odd English now and then, as callers do.

/// What a question is made from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The article's title.
    pub title: &'a str,
    /// The heading above the sentence, empty where there is none.
    pub heading: &'a str,
    /// The sentence that answers.
    pub sentence: &'a str,
    /// Whether it is the first of its article: then it answers who asks by the title alone.
    pub is_first_of_article: bool,
    /// Whether it is the first under its heading, likewise.
    pub is_first_of_heading: bool,
}

/// What a sentence is about, as it goes on within a question.
struct Topic {
    /// "copies and paper", "dispute a charge".
    name: String,
    /// "for copies and paper", "to dispute a charge".
    purpose: String,
}

/// Verbs that begin titles, headings and instructions.
const VERBS: [&str; 62] = [
    "add", "appeal", "apply", "arrive", "ask", "book", "bring", "buy", "call", "cancel", "change", "check",
    "choose", "claim", "close", "collect", "complain", "connect", "contact", "delete", "dispute", "download",
    "end", "enter", "export", "fill", "find", "fix", "get", "give", "go", "hire", "import", "install",
    "join", "keep", "leave", "log", "make", "move", "open", "order", "pay", "press", "register", "renew",
    "report", "request", "reset", "return", "send", "set", "sign", "start", "stop", "switch", "take", "tell",
    "track", "update", "use", "write",
];
/// Words that a yes-or-no question begins with when they follow the subject.
const AUXILIARIES: [&str; 8] = ["is", "are", "can", "must", "will", "may", "was", "were"];
/// Words before "you" that leave it the subject of what follows.
const BEFORE_SUBJECT: [&str; 16] = [
    "if", "when", "that", "what", "where", "as", "and", "or", "because", "unless", "before", "after",
    "until", "once", "while", "how",
];
/// What callers say first.
const OPENERS: [&str; 8] =
    ["hi um", "yeah hi", "so", "okay and", "right", "hello", "sorry just quickly", "oh and"];
/// Words that say nothing about a topic.
const EMPTY: [&str; 42] = [
    "a", "an", "and", "any", "are", "as", "at", "be", "but", "by", "can", "do", "for", "from", "has", "have",
    "if", "in", "is", "it", "its", "no", "not", "of", "on", "or", "our", "that", "the", "then", "this", "to",
    "us", "was", "we", "when", "will", "with", "within", "you", "your", "also",
];

/// Returns the questions that the sentence answers, without repetition.
pub fn questions(source: &Source) -> Vec<String> {
    let topic = topic(source.heading, source.title);
    let mut found: Vec<String> = Vec::new();
    found.extend(of_sentence(source.sentence));
    found.extend(of_figures(source.sentence, &topic));
    if source.is_first_of_article {
        found.extend(of_title(source.title));
    }
    if source.is_first_of_heading && !source.heading.is_empty() {
        found.extend(of_heading(source.heading, source.title));
    }
    found.extend(of_keywords(source.sentence, &topic));
    let mut different: Vec<String> = Vec::new();
    for question in found {
        if !different.contains(&question) {
            different.push(question);
        }
    }
    different
}

/// Returns a question as a recogniser hears it: lower case, no punctuation, numbers in words, and what people
/// say before they ask.
pub fn spoken(question: &str) -> String {
    let mut words = Vec::new();
    for word in question.split_whitespace() {
        let kept = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '\'').to_lowercase();
        match kept.parse::<u32>() {
            Ok(number) if number < 10_000 => words.push(spelled(number)),
            _ if kept.is_empty() => {}
            _ => words.push(kept.replace(['-', '/'], " ")),
        }
    }
    let sum: usize = question.bytes().map(usize::from).sum();
    let opener = OPENERS.get(sum % (2 * OPENERS.len()));
    opener.into_iter().map(|opener| (*opener).to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Turns the sentence itself into a question.
fn of_sentence(sentence: &str) -> Vec<String> {
    let clause = sentence.split([',', ';', ':', '(', '.']).next().unwrap_or_default();
    let words: Vec<&str> = clause.split_whitespace().take(12).collect();
    let lower: Vec<String> = words.iter().map(|word| word.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let rest = |from: usize| of_customer(&words[from.min(words.len())..]);
    match lower[..] {
        ["you", "can", ..] | ["you", "cannot", ..] | ["you", "may", ..] => {
            vec![format!("Can I {}?", rest(2)), format!("Am I allowed to {}?", rest(2))]
        }
        ["you", "must" | "need" | "have", "to", ..] => vec![format!("Do I have to {}?", rest(3))],
        ["you", "must", ..] => vec![format!("Do I have to {}?", rest(2))],
        ["you", "do", "not", ..] => vec![format!("Do I {}?", rest(3))],
        ["you", "get" | "have" | "need" | "pay" | "keep", ..] => vec![format!("Do I {}?", rest(1))],
        ["we", "can" | "cannot", ..] => vec![format!("Can you {}?", rest(2))],
        ["we", "do", "not", ..] => vec![format!("Do you {}?", rest(3))],
        ["we", "are" | "will", ..] => vec![],
        ["we", ..] if words.len() > 2 => vec![format!("Do you {}?", rest(1))],
        ["if" | "when", _, ..] => {
            vec![format!("What happens if {}?", rest(1)), format!("What do I do if {}?", rest(1))]
        }
        [first, ..] if VERBS.contains(&first) && words.len() > 2 => {
            vec![
                format!("Should I {}?", uncapital(&rest(0))),
                format!("Do I have to {}?", uncapital(&rest(0))),
            ]
        }
        _ => of_statement(&words, &lower),
    }
}

/// Asks whether a statement is so, or what it costs or takes.
fn of_statement(words: &[&str], lower: &[&str]) -> Vec<String> {
    let at = |wanted: &[&str]| (1..lower.len().min(7)).find(|i| wanted.contains(&lower[*i]));
    let subject = |end: usize| uncapital(&of_customer(&words[..end]));
    if let Some(at) = at(&["costs", "cost"]) {
        return vec![
            format!("How much does {} cost?", subject(at)),
            format!("What do I pay for {}?", subject(at)),
        ];
    }
    if let Some(at) = at(&["takes", "take"]) {
        return vec![format!("How long does {} take?", subject(at))];
    }
    if let Some(at) = at(&["comes", "arrives", "starts", "ends", "opens", "expires"]) {
        return vec![format!("When does {} {}?", subject(at), lower[at].trim_end_matches('s'))];
    }
    match at(&AUXILIARIES) {
        Some(at) if at + 1 < words.len() && !lower[..at].contains(&"that") => {
            let rest = of_customer(&words[at + 1..]);
            let negated = rest.strip_prefix("not ").unwrap_or(&rest);
            vec![format!("{} {} {negated}?", capital(lower[at]), subject(at))]
        }
        _ => Vec::new(),
    }
}

/// Asks for what the sentence states in figures, or says of price, time and place.
fn of_figures(sentence: &str, topic: &Topic) -> Vec<String> {
    let Topic { name, purpose } = topic;
    let lower = sentence.to_lowercase();
    let has = |some: &[&str]| some.iter().any(|word| lower.contains(word));
    let has_digit = lower.chars().any(|c| c.is_ascii_digit());
    let mut found = Vec::new();
    if has(&["euro", "€", "£", "$", "pound", " fee", "price", "cost"]) {
        found.extend([format!("How much is it {purpose}?"), format!("What does it cost {purpose}?")]);
    }
    if has_digit && has(&["percent", "%"]) {
        found.push(format!("What percentage is it {purpose}?"));
    }
    if has_digit && has(&["day", "hour", "week", "month", "minute", "year"]) {
        found.extend([format!("How long is it {purpose}?"), format!("How much time do I have {purpose}?")]);
    }
    if has(&[":00", ":30", "monday", "friday", "saturday", "sunday", "a.m", "p.m"]) {
        found.push(format!("When are you open {purpose}?"));
    }
    if has(&["555-", "call ", ".example", "in the app", "online", "by email", "form "]) {
        found.extend([format!("How do I reach you {purpose}?"), format!("Where do I go {purpose}?")]);
    }
    if has(&["free", "no fee", "no charge", "costs nothing"]) {
        found.extend([format!("Do I have to pay {purpose}?"), format!("Is it free {purpose}?")]);
    }
    if has(&["cannot", " not ", "no longer", "never", "except"]) {
        found.push(format!("I want to know about {name}, is there anything that is not possible?"));
    }
    found
}

fn of_title(title: &str) -> Vec<String> {
    let title = short(title);
    let words: Vec<&str> = title.split_whitespace().collect();
    let first = words.first().map(|word| word.to_lowercase()).unwrap_or_default();
    let said = uncapital(&of_customer(&words));
    match first.as_str() {
        "how" if words.get(1).is_some_and(|word| *word == "to") => {
            vec![format!("How do I {}?", of_customer(&words[2..]))]
        }
        "when" | "if" => vec![format!("What happens {said}?"), format!("What do I do {said}?")],
        "how" | "what" | "why" | "where" | "which" | "who" => vec![format!("Can you tell me {said}?")],
        verb if VERBS.contains(&verb) => vec![format!("How do I {said}?"), format!("I want to {said}.")],
        _ => vec![format!("I have a question about {said}."), format!("Can you tell me about {said}?")],
    }
}

fn of_heading(heading: &str, title: &str) -> Vec<String> {
    let (heading, title) = (short(heading), uncapital(&of_customer_text(&short(title))));
    let said = of_customer_text(&heading);
    let first = heading.split_whitespace().next().map(str::to_lowercase).unwrap_or_default();
    match first.as_str() {
        "how" | "what" | "why" | "where" | "which" | "who" | "when" if heading.contains(' ') => {
            // "What you pay" is "What do I pay?".
            let asked = [(" you ", " do I "), (" we ", " do you ")].into_iter().find_map(|(theirs, mine)| {
                let (first, rest) = heading.split_once(theirs)?;
                (!first.contains(' ')).then(|| format!("{first}{mine}{}", of_customer_text(rest)))
            });
            let asked = asked.unwrap_or(said);
            vec![format!("{asked}?"), format!("{title}, {}?", uncapital(&asked))]
        }
        "if" => vec![format!("What {}?", uncapital(&said))],
        verb if VERBS.contains(&verb) && heading.contains(' ') => {
            vec![format!("Can I {}?", uncapital(&said))]
        }
        _ => vec![
            format!("What about {}?", uncapital(&said)),
            format!("{title}, what about {}?", uncapital(&said)),
        ],
    }
}

/// Asks by the words of the sentence that say most: the longest, in their order.
fn of_keywords(sentence: &str, topic: &Topic) -> Vec<String> {
    let cleaned = sentence.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    let words: Vec<String> = cleaned.map(str::to_lowercase).collect();
    let says = |word: &&String| {
        word.len() > 3 && !EMPTY.contains(&word.as_str()) && word.chars().all(char::is_alphabetic)
    };
    let mut longest: Vec<&String> = words.iter().filter(says).collect();
    longest.sort_by_key(|word| std::cmp::Reverse(word.len()));
    longest.truncate(3);
    let kept: Vec<&str> = words.iter().filter(|word| longest.contains(word)).map(String::as_str).collect();
    match kept[..] {
        [] => vec![format!("Tell me more about {}.", topic.name)],
        _ => vec![format!("It is about {}, {}.", topic.name, kept.join(" ")), capital(&kept.join(" "))],
    }
}

/// Returns what the sentence is about.
fn topic(heading: &str, title: &str) -> Topic {
    let heading = short(heading);
    let first = heading.split_whitespace().next().map(str::to_lowercase).unwrap_or_default();
    // "What we need" is about what the article is about.
    let is_topic =
        !["how", "what", "why", "where", "which", "who", "when", "if", "while", ""].contains(&first.as_str());
    let chosen = if is_topic && heading.split_whitespace().count() > 1 { heading } else { short(title) };
    let name = uncapital(&of_customer_text(&chosen));
    let is_verb = VERBS.contains(&name.split_whitespace().next().unwrap_or_default());
    let purpose = if is_verb { format!("to {name}") } else { format!("for {name}") };
    Topic { name, purpose }
}

/// Returns a title without what follows a parenthesis, a colon or a comma.
fn short(title: &str) -> String {
    let end = title.find([',', '(', ':', '–', ';']).filter(|at| *at > 0).unwrap_or(title.len());
    title[..end].trim().trim_end_matches(['.', '?', '!']).to_owned()
}

fn of_customer_text(text: &str) -> String {
    of_customer(&text.split_whitespace().collect::<Vec<_>>())
}

/// Says what the company says from the customer's side: "your" is "my", "we" is "you".
fn of_customer(words: &[&str]) -> String {
    let mut said: Vec<String> = Vec::with_capacity(words.len());
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| words[before].to_lowercase());
        let is_subject = before.is_none_or(|before| BEFORE_SUBJECT.contains(&before.as_str()));
        let turned = match word.to_lowercase().as_str() {
            "you" if is_subject => "I",
            "you" => "me",
            "are" if said.last().is_some_and(|before| before == "I") => "am",
            "your" => "my",
            "yours" => "mine",
            "yourself" => "myself",
            "we" | "us" => "you",
            "our" => "your",
            "ours" => "yours",
            _ => word,
        };
        said.push(turned.to_owned());
    }
    said.join(" ")
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// Returns the text with a small first letter, unless the word is an abbreviation, a name in capitals or "I".
fn uncapital(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(chars).collect(),
        (Some('A'), Some(' ')) => format!("a{}", chars.as_str()),
        _ => text.to_owned(),
    }
}

/// Returns a number below ten thousand in words.
fn spelled(number: u32) -> String {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
    let joined = |head: String, rest: u32| match rest {
        0 => head,
        _ => format!("{head} {}", spelled(rest)),
    };
    match number {
        0..20 => SMALL[number as usize].to_owned(),
        20..100 => joined(TENS[number as usize / 10 - 2].to_owned(), number % 10),
        100..1000 => joined(format!("{} hundred", spelled(number / 100)), number % 100),
        _ => joined(format!("{} thousand", spelled(number / 1000)), number % 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(title: &str, heading: &str, sentence: &str, expected: &[&str]) {
        let found = questions(&Source {
            title,
            heading,
            sentence,
            is_first_of_article: true,
            is_first_of_heading: true,
        });
        for question in expected {
            assert!(found.iter().any(|found| found == question), "{question:?} is not in {found:#?}");
        }
        assert!(found.len() >= 3, "{found:?}");
    }

    #[test]
    fn a_sentence_is_asked_for_by_how_it_is_built() {
        check(
            "Wheelchairs and special assistance",
            "",
            "All assistance is free of charge.",
            &[
                "Is all assistance free of charge?",
                "Do I have to pay for wheelchairs and special assistance?",
                "I have a question about wheelchairs and special assistance.",
            ],
        );
        check(
            "Dispute a charge or make a complaint",
            "Time limit",
            "Tell us within 60 days of the bill date, on 150.",
            &[
                "Do I have to tell you within 60 days of the bill date?",
                "How much time do I have for time limit?",
                "How do I dispute a charge or make a complaint?",
                "What about time limit?",
            ],
        );
        check(
            "Understanding your bill",
            "Copies and paper",
            "A paper bill costs 2.50 euros a month; it is free for customers over 70.",
            &["How much does a paper bill cost?", "How much is it for copies and paper?"],
        );
        check(
            "Cancel within 14 days (cooling-off)",
            "What you pay",
            "You can withdraw within 14 days without giving a reason.",
            &[
                "Can I withdraw within 14 days without giving a reason?",
                "How do I cancel within 14 days?",
                "What do I pay?",
                "How long is it to cancel within 14 days?",
            ],
        );
        check(
            "When a customer has died",
            "",
            "If you send your papers to us, we answer.",
            &["What happens if I send my papers to you?", "What happens when a customer has died?"],
        );
        check("Delays", "", "We cannot pay you for a hotel.", &["Can you pay me for a hotel?"]);
        check("Delays", "", "Cups.", &["It is about delays, cups."]);
    }

    #[test]
    fn only_the_first_sentence_answers_who_asks_by_the_title() {
        let source = Source {
            title: "Lost cards",
            heading: "Abroad",
            sentence: "Our partners replace it.",
            is_first_of_article: false,
            is_first_of_heading: false,
        };
        assert_eq!(questions(&source), ["It is about lost cards, partners replace.", "Partners replace"]);
        assert_eq!(questions(&Source { is_first_of_heading: true, ..source }).len(), 4);
        assert_eq!(questions(&Source { is_first_of_article: true, ..source }).len(), 4);
    }

    #[test]
    fn what_is_spoken_has_neither_capitals_nor_points_nor_figures() {
        for question in
            ["Can I withdraw within 14 days?", "What's the fee for 2,350 km?", "Is 115 e-mail/SMS ok?"]
        {
            let said = spoken(question);
            let is_spoken =
                |c: char| c.is_lowercase() || c == ' ' || c == '\'' || c == ',' || c.is_ascii_digit();
            assert!(said.chars().all(is_spoken), "{said}");
        }
        assert!(spoken("Can I withdraw within 14 days?").ends_with("can i withdraw within fourteen days"));
        assert_eq!(spelled(9_241), "nine thousand two hundred forty one");
        assert_eq!(spelled(100), "one hundred");
    }
}
