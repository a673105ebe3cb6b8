-- Backups that runs have begun and not published: what is left of one is a leaving as soon as nobody holds its datastore.
CREATE TABLE begun (
    vault     TEXT NOT NULL,
    datastore TEXT NOT NULL,
    backup    TEXT NOT NULL,
    PRIMARY KEY (vault, datastore, backup)
) STRICT;
