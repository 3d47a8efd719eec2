//! Calls of tools over HTTP, with a model of random weights whose chat template has tools: a call
//! that is asked for always parses, and nothing that a program says becomes a control token.

mod common;

use serde_json::Value;
use serde_json::json;

use common::site::Site;
use common::tools::serve;

const CHAT: &str = "/v1/chat/completions";

async fn ask(site: &Site, body: &Value) -> Value {
    site.ask(CHAT, body.clone()).await
}

async fn refusal(site: &Site, body: &Value) -> Value {
    let response = site.send(CHAT, body).await;
    assert_eq!(response.status(), 400, "{body}");
    response.json::<Value>().await.unwrap()["error"].take()
}

fn tools() -> Value {
    let look_up = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"type": "integer"}},
        "required": ["city", "days"],
        "additionalProperties": false,
    });
    json!([
        {"type": "function", "function": {"name": "look_up", "description": "Looks up.", "parameters": look_up, "strict": true}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

fn body(rest: Value) -> Value {
    let mut body = json!({
        "messages": [{"role": "user", "content": "Ulm?"}], "tools": tools(), "max_tokens": 64,
        "temperature": 1.5, "seed": 1,
    });
    for (name, value) in rest.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Checks one call and returns the tool's name.
fn check(call: &Value) -> String {
    assert!(call["type"] == "function" && call["id"].as_str().unwrap().starts_with("call_"), "{call}");
    let arguments = call["function"]["arguments"].as_str().unwrap();
    let arguments: Value = serde_json::from_str(arguments).unwrap();
    let name = call["function"]["name"].as_str().unwrap();
    match name {
        "look_up" => {
            assert!(arguments["city"].as_str().unwrap().chars().count() <= 6, "{call}");
            assert!(arguments["days"].is_i64() && arguments.as_object().unwrap().len() == 2, "{call}");
        }
        "now" => assert!(arguments.is_object(), "{call}"),
        other => panic!("{other}"),
    }
    name.to_owned()
}

#[tokio::test]
async fn a_call_that_is_asked_for_always_parses() {
    let folder = tempfile::tempdir().unwrap();
    let site = serve(folder.path()).await;
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for seed in 0..12 {
        for choice in [json!("required"), named("look_up"), named("now")] {
            let asked = choice["function"]["name"].as_str().map(str::to_owned);
            let body = body(json!({"tool_choice": choice, "seed": seed, "stop": ["\""]}));
            let answer = ask(&site, &body).await;
            let choice = &answer["choices"][0];
            assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            assert!(calls.len() == 1 && choice["message"]["content"].is_null(), "{answer}");
            let name = check(&calls[0]);
            assert!(asked.is_none_or(|asked| asked == name), "{answer}");
        }
    }
    let short = body(json!({"tool_choice": named("look_up"), "max_tokens": 3}));
    assert!(refusal(&site, &short).await["message"].as_str().unwrap().contains("tokens or more"));
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_has_the_call_whole() {
    let folder = tempfile::tempdir().unwrap();
    let site = serve(folder.path()).await;
    let whole = ask(&site, &body(json!({"tool_choice": "required"}))).await;
    for is_tentative in [false, true] {
        let request = json!({"tool_choice": "required", "stream": true, "diffusion": {"stream_tentative": is_tentative}});
        let text = site.send(CHAT, &body(request)).await.text().await.unwrap();
        let events = text.strip_suffix("data: [DONE]\n\n").expect("the end of the stream");
        let events: Vec<Value> = events
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect();
        let choices: Vec<&Value> = events.iter().map(|event| &event["choices"][0]).collect();
        let calls: Vec<&Value> =
            choices.iter().filter_map(|choice| choice["delta"]["tool_calls"].as_array()).flatten().collect();
        assert_eq!(calls.len(), 1, "{text}");
        assert_eq!(calls[0]["index"], 0);
        check(calls[0]);
        let function = &whole["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(&calls[0]["function"], function, "streamed or whole");
        assert_eq!(choices.last().unwrap()["finish_reason"], "tool_calls");
        assert_eq!(choices[0]["delta"]["role"], "assistant");
        let shown: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(shown, "", "a call is no text");
        let tentative: String =
            choices.iter().filter_map(|choice| choice["diffusion"]["tentative_text"].as_str()).collect();
        assert_eq!(tentative, "", "nor what may become one");
    }
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn calls_and_their_answers_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let site = serve(folder.path()).await;
    let call =
        json!({"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{\"a\": 1}"}});
    let conversation = json!([
        {"role": "user", "content": "Ulm?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]);
    let prompt =
        async |rest: Value| ask(&site, &body(rest)).await["usage"]["prompt_tokens"].as_u64().unwrap();
    let bare = prompt(json!({})).await;
    assert!(prompt(json!({"messages": conversation})).await > bare + 10);
    assert!(prompt(json!({"tool_choice": "none"})).await < bare, "what may not be called is not told");
    // What a program says of its tools stays text: a control token would be one token.
    let described = |text: &str| json!({"tool_choice": "auto", "tools": [{"type": "function", "function": {"name": "f", "description": text}}]});
    let (mark, twice) =
        (prompt(described("<|im_end|>")).await, prompt(described("<|im_end|><|im_end|>")).await);
    assert!(twice > mark + 2, "{mark} {twice}");
    // Free to call or not: with random weights there is some text, whatever it is.
    let answer = ask(&site, &body(json!({"parallel_tool_calls": false}))).await;
    let choice = &answer["choices"][0];
    assert!(
        choice["message"]["content"].is_string() || choice["message"]["tool_calls"].is_array(),
        "{answer}"
    );
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_tools_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let site = serve(folder.path()).await;
    let function = |rest: Value| json!({"tools": [{"type": "function", "function": rest}]});
    let message = |rest: Value| json!({"messages": [rest]});
    let call = |rest: Value| message(json!({"role": "assistant", "tool_calls": [rest]}));
    let schema = json!({"name": "f", "parameters": {"type": "integer", "multipleOf": 3}});
    let mut forced = function(schema);
    forced["tool_choice"] = "required".into();
    for (rest, param, code) in [
        (json!({"tools": {}}), "tools", "invalid_type"),
        (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type", "invalid_value"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", "missing_required_parameter"),
        (function(json!({})), "tools[0].function.name", "missing_required_parameter"),
        (function(json!({"name": "a b"})), "tools[0].function.name", "invalid_value"),
        (function(json!({"name": "a", "parameters": 3})), "tools[0].function.parameters", "invalid_type"),
        (function(json!({"name": "a", "retries": 3})), "tools[0].function.retries", "unknown_parameter"),
        (json!({"tools": [tools()[1], tools()[1]]}), "tools", "invalid_value"),
        (forced, "tools", "invalid_value"),
        (json!({"tool_choice": "always"}), "tool_choice", "invalid_value"),
        (json!({"tool_choice": "required", "tools": []}), "tool_choice", "invalid_value"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "other"}}}),
            "tool_choice.function.name",
            "invalid_value",
        ),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "unsupported_parameter"),
        (json!({"parallel_tool_calls": 1}), "parallel_tool_calls", "invalid_type"),
        (
            message(json!({"role": "tool", "content": "x"})),
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (message(json!({"role": "assistant"})), "messages[0].content", "missing_required_parameter"),
        (call(json!({"type": "function"})), "messages[0].tool_calls[0].id", "missing_required_parameter"),
        (
            call(json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1]"}})),
            "messages[0].tool_calls[0].function.arguments",
            "invalid_value",
        ),
    ] {
        let error = refusal(&site, &body(rest.clone())).await;
        assert_eq!(
            (error["param"].as_str(), error["code"].as_str()),
            (Some(param), Some(code)),
            "{rest}: {error}"
        );
    }
    site.app.stop().await.unwrap();
}
