//! Files to articles.
