//! A company's folder: the articles of its knowledge base, and labelled calls and queries.
//!
//! ```text
//! <base>/articles/<id>.md             front matter (`key: rest of line`), then Markdown
//! <base>/calls.{train,dev}.jsonl      one call a line
//! <base>/queries.{train,dev}.jsonl    {"text", "relevant": [article ids]}
//! ```

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::corpus::dialogue::Dialogue;
use crate::corpus::rows;
use crate::corpus::rows::RowError;

/// One article of a company's knowledge base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Article {
    /// Its id, the file's stem where the front matter has none.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Where it belongs, as people name it.
    pub category: String,
    /// The day of its last change, as written.
    pub updated: String,
    /// The Markdown after the front matter.
    pub text: String,
}

/// A question with the articles that answer it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Query {
    /// The question as a person writes it.
    pub text: String,
    /// The ids of the articles that answer it.
    pub relevant: Vec<String>,
}

/// Which part of the labelled rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// To measure and choose on.
    Dev,
}

/// Says what of a company's folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The folder or one of its articles cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A labelled row cannot be read.
    #[error(transparent)]
    Row(#[from] RowError),
}

/// A company's folder.
#[derive(Debug, Clone)]
pub struct Company {
    /// The folder's name, which is the id of the knowledge base.
    pub base: String,
    folder: PathBuf,
}

/// Finds the companies of a folder, in the order of their names: every folder that has articles.
///
/// # Errors
/// [`ServiceError::Read`] when the folder cannot be listed.
pub fn companies(root: &Path) -> Result<Vec<Company>, ServiceError> {
    let mut found: Vec<Company> =
        list(root)?.into_iter().filter(|path| path.join("articles").is_dir()).map(Company::new).collect();
    found.sort_by(|a, b| a.base.cmp(&b.base));
    Ok(found)
}

impl Company {
    /// Takes a folder for a company's.
    pub fn new(folder: PathBuf) -> Self {
        let base = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { base, folder }
    }

    /// Reads the articles, in the order of their file names.
    ///
    /// # Errors
    /// [`ServiceError::Read`] names the folder or the article.
    pub fn articles(&self) -> Result<Vec<Article>, ServiceError> {
        let mut articles = Vec::new();
        for path in list(&self.folder.join("articles"))? {
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let markdown = fs::read_to_string(&path)
                .map_err(|source| ServiceError::Read { path: path.clone(), source })?;
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            articles.push(parse_article(&stem.unwrap_or_default(), &markdown));
        }
        Ok(articles)
    }

    /// Reads the labelled calls of one split.
    ///
    /// # Errors
    /// The first row that cannot be read.
    pub fn calls(&self, split: Split) -> Result<Vec<Dialogue>, ServiceError> {
        self.rows("calls", split)
    }

    /// Reads the labelled queries of one split.
    ///
    /// # Errors
    /// The first row that cannot be read.
    pub fn queries(&self, split: Split) -> Result<Vec<Query>, ServiceError> {
        self.rows("queries", split)
    }

    fn rows<T: DeserializeOwned>(&self, kind: &str, split: Split) -> Result<Vec<T>, ServiceError> {
        let split = match split {
            Split::Train => "train",
            Split::Dev => "dev",
        };
        let rows = rows::read(&self.folder.join(format!("{kind}.{split}.jsonl")))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Takes a missing file for one without rows.
///
/// # Errors
/// Every other error of `rows`.
pub fn or_none<T>(rows: Result<Vec<T>, ServiceError>) -> Result<Vec<T>, ServiceError> {
    match rows {
        Err(ServiceError::Row(RowError::Open { source, .. })) if source.kind() == io::ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        rows => rows,
    }
}

/// Takes an article apart: front matter between two lines of `---`, then the text.
///
/// Front matter is read line by line as `key: rest of line`, not as YAML, since titles hold colons.
/// Without front matter the first heading is the title.
pub fn parse_article(stem: &str, markdown: &str) -> Article {
    let markdown = markdown.trim_start_matches('\u{feff}');
    let mut article = Article {
        id: stem.to_owned(),
        title: String::new(),
        category: String::new(),
        updated: String::new(),
        text: String::new(),
    };
    let mut text = markdown;
    if let Some((head, rest)) = markdown
        .strip_prefix("---")
        .and_then(|rest| rest.trim_start_matches('\r').strip_prefix('\n'))
        .and_then(|rest| rest.split_once("\n---"))
    {
        text = rest.split_once('\n').map_or("", |(_, text)| text);
        for line in head.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let field = match key.trim() {
                "id" => &mut article.id,
                "title" => &mut article.title,
                "category" => &mut article.category,
                "updated" => &mut article.updated,
                _ => continue,
            };
            *field = value.trim().to_owned();
        }
    }
    article.text = text.trim().to_owned();
    if article.title.is_empty() {
        let heading = article.text.lines().find_map(|line| line.strip_prefix("# "));
        article.title = heading.unwrap_or(stem).trim().to_owned();
    }
    article
}

/// Lists a folder, sorted.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ServiceError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let mut paths =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(|source| ServiceError::Read { path: folder.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_may_hold_a_colon() {
        let article = parse_article(
            "x",
            "---\nid: tel-a\ntitle: Roaming: EU – how\ncategory: Plans\nupdated: 2026-01-20\n---\n# R\n\nText.\n",
        );
        assert_eq!(article.id, "tel-a");
        assert_eq!(article.title, "Roaming: EU – how");
        assert_eq!(article.updated, "2026-01-20");
        assert_eq!(article.text, "# R\n\nText.");
    }

    #[test]
    fn without_front_matter_the_heading_is_the_title() {
        let article = parse_article("fees", "# What it costs\n\nNothing.");
        assert_eq!((article.id.as_str(), article.title.as_str()), ("fees", "What it costs"));
        assert_eq!(parse_article("fees", "Nothing.").title, "fees");
    }

    #[test]
    fn a_company_is_read_from_its_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("tel");
        fs::create_dir_all(folder.join("articles")).unwrap();
        fs::create_dir(root.path().join("other")).unwrap();
        fs::write(folder.join("articles/b.md"), "# B").unwrap();
        fs::write(folder.join("articles/a.md"), "# A").unwrap();
        fs::write(folder.join("articles/notes.txt"), "no").unwrap();
        fs::write(folder.join("calls.dev.jsonl"), r#"{"id":"c","turns":[{"speaker":"agent","text":"hi"}]}"#)
            .unwrap();
        fs::write(folder.join("queries.train.jsonl"), r#"{"text":"q","relevant":["a"]}"#).unwrap();

        let companies = companies(root.path()).unwrap();
        assert_eq!(companies.len(), 1);
        let tel = &companies[0];
        assert_eq!(tel.base, "tel");
        let ids: Vec<String> = tel.articles().unwrap().into_iter().map(|article| article.id).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(tel.calls(Split::Dev).unwrap()[0].id, "c");
        assert_eq!(tel.queries(Split::Train).unwrap()[0].relevant, ["a"]);
        assert!(matches!(tel.calls(Split::Train), Err(ServiceError::Row(RowError::Open { .. }))));
        assert!(or_none(tel.calls(Split::Train)).unwrap().is_empty());
    }
}
