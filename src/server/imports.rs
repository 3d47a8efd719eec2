//! Uploads into a base and their progress.
//!
//! Files are streamed to disk as they arrive and cut at the limit; reading and indexing them is a
//! background task of [`Library`].

use actix_multipart::Field;
use actix_multipart::Multipart;
use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::header;
use actix_web::web;
use actix_web::web::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::assist::library::Library;
use crate::server::auth::Admin;
use crate::server::error::ApiError;
use crate::server::knowledge::require_base;
use crate::store::Store;
use crate::store::imports::Import;

/// The most bytes of one upload, all files together.
pub const UPLOAD_MAX_BYTES: u64 = 64 << 20;
/// The most files of one upload. More go into a zip.
const UPLOAD_MAX_FILES: usize = 1_000;
/// The most characters of a file's name that are kept.
const NAME_MAX_CHARS: usize = 200;

/// Adds the routes of imports; the upload's own route stands beside the articles'.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/knowledge/imports/{import}").route(web::get().to(read_import)))
        .service(web::resource("/v1/knowledge/imports/{import}/progress").route(web::get().to(progress)));
}

/// Takes many files and answers with the id of their import.
pub(super) async fn upload(
    admin: Admin,
    base: web::Path<String>,
    request: HttpRequest,
    mut parts: Multipart,
    library: web::Data<Library>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    require_base(&store, &admin.tenant, &base).await?;
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > UPLOAD_MAX_BYTES) {
        return Err(too_large());
    }
    let mut upload = library.upload()?;
    let mut left = UPLOAD_MAX_BYTES;
    let mut count = 0;
    while let Some(field) = parts.next().await {
        let field = field.map_err(|error| ApiError::invalid("body", error))?;
        let Some(name) = file_name(&field) else { continue };
        count += 1;
        if count > UPLOAD_MAX_FILES {
            return Err(ApiError::TooLarge(format!(
                "an upload has at most {UPLOAD_MAX_FILES} files: zip them"
            )));
        }
        write_file(field, &upload.add(&name), &mut left).await?;
    }
    if upload.is_empty() {
        return Err(ApiError::invalid("body", "must hold at least one file"));
    }
    let import = library.import(&admin.tenant, &base, upload).await?;
    Ok(HttpResponse::Accepted().json(json!({ "import": import })))
}

/// Returns the name under which a part was uploaded; other form fields have none.
fn file_name(field: &Field) -> Option<String> {
    let name = field.content_disposition()?.get_filename()?;
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_MAX_CHARS).collect();
    (!name.is_empty()).then_some(name)
}

/// Writes one part to `path` and takes its bytes off `left`.
async fn write_file(mut field: Field, path: &std::path::Path, left: &mut u64) -> Result<(), ApiError> {
    let mut file = tokio::fs::File::create(path).await.map_err(ApiError::internal)?;
    while let Some(chunk) = field.next().await {
        let chunk = chunk.map_err(|error| ApiError::invalid("body", error))?;
        *left = left.checked_sub(chunk.len() as u64).ok_or_else(too_large)?;
        file.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    file.flush().await.map_err(ApiError::internal)
}

fn too_large() -> ApiError {
    ApiError::TooLarge(format!("an upload has at most {} MiB", UPLOAD_MAX_BYTES >> 20))
}

async fn read_import(
    admin: Admin,
    import: web::Path<String>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(known_import(&store, &admin.tenant, &import).await?))
}

/// Sends the import whenever it got further, as server-sent events, until it is over.
async fn progress(
    admin: Admin,
    import: web::Path<String>,
    store: web::Data<Store>,
    library: web::Data<Library>,
) -> Result<HttpResponse, ApiError> {
    // The receiver is made before the first look, so that no change falls between them.
    let changes = library.progress();
    known_import(&store, &admin.tenant, &import).await?;
    let follower = Follower {
        store: Store::clone(&store),
        tenant: admin.tenant.clone(),
        import: import.into_inner(),
        changes,
        sent: None,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<Bytes, ApiError>(event), follower))
    });
    Ok(HttpResponse::Ok().content_type("text/event-stream").streaming(events))
}

/// One reader of an import's progress.
struct Follower {
    store: Store,
    tenant: String,
    import: String,
    changes: watch::Receiver<u64>,
    sent: Option<Import>,
}

impl Follower {
    /// Waits until the import differs from what was sent, or returns `None` after its last state.
    async fn next(&mut self) -> Option<Bytes> {
        if self.sent.as_ref().is_some_and(|sent| sent.state.is_final()) {
            return None;
        }
        loop {
            self.changes.mark_unchanged();
            let now = match known_import(&self.store, &self.tenant, &self.import).await {
                Ok(now) => now,
                Err(error) => {
                    tracing::warn!(%error, "progress of an import ends");
                    return None;
                }
            };
            if self.sent.as_ref() != Some(&now) {
                let data = serde_json::to_string(&now).ok()?;
                self.sent = Some(now);
                return Some(Bytes::from(format!("event: progress\ndata: {data}\n\n")));
            }
            self.changes.changed().await.ok()?;
        }
    }
}

async fn known_import(store: &Store, tenant: &str, import: &str) -> Result<Import, ApiError> {
    store.import(tenant, import).await?.ok_or_else(|| ApiError::not_found(format!("import {import}")))
}
