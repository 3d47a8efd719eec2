//! Calls of tools in what a model wrote.
//!
//! Models write calls between `<tool_call>` and `</tool_call>`, in one of two forms: as JSON,
//! `{"name": …, "arguments": {…}}` (Qwen, and so Dream and SDAR; LLaDA2), or as a name with pairs of
//! `<arg_key>` and `<arg_value>` (later templates of LLaDA2's family). What is not a call of a tool
//! that is there stays text.

use serde_json::Map;
use serde_json::Value;

/// What begins a call.
pub const OPENING: &str = "<tool_call>";
/// What ends a call.
const CLOSING: &str = "</tool_call>";

/// A tool that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The tool's name.
    pub name: String,
    /// The arguments.
    pub arguments: Map<String, Value>,
}

/// Returns what stands before the calls, and the calls; no calls when one of them is none.
pub fn read<'a>(text: &'a str, tools: &[Tool]) -> (&'a str, Vec<Call>) {
    let mut calls = Vec::new();
    let mut parts = text.split(OPENING);
    let before = parts.next().unwrap_or_default().trim_end();
    for part in parts {
        // The last one need not be closed: the text may have ended with it.
        let inside = part.split(CLOSING).next().unwrap_or_default().trim();
        let Some(call) = call(inside, tools) else { return (text, Vec::new()) };
        calls.push(call);
    }
    if calls.is_empty() { (text, calls) } else { (before, calls) }
}

/// Returns how much of a text that goes on stands before any call, in bytes.
pub fn certain(text: &str) -> usize {
    let before = match text.find(OPENING) {
        Some(at) => at,
        None => {
            let begun = (1..OPENING.len()).rev().find(|length| text.ends_with(&OPENING[..*length]));
            text.len() - begun.unwrap_or(0)
        }
    };
    // White space before a call belongs to it.
    text[..before].trim_end().len()
}

/// Returns the call that stands between the marks; `None` when it is none of these tools.
pub fn call(inside: &str, tools: &[Tool]) -> Option<Call> {
    if inside.starts_with('{') {
        let mut value: Map<String, Value> = serde_json::from_str(inside).ok()?;
        let name = value.get("name")?.as_str()?.to_owned();
        tools.iter().find(|tool| tool.name == name)?;
        let arguments = match value.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            // Some write them as OpenAI's interface has them.
            Some(Value::String(text)) => serde_json::from_str(&text).ok()?,
            Some(_) => return None,
        };
        return Some(Call { name, arguments });
    }
    let (name, mut rest) = inside.split_at(inside.find('<').unwrap_or(inside.len()));
    let tool = tools.iter().find(|tool| tool.name == name.trim())?;
    let mut arguments = Map::new();
    while !rest.trim().is_empty() {
        let (key, after) = rest.trim_start().strip_prefix("<arg_key>")?.split_once("</arg_key>")?;
        let (value, after) = after.trim_start().strip_prefix("<arg_value>")?.split_once("</arg_value>")?;
        let key = key.trim();
        let is_text = tool.parameters["properties"][key]["type"] == "string";
        let parsed = if is_text { None } else { serde_json::from_str(value.trim()).ok() };
        arguments.insert(key.to_owned(), parsed.unwrap_or_else(|| value.into()));
        rest = after;
    }
    Some(Call { name: tool.name.clone(), arguments })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools() -> [Tool; 2] {
        let properties = json!({"city": {"type": "string"}, "days": {"type": "integer"}});
        let weather = json!({"type": "object", "properties": properties});
        [
            Tool { name: "weather".to_owned(), parameters: weather },
            Tool { name: "now".to_owned(), parameters: json!({"type": "object"}) },
        ]
    }

    fn check(text: &str, before: &str, calls: &[(&str, Value)]) {
        let (found_before, found) = read(text, &tools());
        assert_eq!(found_before, before, "{text}");
        let found: Vec<(&str, Value)> =
            found.iter().map(|call| (call.name.as_str(), call.arguments.clone().into())).collect();
        assert_eq!(found, calls, "{text}");
    }

    #[test]
    fn calls_are_read_in_both_forms() {
        let weather = [("weather", json!({"city": "Ulm", "days": 2}))];
        check(
            "Let me see.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ulm\", \"days\": 2}}\n</tool_call>",
            "Let me see.",
            &weather,
        );
        check(
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Ulm</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
            "",
            &weather,
        );
        check(
            "<tool_call>weather<arg_key>city</arg_key><arg_value>42</arg_value></tool_call>",
            "",
            &[("weather", json!({"city": "42"}))],
        );
        check(
            r#"<tool_call>{"name": "now"}</tool_call> <tool_call>{"name": "weather", "arguments": "{\"days\": 1}"}"#,
            "",
            &[("now", json!({})), ("weather", json!({"days": 1}))],
        );
        check("<tool_call>now</tool_call>", "", &[("now", json!({}))]);
    }

    #[test]
    fn what_is_no_call_stays_text() {
        for text in [
            "no call",
            "",
            "<tool_call>",
            "<tool_call>{\"name\": \"weather\", \"arguments\": {</tool_call>",
            r#"<tool_call>{"name": "other", "arguments": {}}</tool_call>"#,
            r#"<tool_call>{"name": "now", "arguments": 3}</tool_call>"#,
            r#"<tool_call>{"name": "now"}</tool_call><tool_call>nothing"#,
            "<tool_call>weather<arg_key>city</arg_key></tool_call>",
        ] {
            check(text, text, &[]);
        }
    }

    #[test]
    fn text_is_held_back_while_it_may_become_a_call() {
        for (text, certainly) in [
            ("a <b> c", "a <b> c"),
            ("a <tool", "a"),
            ("a \n<", "a"),
            ("a<tool_call>{", "a"),
            ("<tool_calls", "<tool_calls"),
            ("a <tools>", "a <tools>"),
            ("größer <tool_call", "größer"),
        ] {
            assert_eq!(&text[..certain(text)], certainly.trim_end(), "{text}");
        }
    }
}
