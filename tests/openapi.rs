//! The served description of the interface and the routes that are really there.

mod common;

use serde_json::Value;

#[tokio::test]
async fn every_described_route_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let app = common::start(folder.path(), common::config()).await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let url = |path: &str| format!("http://{}{path}", app.address);
    let document: Value = client.get(url("/openapi.json")).send().await.unwrap().json().await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 25);
    for (path, operations) in paths {
        // Any name will do: what is asked is whether somebody listens.
        let real: String = path
            .split('/')
            .map(|part| if part.starts_with('{') { "1" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        for method in operations.as_object().unwrap().keys() {
            let method: reqwest::Method = method.to_uppercase().parse().unwrap();
            let answer = client.request(method.clone(), url(&real)).send().await.unwrap();
            let status = answer.status().as_u16();
            let text = answer.text().await.unwrap();
            assert!(status != 405 && !text.contains("page or resource"), "{method} {path}: {status} {text}");
            let is_open = operations[method.as_str().to_lowercase()]["security"] == serde_json::json!([]);
            if !is_open {
                assert_eq!(status, 401, "{method} {path} is not open: {text}");
            }
        }
    }
    app.stop().await.unwrap();
}
