//! The redactor, as a call's actor uses it: what goes, what stays, and what holds for every text.

use chatdlm::event::Speaker;
use chatdlm::event::Speaker::Agent;
use chatdlm::event::Speaker::Customer;
use chatdlm::monitor::redact::Category;
use chatdlm::monitor::redact::Redacted;
use chatdlm::monitor::redact::Redactor;
use chatdlm::monitor::redact::Spoken;
use chatdlm::monitor::redact::redact_json;
use chatdlm::monitor::redact::redact_text;
use proptest::prelude::*;

/// Redacts a call turn by turn, five seconds each, two between.
fn redact_call(turns: &[(Speaker, &str)]) -> Vec<Redacted> {
    let mut redactor = Redactor::new();
    let mut redacted = Vec::new();
    for (place, &(speaker, text)) in turns.iter().enumerate() {
        let start_ms = place as u64 * 7_000;
        redacted.push(redactor.redact_final(Spoken { speaker, text, start_ms, end_ms: start_ms + 5_000 }));
    }
    redacted
}

/// Checks the text of every turn after redaction.
fn check_call(turns: &[(Speaker, &str, &str)]) {
    let spoken: Vec<(Speaker, &str)> = turns.iter().map(|&(speaker, text, _)| (speaker, text)).collect();
    for (redacted, (_, text, expected)) in redact_call(&spoken).iter().zip(turns) {
        assert_eq!(redacted.text, *expected, "{text:?}");
    }
}

fn check_text(text: &str, expected: &str) {
    assert_eq!(redact_text(text), expected, "{text:?}");
}

#[test]
fn a_card_is_hidden_as_typed_and_as_spoken() {
    check_text("It's 4111 1111 1111 1111.", "It's [payment card].");
    check_text("4111-1111-1111-1111", "[payment card]");
    check_text("4111.1111.1111.1111", "[payment card]");
    check_text("３７８２ 822463 10005", "[payment card]");
    check_text("4111\u{200b}11111111\u{200b}1111 please", "[payment card] please");
    check_text("forty one eleven eleven eleven eleven eleven eleven eleven", "[payment card]");
    check_text(
        "so five five five five, five five five five, uh, five five five five four four four four",
        "so [payment card]",
    );
    check_text(
        "double five double five double five double five double five double five double four double four ok",
        "[payment card] ok",
    );
    check_text("4 triple 1 1111 one one one one 1111", "[payment card]");
}

#[test]
fn other_numbers_that_prove_themselves_are_hidden_anywhere() {
    check_text("take DE89 3704 0044 0532 0130 00 for it", "take [iban] for it");
    check_text(
        "d e eight nine three seven zero four zero zero double four zero five three two zero one three zero double zero",
        "[iban]",
    );
    check_text("gb29 nwbk 6016 1331 9268 19", "[iban]");
    check_text("078-05-1120 is mine", "[ssn] is mine");
    check_text("write to j.smith+x@mail.example.co.uk, please", "write to [email], please");
    check_text("j dot smith at example dot com", "[email]");
    check_text("it is t underscore marlowe eighty eight at gmail dot com thanks", "it is [email] thanks");
    check_text("call +44 7700 900351 or (614) 555-0137", "call [phone] or [phone]");
}

#[test]
fn a_card_split_over_segments_leaves_nothing() {
    check_call(&[
        (Agent, "could you read me the long number", "could you read me the long number"),
        (Customer, "it's four one one one", "it's [payment card]"),
        (Agent, "yes", "yes"),
        (Customer, "one one one one one one", "[payment card]"),
        (
            Customer,
            "one one one one one one and the expiry is oh four twenty nine",
            "[payment card] and the expiry is [card expiry]",
        ),
        (Agent, "and the three on the back", "and the three on the back"),
        (Customer, "seven three seven", "[card code]"),
        (Agent, "so that's four one one one one one", "so that's [payment card]"),
    ]);
}

#[test]
fn a_card_that_nobody_asked_for_is_hidden_from_its_first_group_on() {
    check_call(&[
        (Customer, "right here it comes 4111 1111", "right here it comes [number]"),
        (Customer, "1111 1111", "[number]"),
    ]);
}

#[test]
fn an_iban_goes_on_after_a_read_back() {
    check_call(&[
        (Agent, "what's the iban", "what's the iban"),
        (Customer, "d e eight nine three seven oh four", "[iban]"),
        (Agent, "d e eight nine thirty seven oh four yes", "[iban] yes"),
        (Customer, "double oh double four oh five three two oh one three double oh", "[iban]"),
    ]);
}

#[test]
fn a_social_security_number_goes_on_after_a_pause() {
    check_call(&[
        (Agent, "i need the social security number", "i need the social security number"),
        (Customer, "sure it's oh seven eight oh five", "sure it's [ssn]"),
        (Customer, "uh one one two oh", "uh [ssn]"),
    ]);
}

#[test]
fn after_twenty_seconds_digits_stand_for_themselves() {
    let mut redactor = Redactor::new();
    let mut say = |text: &str, start_ms: u64| {
        redactor.redact_final(Spoken { speaker: Customer, text, start_ms, end_ms: start_ms + 1_000 }).text
    };
    assert_eq!(say("my card is 4111 1111", 0), "my card is [payment card]");
    assert_eq!(say("anyway it was twelve ninety nine", 30_000), "anyway it was twelve ninety nine");
}

#[test]
fn what_may_be_shown_stays() {
    for text in [
        "Order 4730918 of £1,860.50 on the 3rd of March at 9:30.",
        "the booking is r f four four oh nine double one two six",
        "i've been with you since nineteen sixty eight",
        "Case number FR 220 418, please.",
        "it's fifty five pounds for two weeks",
        "HV 20417 and KC 4410 2297",
        "ten ninety nine a month from the eighth of June 2026",
        "We met at eleven. Look at that dot on the map.",
        "the account is open from 8 to 20 on weekdays",
        "version 2.10.4 build 20260115",
    ] {
        check_text(text, text);
    }
    check_call(&[
        (Agent, "please ring 0800 555 0155 for that", "please ring 0800 555 0155 for that"),
        (Customer, "0800 555 0155 got it", "0800 555 0155 got it"),
        (Agent, "what's your order number", "what's your order number"),
        (Customer, "seven seven one three four oh two", "seven seven one three four oh two"),
        (Agent, "seven seven one three four oh two thanks", "seven seven one three four oh two thanks"),
    ]);
}

#[test]
fn a_partial_segment_is_judged_eagerly_and_leaves_no_trace() {
    let mut redactor = Redactor::new();
    let partial = |redactor: &Redactor, text: &str| {
        redactor.redact_partial(Spoken { speaker: Customer, text, start_ms: 0, end_ms: 900 }).text
    };
    assert_eq!(partial(&redactor, "right so four one"), "right so [number]");
    assert_eq!(partial(&redactor, "my card is four one one one one"), "my card is [payment card]");
    assert_eq!(partial(&redactor, "write to j dot smith"), "write to [email]");
    let later = redactor.redact_final(Spoken {
        speaker: Customer,
        text: "two tickets",
        start_ms: 1_000,
        end_ms: 2_000,
    });
    assert_eq!(later.text, "two tickets");
}

#[test]
fn a_restart_in_the_middle_of_a_number_forgets_nothing() {
    let mut redactor = Redactor::new();
    for (place, text) in ["and the card number?", "it's [payment card]"].into_iter().enumerate() {
        let speaker = if place == 0 { Agent } else { Customer };
        let start_ms = place as u64 * 4_000;
        let again = redactor.redact_final(Spoken { speaker, text, start_ms, end_ms: start_ms + 2_000 });
        assert_eq!(again.text, text);
    }
    let rest = Spoken { speaker: Customer, text: "one one one one", start_ms: 9_000, end_ms: 11_000 };
    assert_eq!(redactor.redact_final(rest).text, "[payment card]");
}

#[test]
fn a_draft_may_quote_what_the_call_has_shown_but_not_what_it_has_hidden() {
    let mut redactor = Redactor::new();
    let text = "my mobile is 555-0173";
    redactor.redact_final(Spoken { speaker: Customer, text, start_ms: 0, end_ms: 2_000 });
    let draft = redactor.redact_written("We will ring 555-0173. Our line is 0800 555 0155.");
    assert_eq!(draft.text, "We will ring [phone]. Our line is 0800 555 0155.");
}

#[test]
fn json_is_redacted_by_the_names_of_its_fields() {
    let metadata = serde_json::json!({
        "card": 4_111_111_111_111_111_u64, "phone": "5550173", "order": "4730918", "vip": true,
        "notes": ["mail j.smith@example.com", null],
    });
    let expected = serde_json::json!({
        "card": "[payment card]", "phone": "[phone]", "order": "4730918", "vip": true,
        "notes": ["mail [email]", null],
    });
    assert_eq!(redact_json(&metadata), expected);
}

#[test]
fn a_quarter_megabyte_of_anything_takes_linear_time() {
    let units = [
        "4",
        "1 ",
        "four one ",
        "a b ",
        "a@b.",
        "dot at ",
        "card 4111 ",
        "(",
        "de89 ",
        "name is ",
        "the third of ",
    ];
    for unit in units {
        let text = unit.repeat(250_000 / unit.len());
        // The suite's time limit is the assertion: quadratic work would take hours.
        let spoken = Spoken { speaker: Customer, text: &text, start_ms: 0, end_ms: 1_000 };
        let redacted = Redactor::new().redact_final(spoken);
        assert!(redacted.text.len() <= text.len() * 8);
    }
}

#[test]
fn categories_have_distinct_placeholders() {
    let mut placeholders: Vec<&str> = Category::ALL.iter().map(|category| category.placeholder()).collect();
    placeholders.sort_unstable();
    placeholders.dedup();
    assert_eq!(placeholders.len(), Category::ALL.len());
}

/// How a number is written.
#[derive(Debug, Clone, Copy)]
enum Form {
    Typed,
    Grouped,
    Dashed,
    Spoken,
    Doubled,
    Mixed,
}

fn form() -> impl Strategy<Value = Form> {
    let forms = [Form::Typed, Form::Grouped, Form::Dashed, Form::Spoken, Form::Doubled, Form::Mixed];
    prop::sample::select(forms.to_vec())
}

const WORDS: [&str; 10] = ["oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];

/// Says a digit or a letter.
fn say(character: char) -> String {
    match character.to_digit(10) {
        Some(digit) => WORDS[digit as usize].to_owned(),
        None => character.to_lowercase().to_string(),
    }
}

/// Writes digits, and the letters of an IBAN, in a form.
fn write(text: &str, form: Form) -> String {
    let characters: Vec<char> = text.chars().collect();
    let fours = |separator: &str| {
        characters.chunks(4).map(|group| group.iter().collect()).collect::<Vec<String>>().join(separator)
    };
    let spoken = |group: &[char]| group.iter().map(|&c| say(c)).collect::<Vec<_>>().join(" ");
    match form {
        Form::Typed => text.to_owned(),
        Form::Grouped => fours(" "),
        Form::Dashed => fours("-"),
        Form::Spoken => spoken(&characters),
        Form::Mixed => {
            let write_group = |(place, group): (usize, &[char])| match place % 2 {
                0 => group.iter().collect(),
                _ => spoken(group),
            };
            characters.chunks(3).enumerate().map(write_group).collect::<Vec<String>>().join(" ")
        }
        Form::Doubled => {
            let mut words = Vec::new();
            let mut at = 0;
            while at < characters.len() {
                let is_double =
                    characters[at].is_ascii_digit() && characters.get(at + 1) == Some(&characters[at]);
                let lead = if is_double { "double " } else { "" };
                words.push(format!("{lead}{}", say(characters[at])));
                at += if is_double { 2 } else { 1 };
            }
            words.join(" ")
        }
    }
}

/// A card number with a right check digit.
fn card() -> impl Strategy<Value = String> {
    "(4[0-9]{14}|5[1-5][0-9]{13}|3[47][0-9]{12}|6011[0-9]{11})".prop_map(|head| {
        let value = |(place, c): (usize, char)| {
            let value = c.to_digit(10).unwrap() * if place % 2 == 0 { 2 } else { 1 };
            value / 10 + value % 10
        };
        let sum: u32 = head.chars().rev().enumerate().map(value).sum();
        format!("{head}{}", (10 - sum % 10) % 10)
    })
}

/// A German IBAN with right check digits.
fn iban() -> impl Strategy<Value = String> {
    "[0-9]{18}".prop_map(|account: String| {
        let remainder =
            format!("{account}131400").bytes().fold(0, |r, b| (r * 10 + u32::from(b - b'0')) % 97);
        format!("DE{:02}{account}", 98 - remainder)
    })
}

/// Returns how many digits a text still has, typed or spoken.
fn digits_left(text: &str) -> usize {
    let typed = text.chars().filter(char::is_ascii_digit).count();
    let spoken = text.split(|c: char| !c.is_alphabetic()).filter(|part| WORDS.contains(part)).count();
    typed + spoken
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_card_survives(card in card(), form in form()) {
        let text = format!("so that is {} I think", write(&card, form));
        prop_assert_eq!(redact_text(&text), "so that is [payment card] I think");
    }

    #[test]
    fn no_card_survives_a_split(card in card(), form in form(), cuts in prop::collection::vec(4usize..13, 1..3)) {
        let mut cuts = cuts;
        cuts.extend([0, card.len()]);
        cuts.sort_unstable();
        // Parts of at least two digits: a lone "oh" is a sigh.
        cuts.dedup_by(|cut, before| *cut < *before + 2);
        let parts: Vec<String> = cuts.windows(2).map(|pair| write(&card[pair[0]..pair[1]], form)).collect();
        let mut turns = vec![(Agent, "could you read me the card number please")];
        turns.extend(parts.iter().map(|part| (Customer, part.as_str())));
        for redacted in &redact_call(&turns)[1..] {
            prop_assert_eq!(digits_left(&redacted.text), 0, "{:?} of {:?}", redacted.text, parts);
        }
    }

    #[test]
    fn no_card_survives_unasked_in_fours(card in "4[0-9]{15}") {
        let parts: Vec<String> = [0, 4, 8, 12].iter().map(|&at| write(&card[at..at + 4], Form::Spoken)).collect();
        let turns: Vec<(Speaker, &str)> = parts.iter().map(|part| (Customer, part.as_str())).collect();
        for redacted in redact_call(&turns) {
            prop_assert_eq!(digits_left(&redacted.text), 0, "{:?} of {:?}", redacted.text, parts);
        }
    }

    #[test]
    fn no_iban_survives(iban in iban(), form in form()) {
        let text = format!("pay it to {} then", write(&iban, form));
        prop_assert_eq!(redact_text(&text), "pay it to [iban] then");
    }

    #[test]
    fn no_social_security_number_survives(
        area in 1u32..666, group in 1u32..100, serial in 1u32..10_000, form in form(),
    ) {
        let digits = format!("{area:03}{group:02}{serial:04}");
        let text = format!("my social is {} okay", write(&digits, form));
        prop_assert_eq!(digits_left(&redact_text(&text)), 0, "{}", text);
        let dashed = format!("{area:03}-{group:02}-{serial:04}");
        prop_assert_eq!(redact_text(&dashed), "[ssn]");
    }

    #[test]
    fn no_phone_survives(digits in "(07[0-9]{9}|555[0-9]{4}|[2-9][0-9]{2}[2-9][0-9]{6})", form in form()) {
        let text = format!("my phone number is {} thanks", write(&digits, form));
        prop_assert_eq!(digits_left(&redact_text(&text)), 0, "{}", redact_text(&text));
    }

    #[test]
    fn no_email_survives(local in "[f-z]{3,8}", last in "[f-z]{4,8}", host in "[f-z]{4,8}") {
        for text in [format!("{local}.{last}@{host}.com"), format!("{local} dot {last} at {host} dot com")] {
            let redacted = redact_text(&format!("my email is {text}"));
            prop_assert_eq!(redacted, "my email is [email]");
        }
    }

    #[test]
    fn plain_words_stay(
        words in prop::collection::vec("(hello|the|parcel|is|late|order|card|and|at|my|may|of|we|a|bank)", 0..20),
    ) {
        let text = words.join(" ");
        prop_assert_eq!(redact_text(&text), text);
    }

    #[test]
    fn redacting_twice_changes_nothing(
        text in "([a-zA-Z0-9@.,:/ -]|card |pin |password is |name is |oh |double |four |at |dot |may ){0,60}",
    ) {
        let once = redact_text(&text);
        prop_assert_eq!(redact_text(&once), once);
    }

    #[test]
    fn every_text_is_survived_and_spans_are_right(
        texts in prop::collection::vec("(\\PC|[0-9]{4} |four |card |at |\\.|ß|é|💳|\\n){0,40}", 1..4),
    ) {
        let mut redactor = Redactor::new();
        for (place, text) in texts.iter().enumerate() {
            let speaker = if place % 2 == 0 { Customer } else { Agent };
            let spoken = Spoken { speaker, text, start_ms: place as u64, end_ms: place as u64 + 1 };
            redactor.redact_partial(spoken);
            redactor.redact_written(text);
            let redacted = redactor.redact_final(spoken);
            let characters: Vec<char> = redacted.text.chars().collect();
            let original: Vec<char> = text.chars().collect();
            let (mut from, mut original_from) = (0, 0);
            for span in &redacted.spans {
                let placeholder: String = characters[span.start..span.end].iter().collect();
                prop_assert_eq!(placeholder, span.category.placeholder());
                prop_assert!(!original[span.original.clone()].is_empty());
                // What stands between placeholders is what stood between secrets.
                prop_assert_eq!(&characters[from..span.start], &original[original_from..span.original.start]);
                (from, original_from) = (span.end, span.original.end);
            }
            prop_assert_eq!(&characters[from..], &original[original_from..]);
        }
    }
}

#[test]
fn a_part_of_a_card_that_could_be_a_date_is_the_card() {
    check_call(&[
        (Agent, "could you read me the card number please", "could you read me the card number please"),
        (Customer, "five one double eight", "[payment card]"),
        (Customer, "double oh", "[payment card]"),
        (Customer, "double oh double oh double oh double oh oh three", "[payment card]"),
        (Agent, "and your date of birth", "and your date of birth"),
        (Customer, "five one double eight", "[date of birth]"),
    ]);
}

#[test]
fn a_name_that_is_a_number_takes_no_more_of_the_sentence() {
    check_text("my email is nil dot jones at post dot com", "my email is [email]");
    check_text("my email is six dot jones at post dot com", "my email is [email]");
}
