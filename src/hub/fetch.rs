//! One file from a hub to disk: whole and right, or not there.
//!
//! What arrives is written to a file beside the one that it becomes, whose name holds the checksum:
//! what was begun for another version is never gone on with. It is hashed as it arrives and takes its
//! name only when it is complete and right.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use ureq::http::header;

use crate::hub::Checksum;
use crate::hub::Hub;
use crate::hub::HubError;
use crate::hub::Listing;
use crate::hub::RemoteFile;
use crate::hub::transport::encoded;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 18;

/// How far some files are.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The file that is being fetched.
    pub file: &'a str,
    /// Bytes of all files that are on disk.
    pub bytes: u64,
    /// Bytes of all files.
    pub of: u64,
}

impl Hub {
    /// Fetches files into a folder; those that are there and right stay as they are.
    ///
    /// # Errors
    /// When there is no room, or a file cannot be had or is not what the hub says. Files that were
    /// complete stay, and what there is of the others is gone on with the next time.
    ///
    /// # Blocking
    /// As long as the download takes.
    pub fn fetch(
        &self,
        listing: &Listing,
        files: &[RemoteFile],
        folder: &Path,
        told: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        make(folder)?;
        let of = files.iter().map(|file| file.bytes).sum();
        let mut missing = Vec::new();
        let mut needed = 0;
        let mut before = 0;
        for file in files {
            told(Progress { file: &file.name, bytes: before, of });
            if is_right(file, &folder.join(&file.name))? {
                before += file.bytes;
                continue;
            }
            let begun = std::fs::metadata(part_path(file, folder)).map_or(0, |part| part.len());
            needed += file.bytes.saturating_sub(begun);
            missing.push(file);
        }
        let free = fs4::available_space(folder).map_err(|source| failed(folder, source))?;
        if needed > free {
            return Err(HubError::Space { folder: folder.display().to_string(), needed, free });
        }
        for file in missing {
            let mut told = |bytes| told(Progress { file: &file.name, bytes: before + bytes, of });
            self.fetch_one(listing, file, folder, &mut told)?;
            before += file.bytes;
        }
        Ok(())
    }

    fn fetch_one(
        &self,
        listing: &Listing,
        file: &RemoteFile,
        folder: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        let path = folder.join(&file.name);
        path.parent().map_or(Ok(()), make)?;
        let mut part = Part::open(file, part_path(file, folder))?;
        let mut failures = 0;
        while part.bytes < file.bytes {
            let before = part.bytes;
            let Err(error) = self.receive(listing, file, &mut part, told) else { continue };
            // Who gets on has patience for as long as it takes.
            failures = if part.bytes > before { 1 } else { failures + 1 };
            self.rest(failures, error)?;
        }
        part.finish(file, &path)
    }

    /// Receives what follows the bytes that are there, to the end of the file or of the connection.
    fn receive(
        &self,
        listing: &Listing,
        file: &RemoteFile,
        part: &mut Part,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        let name: Vec<String> = file.name.split('/').map(encoded).collect();
        let path = format!("/{}/resolve/{}/{}", listing.repository, listing.commit, name.join("/"));
        let what = format!("{} in {}", file.name, listing.repository);
        let answer = self.ask(&what, &path, part.bytes)?;
        let range = answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let goes_on = answer.status().as_u16() == 206
            && range.is_some_and(|range| range.starts_with(&format!("bytes {}-", part.bytes)));
        let status = answer.status().as_u16();
        if part.bytes > 0 && !goes_on {
            // The hub does not know ranges, or not this one: from the start then.
            part.restart(file)?;
        }
        if status == 416 || (status == 206 && !goes_on) {
            let reason = "the hub has no such range".to_owned();
            return Err(HubError::Dropped { file: file.name.clone(), bytes: 0, reason });
        }
        let mut reader = answer.into_body().into_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        told(part.bytes);
        while part.bytes < file.bytes {
            // No more than the hub said it is.
            let left = usize::try_from(file.bytes - part.bytes).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let dropped = |part: &Part, reason: String| HubError::Dropped {
                file: file.name.clone(),
                bytes: part.bytes,
                reason,
            };
            match reader.read(&mut chunk[..left]) {
                Ok(0) => return Err(dropped(part, "the connection was closed".to_owned())),
                Ok(read) => part.append(&chunk[..read])?,
                Err(error) => return Err(dropped(part, error.to_string())),
            }
            told(part.bytes);
        }
        Ok(())
    }
}

/// A file on its way.
struct Part {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Hash,
}

impl Part {
    /// Opens what there is of a file.
    fn open(file: &RemoteFile, path: PathBuf) -> Result<Part, HubError> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let opened = opened.map_err(|source| failed(&path, source))?;
        match opened.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(HubError::Busy(path.display().to_string())),
            Err(std::fs::TryLockError::Error(source)) => return Err(failed(&path, source)),
        }
        let mut part = Part { path, file: opened, bytes: 0, hash: Hash::of(file) };
        part.bytes = part.hash.read(&mut part.file).map_err(|source| failed(&part.path, source))?;
        if part.bytes > file.bytes {
            part.restart(file)?;
        }
        Ok(part)
    }

    fn restart(&mut self, file: &RemoteFile) -> Result<(), HubError> {
        self.file.set_len(0).map_err(|source| failed(&self.path, source))?;
        self.bytes = 0;
        self.hash = Hash::of(file);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|source| failed(&self.path, source))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Gives the file its name if it is right, removes it if not.
    fn finish(self, file: &RemoteFile, path: &Path) -> Result<(), HubError> {
        let found = self.hash.finish();
        if !found.eq_ignore_ascii_case(file.checksum.text()) {
            std::fs::remove_file(&self.path).map_err(|source| failed(&self.path, source))?;
            let expected = file.checksum.text().to_owned();
            return Err(HubError::Checksum { file: file.name.clone(), expected, found });
        }
        self.file.sync_all().map_err(|source| failed(&self.path, source))?;
        std::fs::rename(&self.path, path).map_err(|source| failed(path, source))
    }
}

/// A checksum on its way.
enum Hash {
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
}

impl Hash {
    fn of(file: &RemoteFile) -> Hash {
        match file.checksum {
            Checksum::Sha256(_) => Hash::Sha256(sha2::Sha256::new()),
            // Git names a blob by its kind, its length and its bytes.
            Checksum::GitBlob(_) => Hash::Sha1(sha1::Sha1::new_with_prefix(format!("blob {}\0", file.bytes))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hash::Sha256(hash) => hash.update(bytes),
            Hash::Sha1(hash) => hash.update(bytes),
        }
    }

    /// Takes in all that is left of a file; returns how many bytes that was.
    fn read(&mut self, file: &mut File) -> std::io::Result<u64> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut bytes = 0;
        loop {
            match file.read(&mut chunk)? {
                0 => return Ok(bytes),
                read => {
                    self.update(&chunk[..read]);
                    bytes += read as u64;
                }
            }
        }
    }

    fn finish(self) -> String {
        match self {
            Hash::Sha256(hash) => hex::encode(hash.finalize()),
            Hash::Sha1(hash) => hex::encode(hash.finalize()),
        }
    }
}

/// Returns whether the file is there, complete and right.
fn is_right(file: &RemoteFile, path: &Path) -> Result<bool, HubError> {
    let mut opened = match File::open(path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(failed(path, source)),
    };
    if opened.metadata().map_err(|source| failed(path, source))?.len() != file.bytes {
        return Ok(false);
    }
    let mut hash = Hash::of(file);
    hash.read(&mut opened).map_err(|source| failed(path, source))?;
    Ok(hash.finish().eq_ignore_ascii_case(file.checksum.text()))
}

/// Returns where a file is while it is not complete.
fn part_path(file: &RemoteFile, folder: &Path) -> PathBuf {
    let checksum = file.checksum.text();
    folder.join(format!("{}.{}.part", file.name, &checksum[..checksum.len().min(12)]))
}

fn make(folder: &Path) -> Result<(), HubError> {
    std::fs::create_dir_all(folder).map_err(|source| failed(folder, source))
}

fn failed(path: &Path, source: std::io::Error) -> HubError {
    HubError::File { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_git_and_of_large_files() {
        let check = |checksum: Checksum| {
            let file = RemoteFile { name: "a".to_owned(), bytes: 12, checksum };
            let mut hash = Hash::of(&file);
            hash.update(b"hello ");
            hash.update(b"world\n");
            assert_eq!(hash.finish(), file.checksum.text());
        };
        // git hash-object, sha256sum.
        check(Checksum::GitBlob("3b18e512dba79e4c8300dd08aeb37f8e728b8dad".to_owned()));
        check(Checksum::Sha256(
            "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447".to_owned(),
        ));
    }
}
