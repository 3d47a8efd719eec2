//! The pages: one shell for every page and the assets beside it, embedded in the binary.

use std::borrow::Cow;

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::Resource;
use actix_web::Route;
use actix_web::http::header;
use actix_web::web;
use rust_embed::EmbeddedFile;
use rust_embed::RustEmbed;

use crate::server::error::ApiError;
use crate::server::security::inline_script_hashes;

/// What `web/` holds.
#[derive(RustEmbed)]
#[folder = "web/"]
struct Web;

/// What `web/` holds for developers only.
const PRIVATE: [&str; 2] = ["test/", "package.json"];

/// The shell of every page.
const SHELL: &str = "index.html";
/// The description of the interface for programs.
const OPENAPI: &str = "openapi.json";
/// The paths of pages; what is on them is the script's concern.
const PAGES: [&str; 7] = ["/", "/calls/{call}", "/board", "/knowledge", "/terms", "/users", "/try"];

/// Adds the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    for page in PAGES {
        config.service(readable(page, web::get().to(shell), web::head().to(shell)));
    }
    config.service(readable("/openapi.json", web::get().to(openapi), web::head().to(openapi)));
    config.service(readable("/assets/{path:.+}", web::get().to(asset), web::head().to(asset)));
}

fn readable(path: &str, get: Route, head: Route) -> Resource {
    web::resource(path).route(get).route(head)
}

/// Returns the hashes of the shell's inline scripts, for the security policy.
pub(super) fn inline_scripts() -> Vec<String> {
    let shell = Web::get(SHELL).map(|file| String::from_utf8_lossy(&file.data).into_owned());
    shell.map(|html| inline_script_hashes(&html)).unwrap_or_default()
}

async fn shell(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    serve(&request, SHELL)
}

async fn openapi(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    serve(&request, OPENAPI)
}

async fn asset(request: HttpRequest, path: web::Path<String>) -> Result<HttpResponse, ApiError> {
    serve(&request, &path)
}

/// Answers with an embedded file, or with "not modified" if the browser has it. Names hold no
/// version, so browsers ask each time.
fn serve(request: &HttpRequest, path: &str) -> Result<HttpResponse, ApiError> {
    let is_private = PRIVATE.iter().any(|private| path.starts_with(private));
    let file = Web::get(path).filter(|_| !is_private);
    let file = file.ok_or_else(|| ApiError::not_found(format!("file {path}")))?;
    let tag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..16]));
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag));
    let mut response = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, tag)).insert_header((header::CACHE_CONTROL, "no-cache"));
    if is_known {
        return Ok(response.finish());
    }
    Ok(response.content_type(content_type(path)).body(bytes(file)))
}

fn bytes(file: EmbeddedFile) -> web::Bytes {
    match file.data {
        Cow::Borrowed(data) => web::Bytes::from_static(data),
        Cow::Owned(data) => web::Bytes::from(data),
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use actix_web::App;
    use actix_web::http::StatusCode;
    use actix_web::test;

    use super::*;

    #[actix_web::test]
    async fn pages_and_assets_have_their_types_and_are_not_sent_twice() {
        let app = test::init_service(App::new().configure(routes)).await;
        for (path, kind) in [
            ("/", "text/html; charset=utf-8"),
            ("/calls/c-1", "text/html; charset=utf-8"),
            ("/assets/app.js", "text/javascript; charset=utf-8"),
            ("/assets/style/base.css", "text/css; charset=utf-8"),
            ("/assets/icon.svg", "image/svg+xml"),
        ] {
            let response = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            let header_of = |name| response.headers().get(name).cloned().unwrap();
            assert_eq!(header_of(header::CONTENT_TYPE), kind, "{path}");
            let tag = header_of(header::ETAG);
            let again = test::TestRequest::get().uri(path).insert_header((header::IF_NONE_MATCH, tag));
            let response = test::call_service(&app, again.to_request()).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{path}");
        }
    }

    #[actix_web::test]
    async fn only_embedded_files_are_served() {
        let app = test::init_service(App::new().configure(routes)).await;
        for path in ["/assets/../Cargo.toml", "/assets/package.json", "/assets/no.js"] {
            let response = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[std::prelude::v1::test]
    fn the_import_map_is_the_only_inline_script() {
        assert_eq!(inline_scripts().len(), 1);
    }
}
