//! `POST /v1/infill` with the bundled model: spans are written anew, and not a byte more.

mod common;

use serde_json::Value;
use serde_json::json;

use common::site::Site;

#[tokio::test]
async fn an_infill_changes_its_spans_and_not_a_byte_more() {
    let site = Site::start().await;
    let text = "Dear ⟨…⟩, your  order\tnº 7 <|mask|> of ⟨…⟩ will – alas –\r\n arrive 😀 ⟨…⟩";
    let chars: Vec<char> = text.chars().collect();
    let starts: Vec<usize> = (0..chars.len()).filter(|i| chars[*i] == '⟨').collect();
    let spans: Vec<Value> =
        starts.iter().map(|start| json!({"start": start, "end": start + 3, "max_tokens": 6})).collect();
    let fixed: Vec<&str> = text.split("⟨…⟩").collect();
    for body in [
        json!({"text": text, "spans": spans}),
        json!({"text": text, "spans": spans, "n": 3, "temperature": 1.0, "seed": 3, "model": "nano"}),
        json!({"text": text, "spans": spans, "diffusion": {"block_length": 64}}),
    ] {
        let answer = site.ask("/v1/infill", body).await;
        assert_eq!(
            (&answer["text"], &answer["spans"]),
            (&answer["choices"][0]["text"], &answer["choices"][0]["spans"])
        );
        for choice in answer["choices"].as_array().unwrap() {
            let filled = choice["text"].as_str().unwrap();
            let filled_chars: Vec<char> = filled.chars().collect();
            let mut expected = fixed[0].to_owned();
            for (i, span) in choice["spans"].as_array().unwrap().iter().enumerate() {
                let written = span["text"].as_str().unwrap();
                let place = |name: &str| span[name].as_u64().unwrap() as usize;
                let there: String = filled_chars[place("start")..place("end")].iter().collect();
                assert_eq!(there, written);
                expected += written;
                expected += fixed[i + 1];
            }
            assert_eq!(filled, expected);
        }
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() <= 18 * 3);
    }
    // One token a pass, so that some pass is fetched before the last.
    let mut body = json!({"text": text, "spans": spans, "diffusion": {"threshold": 1.0}});
    let whole = site.ask("/v1/infill", body.clone()).await;
    body["stream"] = true.into();
    body["diffusion"]["stream_tentative"] = true.into();
    let events = site.stream("/v1/infill", &body).await;
    let (last, before) = events.split_last().unwrap();
    assert_eq!(last["text"], whole["text"]);
    let masked = |span: &Value| span["tentative_text"].as_str().unwrap().contains('░');
    assert!(before.iter().any(|event| event["spans"].as_array().unwrap().iter().any(masked)));
    // Where nothing stood something may be put.
    let inserted = site.ask("/v1/infill", json!({"text": "ab", "spans": [{"start": 1, "end": 1}]})).await;
    let inserted = inserted["text"].as_str().unwrap();
    assert!(inserted.starts_with('a') && inserted.ends_with('b'));
    site.app.stop().await.unwrap();
}

#[tokio::test]
async fn what_must_stand_in_a_span_does_and_what_may_not_does_not() {
    let site = Site::start().await;
    let text = "Hello Anna, we will … to you … about your bill. Goodbye.";
    let chars: Vec<char> = text.chars().collect();
    let spans: Vec<Value> = (0..chars.len())
        .filter(|i| chars[*i] == '…')
        .map(|start| json!({"start": start, "end": start + 1, "max_tokens": 9}))
        .collect();
    let ask = |rest: Value| {
        let mut body = json!({"text": text, "spans": spans, "diffusion": {"block_length": 32}});
        rest.as_object().unwrap().iter().for_each(|(name, value)| body[name] = value.clone());
        body
    };
    let written = |choice: &Value| -> Vec<String> {
        let spans = choice["spans"].as_array().unwrap().iter();
        spans.map(|span| span["text"].as_str().unwrap().to_owned()).collect()
    };
    let free = site.ask("/v1/infill", ask(json!({}))).await;
    // Whatever it writes by itself may not be written, in any case, nor may what spans its tokens.
    let whole = written(&free).join(" ");
    let mut forbid: Vec<String> =
        whole.split_whitespace().filter(|word| word.len() > 3).map(str::to_uppercase).collect();
    assert!(!forbid.is_empty(), "{free}");
    forbid.push("l t".to_owned());
    let must = ["next Monday", "Monday", "✓ café"];
    for rest in [
        json!({"must_include": must}),
        json!({"must_include": must, "forbid": forbid}),
        json!({"forbid": forbid, "n": 4, "temperature": 1.2, "seed": 1}),
        json!({"must_include": must, "n": 3, "temperature": 1.0, "seed": 5}),
    ] {
        let answer = site.ask("/v1/infill", ask(rest.clone())).await;
        for choice in answer["choices"].as_array().unwrap() {
            let spans = written(choice);
            let filled = choice["text"].as_str().unwrap();
            assert!(
                filled.starts_with("Hello Anna, we will ") && filled.ends_with(" about your bill. Goodbye.")
            );
            for text in rest["must_include"].as_array().into_iter().flatten() {
                let text = text.as_str().unwrap();
                assert!(spans.iter().any(|span| span.contains(text)), "{text:?} in {spans:?}");
            }
            for text in rest["forbid"].as_array().into_iter().flatten() {
                let text = text.as_str().unwrap().to_lowercase();
                assert!(
                    !spans.iter().any(|span| span.to_lowercase().contains(&text)),
                    "{text:?} in {spans:?}"
                );
            }
            if !rest["forbid"].is_null() {
                assert!(
                    !filled.contains("will to") && !filled.contains("ll t"),
                    "across the border: {filled}"
                );
            }
        }
        assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() <= 18 * 4);
        assert!(answer["usage"]["diffusion"]["predicted_steps"].as_u64().unwrap() > 0, "{answer}");
    }
    // A stream takes nothing back: what may have to be written again is tentative until the end.
    let mut body = ask(json!({"must_include": must, "forbid": forbid, "stream": true}));
    let whole = site.ask("/v1/infill", ask(json!({"must_include": must, "forbid": forbid}))).await;
    body["diffusion"]["stream_tentative"] = true.into();
    let events = site.stream("/v1/infill", &body).await;
    let (last, before) = events.split_last().unwrap();
    assert_eq!(last["text"], whole["text"]);
    assert!(before.iter().flat_map(written).all(|text| text.is_empty()));
    site.app.stop().await.unwrap();
}
