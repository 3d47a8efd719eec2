//! Files to articles: what somebody uploads, in whatever form, becomes articles or a named error.
//!
//! Takes a file's name and bytes, gives one [`FileOutcome`] for each file; an archive gives one for
//! each file in it. A bad file never costs the others.

mod archive;
mod html;
mod table;

use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::article::is_id;
use crate::knowledge::article::slug;

/// The most bytes of one file that is not an archive.
pub const FILE_MAX_BYTES: usize = 8 << 20;
/// The most bytes that the files of one archive may unpack to, together.
pub const ARCHIVE_MAX_BYTES: usize = 64 << 20;
/// The most files in one archive.
pub const ARCHIVE_MAX_FILES: usize = 10_000;

/// Says why a file gave no articles.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// A format that is known but cannot be read yet.
    #[error("{0} is not supported yet")]
    NotYet(&'static str),
    /// A name that says nothing about the format.
    #[error("unknown file type: use md, txt, html, csv, json or zip of these")]
    UnknownType,
    /// The content is of another type than the name says.
    #[error("file is named {named} but its content is {content}")]
    WrongType {
        /// What the name says.
        named: String,
        /// What it is.
        content: &'static str,
    },
    /// The text is not UTF-8.
    #[error("text is not valid UTF-8 (byte {0})")]
    NotUtf8(usize),
    /// There is nothing to read in it.
    #[error("file holds no text")]
    Empty,
    /// Too many bytes.
    #[error("file is larger than {} MiB", .0 >> 20)]
    TooLarge(usize),
    /// The table cannot be read.
    #[error("csv: {0}")]
    Csv(String),
    /// The JSON cannot be read.
    #[error("json: {0}")]
    Json(String),
    /// The archive cannot be read.
    #[error("zip: {0}")]
    Zip(String),
    /// The archive unpacks to too much.
    #[error("zip unpacks to more than {} MiB", .0 >> 20)]
    ArchiveTooLarge(usize),
    /// The archive has too many files.
    #[error("zip holds more than {0} files")]
    ArchiveTooMany(usize),
    /// An archive within an archive.
    #[error("zip within a zip is not read")]
    NestedArchive,
}

/// What became of one file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileOutcome {
    /// Its name as uploaded; for a file in an archive, `archive/name`.
    pub file: String,
    /// Its articles, or why there are none.
    pub result: Result<Vec<Article>, FileError>,
}

/// The types that are told apart by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileType {
    Markdown,
    Text,
    Html,
    Csv,
    Json,
    Zip,
    Pdf,
    Docx,
}

/// Reads one uploaded file.
///
/// # Blocking
/// Parses everything: up to a second for the largest archive.
pub fn read_file(name: &str, bytes: &[u8]) -> Vec<FileOutcome> {
    if file_type(name) == Some(FileType::Zip) && bytes.starts_with(b"PK") {
        return archive::read(name, bytes);
    }
    vec![FileOutcome { file: name.to_owned(), result: read_single(name, bytes) }]
}

/// Reads a file that is no archive.
fn read_single(name: &str, bytes: &[u8]) -> Result<Vec<Article>, FileError> {
    let file_type = file_type(name).ok_or(FileError::UnknownType)?;
    match file_type {
        FileType::Pdf => return Err(FileError::NotYet("pdf")),
        FileType::Docx => return Err(FileError::NotYet("docx")),
        _ => {}
    }
    if bytes.len() > FILE_MAX_BYTES {
        return Err(FileError::TooLarge(FILE_MAX_BYTES));
    }
    if let Some(content) = binary_content(bytes) {
        return Err(FileError::WrongType { named: extension(name), content });
    }
    if file_type == FileType::Zip {
        return Err(FileError::WrongType { named: extension(name), content: "not a zip archive" });
    }
    let text = std::str::from_utf8(bytes).map_err(|error| FileError::NotUtf8(error.valid_up_to()))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(FileError::Empty);
    }
    let stem = stem(name);
    let articles = match file_type {
        FileType::Markdown => vec![Article::from_markdown(stem, text)],
        FileType::Text => vec![plain_article(stem, text)],
        FileType::Html => vec![html::read(stem, text)],
        FileType::Csv => table::read_csv(stem, text)?,
        FileType::Json => table::read_json(stem, text)?,
        FileType::Zip | FileType::Pdf | FileType::Docx => unreachable!("answered above"),
    };
    if articles.iter().all(|article| article.body.trim().is_empty()) {
        return Err(FileError::Empty);
    }
    Ok(articles)
}

/// A text file's title is its name, unless a short first line stands alone as one.
fn plain_article(stem: &str, text: &str) -> Article {
    const TITLE_MAX_CHARS: usize = 100;
    let text = text.trim().replace("\r\n", "\n");
    let titled = text.split_once('\n').filter(|(first, rest)| {
        first.trim().chars().count() <= TITLE_MAX_CHARS
            && !first.trim_end().ends_with('.')
            && rest.starts_with('\n')
            && !rest.trim().is_empty()
    });
    let (title, body) = match titled {
        Some((first, rest)) => (first.trim().to_owned(), rest.trim().to_owned()),
        None => (stem.replace(['-', '_'], " "), text.clone()),
    };
    Article { id: id_of(stem), title, category: None, updated: None, format: Format::Text, body }
}

/// Returns `name` if it may name an article, else its slug.
fn id_of(name: &str) -> String {
    if is_id(name) { name.to_owned() } else { slug(name) }
}

fn file_type(name: &str) -> Option<FileType> {
    Some(match extension(name).as_str() {
        "md" | "markdown" => FileType::Markdown,
        "txt" | "text" => FileType::Text,
        "html" | "htm" | "xhtml" => FileType::Html,
        "csv" => FileType::Csv,
        "json" => FileType::Json,
        "zip" => FileType::Zip,
        "pdf" => FileType::Pdf,
        "docx" => FileType::Docx,
        _ => return None,
    })
}

fn extension(name: &str) -> String {
    file_name(name).rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase()).unwrap_or_default()
}

fn stem(name: &str) -> &str {
    let name = file_name(name);
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn file_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// Names content that cannot be text, whatever the file's name says.
fn binary_content(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(&[u8], &str); 8] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"%PDF-", "a pdf document"),
        (b"\x89PNG", "a png image"),
        (b"\xff\xd8\xff", "a jpeg image"),
        (b"GIF8", "a gif image"),
        (b"\x1f\x8b", "gzip data"),
        (b"\x7fELF", "a program"),
        (b"\xd0\xcf\x11\xe0", "an old office document"),
    ];
    let known =
        SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)).map(|(_, content)| *content);
    known.or_else(|| bytes.contains(&0).then_some("binary data"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(name: &str, bytes: &[u8], expected: &str) {
        let error = read_single(name, bytes).unwrap_err();
        assert_eq!(error.to_string(), expected, "{name}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        check_error("a.pdf", b"%PDF-1.7", "pdf is not supported yet");
        check_error("a.docx", b"PK\x03\x04", "docx is not supported yet");
        check_error("a.exe", b"MZ", "unknown file type: use md, txt, html, csv, json or zip of these");
        check_error(
            "noextension",
            b"text",
            "unknown file type: use md, txt, html, csv, json or zip of these",
        );
        check_error("a.md", b"\x89PNG\r\n", "file is named md but its content is a png image");
        check_error("a.txt", b"abc\0def", "file is named txt but its content is binary data");
        check_error("a.zip", b"hello", "file is named zip but its content is not a zip archive");
        check_error("a.md", b"caf\xe9", "text is not valid UTF-8 (byte 3)");
        check_error("a.md", b" \n", "file holds no text");
        check_error("a.md", b"---\nid: x\n---\n", "file holds no text");
        check_error("a.txt", &vec![b'a'; FILE_MAX_BYTES + 1], "file is larger than 8 MiB");
    }

    #[test]
    fn a_text_file_is_titled_by_its_lone_first_line_or_its_name() {
        let article = read_single("dir/lost bags.txt", b"Lost bags\n\nReport them.\n").unwrap().remove(0);
        assert_eq!((article.id.as_str(), article.title.as_str()), ("lost-bags", "Lost bags"));
        assert_eq!(article.body, "Report them.");
        let article = read_single("lost-bags.txt", b"Report them at once.\nThen wait.").unwrap().remove(0);
        assert_eq!((article.id.as_str(), article.title.as_str()), ("lost-bags", "lost bags"));
    }
}
