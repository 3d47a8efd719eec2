//! The signature that Twilio puts on the handshake of a stream, in the header `X-Twilio-Signature`.
//!
//! It signs the URL that Twilio dialled, which a proxy may have changed since: the caller passes the
//! forms of the public URL, never what the request says.
//! Source: twilio.com/docs/usage/security, "Validating requests".

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sha1::Sha1;
use subtle::Choice;
use subtle::ConstantTimeEq;

/// Returns the signature of a request without a body: base64 of HMAC-SHA1 over the URL alone.
pub fn sign(token: &str, url: &str) -> String {
    STANDARD.encode(digest(token, url))
}

/// Returns whether `given` signs one of the URLs with this token; the time it takes does not tell which,
/// nor how much of it is right. An empty token signs nothing.
pub fn verify(token: &str, urls: &[String], given: &str) -> bool {
    let Ok(given) = STANDARD.decode(given.trim()) else { return false };
    if token.is_empty() {
        return false;
    }
    let mut is_signed = Choice::from(0);
    for url in urls {
        is_signed |= digest(token, url).as_slice().ct_eq(given.as_slice());
    }
    is_signed.into()
}

/// Returns the forms in which the carrier may have signed a public URL: as `wss` and as `https`, with
/// and without the port, with and without a slash at the end. A URL of no such scheme is the only one.
pub fn forms(public: &str) -> Vec<String> {
    let Some((scheme, rest)) = public.split_once("://") else { return vec![public.to_owned()] };
    let (schemes, default_port) = match scheme.to_ascii_lowercase().as_str() {
        "wss" | "https" => (["wss", "https"], "443"),
        "ws" | "http" => (["ws", "http"], "80"),
        _ => return vec![public.to_owned()],
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = split_port(authority);
    let with_port = format!("{host}:{}", port.unwrap_or(default_port));
    let mut paths = vec![path.to_owned()];
    if !path.contains(['?', '#']) {
        paths.push(match path.strip_suffix('/') {
            Some(shorter) => shorter.to_owned(),
            None => format!("{path}/"),
        });
    }
    let mut urls = Vec::new();
    for scheme in schemes {
        for authority in [host, &with_port] {
            for path in &paths {
                urls.push(format!("{scheme}://{authority}{path}"));
            }
        }
    }
    urls
}

/// Returns the host, in brackets where it has some, and the port if one is named.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}

fn digest(token: &str, url: &str) -> [u8; 20] {
    let keyed = Hmac::<Sha1>::new_from_slice(token.as_bytes());
    let mut mac = keyed.expect("HMAC takes a key of any length");
    mac.update(url.as_bytes());
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Twilio's documentation: the parameters of its POST request follow the URL, sorted.
    const SIGNED: &str = "https://mycompany.com/myapp.php?foo=1&bar=2\
        CallSidCA1234567890ABCDECaller+14158675309Digits1234From+14158675309To+18005551212";
    const SIGNATURE: &str = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";

    #[test]
    fn the_documented_example_is_signed_the_same_way() {
        assert_eq!(sign("12345", SIGNED), SIGNATURE);
        assert!(verify("12345", &[SIGNED.to_owned()], SIGNATURE));
    }

    #[test]
    fn any_form_of_the_url_may_be_signed() {
        let urls = forms("https://calls.example.com/v1/carriers/twilio");
        for url in [
            "wss://calls.example.com/v1/carriers/twilio",
            "wss://calls.example.com:443/v1/carriers/twilio",
            "https://calls.example.com/v1/carriers/twilio",
            "https://calls.example.com:443/v1/carriers/twilio",
            "wss://calls.example.com/v1/carriers/twilio/",
        ] {
            assert!(urls.contains(&url.to_owned()), "{url} in {urls:?}");
            assert!(verify("token", &urls, &sign("token", url)), "{url}");
        }
        assert!(!verify("token", &urls, &sign("token", "wss://calls.example.com/v1/carriers/other")));
        assert!(!verify("token", &urls, &sign("token", "ws://calls.example.com/v1/carriers/twilio")));
    }

    #[test]
    fn forged_broken_and_empty_signatures_are_refused() {
        let urls = forms("wss://a.example");
        let good = sign("token", "wss://a.example");
        assert!(verify("token", &urls, &good));
        assert!(!verify("other", &urls, &good));
        assert!(!verify("token", &[], &good));
        for bad in ["", "AAAA", "not base64!", "RSOYDt4T1cUTdK1PDd93/VVr8B8=", &good[..good.len() - 4]] {
            assert!(!verify("token", &urls, bad), "{bad}");
        }
        assert!(!verify("", &urls, &sign("", "wss://a.example")));
    }

    #[test]
    fn ports_hosts_and_queries_are_told_apart() {
        let check = |public: &str, expected: &str| {
            let urls = forms(public);
            assert!(urls.contains(&expected.to_owned()), "{expected} in {urls:?}");
        };
        check("WSS://a.example:443/x", "https://a.example/x");
        check("https://a.example:8443/x", "wss://a.example:8443/x");
        check("https://[::1]/x", "wss://[::1]:443/x");
        check("https://a.example?k=v:1", "wss://a.example:443?k=v:1");
        check("http://a.example/x", "ws://a.example:80/x");
        check("ftp://a.example", "ftp://a.example");
        check("nothing", "nothing");
        assert_eq!(forms("https://a.example/x?y=1").len(), 4);
        assert_eq!(forms("https://a.example/x").len(), 8);
    }
}
