//! `/v1/knowledge`: bases, articles, versions and search. Admins change, everybody who works here
//! reads, machines do neither.

use actix_web::HttpResponse;
use actix_web::web;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use crate::assist::library::Library;
use crate::assist::library::LibraryError;
use crate::event::Speaker;
use crate::knowledge::KnowledgeError;
use crate::knowledge::Question;
use crate::knowledge::article::Article;
use crate::knowledge::article::Format;
use crate::knowledge::article::is_id;
use crate::knowledge::import::FILE_MAX_BYTES;
use crate::prompt::Turn;
use crate::server::auth::Admin;
use crate::server::auth::Person;
use crate::server::error::ApiError;
use crate::server::imports;
use crate::store::Store;

/// How many articles a page of the list has.
const PAGE_LENGTH: usize = 50;
/// How many passages a search returns if it does not say.
const SEARCH_LIMIT: usize = 10;
/// The most passages a search returns.
const SEARCH_LIMIT_MAX: usize = 50;
/// The most characters of a search; of a longer one the end counts.
const QUERY_MAX_CHARS: usize = 2_000;
/// The most characters of a title.
const TITLE_MAX_CHARS: usize = 300;
/// Paths that are no bases.
const RESERVED: [&str; 2] = ["imports", "search"];

/// Adds the routes. They need the application data [`Store`] and [`Library`].
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/v1/knowledge").route(web::get().to(list_bases)))
        .service(web::resource("/v1/knowledge/search").route(web::get().to(search)))
        .configure(imports::routes)
        .service(web::resource("/v1/knowledge/{base}").route(web::put().to(put_base)))
        .service(
            web::resource("/v1/knowledge/{base}/articles")
                .route(web::get().to(list_articles))
                .route(web::post().to(imports::upload)),
        )
        .service(
            web::resource("/v1/knowledge/{base}/articles/{id}")
                .app_data(
                    web::JsonConfig::default()
                        .limit(FILE_MAX_BYTES)
                        .error_handler(|error, _| ApiError::invalid("body", error).into()),
                )
                .route(web::get().to(read_article))
                .route(web::put().to(put_article))
                .route(web::delete().to(delete_article)),
        )
        .service(web::resource("/v1/knowledge/{base}/versions").route(web::get().to(list_versions)))
        .service(web::resource("/v1/knowledge/{base}/versions/{n}/activate").route(web::post().to(activate)));
}

impl From<LibraryError> for ApiError {
    fn from(error: LibraryError) -> ApiError {
        match error {
            LibraryError::NoBase(base) => ApiError::not_found(format!("knowledge base {base}")),
            LibraryError::NoVersion { base, version } => {
                ApiError::not_found(format!("version {version} of knowledge base {base}"))
            }
            LibraryError::NoArticle { base, article } => {
                ApiError::not_found(format!("article {article} in knowledge base {base}"))
            }
            LibraryError::Busy => ApiError::Unavailable(error.to_string()),
            LibraryError::Knowledge(error) => error.into(),
            error => ApiError::internal(error),
        }
    }
}

impl From<KnowledgeError> for ApiError {
    fn from(error: KnowledgeError) -> ApiError {
        match error {
            KnowledgeError::NoBase(base) => ApiError::not_found(format!("active knowledge base {base}")),
            KnowledgeError::Name(_) => ApiError::invalid("base", error),
            error => ApiError::internal(error),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BaseHead {
    title: String,
    language: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArticleBody {
    title: String,
    body: String,
    category: Option<String>,
    updated: Option<String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    q: String,
    #[serde(default)]
    cursor: String,
}

#[derive(Deserialize)]
struct SearchQuery {
    q: String,
    /// Base ids with commas between; all of the tenant's when missing.
    #[serde(default)]
    base: String,
    limit: Option<usize>,
}

async fn list_bases(person: Person, store: web::Data<Store>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(json!({ "bases": store.bases(&person.tenant).await? })))
}

async fn put_base(
    admin: Admin,
    base: web::Path<String>,
    head: web::Json<BaseHead>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    if !is_id(&base) || RESERVED.contains(&base.as_str()) {
        let reason = "must be 1 to 128 of the characters A-Z a-z 0-9 . _ - and not imports or search";
        return Err(ApiError::invalid("base", reason));
    }
    let title = checked_title(&head.title)?;
    if !is_language(&head.language) {
        return Err(ApiError::invalid("language", "must be a language tag such as en or pt-BR"));
    }
    let is_new = store.put_base(&admin.tenant, &base, title, &head.language).await?;
    info!(tenant = admin.tenant, by = admin.name, base = %base, "knowledge base put");
    let stored = store.base(&admin.tenant, &base).await?;
    let mut response = if is_new { HttpResponse::Created() } else { HttpResponse::Ok() };
    Ok(response.json(stored))
}

async fn list_articles(
    person: Person,
    base: web::Path<String>,
    query: web::Query<ListQuery>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    require_base(&store, &person.tenant, &base).await?;
    let mut articles =
        store.articles(&person.tenant, &base, &query.q, &query.cursor, PAGE_LENGTH + 1).await?;
    let has_more = articles.len() > PAGE_LENGTH;
    articles.truncate(PAGE_LENGTH);
    let next_cursor = articles.last().filter(|_| has_more).map(|last| last.id.clone());
    Ok(HttpResponse::Ok().json(json!({ "articles": articles, "next_cursor": next_cursor })))
}

async fn read_article(
    person: Person,
    path: web::Path<(String, String)>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    let (base, id) = path.into_inner();
    let article = store.article(&person.tenant, &base, &id).await?;
    let article =
        article.ok_or_else(|| ApiError::not_found(format!("article {id} in knowledge base {base}")))?;
    Ok(HttpResponse::Ok().json(article))
}

async fn put_article(
    admin: Admin,
    path: web::Path<(String, String)>,
    body: web::Json<ArticleBody>,
    library: web::Data<Library>,
) -> Result<HttpResponse, ApiError> {
    let (base, id) = path.into_inner();
    if !is_id(&id) {
        return Err(ApiError::invalid("id", "must be 1 to 128 of the characters A-Z a-z 0-9 . _ -"));
    }
    let ArticleBody { title, body, category, updated, format } = body.into_inner();
    if body.trim().is_empty() {
        return Err(ApiError::invalid("body", "must hold text"));
    }
    let title = checked_title(&title)?.to_owned();
    let article = Article { id, title, category, updated, format: format.unwrap_or(Format::Markdown), body };
    let version = library.put_article(&admin.tenant, &base, article).await?;
    Ok(HttpResponse::Ok().json(version))
}

async fn delete_article(
    admin: Admin,
    path: web::Path<(String, String)>,
    library: web::Data<Library>,
) -> Result<HttpResponse, ApiError> {
    let (base, id) = path.into_inner();
    let version = library.delete_article(&admin.tenant, &base, &id).await?;
    Ok(HttpResponse::Ok().json(version))
}

async fn list_versions(
    person: Person,
    base: web::Path<String>,
    store: web::Data<Store>,
) -> Result<HttpResponse, ApiError> {
    require_base(&store, &person.tenant, &base).await?;
    Ok(HttpResponse::Ok().json(json!({ "versions": store.versions(&person.tenant, &base).await? })))
}

async fn activate(
    admin: Admin,
    path: web::Path<(String, u64)>,
    library: web::Data<Library>,
) -> Result<HttpResponse, ApiError> {
    let (base, version) = path.into_inner();
    let version = library.activate(&admin.tenant, &base, version).await?;
    info!(
        tenant = admin.tenant,
        by = admin.name,
        base,
        version = version.version,
        "knowledge version activated"
    );
    Ok(HttpResponse::Ok().json(version))
}

async fn search(
    person: Person,
    query: web::Query<SearchQuery>,
    library: web::Data<Library>,
) -> Result<HttpResponse, ApiError> {
    let limit = query.limit.unwrap_or(SEARCH_LIMIT);
    if !(1..=SEARCH_LIMIT_MAX).contains(&limit) {
        return Err(ApiError::invalid("limit", format!("must be 1 to {SEARCH_LIMIT_MAX}")));
    }
    let skipped = query.q.chars().count().saturating_sub(QUERY_MAX_CHARS);
    let text: String = query.q.chars().skip(skipped).collect();
    let bases = query.base.split(',').filter(|base| !base.is_empty()).map(str::to_owned).collect();
    let question = Question { turns: vec![Turn { speaker: Speaker::Customer, text }], bases, limit };
    let knowledge = library.knowledge().clone();
    let tenant = person.tenant.clone();
    let found = web::block(move || knowledge.find(&tenant, &question)).await.map_err(ApiError::internal)?;
    Ok(HttpResponse::Ok().json(json!({ "passages": found? })))
}

/// Refuses a base that the tenant does not have.
pub(super) async fn require_base(store: &Store, tenant: &str, base: &str) -> Result<(), ApiError> {
    match store.base(tenant, base).await? {
        Some(_) => Ok(()),
        None => Err(ApiError::not_found(format!("knowledge base {base}"))),
    }
}

fn checked_title(title: &str) -> Result<&str, ApiError> {
    let title = title.trim();
    if title.is_empty() || title.chars().count() > TITLE_MAX_CHARS || title.contains(['\n', '\r']) {
        return Err(ApiError::invalid(
            "title",
            format!("must be one line of 1 to {TITLE_MAX_CHARS} characters"),
        ));
    }
    Ok(title)
}

fn is_language(tag: &str) -> bool {
    let mut parts = tag.split('-');
    let first = parts.next().unwrap_or_default();
    let is_primary = (2..=3).contains(&first.len()) && first.bytes().all(|b| b.is_ascii_alphabetic());
    let is_part =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
    is_primary && parts.all(is_part)
}
