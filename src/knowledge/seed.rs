//! The seed bases that are embedded in the binary: the folder `knowledge/` of the repository.

use std::collections::BTreeMap;

use rust_embed::Embed;
use serde::Deserialize;

use crate::knowledge::article::Article;

#[derive(Embed)]
#[folder = "knowledge/"]
struct Files;

/// A base with its articles.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Its id, the folder's name.
    pub base: String,
    /// Its title.
    pub title: String,
    /// BCP 47 language tag.
    pub language: String,
    /// Its articles by file name.
    pub articles: Vec<Article>,
}

/// What `base.toml` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    title: String,
    language: String,
}

/// Says why the embedded files are no bases. It is the build that is wrong, not the user.
#[derive(Debug, thiserror::Error)]
#[error("embedded file knowledge/{file}: {reason}")]
pub struct SeedError {
    file: String,
    reason: String,
}

/// Returns the embedded bases by id.
///
/// # Errors
/// When an embedded file cannot be read.
pub fn seeds() -> Result<Vec<Seed>, SeedError> {
    let mut seeds: BTreeMap<String, Seed> = BTreeMap::new();
    let mut names: Vec<String> = Files::iter().map(|name| name.into_owned()).collect();
    names.sort();
    for name in names {
        let failed = |reason: String| SeedError { file: name.clone(), reason };
        let Some((base, file)) = name.split_once('/') else { continue };
        let content = Files::get(&name).ok_or_else(|| failed("vanished".to_owned()))?;
        let text = std::str::from_utf8(&content.data).map_err(|error| failed(error.to_string()))?;
        let seed = seeds.entry(base.to_owned()).or_insert_with(|| Seed {
            base: base.to_owned(),
            title: base.to_owned(),
            language: "en".to_owned(),
            articles: Vec::new(),
        });
        if file == "base.toml" {
            let head: Head = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
            seed.title = head.title;
            seed.language = head.language;
        } else if let Some(stem) = file.strip_prefix("articles/").and_then(|file| file.strip_suffix(".md")) {
            seed.articles.push(Article::from_markdown(stem, text));
        }
    }
    Ok(seeds.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_base_has_a_title_and_articles_of_its_own() {
        let seeds = seeds().unwrap();
        assert_eq!(seeds.len(), 14);
        for seed in seeds {
            assert_ne!(seed.title, seed.base, "base.toml names the company");
            assert_eq!(seed.articles.len(), 26, "{}", seed.base);
            let ids: std::collections::BTreeSet<_> =
                seed.articles.iter().map(|article| &article.id).collect();
            assert_eq!(ids.len(), 26, "{}", seed.base);
        }
    }
}
