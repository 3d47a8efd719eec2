//! What schemas let through, and what they name that they cannot.

use serde_json::json;

use super::*;
use crate::engine::constraint::regex::DEAD;

/// Checks which texts a schema lets through.
fn check(schema: Value, accepted: &[&str], refused: &[&str]) {
    let rules = rules(&schema).expect("is supported");
    let [pattern] = rules.patterns.as_slice() else { panic!("{rules:?}") };
    let regex = regex::Regex::new(&format!("^(?:{pattern})$")).expect("is a regular expression");
    for text in accepted {
        assert!(regex.is_match(text), "{schema} refuses {text}");
        serde_json::from_str::<Value>(text).expect("parses");
    }
    refused.iter().for_each(|text| assert!(!regex.is_match(text), "{schema} accepts {text}"));
}

#[test]
fn values_are_compact_json() {
    check(json!({"type": "integer"}), &["0", "-17"], &["01", "-0", "1.0", "+1", "", "-", "1234567890123456"]);
    check(json!({"type": "number"}), &["0.50", "-1e+9", "12"], &["1.", ".5", "1e999"]);
    check(json!({"type": ["boolean", "null"]}), &["true", "null"], &["0", "\"true\""]);
    check(
        json!({"type": "string", "minLength": 1, "maxLength": 2}),
        &[r#""ä""#, r#""\"\\""#, r#""/\n""#, "\"😀é\""],
        &[r#""""#, r#""abc""#, "\"\n\"", r#""\x""#, "\"\\\"", "\"\u{7}\""],
    );
    check(
        json!({"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 3}),
        &["[null]", "[null,null,null]"],
        &["[]", "[null,]", "[null, null]", "[null,null,null,null]"],
    );
    check(json!({"type": "array", "items": {"const": 1}, "maxItems": 0}), &["[]"], &["[1]"]);
    check(json!({"type": "object"}), &["{}", r#"{"a":[1,"x"],"b":{"c":2}}"#], &["[]", "{1:2}"]);
    check(json!({"enum": ["a.b", 3, null, {"k": [1]}]}), &[r#""a.b""#, "3", r#"{"k":[1]}"#], &["\"axb\""]);
}

#[test]
fn members_stand_in_order_and_optional_ones_may_be_missing() {
    let any = json!({"type": "boolean"});
    let schema = json!({"type": "object", "properties": {"a": any, "b": any, "c": any}, "required": ["b"]});
    check(
        schema.clone(),
        &[r#"{"b":true}"#, r#"{"a":true,"b":true}"#, r#"{"a":true,"b":true,"c":false}"#],
        &["{}", r#"{"b":true,"a":true}"#, r#"{"a":true}"#, r#"{,"b":true}"#, r#"{"b":true,}"#],
    );
    let schema = json!({"properties": {"a": any, "b": any}});
    check(schema, &["{}", r#"{"a":true}"#, r#"{"b":true}"#, r#"{"a":true,"b":true}"#], &[r#"{"b":1}"#]);
}

#[test]
fn references_and_branches_are_followed() {
    let schema = json!({
        "$defs": {"n": {"type": "null"}, "b": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "boolean"}]}},
        "type": "array", "items": {"$ref": "#/$defs/b"}, "maxItems": 1
    });
    check(schema, &["[]", "[null]", "[true]"], &["[1]"]);
    let kind =
        |name: &str| json!({"type": "object", "properties": {"k": {"const": name}}, "required": ["k"]});
    check(json!({"oneOf": [kind("x"), kind("y")]}), &[r#"{"k":"y"}"#], &["{}"]);
}

#[test]
fn a_schema_that_refers_to_itself_is_followed() {
    let check = |schema: Value, accepted: &[&str], refused: &[&str]| {
        let cut = rules(&schema).expect("is supported").automaton().expect("is not too large");
        let accepts = |text: &str| {
            let end = cut.automaton.walk(0, text.as_bytes());
            end != DEAD && cut.automaton.is_accepting[end as usize]
        };
        accepted.iter().for_each(|text| assert!(accepts(text), "{schema} refuses {text}"));
        refused.iter().for_each(|text| assert!(!accepts(text), "{schema} accepts {text}"));
        assert!(cut.depth.is_some_and(|depth| depth >= 6), "{:?}", cut.depth);
    };
    let tree = json!({
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"children": {"$ref": "#/$defs/nodes"}, "name": {"type": "integer"}},
                "required": ["children", "name"],
            },
            "nodes": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        },
        "$ref": "#/$defs/node",
    });
    check(
        tree,
        &[
            r#"{"children":[],"name":1}"#,
            r#"{"children":[{"children":[{"children":[],"name":3}],"name":2}],"name":1}"#,
        ],
        &[r#"{"children":[1],"name":1}"#, r#"{"children":[{"name":1}],"name":1}"#],
    );
    let list = json!({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}]});
    check(list, &["null", "[]", "[[null],[null,[[]]]]"], &["[null,null,null]", "[[]"]);
}

#[test]
fn calls_of_several_tools_have_their_own_arguments() {
    let tools = [
        (
            "f".to_owned(),
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
        ),
        ("g".to_owned(), json!({"type": "object", "properties": {"b": {"$ref": "#"}}})),
    ];
    let cut = call_rules(&tools).expect("is supported").automaton().expect("is not too large");
    let accepts = |text: &str| {
        let end = cut.automaton.walk(0, text.as_bytes());
        end != DEAD && cut.automaton.is_accepting[end as usize]
    };
    assert!(accepts(r#"{"name": "f", "arguments": {"a":1}}"#));
    assert!(accepts(r#"{"name": "g", "arguments": {"b":{"b":{}}}}"#));
    assert!(
        !accepts(r#"{"name": "f", "arguments": {}}"#) && !accepts(r#"{"name": "f", "arguments": {"b":{}}}"#)
    );
    assert!(!accepts(r#"{"name": "h", "arguments": {}}"#));
}

#[test]
fn patterns_apply_to_the_text_that_is_meant() {
    let of = |pattern: &str| json!({"type": "string", "pattern": pattern});
    check(of(r"^[a-c]+\d$"), &[r#""ab7""#], &[r#""7""#, r#""ab7x""#, "\"a٣\""]);
    check(of("b"), &[r#""b""#, r#""abc""#, r#""\nb\"""#], &[r#""ac""#, r#""a"b""#]);
    check(of(r#"^"\\$"#), &[r#""\"\\""#], &[r#""""#, r#"""\""#]);
    check(of(r"^.[^x]$"), &[r#""\"\\""#, r#""a\n""#], &[r#""ax""#, r#""\na""#]);
    check(of("^a|b$"), &[r#""ax""#, r#""xb""#], &[r#""xa""#]);
}

#[test]
fn what_cannot_be_enforced_is_named_with_its_place() {
    let error = |schema: Value| rules(&schema).unwrap_err().to_string();
    let says = |schema: Value, expected: &str| {
        let error = error(schema);
        assert!(error.contains(expected), "{error} lacks {expected}");
    };
    let inner =
        |schema: Value| json!({"type": "object", "properties": {"a/b": {"type": "array", "items": schema}}});
    says(
        inner(json!({"type": "integer", "minimum": 3})),
        "#/properties/a~1b/items: \"minimum\" is not supported",
    );
    says(inner(json!({"type": "string", "format": "uuid"})), "\"format\"");
    says(inner(json!({"not": {}})), "\"not\"");
    says(inner(json!({"type": "string", "pattern": "(?=a)b"})), "pattern \"(?=a)b\"");
    says(json!({"$ref": "#/$defs/x"}), "#/$defs/x");
    says(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "branches 0 and 1");
    says(json!({"type": "object", "required": ["x"]}), "\"x\"");
    says(json!({"type": "string", "enum": [1]}), "no value");
}
