-- What this host knows. Everything here can be learned again from the vault, except the history of runs.
CREATE TABLE backups (
    vault       TEXT NOT NULL,
    datastore   TEXT NOT NULL,
    backup      TEXT NOT NULL,
    sequence    INTEGER NOT NULL,
    snapshot_at TEXT NOT NULL,
    manifest    TEXT NOT NULL,
    PRIMARY KEY (vault, datastore, backup)
) STRICT;

CREATE TABLE runs (
    id        INTEGER PRIMARY KEY,
    verb      TEXT NOT NULL,
    subject   TEXT NOT NULL,
    begun_at  TEXT NOT NULL,
    ended_at  TEXT,
    outcome   TEXT
) STRICT;

CREATE INDEX runs_by_subject ON runs (subject, begun_at);
