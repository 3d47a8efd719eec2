//! Adds up the configuration of the modules: TOML and environment to one validated struct.
//!
//! Every key of `chatdlm.toml`, as `resume_s` of `[calls]`, is also an environment variable, as
//! `CHATDLM_CALLS_RESUME_S`, which wins over the file.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Table;
use toml::Value;

use crate::assist;
use crate::engine::handle::EngineConfig;
use crate::server;
use crate::server::auth;
use crate::server::carriers;
use crate::speech;

/// The file that is read from the working directory when none is named.
const DEFAULT_FILE: &str = "chatdlm.toml";
/// The sections, whose words are also those of the environment variables; the longest first.
const SECTIONS: [&[&str]; 10] = [
    &["telephony", "audiosocket"],
    &["telephony", "audiohook"],
    &["telephony", "twilio"],
    &["model", "engine"],
    &["telephony"],
    &["speech"],
    &["server"],
    &["auth"],
    &["calls"],
    &["model"],
];

/// Says why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is not TOML, or a key is unknown or of the wrong type.
    #[error("configuration {origin}: {message}")]
    Invalid {
        /// The file or the environment.
        origin: String,
        /// What is wrong, with the key's name.
        message: String,
    },
}

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[server]`: how it listens.
    pub server: server::Config,
    /// `[auth]`: how people and machines get in.
    pub auth: auth::Config,
    /// `[calls]`: how calls behave.
    pub calls: assist::Config,
    /// `[model]`: which model is used.
    pub model: ModelConfig,
    /// `[speech]`: how speech is recognised.
    pub speech: speech::Config,
    /// `[telephony]`: how carriers are let in.
    pub telephony: carriers::Config,
}

/// Which model is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The checkpoint's folder; the bundled model when missing.
    pub dir: Option<PathBuf>,
    /// How the engine runs.
    pub engine: EngineConfig,
}

impl ModelConfig {
    /// Returns the folder of the checkpoint: the one that is set, else the bundled one, beside the
    /// working directory or where this binary was built.
    pub fn folder(&self) -> PathBuf {
        let bundled = Path::new("models/nano");
        match &self.dir {
            Some(dir) => dir.clone(),
            None if bundled.exists() => bundled.to_owned(),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join(bundled),
        }
    }
}

impl Config {
    /// Reads the named file, or `chatdlm.toml` if it is there, and then the environment.
    ///
    /// # Errors
    /// When a file cannot be read, or a key is unknown or its value not allowed.
    pub fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        let path = file.or_else(|| default.exists().then_some(default));
        let (text, origin) = match path {
            Some(path) => {
                let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
                (std::fs::read_to_string(path).map_err(unreadable)?, path.display().to_string())
            }
            None => (String::new(), "environment".to_owned()),
        };
        let readable =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Config::from_text(&text, std::env::vars_os().filter_map(readable), &origin)
    }

    /// Reads a text and then variables.
    fn from_text(
        text: &str,
        variables: impl Iterator<Item = (String, String)>,
        origin: &str,
    ) -> Result<Config, ConfigError> {
        let invalid = |message: String| ConfigError::Invalid { origin: origin.to_owned(), message };
        let mut table: Table = text.parse().map_err(|error: toml::de::Error| invalid(error.to_string()))?;
        for (name, value) in variables {
            let Some((section, key)) = section_and_key(&name) else { continue };
            set(&mut table, section, &key, value_of(&value));
            // A name may look like a number, as a tenant called 2024.
            let mut as_text = table.clone();
            set(&mut as_text, section, &key, Value::String(value));
            if table.clone().try_into::<Config>().is_err() && as_text.clone().try_into::<Config>().is_ok() {
                table = as_text;
            }
        }
        let config: Config = table
            .try_into()
            .map_err(|error: toml::de::Error| invalid(error.to_string().trim_end().replace('\n', " ")))?;
        if config.server.workers == 0 {
            return Err(invalid("server.workers must be at least 1".to_owned()));
        }
        Ok(config)
    }
}

/// Returns `(["calls"], "resume_s")` for `CHATDLM_CALLS_RESUME_S`.
fn section_and_key(name: &str) -> Option<(&'static [&'static str], String)> {
    let name = name.strip_prefix("CHATDLM_")?.to_lowercase();
    SECTIONS.into_iter().find_map(|section| {
        let key = name.strip_prefix(&section.join("_"))?.strip_prefix('_')?;
        Some((section, key.to_owned()))
    })
}

/// Sets a key in a section, unless something else than a section stands there.
fn set(table: &mut Table, section: &[&str], key: &str, value: Value) {
    let Some((first, rest)) = section.split_first() else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        set(inner, rest, key, value);
    }
}

/// Reads a number, a boolean, a list or a quoted text as TOML does; anything else is text.
fn value_of(text: &str) -> Value {
    let table: Result<Table, _> = format!("value = {text}").parse();
    table.ok().and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        Config::from_text(text, variables, "test")
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        assert_eq!(read("", &[]).unwrap(), Config::default());
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = read(
            "[calls]\nresume_s = 5\ndrafts = false",
            &[
                ("CHATDLM_CALLS_RESUME_S", "7"),
                ("CHATDLM_SERVER_ADDRESS", "0.0.0.0:80"),
                ("CHATDLM_DATA_DIR", "x"),
            ],
        )
        .unwrap();
        assert_eq!(config.calls.resume_s, 7);
        assert!(!config.calls.drafts);
        assert_eq!(config.server.address, "0.0.0.0:80");
    }

    #[test]
    fn an_unknown_key_is_named() {
        for (text, variables) in
            [("[calls]\nresume = 5", &[][..]), ("", &[("CHATDLM_CALLS_RESUME", "5")][..])]
        {
            let error = read(text, variables).unwrap_err().to_string();
            assert!(error.contains("`resume`"), "{error}");
        }
        assert!(read("[call]", &[]).unwrap_err().to_string().contains("`call`"));
    }

    #[test]
    fn variables_reach_nested_sections_and_texts_that_look_like_numbers() {
        let config =
            read("", &[("CHATDLM_MODEL_ENGINE_THREADS", "3"), ("CHATDLM_AUTH_TENANT", "2024")]).unwrap();
        assert_eq!((config.model.engine.threads, config.auth.tenant.as_str()), (3, "2024"));
        let error = read("", &[("CHATDLM_MODEL_ENGINE_THREADS", "many")]).unwrap_err();
        assert!(error.to_string().contains("many"), "{error}");
    }
}
