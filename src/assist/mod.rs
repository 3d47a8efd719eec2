//! Where the parts meet: the call actor, the registry of calls, prompts and drafts.

pub mod draft;
pub mod library;
