//! Who gets in and who does not: sign-in, roles, tenants, keys, and what browsers are told.

mod common;

use actix_web::App;
use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::cookie::Cookie;
use actix_web::dev::Service;
use actix_web::dev::ServiceResponse;
use actix_web::http::header;
use actix_web::test;
use actix_web::test::TestRequest;
use actix_web::web;
use chatdlm::assist;
use chatdlm::assist::Calls;
use chatdlm::assist::terms::Terms;
use chatdlm::monitor::sensitive::SharedTermLists;
use chatdlm::server::auth;
use chatdlm::server::auth::Config;
use chatdlm::server::auth::SESSION_COOKIE;
use chatdlm::server::error;
use chatdlm::server::security;
use chatdlm::server::session;
use chatdlm::server::session::SignIn;
use chatdlm::server::terms;
use chatdlm::server::users;
use chatdlm::store::Store;
use chatdlm::store::identity::Identity;
use chatdlm::store::identity::Role;
use chatdlm::store::password;
use chatdlm::store::users::UserChange;
use chrono::Duration;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse";

/// A store with one user of each role in the tenant `main`, and one admin in `other`.
struct House {
    store: Store,
    terms: Terms,
    calls: Calls,
    folder: TempDir,
}

impl House {
    async fn new() -> House {
        let folder = TempDir::new().expect("a folder");
        let store = Store::open(&folder.path().join("test.sqlite")).await.expect("a store");
        for role in [Role::Agent, Role::Supervisor, Role::Admin] {
            store.add_user("main", role.as_str(), role, None).await.expect("a user");
        }
        store.add_user("other", "admin", Role::Admin, None).await.expect("a user");
        let calls = common::calls(folder.path(), assist::Config::default()).await;
        House { terms: Terms::new(store.clone()), calls, store, folder }
    }

    /// Returns the cookie of a session of the user.
    async fn cookie(&self, tenant: &str, name: &str) -> Cookie<'static> {
        let token = self.store.open_session(tenant, name, Duration::hours(1)).await.expect("a session");
        Cookie::new(SESSION_COOKIE, token.reveal().to_owned())
    }

    async fn set_password(&self, name: &str) {
        let password_hash = Some(password::hash(PASSWORD).expect("a hash"));
        let change = UserChange { password_hash, ..UserChange::default() };
        self.store.change_user("main", name, change).await.expect("a change");
    }
}

/// Returns the real routes, and one behind each permission.
macro_rules! server {
    ($house:expr, $config:expr) => {
        test::init_service(
            App::new()
                .app_data(web::Data::new($house.store.clone()))
                .app_data(web::Data::new($config))
                .app_data(web::Data::new(SignIn::default()))
                .app_data(web::Data::new($house.terms.clone()))
                .app_data(web::Data::new($house.calls.clone()))
                .wrap(error::shape())
                .wrap(security::headers(&["aGFzaA==".to_owned()], false))
                .configure(error::configure)
                .configure(session::routes)
                .configure(users::routes)
                .configure(terms::routes)
                .route("/for/identity", web::get().to(async |it: Identity| it.name))
                .route("/for/person", web::get().to(async |it: auth::Person| it.name.clone()))
                .route("/for/agent", web::get().to(async |it: auth::Agent| it.name.clone()))
                .route("/for/supervisor", web::get().to(async |it: auth::Supervisor| it.name.clone()))
                .route("/for/admin", web::get().to(async |it: auth::Admin| it.name.clone()))
                .route("/for/ingest", web::get().to(async |it: auth::Ingest| it.name.clone()))
                .route(
                    "/for/cached",
                    web::get().to(async || {
                        HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "max-age=60")).finish()
                    }),
                ),
        )
        .await
    };
    ($house:expr) => {
        server!($house, Config::default())
    };
}

/// Returns status and JSON of the answer to a [`TestRequest`].
macro_rules! send {
    ($app:expr, $request:expr) => {
        answer($app, $request.to_request())
    };
}

async fn answer<S, R, B>(app: &S, request: R) -> (u16, Value)
where
    S: Service<R, Response = ServiceResponse<B>, Error = actix_web::Error>,
    B: MessageBody,
{
    let response = test::call_service(app, request).await;
    let status = response.status().as_u16();
    let body = test::read_body(response).await;
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// Returns the session cookie that an answer sets.
fn cookie_of<B>(response: &ServiceResponse<B>) -> Cookie<'static> {
    let cookie = response.response().cookies().find(|cookie| cookie.name() == SESSION_COOKIE);
    cookie.expect("a session cookie").into_owned()
}

fn sign_in(name: &str, password: &str) -> TestRequest {
    TestRequest::post().uri("/v1/session").set_json(json!({ "name": name, "password": password }))
}

#[actix_web::test]
async fn each_role_passes_its_own_doors_and_no_others() {
    let house = House::new().await;
    let doors = ["identity", "person", "agent", "supervisor", "admin", "ingest"];
    let matrix = [
        (Role::Agent, [true, true, true, false, false, false]),
        (Role::Supervisor, [true, true, true, true, false, false]),
        (Role::Admin, [true, true, false, false, true, false]),
        (Role::Ingest, [true, false, false, false, false, true]),
    ];
    let app = server!(house);
    for (role, may) in matrix {
        let (_, key) = house.store.create_key("main", "machine", role).await.expect("a key");
        for (door, may) in doors.into_iter().zip(may) {
            let uri = format!("/for/{door}");
            let request = TestRequest::get().uri(&uri);
            let bearer = (header::AUTHORIZATION, format!("Bearer {}", key.reveal()));
            let expected = if may { 200 } else { 403 };
            assert_eq!(
                send!(&app, request.insert_header(bearer)).await.0,
                expected,
                "key of {role} at {door}"
            );
            if role != Role::Ingest {
                let request = TestRequest::get().uri(&uri).cookie(house.cookie("main", role.as_str()).await);
                assert_eq!(send!(&app, request).await.0, expected, "user {role} at {door}");
            }
            let (status, body) = send!(&app, TestRequest::get().uri(&uri)).await;
            assert_eq!(
                (status, body["error"]["code"].as_str()),
                (401, Some("unauthorized")),
                "nobody at {door}"
            );
        }
    }
}

#[actix_web::test]
async fn in_the_demo_everybody_known_may_play_the_customer() {
    let house = House::new().await;
    let app = server!(house, Config { is_demo: true, ..Config::default() });
    let request = TestRequest::get().uri("/for/ingest").cookie(house.cookie("main", "agent").await);
    assert_eq!(send!(&app, request).await.0, 200);
    assert_eq!(send!(&app, TestRequest::get().uri("/for/ingest")).await.0, 401);
}

#[actix_web::test]
async fn a_password_opens_a_session_that_sign_out_ends() {
    let house = House::new().await;
    house.set_password("agent").await;
    let app = server!(house);
    let response = test::call_service(&app, sign_in("agent", PASSWORD).to_request()).await;
    assert_eq!(response.status(), 200);
    let cookie = cookie_of(&response);
    assert_eq!(cookie.http_only(), Some(true));
    assert_eq!(cookie.same_site(), Some(actix_web::cookie::SameSite::Strict));
    assert_eq!(cookie.path(), Some("/"));
    let who: Value = test::read_body_json(response).await;
    let nothing = json!({"model": false, "emotions": false, "drafts": false});
    let agent =
        json!({"name": "agent", "role": "agent", "tenant": "main", "demo": false, "assistant": nothing});
    assert_eq!(who, agent);

    let me = || TestRequest::get().uri("/v1/session").cookie(cookie.clone());
    assert_eq!(send!(&app, me()).await, (200, who));
    assert_eq!(send!(&app, TestRequest::delete().uri("/v1/session").cookie(cookie.clone())).await.0, 204);
    assert_eq!(send!(&app, me()).await.0, 401);
}

#[actix_web::test]
async fn wrong_names_and_wrong_passwords_get_the_same_answer() {
    let house = House::new().await;
    house.set_password("agent").await;
    let app = server!(house);
    let expected = send!(&app, sign_in("agent", "wrong password")).await;
    assert_eq!(expected.0, 401);
    for (name, password) in
        [("nobody", PASSWORD), ("supervisor", PASSWORD), ("agent", ""), ("", ""), ("agent/", "x")]
    {
        assert_eq!(send!(&app, sign_in(name, password)).await, expected, "{name}");
    }
}

#[actix_web::test]
async fn guessing_at_one_name_is_stopped_and_others_still_get_in() {
    let house = House::new().await;
    house.set_password("agent").await;
    house.set_password("supervisor").await;
    let app = server!(house);
    for _ in 0..10 {
        assert_eq!(send!(&app, sign_in("agent", "wrong password")).await.0, 401);
    }
    let response = test::call_service(&app, sign_in("agent", PASSWORD).to_request()).await;
    assert_eq!(response.status(), 429);
    let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait: u64 = wait.expect("Retry-After").parse().expect("seconds");
    assert!((1..=30).contains(&wait), "{wait}");
    assert_eq!(send!(&app, sign_in("supervisor", PASSWORD)).await.0, 200);
}

#[actix_web::test]
async fn guessing_at_many_names_from_one_address_is_stopped() {
    let house = House::new().await;
    let app = server!(house);
    // Passwords that are over the limit are refused before they are hashed: this is quick.
    let long = "x".repeat(password::PASSWORD_MAX_BYTES + 1);
    for attempt in 0..50 {
        let request = sign_in(&format!("user{attempt}"), &long).peer_addr(([192, 0, 2, 1], 1).into());
        assert_eq!(send!(&app, request).await.0, 401);
    }
    let from = |address| sign_in("user", &long).peer_addr((address, 1).into());
    assert_eq!(send!(&app, from([192, 0, 2, 1])).await.0, 429);
    assert_eq!(send!(&app, from([192, 0, 2, 2])).await.0, 401);
}

#[actix_web::test]
async fn a_link_lets_in_once() {
    let house = House::new().await;
    let token = house.store.create_link("main", "agent", Duration::hours(1)).await.expect("a link");
    let app = server!(house);
    let follow = || TestRequest::get().uri(&users::link_path(&token)).to_request();
    let response = test::call_service(&app, follow()).await;
    assert_eq!(response.status(), 303);
    assert_eq!(response.headers().get(header::LOCATION).expect("a place"), "/");
    let request = TestRequest::get().uri("/v1/session").cookie(cookie_of(&response));
    assert_eq!(send!(&app, request).await.1["name"], "agent");

    let response = test::call_service(&app, follow()).await;
    assert_eq!(response.status(), 401);
    assert_eq!(response.response().cookies().count(), 0);
    // A person gets the sign-in page, which says so.
    let request =
        TestRequest::get().uri(&users::link_path(&token)).insert_header((header::ACCEPT, "text/html"));
    let response = test::call_service(&app, request.to_request()).await;
    assert_eq!(response.headers().get(header::LOCATION).expect("a place"), "/?link=used");
    assert_eq!(response.response().cookies().count(), 0);
}

#[actix_web::test]
async fn of_many_at_once_one_uses_a_link() {
    let house = House::new().await;
    let token = house.store.create_link("main", "agent", Duration::hours(1)).await.expect("a link");
    let tries = (0..8).map(|_| house.store.use_link(&token));
    let used = futures_util::future::try_join_all(tries).await.expect("answers");
    assert_eq!(used.iter().filter(|name| name.is_some()).count(), 1);
}

#[actix_web::test]
async fn expired_replaced_and_disabled_links_let_nobody_in() {
    let house = House::new().await;
    let store = &house.store;
    let app = server!(house);
    let expired = store.create_link("main", "agent", Duration::zero()).await.expect("a link");
    let replaced = store.create_link("main", "supervisor", Duration::hours(1)).await.expect("a link");
    store.create_link("main", "supervisor", Duration::hours(1)).await.expect("a link");
    let disabled = store.create_link("other", "admin", Duration::hours(1)).await.expect("a link");
    store.add_user("other", "second", Role::Admin, None).await.expect("a user");
    let change = UserChange { disabled: Some(true), ..UserChange::default() };
    store.change_user("other", "admin", change).await.expect("a change");
    for token in [expired, replaced, disabled] {
        assert_eq!(send!(&app, TestRequest::get().uri(&users::link_path(&token))).await.0, 401);
    }
}

#[actix_web::test]
async fn a_session_ends_by_itself_and_with_its_user() {
    let house = House::new().await;
    house.set_password("agent").await;
    let app = server!(house);
    let expired = house.store.open_session("main", "agent", Duration::zero()).await.expect("a session");
    let request =
        TestRequest::get().uri("/for/identity").cookie(Cookie::new(SESSION_COOKIE, expired.reveal()));
    assert_eq!(send!(&app, request).await.0, 401);

    let cookie = house.cookie("main", "agent").await;
    let visit = || TestRequest::get().uri("/for/identity").cookie(cookie.clone());
    assert_eq!(send!(&app, visit()).await.0, 200);
    let admin = house.cookie("main", "admin").await;
    let disable = |disabled: bool| {
        TestRequest::patch()
            .uri("/v1/users/agent")
            .cookie(admin.clone())
            .set_json(json!({ "disabled": disabled }))
    };
    let (status, user) = send!(&app, disable(true)).await;
    assert_eq!((status, &user["disabled"]), (200, &json!(true)));
    assert_eq!(send!(&app, visit()).await.0, 401);
    assert_eq!(send!(&app, sign_in("agent", PASSWORD)).await.0, 401);
    assert_eq!(
        send!(&app, TestRequest::post().uri("/v1/users/agent/link").cookie(admin.clone())).await.0,
        409
    );
    assert_eq!(send!(&app, disable(false)).await.0, 200);
    assert_eq!(send!(&app, visit()).await.0, 401, "the old session stays dead");
    assert_eq!(send!(&app, sign_in("agent", PASSWORD)).await.0, 200);
}

#[actix_web::test]
async fn a_long_socket_learns_that_its_user_or_key_is_gone() {
    let house = House::new().await;
    let store = &house.store;
    let token = store.open_session("main", "agent", Duration::hours(1)).await.expect("a session");
    let user = store.session_identity(&token).await.expect("an answer").expect("an identity");
    let (about, key) = store.create_key("main", "pbx", Role::Ingest).await.expect("a key");
    let machine = store.key_identity(&key).await.expect("an answer").expect("an identity");
    assert!(store.still_stands(&user).await.expect("an answer"));
    assert!(store.still_stands(&machine).await.expect("an answer"));
    let change = UserChange { role: Some(Role::Supervisor), ..UserChange::default() };
    store.change_user("main", "agent", change).await.expect("a change");
    store.revoke_key("main", &about.id).await.expect("revoked");
    assert!(!store.still_stands(&user).await.expect("an answer"));
    assert!(!store.still_stands(&machine).await.expect("an answer"));
}

#[actix_web::test]
async fn a_key_is_shown_once_and_is_dead_when_revoked() {
    let house = House::new().await;
    let app = server!(house);
    let admin = house.cookie("main", "admin").await;
    let create = TestRequest::post().uri("/v1/keys").cookie(admin.clone());
    let (status, created) = send!(&app, create.set_json(json!({"name": "pbx", "role": "ingest"}))).await;
    assert_eq!(status, 201);
    let (id, key) = (created["id"].as_str().expect("an id"), created["key"].as_str().expect("a key"));
    let bearer = (header::AUTHORIZATION, format!("Bearer {key}"));
    let feed = || TestRequest::get().uri("/for/ingest").insert_header(bearer.clone());
    assert_eq!(send!(&app, feed()).await.0, 200);

    let (_, listed) = send!(&app, TestRequest::get().uri("/v1/keys").cookie(admin.clone())).await;
    assert!(!listed.to_string().contains(key));
    assert_eq!(listed["keys"][0]["name"], "pbx");
    assert!(listed["keys"][0]["last_used_at"].is_string());

    let revoke = || TestRequest::delete().uri(&format!("/v1/keys/{id}"));
    let stranger = house.cookie("other", "admin").await;
    assert_eq!(send!(&app, revoke().cookie(stranger)).await.0, 404, "another tenant");
    assert_eq!(send!(&app, feed()).await.0, 200);
    assert_eq!(send!(&app, revoke().cookie(admin.clone())).await.0, 204);
    assert_eq!(send!(&app, feed()).await.0, 401);
    // A wrong key is refused even beside a good cookie.
    assert_eq!(send!(&app, feed().cookie(admin)).await.0, 401);
}

#[actix_web::test]
async fn nothing_crosses_the_tenant() {
    let house = House::new().await;
    let app = server!(house);
    let stranger = house.cookie("other", "admin").await;
    let (_, listed) = send!(&app, TestRequest::get().uri("/v1/users").cookie(stranger.clone())).await;
    assert_eq!(listed["users"].as_array().map(Vec::len), Some(1));
    let change = TestRequest::patch().uri("/v1/users/agent").cookie(stranger.clone());
    assert_eq!(send!(&app, change.set_json(json!({"role": "admin"}))).await.0, 404);
    let link = TestRequest::post().uri("/v1/users/agent/link").cookie(stranger);
    assert_eq!(send!(&app, link).await.0, 404);
    assert_eq!(house.store.user("main", "agent").await.expect("a user").role, Role::Agent);
}

#[actix_web::test]
async fn admins_add_users_and_bad_input_is_named() {
    let house = House::new().await;
    let app = server!(house);
    let admin = house.cookie("main", "admin").await;
    let add =
        |body: Value| send!(&app, TestRequest::post().uri("/v1/users").cookie(admin.clone()).set_json(body));
    let (status, user) = add(json!({"name": "bea", "role": "agent"})).await;
    assert_eq!(status, 201);
    let link = user["link"].as_str().expect("a link");
    assert_eq!(send!(&app, TestRequest::get().uri(link)).await.0, 303);
    let (status, user) = add(json!({"name": "cleo", "role": "agent", "password": PASSWORD})).await;
    assert_eq!((status, &user["has_password"], &user["link"]), (201, &json!(true), &Value::Null));
    assert_eq!(send!(&app, sign_in("cleo", PASSWORD)).await.0, 200);

    for (body, status, says) in [
        (json!({"name": "bea", "role": "agent"}), 409, "bea"),
        (json!({"name": "b/ea", "role": "agent"}), 400, "name"),
        (json!({"name": "x".repeat(65), "role": "agent"}), 400, "name"),
        (json!({"name": "dora", "role": "boss"}), 400, "boss"),
        (json!({"name": "dora", "role": "agent", "password": "short"}), 400, "password"),
        (json!({"name": "dora", "role": "agent", "admin": true}), 400, "admin"),
    ] {
        let (found, answer) = add(body.clone()).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(found == status && message.contains(says), "{body}: {found} {message}");
    }
    let agent = house.cookie("main", "agent").await;
    let request =
        TestRequest::post().uri("/v1/users").cookie(agent).set_json(json!({"name": "me2", "role": "admin"}));
    assert_eq!(send!(&app, request).await.0, 403);
}

#[actix_web::test]
async fn the_last_admin_stays() {
    let house = House::new().await;
    let app = server!(house);
    let admin = house.cookie("main", "admin").await;
    for change in [json!({"disabled": true}), json!({"role": "agent"})] {
        let request = TestRequest::patch().uri("/v1/users/admin").cookie(admin.clone()).set_json(change);
        assert_eq!(send!(&app, request).await.0, 409);
    }
    assert_eq!(send!(&app, TestRequest::get().uri("/for/admin").cookie(admin)).await.0, 200);
}

#[actix_web::test]
async fn a_foreign_page_can_change_nothing_and_open_no_socket() {
    let house = House::new().await;
    house.set_password("agent").await;
    let app = server!(house);
    let admin = house.cookie("main", "admin").await;
    let change = || {
        TestRequest::patch()
            .uri("/v1/users/agent")
            .insert_header((header::HOST, "assist.example:8443"))
            .cookie(admin.clone())
            .set_json(json!({}))
    };
    let socket = || {
        TestRequest::get()
            .uri("/for/admin")
            .insert_header((header::HOST, "assist.example:8443"))
            .insert_header((header::UPGRADE, "websocket"))
            .insert_header((header::CONNECTION, "upgrade"))
            .cookie(admin.clone())
    };
    for (name, value, status) in [
        ("origin", "https://assist.example:8443", 200),
        ("origin", "https://evil.example", 403),
        ("origin", "https://assist.example", 403),
        ("origin", "https://assist.example:8443.evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "same-origin", 200),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("x-nothing", "from a program", 200),
    ] {
        assert_eq!(
            send!(&app, change().insert_header((name, value))).await.0,
            status,
            "change, {name}: {value}"
        );
        assert_eq!(
            send!(&app, socket().insert_header((name, value))).await.0,
            status,
            "socket, {name}: {value}"
        );
    }
    let request = sign_in("agent", PASSWORD).insert_header((header::ORIGIN, "https://evil.example"));
    assert_eq!(send!(&app, request).await.0, 403, "sign-in");
}

#[actix_web::test]
async fn behind_a_proxy_its_origin_counts_and_cookies_are_secure() {
    let house = House::new().await;
    let origin = "https://assist.example".to_owned();
    let app = server!(house, Config { public_origin: Some(origin.clone()), ..Config::default() });
    let request = TestRequest::delete()
        .uri("/v1/session")
        .insert_header((header::HOST, "10.0.0.7:8080"))
        .insert_header((header::ORIGIN, origin));
    let response = test::call_service(&app, request.to_request()).await;
    assert_eq!(response.status(), 204);
    assert_eq!(cookie_of(&response).secure(), Some(true));
}

#[actix_web::test]
async fn every_answer_carries_the_security_headers() {
    let house = House::new().await;
    let app = server!(house);
    for uri in ["/v1/session", "/nowhere", "/for/cached"] {
        let response = test::call_service(&app, TestRequest::get().uri(uri).to_request()).await;
        let text = |name: &str| {
            let value = response.headers().get(name).unwrap_or_else(|| panic!("{uri} has no {name}"));
            value.to_str().expect("text").to_owned()
        };
        let policy = text("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self' 'sha256-aGFzaA=='; "), "{policy}");
        assert!(policy.ends_with("frame-ancestors 'none'"), "{policy}");
        assert_eq!(text("x-content-type-options"), "nosniff");
        assert_eq!(text("referrer-policy"), "no-referrer");
        assert!(text("permissions-policy").contains("camera=()"));
        let cache = if uri == "/for/cached" { "max-age=60" } else { "no-store" };
        assert_eq!(text("cache-control"), cache, "{uri}");
    }
}

#[actix_web::test]
async fn the_first_start_makes_one_admin_and_the_demo_three_users() {
    let house = House::new().await;
    let store = &house.store;
    assert!(store.ensure_admin("main").await.expect("an answer").is_none());
    let token = store.ensure_admin("new").await.expect("an answer").expect("a link");
    assert!(store.ensure_admin("new").await.expect("an answer").is_none());
    let app = server!(house);
    assert_eq!(send!(&app, TestRequest::get().uri(&users::link_path(&token))).await.0, 303);

    // A second start hands out new links and a new key; the key before is of no use.
    let before = store.open_demo("demo").await.expect("a demo");
    let demo = store.open_demo("demo").await.expect("a demo");
    for (_, _, token) in &demo.links {
        assert_eq!(send!(&app, TestRequest::get().uri(&users::link_path(token))).await.0, 303);
    }
    assert!(store.key_identity(&before.ingest_key).await.expect("an answer").is_none());
    let machine = store.key_identity(&demo.ingest_key).await.expect("an answer").expect("an identity");
    assert_eq!((machine.tenant.as_str(), machine.role), ("demo", Role::Ingest));
}

#[actix_web::test]
async fn no_secret_is_in_the_database_file() {
    let house = House::new().await;
    house.set_password("agent").await;
    let store = &house.store;
    let link = store.create_link("main", "agent", Duration::hours(1)).await.expect("a link");
    let session = store.open_session("main", "agent", Duration::hours(1)).await.expect("a session");
    let (_, key) = store.create_key("main", "pbx", Role::Ingest).await.expect("a key");
    let mut stored = Vec::new();
    for entry in std::fs::read_dir(house.folder.path()).expect("the folder") {
        stored.extend(std::fs::read(entry.expect("an entry").path()).expect("a file"));
    }
    let contains = |text: &str| stored.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(contains(&key.hash()), "the test reads the right files");
    for secret in [PASSWORD, link.reveal(), session.reveal(), key.reveal()] {
        assert!(!contains(secret));
    }
}

#[actix_web::test]
async fn new_terms_are_used_by_running_calls_at_once_and_by_no_other_tenant() {
    let house = House::new().await;
    let app = server!(house);
    let admin = house.cookie("main", "admin").await;
    let running = house.terms.of("main").await;
    let elsewhere = house.terms.of("other").await;
    let text = "the Zanzibar clause and my lawyer";
    let categories = |lists: &SharedTermLists| -> Vec<String> {
        lists.load().find(text).into_iter().map(|found| found.category).collect()
    };
    assert_eq!(categories(&running), ["legal"], "the seed's terms");

    let lists = json!([{
        "category": "secret_deal", "terms": ["zanzibar clause"], "match": "word", "severity": "critical", "action": "both"
    }]);
    let put = |cookie: &Cookie<'static>, lists: Value| {
        TestRequest::put().uri("/v1/terms").cookie(cookie.clone()).set_json(lists)
    };
    assert_eq!(send!(&app, put(&admin, lists.clone())).await, (200, lists.clone()));
    assert_eq!(categories(&running), ["secret_deal"]);
    assert_eq!(categories(&elsewhere), ["legal"]);
    let show = || TestRequest::get().uri("/v1/terms").cookie(admin.clone());
    assert_eq!(send!(&app, show()).await, (200, lists.clone()));
    // A server that starts again has them as well.
    assert_eq!(categories(&Terms::new(house.store.clone()).of("main").await), ["secret_deal"]);

    let mut wrong = lists.clone();
    wrong[0]["match"] = json!("regex");
    wrong[0]["terms"] = json!(["(unclosed"]);
    let (status, answer) = send!(&app, put(&admin, wrong)).await;
    assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("invalid")), "{answer}");
    assert_eq!(send!(&app, put(&admin, json!([{"category": "x"}]))).await.0, 400);
    assert_eq!(send!(&app, put(&house.cookie("main", "agent").await, json!([]))).await.0, 403);
    assert_eq!(send!(&app, show()).await, (200, lists));
    assert_eq!(categories(&running), ["secret_deal"]);

    let late = put(&admin, json!([])).insert_header(("if-match", "\"0\""));
    assert_eq!(send!(&app, late).await.0, 412, "somebody else put lists meanwhile");
    assert_eq!(categories(&running), ["secret_deal"]);
    let mine = put(&admin, json!([])).insert_header(("if-match", "\"1\""));
    assert_eq!(send!(&app, mine).await.0, 200, "no terms are terms too");
    assert!(categories(&running).is_empty());
}
