//! HTTP and websockets: routes on one screen, one file for each resource.

pub mod auth;
mod calls;
pub mod carriers;
pub mod error;
mod frames;
mod health;
pub mod imports;
mod ingest;
pub mod knowledge;
pub mod limit;
mod openai;
mod pages;
pub mod security;
pub mod session;
mod socket;
pub mod terms;
pub mod users;
mod watch;

use std::net::TcpListener;

use actix_web::App;
use actix_web::HttpServer;
use actix_web::Resource;
use actix_web::Route;
use actix_web::dev::Server;
use actix_web::web;
use actix_web::web::get;
use actix_web::web::head;
use actix_web::web::post;

use crate::assist::Calls;
use crate::assist::library::Library;
use crate::completion::Completer;
use crate::server::session::SignIn;

/// How the server listens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it listens.
    pub address: String,
    /// How many threads answer requests; calls and the model have their own.
    pub workers: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { address: "127.0.0.1:8080".to_owned(), workers: 2 }
    }
}

/// What the handlers share.
pub struct Site {
    /// The calls and all they work with.
    pub calls: Calls,
    /// The knowledge, to be changed.
    pub library: Library,
    /// The model for other programs, if it is loaded.
    pub completer: Option<Completer>,
    /// How people and machines get in.
    pub auth: auth::Config,
    /// How carriers are let in.
    pub telephony: carriers::Config,
    /// What their connections share.
    pub lines: carriers::Shared,
    /// How the server listens.
    pub config: Config,
}

/// Serves on `listener` until the returned server is stopped.
///
/// # Errors
/// When the socket cannot be used.
pub fn serve(listener: TcpListener, site: Site) -> std::io::Result<Server> {
    let Site { calls, library, completer, auth, telephony, lines, config } = site;
    let store = web::Data::new(calls.parts().store.clone());
    let terms = web::Data::new(calls.parts().terms.clone());
    let calls = web::Data::new(calls);
    let library = web::Data::new(library);
    let completer = web::Data::new(completer);
    let inline_scripts = pages::inline_scripts();
    let is_https = auth.is_https();
    let auth = web::Data::new(auth);
    let sign_in = web::Data::new(SignIn::default());
    let telephony = web::Data::new(telephony);
    let lines = web::Data::new(lines);
    let nonces = web::Data::new(carriers::access::Nonces::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(store.clone())
            .app_data(calls.clone())
            .app_data(library.clone())
            .app_data(completer.clone())
            .app_data(terms.clone())
            .app_data(auth.clone())
            .app_data(sign_in.clone())
            .app_data(telephony.clone())
            .app_data(lines.clone())
            .app_data(nonces.clone())
            .wrap(error::shape())
            .wrap(security::headers(&inline_scripts, is_https))
            .configure(routes)
    });
    // The process handles signals, and drains calls before it stops the server.
    // A client that is gone must be noticed while its answer is still being written: whoever closes
    // the sending side wants nothing more.
    let server = server.h1_allow_half_closed(false);
    Ok(server.workers(config.workers).disable_signals().shutdown_timeout(3).listen(listener)?.run())
}

/// Returns a resource of one method: others get "method not allowed", not "not found".
fn only(path: &str, route: Route) -> Resource {
    web::resource(path).route(route)
}

/// Every route.
fn routes(config: &mut web::ServiceConfig) {
    config
        .service(only("/v1/calls/ingest", get().to(ingest::ingest)))
        .service(only("/v1/calls", get().to(calls::list)))
        .service(only("/v1/calls/{call}", get().to(calls::one)))
        .service(only("/v1/calls/{call}/events", get().to(watch::watch_call)))
        .service(only("/v1/calls/{call}/drafts", post().to(calls::draft)))
        .service(only("/v1/calls/{call}/drafts/{draft}/edits", post().to(calls::edit)))
        .service(only("/v1/calls/{call}/drafts/{draft}/judgement", post().to(calls::judge)))
        .service(only("/v1/calls/{call}/notes", post().to(calls::note)))
        .service(only("/v1/calls/{call}/flag", post().to(calls::flag)))
        .service(only("/v1/calls/{call}/cards/{card}/feedback", post().to(calls::feedback)))
        .service(only("/v1/events", get().to(watch::watch_tenant)))
        .service(web::resource("/healthz").route(get().to(health::healthz)).route(head().to(health::healthz)))
        .service(web::resource("/readyz").route(get().to(health::readyz)).route(head().to(health::readyz)))
        .service(only("/v1/node", get().to(health::node)))
        .service(only("/metrics", get().to(health::metrics)))
        .configure(carriers::routes)
        .configure(session::routes)
        .configure(users::routes)
        .configure(knowledge::routes)
        .configure(terms::routes)
        .configure(openai::routes)
        .configure(pages::routes)
        .configure(error::configure);
}
