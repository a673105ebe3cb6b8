-- What is known of single backups beside their manifests: what was left out of a dump, and which were found damaged and not found whole since.
CREATE TABLE omitted (
    vault     TEXT NOT NULL,
    backup    TEXT NOT NULL,
    what      TEXT NOT NULL,
    PRIMARY KEY (vault, backup, what)
) STRICT;

CREATE TABLE damaged (
    vault     TEXT NOT NULL,
    datastore TEXT NOT NULL,
    backup    TEXT NOT NULL,
    why       TEXT NOT NULL,
    found     INTEGER NOT NULL,
    PRIMARY KEY (vault, datastore, backup)
) STRICT;

-- When a backup was last read back in full and found whole.
CREATE TABLE verified (
    vault     TEXT NOT NULL,
    datastore TEXT NOT NULL,
    backup    TEXT NOT NULL,
    at        INTEGER NOT NULL,
    PRIMARY KEY (vault, datastore, backup)
) STRICT;
