//! Which files of a repository make a checkpoint that the engine loads.
//!
//! Small files first, so that whoever asks can look at them before gigabytes follow.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use crate::hub::Hub;
use crate::hub::HubError;
use crate::hub::Listing;
use crate::hub::RemoteFile;
use crate::hub::fetch::Progress;

/// Files without which nothing loads.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that say more, where they are.
const WANTED: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
/// The list of shards.
const INDEX: &str = "model.safetensors.index.json";
/// The weights in one file.
const SINGLE: &str = "model.safetensors";

/// A checkpoint on its way to a folder.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    hub: &'a Hub,
    /// What the repository has.
    pub listing: Listing,
    folder: PathBuf,
    files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl<'a> Checkpoint<'a> {
    /// Fetches the small files of a checkpoint.
    ///
    /// # Errors
    /// When the repository is no checkpoint, or a file cannot be had.
    ///
    /// # Blocking
    /// Asks over the network.
    pub fn begin(
        hub: &'a Hub,
        repository: &str,
        revision: &str,
        folder: &Path,
    ) -> Result<Checkpoint<'a>, HubError> {
        let listing = hub.list(repository, revision)?;
        let mut names = NEEDED.to_vec();
        names.extend(WANTED.into_iter().filter(|name| listing.has(name)));
        let is_sharded = listing.has(INDEX);
        names.extend(is_sharded.then_some(INDEX));
        let mut files = names.into_iter().map(|name| listing.file(name)).collect::<Result<Vec<_>, _>>()?;
        if !is_sharded {
            // Said before anything is fetched.
            listing.file(SINGLE)?;
        }
        hub.fetch(&listing, &files, folder, &mut |_| {})?;
        let weights = match is_sharded {
            true => shards(&folder.join(INDEX))?,
            false => BTreeSet::from([SINGLE.to_owned()]),
        };
        for name in weights {
            files.push(listing.file(&name)?);
        }
        Ok(Checkpoint { hub, listing, folder: folder.to_owned(), files })
    }

    /// Returns the length of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Fetches what is missing.
    ///
    /// # Errors
    /// As [`Hub::fetch`].
    ///
    /// # Blocking
    /// As long as the download takes.
    pub fn finish(&self, told: &mut dyn FnMut(Progress<'_>)) -> Result<(), HubError> {
        self.hub.fetch(&self.listing, &self.files, &self.folder, told)
    }
}

/// Returns the names of the files that an index lists.
fn shards(path: &Path) -> Result<BTreeSet<String>, HubError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| HubError::File { path: path.display().to_string(), source })?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| HubError::Answer { what: INDEX.to_owned(), reason: error.to_string() })?;
    Ok(index.weight_map.into_values().collect())
}
