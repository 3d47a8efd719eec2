//! A zip of files. Sizes are counted while unpacking: what the archive says of itself is not
//! believed.

use std::io::Cursor;
use std::io::Read;

use zip::ZipArchive;

use super::ARCHIVE_MAX_BYTES;
use super::ARCHIVE_MAX_FILES;
use super::FILE_MAX_BYTES;
use super::FileError;
use super::FileOutcome;
use super::file_name;
use super::read_single;

/// Reads every file of the archive; hidden files and folders are passed over.
pub(super) fn read(name: &str, bytes: &[u8]) -> Vec<FileOutcome> {
    let whole = |error| vec![FileOutcome { file: name.to_owned(), result: Err(error) }];
    let mut archive = match ZipArchive::new(Cursor::new(bytes)) {
        Ok(archive) => archive,
        Err(error) => return whole(FileError::Zip(error.to_string())),
    };
    if archive.len() > ARCHIVE_MAX_FILES {
        return whole(FileError::ArchiveTooMany(ARCHIVE_MAX_FILES));
    }
    let mut outcomes = Vec::new();
    let mut unpacked = 0;
    for at in 0..archive.len() {
        let (entry_name, content) = match entry(&mut archive, at) {
            Ok(Some(entry)) => entry,
            Ok(None) => continue,
            Err((entry_name, error)) => {
                outcomes.push(FileOutcome { file: format!("{name}/{entry_name}"), result: Err(error) });
                continue;
            }
        };
        unpacked += content.len();
        if unpacked > ARCHIVE_MAX_BYTES {
            outcomes.push(FileOutcome {
                file: name.to_owned(),
                result: Err(FileError::ArchiveTooLarge(ARCHIVE_MAX_BYTES)),
            });
            return outcomes;
        }
        let is_archive =
            content.starts_with(b"PK\x03\x04") && entry_name.to_ascii_lowercase().ends_with(".zip");
        let result =
            if is_archive { Err(FileError::NestedArchive) } else { read_single(&entry_name, &content) };
        outcomes.push(FileOutcome { file: format!("{name}/{entry_name}"), result });
    }
    if outcomes.is_empty() {
        return whole(FileError::Empty);
    }
    outcomes
}

/// A file of an archive: its name and content.
type Entry = (String, Vec<u8>);

/// Unpacks one entry, at most one byte more than a file may have.
fn entry(archive: &mut ZipArchive<Cursor<&[u8]>>, at: usize) -> Result<Option<Entry>, (String, FileError)> {
    let unnamed = |error: zip::result::ZipError| (format!("entry {at}"), FileError::Zip(error.to_string()));
    let file = archive.by_index(at).map_err(unnamed)?;
    let entry_name = file.name().map_err(unnamed)?.into_owned();
    let is_hidden = file_name(&entry_name).starts_with('.') || entry_name.starts_with("__MACOSX/");
    if !file.is_file() || is_hidden {
        return Ok(None);
    }
    let mut content = Vec::new();
    let limit = FILE_MAX_BYTES as u64 + 1;
    match file.take(limit).read_to_end(&mut content) {
        Ok(_) if content.len() > FILE_MAX_BYTES => Err((entry_name, FileError::TooLarge(FILE_MAX_BYTES))),
        Ok(_) => Ok(Some((entry_name, content))),
        Err(error) => Err((entry_name, FileError::Zip(error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn packed(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in files {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn results(outcomes: Vec<FileOutcome>) -> Vec<(String, String)> {
        outcomes
            .into_iter()
            .map(|outcome| {
                let text = match outcome.result {
                    Ok(articles) => format!("{} articles", articles.len()),
                    Err(error) => error.to_string(),
                };
                (outcome.file, text)
            })
            .collect()
    }

    #[test]
    fn good_files_are_read_beside_bad_ones() {
        let inner = packed(&[("a.md", b"# A\n\nText.")]);
        let bytes = packed(&[
            ("help/one.md", b"# One\n\nText."),
            ("inner.zip", &inner),
            ("fake.md", b"\x89PNG...."),
            (".DS_Store", b"\0"),
            ("two.txt", b"Text of two"),
        ]);
        let found = results(read("all.zip", &bytes));
        let expected = [
            ("all.zip/help/one.md", "1 articles"),
            ("all.zip/inner.zip", "zip within a zip is not read"),
            ("all.zip/fake.md", "file is named md but its content is a png image"),
            ("all.zip/two.txt", "1 articles"),
        ];
        assert_eq!(found, expected.map(|(file, text)| (file.to_owned(), text.to_owned())));
    }

    #[test]
    fn a_bomb_is_cut_at_the_limit() {
        let endless = vec![b'a'; FILE_MAX_BYTES + 1];
        let bytes = packed(&[("endless.txt", &endless), ("fine.txt", b"Fine.")]);
        assert!(bytes.len() < FILE_MAX_BYTES / 100);
        let found = results(read("bomb.zip", &bytes));
        assert_eq!(found[0].1, "file is larger than 8 MiB");
        assert_eq!(found[1].1, "1 articles");
    }

    #[test]
    fn many_large_files_are_cut_together() {
        let large = vec![b'a'; FILE_MAX_BYTES];
        let names: Vec<String> = (0..10).map(|at| format!("{at}.bin")).collect();
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), large.as_slice())).collect();
        let found = read("bomb.zip", &packed(&files));
        assert_eq!(found.last().unwrap().result, Err(FileError::ArchiveTooLarge(ARCHIVE_MAX_BYTES)));
    }

    #[test]
    fn a_cut_archive_is_named() {
        let bytes = packed(&[("one.md", b"# One")]);
        let found = results(read("cut.zip", &bytes[..bytes.len() / 2]));
        assert!(found[0].1.starts_with("zip: "), "{found:?}");
    }
}
