//! The pairs of names and values that a carrier passes on for whoever set up the stream.
//!
//! The names that say whose call it is are taken out; the rest is kept for the call's metadata,
//! within bounds and without what looks like a secret.

use serde_json::Map;
use serde_json::Value;

use crate::telephony::fields::listed;

/// The most pairs that are kept for the metadata.
const KEPT_MAX: usize = 64;
/// The most bytes of names and values that are kept for the metadata: half of what a call may have.
const KEPT_MAX_BYTES: usize = 4 * 1024;
/// The most knowledge bases that are read; one more than a call may have, so that it is refused by name.
const BASES_READ_MAX: usize = 33;
/// What a name holds, in lower case and letters and digits only, when its value is a secret.
const SECRET_PARTS: [&str; 14] = [
    "token",
    "secret",
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "credential",
    "signature",
    "bearer",
    "jwt",
    "cookie",
];
/// What a name is as a whole, in the same form, when its value is a secret.
const SECRET_NAMES: [&str; 6] = ["auth", "key", "pass", "pin", "pwd", "sig"];

/// What the pairs say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parameters {
    /// The agent's user name.
    pub agent: Option<String>,
    /// The customer, a number or a name.
    pub customer: Option<String>,
    /// BCP 47 language tag.
    pub language: Option<String>,
    /// Knowledge bases to search.
    pub knowledge: Vec<String>,
    /// The other pairs, as texts.
    pub rest: Map<String, Value>,
    rest_bytes: usize,
}

impl Parameters {
    /// Takes one pair. Values that are no text, number or truth value and empty ones say nothing;
    /// names are read in any case, and a later pair of the same name wins.
    pub(super) fn add(&mut self, name: &str, value: &Value) {
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Null | Value::Array(_) | Value::Object(_) => return,
        };
        if text.is_empty() {
            return;
        }
        match name.trim().to_ascii_lowercase().as_str() {
            "agent" => self.agent = Some(text),
            "customer" => self.customer = Some(text),
            "language" => self.language = Some(text),
            "knowledge" => self.knowledge = listed(&text).into_iter().take(BASES_READ_MAX).collect(),
            _ => self.keep(name.trim(), text),
        }
    }

    fn keep(&mut self, name: &str, text: String) {
        let bytes = name.len() + text.len();
        let fits = self.rest.len() < KEPT_MAX && self.rest_bytes + bytes <= KEPT_MAX_BYTES;
        if !fits || name.is_empty() || is_secret(name) {
            return;
        }
        self.rest_bytes += bytes;
        self.rest.insert(name.to_owned(), Value::String(text));
    }
}

/// Returns whether a value of this name must not be stored.
pub(super) fn is_secret(name: &str) -> bool {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    let plain = letters.collect::<String>().to_ascii_lowercase();
    SECRET_NAMES.contains(&plain.as_str()) || SECRET_PARTS.iter().any(|part| plain.contains(part))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pairs: &[(&str, Value)]) -> Parameters {
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.add(name, value);
        }
        parameters
    }

    #[test]
    fn the_known_names_are_taken_out_and_the_rest_is_kept() {
        let parameters = read(&[
            ("Agent", json!("ann")),
            ("customer", json!(" +441632960001 ")),
            ("language", json!("de")),
            ("knowledge", json!("billing, ,tariffs")),
            ("queue", json!(7)),
            ("empty", json!("")),
            ("nested", json!({"a": 1})),
        ]);
        assert_eq!(parameters.agent.as_deref(), Some("ann"));
        assert_eq!(parameters.customer.as_deref(), Some("+441632960001"));
        assert_eq!(parameters.language.as_deref(), Some("de"));
        assert_eq!(parameters.knowledge, ["billing", "tariffs"]);
        assert_eq!(Value::Object(parameters.rest), json!({"queue": "7"}));
    }

    #[test]
    fn secrets_are_not_kept() {
        for name in ["token", "X-Api-Key", "client_secret", "Authorization", "sig", "PIN", "accessToken"] {
            assert!(read(&[(name, json!("s3cret"))]).rest.is_empty(), "{name}");
        }
        for name in ["shipping", "monkey", "author", "queue"] {
            assert_eq!(read(&[(name, json!("x"))]).rest.len(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let mut many = Parameters::default();
        for index in 0..10_000 {
            many.add(&format!("p{index}"), &json!("v"));
        }
        assert_eq!(many.rest.len(), KEPT_MAX);
        let mut large = Parameters::default();
        for index in 0..100 {
            large.add(&format!("p{index}"), &json!("v".repeat(1000)));
        }
        assert_eq!(large.rest.len(), 4);
        assert_eq!(read(&[("knowledge", json!("a,".repeat(5000)))]).knowledge.len(), BASES_READ_MAX);
    }
}
