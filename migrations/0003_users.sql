-- Who may do what. Times are RFC 3339 UTC texts of one width, so they compare as texts.
-- Of every secret only a hash is here: argon2id for passwords, SHA-256 for random tokens.

CREATE TABLE tenants (
    name       TEXT NOT NULL PRIMARY KEY,
    created_at TEXT NOT NULL
);

CREATE TABLE users (
    tenant        TEXT NOT NULL REFERENCES tenants (name),
    name          TEXT NOT NULL,
    role          TEXT NOT NULL CHECK (role IN ('agent', 'supervisor', 'admin', 'ingest')),
    password_hash TEXT,
    disabled      BOOLEAN NOT NULL DEFAULT FALSE,
    created_at    TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
);

-- A row leaves when its link is used.
CREATE TABLE sign_in_links (
    token_hash TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    FOREIGN KEY (tenant, name) REFERENCES users (tenant, name)
);

CREATE TABLE sessions (
    token_hash TEXT NOT NULL PRIMARY KEY,
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    FOREIGN KEY (tenant, name) REFERENCES users (tenant, name)
);
CREATE INDEX sessions_by_user ON sessions (tenant, name);

CREATE TABLE machine_keys (
    id           TEXT NOT NULL PRIMARY KEY,
    tenant       TEXT NOT NULL REFERENCES tenants (name),
    name         TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('agent', 'supervisor', 'admin', 'ingest')),
    key_hash     TEXT NOT NULL UNIQUE,
    revoked      BOOLEAN NOT NULL DEFAULT FALSE,
    created_at   TEXT NOT NULL,
    last_used_at TEXT
);

-- The sensitive terms of a tenant, as the JSON that GET /v1/terms shows.
CREATE TABLE terms (
    tenant     TEXT NOT NULL PRIMARY KEY REFERENCES tenants (name),
    lists      TEXT NOT NULL,
    version    BIGINT NOT NULL,
    updated_at TEXT NOT NULL
);
