//! The model for other programs, over HTTP with the bundled model: chats, completions, streams,
//! refusals by name, cancelling.

mod common;

use chatdlm::store::identity::Role;
use serde_json::Value;
use serde_json::json;

use common::site::Site;

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Returns the texts of a stream's chunks put together, by what a chunk's first choice holds.
fn put_together(events: &[Value], text: fn(&Value) -> &Value) -> String {
    events.iter().filter_map(|event| text(&event["choices"][0]).as_str()).collect()
}

#[tokio::test]
async fn a_conversation_is_answered_and_what_it_took_is_said() {
    let site = Site::start().await;
    let get = |path| site.client.get(site.url(path)).bearer_auth(&site.key).send();
    let models: Value = get("/v1/models").await.unwrap().json().await.unwrap();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!("nano")));
    let model: Value = get("/v1/models/nano").await.unwrap().json().await.unwrap();
    assert_eq!(model["object"], "model");
    assert_eq!(get("/v1/models/gpt-4").await.unwrap().status(), 404);

    // With everything that OpenAI's clients send without being asked.
    let body = json!({
        "model": "nano", "max_tokens": 40, "temperature": null, "top_p": 1, "n": 1, "stream": false, "stop": null,
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "user": "u-1", "logprobs": false,
        "response_format": {"type": "text"}, "metadata": {"a": "b"}, "store": false, "tools": [],
        "tool_choice": "auto", "parallel_tool_calls": true, "service_tier": "auto",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "My bill is "}, {"type": "text", "text": "too high."}]},
            {"role": "assistant", "content": "I am sorry.", "refusal": null, "annotations": [], "tool_calls": null},
            {"role": "user", "content": "Can you help me?"},
        ],
    });
    let answer = site.ask("/v1/chat/completions", body.clone()).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "nano");
    let choice = &answer["choices"][0];
    let content = choice["message"]["content"].as_str().unwrap();
    assert!(!content.is_empty() && !content.starts_with(' '), "{content:?}");
    assert!(choice["finish_reason"] == "stop" || choice["finish_reason"] == "length");
    let usage = &answer["usage"];
    let number = |value: &Value| value.as_u64().unwrap();
    let (prompt, completion) = (number(&usage["prompt_tokens"]), number(&usage["completion_tokens"]));
    assert!(prompt > 10 && completion > 0 && completion <= 40, "{usage}");
    assert_eq!(number(&usage["total_tokens"]), prompt + completion);
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let steps = number(&usage["diffusion"]["steps"]);
    let per_step = usage["diffusion"]["tokens_per_step"].as_f64().unwrap();
    assert!(steps > 0 && (per_step - completion as f64 / steps as f64).abs() < 1e-9, "{usage}");

    let again = site.ask("/v1/chat/completions", body).await;
    assert_eq!(again["choices"], answer["choices"], "greedy answers are the same");
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn a_stream_puts_together_to_the_whole_answer() {
    let site = Site::start().await;
    for (path, rest, text) in [
        (
            "/v1/chat/completions",
            json!({"messages": user("I want to cancel.")}),
            (|c| &c["delta"]["content"]) as fn(&Value) -> &Value,
        ),
        ("/v1/completions", json!({"prompt": "Thank you for "}), |c| &c["text"]),
        (
            "/v1/completions",
            json!({"prompt": "Thank you for ", "temperature": 0.8, "seed": 5}),
            |c| &c["text"],
        ),
    ] {
        let mut body = rest;
        body["model"] = "nano".into();
        body["max_tokens"] = 60.into();
        let whole = site.ask(path, body.clone()).await;
        let choice = &whole["choices"][0];
        let expected =
            if choice["text"].is_string() { &choice["text"] } else { &choice["message"]["content"] };

        body["stream"] = true.into();
        let events = site.stream(path, &body).await;
        assert_eq!(put_together(&events, text), expected.as_str().unwrap(), "{body}");
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], choice["finish_reason"]);
        assert!(events.iter().all(|event| event.get("usage").is_none()));
        assert!(events.iter().all(|event| event["choices"][0].get("diffusion").is_none()));

        body["stream_options"] = json!({"include_usage": true});
        body["diffusion"] = json!({"stream_tentative": true});
        let events = site.stream(path, &body).await;
        assert_eq!(put_together(&events, text), expected.as_str().unwrap(), "{body}");
        let (last, before) = events.split_last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
        assert!(before.iter().all(|event| event["usage"].is_null() && event.get("usage").is_some()));
        let tentative = |event: &Value| event["choices"][0]["diffusion"]["tentative_text"].is_string();
        assert!(before.iter().any(tentative), "what may change is shown on request");
    }
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn seeds_and_candidates_are_what_they_say() {
    let site = Site::start().await;
    let body = |seed: u64, n: u64| json!({"prompt": "The customer said that ", "max_tokens": 24, "temperature": 1.5, "top_k": 50, "seed": seed, "n": n});
    let one = site.ask("/v1/completions", body(1, 1)).await;
    let other = site.ask("/v1/completions", body(2, 1)).await;
    assert_ne!(one["choices"][0]["text"], other["choices"][0]["text"]);
    // Candidate i has seed + i: seven and one more are eight.
    let many = site.ask("/v1/completions", body(1, 8)).await;
    let texts: Vec<&Value> =
        many["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts.len(), 8);
    assert!(texts.contains(&&one["choices"][0]["text"]) && texts.contains(&&other["choices"][0]["text"]));
    let indices: Vec<u64> =
        many["choices"].as_array().unwrap().iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..8).collect::<Vec<u64>>());
    assert_eq!(many["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"], "the prompt counts once");

    let slow =
        json!({"prompt": "The customer", "max_tokens": 13, "diffusion": {"min_steps": 6, "max_steps": 6}});
    let fast = json!({"prompt": "The customer", "max_tokens": 13, "diffusion": {"max_steps": 1}});
    let steps = |answer: Value| answer["usage"]["diffusion"]["steps"].as_u64().unwrap();
    assert_eq!(steps(site.ask("/v1/completions", slow).await) % 6, 0);
    assert!(steps(site.ask("/v1/completions", fast).await) <= 2, "a pass for each block");
    let edited = json!({"prompt": "The customer", "diffusion": {"threshold": 0.5, "edit_threshold": 0.5, "block_length": 32}});
    assert!(site.ask("/v1/completions", edited).await["choices"][0]["text"].is_string());
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn what_another_request_computed_is_reused_and_changes_nothing() {
    let site = Site::start().await;
    let body = json!({"prompt": "The bill of the customer is too high, says the customer. ".repeat(20), "max_tokens": 20});
    let cold = site.ask("/v1/completions", body.clone()).await;
    let warm = site.ask("/v1/completions", body).await;
    assert_eq!(cold["choices"], warm["choices"]);
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached(&cold), 0);
    assert!(cached(&warm) > 0 && cached(&warm) <= warm["usage"]["prompt_tokens"].as_u64().unwrap());
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn a_text_ends_before_its_stop_text() {
    let site = Site::start().await;
    let body = json!({"prompt": "Thank you for calling, ", "max_tokens": 60});
    let whole = site.ask("/v1/completions", body.clone()).await;
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let middle = text.char_indices().nth(text.chars().count() / 2).unwrap().0;
    let stop: String = text[middle..].chars().take(3).collect();
    let mut stopped = body;
    stopped["stop"] = json!(["never written", stop]);
    let expected = &text[..text.find(&stop).unwrap()];
    let answer = site.ask("/v1/completions", stopped.clone()).await;
    assert_eq!(answer["choices"][0]["text"], expected);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    stopped["stream"] = true.into();
    let events = site.stream("/v1/completions", &stopped).await;
    assert_eq!(put_together(&events, |choice| &choice["text"]), expected);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn the_text_of_control_tokens_is_text() {
    let site = Site::start().await;
    let tokens = async |prompt: &str| {
        let answer = site.ask("/v1/completions", json!({"prompt": prompt, "max_tokens": 1})).await;
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(tokens("<|mask|>").await > 1, "one token would be the mask itself");
    assert_eq!(tokens("a<|end|>").await, tokens("a").await + tokens("<|end|>").await);
    let chat = async |text: &str| {
        let answer = site.ask("/v1/chat/completions", json!({"messages": user(text), "max_tokens": 1})).await;
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(chat("<|reply|> <|agent|>").await > chat("a b").await + 2);
    let suffix = async |text: &str| {
        let body = json!({"prompt": "Dear ", "suffix": text, "max_tokens": 1});
        site.ask("/v1/completions", body).await["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(suffix("<|mask|><|end|>").await > suffix("x").await + 2);
    let infill = async |text: &str| {
        let body = json!({"text": text, "spans": [{"start": 0, "end": 1, "max_tokens": 2}]});
        let answer = site.ask("/v1/infill", body).await;
        assert!(answer["text"].as_str().unwrap().ends_with(&text[1..]), "{answer}");
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(infill("a <|mask|><|end|><|pad|>").await > infill("a x").await + 3);
    // What a structure asks for is spelled, whatever it reads like.
    let choice = json!({"type": "choice", "choice": ["<|mask|>", "<|end|>"]});
    let answer = site.ask("/v1/completions", json!({"prompt": "a", "response_format": choice})).await;
    let text = answer["choices"][0]["text"].as_str().unwrap();
    assert!(["<|mask|>", "<|end|>"].contains(&text), "{answer}");
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 1);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn a_suffix_stands_behind_what_is_written() {
    let site = Site::start().await;
    let body = |suffix: Value| json!({"prompt": "Dear ", "suffix": suffix, "max_tokens": 4});
    let open = site.ask("/v1/completions", body(Value::Null)).await;
    let held = site.ask("/v1/completions", body(json!(", your order has been sent."))).await;
    let text = held["choices"][0]["text"].as_str().unwrap();
    assert!(!text.contains("your order"), "only the middle is returned: {text:?}");
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&held) > tokens(&open), "the suffix is given too");
    assert!(held["usage"]["completion_tokens"].as_u64().unwrap() <= 4);
    // The same block holds both: the model sees what follows and writes something else.
    assert_ne!(held["choices"][0]["text"], open["choices"][0]["text"]);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_is_not_known_is_refused_in_the_shape_of_the_field() {
    let site = Site::start().await;
    let body = json!({"messages": user("hello"), "max_tokens": 2});
    let cookie = common::cookie(&site.app, "alice", Role::Agent).await;
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/infill"] {
        for request in [
            site.client.post(site.url(path)).json(&body),
            site.client.post(site.url(path)).json(&body).bearer_auth("wrong"),
        ] {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401);
            let refused: Value = response.json().await.unwrap();
            assert_eq!(refused["error"]["code"], "invalid_api_key", "{refused}");
            assert_eq!(refused["error"]["type"], "invalid_request_error", "{refused}");
        }
    }
    let models = site.client.get(site.url("/v1/models")).send().await.unwrap();
    assert_eq!(models.status(), 401);
    let signed_in = site.client.post(site.url("/v1/chat/completions")).json(&body).header("cookie", cookie);
    assert_eq!(signed_in.send().await.unwrap().status(), 200);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn every_bad_field_is_refused_by_name() {
    let site = Site::start().await;
    let chat = |rest: Value| ("/v1/chat/completions", json!({"messages": user("hello")}), rest);
    let text = |rest: Value| ("/v1/completions", json!({"prompt": "hello"}), rest);
    let fill =
        |rest: Value| ("/v1/infill", json!({"text": "hello", "spans": [{"start": 0, "end": 1}]}), rest);
    let long = "word ".repeat(20_000);
    let schema = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "multipleOf": 3}}});
    for ((path, base, rest), status, param, code) in [
        (chat(json!({"model": "gpt-4"})), 404, "model", "model_not_found"),
        (chat(json!({"model": 4})), 400, "model", "invalid_type"),
        (chat(json!({"messages": []})), 400, "messages", "invalid_value"),
        (chat(json!({"messages": null})), 400, "messages", "missing_required_parameter"),
        (chat(json!({"messages": ["hello"]})), 400, "messages[0]", "invalid_type"),
        (
            chat(json!({"messages": [{"role": "tool", "content": "x"}]})),
            400,
            "messages[0].role",
            "invalid_value",
        ),
        (
            chat(json!({"messages": [{"role": "user"}]})),
            400,
            "messages[0].content",
            "missing_required_parameter",
        ),
        (
            chat(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
            400,
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (chat(json!({"messages": user(&long)})), 400, "messages", "context_length_exceeded"),
        (chat(json!({"max_tokens": 8192})), 400, "max_tokens", "context_length_exceeded"),
        (
            chat(json!({"max_completion_tokens": 1e9})),
            400,
            "max_completion_tokens",
            "context_length_exceeded",
        ),
        (chat(json!({"max_tokens": 0})), 400, "max_tokens", "invalid_value"),
        (chat(json!({"max_tokens": "many"})), 400, "max_tokens", "invalid_type"),
        (chat(json!({"n": 9})), 400, "n", "invalid_value"),
        (chat(json!({"n": 0})), 400, "n", "invalid_value"),
        (chat(json!({"temperature": 2.1})), 400, "temperature", "invalid_value"),
        (chat(json!({"temperature": -1})), 400, "temperature", "invalid_value"),
        (chat(json!({"top_p": 1.5})), 400, "top_p", "invalid_value"),
        (chat(json!({"seed": "x"})), 400, "seed", "invalid_type"),
        (chat(json!({"stop": ["a", "b", "c", "d", "e"]})), 400, "stop", "invalid_value"),
        (chat(json!({"stop": [""]})), 400, "stop", "invalid_value"),
        (chat(json!({"stream": "yes"})), 400, "stream", "invalid_type"),
        (chat(json!({"stream_options": {"include_usage": true}})), 400, "stream_options", "invalid_value"),
        (chat(json!({"tools": [{"type": "function"}]})), 400, "tools", "unsupported_parameter"),
        (chat(json!({"logprobs": true})), 400, "logprobs", "unsupported_parameter"),
        (chat(json!({"frequency_penalty": 0.5})), 400, "frequency_penalty", "unsupported_parameter"),
        (chat(json!({"response_format": schema})), 400, "response_format", "invalid_value"),
        (chat(json!({"response_format": {"type": "xml"}})), 400, "response_format.type", "invalid_value"),
        (chat(json!({"temprature": 1})), 400, "temprature", "unknown_parameter"),
        (chat(json!({"diffusion": {"steps": 1}})), 400, "diffusion.steps", "unknown_parameter"),
        (chat(json!({"diffusion": {"threshold": 1.1}})), 400, "diffusion.threshold", "invalid_value"),
        (chat(json!({"diffusion": {"block_length": 0}})), 400, "diffusion.block_length", "invalid_value"),
        (
            chat(json!({"diffusion": {"max_steps": 4, "min_steps": 5}})),
            400,
            "diffusion.min_steps",
            "invalid_value",
        ),
        (text(json!({"prompt": null})), 400, "prompt", "missing_required_parameter"),
        (text(json!({"prompt": [1, 2, 3]})), 400, "prompt", "invalid_type"),
        (text(json!({"prompt": long})), 400, "prompt", "context_length_exceeded"),
        (text(json!({"suffix": 1})), 400, "suffix", "invalid_type"),
        (text(json!({"echo": true})), 400, "echo", "unsupported_parameter"),
        (text(json!({"messages": user("x")})), 400, "messages", "unknown_parameter"),
        (fill(json!({"text": null})), 400, "text", "missing_required_parameter"),
        (fill(json!({"spans": []})), 400, "spans", "invalid_value"),
        (fill(json!({"spans": [{"start": 0}]})), 400, "spans[0].end", "missing_required_parameter"),
        (fill(json!({"spans": [{"start": 0, "end": 6}]})), 400, "spans[0].end", "invalid_value"),
        (fill(json!({"spans": [{"start": 3, "end": 2}]})), 400, "spans[0].end", "invalid_value"),
        (
            fill(json!({"spans": [{"start": 0, "end": 3}, {"start": 2, "end": 4}]})),
            400,
            "spans[1].start",
            "invalid_value",
        ),
        (
            fill(json!({"spans": [{"start": 0, "end": 1, "max_tokens": 0}]})),
            400,
            "spans[0].max_tokens",
            "invalid_value",
        ),
        (fill(json!({"stop": "x"})), 400, "stop", "unsupported_parameter"),
        (fill(json!({"must_include": "x"})), 400, "must_include", "invalid_type"),
        (fill(json!({"must_include": [""]})), 400, "must_include", "invalid_value"),
        (
            fill(json!({"must_include": ["hello there"], "max_tokens": 1})),
            400,
            "must_include",
            "invalid_value",
        ),
        (fill(json!({"forbid": [1]})), 400, "forbid", "invalid_type"),
        (fill(json!({"must_include": ["No refunds"], "forbid": ["REFUND"]})), 400, "forbid", "invalid_value"),
        (chat(json!({"forbid": ["x"]})), 400, "forbid", "unknown_parameter"),
        (chat(json!({"diffusion": {"deadline_ms": 0}})), 400, "diffusion.deadline_ms", "invalid_value"),
        (chat(json!({"diffusion": {"min_threshold": 2}})), 400, "diffusion.min_threshold", "invalid_value"),
    ] {
        let mut body = base;
        for (name, value) in rest.as_object().unwrap() {
            body[name] = value.clone();
        }
        let response = site.send(path, &body).await;
        let found = response.status().as_u16();
        let refused: Value = response.json().await.unwrap();
        let error = &refused["error"];
        assert_eq!(
            (found, error["param"].as_str(), error["code"].as_str()),
            (status, Some(param), Some(code)),
            "{rest}: {refused}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    let post = || site.client.post(site.url("/v1/chat/completions")).bearer_auth(&site.key);
    let nonsense: Value = post().body("{nonsense").send().await.unwrap().json().await.unwrap();
    assert_eq!(nonsense["error"]["code"], "invalid_json");
    assert_eq!(post().body("x".repeat(2 << 20)).send().await.unwrap().status(), 413);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn too_much_at_once_is_refused_and_may_be_tried_again() {
    let mut config = common::config();
    config.model.engine.max_running = 1;
    config.model.engine.max_waiting = 0;
    let site = Site::with(config).await;
    let body = |n: u64| json!({"prompt": "hello", "n": n});
    let response = site.send("/v1/completions", &body(2)).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    let refused: Value = response.json().await.unwrap();
    assert_eq!(
        (&refused["error"]["type"], &refused["error"]["code"]),
        (&json!("rate_limit_error"), &json!("overloaded"))
    );
    assert_eq!(site.metric("completions_running").await, 0, "what was started of it is dropped");
    // The engine forgets what nobody waits for before its next pass; until then the place is taken.
    let mut response = site.send("/v1/completions", &body(1)).await;
    while response.status() == 429 {
        response = site.send("/v1/completions", &body(1)).await;
    }
    assert_eq!(response.status(), 200);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_goes_away_cancels_the_work() {
    let site = Site::start().await;
    for is_stream in [false, true] {
        let before = site.metric("completions_cancelled_total").await;
        // The second span comes after thousands of passes for the first.
        let spans =
            json!([{"start": 0, "end": 0, "max_tokens": 8000}, {"start": 1, "end": 1, "max_tokens": 1}]);
        let body =
            json!({"text": "ab", "spans": spans, "stream": is_stream, "diffusion": {"threshold": 1.0}});
        let request = site.client.post(site.url("/v1/infill")).bearer_auth(&site.key).json(&body).send();
        let request = tokio::spawn(async move { request.await.unwrap().bytes().await });
        while site.metric("completions_running").await == 0 {}
        request.abort();
        while site.metric("completions_running").await > 0 {}
        assert_eq!(site.metric("completions_cancelled_total").await, before + 1);
    }
    assert_eq!(site.metric("completions_done_total").await, 0);
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_model_the_rest_goes_on() {
    let mut config = common::config();
    config.model.dir = Some("no/such/folder".into());
    let site = Site::with(config).await;
    let response = site.send("/v1/completions", &json!({"prompt": "hello"})).await;
    assert_eq!(response.status(), 503);
    let refused: Value = response.json().await.unwrap();
    assert_eq!(refused["error"]["code"], "model_not_loaded");
    let models = site.client.get(site.url("/v1/models")).bearer_auth(&site.key).send().await.unwrap();
    assert_eq!(models.json::<Value>().await.unwrap()["data"], json!([]));
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn json_comes_as_its_schema_says() {
    let site = Site::start().await;
    let schema = json!({
        "type": "object",
        "properties": {
            "mood": {"enum": ["calm", "worried", "angry"]},
            "calls": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 2},
        },
        "required": ["mood", "calls", "tags"],
        "additionalProperties": false,
    });
    for temperature in [0.0, 1.5] {
        let body = json!({
            "messages": user("I called twice and nobody knew anything!"), "max_tokens": 64, "seed": 3,
            "temperature": temperature,
            "response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}},
        });
        let answer = site.ask("/v1/chat/completions", body).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let found: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(["calm", "worried", "angry"].contains(&found["mood"].as_str().unwrap()), "{text}");
        assert!(found["calls"].is_i64() && found["tags"].as_array().unwrap().len() <= 2, "{text}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    }
    let short = json!({
        "messages": user("hello"), "max_tokens": 3,
        "response_format": {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}},
    });
    let refused = site.send("/v1/chat/completions", &short).await;
    assert_eq!(refused.status(), 400);
    let refused: Value = refused.json().await.unwrap();
    assert_eq!(refused["error"]["param"], "response_format", "{refused}");
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn texts_come_as_their_grammar_says() {
    let site = Site::start().await;
    let ask = async |format: Value| {
        let body = json!({"prompt": "The customer is ", "max_tokens": 24, "temperature": 1.2, "seed": 4, "response_format": format});
        let answer = site.ask("/v1/completions", body).await;
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let grammar = r#"
        root ::= "(" root ")" root | mood?
        mood ::= "calm" | "angry" "!"{1,3}
    "#;
    let text = ask(json!({"type": "grammar", "grammar": grammar})).await;
    let mut left = text.clone();
    for mood in ["calm", "angry!!!", "angry!!", "angry!"] {
        left = left.replace(mood, "");
    }
    while left.contains("()") {
        left = left.replace("()", "");
    }
    assert_eq!(left, "", "{text}");
    let text = ask(json!({"type": "regex", "regex": "[a-c]{3,9}x"})).await;
    let letters = text.strip_suffix('x').expect("an x");
    assert!((3..=9).contains(&letters.len()) && letters.chars().all(|c| "abc".contains(c)), "{text}");
    let text = ask(json!({"type": "choice", "choice": ["very calm", "not <|mask|> calm"]})).await;
    assert!(text == "very calm" || text == "not <|mask|> calm", "{text}");

    for (format, param, says) in [
        (json!({"type": "grammar", "grammar": "root ::= \"a\"\n | b"}), "response_format", "line 2"),
        (json!({"type": "grammar"}), "response_format.grammar", "missing"),
        (json!({"type": "regex", "regex": "(a"}), "response_format", "regular expression"),
        (json!({"type": "choice", "choice": []}), "response_format.choice", "1 to 1024"),
        (json!({"type": "choice", "choice": [1]}), "response_format.choice", "strings"),
        (json!({"type": "lark"}), "response_format.type", "grammar"),
    ] {
        let refused = site.send("/v1/completions", &json!({"prompt": "x", "response_format": format})).await;
        assert_eq!(refused.status(), 400, "{format}");
        let refused: Value = refused.json().await.unwrap();
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(refused["error"]["param"] == param && message.contains(says), "{refused}");
    }
    site.app.stop().await.unwrap();
}
