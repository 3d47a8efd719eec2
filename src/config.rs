//! Adds up the configuration of the modules: TOML and environment to one validated struct.
