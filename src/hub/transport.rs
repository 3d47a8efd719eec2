//! Asking a hub: addresses, redirects, the token, and trying again.
//!
//! Redirects are followed here and not by the client, since the token must reach the hub and nobody
//! else: large files are on other hosts, whose addresses are signed.

use std::io::Read;
use std::time::Duration;

use ureq::Body;
use ureq::http::Response;
use ureq::http::header;

use crate::hub::Hub;
use crate::hub::HubError;

/// The most redirects of one request.
const MOST_REDIRECTS: usize = 8;
/// How often in a row something may fail.
const MOST_FAILURES: u32 = 5;
/// How long a connection may take, and then the beginning of an answer.
const CONNECT: Duration = Duration::from_secs(30);
/// How long one request may take to its end. What has arrived of a file by then stays and the rest
/// is asked for again, so this bounds how long a connection that has gone silent is waited for.
const REQUEST: Duration = Duration::from_secs(90);
/// The longest list of files in bytes.
const LIST_MAX_BYTES: u64 = 64 << 20;

impl Hub {
    /// Makes a hub at an address, asked by whoever has the token.
    ///
    /// # Errors
    /// When the address is none.
    pub fn new(address: &str, token: Option<String>) -> Result<Hub, HubError> {
        let endpoint = address.trim_end_matches('/').to_owned();
        let is_address = ["https://", "http://"].iter().any(|scheme| {
            let rest = endpoint.strip_prefix(scheme);
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', '@', ' ']))
        });
        if !is_address {
            return Err(HubError::Address(address.to_owned()));
        }
        let config = ureq::Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(CONNECT))
            .timeout_global(Some(REQUEST))
            .user_agent(concat!("chatdlm/", env!("CARGO_PKG_VERSION")))
            .build();
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let agent = ureq::Agent::new_with_config(config);
        Ok(Hub { endpoint, token, agent, patience: Duration::from_secs(1) })
    }

    /// Returns the text at a path of the hub.
    pub(super) fn text(&self, what: &str, path: &str) -> Result<String, HubError> {
        let mut failures = 0;
        loop {
            let error = match self.try_text(what, path) {
                Ok(text) => return Ok(text),
                Err(error) => error,
            };
            failures += 1;
            self.rest(failures, error)?;
        }
    }

    fn try_text(&self, what: &str, path: &str) -> Result<String, HubError> {
        let answer = self.ask(what, path, 0)?;
        let mut text = String::new();
        let read = answer.into_body().into_reader().take(LIST_MAX_BYTES).read_to_string(&mut text);
        match read {
            Ok(_) => Ok(text),
            Err(error) => {
                Err(HubError::Unreachable { host: self.endpoint.clone(), reason: error.to_string() })
            }
        }
    }

    /// Asks for a path of the hub from a byte on; returns an answer that has a body.
    pub(super) fn ask(&self, what: &str, path: &str, from: u64) -> Result<Response<Body>, HubError> {
        let mut address = format!("{}{path}", self.endpoint);
        for _ in 0..MOST_REDIRECTS {
            let mut request = self.agent.get(&address);
            let is_hub = origin(&address) == origin(&self.endpoint);
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            // Without the rest of the address, which may be signed.
            let host = origin(&address).to_owned();
            let answer = request
                .call()
                .map_err(|error| HubError::Unreachable { host: host.clone(), reason: error.to_string() })?;
            let status = answer.status().as_u16();
            match status {
                200 | 206 | 416 => return Ok(answer),
                401 | 403 => return Err(HubError::Forbidden { what: what.to_owned(), status }),
                404 => return Err(HubError::Missing { what: what.to_owned() }),
                301 | 302 | 303 | 307 | 308 => {}
                _ => return Err(HubError::Status { host, what: what.to_owned(), status }),
            }
            let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location else {
                let reason = format!("{status} without a location");
                return Err(HubError::Answer { what: what.to_owned(), reason });
            };
            address = joined(&address, location);
        }
        Err(HubError::Answer { what: what.to_owned(), reason: "it is redirected without end".to_owned() })
    }

    /// Waits before what failed is tried again.
    ///
    /// # Errors
    /// What failed, when it failed too often or will not pass.
    pub(super) fn rest(&self, failures: u32, error: HubError) -> Result<(), HubError> {
        if failures >= MOST_FAILURES || !error.is_passing() {
            return Err(error);
        }
        tracing::debug!(failures, %error, "a request to the hub is tried again");
        std::thread::sleep(self.patience * 2u32.pow(failures.saturating_sub(1)));
        Ok(())
    }
}

/// Returns scheme, host and port of an address.
fn origin(address: &str) -> &str {
    let host = address.find("://").map_or(0, |at| at + 3);
    let end = address[host..].find(['/', '?', '#']).map_or(address.len(), |at| host + at);
    &address[..end]
}

/// Returns where a redirect leads.
fn joined(address: &str, location: &str) -> String {
    let path = address.split(['?', '#']).next().unwrap_or(address);
    match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => {
            format!("{}{location}", &address[..address.find("//").unwrap_or(0)])
        }
        _ if location.starts_with('/') => format!("{}{location}", origin(address)),
        _ => format!("{}/{location}", path.rsplit_once('/').map_or(path, |(folder, _)| folder)),
    }
}

/// Returns a text as one segment of a path.
pub(super) fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_the_hub_alone() {
        let hub = "https://hub.example:8443/mirror";
        let is_hub = |address: &str| origin(address) == origin(hub);
        assert!(is_hub("https://hub.example:8443/a/b?c#d"));
        for other in [
            "http://hub.example:8443/a",
            "https://hub.example/a",
            "https://hub.example:8443.evil.example/a",
            "https://hub.example:8443@evil.example/a",
            "https://evil.example/https://hub.example:8443/",
        ] {
            assert!(!is_hub(other), "{other}");
        }
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let from = "https://hub.example/a/b?x=/y";
        let check = |location: &str, expected: &str| assert_eq!(joined(from, location), expected);
        check("https://cdn.example/z?s=1", "https://cdn.example/z?s=1");
        check("//cdn.example/z", "https://cdn.example/z");
        check("/z", "https://hub.example/z");
        check("z", "https://hub.example/a/z");
    }

    #[test]
    fn addresses_are_checked_and_revisions_encoded() {
        assert_eq!(encoded("refs/pr/1 ä"), "refs%2Fpr%2F1%20%C3%A4");
        for address in ["", "hub.example", "ftp://hub.example", "https://", "https://a@b", "https://a?b"] {
            assert!(matches!(Hub::new(address, None), Err(HubError::Address(_))), "{address}");
        }
        let hub = Hub::new("http://127.0.0.1:1/", Some("secret".to_owned())).expect("an address");
        assert!(!format!("{hub:?}").contains("secret"));
    }
}
