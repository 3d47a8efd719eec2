//! Emotion and disposition of a call as JSON by schema: what share of the answers is valid, read by a
//! JSON parser, with the structure enforced and without it.

use serde_json::Value;
use serde_json::json;

use crate::command::eval::measure::mean;
use crate::command::eval::model::Bench;
use crate::command::eval::model::data::Call;
use crate::command::eval::model::report::Row;
use crate::command::eval::model::report::Section;
use crate::command::eval::model::summary::dispositions;
use crate::engine::constraint::Constraint;
use crate::engine::handle::GenerateRequest;
use crate::engine::sampler::Rule;
use crate::engine::sequence::Generate;
use crate::event::Emotion;
use crate::prompt;
use crate::prompt::Control;

/// Tokens that an answer may take beyond its longest usual spelling.
const ROOM: usize = 8;

/// A call with what its answer may be.
struct Asked<'a> {
    call: &'a Call,
    emotions: Vec<String>,
    dispositions: Vec<String>,
}

impl Asked<'_> {
    fn schema(&self) -> Value {
        json!({
            "type": "object",
            "properties": {
                "emotion": {"type": "string", "enum": self.emotions},
                "disposition": {"type": "string", "enum": self.dispositions},
            },
            "required": ["emotion", "disposition"],
            "additionalProperties": false,
        })
    }

    /// Returns whether a text is JSON with these two members and allowed values, and nothing else.
    fn is_valid(&self, text: &str) -> bool {
        let Ok(Value::Object(members)) = serde_json::from_str(text) else { return false };
        let is_one_of = |name: &str, allowed: &[String]| {
            let value = members.get(name).and_then(Value::as_str);
            value.is_some_and(|value| allowed.iter().any(|one| one == value))
        };
        members.len() == 2
            && is_one_of("emotion", &self.emotions)
            && is_one_of("disposition", &self.dispositions)
    }
}

pub(super) fn measure(bench: &Bench) -> anyhow::Result<Section> {
    let mut asked = Vec::new();
    for base in &bench.data.bases {
        let dispositions = dispositions(base);
        let emotions: Vec<String> = Emotion::ALL.iter().map(|label| label.as_str().to_owned()).collect();
        if dispositions.is_empty() {
            continue;
        }
        asked.extend(base.calls.iter().map(|call| Asked {
            call,
            emotions: emotions.clone(),
            dispositions: dispositions.clone(),
        }));
    }
    if asked.is_empty() {
        return Ok(Section::default());
    }
    let valid = |texts: &[String]| {
        let valid = asked.iter().zip(texts).map(|(a, text)| f64::from(u8::from(a.is_valid(text))));
        mean(asked.iter().map(|a| a.call.unit).zip(valid))
    };
    let enforced = bench.ask("structure", &asked, |asked| write(bench, asked, true))?;
    let free = bench.ask("structure, not enforced", &asked, |asked| write(bench, asked, false))?;
    let row = Row::new("structure: valid JSON", valid(&enforced)).beside("not enforced", valid(&free).value);
    let is_right = |text: &String, call: &Call| {
        let said = serde_json::from_str::<Value>(text).ok();
        let said = said.as_ref().and_then(|value| value["disposition"].as_str());
        said.is_some() && said == call.row.disposition.as_deref()
    };
    let right = asked.iter().zip(&enforced).filter(|(a, text)| is_right(text, a.call)).count();
    let details = json!({
        "answers": asked.len(), "dispositions_right": right,
        "examples": enforced.iter().take(4).collect::<Vec<_>>(),
    });
    Ok(Section { rows: vec![row.aim("1.000")], details })
}

async fn write(bench: &Bench, asked: &Asked<'_>, is_enforced: bool) -> anyhow::Result<String> {
    let (tokenizer, model) = (bench.engine.tokenizer(), bench.engine.model());
    let mut longest = 0;
    for disposition in &asked.dispositions {
        let mut ids = Vec::new();
        let answer = json!({"emotion": Emotion::Frustrated, "disposition": disposition});
        tokenizer.encode(&answer.to_string(), &mut ids)?;
        longest = longest.max(ids.len() + ROOM);
    }
    let constraint = match is_enforced {
        true => Some(bench.engine.structure(&Constraint::JsonSchema(asked.schema()))?),
        false => None,
    };
    let generate = Generate {
        rule: Rule::Threshold { threshold: 0.9, steps: model.block_length() },
        banned: bench.banned(&[Control::End, Control::Pad]),
        stops_at_end: true,
        stops_in_block: true,
        ..Generate::default()
    };
    let request = GenerateRequest {
        prompt: prompt::encode(&prompt::summary(&asked.call.turns), tokenizer)?,
        canvas: vec![None; longest],
        generate,
        constraint,
        ..GenerateRequest::default()
    };
    let canvas = bench.engine.generate(request)?.finish().await?.canvas;
    Ok(tokenizer.decode_masked(&canvas, model.mask_token_id, &[model.eos_token_id, model.pad_token_id]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::dialogue::Dialogue;

    #[test]
    fn only_json_with_both_members_and_allowed_values_is_valid() {
        let call = Call { unit: 0, turns: vec![], row: Dialogue::default() };
        let asked = Asked {
            call: &call,
            emotions: vec!["sad".to_owned()],
            dispositions: vec!["refunded".to_owned()],
        };
        let check = |text: &str, expected| assert_eq!(asked.is_valid(text), expected, "{text}");
        check(r#"{"emotion":"sad","disposition":"refunded"}"#, true);
        check(r#"{"emotion":"sad","disposition":"refunded""#, false);
        check(r#"{"emotion":"sad"}"#, false);
        check(r#"{"emotion":"glad","disposition":"refunded"}"#, false);
        check(r#"{"emotion":"sad","disposition":"refunded","more":1}"#, false);
        check(r#"["sad","refunded"]"#, false);
        let schema = asked.schema();
        assert_eq!(schema["properties"]["disposition"]["enum"], json!(["refunded"]));
    }
}
