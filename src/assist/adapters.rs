//! The tuned forms of the model that tenants have: `DATA_DIR/adapters/TENANT.safetensors`, if it is there.
//!
//! The file is looked at when a call opens. One that is new or has changed is loaded beside the calls and
//! serves those that open after; one that is gone or cannot be used means the base model. No call waits for
//! a file or fails because of one.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::SystemTime;

use tokio::sync::Semaphore;
use tokio::sync::watch;

use crate::engine::handle::Engine;
use crate::store::identity::UserError;
use crate::store::identity::check_tenant;

/// The folder in the data directory.
const FOLDER: &str = "adapters";
/// What follows a tenant's name.
const EXTENSION: &str = "safetensors";

/// Returns where a tenant's adapter is.
///
/// # Errors
/// When no tenant can have this name.
pub fn path(data_dir: &Path, tenant: &str) -> Result<PathBuf, UserError> {
    check_tenant(tenant)?;
    Ok(data_dir.join(FOLDER).join(format!("{tenant}.{EXTENSION}")))
}

/// Returns the tenants that have a file, in the order of their names.
///
/// # Errors
/// When the folder is there and cannot be read.
pub fn tenants(data_dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(data_dir.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let tenant = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == EXTENSION) && check_tenant(tenant).is_ok() {
            found.push(tenant.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// The adapters of all tenants. Clones share them; the default has none and stays so.
#[derive(Debug, Clone, Default)]
pub struct Adapters {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    data_dir: PathBuf,
    tenants: Mutex<HashMap<String, Known>>,
    /// One file is loaded after the other: each takes all cores while it is.
    loading: Semaphore,
    /// How many are loaded or wait for it.
    under_way: watch::Sender<usize>,
}

/// What is known of one tenant's file.
#[derive(Debug, Default)]
struct Known {
    /// What it looked like when it was last looked at; `None` when it was not there.
    stamp: Option<Stamp>,
    /// What calls get that open now.
    tuned: Option<Engine>,
}

/// Tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    bytes: u64,
    /// A file that was renamed into place has another one, also within the clock's grain.
    inode: u64,
}

impl Adapters {
    /// Returns the adapters of an engine's model under `data_dir`; nothing is loaded yet.
    pub fn new(engine: Engine, data_dir: &Path) -> Adapters {
        let shared = Shared {
            engine,
            data_dir: data_dir.to_owned(),
            tenants: Mutex::default(),
            loading: Semaphore::new(1),
            under_way: watch::Sender::new(0),
        };
        Adapters { shared: Some(Arc::new(shared)) }
    }

    /// Returns the tenant's form of the model for a call that opens now; `None` is the base.
    ///
    /// A file that changed begins to be loaded; until it is, this is what was there before.
    pub async fn of(&self, tenant: &str) -> Option<Engine> {
        let shared = self.shared.as_ref()?;
        let file = path(&shared.data_dir, tenant).ok()?;
        let stamp = stamp(&file).await;
        let (before, is_new) = {
            let mut tenants = shared.tenants();
            let known = tenants.entry(tenant.to_owned()).or_default();
            let is_new = known.stamp != stamp;
            known.stamp = stamp;
            if stamp.is_none() {
                known.tuned = None;
            }
            (known.tuned.clone(), is_new)
        };
        match stamp {
            Some(stamp) if is_new => {
                shared.under_way.send_modify(|count| *count += 1);
                tokio::spawn(load(Arc::clone(shared), tenant.to_owned(), file, stamp));
            }
            None if is_new => tracing::info!(tenant, "adapter is gone: the base model is used"),
            _ => {}
        }
        before
    }

    /// Loads the files of all tenants: what is there when the server starts serves its first calls.
    pub async fn load_all(&self) {
        let Some(shared) = &self.shared else { return };
        match tenants(&shared.data_dir) {
            Ok(tenants) => {
                for tenant in tenants {
                    self.of(&tenant).await;
                }
            }
            Err(error) => tracing::warn!(%error, "adapters cannot be listed: the base model is used"),
        }
        self.settled().await;
    }

    /// Waits until no file is being loaded.
    pub async fn settled(&self) {
        let Some(shared) = &self.shared else { return };
        let mut under_way = shared.under_way.subscribe();
        // The sender is held here, so it cannot be gone.
        let _ = under_way.wait_for(|count| *count == 0).await;
    }
}

impl Shared {
    fn tenants(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        // The map stays whole even if a holder panicked: every change is one assignment.
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at a file; one that cannot be looked at is not there.
async fn stamp(file: &Path) -> Option<Stamp> {
    let about = tokio::fs::metadata(file).await.ok()?;
    Some(Stamp { modified: about.modified().ok()?, bytes: about.len(), inode: about.ino() })
}

/// Loads a file and lets the calls that open from now on have it, unless it has changed again.
async fn load(shared: Arc<Shared>, tenant: String, file: PathBuf, stamp: Stamp) {
    let permit = shared.loading.acquire().await;
    let (engine, path) = (shared.engine.clone(), file.clone());
    let loaded = tokio::task::spawn_blocking(move || engine.tuned(&path)).await;
    let tuned = match loaded {
        Ok(Ok(tuned)) => {
            if let Some(adapter) = tuned.adapter() {
                let (name, bytes) = (&adapter.name, adapter.bytes);
                tracing::info!(tenant, %name, kind = %adapter.kind, bytes, "adapter is active");
            }
            Some(tuned)
        }
        Ok(Err(error)) => {
            tracing::warn!(tenant, %error, "adapter cannot be used: the base model is");
            None
        }
        Err(error) => {
            tracing::error!(tenant, %error, "loading an adapter panicked: the base model is used");
            None
        }
    };
    if let Some(known) = shared.tenants().get_mut(&tenant)
        && known.stamp == Some(stamp)
    {
        known.tuned = tuned;
    }
    drop(permit);
    shared.under_way.send_modify(|count| *count -= 1);
}
