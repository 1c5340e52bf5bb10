-- Everything the gateway was told to refuse. Rows are never changed, only added and, once nothing
-- they refuse can be alive, deleted. Times are milliseconds since the epoch. A new store is made by this and
-- by the files of the formats after it, as an old one is brought to them.

-- The sum of all checksums, so that a row that went missing is noticed.
CREATE TABLE state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    store_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,      -- the highest seq ever given
    own_sequence INTEGER NOT NULL,  -- the highest origin_seq of this node's own entries
    records INTEGER NOT NULL,       -- rows in revocations, lifts, others, documents and settings
    digest INTEGER NOT NULL,        -- the sum of their checksums
    checksum INTEGER NOT NULL
) STRICT;

-- Issuers and nodes, spelled once.
CREATE TABLE names (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE revocations (
    seq INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL,
    origin_seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    id TEXT NOT NULL,
    kind INTEGER NOT NULL,          -- 1 token 2 session 3 subject 4 client 5 key 6 issuer 7 all
    issuer INTEGER NOT NULL,
    value TEXT NOT NULL,
    issued INTEGER,                 -- tokens whose origin is at or before; no cutoff at all: a block
    authenticated INTEGER,          -- tokens whose auth_time is at or before
    reason INTEGER NOT NULL,
    source INTEGER NOT NULL,
    actor TEXT NOT NULL,
    note TEXT,
    at INTEGER NOT NULL,
    forget_at INTEGER,              -- none: until lifted
    checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX revocations_by_id ON revocations (id);
CREATE INDEX revocations_by_target ON revocations (kind, issuer, value);
CREATE INDEX revocations_by_end ON revocations (forget_at) WHERE forget_at IS NOT NULL;

CREATE TABLE lifts (
    seq INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL,
    origin_seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    kind INTEGER NOT NULL,
    issuer INTEGER NOT NULL,
    value TEXT NOT NULL,
    revocation TEXT NOT NULL,       -- the id of the one it lifts
    leaves INTEGER,                 -- the cutoff it leaves in force
    actor TEXT NOT NULL,
    note TEXT,
    at INTEGER NOT NULL,
    forget_at INTEGER,
    checksum INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX lifts_by_revocation ON lifts (revocation);
CREATE INDEX lifts_by_target ON lifts (kind, issuer, value);
CREATE INDEX lifts_by_end ON lifts (forget_at) WHERE forget_at IS NOT NULL;

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
