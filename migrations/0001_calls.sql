-- Calls and their settled events. Portable SQL: types and statements that SQLite and PostgreSQL share.

-- One row a call: the fold of its events. The columns are what lists filter and order by;
-- `record` is the whole fold as JSON.
CREATE TABLE calls (
    tenant       TEXT   NOT NULL,
    call         TEXT   NOT NULL,
    agent        TEXT   NOT NULL,
    customer     TEXT,
    state        TEXT   NOT NULL CHECK (state IN ('open', 'closed', 'interrupted')),
    started_at   TEXT   NOT NULL, -- RFC 3339, UTC, microseconds: text order is time order
    seq          BIGINT NOT NULL, -- of the last settled event
    resume_after BIGINT NOT NULL, -- the highest sender's seq that is durable
    record       TEXT   NOT NULL,
    PRIMARY KEY (tenant, call)
);

CREATE INDEX calls_by_start ON calls (tenant, started_at, call);
CREATE INDEX calls_by_state ON calls (state, tenant, started_at);

-- The log. A call's numbers start at 1 and have no gaps.
CREATE TABLE events (
    tenant     TEXT   NOT NULL,
    call       TEXT   NOT NULL,
    seq        BIGINT NOT NULL,
    at         TEXT   NOT NULL,
    type       TEXT   NOT NULL,
    body       TEXT   NOT NULL, -- JSON of the event
    ingest_seq BIGINT,          -- the sender's seq, on segments only
    PRIMARY KEY (tenant, call, seq),
    FOREIGN KEY (tenant, call) REFERENCES calls (tenant, call)
);

-- A repeated segment cannot be logged twice, whatever the code above believes.
CREATE UNIQUE INDEX events_by_ingest_seq ON events (tenant, call, ingest_seq);

-- What agents said about the cards they were shown.
CREATE TABLE card_feedback (
    tenant    TEXT   NOT NULL,
    call      TEXT   NOT NULL,
    card      TEXT   NOT NULL,
    user_name TEXT   NOT NULL,
    useful    BIGINT NOT NULL, -- 0 or 1
    at        TEXT   NOT NULL,
    PRIMARY KEY (tenant, call, card, user_name),
    FOREIGN KEY (tenant, call) REFERENCES calls (tenant, call)
);
