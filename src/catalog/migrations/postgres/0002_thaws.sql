-- Retrievals that were asked for. The store knows their state; this is only what it does not tell: which tier, and since when.
CREATE TABLE thaws (
    vault     TEXT NOT NULL,
    datastore TEXT NOT NULL,
    backup    TEXT NOT NULL,
    tier      TEXT NOT NULL,
    asked     BIGINT NOT NULL,
    PRIMARY KEY (vault, datastore, backup)
);
