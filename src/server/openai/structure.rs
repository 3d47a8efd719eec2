//! `response_format`: what the text must be.

use serde_json::Value;
use serde_json::json;

use crate::engine::constraint::Constraint;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::fields::Fields;

/// The most texts of a choice.
const MOST_CHOICES: usize = 1024;

/// Returns the structure that is asked for; `None` for plain text.
pub fn response_format(fields: &mut Fields) -> Result<Option<Constraint>, OpenAiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let structure = match format.text("type")?.as_deref() {
        Some("text") => None,
        Some("json_object") => Some(Constraint::JsonSchema(json!({"type": "object"}))),
        Some("json_schema") => Some(json_schema(&mut format)?),
        Some("regex") => Some(Constraint::Regex(needed(&mut format, "regex")?)),
        Some("grammar") => Some(Constraint::Grammar(needed(&mut format, "grammar")?)),
        Some("choice") => Some(choice(&mut format)?),
        Some(_) => {
            let must = "must be text, json_object, json_schema, regex, choice or grammar";
            return Err(format.refuse("type", "invalid_value", must));
        }
        None => return Err(missing(&format, "type")),
    };
    format.finish()?;
    Ok(structure)
}

fn missing(fields: &Fields, name: &str) -> OpenAiError {
    fields.refuse(name, "missing_required_parameter", "is missing")
}

fn needed(fields: &mut Fields, name: &str) -> Result<String, OpenAiError> {
    fields.text(name)?.ok_or_else(|| missing(fields, name))
}

fn json_schema(format: &mut Fields) -> Result<Constraint, OpenAiError> {
    let Some(mut named) = format.object("json_schema")? else { return Err(missing(format, "json_schema")) };
    // Whatever is asked for is enforced, so these change nothing.
    named.neutral("name", Value::is_string)?;
    named.neutral("description", Value::is_string)?;
    named.neutral("strict", Value::is_boolean)?;
    let Some(schema) = named.take("schema") else { return Err(missing(&named, "schema")) };
    named.finish()?;
    Ok(Constraint::JsonSchema(schema))
}

fn choice(format: &mut Fields) -> Result<Constraint, OpenAiError> {
    let texts = format.list("choice")?.ok_or_else(|| missing(format, "choice"))?;
    let texts: Option<Vec<String>> = texts.iter().map(|text| text.as_str().map(str::to_owned)).collect();
    match texts {
        Some(texts) if (1..=MOST_CHOICES).contains(&texts.len()) => Ok(Constraint::Choice(texts)),
        Some(texts) => {
            let must = format!("must have 1 to {MOST_CHOICES} texts, not {}", texts.len());
            Err(format.refuse("choice", "invalid_value", &must))
        }
        None => Err(format.refuse("choice", "invalid_type", "must be a list of strings")),
    }
}
