//! Knowledge from upload to card: imports, versions, rollback, restart, and searches during swaps.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use actix_web::App;
use actix_web::cookie::Cookie;
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::test;
use actix_web::test::TestRequest;
use actix_web::web;
use chatdlm::assist::library::Library;
use chatdlm::event::Speaker;
use chatdlm::knowledge::Knowledge;
use chatdlm::knowledge::Question;
use chatdlm::knowledge::article::Article;
use chatdlm::knowledge::index::Edition;
use chatdlm::prompt::Turn;
use chatdlm::server::auth::Config;
use chatdlm::server::auth::SESSION_COOKIE;
use chatdlm::server::error;
use chatdlm::server::imports::UPLOAD_MAX_BYTES;
use chatdlm::server::knowledge;
use chatdlm::store::Store;
use chatdlm::store::identity::Role;
use chatdlm::store::imports::ImportState;
use chatdlm::store::versions::ArticleChanges;
use chrono::Duration;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

fn question(text: &str, bases: &[&str], limit: usize) -> Question {
    let turns = vec![Turn { speaker: Speaker::Customer, text: text.to_owned() }];
    Question { turns, bases: bases.iter().map(|base| (*base).to_owned()).collect(), limit }
}

fn article(id: &str, title: &str, body: &str) -> Article {
    Article::from_markdown(id, &format!("---\nid: {id}\ntitle: {title}\n---\n{body}\n"))
}

async fn open(folder: &Path) -> (Store, Library) {
    let store = Store::open(&folder.join("test.sqlite")).await.expect("a store");
    let library = Library::open(store.clone(), folder).await.expect("a library");
    (store, library)
}

/// Returns the articles that `text` finds, best first.
fn found(library: &Library, tenant: &str, text: &str) -> Vec<String> {
    let cards = library.knowledge().find(tenant, &question(text, &[], 10)).expect("a search");
    cards.into_iter().map(|card| card.article).collect()
}

#[core::prelude::v1::test]
fn a_draft_may_quote_more_of_the_best_article_but_not_a_whole_manual() {
    let folder = TempDir::new().expect("a folder");
    let knowledge = Knowledge::new(folder.path());
    let filler = "and so it goes on for a while with words of no use ".repeat(6);
    let section = |n: usize| format!("## Part {n}\n\nThe boiler of part {n} has a valve {filler}.\n\n");
    let manual: String = (0..30).map(section).collect();
    let short = format!(
        "## Start\n\nA radiator is bled with a key {filler}.\n\n## End\n\nA radiator is closed {filler}."
    );
    for (base, body) in [("manual", &manual), ("short", &short)] {
        let edition =
            Edition { tenant: "t".to_owned(), base: base.to_owned(), version: 1, digest: base.to_owned() };
        let articles = vec![article("a", "Heating", body)];
        knowledge.activate(knowledge.prepare(edition, || anyhow::Ok(articles)).expect("an index"));
    }
    let answers =
        |text: &str, base: &str| knowledge.answers("t", &question(text, &[base], 3), 0.0).expect("a search");
    let of_manual = answers("which valve has the boiler of part 7", "manual");
    assert_eq!((of_manual.cards.len(), of_manual.sources.len()), (1, 13));
    assert_eq!(of_manual.sources[0], of_manual.cards[0]);
    let mut ids: Vec<&str> = of_manual.sources.iter().map(|card| card.id.as_str()).collect();
    assert!(of_manual.sources.is_sorted_by(|a, b| a.score >= b.score), "{ids:?}");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 13, "each passage once");
    assert_eq!(answers("how is the radiator bled", "short").sources.len(), 2);
    let question = question("which valve has the boiler of part 7", &["manual"], 3);
    let among =
        |article: &str| knowledge.sources_among("t", &question, &[article.to_owned()]).expect("a search");
    assert_eq!(among("a"), of_manual.sources);
    assert!(among("b").is_empty());
    let nothing = answers("xylophone", "short");
    assert!(nothing.cards.is_empty() && nothing.sources.is_empty());
}

#[core::prelude::v1::test]
fn no_search_sees_half_a_version() {
    const ARTICLES: usize = 12;
    const SWAPS: u64 = 40;
    let folder = TempDir::new().expect("a folder");
    let knowledge = Knowledge::new(folder.path());
    let activate = |version: u64| {
        let edition = Edition {
            tenant: "t".to_owned(),
            base: "b".to_owned(),
            version,
            digest: format!("digest {version}"),
        };
        let articles = (0..ARTICLES).map(|at| {
            article(&format!("a{at}"), "Refund", &format!("The refund of edition {version} takes a week."))
        });
        let index = knowledge.prepare(edition, || anyhow::Ok(articles.collect())).expect("an index");
        knowledge.activate(index);
        knowledge.sweep("t", "b").expect("a sweep");
    };
    activate(1);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut newest = 0;
                loop {
                    let is_last = is_over.load(Ordering::SeqCst);
                    let cards = knowledge.find("t", &question("refund", &["b"], 100)).expect("a search");
                    assert_eq!(cards.len(), ARTICLES);
                    let version = cards[0].version;
                    assert!(version >= newest, "an older version came back");
                    newest = version;
                    let text = format!("The refund of edition {version} takes a week.");
                    assert!(cards.iter().all(|card| card.version == version && card.passage == text));
                    if is_last {
                        break;
                    }
                }
                assert_eq!(newest, SWAPS);
            });
        }
        for version in 2..=SWAPS {
            activate(version);
        }
        is_over.store(true, Ordering::SeqCst);
    });
}

#[tokio::test]
async fn changes_make_versions_and_rollback_brings_them_back() {
    let folder = TempDir::new().expect("a folder");
    let (store, library) = open(folder.path()).await;
    store.put_base("main", "tel", "Telephone", "en").await.expect("a base");
    store.put_base("other", "tel", "Not theirs", "en").await.expect("a base");
    let bags = article("bags", "Lost bags", "Report lost bags within 7 days.");
    let first = library.put_article("main", "tel", bags.clone()).await.expect("a version");
    assert_eq!((first.version, first.state.as_str(), first.passages), (1, "active", 1));
    let same = library.put_article("main", "tel", bags).await.expect("a version");
    assert_eq!(same.version, 1, "what changes nothing makes no version");
    library.put_article("main", "tel", article("fees", "Late fees", "Five euros.")).await.expect("a version");
    library.delete_article("main", "tel", "bags").await.expect("a version");
    assert_eq!(found(&library, "main", "lost bags and late fees"), ["fees"]);
    assert!(found(&library, "other", "lost bags and late fees").is_empty(), "nothing crosses tenants");

    library.activate("main", "tel", 2).await.expect("a rollback");
    let mut both = found(&library, "main", "lost bags and late fees");
    both.sort();
    assert_eq!(both, ["bags", "fees"]);
    let states: Vec<(u64, String)> = store
        .versions("main", "tel")
        .await
        .expect("versions")
        .into_iter()
        .map(|v| (v.version, v.state))
        .collect();
    let expected = [(3, "retired"), (2, "active"), (1, "retired")];
    assert_eq!(states, expected.map(|(version, state)| (version, state.to_owned())));
    assert!(library.activate("main", "tel", 9).await.is_err());
    assert!(library.put_article("main", "none", article("a", "A", "B")).await.is_err());
}

#[tokio::test]
async fn a_restart_opens_what_was_active_and_gives_up_what_was_not_finished() {
    let folder = TempDir::new().expect("a folder");
    let (store, library) = open(folder.path()).await;
    store.put_base("main", "tel", "Telephone", "en").await.expect("a base");
    library.put_article("main", "tel", article("fees", "Late fees", "Five euros.")).await.expect("a version");
    // A stop of the process in the middle of an import leaves this behind.
    let number = store.create_import("main", "tel").await.expect("an import");
    store.set_import_state("main", number, ImportState::Indexing, None, None).await.expect("a state");
    let put = vec![chatdlm::assist::library::stored(article("half", "Half", "Half a version."))];
    store
        .new_version("main", "tel", "import", &ArticleChanges { put, delete: vec!["fees".to_owned()] })
        .await
        .expect("a version");
    drop((library, store));

    let (store, library) = open(folder.path()).await;
    assert_eq!(found(&library, "main", "late fees half"), ["fees"]);
    let import = store.import("main", "i-1").await.expect("a search").expect("the import");
    assert_eq!(import.state, ImportState::Failed);
    assert_eq!(import.error.as_deref(), Some("interrupted by a restart: upload the files again"));
    assert_eq!(store.versions("main", "tel").await.expect("versions").len(), 1);
    drop((library, store));

    // A damaged index is built again from the store.
    let index = folder.path().join("index/main/tel/1");
    for entry in std::fs::read_dir(&index).expect("the index") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "idx" || extension == "store") {
            std::fs::write(&path, b"damaged").expect("a write");
        }
    }
    let (_, library) = open(folder.path()).await;
    assert_eq!(found(&library, "main", "late fees"), ["fees"]);
}

#[tokio::test]
async fn seeds_are_imported_once_and_edits_stay() {
    let folder = TempDir::new().expect("a folder");
    let (store, library) = open(folder.path()).await;
    library.seed("demo").await.expect("seeds");
    let bases = store.bases("demo").await.expect("bases");
    assert_eq!(bases.len(), 14);
    assert!(bases.iter().all(|base| base.articles == 26 && base.passages >= 26));
    library.delete_article("demo", "tel", "tel-bereavement").await.expect("a version");
    library.seed("demo").await.expect("seeds");
    let tel = store.base("demo", "tel").await.expect("a base").expect("tel");
    assert_eq!((tel.version, tel.articles), (Some(2), 25));
    let asked = question("My father died. What do I do about his phone number?", &["tel"], 3);
    let cards = library.knowledge().search("demo", &asked).expect("a search");
    assert!(cards.iter().all(|card| card.article != "tel-bereavement"));
    let small_talk = question("Oh thank you so much, that's lovely of you, bye now.", &["tel"], 3);
    assert!(library.knowledge().search("demo", &small_talk).expect("a search").is_empty());
}

/// Returns the routes with an admin's and an agent's cookie.
macro_rules! server {
    ($store:expr, $library:expr) => {
        test::init_service(
            App::new()
                .app_data(web::Data::new($store.clone()))
                .app_data(web::Data::new($library.clone()))
                .app_data(web::Data::new(Config::default()))
                .wrap(error::shape())
                .configure(error::configure)
                .configure(knowledge::routes),
        )
        .await
    };
}

async fn cookie(store: &Store, role: Role) -> Cookie<'static> {
    store.add_user("main", role.as_str(), role, None).await.expect("a user");
    let token = store.open_session("main", role.as_str(), Duration::hours(1)).await.expect("a session");
    Cookie::new(SESSION_COOKIE, token.reveal().to_owned())
}

const BOUNDARY: &str = "xxBOUNDARYxx";

fn multipart(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, content) in files {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{name}\"\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

fn upload(body: Vec<u8>, cookie: &Cookie<'static>) -> TestRequest {
    TestRequest::post()
        .uri("/v1/knowledge/tel/articles")
        .cookie(cookie.clone())
        .insert_header(("content-type", format!("multipart/form-data; boundary={BOUNDARY}")))
        .set_payload(body)
}

#[actix_web::test]
async fn an_upload_is_searched_when_its_import_is_active() {
    let folder = TempDir::new().expect("a folder");
    let (store, library) = open(folder.path()).await;
    let app = server!(store, library);
    let admin = cookie(&store, Role::Admin).await;
    let agent = cookie(&store, Role::Agent).await;
    let put = TestRequest::put().uri("/v1/knowledge/tel").cookie(admin.clone());
    let put = put.set_json(json!({"title": "Telephone", "language": "en"})).to_request();
    assert_eq!(test::call_service(&app, put).await.status(), 201);

    let body = multipart(&[
        ("fees.md", b"# Late fees\n\nLate fees are five euros."),
        ("faq.csv", b"question,answer\nWhere is my bag?,At the desk.\n"),
        ("broken.md", b"\x89PNG"),
        ("manual.pdf", b"%PDF-1.4"),
    ]);
    let answer: Value = test::call_and_read_body_json(&app, upload(body, &admin).to_request()).await;
    let import = answer["import"].as_str().expect("an id").to_owned();

    // The events end when the import is over, so this waits without a clock.
    let progress = TestRequest::get().uri(&format!("/v1/knowledge/imports/{import}/progress"));
    let events = test::call_and_read_body(&app, progress.cookie(admin.clone()).to_request()).await;
    let events = String::from_utf8(events.to_vec()).expect("text");
    let last = events.trim_end().rsplit("data: ").next().expect("an event");
    let last: Value = serde_json::from_str(last).expect("json");
    assert_eq!((&last["state"], &last["version"]), (&json!("active"), &json!(1)));
    let expected = json!([
        {"file": "fees.md", "articles": 1, "passages": 1},
        {"file": "faq.csv", "articles": 1, "passages": 1},
        {"file": "broken.md", "articles": 0, "passages": 0,
         "error": "file is named md but its content is a png image"},
        {"file": "manual.pdf", "articles": 0, "passages": 0, "error": "pdf is not supported yet"},
    ]);
    assert_eq!(last["files"], expected);
    assert_eq!(std::fs::read_dir(folder.path().join("uploads")).expect("a folder").count(), 0);

    let search = TestRequest::get().uri("/v1/knowledge/search?q=late+fees&base=tel").cookie(agent.clone());
    let answer: Value = test::call_and_read_body_json(&app, search.to_request()).await;
    assert_eq!(answer["passages"][0]["article"], "fees");
    assert_eq!(answer["passages"][0]["highlights"], json!([[0, 9]]));
    let list = TestRequest::get().uri("/v1/knowledge/tel/articles?q=bag").cookie(agent.clone());
    let answer: Value = test::call_and_read_body_json(&app, list.to_request()).await;
    assert_eq!(answer["articles"][0]["title"], "Where is my bag?");
    let bases = TestRequest::get().uri("/v1/knowledge").cookie(agent.clone());
    let answer: Value = test::call_and_read_body_json(&app, bases.to_request()).await;
    let expected = json!([{"id": "tel", "title": "Telephone", "language": "en", "version": 1, "articles": 2, "passages": 2}]);
    assert_eq!(answer["bases"], expected);

    let refused = test::call_service(&app, upload(multipart(&[("a.md", b"# A")]), &agent).to_request()).await;
    assert_eq!(refused.status(), 403);
}

#[actix_web::test]
async fn an_upload_over_the_limit_is_cut_and_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    let (store, library) = open(folder.path()).await;
    let app = server!(store, library);
    let admin = cookie(&store, Role::Admin).await;
    store.put_base("main", "tel", "Telephone", "en").await.expect("a base");
    let huge = vec![b'a'; UPLOAD_MAX_BYTES as usize + 1];
    let body = multipart(&[("fine.md", b"# A"), ("huge.txt", &huge)]);
    let announced = upload(body.clone(), &admin).to_request();
    let mut streamed = upload(body, &admin).to_request();
    streamed.headers_mut().remove(CONTENT_LENGTH);
    for request in [announced, streamed] {
        let response = test::call_service(&app, request).await;
        assert_eq!(response.status(), 413);
        let answer: Value = test::read_body_json(response).await;
        assert_eq!(answer["error"]["message"], "an upload has at most 64 MiB");
        assert_eq!(std::fs::read_dir(folder.path().join("uploads")).expect("a folder").count(), 0);
    }
    let empty = test::call_service(&app, upload(multipart(&[]), &admin).to_request()).await;
    assert_eq!(empty.status(), 400);
}
