"""All tables of the first release, and the namespace ``main``."""

import time

from peewee import Database, PostgresqlDatabase
from playhouse.migrate import SchemaMigrator

TABLES = """
CREATE TABLE namespaces (
    name TEXT PRIMARY KEY,
    created_at {float} NOT NULL
);

CREATE TABLE workflows (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL REFERENCES namespaces (name),
    run_id TEXT NOT NULL UNIQUE,
    workflow_type TEXT NOT NULL,
    task_queue TEXT NOT NULL,
    status TEXT NOT NULL,
    input {json},
    result {json},
    error TEXT,
    parent_id TEXT,
    parent_child_id TEXT,
    search_attributes {jsonb} NOT NULL,
    cancel_requested_at {float},
    cancel_reason TEXT,
    cancel_progress {bool} NOT NULL DEFAULT {false},
    task_error {json},
    task_attempts INTEGER NOT NULL DEFAULT 0,
    last_event_seq INTEGER NOT NULL DEFAULT 0,
    continued_from TEXT,
    continued_to TEXT,
    execution_timeout_secs {float},
    deadline_at {float},
    archived_at {float},
    archive_uri TEXT,
    created_at {float} NOT NULL,
    updated_at {float} NOT NULL,
    completed_at {float},
    needs_dispatch {bool} NOT NULL DEFAULT {false},
    dispatchable_at {float},
    dispatch_claimed_by TEXT,
    dispatch_claimed_at {float},
    dispatch_last_heartbeat {float},
    dispatch_listed {bool} NOT NULL DEFAULT {false},
    task_token TEXT UNIQUE,
    last_task_token TEXT,
    last_task_kind TEXT,
    lease_epoch INTEGER NOT NULL DEFAULT 0,
    delivered_seq INTEGER NOT NULL DEFAULT 0,
    accepted_seq INTEGER NOT NULL DEFAULT 0,
    completion_deferred {bool} NOT NULL DEFAULT {false},
    sticky_worker_id TEXT,
    sticky_event_seq INTEGER,
    activity_seq INTEGER NOT NULL DEFAULT 0,
    timer_seq INTEGER NOT NULL DEFAULT 0,
    wait_seq INTEGER NOT NULL DEFAULT 0,
    side_effect_seq INTEGER NOT NULL DEFAULT 0,
    upsert_seq INTEGER NOT NULL DEFAULT 0,
    schedule_name TEXT,
    scheduled_for {float}
);
CREATE UNIQUE INDEX workflows_occurrence ON workflows (namespace, schedule_name, scheduled_for)
    WHERE schedule_name IS NOT NULL;
CREATE INDEX workflows_dispatchable ON workflows (namespace, task_queue, dispatchable_at, id)
    WHERE needs_dispatch AND task_token IS NULL;
CREATE INDEX workflows_leased ON workflows (dispatch_claimed_by) WHERE task_token IS NOT NULL;
CREATE INDEX workflows_newest ON workflows (namespace, created_at, id);
CREATE INDEX workflows_children ON workflows (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX workflows_deadline ON workflows (deadline_at) WHERE deadline_at IS NOT NULL AND completed_at IS NULL;
CREATE INDEX workflows_cancelling ON workflows (cancel_requested_at)
    WHERE cancel_requested_at IS NOT NULL AND completed_at IS NULL;
CREATE INDEX workflows_open ON workflows (namespace, task_queue) WHERE completed_at IS NULL;
CREATE INDEX workflows_archivable ON workflows (completed_at, id)
    WHERE completed_at IS NOT NULL AND archived_at IS NULL;
CREATE INDEX workflows_status ON workflows (namespace, status, created_at, id, workflow_type, task_queue);
CREATE INDEX workflows_workflow_type ON workflows (namespace, workflow_type, created_at, id, task_queue);
CREATE INDEX workflows_task_queue ON workflows (namespace, task_queue, created_at, id);

CREATE TABLE workflow_attributes (
    namespace TEXT NOT NULL REFERENCES namespaces (name),
    term TEXT NOT NULL,
    created_at {float} NOT NULL,
    workflow_id TEXT NOT NULL,
    PRIMARY KEY (namespace, term, created_at, workflow_id)
){clustered};

CREATE TABLE workflow_unindexed (
    namespace TEXT NOT NULL,
    created_at {float} NOT NULL,
    workflow_id TEXT NOT NULL,
    workflow_type TEXT NOT NULL,
    task_queue TEXT NOT NULL,
    PRIMARY KEY (namespace, created_at, workflow_id)
){clustered};

CREATE TABLE workflow_segments (
    id {auto_id},
    namespace TEXT NOT NULL REFERENCES namespaces (name),
    newest_at {float} NOT NULL,
    oldest_at {float} NOT NULL,
    runs INTEGER NOT NULL
);
CREATE INDEX workflow_segments_namespace ON workflow_segments (namespace, newest_at, oldest_at, runs);

CREATE TABLE workflow_blocks (
    segment BIGINT NOT NULL REFERENCES workflow_segments (id),
    block INTEGER NOT NULL,
    first_id TEXT NOT NULL,
    last_id TEXT NOT NULL,
    places {json} NOT NULL,
    PRIMARY KEY (segment, block)
);

CREATE TABLE workflow_grams (
    segment BIGINT NOT NULL REFERENCES workflow_segments (id),
    gram TEXT NOT NULL,
    runs {bytes} NOT NULL,
    PRIMARY KEY (segment, gram)
){clustered};

CREATE TABLE workflow_events (
    id {auto_id},
    workflow_id TEXT NOT NULL REFERENCES workflows (id),
    seq INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    payload {json},
    timestamp {float} NOT NULL,
    dedup_key TEXT
);
CREATE UNIQUE INDEX workflow_events_seq ON workflow_events (workflow_id, seq);
CREATE UNIQUE INDEX workflow_events_dedup ON workflow_events (workflow_id, dedup_key)
    WHERE dedup_key IS NOT NULL;

CREATE TABLE workflow_activities (
    id {auto_id},
    workflow_id TEXT NOT NULL REFERENCES workflows (id),
    namespace TEXT NOT NULL REFERENCES namespaces (name),
    activity_seq INTEGER NOT NULL,
    name TEXT NOT NULL,
    task_queue TEXT NOT NULL,
    input {json},
    status TEXT NOT NULL,
    result {json},
    error TEXT,
    attempt INTEGER NOT NULL DEFAULT 1,
    max_attempts INTEGER NOT NULL,
    initial_interval_secs {float} NOT NULL,
    backoff_coefficient {float} NOT NULL,
    max_interval_secs {float} NOT NULL,
    start_to_close_secs {float} NOT NULL,
    heartbeat_timeout_secs {float},
    heartbeat_details {json},
    claimed_by TEXT,
    task_token TEXT UNIQUE,
    last_task_token TEXT,
    last_task_kind TEXT,
    lease_renewed_at {float},
    scheduled_at {float} NOT NULL,
    started_at {float},
    completed_at {float},
    last_heartbeat {float}
);
CREATE UNIQUE INDEX workflow_activities_seq ON workflow_activities (workflow_id, activity_seq);
CREATE INDEX workflow_activities_due ON workflow_activities (namespace, task_queue, scheduled_at, id)
    WHERE status = 'PENDING';
CREATE INDEX workflow_activities_running ON workflow_activities (claimed_by) WHERE status = 'RUNNING';

CREATE TABLE workflow_timers (
    id {row_id},
    workflow_id TEXT NOT NULL REFERENCES workflows (id),
    timer_seq INTEGER NOT NULL,
    fire_at {float} NOT NULL,
    duration_secs {float} NOT NULL,
    status TEXT NOT NULL
);
CREATE UNIQUE INDEX workflow_timers_seq ON workflow_timers (workflow_id, timer_seq);
CREATE INDEX workflow_timers_due ON workflow_timers (fire_at) WHERE status = 'PENDING';

CREATE TABLE workflow_snapshots (
    workflow_id TEXT PRIMARY KEY REFERENCES workflows (id),
    event_seq INTEGER NOT NULL,
    state {json} NOT NULL,
    created_at {float} NOT NULL
);

CREATE TABLE workflow_schedules (
    namespace TEXT NOT NULL REFERENCES namespaces (name),
    name TEXT NOT NULL,
    workflow_type TEXT NOT NULL,
    cron_expr TEXT NOT NULL,
    timezone TEXT NOT NULL,
    input {json},
    task_queue TEXT NOT NULL,
    overlap_policy TEXT NOT NULL,
    paused {bool} NOT NULL DEFAULT {false},
    next_run_at {float},
    last_run_at {float},
    last_workflow_id TEXT,
    buffered_run_at {float},
    created_at {float} NOT NULL,
    updated_at {float} NOT NULL,
    PRIMARY KEY (namespace, name)
);
CREATE INDEX workflow_schedules_due ON workflow_schedules (next_run_at) WHERE next_run_at IS NOT NULL;

CREATE TABLE workflow_workers (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL REFERENCES namespaces (name),
    identity TEXT NOT NULL,
    task_queue TEXT NOT NULL,
    workflows {json} NOT NULL,
    activities {json} NOT NULL,
    max_concurrent_workflows INTEGER NOT NULL,
    max_concurrent_activities INTEGER NOT NULL,
    sticky {bool} NOT NULL DEFAULT {false},
    status TEXT NOT NULL,
    last_heartbeat {float} NOT NULL,
    registered_at {float} NOT NULL
);
CREATE INDEX workflow_workers_queue ON workflow_workers (namespace, task_queue);

CREATE TABLE outbox (
    id {auto_id},
    changes {json} NOT NULL,
    created_at {float} NOT NULL
);

CREATE TABLE api_keys (
    id {auto_id},
    key_hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    label TEXT,
    created_at {float} NOT NULL
);

CREATE TABLE sessions (
    id_hash TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    auth_mode TEXT NOT NULL,
    api_key_id INTEGER REFERENCES api_keys (id) ON DELETE CASCADE,
    csrf_token TEXT NOT NULL,
    created_at {float} NOT NULL,
    expires_at {float} NOT NULL
);

CREATE TABLE engine_lock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    instance_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,
    started_at {float} NOT NULL,
    last_heartbeat {float} NOT NULL
);

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT
);
"""

SQLITE_TYPES = {
    "float": "REAL",
    "json": "TEXT",
    "jsonb": "TEXT",
    "bytes": "BLOB",
    "bool": "INTEGER",
    "false": "0",
    "row_id": "INTEGER PRIMARY KEY",
    # Ids that others get to see are never used again, even when every row was deleted.
    "auto_id": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "clustered": " WITHOUT ROWID",
}
POSTGRES_TYPES = {
    "float": "DOUBLE PRECISION",
    "json": "JSON",
    "jsonb": "JSONB",
    "bytes": "BYTEA",
    "bool": "BOOLEAN",
    "false": "FALSE",
    "row_id": "BIGSERIAL PRIMARY KEY",
    "auto_id": "BIGSERIAL PRIMARY KEY",
    "clustered": "",
}

#: every new run waits to be found by its text
NOTE_RUN = (
    "INSERT INTO workflow_unindexed (namespace, created_at, workflow_id, workflow_type, task_queue) "
    "VALUES (NEW.namespace, NEW.created_at, NEW.id, NEW.workflow_type, NEW.task_queue);"
)
SQLITE_TRIGGER = (f"CREATE TRIGGER workflows_unindexed AFTER INSERT ON workflows BEGIN {NOTE_RUN} END",)
POSTGRES_TRIGGER = (
    f"CREATE FUNCTION assay_note_run() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {NOTE_RUN} RETURN NULL; END $$",
    "CREATE TRIGGER workflows_unindexed AFTER INSERT ON workflows FOR EACH ROW EXECUTE FUNCTION assay_note_run()",
)


def up(migrator: SchemaMigrator, db: Database) -> None:
    postgres = isinstance(db, PostgresqlDatabase)
    script = TABLES.format(**(POSTGRES_TYPES if postgres else SQLITE_TYPES))
    if postgres:
        # Names and ids sort and compare byte by byte on both databases.
        script = script.replace(" TEXT", ' TEXT COLLATE "C"')
    for statement in script.split(";\n"):
        if statement.strip():
            db.execute_sql(statement)
    for statement in POSTGRES_TRIGGER if postgres else SQLITE_TRIGGER:
        db.execute_sql(statement)
    if postgres:
        db.execute_sql("CREATE INDEX workflows_search ON workflows USING GIN (search_attributes jsonb_path_ops)")
    mark = "%s" if postgres else "?"
    db.execute_sql(f"INSERT INTO namespaces (name, created_at) VALUES ('main', {mark})", (time.time(),))
