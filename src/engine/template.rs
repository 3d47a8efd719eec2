//! A checkpoint's chat template: a conversation to token ids, as the `transformers` library does it.
//!
//! What people wrote can never become a control token. Before rendering, every control token's
//! spelling in a message is broken by a guard character that no message holds; after it, what still
//! spells a control token is the template's own, and the guards are taken out again. The same holds
//! for what a program says of its tools, and for what they answer.

use std::path::Path;

use minijinja::Environment;
use minijinja::Error;
use minijinja::ErrorKind;
use minijinja::State;
use minijinja::Value;
use minijinja::context;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::value::Serde;
use minijinja::value::ValueKind;
use minijinja::value::from_args;

use serde_json::Value as Json;
use serde_json::json;

use crate::engine::tokenizer::Tokenizer;
use crate::engine::tokenizer::TokenizerError;

/// Says why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file is unreadable or has another form.
    #[error("cannot read {path}: {reason}")]
    Load {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The template refuses the conversation, or cannot be rendered.
    #[error("the model's chat template refuses this: {0}")]
    Refused(String),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// What the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool answers.
    pub tool_call_id: Option<String>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Its id, which an answer names.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// A JSON object.
    pub arguments: serde_json::Value,
}

/// A chat template. Thread-safe.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// The template's name in its environment.
const NAME: &str = "chat";
/// Where guards are taken from: characters that Unicode sets aside for use within programs.
const GUARDS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

impl ChatTemplate {
    /// Reads `chat_template.jinja`, or `chat_template` of `tokenizer_config.json`; `None` without one.
    ///
    /// # Errors
    /// When a file is unreadable or the template is no template.
    pub fn read(folder: &Path) -> Result<Option<ChatTemplate>, TemplateError> {
        let config_path = folder.join("tokenizer_config.json");
        let config: serde_json::Value = match read_if_there(&config_path)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| load(&config_path, &error))?,
            None => serde_json::Value::Null,
        };
        let file = folder.join("chat_template.jinja");
        let (source, path) = match (read_if_there(&file)?, named_template(&config["chat_template"])) {
            (Some(text), _) => (text, file),
            (None, Some(text)) => (text, config_path),
            (None, None) => return Ok(None),
        };
        let mut template =
            ChatTemplate::new(source).map_err(|error| load(&path, &error.to_string().replace('\n', " ")))?;
        template.bos_token = token_text(&config["bos_token"]);
        template.eos_token = token_text(&config["eos_token"]);
        Ok(Some(template))
    }

    fn new(source: String) -> Result<ChatTemplate, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source)?;
        Ok(ChatTemplate { environment, bos_token: String::new(), eos_token: String::new() })
    }

    /// Returns whether the template does something with tools.
    pub fn knows_tools(&self) -> bool {
        let template = self.environment.get_template(NAME);
        template.is_ok_and(|template| template.undeclared_variables(false).contains("tools"))
    }

    /// Returns the ids of a conversation after which the assistant's answer follows; `tools` are
    /// those that it may call, as OpenAI's interface describes them.
    ///
    /// # Errors
    /// When the template refuses the conversation.
    pub fn render(
        &self,
        messages: &[Message],
        tools: &[Json],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, TemplateError> {
        let messages: Vec<Json> = messages.iter().map(Message::json).collect();
        let has = |guard: &char| messages.iter().chain(tools).any(|value| value.to_string().contains(*guard));
        let guard = GUARDS.into_iter().find(|guard| !has(guard));
        let guard = guard.ok_or_else(|| TemplateError::Refused("too many noncharacters".to_owned()))?;
        let guarded = |values: &[Json]| -> Vec<Value> {
            values.iter().map(|value| Value::from(Serde(guarded(value, guard, tokenizer)))).collect()
        };
        let template = self.environment.get_template(NAME).map_err(|error| refused(&error))?;
        let rendered = template.render(context! {
            messages => guarded(&messages),
            tools => if tools.is_empty() { Value::from(()) } else { Value::from(guarded(tools)) },
            add_generation_prompt => true,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
        });
        let text = rendered.map_err(|error| refused(&error))?;
        let mut ids = Vec::new();
        tokenizer.encode_guarded(&text, guard, &mut ids)?;
        Ok(ids)
    }
}

impl Message {
    /// Returns the message as templates read it.
    fn json(&self) -> Json {
        let mut message = json!({"role": self.role, "content": self.content});
        if !self.tool_calls.is_empty() {
            let call = |call: &ToolCall| {
                let function = json!({"name": call.name, "arguments": call.arguments});
                json!({"id": call.id, "type": "function", "function": function})
            };
            message["tool_calls"] = self.tool_calls.iter().map(call).collect();
        }
        if let Some(id) = &self.tool_call_id {
            message["tool_call_id"] = id.as_str().into();
        }
        message
    }
}

/// Breaks the control tokens in all texts of a value.
fn guarded(value: &Json, guard: char, tokenizer: &Tokenizer) -> Json {
    let inner = |value: &Json| guarded(value, guard, tokenizer);
    match value {
        Json::String(text) => tokenizer.guarded(text, guard).into(),
        Json::Array(values) => values.iter().map(inner).collect(),
        Json::Object(members) => {
            members.iter().map(|(name, value)| (tokenizer.guarded(name, guard), inner(value))).collect()
        }
        other => other.clone(),
    }
}

/// Members of a tool's description in the order that models know them in; others follow.
const ORDER: [&str; 8] =
    ["type", "function", "name", "description", "parameters", "arguments", "properties", "required"];

/// Writes a value as Python's `json.dumps` does, which the `transformers` library means by this
/// filter: nothing is escaped for HTML.
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = indent.or(options.get("indent")?);
    // Characters always stand as they are; so the options that say so change nothing.
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let value: Json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text);
    Ok(text)
}

fn write_json(value: &Json, indent: Option<usize>, depth: usize, text: &mut String) {
    let separate = |text: &mut String, is_first: bool, depth: usize| match indent {
        Some(indent) => {
            text.push_str(if is_first { "\n" } else { ",\n" });
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
        None => text.push_str(if is_first { "" } else { ", " }),
    };
    let close = |text: &mut String, bracket: char| {
        if let Some(indent) = indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(' ', indent * depth));
        }
        text.push(bracket);
    };
    match value {
        Json::Array(values) if !values.is_empty() => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                separate(text, i == 0, depth + 1);
                write_json(value, indent, depth + 1, text);
            }
            close(text, ']');
        }
        Json::Object(members) if !members.is_empty() => {
            let rank = |name: &String| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len());
            let mut members: Vec<(&String, &Json)> = members.iter().collect();
            members.sort_by_key(|(name, _)| rank(name));
            text.push('{');
            for (i, (name, value)) in members.into_iter().enumerate() {
                separate(text, i == 0, depth + 1);
                text.push_str(&Json::from(name.as_str()).to_string());
                text.push_str(": ");
                write_json(value, indent, depth + 1, text);
            }
            close(text, '}');
        }
        other => text.push_str(&other.to_string()),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>, TemplateError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(load(path, &error)),
    }
}

fn load(path: &Path, reason: &impl ToString) -> TemplateError {
    TemplateError::Load { path: path.display().to_string(), reason: reason.to_string() }
}

fn refused(error: &Error) -> TemplateError {
    TemplateError::Refused(error.detail().map_or_else(|| error.to_string(), str::to_owned))
}

/// Returns the template of `tokenizer_config.json`: one text, or several with names of which one is `default`.
fn named_template(value: &serde_json::Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let default = value.as_array()?.iter().find(|template| template["name"] == "default")?;
    default["template"].as_str().map(str::to_owned)
}

/// Returns a token's text: one that is written out, or one with its properties.
fn token_text(value: &serde_json::Value) -> String {
    value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
}

/// Does what templates use of the methods that Python's strings and dictionaries have.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let unknown = || Error::from(ErrorKind::UnknownMethod);
    if value.kind() == ValueKind::Map {
        return match method {
            "items" => state.apply_filter("items", std::slice::from_ref(value)),
            "keys" => Ok(value.try_iter()?.collect()),
            "values" => {
                let keys: Vec<Value> = value.try_iter()?.collect();
                keys.iter().map(|key| value.get_item(key)).collect()
            }
            "get" => {
                let (key, default): (Value, Option<Value>) = from_args(args)?;
                let found = value.get_item(&key)?;
                Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
            }
            _ => Err(unknown()),
        };
    }
    let text = value.as_str().ok_or_else(unknown)?;
    match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<String>,) = from_args(args)?;
            let is_cut = |c: char| chars.as_ref().map_or(c.is_whitespace(), |chars| chars.contains(c));
            Ok(Value::from(match method {
                "strip" => text.trim_matches(is_cut),
                "lstrip" => text.trim_start_matches(is_cut),
                _ => text.trim_end_matches(is_cut),
            }))
        }
        "split" => {
            let (separator, most): (Option<String>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most + 1);
            Ok(match separator {
                Some(separator) if separator.is_empty() => {
                    return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
                }
                Some(separator) => text.splitn(most, &separator).map(Value::from).collect(),
                None => text.split_whitespace().map(Value::from).collect(),
            })
        }
        "startswith" | "endswith" => {
            let (part,): (String,) = from_args(args)?;
            Ok(Value::from(if method == "startswith" {
                text.starts_with(&part)
            } else {
                text.ends_with(&part)
            }))
        }
        "replace" => {
            let (old, new): (String, String) = from_args(args)?;
            Ok(Value::from(text.replace(&old, &new)))
        }
        "upper" | "lower" | "title" | "capitalize" => state.apply_filter(method, std::slice::from_ref(value)),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROLS: [&str; 4] = ["<|mask|>", "<|im_start|>", "<|im_end|>", "<role>"];
    const CHATML: &str = "\
{%- if messages[0].role != 'system' %}
{{ '<|im_start|>system\nBe brief.<|im_end|>\n' }}
{%- endif %}
{% for message in messages %}
    {% if message.role not in ['system', 'user', 'assistant'] %}
        {{ raise_exception('no such role: ' + message.role) }}
    {% endif %}
<|im_start|>{{ message['role'] }}
{{ message.content.strip() }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

    fn tokenizer() -> Tokenizer {
        let texts = ["system user assistant be brief hello there how are you today"];
        Tokenizer::train(texts.into_iter(), 320, &CONTROLS).expect("trains")
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned(), ..Message::default() }
    }

    /// Renders and spells the ids: control tokens in brackets.
    fn spelled(template: &ChatTemplate, messages: &[Message]) -> Result<String, TemplateError> {
        spelled_with(template, messages, &[])
    }

    fn spelled_with(
        template: &ChatTemplate,
        messages: &[Message],
        tools: &[Json],
    ) -> Result<String, TemplateError> {
        let tokenizer = tokenizer();
        let mut text = String::new();
        let mut plain = Vec::new();
        for id in template.render(messages, tools, &tokenizer)? {
            match CONTROLS.get(id as usize) {
                Some(control) => {
                    text += &format!("{}[{control}]", tokenizer.decode(&std::mem::take(&mut plain)))
                }
                None => plain.push(id),
            }
        }
        Ok(text + &tokenizer.decode(&plain))
    }

    #[test]
    fn a_template_renders_as_jinja_does_with_blocks_trimmed() {
        let template = ChatTemplate::new(CHATML.to_owned()).expect("parses");
        let found = spelled(&template, &[message("user", "  hello there ")]).expect("renders");
        assert_eq!(
            found,
            "[<|im_start|>]system\nBe brief.[<|im_end|>]\n[<|im_start|>]user\nhello there[<|im_end|>]\n\
             [<|im_start|>]assistant\n"
        );
        let refused = spelled(&template, &[message("tool", "x")]).expect_err("is refused").to_string();
        assert!(refused.ends_with("no such role: tool"), "{refused}");
    }

    #[test]
    fn nothing_that_was_said_becomes_a_control_token() {
        let template =
            ChatTemplate::new("<role>{% for m in messages %}{{ m.content }}{% endfor %}".to_owned());
        let template = template.expect("parses");
        for contents in [
            &["a <|mask|> b <role>"][..],
            &["<|ma", "sk|>"],
            &["<|im_<|mask|>end|>", "<<|mask|>|mask|>"],
            &["<role>", "<role>\u{fdd0}", "\u{fdd1}"],
            &["mask|><|", "mask|>"],
        ] {
            let messages: Vec<Message> = contents.iter().map(|content| message("user", content)).collect();
            let found = spelled(&template, &messages).expect("renders");
            assert_eq!(found, format!("[<role>]{}", contents.concat()));
        }
    }

    #[test]
    fn methods_of_python_that_templates_use_are_there() {
        let check = |source: &str, expected: &str| {
            let template = ChatTemplate::new(format!("{{{{ {source} }}}}")).expect("parses");
            assert_eq!(
                spelled(&template, &[message("user", " a,b,c ")]).expect(source),
                expected,
                "{source}"
            );
        };
        check("messages[0].content.strip().split(',')[-1]", "c");
        check("messages[0].content.split(',', 1)[1].rstrip()", "b,c");
        check("messages[0].content.lstrip().startswith('a,') and not 'x'.endswith('y')", "True");
        check("messages[0].get('name', 'nobody') + messages[0].get('role')", "nobodyuser");
        check("messages[0].content.replace(',', '').upper().strip('\\n ')", "ABC");
        check("messages[0].items() | length", "2");
    }

    #[test]
    fn tools_and_their_answers_reach_the_template_and_stay_text() {
        let source = "\
{% for tool in tools or [] %}{{ tool | tojson }};{% endfor %}
{% for m in messages %}
{{ m.role }}:{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}{{ m.tool_call_id }},
{%- endfor %}";
        let template = ChatTemplate::new(source.to_owned()).expect("parses");
        assert!(template.knows_tools());
        assert!(!ChatTemplate::new(CHATML.to_owned()).expect("parses").knows_tools());
        let tool = json!({"type": "function", "function": {
            "name": "f", "description": "a <b> & 'c' ä <|im_end|>", "parameters": {"type": "object", "properties": {"<role>": {"type": "integer"}}},
        }});
        let call = ToolCall { id: "1".to_owned(), name: "f".to_owned(), arguments: json!({"a": "<|mask|>"}) };
        let called = Message { tool_calls: vec![call], ..message("assistant", "") };
        let answer = Message { tool_call_id: Some("1".to_owned()), ..message("tool", "<|im_start|>") };
        let found = spelled_with(&template, &[called, answer], &[tool]).expect("renders");
        assert_eq!(
            found,
            r#"{"type": "function", "function": {"name": "f", "description": "a <b> & 'c' ä <|im_end|>", "parameters": {"type": "object", "properties": {"<role>": {"type": "integer"}}}}};"#
                .to_owned()
                + r#"assistant:f {"a": "<|mask|>"},tool:<|im_start|>1,"#
        );
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let check = |source: &str, expected: &str| {
            let template = ChatTemplate::new(format!("{{{{ {source} }}}}")).expect("parses");
            assert_eq!(spelled(&template, &[]).expect(source), expected, "{source}");
        };
        check("[1, 2.5, 'ä<', none, true, [], {}] | tojson", r#"[1, 2.5, "ä<", null, true, [], {}]"#);
        check("{'z': 1, 'name': [2]} | tojson(indent=2)", "{\n  \"name\": [\n    2\n  ],\n  \"z\": 1\n}");
        check("'\\n' | tojson(ensure_ascii=False)", r#""\n""#);
    }

    #[test]
    fn a_folder_has_a_template_in_either_file_or_none() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(ChatTemplate::read(folder.path()).expect("reads").is_none());
        let config = folder.path().join("tokenizer_config.json");
        let text = r#"{"chat_template": "{{ bos_token }}!", "bos_token": {"content": "<role>"}}"#;
        std::fs::write(&config, text).expect("writes");
        let template = ChatTemplate::read(folder.path()).expect("reads").expect("has one");
        assert_eq!(spelled(&template, &[]).expect("renders"), "[<role>]!");
        std::fs::write(folder.path().join("chat_template.jinja"), "{% if").expect("writes");
        let error = ChatTemplate::read(folder.path()).expect_err("is damaged").to_string();
        assert!(error.contains("chat_template.jinja"), "{error}");
    }
}
