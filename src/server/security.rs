//! What protects browsers: the security headers and the check of where a request comes from.

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::http::header;
use actix_web::http::header::HeaderMap;
use actix_web::middleware::DefaultHeaders;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest;
use sha2::Sha256;

use crate::server::error::ApiError;

/// Returns the middleware that sets the security headers of every answer.
///
/// `inline_scripts` are the base64 SHA-256 hashes of the inline scripts of the pages, which is
/// their import map: browsers take import maps only inline. A handler that sets a header itself
/// keeps its own; so answers are `no-store` unless their handler knows better.
pub fn headers(inline_scripts: &[String], is_https: bool) -> DefaultHeaders {
    let hashes: String = inline_scripts.iter().map(|hash| format!(" 'sha256-{hash}'")).collect();
    let policy = format!(
        "default-src 'none'; script-src 'self'{hashes}; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'"
    );
    let headers = DefaultHeaders::new()
        .add((header::CONTENT_SECURITY_POLICY, policy))
        .add((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .add((header::REFERRER_POLICY, "no-referrer"))
        .add(("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"))
        .add(("Cross-Origin-Opener-Policy", "same-origin"))
        .add(("Cross-Origin-Resource-Policy", "same-origin"))
        .add((header::CACHE_CONTROL, "no-store"));
    match is_https {
        true => headers.add((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000")),
        false => headers,
    }
}

/// Returns the hashes of the inline scripts of a page, for [`headers`]: the base64 SHA-256 of what
/// stands between `<script …>` and `</script>`, to the byte, as CSP Level 3 wants it.
pub fn inline_script_hashes(html: &str) -> Vec<String> {
    let mut hashes = Vec::new();
    for part in html.split("<script").skip(1) {
        let Some((attributes, rest)) = part.split_once('>') else { continue };
        let Some((script, _)) = rest.split_once("</script>") else { continue };
        if !attributes.contains("src=") {
            hashes.push(STANDARD.encode(Sha256::digest(script.as_bytes())));
        }
    }
    hashes
}

/// Refuses what a page of another site made the user's browser send.
///
/// Applies to what changes something and to websockets, which browsers open across sites with
/// cookies. A browser always sends `Origin` with those, or `Sec-Fetch-Site`; what has neither is
/// no browser and cannot be made to send a user's cookie by a foreign page.
/// `public_origin` is where a proxy serves us, if it does not keep the `Host` header.
///
/// # Errors
/// `forbidden` when the request comes from elsewhere.
pub fn check_origin(request: &HttpRequest, public_origin: Option<&str>) -> Result<(), ApiError> {
    let is_websocket = request.headers().contains_key(header::UPGRADE);
    let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
    if is_safe && !is_websocket {
        return Ok(());
    }
    let is_ours = match text(request.headers(), "origin") {
        Some(origin) => {
            Some(origin) == public_origin || host_of(origin).is_some_and(|host| is_host(request, host))
        }
        None if request.headers().contains_key(header::ORIGIN) => false,
        None => matches!(text(request.headers(), "sec-fetch-site"), None | Some("same-origin" | "none")),
    };
    match is_ours {
        true => Ok(()),
        false => Err(ApiError::Forbidden("the request comes from a page of another site".to_owned())),
    }
}

/// Returns the value if it is text.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns host and port of an origin; `null`, which sandboxed pages send, has none.
fn host_of(origin: &str) -> Option<&str> {
    origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"))
}

fn is_host(request: &HttpRequest, host: &str) -> bool {
    // HTTP/2 has no Host header; its authority stands in the URI.
    let own = text(request.headers(), "host").or_else(|| request.uri().authority().map(|own| own.as_str()));
    own.is_some_and(|own| own.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inline_scripts_are_hashed_and_to_the_byte() {
        let html =
            "<script type=\"importmap\">alert('Hello, world.');</script>\n<script src=\"/app.js\"></script>";
        // The example of MDN's page on script-src, whose hash anybody can check with openssl.
        assert_eq!(inline_script_hashes(html), ["qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng="]);
        assert!(inline_script_hashes("<script>never closed").is_empty());
    }
}
