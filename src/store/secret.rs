//! Random secrets that people and machines carry, and the hashes that the store keeps of them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::Digest;
use sha2::Sha256;

/// A random text that lets its holder in: of a session, a one-time link or a machine's key.
///
/// `Debug` hides it, there is no `Display`: showing it takes a [`Secret::reveal`] that a reader
/// can search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Draws 256 random bits and writes `prefix` before them.
    pub fn random(prefix: &str) -> Secret {
        Secret(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())))
    }

    /// Returns the text itself, to be handed to its holder.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Returns what the store keeps. 256 random bits need no salt and no slow hash.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_a_secret_and_its_hash_does_not_contain_it() {
        let secret = Secret::random("key_");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(secret.hash().len(), 64);
        assert!(!secret.hash().contains(secret.reveal()));
        assert_ne!(secret, Secret::random("key_"));
    }
}
