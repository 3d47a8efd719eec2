//! Signatures of HTTP requests as Genesys makes them, and the memory of nonces against replay.
//!
//! Source: draft-ietf-httpbis-message-signatures (RFC 9421 later) with `hmac-sha256`; which components and
//! parameters there must be is AudioHook's rule. Pure: headers, keys and the time come from the caller.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::collections::VecDeque;

use hmac::Hmac;
use hmac::KeyInit;
use hmac::Mac;
use sfv::BareItem;
use sfv::Dictionary;
use sfv::FieldType;
use sfv::InnerList;
use sfv::Item;
use sfv::Key;
use sfv::ListEntry;
use sfv::Parser;
use sha2::Digest;
use sha2::Sha256;

/// What a signature must cover, in the order in which Genesys writes it.
pub const COMPONENTS: [&str; 6] = [
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
];
/// How old a signature may be, in seconds.
pub const MAX_AGE_S: u64 = 10;
/// How far the client's clock may be off, in seconds.
pub const MAX_SKEW_S: u64 = 3;
/// How long a nonce must be remembered so that its signature is too old once it is forgotten, in seconds.
pub const NONCE_LIVES_S: u64 = MAX_AGE_S + 2 * MAX_SKEW_S + 1;
/// The shortest nonce, in characters: 16 bytes in base64.
const NONCE_MIN_CHARS: usize = 22;
/// The longest `Signature-Input` and `Signature`, in bytes.
const FIELD_MAX_BYTES: usize = 8 * 1024;
const ALGORITHM: &str = "hmac-sha256";
/// What a request of an unknown key is checked with: the work is the same, the answer always no.
const NOBODY: [u8; 32] = [0x5a; 32];

/// What is signed of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The path and the query, as they came.
    pub target: &'a str,
    /// The `Host` header, or `:authority`.
    pub authority: &'a str,
    /// Names, in any case, and values; a name may come several times.
    pub headers: &'a [(&'a str, &'a str)],
}

impl Request<'_> {
    /// Returns a header's value, several of the name joined as HTTP has it; nothing where there is none or
    /// it holds control characters, with which a line of the signed text could be forged.
    pub fn header(&self, name: &str) -> Option<String> {
        let of_name = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let values: Vec<&str> = of_name.map(|(_, value)| value.trim_matches([' ', '\t'])).collect();
        let value = values.join(", ");
        (!value.is_empty() && is_plain(&value)).then_some(value)
    }

    fn component(&self, name: &str, authority: &str) -> Option<String> {
        match name {
            "@request-target" => {
                (!self.target.is_empty() && is_plain(self.target)).then(|| self.target.to_owned())
            }
            "@authority" => (!authority.is_empty() && is_plain(authority)).then(|| authority.to_owned()),
            "signature" | "signature-input" => None,
            _ if name.starts_with('@') => None,
            _ => self.header(name),
        }
    }

    /// Returns the authority as it came and as the draft wants it: lower case, no usual port.
    fn authorities(&self) -> [String; 2] {
        let lower = self.authority.to_ascii_lowercase();
        let bare = lower.strip_suffix(":443").or_else(|| lower.strip_suffix(":80")).unwrap_or(&lower);
        [self.authority.to_owned(), bare.to_owned()]
    }
}

/// A request that is who it says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The API key.
    pub key_id: String,
    /// What makes the request unlike any other: to be shown to a [`NonceCache`].
    pub nonce: String,
    /// When the signature ends, in seconds since 1970.
    pub expires: u64,
}

/// Says why a request is not believed. A caller tells the client no more than that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Neither `Signature` nor `Signature-Input`: fine for a key without a secret, else not.
    #[error("the request is not signed")]
    Unsigned,
    /// The headers are not structured fields of the form that signatures have.
    #[error("cannot read the signature: {0}")]
    Malformed(&'static str),
    /// This component is not signed, or not in the request.
    #[error("{0} is not signed")]
    NotCovered(&'static str),
    /// Something is signed that is not in the request or that cannot be checked.
    #[error("something is signed that is not there")]
    UnknownComponent,
    /// This parameter is missing or has not the right type.
    #[error("the parameter {0} is missing")]
    NoParameter(&'static str),
    /// The algorithm is not `hmac-sha256`.
    #[error("the algorithm is not hmac-sha256")]
    Algorithm,
    /// The nonce is shorter than 22 characters.
    #[error("the nonce is too short")]
    WeakNonce,
    /// `keyid` is not the `X-API-KEY` header.
    #[error("the signature's key is not the header's")]
    OtherKey,
    /// The signature was made later than now.
    #[error("the signature was made in the future")]
    InTheFuture,
    /// The signature is too old.
    #[error("the signature is too old")]
    Expired,
    /// The key is not known, or the signature is not made with its secret.
    #[error("the signature is wrong")]
    Wrong,
}

/// Checks a request's signature at a time in seconds since 1970.
///
/// `secret_of` gives the secret bytes of an API key; an empty secret signs nothing and counts as unknown.
/// An unknown key takes as long as a known one. The nonce is not checked for replay here.
///
/// # Errors
/// The first reason found not to believe it.
pub fn verify(
    request: &Request<'_>,
    secret_of: impl FnOnce(&str) -> Option<Vec<u8>>,
    now: u64,
) -> Result<Verified, SignatureError> {
    let api_key = request.header("x-api-key").ok_or(SignatureError::NotCovered("x-api-key"))?;
    let (list, signature) = signature_of(request, &api_key)?;
    let verified = check_parameters(&list, api_key, now)?;
    let bases = request.authorities().map(|authority| signature_base(request, &authority, &list));
    let secret = secret_of(&verified.key_id).filter(|secret| !secret.is_empty());
    let mut is_right = false;
    for base in bases {
        let mac = mac_of(secret.as_deref().unwrap_or(&NOBODY), &base?);
        // Takes the same time wherever the first wrong byte is.
        is_right |= mac.verify_slice(&signature).is_ok();
    }
    if is_right && secret.is_some() { Ok(verified) } else { Err(SignatureError::Wrong) }
}

/// Finds the signature of this key, or the first one: proxies may add theirs.
fn signature_of(request: &Request<'_>, api_key: &str) -> Result<(InnerList, Vec<u8>), SignatureError> {
    let mut inputs = match (request.header("signature-input"), request.header("signature")) {
        (None, None) => return Err(SignatureError::Unsigned),
        (Some(input), Some(signature)) => (dictionary(&input)?, dictionary(&signature)?),
        _ => return Err(SignatureError::Malformed("one of its two headers is missing")),
    };
    let is_ours = |entry: &ListEntry| match entry {
        ListEntry::InnerList(list) => text_parameter(list, "keyid").as_deref() == Some(api_key),
        ListEntry::Item(_) => false,
    };
    let index = inputs.0.values().position(is_ours).unwrap_or(0);
    let Some((label, ListEntry::InnerList(list))) = inputs.0.swap_remove_index(index) else {
        return Err(SignatureError::Malformed("the input is not a list"));
    };
    match inputs.1.swap_remove(&label) {
        Some(ListEntry::Item(Item { bare_item: BareItem::ByteSequence(bytes), .. })) => Ok((list, bytes)),
        _ => Err(SignatureError::Malformed("the input has no signature of its name")),
    }
}

fn dictionary(field: &str) -> Result<Dictionary, SignatureError> {
    if field.len() > FIELD_MAX_BYTES {
        return Err(SignatureError::Malformed("the header is too long"));
    }
    Parser::new(field).parse().map_err(|_| SignatureError::Malformed("not a structured field"))
}

fn check_parameters(list: &InnerList, api_key: String, now: u64) -> Result<Verified, SignatureError> {
    let text = |name: &'static str| text_parameter(list, name).ok_or(SignatureError::NoParameter(name));
    let time = |name: &'static str| {
        let seconds = list.params.get(name).and_then(BareItem::as_integer).map(i64::from);
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).ok_or(SignatureError::NoParameter(name))
    };
    if text("keyid")? != api_key {
        return Err(SignatureError::OtherKey);
    }
    if text("alg")? != ALGORITHM {
        return Err(SignatureError::Algorithm);
    }
    let nonce = text("nonce")?;
    if nonce.len() < NONCE_MIN_CHARS {
        return Err(SignatureError::WeakNonce);
    }
    let (created, expires) = (time("created")?, time("expires")?);
    if created > now.saturating_add(MAX_SKEW_S) {
        return Err(SignatureError::InTheFuture);
    }
    if created + MAX_AGE_S + MAX_SKEW_S < now || expires < now {
        return Err(SignatureError::Expired);
    }
    Ok(Verified { key_id: api_key, nonce, expires })
}

fn text_parameter(list: &InnerList, name: &str) -> Option<String> {
    Some(list.params.get(name)?.as_string()?.as_str().to_owned())
}

/// Writes down what is signed: a line for each component, and one for the parameters.
///
/// The parameters are written anew from what was read, so that only what was understood is believed.
fn signature_base(
    request: &Request<'_>,
    authority: &str,
    list: &InnerList,
) -> Result<String, SignatureError> {
    let mut base = String::new();
    let mut covered: Vec<&str> = Vec::new();
    for item in &list.items {
        let Some(name) = item.bare_item.as_string() else {
            return Err(SignatureError::Malformed("a component is not a text"));
        };
        if !item.params.is_empty() {
            return Err(SignatureError::UnknownComponent);
        }
        if covered.contains(&name.as_str()) {
            return Err(SignatureError::Malformed("a component comes twice"));
        }
        let value = request.component(name.as_str(), authority).ok_or(SignatureError::UnknownComponent)?;
        base.push_str(&format!("{}: {value}\n", item.serialize()));
        covered.push(name.as_str());
    }
    if let Some(missing) = COMPONENTS.iter().find(|name| !covered.contains(name)) {
        return Err(SignatureError::NotCovered(missing));
    }
    base.push_str(&format!("\"@signature-params\": {}", serialized(list)));
    Ok(base)
}

fn serialized(list: &InnerList) -> String {
    let alone = vec![ListEntry::InnerList(list.clone())];
    alone.serialize().expect("a list of one member has a text")
}

fn mac_of(secret: &[u8], base: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length will do");
    mac.update(base.as_bytes());
    mac
}

fn is_plain(value: &str) -> bool {
    !value.bytes().any(|byte| byte.is_ascii_control())
}

/// What a client signs with.
#[derive(Debug, Clone, Copy)]
pub struct SigningKey<'a> {
    /// The API key, the same as in the `X-API-KEY` header.
    pub key_id: &'a str,
    /// The client's secret, decoded from base64.
    pub secret: &'a [u8],
    /// Random, at least 22 characters.
    pub nonce: &'a str,
    /// Now, in seconds since 1970.
    pub created: u64,
    /// The end, in seconds since 1970.
    pub expires: u64,
}

/// The two headers that a client adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// `Signature-Input`.
    pub signature_input: String,
    /// `Signature`.
    pub signature: String,
}

/// Signs a request that has all its other headers.
///
/// # Errors
/// [`SignatureError::UnknownComponent`] when the request lacks a header that must be signed,
/// [`SignatureError::Malformed`] when the key's id or the nonce is not plain ASCII or a time is too large.
pub fn sign(request: &Request<'_>, key: &SigningKey<'_>) -> Result<Signed, SignatureError> {
    let text = |value: &str| {
        sfv::String::from_string(value.to_owned())
            .map(BareItem::String)
            .map_err(|_| SignatureError::Malformed("a parameter is not plain ASCII"))
    };
    let time = |seconds: u64| {
        sfv::Integer::try_from(seconds)
            .map(BareItem::Integer)
            .map_err(|_| SignatureError::Malformed("a time is too large"))
    };
    let mut list = InnerList::default();
    for component in COMPONENTS {
        list.items.push(Item::new(text(component)?));
    }
    let parameters = [
        ("keyid", text(key.key_id)?),
        ("nonce", text(key.nonce)?),
        ("alg", text(ALGORITHM)?),
        ("created", time(key.created)?),
        ("expires", time(key.expires)?),
    ];
    for (name, value) in parameters {
        list.params.insert(named(name), value);
    }
    let [_, authority] = request.authorities();
    let base = signature_base(request, &authority, &list)?;
    let bytes = mac_of(key.secret, &base).finalize().into_bytes().to_vec();
    Ok(Signed {
        signature_input: format!("sig1={}", serialized(&list)),
        signature: format!("sig1={}", Item::new(BareItem::ByteSequence(bytes)).serialize()),
    })
}

fn named(name: &str) -> Key {
    Key::from_string(name.to_owned()).expect("the names of the parameters are keys")
}

/// Says why a nonce is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NonceError {
    /// It was used before.
    #[error("the request was sent before")]
    Replayed,
    /// So many are remembered that a replay could not be told; forgetting one early would let it in again.
    #[error("too many requests at once")]
    Full,
}

/// Remembers the nonces of verified requests until their signatures are too old anyway.
#[derive(Debug)]
pub struct NonceCache {
    capacity: usize,
    lives_s: u64,
    /// When each is forgotten, and its digest, oldest first.
    queue: VecDeque<(u64, [u8; 32])>,
    known: HashSet<[u8; 32]>,
}

impl NonceCache {
    /// Returns a memory of so many nonces, each for so many seconds: [`NONCE_LIVES_S`] or more.
    pub fn new(capacity: usize, lives_s: u64) -> NonceCache {
        NonceCache { capacity, lives_s, queue: VecDeque::new(), known: HashSet::new() }
    }

    /// Remembers the nonce of a request that was verified at this time, in seconds since 1970.
    ///
    /// # Errors
    /// When the key used it before, or when nothing more can be remembered.
    pub fn admit(&mut self, verified: &Verified, now: u64) -> Result<(), NonceError> {
        while let Some((_, digest)) = self.queue.pop_front_if(|(until, _)| *until <= now) {
            self.known.remove(&digest);
        }
        let mut hash = Sha256::new();
        hash.update((verified.key_id.len() as u64).to_be_bytes());
        hash.update(verified.key_id.as_bytes());
        hash.update(verified.nonce.as_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        if self.known.contains(&digest) {
            return Err(NonceError::Replayed);
        }
        if self.known.len() >= self.capacity {
            return Err(NonceError::Full);
        }
        self.known.insert(digest);
        self.queue.push_back((now.saturating_add(self.lives_s), digest));
        Ok(())
    }

    /// Returns how many are remembered.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
