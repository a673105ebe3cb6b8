-- What is scheduled, who runs it, and what came of it. Times are milliseconds since 1970.
CREATE TABLE jobs (
    job           TEXT PRIMARY KEY,
    planned_until INTEGER NOT NULL,
    calendar      TEXT NOT NULL
) STRICT;

-- One row for each scheduled time of each job.
CREATE TABLE ticks (
    job        TEXT NOT NULL,
    tick       INTEGER NOT NULL,
    subject    TEXT NOT NULL,
    due        INTEGER NOT NULL,
    not_before INTEGER NOT NULL,
    give_up    INTEGER,
    state      TEXT NOT NULL,
    attempts_max INTEGER NOT NULL,
    attempt    INTEGER NOT NULL DEFAULT 0,
    epoch      INTEGER NOT NULL DEFAULT 0,
    host       TEXT,
    begun      INTEGER,
    ended      INTEGER,
    outcome    TEXT,
    told       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (job, tick)
) STRICT;

CREATE INDEX ticks_open ON ticks (state, due);
CREATE INDEX ticks_by_subject ON ticks (subject, state);

-- What only one run may touch at a time. The epoch counts its holders and never goes back.
CREATE TABLE subjects (
    subject     TEXT PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    holder      TEXT NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT;

CREATE TABLE hosts (
    host    TEXT PRIMARY KEY,
    seen    INTEGER NOT NULL,
    skew    INTEGER NOT NULL,
    version TEXT NOT NULL
) STRICT;

-- What is wrong now, and since when; and what has been said about it.
CREATE TABLE alarms (
    alarm      TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    text       TEXT NOT NULL,
    next_step  TEXT NOT NULL,
    since      INTEGER NOT NULL,
    told       INTEGER NOT NULL
) STRICT;

CREATE TABLE messages (
    id       INTEGER PRIMARY KEY,
    channel  TEXT NOT NULL,
    kind     TEXT NOT NULL,
    body     TEXT NOT NULL,
    made     INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_try INTEGER NOT NULL,
    sent     INTEGER,
    error    TEXT
) STRICT;

CREATE INDEX messages_unsent ON messages (sent, next_try);

ALTER TABLE drills ADD COLUMN host TEXT NOT NULL DEFAULT '';
