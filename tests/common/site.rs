//! A server with a model, for the tests of what other programs ask of it.

use chatdlm::app::App;
use chatdlm::config::Config;
use reqwest::Response;
use serde_json::Value;

/// A server, a key for it and a client.
pub struct Site {
    pub app: App,
    pub key: String,
    pub client: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Site {
    /// Serves the bundled model.
    pub async fn start() -> Site {
        Site::with(super::config()).await
    }

    /// Serves what a configuration says.
    pub async fn with(config: Config) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let app = super::start(folder.path(), config).await;
        let key = super::ingest_key(&app).await;
        Site { app, key, client: reqwest::Client::new(), _folder: folder }
    }

    /// Returns the address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.address)
    }

    /// Sends a body with the key.
    pub async fn send(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).bearer_auth(&self.key).json(body).send().await.unwrap()
    }

    /// Returns the answer to a request that is fine.
    pub async fn ask(&self, path: &str, body: Value) -> Value {
        let response = self.send(path, &body).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Returns the data of all events of a stream but its end, which must be there.
    pub async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let response = self.send(path, body).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.text().await.unwrap();
        let events = text.strip_suffix("data: [DONE]\n\n").expect("the end of the stream");
        let data = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        events.split_terminator("\n\n").map(data).collect()
    }

    /// Returns a figure of `/metrics`.
    pub async fn metric(&self, name: &str) -> u64 {
        let response = self.client.get(self.url("/metrics")).bearer_auth(&self.key).send().await.unwrap();
        let text = response.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("chatdlm_{name} ")));
        line.expect("a metric").parse().unwrap()
    }
}
