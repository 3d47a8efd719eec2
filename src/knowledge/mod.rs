//! Question to cards: articles, imports, the tantivy index and its search.
