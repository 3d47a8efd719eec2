//! What all three ways to ask for text have in common: model, sampling, stop texts, the extensions.

use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::completion::Completer;
use crate::completion::Options;
use crate::engine::handle::EngineError;
use crate::engine::sampling::Sampling;
use crate::engine::scheduler::OwnerId;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::fields::Fields;
use crate::server::openai::structure;

/// The most candidates of one request.
pub const MOST_CANDIDATES: usize = 8;
/// The most stop texts.
const MOST_STOPS: usize = 4;
/// The most bytes of a stop text.
const STOP_MAX_BYTES: usize = 256;
/// The longest block.
const MOST_BLOCK_LENGTH: usize = 512;
/// The most passes of a block.
const MOST_STEPS: usize = 512;

/// The latest deadline.
const MOST_DEADLINE_MS: usize = 600_000;

/// How a text is written and sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manner {
    /// How it is written.
    pub options: Options,
    /// How many candidates.
    pub candidates: usize,
    /// Whether it is sent while it is written.
    pub is_stream: bool,
    /// Whether a stream ends with what it took.
    pub include_usage: bool,
    /// Whether a stream shows what may still change.
    pub stream_tentative: bool,
}

impl Manner {
    /// Takes the common fields of a request.
    pub fn take(fields: &mut Fields, completer: &Completer) -> Result<Manner, OpenAiError> {
        // A program that names no model means the one that is there.
        if let Some(model) = fields.text("model")?
            && model != completer.name()
        {
            return Err(OpenAiError::no_model(&model, completer.name()));
        }
        let structure = structure::response_format(fields)?;
        let mut manner = Manner {
            candidates: fields.whole("n", 1..=MOST_CANDIDATES)?.unwrap_or(1),
            is_stream: fields.flag("stream")?,
            ..Manner::default()
        };
        manner.options.sampling = sampling(fields)?;
        manner.options.stop = stop(fields)?;
        // The candidates of a request share what one request is given.
        manner.options.claim.owner = Some(OwnerId::of(&rand::random::<u64>()));
        if let Some(mut options) = fields.object("stream_options")? {
            if !manner.is_stream {
                return Err(fields.refuse("stream_options", "invalid_value", "wants stream to be true"));
            }
            manner.include_usage = options.flag("include_usage")?;
            options.neutral("include_obfuscation", Value::is_boolean)?;
            options.finish()?;
        }
        if let Some(mut diffusion) = fields.object("diffusion")? {
            manner.stream_tentative = diffusion.flag("stream_tentative")?;
            let options = &mut manner.options;
            options.block_length = diffusion.whole("block_length", 1..=MOST_BLOCK_LENGTH)?;
            options.max_steps = diffusion.whole("max_steps", 1..=MOST_STEPS)?;
            let most = options.max_steps.unwrap_or(MOST_STEPS);
            options.min_steps = diffusion.whole("min_steps", 0..=most)?.unwrap_or(0);
            options.threshold = diffusion.number("threshold", 0.0..=1.0)?.map(|number| number as f32);
            options.edit_threshold =
                diffusion.number("edit_threshold", 0.0..=1.0)?.map(|number| number as f32);
            options.min_threshold = diffusion.number("min_threshold", 0.0..=1.0)?.map(|number| number as f32);
            let deadline = diffusion.whole("deadline_ms", 1..=MOST_DEADLINE_MS)?;
            options.claim.deadline = deadline.map(|ms| Instant::now() + Duration::from_millis(ms as u64));
            diffusion.finish()?;
        }
        neutral(fields)?;
        if let Some(structure) = structure {
            let compiled = completer.engine().structure(&structure);
            manner.options.constraint = Some(compiled.map_err(EngineError::Constraint)?);
        }
        Ok(manner)
    }
}

/// Greedy without a temperature: unlike elsewhere, chance must be asked for.
fn sampling(fields: &mut Fields) -> Result<Option<Sampling>, OpenAiError> {
    let temperature = fields.number("temperature", 0.0..=2.0)?.unwrap_or(0.0) as f32;
    let top_p = fields.number("top_p", 0.0..=1.0)?.unwrap_or(1.0) as f32;
    let top_k = fields.whole("top_k", 0..=usize::MAX >> 1)?.unwrap_or(0);
    let seed = match fields.take("seed") {
        None => rand::random(),
        Some(seed) => match (seed.as_i64(), seed.as_u64()) {
            (Some(seed), _) => seed as u64,
            (None, Some(seed)) => seed,
            (None, None) => return Err(fields.refuse("seed", "invalid_type", "must be a whole number")),
        },
    };
    Ok((temperature > 0.0).then_some(Sampling { temperature, top_p, top_k, seed }))
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, OpenAiError> {
    let stops = match fields.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(stop)) => vec![Value::String(stop)],
        Some(Value::Array(stops)) => stops,
        Some(_) => {
            return Err(fields.refuse("stop", "invalid_type", "must be a string or a list of strings"));
        }
    };
    if stops.len() > MOST_STOPS {
        let must = format!("may have {MOST_STOPS} texts, not {}", stops.len());
        return Err(fields.refuse("stop", "invalid_value", &must));
    }
    let text = |stop: Value| match stop {
        Value::String(stop) if !stop.is_empty() && stop.len() <= STOP_MAX_BYTES => Ok(stop),
        Value::String(_) => {
            let must = format!("must be of texts of 1 to {STOP_MAX_BYTES} bytes");
            Err(fields.refuse("stop", "invalid_value", &must))
        }
        _ => Err(fields.refuse("stop", "invalid_type", "must be a string or a list of strings")),
    };
    stops.into_iter().map(text).collect()
}

/// Takes what OpenAI's API has and this server has not: only values that change nothing pass.
fn neutral(fields: &mut Fields) -> Result<(), OpenAiError> {
    let is_zero: fn(&Value) -> bool = |value| value.as_f64() == Some(0.0);
    let is_one: fn(&Value) -> bool = |value| value.as_f64() == Some(1.0);
    let is_false: fn(&Value) -> bool = |value| *value == false;
    let is_empty: fn(&Value) -> bool = |value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let is_unchosen: fn(&Value) -> bool = |value| *value == "none" || *value == "auto";
    // These name the program or its user, or choose among servers; they never change the text.
    for name in ["user", "safety_identifier", "prompt_cache_key", "service_tier"] {
        fields.neutral(name, Value::is_string)?;
    }
    fields.neutral("metadata", Value::is_object)?;
    fields.neutral("parallel_tool_calls", Value::is_boolean)?;
    for name in ["frequency_penalty", "presence_penalty", "min_p", "top_logprobs"] {
        fields.neutral(name, is_zero)?;
    }
    for name in ["best_of", "repetition_penalty"] {
        fields.neutral(name, is_one)?;
    }
    for name in ["logprobs", "store", "echo"] {
        fields.neutral(name, is_false)?;
    }
    for name in ["logit_bias", "tools", "functions"] {
        fields.neutral(name, is_empty)?;
    }
    for name in ["tool_choice", "function_call"] {
        fields.neutral(name, is_unchosen)?;
    }
    fields.neutral("modalities", |value| *value == json!(["text"]))?;
    for name in ["audio", "prediction", "web_search_options", "reasoning_effort", "verbosity", "moderation"] {
        fields.neutral(name, |_| false)?;
    }
    Ok(())
}
