//! `tools` and `tool_choice`: what a model may call, what it must, and what it called.
//!
//! A call that is asked for is enforced: the prompt ends with what begins one, and what follows is
//! held to the name and the schema of the arguments. Otherwise the model calls when it likes to, and
//! what it writes is read as a call if it is one.

use serde_json::Value;
use serde_json::json;

use crate::completion::Completer;
use crate::completion::chat::Prompt;
use crate::completion::tools;
use crate::completion::tools::Call;
use crate::completion::tools::Tool;
use crate::engine::constraint::Constraint;
use crate::engine::template::ToolCall;
use crate::server::error::ApiError;
use crate::server::openai::asked::Manner;
use crate::server::openai::error::OpenAiError;
use crate::server::openai::fields::Fields;

/// The most tools of one request.
const MOST_TOOLS: usize = 128;
/// The longest name of a tool.
const NAME_MAX_BYTES: usize = 64;
/// Stands between a prompt and its controls: nothing that is encoded here holds it.
const GUARD: char = '\u{fdd0}';

/// What may be called. The default is nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    tools: Vec<Tool>,
    /// The tools as the chat template reads them.
    pub described: Vec<Value>,
    /// Whether a call must come, and of which tools.
    forced: Option<Vec<Tool>>,
    is_one_only: bool,
}

impl Tools {
    /// Takes the fields of a request.
    pub fn take(fields: &mut Fields, completer: &Completer) -> Result<Tools, OpenAiError> {
        let is_parallel = fields.take("parallel_tool_calls");
        let is_one_only = match is_parallel {
            None | Some(Value::Bool(true)) => false,
            Some(Value::Bool(false)) => true,
            Some(_) => {
                return Err(fields.refuse("parallel_tool_calls", "invalid_type", "must be true or false"));
            }
        };
        let list = fields.list("tools")?.unwrap_or_default();
        let choice = fields.take("tool_choice");
        if list.is_empty() {
            return match choice {
                None => Ok(Tools::default()),
                Some(choice) if choice == "none" || choice == "auto" => Ok(Tools::default()),
                Some(_) => Err(fields.refuse("tool_choice", "invalid_value", "wants tools")),
            };
        }
        if choice.as_ref().is_some_and(|choice| choice == "none") {
            return Ok(Tools::default());
        }
        if !completer.knows_tools() {
            let must = "is not supported: the chat template of this model has no tools";
            return Err(fields.refuse("tools", "unsupported_parameter", must));
        }
        if list.len() > MOST_TOOLS {
            let must = format!("may have {MOST_TOOLS} tools, not {}", list.len());
            return Err(fields.refuse("tools", "invalid_value", &must));
        }
        let mut found = Tools { is_one_only, ..Tools::default() };
        for (i, value) in list.into_iter().enumerate() {
            found.described.push(value.clone());
            let tool = tool(Fields::of(value, &format!("tools[{i}]"))?)?;
            if found.tools.iter().any(|other| other.name == tool.name) {
                let must = format!("has two tools of the name {:?}", tool.name);
                return Err(fields.refuse("tools", "invalid_value", &must));
            }
            found.tools.push(tool);
        }
        found.forced = match choice {
            None => None,
            Some(choice) if choice == "auto" => None,
            Some(choice) if choice == "required" => Some(found.tools.clone()),
            Some(Value::Object(choice)) => Some(vec![found.named(choice.into())?]),
            Some(_) => {
                let must = "must be none, auto, required or a function";
                return Err(fields.refuse("tool_choice", "invalid_value", must));
            }
        };
        Ok(found)
    }

    /// Returns the tool that `tool_choice` names.
    fn named(&self, choice: Value) -> Result<Tool, OpenAiError> {
        let mut choice = Fields::of(choice, "tool_choice")?;
        is_function(&mut choice)?;
        let function = choice.object("function")?;
        let mut function = function.ok_or_else(|| missing(&choice, "function"))?;
        choice.finish()?;
        let name = function.text("name")?.ok_or_else(|| missing(&function, "name"))?;
        match self.tools.iter().find(|tool| tool.name == name) {
            Some(tool) => Ok(tool.clone()),
            None => Err(function.refuse("name", "invalid_value", "is not among the tools")),
        }
    }

    /// Returns whether there are any.
    pub fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// Lets the answer begin with a call, and be nothing else, if one is asked for.
    pub fn enforce(
        &self,
        completer: &Completer,
        manner: &mut Manner,
        prompt: &mut Prompt,
    ) -> Result<(), OpenAiError> {
        if !self.is_empty() && manner.options.constraint.is_some() {
            let message = "response_format is not supported beside tools";
            return Err(OpenAiError::invalid("response_format", "unsupported_parameter", message));
        }
        let Some(forced) = &self.forced else { return Ok(()) };
        let call = |tool: &Tool| (tool.name.clone(), tool.parameters.clone());
        let structure = completer.engine().structure(&Constraint::Call(forced.iter().map(call).collect()));
        let structure = structure
            .map_err(|error| OpenAiError::invalid("tools", "invalid_value", format!("tools: {error}")))?;
        manner.options.constraint = Some(structure);
        // A call is never cut in the middle.
        manner.options.stop.clear();
        let opening = format!("{}\n", tools::OPENING);
        let encoded = completer.engine().tokenizer().encode_guarded(&opening, GUARD, &mut prompt.ids);
        Ok(encoded.map_err(ApiError::internal)?)
    }

    /// Returns how much of a text that goes on may be shown as text, in bytes.
    pub fn certain(&self, text: &str) -> usize {
        match self.forced {
            Some(_) => 0,
            None if self.is_empty() => text.len(),
            None => tools::certain(text),
        }
    }

    /// Returns the text before the calls in a whole answer, and the calls as OpenAI's interface has them.
    pub fn read(&self, text: &str) -> (String, Vec<Value>) {
        if self.is_empty() {
            return (text.to_owned(), Vec::new());
        }
        let (before, mut calls) = match &self.forced {
            // The mark that begins it stands in the prompt.
            Some(forced) => ("", tools::call(text.trim(), forced).into_iter().collect()),
            None => tools::read(text, &self.tools),
        };
        if calls.is_empty() {
            return (text.to_owned(), Vec::new());
        }
        if self.is_one_only {
            calls.truncate(1);
        }
        (before.to_owned(), calls.iter().map(called).collect())
    }
}

fn missing(fields: &Fields, name: &str) -> OpenAiError {
    fields.refuse(name, "missing_required_parameter", "is missing")
}

fn is_function(fields: &mut Fields) -> Result<(), OpenAiError> {
    match fields.text("type")?.as_deref() {
        Some("function") => Ok(()),
        _ => Err(fields.refuse("type", "invalid_value", "must be \"function\"")),
    }
}

fn tool(mut fields: Fields) -> Result<Tool, OpenAiError> {
    is_function(&mut fields)?;
    let mut function = fields.object("function")?.ok_or_else(|| missing(&fields, "function"))?;
    fields.finish()?;
    let name = function.text("name")?.ok_or_else(|| missing(&function, "name"))?;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.bytes().all(is_known) {
        let must = format!("must be 1 to {NAME_MAX_BYTES} letters, digits, _ and -");
        return Err(function.refuse("name", "invalid_value", &must));
    }
    function.neutral("description", Value::is_string)?;
    // A call that is enforced keeps to the schema, strict or not.
    function.neutral("strict", Value::is_boolean)?;
    let parameters = match function.take("parameters") {
        None => json!({"type": "object"}),
        Some(parameters @ Value::Object(_)) => parameters,
        Some(_) => return Err(function.refuse("parameters", "invalid_type", "must be a JSON schema")),
    };
    function.finish()?;
    Ok(Tool { name, parameters })
}

fn called(call: &Call) -> Value {
    let id = format!("call_{}", hex::encode(rand::random::<[u8; 12]>()));
    let arguments = Value::from(call.arguments.clone()).to_string();
    json!({"id": id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

/// Takes the calls of an assistant's message that a program sends back.
pub fn calls(message: &mut Fields) -> Result<Vec<ToolCall>, OpenAiError> {
    let name = message.name("tool_calls");
    let list = message.list("tool_calls")?.unwrap_or_default();
    let call = |(i, value)| {
        let mut call = Fields::of(value, &format!("{name}[{i}]"))?;
        is_function(&mut call)?;
        let id = call.text("id")?.ok_or_else(|| missing(&call, "id"))?;
        let mut function = call.object("function")?.ok_or_else(|| missing(&call, "function"))?;
        // A call out of a stream has its place beside it.
        call.neutral("index", Value::is_u64)?;
        call.finish()?;
        let name = function.text("name")?.ok_or_else(|| missing(&function, "name"))?;
        let text = function.text("arguments")?.unwrap_or_default();
        let arguments = if text.trim().is_empty() { Ok(json!({})) } else { serde_json::from_str(&text) };
        let arguments = arguments.ok().filter(Value::is_object);
        let must = "must be a JSON object, as a string";
        let arguments = arguments.ok_or_else(|| function.refuse("arguments", "invalid_value", must))?;
        function.finish()?;
        Ok(ToolCall { id, name, arguments })
    };
    list.into_iter().enumerate().map(call).collect()
}
