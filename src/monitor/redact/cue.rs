//! Words that say what a number is: "card number", "sort code", "order", "booking reference".

use std::collections::HashMap;
use std::sync::LazyLock;

use super::token::Kind;
use super::token::Token;

/// What a following number is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cue {
    /// A payment card's number.
    Card,
    /// The code on a card.
    CardCode,
    /// "Code" without a word that says which.
    Code,
    /// The end of a card's validity.
    Expiry,
    /// A United States social security number.
    Ssn,
    /// An international bank account number.
    Iban,
    /// A sort code, routing number or bank account.
    BankAccount,
    /// "Account" without a word that says which.
    Account,
    /// Talk of banks and transfers; tells which kind of account is meant.
    Bank,
    /// A telephone number.
    Phone,
    /// A secret number.
    Pin,
    /// A secret word.
    Password,
    /// A date of birth.
    Birth,
    /// A postal address.
    Address,
    /// A postcode or ZIP code.
    Postcode,
    /// An e-mail address.
    Email,
    /// A person's name.
    Name,
    /// The last digits of a number.
    Ending,
    /// Something that may be shown: an order, a booking, a meter.
    Plain,
}

/// A cue and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct CueAt {
    /// What it announces.
    pub cue: Cue,
    /// First token.
    pub first: usize,
    /// Last token, inclusive.
    pub last: usize,
}

const PHRASES: &[(Cue, &[&str])] = &[
    (
        Cue::Card,
        &[
            "card",
            "cards",
            "card number",
            "long number",
            "sixteen digits",
            "sixteen digit",
            "16 digits",
            "16 digit number",
            "number on the front",
            "visa",
            "mastercard",
            "master card",
            "amex",
            "american express",
            "maestro",
            "discover card",
            "debit card",
            "credit card",
            "long card number",
        ],
    ),
    (
        Cue::CardCode,
        &[
            "security code",
            "cvv",
            "cvc",
            "cv two",
            "c v v",
            "c v c",
            "cvv 2",
            "three digits",
            "three digit",
            "three numbers",
            "three on the back",
            "last three on the back",
            "3 digits",
            "four digits on the front",
            "four on the front",
            "4 digits on the front",
            "the back says",
            "code on the back",
            "little code",
            "three digits on the back",
            "card code",
            "verification code on the back",
            "signature strip",
            "back of the card",
        ],
    ),
    (Cue::Code, &["code", "number on the back", "three numbers"]),
    (
        Cue::Expiry,
        &[
            "expiry",
            "expires",
            "expire",
            "expiring",
            "expiration",
            "exp",
            "end date",
            "runs out",
            "run out",
            "good till",
            "good until",
            "good through",
            "good thru",
            "valid till",
            "valid until",
            "valid to",
            "valid through",
            "valid thru",
            "expiry date",
        ],
    ),
    (
        Cue::Ssn,
        &[
            "social",
            "social security",
            "social security number",
            "ssn",
            "s s n",
            "tax identification",
            "taxpayer",
            "itin",
            "tax number",
            "tax id",
        ],
    ),
    (Cue::Iban, &["iban", "i ban", "i b a n", "eye ban", "ibans"]),
    (
        Cue::BankAccount,
        &[
            "sort code",
            "sort",
            "routing",
            "routing number",
            "bank account",
            "bank account number",
            "checking account",
            "savings account",
            "account and sort code",
            "aba",
        ],
    ),
    (Cue::Account, &["account", "account number", "account no", "acct"]),
    (
        Cue::Bank,
        &[
            "bank",
            "banks",
            "transfer",
            "direct debit",
            "pay into",
            "paid into",
            "wire",
            "payee",
            "refund to",
            "credit union",
            "building society",
            "payroll",
            "new account",
        ],
    ),
    (
        Cue::Phone,
        &[
            "phone",
            "phone number",
            "telephone",
            "mobile",
            "cell",
            "landline",
            "reach you",
            "reach me",
            "ring you",
            "ring me",
            "call you",
            "call me",
            "text you",
            "text me",
            "text him",
            "text her",
            "best number",
            "your number",
            "my number",
            "a number",
            "contact number",
            "callback",
            "call back",
            "what number",
            "number's best",
            "her number",
            "his number",
            "new number",
            "number we have",
            "calling from",
            "ring her",
            "ring him",
            "call her",
            "call him",
            "whatsapp",
            "reach him",
            "reach her",
            "old number",
            "which number",
            "fax",
        ],
    ),
    (Cue::Pin, &["pin", "pins", "p i n", "passcode", "pass code", "pin number", "pin code", "account pin"]),
    (
        Cue::Password,
        &[
            "memorable word",
            "secret word",
            "security word",
            "safe word",
            "security answer",
            "memorable information",
            "password",
            "passphrase",
            "pass phrase",
            "passwort",
            "pass word",
        ],
    ),
    (
        Cue::Birth,
        &[
            "date of birth",
            "birth date",
            "birthdate",
            "birthday",
            "born",
            "dob",
            "d o b",
            "birthdays",
            "dates of birth",
        ],
    ),
    (Cue::Postcode, &["postcode", "post code", "postal code", "zip", "zip code", "zipcode"]),
    (
        Cue::Address,
        &["address", "street", "live at", "lives at", "house number", "addresses", "lives where", "you live"],
    ),
    (
        Cue::Email,
        &[
            "email",
            "e - mail",
            "e mail",
            "mail address",
            "email address",
            "emails",
            "e - mail address",
            "mail",
        ],
    ),
    (
        Cue::Name,
        &[
            "name",
            "names",
            "surname",
            "full name",
            "first name",
            "last name",
            "am i speaking",
            "who's calling",
            "i speaking to",
            "spell it",
            "spell that",
            "name of",
        ],
    ),
    (
        Cue::Ending,
        &[
            "ending",
            "ends in",
            "ends with",
            "ending in",
            "end in",
            "last four",
            "last 4",
            "last four digits",
            "last 4 digits",
            "last three",
            "last two digits",
            "last digits",
            "finishing",
            "ended in",
            "ended",
            "ended with",
            "ends",
        ],
    ),
    (
        Cue::Plain,
        &[
            "order",
            "orders",
            "order number",
            "booking",
            "booking number",
            "booking reference",
            "reference",
            "reference number",
            "references",
            "ref",
            "case",
            "case number",
            "claim",
            "claim number",
            "ticket",
            "ticket number",
            "tracking",
            "tracking number",
            "parcel number",
            "meter",
            "meters",
            "meter reading",
            "reading",
            "readings",
            "serial",
            "serial number",
            "invoice",
            "invoice number",
            "statement",
            "statement number",
            "employee number",
            "employee id",
            "staff number",
            "policy",
            "policy number",
            "member number",
            "membership",
            "membership number",
            "customer number",
            "customer reference",
            "flight",
            "flight number",
            "request",
            "request number",
            "job number",
            "job",
            "tenancy",
            "tenancy number",
            "complaint",
            "complaint number",
            "authorisation",
            "authorization",
            "confirmation",
            "confirmation number",
            "quote",
            "quote number",
            "voucher",
            "coupon",
            "promo",
            "promo code",
            "error",
            "error code",
            "extension",
            "product number",
            "item number",
            "item",
            "model",
            "model number",
            "locker",
            "version",
            "registration",
            "number plate",
            "licence plate",
            "license plate",
            "plate",
            "notice",
            "notice number",
            "penalty",
            "permit",
            "application",
            "application number",
            "report",
            "report number",
            "agreement",
            "agreement number",
            "gift card balance",
            "balance",
            "one time code",
            "login code",
            "sign in code",
            "access code",
            "unlock code",
            "discount code",
            "booking code",
            "transaction",
            "consignment",
            "delivery number",
            "waybill",
            "shipment",
            "label",
            "barcode",
            "sku",
            "article number",
            "part number",
            "fault",
            "fault number",
            "incident",
            "docket",
            "chart number",
            "patient number",
            "record number",
            "tax code",
            "postbox",
            "depot",
            "van",
            "bus",
            "train",
            "room",
            "gate",
            "seat",
            "page",
            "extension number",
            "payment reference",
            "collection number",
            "card number on the badge",
            "library",
            "parcel",
            "package",
            "first five digits",
            "account reference",
            "vat number",
            "company number",
            "fleet number",
            "vehicle",
            "crime reference",
            "authorisation number",
            "contract number",
            "contract",
            "payslip number",
            "staff id",
            "works number",
            "loyalty number",
            "points number",
            "frequent flyer",
            "record locator",
            "locator",
            "id number",
            "customer id",
            "user id",
            "code on the screen",
            "number on the screen",
            "key code",
            "stock code",
        ],
    ),
];

type Phrases = HashMap<&'static str, Vec<(Vec<&'static str>, Cue)>>;

/// All phrases by their first word, the longest first.
static BY_FIRST_WORD: LazyLock<Phrases> = LazyLock::new(|| {
    let mut phrases: Phrases = HashMap::new();
    for &(cue, texts) in PHRASES {
        for text in texts {
            let words: Vec<&str> = text.split(' ').collect();
            phrases.entry(words[0]).or_default().push((words, cue));
        }
    }
    for list in phrases.values_mut() {
        list.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
    }
    phrases
});

/// Finds the cues of a text, in order, the longest phrase at each place.
pub(super) fn find_cues(tokens: &[Token]) -> Vec<CueAt> {
    let mut cues = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let found = BY_FIRST_WORD
            .get(tokens[at].stem())
            .and_then(|list| list.iter().find(|(words, _)| matches_at(tokens, at, words)));
        match found {
            Some((words, cue)) => {
                cues.push(CueAt { cue: *cue, first: at, last: at + words.len() - 1 });
                at += words.len();
            }
            None => at += 1,
        }
    }
    cues.retain(|cue| !is_misled(tokens, cue));
    cues
}

fn matches_at(tokens: &[Token], at: usize, words: &[&str]) -> bool {
    let Some(slice) = tokens.get(at..at + words.len()) else { return false };
    (slice.iter().zip(words))
        .all(|(token, word)| !matches!(token.kind, Kind::Placeholder(_)) && token.stem() == *word)
}

/// Returns whether the neighbours of a cue give it another meaning: "social media".
fn is_misled(tokens: &[Token], cue: &CueAt) -> bool {
    let next = tokens.get(cue.last + 1).map_or("", |token| token.lower.as_str());
    let before = cue.first.checked_sub(1).map_or("", |at| tokens[at].lower.as_str());
    let word = tokens[cue.first].lower.as_str();
    match cue.cue {
        Cue::Ssn => matches!(next, "media" | "worker" | "care" | "services" | "club" | "housing"),
        Cue::Plain => before == "in" && matches!(word, "case" | "order"),
        Cue::Name => before == "my" && (next == "is" || word.ends_with("'s")),
        _ => false,
    }
}
