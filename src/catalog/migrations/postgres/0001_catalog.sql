-- What this host knows. Everything here can be learned again from the vault, except the history of runs.
CREATE TABLE backups (
    vault       TEXT NOT NULL,
    datastore   TEXT NOT NULL,
    backup      TEXT NOT NULL,
    sequence    BIGINT NOT NULL,
    snapshot_at TEXT NOT NULL,
    manifest    TEXT NOT NULL,
    PRIMARY KEY (vault, datastore, backup)
);

CREATE TABLE runs (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    verb      TEXT NOT NULL,
    subject   TEXT NOT NULL,
    begun_at  TEXT NOT NULL,
    ended_at  TEXT,
    outcome   TEXT
);

CREATE INDEX runs_by_subject ON runs (subject, begun_at);

-- What runs with steps have done, so that another process can go on or clean up; and how far the evidence had got.
CREATE TABLE journal (
    id    BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run   TEXT NOT NULL,
    step  TEXT NOT NULL,
    event TEXT NOT NULL,
    made  TEXT,
    at    TEXT NOT NULL
);

CREATE INDEX journal_by_run ON journal (run, id);

CREATE TABLE drills (
    run     TEXT PRIMARY KEY,
    vault   TEXT NOT NULL,
    drill   TEXT NOT NULL,
    started BIGINT NOT NULL,
    declared_at TEXT NOT NULL,
    ended_at TEXT
);

CREATE TABLE evidence_heads (
    vault    TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    sha256   TEXT NOT NULL,
    PRIMARY KEY (vault, sequence, sha256)
);

-- What is scheduled, who runs it, and what came of it. Times are milliseconds since 1970.
CREATE TABLE jobs (
    job           TEXT PRIMARY KEY,
    planned_until BIGINT NOT NULL,
    calendar      TEXT NOT NULL
);

-- One row for each scheduled time of each job.
CREATE TABLE ticks (
    job        TEXT NOT NULL,
    tick       BIGINT NOT NULL,
    subject    TEXT NOT NULL,
    due        BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    give_up    BIGINT,
    state      TEXT NOT NULL,
    attempts_max BIGINT NOT NULL,
    attempt    BIGINT NOT NULL DEFAULT 0,
    epoch      BIGINT NOT NULL DEFAULT 0,
    host       TEXT,
    begun      BIGINT,
    ended      BIGINT,
    outcome    TEXT,
    told       BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (job, tick)
);

CREATE INDEX ticks_open ON ticks (state, due);
CREATE INDEX ticks_by_subject ON ticks (subject, state);

-- What only one run may touch at a time. The epoch counts its holders and never goes back.
CREATE TABLE subjects (
    subject     TEXT PRIMARY KEY,
    epoch       BIGINT NOT NULL,
    holder      TEXT NOT NULL,
    lease_until BIGINT NOT NULL
);

CREATE TABLE hosts (
    host    TEXT PRIMARY KEY,
    seen    BIGINT NOT NULL,
    skew    BIGINT NOT NULL,
    version TEXT NOT NULL
);

-- What is wrong now, and since when; and what has been said about it.
CREATE TABLE alarms (
    alarm      TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    text       TEXT NOT NULL,
    next_step  TEXT NOT NULL,
    since      BIGINT NOT NULL,
    told       BIGINT NOT NULL
);

CREATE TABLE messages (
    id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    body     TEXT NOT NULL,
    made     BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    next_try BIGINT NOT NULL,
    sent     BIGINT,
    error    TEXT
);

CREATE INDEX messages_unsent ON messages (sent, next_try);

ALTER TABLE drills ADD COLUMN host TEXT NOT NULL DEFAULT '';
