//! The store's knowledge and the search index kept in step: seeds, imports, changes, rollback.
//!
//! The store is the truth. A change makes a version in the store, builds its index beside the one
//! that is searched, marks it active in the store, and only then lets searches see it. What is
//! interrupted leaves the old version active.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tracing::error;
use tracing::info;
use tracing::warn;

use crate::knowledge::Knowledge;
use crate::knowledge::KnowledgeError;
use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::import::FileOutcome;
use crate::knowledge::import::read_file;
use crate::knowledge::index::BaseIndex;
use crate::knowledge::index::Edition;
use crate::knowledge::passage::passages;
use crate::knowledge::seed::SeedError;
use crate::knowledge::seed::seeds;
use crate::store::Store;
use crate::store::StoreError;
use crate::store::imports::ImportFile;
use crate::store::imports::ImportState;
use crate::store::knowledge::StoredArticle;
use crate::store::versions::ArticleChanges;
use crate::store::versions::Version;

/// How many imports may wait. More are refused, so that uploads cannot fill the disk.
const QUEUE_LENGTH: usize = 32;

/// Says why knowledge could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The tenant has no such base.
    #[error("knowledge base {0} does not exist")]
    NoBase(String),
    /// The base has no such version.
    #[error("knowledge base {base} has no version {version}")]
    NoVersion {
        /// The base.
        base: String,
        /// The version.
        version: u64,
    },
    /// The base has no such article.
    #[error("knowledge base {base} has no article {article}")]
    NoArticle {
        /// The base.
        base: String,
        /// The article.
        article: String,
    },
    /// Too many imports wait.
    #[error("{QUEUE_LENGTH} imports are waiting: try again when some are done")]
    Busy,
    /// The upload folder cannot be used.
    #[error("cannot use upload folder {path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The embedded bases cannot be read.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index failed.
    #[error(transparent)]
    Knowledge(#[from] KnowledgeError),
    /// Work on another thread died.
    #[error("background work stopped: {0}")]
    Stopped(#[from] tokio::task::JoinError),
}

/// A folder of files on their way in, removed when it is dropped.
#[derive(Debug)]
pub struct Upload {
    folder: PathBuf,
    files: Vec<(String, PathBuf)>,
}

impl Upload {
    /// Returns the path at which to write the next file, and remembers its name.
    pub fn add(&mut self, name: &str) -> PathBuf {
        let path = self.folder.join(self.files.len().to_string());
        self.files.push((name.to_owned(), path.clone()));
        path
    }

    /// Returns whether no file was added.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            warn!(%error, "upload folder is not removed");
        }
    }
}

struct Job {
    tenant: String,
    base: String,
    number: u64,
    upload: Upload,
}

/// Knowledge that can be changed. Clones share it.
#[derive(Clone)]
pub struct Library {
    store: Store,
    knowledge: Knowledge,
    uploads: Arc<PathBuf>,
    /// Bounded: a full queue refuses the next import.
    queue: mpsc::Sender<Job>,
    /// Held from making a version to activating it, so that changes follow one another.
    changing: Arc<Mutex<()>>,
    /// Changes whenever an import got further. Only the last value is kept: watchers read the store.
    progress: Arc<watch::Sender<u64>>,
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("knowledge", &self.knowledge).finish_non_exhaustive()
    }
}

impl Library {
    /// Opens the indexes of all active versions under `data_dir`, building those that are missing,
    /// stale or damaged, and starts the task that imports.
    ///
    /// Imports and versions that a stop of the process interrupted are given up by name.
    ///
    /// # Errors
    /// When the store fails or an index cannot be built.
    pub async fn open(store: Store, data_dir: &Path) -> Result<Library, LibraryError> {
        let uploads = data_dir.join("uploads");
        let emptied = match fs::remove_dir_all(&uploads) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(source),
            _ => fs::create_dir_all(&uploads),
        };
        emptied.map_err(|source| LibraryError::Folder { path: uploads.clone(), source })?;
        store.drop_unfinished_versions().await?;
        store.fail_unfinished_imports("interrupted by a restart: upload the files again").await?;
        let (queue, jobs) = mpsc::channel(QUEUE_LENGTH);
        let library = Library {
            knowledge: Knowledge::new(&data_dir.join("index")),
            store,
            uploads: Arc::new(uploads),
            queue,
            changing: Arc::default(),
            progress: Arc::new(watch::Sender::new(0)),
        };
        library.open_active().await?;
        // The task ends when the last clone of the library, and with it the queue, is gone.
        tokio::spawn(import_all(library.without_queue(), jobs));
        Ok(library)
    }

    /// Opens what is active, to search it: nothing is cleaned up and nothing can be imported, so a
    /// server may use the same folder.
    ///
    /// # Errors
    /// When the store fails or an index cannot be built.
    pub async fn view(store: Store, data_dir: &Path) -> Result<Knowledge, LibraryError> {
        let (queue, _) = mpsc::channel(1);
        let library = Library {
            knowledge: Knowledge::new(&data_dir.join("index")),
            store,
            uploads: Arc::default(),
            queue,
            changing: Arc::default(),
            progress: Arc::new(watch::Sender::new(0)),
        };
        library.open_active().await?;
        Ok(library.knowledge)
    }

    async fn open_active(&self) -> Result<(), LibraryError> {
        for active in self.store.active_versions().await? {
            let edition = Edition {
                tenant: active.tenant,
                base: active.base,
                version: active.version,
                digest: active.digest,
            };
            self.knowledge.activate(self.prepare(edition).await?);
        }
        Ok(())
    }

    /// Returns the handle to search with.
    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// Returns a receiver that changes whenever an import got further.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Imports every embedded base that the tenant does not have yet.
    ///
    /// # Errors
    /// When the store fails or an index cannot be built.
    pub async fn seed(&self, tenant: &str) -> Result<(), LibraryError> {
        for seed in seeds()? {
            if self.store.base(tenant, &seed.base).await?.is_some_and(|base| base.version.is_some()) {
                continue;
            }
            self.store.put_base(tenant, &seed.base, &seed.title, &seed.language).await?;
            let put = seed.articles.into_iter().map(stored).collect();
            self.change(tenant, &seed.base, "seed", ArticleChanges { put, ..ArticleChanges::default() })
                .await?;
        }
        Ok(())
    }

    /// Makes a new active version of a base. Running searches end in the old one, later ones see
    /// the new one.
    ///
    /// # Errors
    /// When the base does not exist or the index cannot be built; the old version stays active.
    pub async fn change(
        &self,
        tenant: &str,
        base: &str,
        reason: &str,
        changes: ArticleChanges,
    ) -> Result<Version, LibraryError> {
        let _changing = self.changing.lock().await;
        self.require_base(tenant, base).await?;
        let version = self.store.new_version(tenant, base, reason, &changes).await?;
        if version.state == "active" {
            return Ok(version);
        }
        let passages = match self.switch(tenant, base, &version).await {
            Ok(passages) => passages,
            Err(error) => {
                self.store.drop_unfinished_versions().await?;
                return Err(error);
            }
        };
        info!(
            tenant,
            base,
            version = version.version,
            articles = version.articles,
            "knowledge version is active"
        );
        Ok(Version { state: "active".to_owned(), passages, ..version })
    }

    /// Puts one article.
    ///
    /// # Errors
    /// As [`Library::change`].
    pub async fn put_article(
        &self,
        tenant: &str,
        base: &str,
        article: Article,
    ) -> Result<Version, LibraryError> {
        let reason = format!("put {}", article.id);
        let changes = ArticleChanges { put: vec![stored(article)], ..ArticleChanges::default() };
        self.change(tenant, base, &reason, changes).await
    }

    /// Leaves one article out.
    ///
    /// # Errors
    /// As [`Library::change`], and when there is no such article.
    pub async fn delete_article(
        &self,
        tenant: &str,
        base: &str,
        article: &str,
    ) -> Result<Version, LibraryError> {
        self.require_base(tenant, base).await?;
        if self.store.article(tenant, base, article).await?.is_none() {
            return Err(LibraryError::NoArticle { base: base.to_owned(), article: article.to_owned() });
        }
        let changes = ArticleChanges { delete: vec![article.to_owned()], ..ArticleChanges::default() };
        self.change(tenant, base, &format!("delete {article}"), changes).await
    }

    /// Makes an earlier or later version the active one.
    ///
    /// # Errors
    /// When there is no such version or its index cannot be built.
    pub async fn activate(&self, tenant: &str, base: &str, version: u64) -> Result<Version, LibraryError> {
        let _changing = self.changing.lock().await;
        self.require_base(tenant, base).await?;
        let versions = self.store.versions(tenant, base).await?;
        let found = versions.into_iter().find(|found| found.version == version && found.state != "building");
        let found = found.ok_or_else(|| LibraryError::NoVersion { base: base.to_owned(), version })?;
        let passages = self.switch(tenant, base, &found).await?;
        Ok(Version { state: "active".to_owned(), passages, ..found })
    }

    /// Makes an empty folder for files to import.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn upload(&self) -> Result<Upload, LibraryError> {
        let folder = self.uploads.join(hex::encode(rand::random::<[u8; 8]>()));
        fs::create_dir_all(&folder)
            .map_err(|source| LibraryError::Folder { path: folder.clone(), source })?;
        Ok(Upload { folder, files: Vec::new() })
    }

    /// Queues an upload for import and returns the import's id.
    ///
    /// # Errors
    /// When the base does not exist or too many imports wait.
    pub async fn import(&self, tenant: &str, base: &str, upload: Upload) -> Result<String, LibraryError> {
        self.require_base(tenant, base).await?;
        let place = self.queue.try_reserve().map_err(|_| LibraryError::Busy)?;
        let number = self.store.create_import(tenant, base).await?;
        place.send(Job { tenant: tenant.to_owned(), base: base.to_owned(), number, upload });
        Ok(format!("i-{number}"))
    }

    /// Builds or opens the version's index, then lets the store and the searches have it.
    async fn switch(&self, tenant: &str, base: &str, version: &Version) -> Result<u64, LibraryError> {
        let edition = Edition {
            tenant: tenant.to_owned(),
            base: base.to_owned(),
            version: version.version,
            digest: version.digest.clone(),
        };
        let index = self.prepare(edition).await?;
        let passages = index.passage_count() as u64;
        if !self.store.activate_version(tenant, base, version.version, passages).await? {
            return Err(LibraryError::NoVersion { base: base.to_owned(), version: version.version });
        }
        self.knowledge.activate(index);
        if let Err(error) = self.knowledge.sweep(tenant, base) {
            warn!(tenant, base, %error, "older indexes are not removed");
        }
        Ok(passages)
    }

    async fn prepare(&self, edition: Edition) -> Result<Arc<BaseIndex>, LibraryError> {
        let (store, knowledge, runtime) = (self.store.clone(), self.knowledge.clone(), Handle::current());
        let work = move || {
            let wanted = edition.clone();
            knowledge.prepare(edition, || {
                let articles = store.version_articles(&wanted.tenant, &wanted.base, wanted.version);
                Ok::<_, LibraryError>(runtime.block_on(articles)?.into_iter().map(article).collect())
            })
        };
        tokio::task::spawn_blocking(work).await?
    }

    async fn require_base(&self, tenant: &str, base: &str) -> Result<(), LibraryError> {
        match self.store.base(tenant, base).await? {
            Some(_) => Ok(()),
            None => Err(LibraryError::NoBase(base.to_owned())),
        }
    }

    /// Returns a library that cannot queue, for the task that works the queue off.
    fn without_queue(&self) -> Library {
        let (closed, _) = mpsc::channel(1);
        Library { queue: closed, ..self.clone() }
    }

    fn tell_progress(&self) {
        self.progress.send_modify(|count| *count += 1);
    }
}

/// Works the queue off, one import after the other.
async fn import_all(library: Library, mut jobs: mpsc::Receiver<Job>) {
    while let Some(job) = jobs.recv().await {
        let (tenant, number) = (job.tenant.clone(), job.number);
        let (state, version, reason) = match import(&library, job).await {
            Ok(Ok(version)) => (ImportState::Active, Some(version), None),
            Ok(Err(reason)) => (ImportState::Failed, None, Some(reason)),
            Err(error) => (ImportState::Failed, None, Some(error.to_string())),
        };
        if let Err(error) =
            library.store.set_import_state(&tenant, number, state, version, reason.as_deref()).await
        {
            error!(tenant, import = number, %error, "import has no result");
        }
        library.tell_progress();
    }
}

/// Reads the files of one upload and makes a version of what could be read. The inner error is
/// the uploader's, for the import's `error`.
async fn import(library: &Library, job: Job) -> Result<Result<u64, String>, LibraryError> {
    let store = &library.store;
    store.set_import_state(&job.tenant, job.number, ImportState::Reading, None, None).await?;
    library.tell_progress();
    let mut read_from: HashMap<String, String> = HashMap::new();
    let mut put = Vec::new();
    for (name, path) in job.upload.files.clone() {
        let outcomes = tokio::task::spawn_blocking(move || read_upload(&name, &path)).await?;
        let mut files = Vec::new();
        for outcome in outcomes {
            files.push(take_articles(outcome, &mut read_from, &mut put));
        }
        store.add_import_files(&job.tenant, job.number, &files).await?;
        library.tell_progress();
    }
    if put.is_empty() {
        return Ok(Err("no article could be read".to_owned()));
    }
    store.set_import_state(&job.tenant, job.number, ImportState::Indexing, None, None).await?;
    library.tell_progress();
    let reason = format!("import i-{}", job.number);
    let changes = ArticleChanges { put, ..ArticleChanges::default() };
    Ok(Ok(library.change(&job.tenant, &job.base, &reason, changes).await?.version))
}

fn read_upload(name: &str, path: &Path) -> Vec<FileOutcome> {
    match fs::read(path) {
        Ok(bytes) => read_file(name, &bytes),
        Err(error) => {
            warn!(%error, "uploaded file is not read");
            read_file(name, &[])
        }
    }
}

/// Takes the articles of one file. An id that an earlier file of the same import has is an error
/// of this file, since which of the two is meant cannot be known.
fn take_articles(
    outcome: FileOutcome,
    read_from: &mut HashMap<String, String>,
    put: &mut Vec<StoredArticle>,
) -> ImportFile {
    let mut file = ImportFile { file: outcome.file, articles: 0, passages: 0, error: None };
    let articles = match outcome.result {
        Ok(articles) => articles,
        Err(error) => return ImportFile { error: Some(error.to_string()), ..file },
    };
    for article in articles {
        if let Some(earlier) = read_from.get(&article.id) {
            file.error = Some(format!("article {} was already read from {earlier}", article.id));
            continue;
        }
        read_from.insert(article.id.clone(), file.file.clone());
        file.articles += 1;
        file.passages += passages(&article).len() as u64;
        put.push(stored(article));
    }
    file
}

/// Returns the article as the store has it.
pub fn stored(article: Article) -> StoredArticle {
    StoredArticle {
        id: article.id,
        title: article.title,
        category: article.category,
        updated: article.updated,
        format: article.format.as_str().to_owned(),
        body: article.body,
    }
}

/// Returns a stored article as an article.
pub fn article(stored: StoredArticle) -> Article {
    Article {
        id: stored.id,
        title: stored.title,
        category: stored.category,
        updated: stored.updated,
        format: Format::from_name(&stored.format),
        body: stored.body,
    }
}
