//! Passwords: their rule, their argon2id hash, and a check that takes as long for nobody.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;

/// The shortest password, in characters.
pub const PASSWORD_MIN_CHARACTERS: usize = 10;
/// The longest password, in bytes: hashing more only serves who wants to keep us busy.
pub const PASSWORD_MAX_BYTES: usize = 1024;

/// Says why a text is no password, or why it could not be hashed.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// Shorter or longer than the rule allows.
    #[error(
        "a password must have at least {PASSWORD_MIN_CHARACTERS} characters and at most {PASSWORD_MAX_BYTES} bytes"
    )]
    Length,
    /// The hash function failed.
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
}

/// Returns the argon2id hash of `password` with a random salt, as a PHC string.
///
/// # Errors
/// When the password breaks the rule.
///
/// # Blocking
/// Some tens of milliseconds and 19 MiB, by design.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    if password.chars().count() < PASSWORD_MIN_CHARACTERS || password.len() > PASSWORD_MAX_BYTES {
        return Err(PasswordError::Length);
    }
    // The default is argon2id with 19 MiB and two passes, OWASP's first recommendation.
    Ok(Argon2::default().hash_password(password.as_bytes()).map_err(PasswordError::Hash)?.to_string())
}

/// Returns whether `password` is the one of `stored`. Without a stored hash it works as long and
/// says no, so the time does not tell which users exist.
///
/// # Blocking
/// As [`hash`].
pub fn is_correct(password: &str, stored: Option<&str>) -> bool {
    static NOBODY: LazyLock<Option<String>> =
        LazyLock::new(|| hash(super::secret::Secret::random("").reveal()).ok());
    if password.len() > PASSWORD_MAX_BYTES {
        return false;
    }
    let Some(text) = stored.or(NOBODY.as_deref()) else { return false };
    let Ok(parsed) = PasswordHash::new(text) else { return false };
    let is_match = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok();
    is_match && stored.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_password_is_correct_and_nobody_has_none() {
        let stored = hash("correct horse").expect("a hash");
        assert!(stored.starts_with("$argon2id$"), "{stored}");
        assert!(is_correct("correct horse", Some(&stored)));
        assert!(!is_correct("correct hors", Some(&stored)));
        assert!(!is_correct("correct horse", None));
        assert!(!is_correct("correct horse", Some("not a hash")));
    }

    #[test]
    fn short_and_enormous_passwords_are_refused() {
        assert!(matches!(hash("ninechars"), Err(PasswordError::Length)));
        assert!(matches!(hash(&"x".repeat(PASSWORD_MAX_BYTES + 1)), Err(PasswordError::Length)));
        assert!(hash("zehn Töne!").is_ok());
    }
}
