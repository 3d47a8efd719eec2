//! The index of one version of one base: built once, never changed, opened from its folder.
//!
//! One tantivy document for each passage, in one segment, so that a passage's number there is its
//! only address. A `stamp` file is written last and names the content; a folder without the right
//! stamp is stale or half built and is built again from the store.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;
use tantivy::DocAddress;
use tantivy::Index;
use tantivy::ReloadPolicy;
use tantivy::Searcher;
use tantivy::TantivyDocument;
use tantivy::directory::MmapDirectory;
use tantivy::schema::FAST;
use tantivy::schema::Field;
use tantivy::schema::IndexRecordOption;
use tantivy::schema::STORED;
use tantivy::schema::Schema;
use tantivy::schema::TextFieldIndexing;
use tantivy::schema::TextOptions;
use tantivy::schema::Value;
use tantivy::tokenizer::TokenizerManager;

use crate::knowledge::article::Article;
use crate::knowledge::passage::passages;
use crate::knowledge::term::analyzer;

/// Changes whenever passages, terms or fields change, so that older folders are built again.
const LAYOUT: &str = "1";
/// The file that says what the folder holds.
const STAMP: &str = "stamp";
/// The tokenizer's name inside tantivy.
const TOKENIZER: &str = "terms";
/// The memory tantivy sizes its term table by, in bytes; it grows if it must.
const WRITER_BYTES: usize = 16 << 20;

/// Says why an index cannot be built or opened.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The folder was built from something else, or not to its end.
    #[error("index {0} is missing or stale")]
    Stale(PathBuf),
    /// A file of the index is not what was written.
    #[error("index {0} is damaged")]
    Damaged(PathBuf),
    /// The folder cannot be read or written.
    #[error("cannot use index folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The search library failed.
    #[error("search library: {0}")]
    Library(#[from] tantivy::TantivyError),
}

/// Names what an index was built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edition {
    /// The tenant it belongs to.
    pub tenant: String,
    /// The base.
    pub base: String,
    /// The base's version.
    pub version: u64,
    /// A digest of the version's articles.
    pub digest: String,
}

impl Edition {
    /// Says what was built and what its files hold. Tantivy panics on a cut file, so they are
    /// checked before it sees them.
    fn stamp(&self, folder: &Path) -> io::Result<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.retain(|name| name != STAMP && !name.to_string_lossy().starts_with('.'));
        names.sort();
        let mut hasher = Sha256::new();
        for name in names {
            hasher.update(name.as_encoded_bytes());
            hasher.update(Sha256::digest(fs::read(folder.join(name))?));
        }
        Ok(format!("{LAYOUT}\n{}\n{}\n", self.digest, hex::encode(hasher.finalize())))
    }
}

/// The fields of a passage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields {
    pub article: Field,
    pub ordinal: Field,
    pub number: Field,
    pub title: Field,
    pub heading: Field,
    pub text: Field,
}

impl Fields {
    fn schema() -> (Schema, Fields) {
        let indexing = TextFieldIndexing::default()
            .set_tokenizer(TOKENIZER)
            .set_index_option(IndexRecordOption::WithFreqs);
        let searched = TextOptions::default().set_indexing_options(indexing).set_stored();
        let mut schema = Schema::builder();
        let fields = Fields {
            article: schema.add_text_field("article", STORED),
            ordinal: schema.add_u64_field("ordinal", FAST),
            number: schema.add_u64_field("number", STORED),
            title: schema.add_text_field("title", searched.clone()),
            heading: schema.add_text_field("heading", searched.clone()),
            text: schema.add_text_field("text", searched),
        };
        (schema.build(), fields)
    }
}

/// A passage as it was indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredPassage {
    pub article: String,
    pub number: u64,
    pub title: String,
    pub text: String,
}

/// An open index. Searching it never sees anything but its own edition.
pub struct BaseIndex {
    /// What it was built from.
    pub edition: Edition,
    pub(super) searcher: Searcher,
    pub(super) fields: Fields,
    /// The article of each passage, as a number from 0.
    pub(super) article_of: Vec<u32>,
    /// How many articles have passages.
    pub(super) article_count: usize,
    /// How long each passage is against their average.
    pub(super) passage_lengths: Vec<f32>,
    /// How long each article is against their average.
    pub(super) article_lengths: Vec<f32>,
}

impl std::fmt::Debug for BaseIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseIndex").field("edition", &self.edition).finish_non_exhaustive()
    }
}

impl BaseIndex {
    /// Builds the index of `articles` in `folder`, in place of whatever is there, and opens it.
    ///
    /// It is built beside `folder` and moved there when it is whole.
    ///
    /// # Errors
    /// When the folder cannot be written or the search library fails.
    ///
    /// # Blocking
    /// About a millisecond for each article.
    pub fn build(folder: &Path, edition: Edition, articles: &[Article]) -> Result<BaseIndex, IndexError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| IndexError::Folder { path, source }
        };
        let building = folder.with_extension("building");
        remove_folder(&building).map_err(at(&building))?;
        fs::create_dir_all(&building).map_err(at(&building))?;
        write_passages(&building, articles)?;
        let stamp = edition.stamp(&building).map_err(at(&building))?;
        fs::write(building.join(STAMP), stamp).map_err(at(&building))?;
        remove_folder(folder).map_err(at(folder))?;
        fs::rename(&building, folder).map_err(at(folder))?;
        BaseIndex::open(folder, edition)
    }

    /// Opens the index in `folder` if it is the one of `edition` and whole.
    ///
    /// # Errors
    /// [`IndexError::Stale`] or [`IndexError::Damaged`] when it must be built again.
    ///
    /// # Blocking
    /// Reads every file once to check it: about a millisecond for a small base.
    pub fn open(folder: &Path, edition: Edition) -> Result<BaseIndex, IndexError> {
        let stamp = fs::read_to_string(folder.join(STAMP)).unwrap_or_default();
        if !stamp.starts_with(&format!("{LAYOUT}\n{}\n", edition.digest)) {
            return Err(IndexError::Stale(folder.to_owned()));
        }
        if edition.stamp(folder).ok().as_ref() != Some(&stamp) {
            return Err(IndexError::Damaged(folder.to_owned()));
        }
        let damaged = |_| IndexError::Damaged(folder.to_owned());
        let index = Index::open_in_dir(folder).map_err(damaged)?;
        let (schema, fields) = Fields::schema();
        if index.schema() != schema {
            return Err(IndexError::Damaged(folder.to_owned()));
        }
        // The index never changes, so nothing has to watch its folder.
        let reader =
            index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(damaged)?;
        let searcher = reader.searcher();
        let mut article_of = Vec::new();
        let mut passage_lengths = Vec::new();
        if let Some(segment) = searcher.segment_readers().first() {
            let ordinals = segment.fast_fields().u64("ordinal")?.first_or_default_col(0);
            let lengths = segment.get_fieldnorms_reader(fields.text)?;
            for passage in 0..segment.max_doc() {
                article_of.push(ordinals.get_val(passage) as u32);
                passage_lengths.push(lengths.fieldnorm(passage) as f32);
            }
        }
        let article_count = article_of.iter().max().map_or(0, |&last| last as usize + 1);
        let mut article_lengths = vec![0.0; article_count];
        for (&article, length) in article_of.iter().zip(&passage_lengths) {
            article_lengths[article as usize] += length;
        }
        divide_by_average(&mut passage_lengths);
        divide_by_average(&mut article_lengths);
        Ok(BaseIndex {
            edition,
            searcher,
            fields,
            article_of,
            article_count,
            passage_lengths,
            article_lengths,
        })
    }

    /// Returns how many passages are indexed.
    pub fn passage_count(&self) -> usize {
        self.article_of.len()
    }

    /// Reads one passage back.
    pub(super) fn passage(&self, number: u32) -> Result<StoredPassage, tantivy::TantivyError> {
        let document: TantivyDocument = self.searcher.doc(DocAddress::new(0, number))?;
        let text = |field: Field| {
            document.get_first(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
        };
        Ok(StoredPassage {
            article: text(self.fields.article),
            number: document
                .get_first(self.fields.number)
                .and_then(|value| value.as_u64())
                .unwrap_or_default(),
            title: text(self.fields.title),
            text: text(self.fields.text),
        })
    }
}

fn write_passages(folder: &Path, articles: &[Article]) -> Result<(), tantivy::TantivyError> {
    let (schema, fields) = Fields::schema();
    let tokenizers = TokenizerManager::default();
    tokenizers.register(TOKENIZER, analyzer());
    let directory = MmapDirectory::open(folder)?;
    let mut writer = Index::builder()
        .schema(schema)
        .tokenizers(tokenizers)
        .single_segment_index_writer(directory, WRITER_BYTES)?;
    for (ordinal, article) in articles.iter().enumerate() {
        for (number, passage) in passages(article).into_iter().enumerate() {
            let mut document = TantivyDocument::new();
            document.add_text(fields.article, &article.id);
            document.add_u64(fields.ordinal, ordinal as u64);
            document.add_u64(fields.number, number as u64 + 1);
            document.add_text(fields.title, &article.title);
            document.add_text(fields.heading, &passage.heading);
            document.add_text(fields.text, &passage.text);
            writer.add_document(document)?;
        }
    }
    writer.finalize()?;
    Ok(())
}

fn divide_by_average(lengths: &mut [f32]) {
    let average = lengths.iter().sum::<f32>() / lengths.len().max(1) as f32;
    for length in lengths {
        *length /= average.max(1.0);
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
