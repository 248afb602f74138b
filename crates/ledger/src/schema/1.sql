CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    folder TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    max_cost BIGINT CHECK (max_cost >= 0),
    sweep TEXT,
    status TEXT NOT NULL
);
CREATE INDEX jobs_by_age ON jobs (created_at);

CREATE TABLE attempts (
    id TEXT PRIMARY KEY,
    job TEXT NOT NULL REFERENCES jobs (id),
    sweep TEXT,
    task_key TEXT NOT NULL,
    provider TEXT NOT NULL,
    local BIGINT NOT NULL,
    day TEXT NOT NULL,
    month TEXT NOT NULL,
    reserved_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('reserved', 'submitting', 'accepted', 'settled', 'assumed', 'released')),
    reserved BIGINT NOT NULL CHECK (reserved >= 0),
    charged BIGINT NOT NULL DEFAULT 0 CHECK (charged >= 0),
    billed BIGINT,
    outcome TEXT,
    task_id TEXT,
    task BLOB,
    CHECK (charged = 0 OR state IN ('settled', 'assumed'))
);
CREATE INDEX attempts_by_age ON attempts (reserved_at);
CREATE INDEX attempts_by_job ON attempts (job, reserved_at);
CREATE INDEX assumed ON attempts (reserved_at) WHERE state = 'assumed';
-- What is held is summed from this one alone, over all scopes.
CREATE INDEX live ON attempts (expires_at, job, sweep, day, month, provider, reserved, state)
    WHERE state IN ('reserved', 'submitting', 'accepted');
-- The charges of a scope are summed from one of these alone. What is free needs no summing.
CREATE INDEX charges_by_job ON attempts (job, provider, charged) WHERE charged > 0;
CREATE INDEX charges_by_sweep ON attempts (sweep, provider, charged) WHERE charged > 0;
CREATE INDEX charges_by_day ON attempts (day, provider, charged) WHERE charged > 0;
CREATE INDEX charges_by_month ON attempts (month, provider, charged) WHERE charged > 0;

CREATE TABLE observations (
    attempt TEXT PRIMARY KEY,
    provider TEXT NOT NULL,
    ended_at BIGINT NOT NULL,
    observation TEXT NOT NULL
);
CREATE INDEX observations_by_provider ON observations (provider, ended_at);
