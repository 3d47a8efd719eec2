//! The pages in a real browser: agent, supervisor and admin sign in with their links and each does
//! what they are there for, against the real demo. Needs chromium and its driver; where they are
//! missing the test fails and names the packages.

use std::collections::HashMap;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::Client;
use fantoccini::ClientBuilder;
use fantoccini::elements::Element;
use fantoccini::elements::ElementRef;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

/// How long an element may take to appear on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An article that no knowledge base has.
const NEW_ARTICLE: &str = "---\nid: zeppelin-mooring\ntitle: Zeppelin mooring fees\n---\n\
    # Zeppelin mooring fees\n\nMooring a zeppelin at our mast costs 40 euros a night. Book the mast two days ahead.\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_role_does_its_work_in_a_browser() {
    let demo = Demo::start();
    let driver = Driver::start();
    let alice = driver.browser().await;
    let colleague = driver.browser().await;

    sees_a_live_call(&alice, &demo).await;
    let call = plays_a_customer(&alice, &demo).await;
    uploads_an_article(&colleague, &demo).await;
    gets_the_new_article_in_the_running_call(&alice).await;
    whispers_from_the_board(&colleague, &demo, &call).await;
    find(&alice, ".whispers.unread").await;
    find_text(&alice, ".whisper-text", "offer the night for free").await;

    for client in [alice, colleague] {
        client.close().await.expect("the browser closes");
    }
}

/// The agent's newest call opens by itself and is live.
async fn sees_a_live_call(alice: &Client, demo: &Demo) {
    alice.goto(&demo.links["alice"]).await.expect("the agent's link");
    find(alice, ".call-page .link-state.live").await;
    find(alice, ".transcript .line:not(.partial)").await;
    find(alice, ".feels .sparkline").await;
    let url = alice.current_url().await.expect("the address");
    assert!(url.path().starts_with("/calls/"), "{url}");
}

/// A question typed as the customer gives a card and a draft; a card number is removed. Returns
/// the call's name.
async fn plays_a_customer(alice: &Client, demo: &Demo) -> String {
    alice.goto(&demo.page("/try")).await.expect("the page");
    say(alice, "my engineer never turned up today, do I get compensation for a missed visit").await;
    find_text(alice, ".card h3", "missed visits").await;
    let draft = find(alice, ".draft.done .draft-text").await;
    assert!(!draft.text().await.expect("the draft's text").trim().is_empty());

    say(alice, "my card is 4111 1111 1111 1111").await;
    find_text(alice, ".line .removed", "payment card").await;
    let page = find(alice, "body").await.text().await.expect("the page's text");
    assert!(!page.contains("4111 1111"), "the card number is shown");

    let link = find(alice, ".agent-side > .caption-row a").await;
    let href = link.attr("href").await.expect("an attribute").expect("a link");
    href.trim_start_matches("/calls/").to_owned()
}

/// The admin imports a file and sees it published.
async fn uploads_an_article(ada: &Client, demo: &Demo) {
    ada.goto(&demo.links["ada"]).await.expect("the admin's link");
    find_text(ada, ".base", "tel ·").await.click().await.expect("the base is chosen");
    find_text(ada, ".base[aria-current=true]", "tel ·").await;
    let file = demo.folder.path().join("zeppelin.md");
    std::fs::write(&file, NEW_ARTICLE).expect("the file is written");
    let picker = find(ada, "#files").await;
    picker.send_keys(&file.display().to_string()).await.expect("the file is picked");
    find(ada, ".import.done").await;
    let query = find(ada, "#try-query").await;
    query.send_keys("what does mooring a zeppelin cost").await.expect("the question is typed");
    find_text(ada, ".try-box .card h3", "Zeppelin mooring fees").await;
}

/// What was uploaded answers a customer of a call that began before.
async fn gets_the_new_article_in_the_running_call(alice: &Client) {
    say(alice, "what does it cost to moor my zeppelin at your mast for a night").await;
    find_text(alice, ".card h3", "Zeppelin mooring fees").await;
}

/// The supervisor finds the call on the board, reads it, and whispers.
async fn whispers_from_the_board(sam: &Client, demo: &Demo, call: &str) {
    sam.goto(&demo.links["sam"]).await.expect("the supervisor's link");
    let tile = find(sam, &format!(".tile[href='/calls/{call}']")).await;
    tile.click().await.expect("the tile opens");
    find_text(sam, ".transcript .line", "zeppelin").await;
    let whisper = find(sam, ".whispers input").await;
    whisper.send_keys("offer the night for free").await.expect("the whisper is typed");
    find(sam, ".whispers button").await.click().await.expect("the whisper is sent");
    find_text(sam, ".whispers .sent", "offer the night for free").await;
}

/// Types a message of the customer and sends it.
async fn say(client: &Client, text: &str) {
    let input = find(client, "#customer-says").await;
    input.send_keys(text).await.expect("the message is typed");
    let button = find(client, ".composer button.primary:enabled").await;
    button.click().await.expect("the message is said");
}

/// Waits for an element.
async fn find(client: &Client, css: &str) -> Element {
    find_text(client, css, "").await
}

/// Waits for an element that contains a text. The page itself says when it has changed.
async fn find_text(client: &Client, css: &str, text: &str) -> Element {
    let script = "const [css, text, done] = arguments;
        const look = () => [...document.querySelectorAll(css)].find((one) => one.textContent.includes(text));
        const found = look();
        if (found) return done(found);
        const observer = new MutationObserver(() => {
            const late = look();
            if (late) { observer.disconnect(); done(late); }
        });
        observer.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});";
    let found = match client.execute_async(script, vec![json!(css), json!(text)]).await {
        Ok(found) => found,
        Err(error) => panic!("no {css} with {text:?} ({error}), the page says:\n{}", words(client).await),
    };
    // The reference of an element is an object with one field, whose name the standard fixes.
    let reference = found.as_object().and_then(|object| object.values().next()).and_then(Value::as_str);
    let reference = reference.unwrap_or_else(|| panic!("{css} is no element: {found}"));
    Element::from_element_id(client.clone(), ElementRef::from(reference.to_owned()))
}

/// Returns what the page says, for a failure's message.
async fn words(client: &Client) -> String {
    match client.execute("return document.body.innerText", vec![]).await {
        Ok(value) => value.as_str().unwrap_or_default().to_owned(),
        Err(error) => format!("(unreadable: {error})"),
    }
}

/// The running demo; stopped when dropped.
struct Demo {
    process: Child,
    /// Kept open: the demo may still print.
    _output: BufReader<ChildStdout>,
    folder: TempDir,
    /// The one-time link of each user.
    links: HashMap<String, String>,
}

impl Demo {
    /// Starts the demo on a free port and reads the links that it prints.
    fn start() -> Demo {
        let folder = TempDir::new().expect("a folder");
        let mut process = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
            .args(["demo", "--port", "0", "--data-dir"])
            .arg(folder.path().join("data"))
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        let mut links = HashMap::new();
        while ["alice", "sam", "ada"].iter().any(|name| !links.contains_key(*name)) {
            let mut line = String::new();
            let bytes = output.read_line(&mut line).expect("its output is text");
            assert!(bytes > 0, "the demo ended before it printed its links");
            let name = line.split_whitespace().next();
            let link = line.split_whitespace().find(|word| word.contains("/sign-in/"));
            if let (Some(name), Some(link)) = (name, link) {
                links.insert(name.to_owned(), link.to_owned());
            }
        }
        Demo { process, _output: output, folder, links }
    }

    /// Returns the address of a page.
    fn page(&self, path: &str) -> String {
        let link = &self.links["alice"];
        let origin = &link[..link.find("/sign-in/").expect("a link to sign in")];
        format!("{origin}{path}")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It may have ended already, which the test has then noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program that drives browsers; it and they are stopped when dropped.
struct Driver {
    process: Child,
    _output: BufReader<ChildStdout>,
    port: u16,
}

impl Driver {
    /// Starts the driver on a free port.
    fn start() -> Driver {
        let started = Command::new("chromedriver").arg("--port=0").stdout(Stdio::piped()).spawn();
        let mut process = started.unwrap_or_else(|error| {
            panic!("cannot start chromedriver ({error}): install the packages chromium and chromium-driver")
        });
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        loop {
            let mut line = String::new();
            let bytes = output.read_line(&mut line).expect("its output is text");
            assert!(bytes > 0, "chromedriver ended before it said its port");
            let Some((_, port)) = line.trim_end().split_once("started successfully on port ") else {
                continue;
            };
            let port = port.trim_end_matches('.').parse().expect("chromedriver says its port");
            return Driver { process, _output: output, port };
        }
    }

    /// Opens a browser with a profile of its own.
    async fn browser(&self) -> Client {
        let options = json!({"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--no-first-run", "--window-size=1280,900",
        ]});
        let patience_ms = PATIENCE.as_millis() as u64;
        let capabilities = json!({"goog:chromeOptions": options, "timeouts": {"script": patience_ms}});
        let capabilities = capabilities.as_object().expect("an object").clone();
        ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{}", self.port))
            .await
            .unwrap_or_else(|error| {
                panic!("chromedriver cannot start a browser: install the package chromium ({error})")
            })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Asked to shut down it closes its browsers; killed it would leave them behind.
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
            let _ =
                stream.write_all(b"GET /shutdown HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
