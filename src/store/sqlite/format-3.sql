-- What other nodes said as well. Two nodes may use one id, and each may lift the same revocation, so neither
-- is unique any more.
DROP INDEX revocations_by_id;
CREATE INDEX revocations_by_id ON revocations (id);
-- In the order of their numbers, for those who want to hear what this node said.
CREATE INDEX revocations_by_origin ON revocations (origin);

CREATE TABLE lifts_of_many (
    seq INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL,
    origin_seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    id TEXT NOT NULL,
    kind INTEGER NOT NULL,
    issuer INTEGER NOT NULL,
    value TEXT NOT NULL,
    revocation TEXT NOT NULL,       -- the id of those it lifts, as far as they are of its target
    leaves INTEGER,                 -- the cutoff it leaves in force
    actor TEXT NOT NULL,
    note TEXT,
    at INTEGER NOT NULL,
    forget_at INTEGER,
    checksum INTEGER NOT NULL
) STRICT;
INSERT INTO lifts_of_many SELECT * FROM lifts;
DROP TABLE lifts;
ALTER TABLE lifts_of_many RENAME TO lifts;
CREATE INDEX lifts_by_id ON lifts (id);
CREATE INDEX lifts_by_revocation ON lifts (revocation);
CREATE INDEX lifts_by_target ON lifts (kind, issuer, value);
CREATE INDEX lifts_by_end ON lifts (forget_at) WHERE forget_at IS NOT NULL;
CREATE INDEX lifts_by_origin ON lifts (origin);

-- Records of kinds that a later release makes.
CREATE TABLE others (
    seq INTEGER PRIMARY KEY,
    origin INTEGER NOT NULL,
    origin_seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,             -- what that release calls the kind
    says TEXT NOT NULL,             -- JSON
    restricts TEXT NOT NULL,        -- JSON: [[kind, issuer, value], ...]
    at INTEGER NOT NULL,
    forget_at INTEGER,
    checksum INTEGER NOT NULL
) STRICT;
CREATE INDEX others_by_id ON others (id);
CREATE INDEX others_by_end ON others (forget_at) WHERE forget_at IS NOT NULL;
CREATE INDEX others_by_origin ON others (origin);

-- The targets of `restricts`, to be found by: an index, not a record.
CREATE TABLE restricted (
    kind INTEGER NOT NULL,
    issuer TEXT NOT NULL,
    value TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (kind, issuer, value, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX documents_by_origin ON documents (origin);
