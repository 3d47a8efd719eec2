//! A server whose model has a chat template with tools, for the tests of calls of tools.

use std::path::Path;

use chatdlm::engine::tokenizer::Tokenizer;

use super::site::Site;

const TEMPLATE: &str = "\
{%- if tools %}<|im_start|>system
{% for tool in tools %}
{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{{ call.function | tojson }}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

/// Serves a model of random weights with a template that has tools.
pub async fn serve(folder: &Path) -> Site {
    let model = folder.join("random");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new("tests/fixtures/sdar").join(name), model.join(name)).unwrap();
    }
    let texts =
        [r#"{"name": "look_up", "arguments": {"city": "Ulm"}} user assistant tool system 0123456789"#];
    let controls =
        ["<|mask|>", "<|end|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"];
    Tokenizer::train(texts.into_iter(), 310, &controls).unwrap().write(&model).unwrap();
    std::fs::write(model.join("chat_template.jinja"), TEMPLATE).unwrap();
    let mut config = super::config();
    config.model.dir = Some(model);
    Site::with(config).await
}
