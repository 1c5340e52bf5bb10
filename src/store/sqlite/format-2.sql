-- What changes: each write takes the row of the one before it away and puts its own, with a number of
-- its own.
CREATE TABLE documents (
    seq INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL,
    version INTEGER NOT NULL,
    kind INTEGER NOT NULL,          -- 1 family 2 session 3 replacement 4 key
    key TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL,             -- JSON
    forget_at INTEGER,              -- none: never
    checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX documents_by_key ON documents (kind, key);
CREATE INDEX documents_by_end ON documents (forget_at) WHERE forget_at IS NOT NULL;
