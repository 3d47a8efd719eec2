//! A JSON schema as regular expressions over compact JSON: no white space outside strings.
//!
//! What is written validates; not everything that validates is written. Members come in the order of
//! the schema's map, those that it does not name are left out, characters are written as themselves
//! where JSON lets them, numbers have at most 15 digits before and after the point and exponents of
//! two. A schema that refers to itself is a rule that calls itself, followed to the depth that
//! [`rules`](crate::engine::constraint::rules) cuts at. A keyword that is not known is an error with its place, since ignoring it would let through
//! what the schema forbids.

use std::collections::HashMap;

use serde_json::Map;
use serde_json::Value;

use crate::engine::constraint::ConstraintError;
use crate::engine::constraint::rules::MAX_RULES;
use crate::engine::constraint::rules::Rules;
use crate::engine::constraint::rules::call;

/// One character of a string: as itself or escaped.
const CHARACTER: &str = r#"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])"#;
/// Without `-0`, which parsers read as a floating-point number.
const INTEGER: &str = "(?:0|-?[1-9][0-9]{0,14})";
const NUMBER: &str = r"(?:-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?)";

/// Values within values, and references within references, that a schema may have.
const MAX_DEPTH: usize = 16;
/// Values within values where a schema says nothing of them.
const FREE_DEPTH: usize = 2;
/// The longest regular expression in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Keywords that say nothing of what is valid here.
const SILENT: [&str; 14] = [
    "title",
    "description",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "$schema",
    "$id",
    "$comment",
    "$defs",
    "definitions",
    "$anchor",
];
const TYPES: [&str; 7] = ["object", "array", "string", "integer", "number", "boolean", "null"];

/// Returns the keywords that bear on values of a type.
fn keywords(kind: &str) -> &'static [&'static str] {
    match kind {
        "object" => &["properties", "required", "additionalProperties"],
        "array" => &["items", "minItems", "maxItems"],
        "string" => &["minLength", "maxLength", "pattern"],
        _ => &[],
    }
}

/// Returns the rules of a schema: one, and one more for each part of it that refers to itself.
///
/// # Errors
/// When the schema has an error or asks for what cannot be enforced: with the place in it.
pub fn rules(schema: &Value) -> Result<Rules, ConstraintError> {
    Ok(Rules { patterns: written(schema, 0)? })
}

/// Returns the rules of `{"name": …, "arguments": …}` with one of these names and what validates
/// against its schema. The spaces are those of the templates that models learn this from.
///
/// # Errors
/// As [`rules`].
pub fn call_rules(tools: &[(String, Value)]) -> Result<Rules, ConstraintError> {
    let mut patterns = vec![String::new()];
    let mut calls = Vec::new();
    for (name, schema) in tools {
        let name = escaped(&Value::String(name.clone()));
        calls.push(format!(r#"\{{"name": {name}, "arguments": {}\}}"#, call(patterns.len())));
        patterns.extend(written(schema, patterns.len())?);
    }
    patterns[0] = calls.join("|");
    match calls.is_empty() {
        true => Err(ConstraintError::Nothing),
        false => Ok(Rules { patterns }),
    }
}

/// Writes a schema as rules, the first of which has the number `base`.
fn written(schema: &Value, base: usize) -> Result<Vec<String>, ConstraintError> {
    let mut writer = Writer {
        root: schema,
        base,
        open: vec!["#".to_owned()],
        rules: HashMap::from([("#".to_owned(), base)]),
        patterns: vec![String::new()],
    };
    writer.patterns[0] = writer.value(&Place { path: "#", depth: 0 }, schema)?;
    Ok(writer.patterns)
}

struct Writer<'a> {
    root: &'a Value,
    /// The number of the whole schema's rule.
    base: usize,
    /// References that are being followed.
    open: Vec<String>,
    /// References that came up while they were followed, and their rules.
    rules: HashMap<String, usize>,
    patterns: Vec<String>,
}

/// Where in a schema.
#[derive(Clone, Copy)]
struct Place<'a> {
    path: &'a str,
    depth: usize,
}

impl Place<'_> {
    fn refuse<T>(&self, reason: impl Into<String>) -> Result<T, ConstraintError> {
        Err(ConstraintError::Schema { path: self.path.to_owned(), reason: reason.into() })
    }

    fn path(&self, key: &str) -> String {
        format!("{}/{}", self.path, key.replace('~', "~0").replace('/', "~1"))
    }

    /// Returns a whole number of a keyword.
    fn count(&self, schema: &Map<String, Value>, key: &str) -> Result<Option<u64>, ConstraintError> {
        match schema.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64().filter(|count| *count <= u64::from(u16::MAX)) {
                Some(count) => Ok(Some(count)),
                None => self.refuse(format!("{key} must be a whole number up to {}", u16::MAX)),
            },
        }
    }
}

impl<'a> Writer<'a> {
    fn value(&mut self, place: &Place, schema: &'a Value) -> Result<String, ConstraintError> {
        if place.depth > MAX_DEPTH {
            return place.refuse(format!("is deeper than {MAX_DEPTH}"));
        }
        let map = match schema {
            Value::Bool(true) => return Ok(free(FREE_DEPTH)),
            Value::Object(map) => map,
            _ => return place.refuse("a schema is an object"),
        };
        let asked: Vec<&str> = map.keys().map(String::as_str).filter(|key| !SILENT.contains(key)).collect();
        let pattern = if asked.is_empty() {
            free(FREE_DEPTH)
        } else if let Some(target) = map.get("$ref") {
            self.only(place, &asked, &["$ref"])?;
            self.reference(place, target)?
        } else if let Some(branches) =
            map.get("anyOf").or_else(|| map.get("oneOf")).or_else(|| map.get("allOf"))
        {
            self.branches(place, &asked, branches)?
        } else if map.contains_key("const") || map.contains_key("enum") {
            self.only(place, &asked, &["const", "enum", "type"])?;
            literals(place, map)?
        } else {
            self.typed(place, &asked, map)?
        };
        if pattern.len() > MAX_BYTES { Err(ConstraintError::TooLarge) } else { Ok(pattern) }
    }

    /// Refuses keywords but those that are known here.
    fn only(&self, place: &Place, asked: &[&str], known: &[&str]) -> Result<(), ConstraintError> {
        match asked.iter().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) if known.len() == 1 => {
                place.refuse(format!("{key:?} beside {:?} is not supported", known[0]))
            }
            Some(key) => place.refuse(format!("{key:?} is not supported here")),
        }
    }

    fn resolve(&self, place: &Place, target: &Value) -> Result<&'a Value, ConstraintError> {
        let pointer = target.as_str().and_then(|target| target.strip_prefix('#'));
        match pointer.and_then(|pointer| self.root.pointer(pointer)) {
            Some(schema) => Ok(schema),
            None => place.refuse(format!("reference {target} is not found in the schema")),
        }
    }

    fn reference(&mut self, place: &Place, target: &Value) -> Result<String, ConstraintError> {
        let schema = self.resolve(place, target)?;
        let path = target.as_str().unwrap_or("#");
        if !self.rules.contains_key(path) && self.open.iter().any(|open| open == path) {
            if self.base + self.patterns.len() >= MAX_RULES {
                return Err(ConstraintError::TooLarge);
            }
            self.rules.insert(path.to_owned(), self.base + self.patterns.len());
            self.patterns.push(String::new());
        }
        if let Some(rule) = self.rules.get(path) {
            return Ok(call(*rule));
        }
        self.open.push(path.to_owned());
        let pattern = self.value(&Place { path, depth: place.depth + 1 }, schema)?;
        self.open.pop();
        Ok(match self.rules.get(path) {
            None => pattern,
            Some(rule) => {
                self.patterns[*rule - self.base] = pattern;
                call(*rule)
            }
        })
    }

    fn branches(
        &mut self,
        place: &Place,
        asked: &[&str],
        branches: &'a Value,
    ) -> Result<String, ConstraintError> {
        let key = asked.iter().find(|key| key.ends_with("Of")).copied().unwrap_or("anyOf");
        self.only(place, asked, &[key])?;
        let Some(branches) = branches.as_array().filter(|branches| !branches.is_empty()) else {
            return place.refuse(format!("{key} must be a list of schemas"));
        };
        if key == "allOf" && branches.len() > 1 {
            return place.refuse("allOf of several schemas is not supported");
        }
        if key == "oneOf" {
            for (i, a) in branches.iter().enumerate() {
                if let Some(j) = (0..i).find(|j| !self.are_disjoint(a, &branches[*j], 0)) {
                    let reason = format!("branches {j} and {i} of oneOf may overlap: say anyOf if they may");
                    return place.refuse(reason);
                }
            }
        }
        let mut patterns = Vec::new();
        for (i, branch) in branches.iter().enumerate() {
            let path = format!("{}/{key}/{i}", place.path);
            patterns.push(self.value(&Place { path: &path, depth: place.depth + 1 }, branch)?);
        }
        Ok(format!("(?:{})", patterns.join("|")))
    }

    /// Returns whether no value can satisfy both schemas, as far as that is plain to see.
    fn are_disjoint(&self, a: &'a Value, b: &'a Value, depth: usize) -> bool {
        let follow = |schema: &'a Value| match schema.get("$ref") {
            Some(target) => self.resolve(&Place { path: "#", depth }, target).unwrap_or(schema),
            None => schema,
        };
        let (a, b) = (follow(a), follow(b));
        if let (Some(a), Some(b)) = (values(a), values(b)) {
            // Numbers that are spelled in two ways are not told apart.
            return a
                .iter()
                .all(|value| !b.contains(value) && (!value.is_number() || !b.iter().any(Value::is_number)));
        }
        let (kinds_a, kinds_b) = (kinds(a), kinds(b));
        let fold = |kind: &&str| if *kind == "integer" { "number".to_owned() } else { (*kind).to_owned() };
        let others: Vec<String> = kinds_b.iter().map(fold).collect();
        if !kinds_a.is_empty()
            && !others.is_empty()
            && kinds_a.iter().all(|kind| !others.contains(&fold(kind)))
        {
            return true;
        }
        if kinds_a != ["object"] || kinds_b != ["object"] || depth > MAX_DEPTH {
            return false;
        }
        let Some(properties) = a.get("properties").and_then(Value::as_object) else { return false };
        properties.iter().any(|(name, property)| {
            let other = b.get("properties").and_then(|properties| properties.get(name));
            is_required(a, name)
                && is_required(b, name)
                && other.is_some_and(|other| self.are_disjoint(property, other, depth + 1))
        })
    }

    fn typed(
        &mut self,
        place: &Place,
        asked: &[&str],
        map: &'a Map<String, Value>,
    ) -> Result<String, ConstraintError> {
        let kinds: Vec<&str> = match map.get("type") {
            Some(Value::String(kind)) => vec![kind],
            Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
            Some(_) => return place.refuse("type must be a name or a list of names"),
            None => match TYPES.iter().find(|kind| keywords(kind).iter().any(|key| asked.contains(key))) {
                Some(kind) => vec![kind],
                None => return place.refuse(format!("{:?} is not supported", asked[0])),
            },
        };
        let known = |key: &&&str| **key == "type" || kinds.iter().any(|kind| keywords(kind).contains(key));
        if let Some(key) = asked.iter().find(|key| !known(key)) {
            return place.refuse(format!("{key:?} is not supported for type {}", kinds.join(", ")));
        }
        let mut patterns = Vec::new();
        for kind in &kinds {
            patterns.push(match *kind {
                "object" => self.object(place, map)?,
                "array" => self.array(place, map)?,
                "string" => string(place, map)?,
                "integer" => INTEGER.to_owned(),
                "number" => NUMBER.to_owned(),
                "boolean" => "(?:true|false)".to_owned(),
                "null" => "null".to_owned(),
                other => return place.refuse(format!("type {other:?} is unknown")),
            });
        }
        match patterns.is_empty() {
            true => place.refuse("type names nothing"),
            false => Ok(format!("(?:{})", patterns.join("|"))),
        }
    }

    fn object(&mut self, place: &Place, map: &'a Map<String, Value>) -> Result<String, ConstraintError> {
        if map.get("additionalProperties").is_some_and(|more| !more.is_boolean()) {
            return place.refuse("a schema for additionalProperties is not supported");
        }
        let properties: Vec<(&'a String, &'a Value)> = match map.get("properties") {
            None => Vec::new(),
            Some(Value::Object(properties)) => properties.iter().collect(),
            Some(_) => return place.refuse("properties must be an object"),
        };
        if let Some(required) = map.get("required") {
            let names: Option<Vec<&str>> =
                required.as_array().and_then(|names| names.iter().map(Value::as_str).collect());
            let Some(names) = names else { return place.refuse("required must be a list of names") };
            if let Some(name) = names.iter().find(|name| properties.iter().all(|(known, _)| known != *name)) {
                return place.refuse(format!("required property {name:?} is not among the properties"));
            }
        }
        if properties.is_empty() {
            let is_closed = map.get("additionalProperties") == Some(&Value::Bool(false));
            return Ok(if is_closed { r"\{\}".to_owned() } else { free_object(FREE_DEPTH) });
        }
        let schema = Value::Object(map.clone());
        // What follows when a member was written before, and when none was: from the last member on.
        let (mut rest, mut first) = (String::new(), String::new());
        for (name, property) in properties.into_iter().rev() {
            let path = place.path(&format!("properties/{name}"));
            let path = path.replace("properties~1", "properties/");
            let value = self.value(&Place { path: &path, depth: place.depth + 1 }, property)?;
            let member = format!("{}:{value}", escaped(&Value::String(name.clone())));
            (rest, first) = match is_required(&schema, name) {
                true => (format!(",{member}{rest}"), format!("{member}{rest}")),
                false => (format!("(?:,{member})?{rest}"), format!("(?:{member}{rest}|{first})")),
            };
            if first.len() > MAX_BYTES {
                return Err(ConstraintError::TooLarge);
            }
        }
        Ok(format!(r"\{{(?:{first})\}}"))
    }

    fn array(&mut self, place: &Place, map: &'a Map<String, Value>) -> Result<String, ConstraintError> {
        let item = match map.get("items") {
            None => free(FREE_DEPTH - 1),
            Some(items) => {
                self.value(&Place { path: &place.path("items"), depth: place.depth + 1 }, items)?
            }
        };
        let least = place.count(map, "minItems")?.unwrap_or(0);
        let most = place.count(map, "maxItems")?;
        if most.is_some_and(|most| most < least) {
            return place.refuse("maxItems is less than minItems");
        }
        if most == Some(0) {
            return Ok(r"\[\]".to_owned());
        }
        let more = repeat(least.saturating_sub(1), most.map(|most| most - 1));
        let some = format!("{item}(?:,{item}){more}");
        Ok(if least == 0 { format!(r"\[(?:{some})?\]") } else { format!(r"\[{some}\]") })
    }
}

/// Returns the bounds of a repetition.
fn repeat(least: u64, most: Option<u64>) -> String {
    match most {
        None => format!("{{{least},}}"),
        Some(most) => format!("{{{least},{most}}}"),
    }
}

fn is_required(schema: &Value, name: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

/// Returns the names of types that a schema says; none when it says none.
fn kinds(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Returns the values of `const` or `enum`.
fn values(schema: &Value) -> Option<Vec<Value>> {
    match schema.get("const") {
        Some(value) => Some(vec![value.clone()]),
        None => schema.get("enum")?.as_array().cloned(),
    }
}

fn literals(place: &Place, map: &Map<String, Value>) -> Result<String, ConstraintError> {
    let schema = Value::Object(map.clone());
    if map.contains_key("const") && map.contains_key("enum") {
        return place.refuse("\"const\" beside \"enum\" is not supported");
    }
    let Some(values) = values(&schema) else { return place.refuse("enum must be a list") };
    let kinds = kinds(&schema);
    let is_of = |value: &Value, kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    let fits = |value: &&Value| kinds.is_empty() || kinds.iter().any(|kind| is_of(value, kind));
    let texts: Vec<String> = values.iter().filter(fits).map(escaped).collect();
    match texts.is_empty() {
        true => place.refuse("no value is possible"),
        false => Ok(format!("(?:{})", texts.join("|"))),
    }
}

/// Returns a value's compact text as a regular expression.
fn escaped(value: &Value) -> String {
    regex_syntax::escape(&value.to_string())
}

fn string(place: &Place, map: &Map<String, Value>) -> Result<String, ConstraintError> {
    let (least, most) = (place.count(map, "minLength")?, place.count(map, "maxLength")?);
    if most.is_some_and(|most| most < least.unwrap_or(0)) {
        return place.refuse("maxLength is less than minLength");
    }
    match map.get("pattern") {
        None => Ok(format!("\"{CHARACTER}{}\"", repeat(least.unwrap_or(0), most))),
        Some(_) if least.is_some() || most.is_some() => {
            place.refuse("\"pattern\" beside \"minLength\" or \"maxLength\" is not supported")
        }
        Some(Value::String(pattern)) => match crate::engine::constraint::pattern::in_json(pattern, CHARACTER)
        {
            Ok(pattern) => Ok(format!("\"(?:{pattern})\"")),
            Err(reason) => place.refuse(format!("pattern {pattern:?}: {reason}")),
        },
        Some(_) => place.refuse("pattern must be a string"),
    }
}

/// Returns any value with some values within values.
fn free(depth: usize) -> String {
    let scalar = format!("true|false|null|{NUMBER}|\"{CHARACTER}*\"");
    if depth == 0 {
        return format!("(?:{scalar})");
    }
    let inner = free(depth - 1);
    format!(r"(?:{scalar}|\[(?:{inner}(?:,{inner})*)?\]|{})", free_object(depth))
}

fn free_object(depth: usize) -> String {
    let member = format!("\"{CHARACTER}*\":{}", free(depth - 1));
    format!(r"\{{(?:{member}(?:,{member})*)?\}}")
}

#[cfg(test)]
mod tests;
