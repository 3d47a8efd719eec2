//! JSON lines, plain or compressed with zstd or gzip, one value at a time.
//!
//! A bad line is an error that names file and line, and the next line is read all the same; only a
//! file that can no longer be read ends the iteration early. Blank lines are skipped. Whether a
//! file is compressed is told by its first bytes, not by its name.

use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::marker::PhantomData;
use std::path::Path;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

/// The first bytes of every zstd frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The first bytes of every gzip file (RFC 1952, section 2.3.1).
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Says which file, and which line of it, could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The file is missing, a folder, or not ours to read.
    #[error("cannot open {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The bytes end or break in the middle; nothing after them can be read.
    #[error("cannot read {path} after line {line}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The last line that was read.
        line: u64,
        /// What the system or the decompressor says.
        source: io::Error,
    },
    /// One line is not what it should be; the next ones may be.
    #[error("{path}, line {line}", path = path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What does not fit.
        source: serde_json::Error,
    },
}

/// The rows of one file, in order.
pub struct Rows<T> {
    path: PathBuf,
    line: u64,
    reader: Option<Box<dyn BufRead + Send>>,
    buffer: Vec<u8>,
    row: PhantomData<fn() -> T>,
}

/// Opens a file of JSON lines.
///
/// # Errors
/// [`RowError::Open`] when the file cannot be opened or its first bytes cannot be read.
///
/// # Blocking
/// Reads from disk, here and in the iterator.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Rows<T>, RowError> {
    let reader = open(path).map_err(|source| RowError::Open { path: path.to_owned(), source })?;
    Ok(Rows { path: path.to_owned(), line: 0, reader: Some(reader), buffer: Vec::new(), row: PhantomData })
}

/// Reads JSON lines that are already in memory, under a name for its errors.
pub fn parse<T: DeserializeOwned>(name: &str, bytes: &'static [u8]) -> Rows<T> {
    Rows { path: name.into(), line: 0, reader: Some(Box::new(bytes)), buffer: Vec::new(), row: PhantomData }
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    if file.fill_buf()?.starts_with(&ZSTD_MAGIC) {
        let decoder = zstd::stream::read::Decoder::with_buffer(file)?;
        return Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)));
    }
    if file.fill_buf()?.starts_with(&GZIP_MAGIC) {
        let decoder = flate2::bufread::MultiGzDecoder::new(file);
        return Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)));
    }
    Ok(Box::new(file))
}

impl<T> Rows<T> {
    /// Returns the number of the line that was read last, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }
}

impl<T: DeserializeOwned> Iterator for Rows<T> {
    type Item = Result<T, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.buffer.clear();
            match self.reader.as_mut()?.read_until(b'\n', &mut self.buffer) {
                Ok(0) => self.reader = None,
                Ok(_) => {
                    self.line += 1;
                    if self.buffer.trim_ascii().is_empty() {
                        continue;
                    }
                    let row = serde_json::from_slice(&self.buffer);
                    return Some(row.map_err(|source| RowError::Parse {
                        path: self.path.clone(),
                        line: self.line,
                        source,
                    }));
                }
                Err(source) => {
                    self.reader = None;
                    return Some(Err(RowError::Read { path: self.path.clone(), line: self.line, source }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn a_bad_line_is_named_and_the_rest_is_read() {
        let (_folder, path) = write("a.jsonl", b"1\n\n\xff\r\n{\"a\":\n 2 \r\n3");
        let rows: Vec<Result<u32, RowError>> = read(&path).unwrap().collect();
        let shown: Vec<String> = rows
            .iter()
            .map(|row| match row {
                Ok(value) => value.to_string(),
                Err(RowError::Parse { line, .. }) => format!("line {line}"),
                Err(error) => error.to_string(),
            })
            .collect();
        assert_eq!(shown, ["1", "line 3", "line 4", "2", "3"]);
    }

    #[test]
    fn compressed_rows_are_known_by_their_bytes() {
        let zstd = zstd::encode_all(&b"1\n2\n"[..], 1).unwrap();
        let mut gzip = Vec::new();
        // One file may be several, one behind the other.
        for part in [&b"1\n"[..], b"2\n"] {
            let mut encoder = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
            io::Write::write_all(&mut encoder, part).unwrap();
            gzip = encoder.finish().unwrap();
        }
        for bytes in [zstd, gzip] {
            let (_folder, path) = write("named-like-plain.jsonl", &bytes);
            let rows: Vec<u32> = read(&path).unwrap().map(Result::unwrap).collect();
            assert_eq!(rows, [1, 2]);
        }
    }

    #[test]
    fn a_cut_file_ends_with_an_error() {
        let text: String = (0..50_000).map(|n| format!("{n}\n")).collect();
        let bytes = zstd::encode_all(text.as_bytes(), 1).unwrap();
        let (_folder, path) = write("cut.jsonl.zst", &bytes[..bytes.len() / 2]);
        let rows: Vec<Result<u32, RowError>> = read(&path).unwrap().collect();
        assert!(matches!(rows.last(), Some(Err(RowError::Read { .. }))));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read::<u32>(Path::new("no/such.jsonl")).err().unwrap();
        assert_eq!(error.to_string(), "cannot open no/such.jsonl");
    }
}
