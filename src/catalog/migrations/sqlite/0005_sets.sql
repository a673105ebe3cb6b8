-- Volume sets that were begun and are not published: what a later run goes on with.
CREATE TABLE sets (
    vault     TEXT NOT NULL,
    datastore TEXT NOT NULL,
    backup    TEXT NOT NULL,
    state     TEXT NOT NULL,
    PRIMARY KEY (vault, datastore)
) STRICT;
