//! HTTP and websockets: routes on one screen, one file for each resource.

pub mod auth;
pub mod error;
pub mod imports;
pub mod knowledge;
pub mod limit;
pub mod security;
pub mod session;
pub mod users;
