//! Files from a model hub, over the HTTP interface of the Hugging Face hub.
//!
//! A [`Hub`] lists the files of a repository at one revision and fetches some of them into a folder:
//! whole or not at all, checked against the hub's checksums, going on where a connection was cut. In
//! reading order: this file (what a hub has), [`transport`] (asking it), [`fetch`] (one file to
//! disk), [`checkpoint`] (which files make a model), [`whisper`] (models for speech). It does not know
//! what is in the files.

pub mod checkpoint;
pub mod fetch;
pub mod transport;
pub mod whisper;

use std::fmt;
use std::path::Component;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

/// Says why files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name is no `OWNER/NAME`.
    #[error("{0:?} is no repository: write OWNER/NAME, as inclusionAI/LLaDA2.0-mini")]
    Repository(String),
    /// The address is no address.
    #[error("{0:?} is no hub: write its address, as https://huggingface.co")]
    Address(String),
    /// Nobody answers.
    #[error("cannot reach {host}: {reason}")]
    Unreachable {
        /// Who was asked.
        host: String,
        /// Why.
        reason: String,
    },
    /// The hub does not let this be read.
    #[error(
        "the hub refuses {what} ({status}): it is private or does not exist; set HF_TOKEN to a token that may read it"
    )]
    Forbidden {
        /// What was asked for.
        what: String,
        /// The status of the answer.
        status: u16,
    },
    /// The hub has no such thing.
    #[error("the hub has no {what}")]
    Missing {
        /// What was asked for.
        what: String,
    },
    /// The hub answers something else.
    #[error("{host} answers {status} for {what}")]
    Status {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// The status of the answer.
        status: u16,
    },
    /// The answer is not what it should be.
    #[error("the hub's answer for {what} cannot be used: {reason}")]
    Answer {
        /// What was asked for.
        what: String,
        /// Why.
        reason: String,
    },
    /// The connection was cut again and again.
    #[error("{file} was cut off after {bytes} bytes: {reason}; what is there stays, so try again")]
    Dropped {
        /// The file.
        file: String,
        /// How many of its bytes are on disk.
        bytes: u64,
        /// How it was cut off.
        reason: String,
    },
    /// A name would lead out of the folder.
    #[error("the file name {0:?} leads out of the folder: refused")]
    Name(String),
    /// A file is there that cannot be right.
    #[error("{file} has the checksum {found}, the hub says {expected}: it was removed, try again")]
    Checksum {
        /// The file.
        file: String,
        /// What the hub says.
        expected: String,
        /// What was received.
        found: String,
    },
    /// The disk is too small.
    #[error("{folder} has room for {free} bytes, {needed} are needed: free some, or give another --to")]
    Space {
        /// Where the files would go.
        folder: String,
        /// The bytes that are missing.
        needed: u64,
        /// The bytes that are free.
        free: u64,
    },
    /// Somebody else is at it.
    #[error("{0} is being downloaded by another chatdlm")]
    Busy(String),
    /// A file cannot be read or written.
    #[error("cannot write {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl HubError {
    /// Returns whether it may go well a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            HubError::Unreachable { .. } | HubError::Dropped { .. } => true,
            HubError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// A hub, and who asks.
pub struct Hub {
    /// Its address, without a slash at the end.
    endpoint: String,
    token: Option<String>,
    agent: ureq::Agent,
    /// How long to wait before what failed is tried again; twice as long each time.
    pub patience: Duration,
}

/// Shows no token.
impl fmt::Debug for Hub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hub").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What a repository has at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// `OWNER/NAME`.
    pub repository: String,
    /// The commit, so that all files are of the same one.
    pub commit: String,
    files: Vec<Sibling>,
}

/// A file that can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name, relative and within the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// What its content must give.
    pub checksum: Checksum,
}

/// What a file's content must give, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// Of files in large file storage.
    Sha256(String),
    /// SHA-1 as git names its objects, of all others.
    GitBlob(String),
}

#[derive(Deserialize)]
struct Revision {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

impl Hub {
    /// Lists what a repository has at a branch, tag or commit.
    ///
    /// # Errors
    /// When the hub cannot be reached, refuses, or has no such repository or revision.
    ///
    /// # Blocking
    /// Asks over the network.
    pub fn list(&self, repository: &str, revision: &str) -> Result<Listing, HubError> {
        if !is_repository(repository) {
            return Err(HubError::Repository(repository.to_owned()));
        }
        let what = format!("{repository} at {revision}");
        let path = format!("/api/models/{repository}/revision/{}?blobs=true", transport::encoded(revision));
        let text = self.text(&what, &path)?;
        let answer: Revision = serde_json::from_str(&text)
            .map_err(|error| HubError::Answer { what: what.clone(), reason: error.to_string() })?;
        if answer.sha.is_empty() || !answer.sha.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(HubError::Answer { what, reason: format!("{:?} is no commit", answer.sha) });
        }
        Ok(Listing { repository: repository.to_owned(), commit: answer.sha, files: answer.siblings })
    }
}

/// Returns whether it is `OWNER/NAME`, each of letters, digits and `-_.`.
fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && part.bytes().all(is_known) && !part.bytes().all(|byte| byte == b'.')
    };
    name.split_once('/').is_some_and(|(owner, name)| is_part(owner) && is_part(name))
}

impl Listing {
    /// Returns whether there is a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.rfilename == name)
    }

    /// Returns a file.
    ///
    /// # Errors
    /// When there is none of this name, the name leads out of the folder, or the hub says no
    /// checksum of it.
    pub fn file(&self, name: &str) -> Result<RemoteFile, HubError> {
        if !is_within(name) {
            return Err(HubError::Name(name.to_owned()));
        }
        let what = format!("{name} in {}", self.repository);
        let Some(file) = self.files.iter().find(|file| file.rfilename == name) else {
            return Err(HubError::Missing { what });
        };
        let (bytes, checksum) = match file {
            Sibling { lfs: Some(large), .. } => (large.size, Checksum::Sha256(large.sha256.clone())),
            Sibling { size: Some(size), blob_id: Some(id), .. } => (*size, Checksum::GitBlob(id.clone())),
            _ => return Err(HubError::Answer { what, reason: "it says no size and checksum".to_owned() }),
        };
        let digits = if matches!(checksum, Checksum::Sha256(_)) { 64 } else { 40 };
        let text = checksum.text();
        if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(HubError::Answer { what, reason: format!("{text:?} is no checksum") });
        }
        Ok(RemoteFile { name: name.to_owned(), bytes, checksum })
    }
}

impl Checksum {
    /// Returns the digits.
    pub fn text(&self) -> &str {
        match self {
            Checksum::Sha256(text) | Checksum::GitBlob(text) => text,
        }
    }
}

/// Returns whether a name stays within the folder that it is put into, on every system.
fn is_within(name: &str) -> bool {
    let is_plain = |component: Component| matches!(component, Component::Normal(_));
    !name.is_empty()
        && !name.contains(['\\', ':', '\0'])
        && !name.ends_with('/')
        && Path::new(name).components().all(is_plain)
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["config.json", "model-00001-of-00002.safetensors", "a/b.bin", "..a", ".hidden"] {
            assert!(is_within(name), "{name}");
        }
        for name in
            ["", "..", "../a", "a/../../b", "/etc/passwd", "a//b", "./a", "a/", "..\\a", "C:\\a", "a/."]
        {
            assert!(!is_within(name), "{name}");
        }
    }

    #[test]
    fn repositories_have_an_owner_and_a_name() {
        for name in ["inclusionAI/LLaDA2.0-mini", "a/b_c.d"] {
            assert!(is_repository(name), "{name}");
        }
        for name in ["LLaDA2.0-mini", "a/b/c", "../b", "a/..", "a/b?x=1", "a/ b", "", "/", "https://a/b"] {
            assert!(!is_repository(name), "{name}");
        }
    }

    #[test]
    fn a_file_without_a_checksum_is_refused_by_name() {
        let sibling = |size, blob_id: Option<&str>| Sibling {
            rfilename: "config.json".to_owned(),
            size,
            blob_id: blob_id.map(str::to_owned),
            lfs: None,
        };
        let of = |file| Listing { repository: "a/b".into(), commit: "c0".into(), files: vec![file] };
        let error = |file| of(file).file("config.json").unwrap_err().to_string();
        assert!(error(sibling(Some(3), None)).contains("config.json in a/b"));
        assert!(error(sibling(None, Some("0".repeat(40).as_str()))).contains("no size"));
        assert!(error(sibling(Some(3), Some("../../x"))).contains("\"../../x\" is no checksum"));
        assert!(of(sibling(Some(3), Some("0".repeat(40).as_str()))).file("config.json").is_ok());
    }
}
