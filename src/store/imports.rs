//! Imports: what was uploaded, how far it is, and what became of each file.

use serde::Serialize;
use sqlx::Row;

use crate::store::Store;
use crate::store::StoreError;
use crate::store::knowledge::count;
use crate::store::knowledge::now;

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportState {
    /// It waits for those before it.
    Queued,
    /// Its files are read.
    Reading,
    /// Its version is built.
    Indexing,
    /// Its version is searched.
    Active,
    /// It changed nothing; `error` says why.
    Failed,
}

impl ImportState {
    /// Returns whether nothing will happen to the import any more.
    pub fn is_final(self) -> bool {
        matches!(self, ImportState::Active | ImportState::Failed)
    }

    fn as_str(self) -> &'static str {
        match self {
            ImportState::Queued => "queued",
            ImportState::Reading => "reading",
            ImportState::Indexing => "indexing",
            ImportState::Active => "active",
            ImportState::Failed => "failed",
        }
    }

    fn from_name(name: &str) -> ImportState {
        match name {
            "queued" => ImportState::Queued,
            "reading" => ImportState::Reading,
            "indexing" => ImportState::Indexing,
            "active" => ImportState::Active,
            _ => ImportState::Failed,
        }
    }
}

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportFile {
    /// Its name; for a file in an archive `archive/name`.
    pub file: String,
    /// How many articles it gave.
    pub articles: u64,
    /// How many passages those have.
    pub passages: u64,
    /// Why it gave none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An import as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Its id: `i-` and a number.
    pub import: String,
    /// The base it goes into.
    pub base: String,
    /// How far it is.
    pub state: ImportState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The version it made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// When it was uploaded.
    pub created_at: String,
    /// Its files, as far as they are read.
    pub files: Vec<ImportFile>,
}

impl Store {
    /// Records an import as queued and returns its number.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_import(&self, tenant: &str, base: &str) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO knowledge_imports (tenant, number, base, state, created_at)
             SELECT $1, COALESCE(MAX(number), 0) + 1, $2, 'queued', $3 FROM knowledge_imports WHERE tenant = $1
             RETURNING number",
        )
        .bind(tenant)
        .bind(base)
        .bind(now())
        .fetch_one(&self.pool)
        .await?;
        count(&row, "number")
    }

    /// Records how far an import is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_import_state(
        &self,
        tenant: &str,
        number: u64,
        state: ImportState,
        version: Option<u64>,
        error: Option<&str>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE knowledge_imports SET state = $3, version = COALESCE($4, version), error = $5
             WHERE tenant = $1 AND number = $2",
        )
        .bind(tenant)
        .bind(number as i64)
        .bind(state.as_str())
        .bind(version.map(|version| version as i64))
        .bind(error)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Records what became of files, after those recorded before.
    ///
    /// # Errors
    /// When the database fails; then none of them is recorded.
    pub async fn add_import_files(
        &self,
        tenant: &str,
        number: u64,
        files: &[ImportFile],
    ) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for file in files {
            sqlx::query(
                "INSERT INTO knowledge_import_files (tenant, number, position, file, articles, passages, error)
                 SELECT $1, $2, COALESCE(MAX(position), 0) + 1, $3, $4, $5, $6 FROM knowledge_import_files
                 WHERE tenant = $1 AND number = $2",
            )
            .bind(tenant)
            .bind(number as i64)
            .bind(&file.file)
            .bind(file.articles as i64)
            .bind(file.passages as i64)
            .bind(&file.error)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Returns an import by its id (`i-7`).
    ///
    /// # Errors
    /// When the database fails.
    pub async fn import(&self, tenant: &str, import: &str) -> Result<Option<Import>, StoreError> {
        let Some(number) = import.strip_prefix("i-").and_then(|number| number.parse::<i64>().ok()) else {
            return Ok(None);
        };
        let row = sqlx::query(
            "SELECT base, state, error, version, created_at FROM knowledge_imports WHERE tenant = $1 AND number = $2",
        )
        .bind(tenant)
        .bind(number)
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let files = sqlx::query(
            "SELECT file, articles, passages, error FROM knowledge_import_files
             WHERE tenant = $1 AND number = $2 ORDER BY position",
        )
        .bind(tenant)
        .bind(number)
        .fetch_all(&self.pool)
        .await?;
        let files: Result<Vec<ImportFile>, StoreError> = files
            .iter()
            .map(|row| {
                Ok(ImportFile {
                    file: row.try_get("file")?,
                    articles: count(row, "articles")?,
                    passages: count(row, "passages")?,
                    error: row.try_get("error")?,
                })
            })
            .collect();
        Ok(Some(Import {
            import: format!("i-{number}"),
            base: row.try_get("base")?,
            state: ImportState::from_name(row.try_get("state")?),
            error: row.try_get("error")?,
            version: row.try_get::<Option<i64>, _>("version")?.map(|version| version as u64),
            created_at: row.try_get("created_at")?,
            files: files?,
        }))
    }

    /// Marks every import that was not finished as failed with `reason`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fail_unfinished_imports(&self, reason: &str) -> Result<u64, StoreError> {
        let changed = sqlx::query(
            "UPDATE knowledge_imports SET state = 'failed', error = $1 WHERE state NOT IN ('active', 'failed')",
        )
        .bind(reason)
        .execute(&self.pool)
        .await?;
        Ok(changed.rows_affected())
    }
}
