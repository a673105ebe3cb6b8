-- What runs with steps have done, so that another process can go on or clean up; and how far the evidence had got.
CREATE TABLE journal (
    id    INTEGER PRIMARY KEY,
    run   TEXT NOT NULL,
    step  TEXT NOT NULL,
    event TEXT NOT NULL,
    made  TEXT,
    at    TEXT NOT NULL
) STRICT;

CREATE INDEX journal_by_run ON journal (run, id);

CREATE TABLE drills (
    run     TEXT PRIMARY KEY,
    vault   TEXT NOT NULL,
    drill   TEXT NOT NULL,
    started INTEGER NOT NULL,
    declared_at TEXT NOT NULL,
    ended_at TEXT
) STRICT;

CREATE TABLE evidence_heads (
    vault    TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    PRIMARY KEY (vault, sequence, sha256)
) STRICT;
