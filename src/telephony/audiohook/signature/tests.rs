//! Signatures of requests: what verifies, every tampering that does not, nonces that count once.

use super::*;

const TARGET: &str = "/v1/carriers/audiohook?tenant=demo";
const AUTHORITY: &str = "audiohook.example.com";
const KEY: &str = "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";
const NONCE: &str = "uD+OyZEg0lP2hQ5rY7sWkA==";
const SECRET: &[u8] = b"a secret of the client that nobody knows";
const NOW: u64 = 1_795_456_304;

const HEADERS: [(&str, &str); 4] = [
    ("Audiohook-Organization-Id", "d7934305-0972-4844-938e-9060eef73d05"),
    ("Audiohook-Session-Id", "30b0e395-84d3-4570-ac13-9a62d8f514c0"),
    ("Audiohook-Correlation-Id", "e160e428-53e2-487c-977d-96989bf5c99d"),
    ("X-API-KEY", KEY),
];

const SIGNING: SigningKey<'_> =
    SigningKey { key_id: KEY, secret: SECRET, nonce: NONCE, created: NOW, expires: NOW + 30 };

fn secret_of(key: &str) -> Option<Vec<u8>> {
    (key == KEY).then(|| SECRET.to_vec())
}

fn signed_with(key: &SigningKey<'_>) -> Signed {
    sign(&Request { target: TARGET, authority: AUTHORITY, headers: &HEADERS }, key).unwrap()
}

fn verify_with(
    headers: &[(&str, &str)],
    authority: &str,
    signed: &Signed,
    now: u64,
) -> Result<Verified, SignatureError> {
    let mut all = headers.to_vec();
    all.push(("Signature-Input", &signed.signature_input));
    all.push(("Signature", &signed.signature));
    verify(&Request { target: TARGET, authority, headers: &all }, secret_of, now)
}

fn check(key: &SigningKey<'_>, now: u64, expected: Result<(), SignatureError>) {
    let result = verify_with(&HEADERS, AUTHORITY, &signed_with(key), now);
    assert_eq!(result.map(|_| ()), expected, "{key:?} at {now}");
}

#[test]
fn a_signed_request_is_verified_and_has_the_form_of_the_real_header() {
    let signed = signed_with(&SIGNING);
    let form = format!(
        "sig1=(\"@request-target\" \"@authority\" \"audiohook-organization-id\" \"audiohook-session-id\" \
         \"audiohook-correlation-id\" \"x-api-key\");keyid=\"{KEY}\";nonce=\"{NONCE}\";alg=\"hmac-sha256\";\
         created={NOW};expires={}",
        NOW + 30
    );
    assert_eq!(signed.signature_input, form);
    let verified = verify_with(&HEADERS, AUTHORITY, &signed, NOW).unwrap();
    let expected = Verified { key_id: KEY.to_owned(), nonce: NONCE.to_owned(), expires: NOW + 30 };
    assert_eq!(verified, expected);
}

/// The example of the vendor's documentation: its key, its nonce and its signature.
#[test]
fn the_documented_example_is_verified() {
    let input = format!(
        "sig1=(\"@request-target\" \"@authority\" \"audiohook-organization-id\" \"audiohook-session-id\" \
         \"audiohook-correlation-id\" \"x-api-key\");keyid=\"{KEY}\";nonce=\"VGhpc0lzQVVuaXF1ZU5vbmNl\";\
         alg=\"hmac-sha256\";created=1641013200;expires=3282026430"
    );
    let mut headers = HEADERS.to_vec();
    headers.push(("signature", "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:"));
    headers.push(("signature-input", &input));
    let request = Request { target: "/api/v1/voicebiometrics/ws", authority: AUTHORITY, headers: &headers };
    let secret = |_: &str| Some(b"MySuperSecretKeyTellNo-1!2@3#4$5".to_vec());
    let verified = verify(&request, secret, 1_641_013_205).unwrap();
    assert_eq!(verified.nonce, "VGhpc0lzQVVuaXF1ZU5vbmNl");
}

#[test]
fn the_times_are_kept() {
    let at = |created: u64, expires: u64| SigningKey { created, expires, ..SIGNING };
    check(&at(NOW + 3, NOW + 33), NOW, Ok(()));
    check(&at(NOW + 4, NOW + 34), NOW, Err(SignatureError::InTheFuture));
    check(&at(NOW - 13, NOW + 17), NOW, Ok(()));
    check(&at(NOW - 14, NOW + 16), NOW, Err(SignatureError::Expired));
    check(&at(NOW - 5, NOW), NOW, Ok(()));
    check(&at(NOW - 5, NOW - 1), NOW, Err(SignatureError::Expired));
    check(&at(0, 0), u64::MAX, Err(SignatureError::Expired));
    let too_large = SigningKey { created: u64::MAX, ..SIGNING };
    let request = Request { target: TARGET, authority: AUTHORITY, headers: &HEADERS };
    assert!(sign(&request, &too_large).is_err());
}

#[test]
fn other_keys_nonces_and_secrets_are_refused() {
    check(&SigningKey { secret: b"another", ..SIGNING }, NOW, Err(SignatureError::Wrong));
    check(&SigningKey { secret: b"", ..SIGNING }, NOW, Err(SignatureError::Wrong));
    check(&SigningKey { nonce: "short", ..SIGNING }, NOW, Err(SignatureError::WeakNonce));
    check(&SigningKey { nonce: "123456789012345678901", ..SIGNING }, NOW, Err(SignatureError::WeakNonce));
    check(&SigningKey { nonce: "1234567890123456789012", ..SIGNING }, NOW, Ok(()));
    check(&SigningKey { key_id: "somebody else", ..SIGNING }, NOW, Err(SignatureError::OtherKey));
}

#[test]
fn an_unknown_key_is_refused_even_when_it_signs_with_the_stand_in() {
    let signed = signed_with(&SigningKey { secret: &NOBODY, ..SIGNING });
    let mut headers = HEADERS.to_vec();
    headers.push(("Signature-Input", &signed.signature_input));
    headers.push(("Signature", &signed.signature));
    let request = Request { target: TARGET, authority: AUTHORITY, headers: &headers };
    assert_eq!(verify(&request, |_| None, NOW), Err(SignatureError::Wrong));
    assert_eq!(verify(&request, |_| Some(Vec::new()), NOW), Err(SignatureError::Wrong));
}

#[test]
fn every_change_of_the_request_is_found() {
    let signed = signed_with(&SIGNING);
    for changed in 0..HEADERS.len() {
        let mut headers = HEADERS.to_vec();
        headers[changed].1 = "11111111-1111-4111-8111-111111111111";
        assert!(verify_with(&headers, AUTHORITY, &signed, NOW).is_err(), "{}", headers[changed].0);
        let mut twice = HEADERS.to_vec();
        twice.push(HEADERS[changed]);
        assert!(verify_with(&twice, AUTHORITY, &signed, NOW).is_err(), "{} twice", HEADERS[changed].0);
        let mut missing = HEADERS.to_vec();
        missing.remove(changed);
        assert!(verify_with(&missing, AUTHORITY, &signed, NOW).is_err(), "no {}", HEADERS[changed].0);
    }
    assert_eq!(verify_with(&HEADERS, "evil.example.com", &signed, NOW), Err(SignatureError::Wrong));
    let mut headers = HEADERS.to_vec();
    headers.push(("Signature-Input", &signed.signature_input));
    headers.push(("Signature", &signed.signature));
    let request = Request { target: "/other", authority: AUTHORITY, headers: &headers };
    assert_eq!(verify(&request, secret_of, NOW), Err(SignatureError::Wrong));
}

#[test]
fn every_changed_byte_of_the_two_headers_is_found() {
    let signed = signed_with(&SIGNING);
    for (at, replacement) in (0..signed.signature_input.len()).flat_map(|at| [(at, "x"), (at, "0"), (at, "")])
    {
        let mut changed = signed.clone();
        changed.signature_input.replace_range(at..=at, replacement);
        // The label may be anything, as long as both headers agree.
        if changed != signed {
            assert!(verify_with(&HEADERS, AUTHORITY, &changed, NOW).is_err(), "{}", changed.signature_input);
        }
    }
    let start = "sig1=:".len();
    // The last character before the padding carries two bits that no byte has.
    for at in start..signed.signature.len() - 3 {
        let mut changed = signed.clone();
        let other = if &signed.signature[at..=at] == "A" { "B" } else { "A" };
        changed.signature.replace_range(at..=at, other);
        assert!(verify_with(&HEADERS, AUTHORITY, &changed, NOW).is_err(), "{}", changed.signature);
    }
    for signature in ["sig1=::", "sig1=:AAAA:", "sig2=:AAAA:", "sig1=1", "sig1=(:AAAA:)", ""] {
        let changed = Signed { signature: signature.to_owned(), ..signed.clone() };
        assert!(verify_with(&HEADERS, AUTHORITY, &changed, NOW).is_err(), "{signature}");
    }
}

#[test]
fn what_must_be_signed_must_be_signed_once_and_nothing_that_is_not_there() {
    let resigned = |components: &str, parameters: &str| {
        let input = format!("sig1=({components});{parameters}");
        let mut parsed: Dictionary = Parser::new(&input).parse().unwrap();
        let Some(ListEntry::InnerList(list)) = parsed.swap_remove("sig1") else { panic!("{input}") };
        // A client that knows the secret and signs whatever it likes.
        let mut base = String::new();
        let request = Request { target: TARGET, authority: AUTHORITY, headers: &HEADERS };
        for item in &list.items {
            let name = item.bare_item.as_string().map_or("", |name| name.as_str());
            let value = request.component(name, AUTHORITY).unwrap_or_default();
            base.push_str(&format!("{}: {value}\n", item.serialize()));
        }
        base.push_str(&format!("\"@signature-params\": {}", serialized(&list)));
        let bytes = mac_of(SECRET, &base).finalize().into_bytes().to_vec();
        let signature = format!("sig1={}", Item::new(BareItem::ByteSequence(bytes)).serialize());
        let signed = Signed { signature_input: input, signature };
        verify_with(&HEADERS, AUTHORITY, &signed, NOW).map(|_| ())
    };
    let all = COMPONENTS.map(|name| format!("\"{name}\"")).join(" ");
    let parameters = [
        ("keyid", format!("keyid=\"{KEY}\"")),
        ("nonce", format!("nonce=\"{NONCE}\"")),
        ("alg", "alg=\"hmac-sha256\"".to_owned()),
        ("created", format!("created={NOW}")),
        ("expires", format!("expires={}", NOW + 30)),
    ];
    let joined = |without: &str| {
        let kept = parameters.iter().filter(|(name, _)| *name != without);
        kept.map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(";")
    };
    assert_eq!(resigned(&all, &joined("")), Ok(()));
    for name in COMPONENTS {
        let fewer = all.replace(&format!("\"{name}\""), "");
        assert_eq!(resigned(&fewer, &joined("")), Err(SignatureError::NotCovered(name)), "{name}");
        assert!(resigned(&format!("{all} \"{name}\""), &joined("")).is_err(), "{name} twice");
        let with_parameter = all.replace(&format!("\"{name}\""), &format!("\"{name}\";sf"));
        assert_eq!(resigned(&with_parameter, &joined("")), Err(SignatureError::UnknownComponent));
    }
    for more in ["\"@method\"", "\"signature\"", "\"date\"", "\"@signature-params\""] {
        assert_eq!(resigned(&format!("{all} {more}"), &joined("")), Err(SignatureError::UnknownComponent));
    }
    assert!(resigned(&format!("{all} 5"), &joined("")).is_err());
    for (name, _) in &parameters {
        let error = resigned(&all, &joined(name)).unwrap_err();
        assert_eq!(error, SignatureError::NoParameter(name));
    }
    let other = joined("alg") + ";alg=\"rsa-v1_5-sha256\"";
    assert_eq!(resigned(&all, &other), Err(SignatureError::Algorithm));
    let text_time = joined("created") + &format!(";created=\"{NOW}\"");
    assert_eq!(resigned(&all, &text_time), Err(SignatureError::NoParameter("created")));
    let negative = joined("created") + ";created=-1";
    assert_eq!(resigned(&all, &negative), Err(SignatureError::NoParameter("created")));
}

#[test]
fn an_unsigned_request_is_told_from_a_half_signed_one() {
    let unsigned = Request { target: TARGET, authority: AUTHORITY, headers: &HEADERS };
    assert_eq!(verify(&unsigned, secret_of, NOW), Err(SignatureError::Unsigned));
    let signed = signed_with(&SIGNING);
    for half in [("Signature", &signed.signature), ("Signature-Input", &signed.signature_input)] {
        let mut headers = HEADERS.to_vec();
        headers.push((half.0, half.1));
        let request = Request { headers: &headers, ..unsigned };
        assert!(matches!(verify(&request, secret_of, NOW), Err(SignatureError::Malformed(_))));
    }
}

#[test]
fn a_proxy_may_add_its_signature_and_a_host_may_be_written_in_other_ways() {
    let signed = signed_with(&SIGNING);
    let both = Signed {
        signature_input: format!("proxy=(\"@method\");created=1, {}", signed.signature_input),
        signature: format!("proxy=:AAAA:, {}", signed.signature),
    };
    assert!(verify_with(&HEADERS, AUTHORITY, &both, NOW).is_ok());
    for authority in ["AudioHook.Example.COM", "audiohook.example.com:443"] {
        assert!(verify_with(&HEADERS, authority, &signed, NOW).is_ok(), "{authority}");
    }
    assert!(verify_with(&HEADERS, "audiohook.example.com:8443", &signed, NOW).is_err());
}

#[test]
fn a_line_cannot_be_forged_with_a_line_break() {
    let signed = signed_with(&SIGNING);
    let mut headers = HEADERS.to_vec();
    headers[0].1 = "d7934305\n\"x\": y";
    assert_eq!(verify_with(&headers, AUTHORITY, &signed, NOW), Err(SignatureError::UnknownComponent));
}

#[test]
fn a_nonce_is_taken_once_while_it_lives_and_the_memory_is_bounded() {
    let verified =
        |key: &str, nonce: &str| Verified { key_id: key.to_owned(), nonce: nonce.to_owned(), expires: NOW };
    let mut cache = NonceCache::new(2, NONCE_LIVES_S);
    assert!(cache.is_empty());
    assert_eq!(cache.admit(&verified("a", "n"), NOW), Ok(()));
    assert_eq!(cache.admit(&verified("a", "n"), NOW + 1), Err(NonceError::Replayed));
    assert_eq!(cache.admit(&verified("b", "n"), NOW + 1), Ok(()));
    assert_eq!(cache.admit(&verified("c", "n"), NOW + 2), Err(NonceError::Full));
    assert_eq!(cache.admit(&verified("a", "n"), NOW + NONCE_LIVES_S - 1), Err(NonceError::Replayed));
    assert_eq!(cache.admit(&verified("a", "n"), NOW + NONCE_LIVES_S), Ok(()));
    assert_eq!(cache.len(), 2);
    // A clock that goes back forgets nothing early.
    assert_eq!(cache.admit(&verified("b", "n"), NOW - 100), Err(NonceError::Replayed));
}

/// A signature seen at the earliest moment it counts is too old before its nonce is forgotten.
#[test]
fn a_nonce_lives_longer_than_its_signature() {
    let created = NOW + MAX_SKEW_S;
    check(&SigningKey { created, expires: NOW + 1000, ..SIGNING }, NOW, Ok(()));
    let later = NOW + NONCE_LIVES_S;
    check(&SigningKey { created, expires: NOW + 1000, ..SIGNING }, later, Err(SignatureError::Expired));
}

proptest::proptest! {
    #[test]
    fn no_header_makes_it_panic(input in ".{0,200}", signature in ".{0,80}", now: u64) {
        let signed = Signed { signature_input: input.clone(), signature };
        proptest::prop_assert!(verify_with(&HEADERS, AUTHORITY, &signed, now).is_err());
        let labelled = Signed { signature_input: format!("sig1=({input})"), ..signed_with(&SIGNING) };
        proptest::prop_assert!(verify_with(&HEADERS, AUTHORITY, &labelled, now).is_err());
    }

    #[test]
    fn whatever_is_signed_is_verified(
        target in "/[!-~]{0,60}", secret in proptest::collection::vec(proptest::num::u8::ANY, 1..100),
        nonce in "[ -~]{22,60}", age in 0_u64..=13,
    ) {
        let request = Request { target: &target, authority: AUTHORITY, headers: &HEADERS };
        let key = SigningKey { secret: &secret, nonce: &nonce, created: NOW - age, ..SIGNING };
        let signed = sign(&request, &key).unwrap();
        let mut headers = HEADERS.to_vec();
        headers.push(("signature-input", &signed.signature_input));
        headers.push(("signature", &signed.signature));
        let verified = verify(&Request { headers: &headers, ..request }, |_| Some(secret.clone()), NOW).unwrap();
        proptest::prop_assert_eq!(verified.nonce, nonce);
    }
}
