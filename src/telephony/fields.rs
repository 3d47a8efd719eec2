//! What carriers write into JSON objects, read the same way on every wire.

use serde_json::Map;
use serde_json::Value;

/// How much of a sender's text an error may show, in characters.
const QUOTED_MAX_CHARS: usize = 40;

/// Returns a field's text without the space around it; nothing where it is empty or no text.
pub(super) fn text_of(fields: &Map<String, Value>, key: &str) -> Option<String> {
    let text = fields.get(key)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the names of a list with commas.
pub(super) fn listed(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns as much of a sender's text as an error may show.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX_CHARS).collect()
}
