-- Knowledge: bases, their versions, and the articles of each version by content.

CREATE TABLE knowledge_bases (
    tenant TEXT NOT NULL,
    base TEXT NOT NULL,
    title TEXT NOT NULL,
    language TEXT NOT NULL,
    active_version BIGINT,
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant, base)
);

-- state: building, active, retired.
CREATE TABLE knowledge_versions (
    tenant TEXT NOT NULL,
    base TEXT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    digest TEXT NOT NULL,
    articles BIGINT NOT NULL,
    passages BIGINT NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant, base, version),
    FOREIGN KEY (tenant, base) REFERENCES knowledge_bases (tenant, base)
);

-- An article's content, once for each tenant however many versions hold it.
CREATE TABLE knowledge_contents (
    tenant TEXT NOT NULL,
    hash TEXT NOT NULL,
    title TEXT NOT NULL,
    category TEXT,
    updated TEXT,
    format TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (tenant, hash)
);

CREATE TABLE knowledge_articles (
    tenant TEXT NOT NULL,
    base TEXT NOT NULL,
    version BIGINT NOT NULL,
    article TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (tenant, base, version, article),
    FOREIGN KEY (tenant, base, version) REFERENCES knowledge_versions (tenant, base, version),
    FOREIGN KEY (tenant, hash) REFERENCES knowledge_contents (tenant, hash)
);

-- state: queued, reading, indexing, active, failed.
CREATE TABLE knowledge_imports (
    tenant TEXT NOT NULL,
    number BIGINT NOT NULL,
    base TEXT NOT NULL,
    state TEXT NOT NULL,
    error TEXT,
    version BIGINT,
    created_at TEXT NOT NULL,
    PRIMARY KEY (tenant, number)
);

CREATE TABLE knowledge_import_files (
    tenant TEXT NOT NULL,
    number BIGINT NOT NULL,
    position BIGINT NOT NULL,
    file TEXT NOT NULL,
    articles BIGINT NOT NULL,
    passages BIGINT NOT NULL,
    error TEXT,
    PRIMARY KEY (tenant, number, position),
    FOREIGN KEY (tenant, number) REFERENCES knowledge_imports (tenant, number)
);

-- How often an article's cards were pushed, and what agents said of them.
CREATE TABLE knowledge_card_counts (
    tenant TEXT NOT NULL,
    base TEXT NOT NULL,
    article TEXT NOT NULL,
    pushed BIGINT NOT NULL,
    useful BIGINT NOT NULL,
    wrong BIGINT NOT NULL,
    PRIMARY KEY (tenant, base, article)
);
