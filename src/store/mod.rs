//! What must survive: events, calls, knowledge, terms, users, in one SQLite file (sqlx).

pub mod articles;
pub mod calls;
pub mod cards;
mod events;
pub mod identity;
pub mod imports;
pub mod keys;
pub mod knowledge;
pub mod password;
pub mod secret;
pub mod sessions;
pub mod terms;
pub mod users;
pub mod versions;
mod writer;

pub use writer::Append;
pub use writer::Entry;

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migration;
use sqlx::migrate::MigrationType;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::sqlite::SqliteJournalMode;
use sqlx::sqlite::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::sqlite::SqliteSynchronous;

use crate::event::CallKey;

/// The migrations, in order; never edited once merged.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "calls", include_str!("../../migrations/0001_calls.sql")),
    (2, "knowledge", include_str!("../../migrations/0002_knowledge.sql")),
    (3, "users", include_str!("../../migrations/0003_users.sql")),
    (4, "search", include_str!("../../migrations/0004_search.sql")),
];

/// Says why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or failed.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error("database migration: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A value could not be written as JSON or read back.
    #[error("stored json: {0}")]
    Json(#[from] serde_json::Error),
    /// A stored value is not what was written.
    #[error("the stored {what} of call {} is damaged", key.call)]
    Damaged {
        /// The call.
        key: CallKey,
        /// What cannot be read.
        what: &'static str,
    },
    /// The writer has stopped: the server is going down.
    #[error("the store is stopped")]
    Stopped,
}

/// The database. Clones share one pool and one log writer.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) pool: SqlitePool,
    writer: writer::Writer,
}

impl Store {
    /// Opens the SQLite file at `path`, creating and migrating it, and starts the log writer on
    /// the current runtime.
    ///
    /// # Errors
    /// When the file cannot be opened or a migration fails.
    pub async fn open(path: &Path) -> Result<Store, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Acknowledged means on disk: WAL with FULL syncs the log at every commit.
            .synchronous(SqliteSynchronous::Full)
            // An import writes for seconds; calls wait for it and must not fail.
            .busy_timeout(Duration::from_secs(30));
        let pool = SqlitePoolOptions::new().max_connections(8).connect_with(options).await?;
        let migrations = MIGRATIONS
            .iter()
            .map(|&(version, name, sql)| {
                Migration::new(
                    version,
                    Cow::Borrowed(name),
                    MigrationType::Simple,
                    sqlx::SqlStr::from_static(sql),
                    false,
                )
            })
            .collect();
        let migrator = Migrator { migrations: Cow::Owned(migrations), ..Migrator::DEFAULT };
        migrator.run(&pool).await?;
        Ok(Store { writer: writer::Writer::start(pool.clone()), pool })
    }

    /// Waits for what is under way and closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
