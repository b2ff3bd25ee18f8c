"""The tables as Peewee models, and the states that rows can be in.

The models serve the queries that are not on the hot path (lists, statistics, administration); hot statements are SQL
beside the verb that needs them. The schema itself is made by the numbered migrations.
"""

from __future__ import annotations

from peewee import (
    BigAutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    DoubleField,
    Field,
    IntegerField,
    Model,
    TextField,
)

PENDING = "PENDING"
RUNNING = "RUNNING"
COMPLETED = "COMPLETED"
FAILED = "FAILED"
CANCELLED = "CANCELLED"
TIMED_OUT = "TIMED_OUT"
FIRED = "FIRED"

#: a run that can still change
OPEN = (PENDING, RUNNING)
#: a run that never changes again, archival apart
CLOSED = (COMPLETED, FAILED, CANCELLED, TIMED_OUT)
STATUSES = OPEN + CLOSED

ACTIVE = "active"
LOST = "lost"

SCHEDULE_OVERLAP_POLICIES = ("skip", "queue", "cancel_old", "allow_all")


class JsonTextField(Field):
    """JSON kept as text, read and written as text: values pass through unparsed."""

    field_type = "JSON_TEXT"


class JsonBinaryField(Field):
    """JSON that the database can search (JSONB on Postgres), read and written as text."""

    field_type = "JSON_BINARY"


class Namespace(Model):
    name = TextField(primary_key=True)
    created_at = DoubleField()

    class Meta:
        table_name = "namespaces"


class Workflow(Model):
    id = TextField(primary_key=True)
    namespace = TextField()
    run_id = TextField(unique=True)
    workflow_type = TextField()
    task_queue = TextField()
    status = TextField()
    input = JsonTextField(null=True)
    result = JsonTextField(null=True)
    error = TextField(null=True)
    parent_id = TextField(null=True)
    parent_child_id = TextField(null=True)
    search_attributes = JsonBinaryField()
    cancel_requested_at = DoubleField(null=True)
    cancel_reason = TextField(null=True)
    cancel_progress = BooleanField(default=False)
    task_error = JsonTextField(null=True)
    task_attempts = IntegerField(default=0)
    last_event_seq = IntegerField(default=0)
    continued_from = TextField(null=True)
    continued_to = TextField(null=True)
    execution_timeout_secs = DoubleField(null=True)
    deadline_at = DoubleField(null=True)
    archived_at = DoubleField(null=True)
    archive_uri = TextField(null=True)
    created_at = DoubleField()
    updated_at = DoubleField()
    completed_at = DoubleField(null=True)
    needs_dispatch = BooleanField(default=False)
    dispatchable_at = DoubleField(null=True)
    dispatch_claimed_by = TextField(null=True)
    dispatch_claimed_at = DoubleField(null=True)
    dispatch_last_heartbeat = DoubleField(null=True)
    dispatch_listed = BooleanField(default=False)
    task_token = TextField(null=True, unique=True)
    last_task_token = TextField(null=True)
    last_task_kind = TextField(null=True)
    lease_epoch = IntegerField(default=0)
    delivered_seq = IntegerField(default=0)
    accepted_seq = IntegerField(default=0)
    completion_deferred = BooleanField(default=False)
    sticky_worker_id = TextField(null=True)
    sticky_event_seq = IntegerField(null=True)
    activity_seq = IntegerField(default=0)
    timer_seq = IntegerField(default=0)
    wait_seq = IntegerField(default=0)
    side_effect_seq = IntegerField(default=0)
    upsert_seq = IntegerField(default=0)
    schedule_name = TextField(null=True)
    scheduled_for = DoubleField(null=True)

    class Meta:
        table_name = "workflows"


class Attribute(Model):
    namespace = TextField()
    term = TextField()
    created_at = DoubleField()
    workflow_id = TextField()

    class Meta:
        table_name = "workflow_attributes"
        primary_key = CompositeKey("namespace", "term", "created_at", "workflow_id")


class Unindexed(Model):
    namespace = TextField()
    created_at = DoubleField()
    workflow_id = TextField()
    workflow_type = TextField()
    task_queue = TextField()

    class Meta:
        table_name = "workflow_unindexed"
        primary_key = CompositeKey("namespace", "created_at", "workflow_id")


class Segment(Model):
    id = BigAutoField()
    namespace = TextField()
    newest_at = DoubleField()
    oldest_at = DoubleField()
    runs = IntegerField()

    class Meta:
        table_name = "workflow_segments"


class Block(Model):
    segment = BigIntegerField()
    block = IntegerField()
    first_id = TextField()
    last_id = TextField()
    places = JsonTextField()

    class Meta:
        table_name = "workflow_blocks"
        primary_key = CompositeKey("segment", "block")


class Gram(Model):
    segment = BigIntegerField()
    gram = TextField()
    runs = BlobField()

    class Meta:
        table_name = "workflow_grams"
        primary_key = CompositeKey("segment", "gram")


class Event(Model):
    id = BigAutoField()
    workflow_id = TextField()
    seq = IntegerField()
    event_type = TextField()
    payload = JsonTextField(null=True)
    timestamp = DoubleField()
    dedup_key = TextField(null=True)

    class Meta:
        table_name = "workflow_events"


class Activity(Model):
    id = BigAutoField()
    workflow_id = TextField()
    namespace = TextField()
    activity_seq = IntegerField()
    name = TextField()
    task_queue = TextField()
    input = JsonTextField(null=True)
    status = TextField()
    result = JsonTextField(null=True)
    error = TextField(null=True)
    attempt = IntegerField(default=1)
    max_attempts = IntegerField()
    initial_interval_secs = DoubleField()
    backoff_coefficient = DoubleField()
    max_interval_secs = DoubleField()
    start_to_close_secs = DoubleField()
    heartbeat_timeout_secs = DoubleField(null=True)
    heartbeat_details = JsonTextField(null=True)
    claimed_by = TextField(null=True)
    task_token = TextField(null=True, unique=True)
    last_task_token = TextField(null=True)
    last_task_kind = TextField(null=True)
    lease_renewed_at = DoubleField(null=True)
    scheduled_at = DoubleField()
    started_at = DoubleField(null=True)
    completed_at = DoubleField(null=True)
    last_heartbeat = DoubleField(null=True)

    class Meta:
        table_name = "workflow_activities"


class Timer(Model):
    id = BigAutoField()
    workflow_id = TextField()
    timer_seq = IntegerField()
    fire_at = DoubleField()
    duration_secs = DoubleField()
    status = TextField()

    class Meta:
        table_name = "workflow_timers"


class Snapshot(Model):
    workflow_id = TextField(primary_key=True)
    event_seq = IntegerField()
    state = JsonTextField()
    created_at = DoubleField()

    class Meta:
        table_name = "workflow_snapshots"


class Schedule(Model):
    namespace = TextField()
    name = TextField()
    workflow_type = TextField()
    cron_expr = TextField()
    timezone = TextField()
    input = JsonTextField(null=True)
    task_queue = TextField()
    overlap_policy = TextField()
    paused = BooleanField(default=False)
    next_run_at = DoubleField(null=True)
    last_run_at = DoubleField(null=True)
    last_workflow_id = TextField(null=True)
    buffered_run_at = DoubleField(null=True)
    created_at = DoubleField()
    updated_at = DoubleField()

    class Meta:
        table_name = "workflow_schedules"
        primary_key = CompositeKey("namespace", "name")


class Worker(Model):
    id = TextField(primary_key=True)
    namespace = TextField()
    identity = TextField()
    task_queue = TextField()
    workflows = JsonTextField()
    activities = JsonTextField()
    max_concurrent_workflows = IntegerField()
    max_concurrent_activities = IntegerField()
    sticky = BooleanField(default=False)
    status = TextField()
    last_heartbeat = DoubleField()
    registered_at = DoubleField()

    class Meta:
        table_name = "workflow_workers"


class Outbox(Model):
    id = BigAutoField()
    changes = JsonTextField()
    created_at = DoubleField()

    class Meta:
        table_name = "outbox"


class ApiKey(Model):
    id = BigAutoField()
    key_hash = TextField(unique=True)
    prefix = TextField()
    label = TextField(null=True)
    created_at = DoubleField()

    class Meta:
        table_name = "api_keys"


class Session(Model):
    id_hash = TextField(primary_key=True)
    principal = TextField()
    auth_mode = TextField()
    api_key_id = IntegerField(null=True)
    csrf_token = TextField()
    created_at = DoubleField()
    expires_at = DoubleField()

    class Meta:
        table_name = "sessions"


class EngineLock(Model):
    id = IntegerField(primary_key=True)
    instance_id = TextField()
    pid = IntegerField()
    host = TextField()
    started_at = DoubleField()
    last_heartbeat = DoubleField()

    class Meta:
        table_name = "engine_lock"


class MetaValue(Model):
    key = TextField(primary_key=True)
    value = TextField(null=True)

    class Meta:
        table_name = "meta"


#: what Postgres calls the types of the columns
SQL_TYPES: dict[type[Field], str] = {
    BigAutoField: "bigint",
    BigIntegerField: "bigint",
    BlobField: "bytea",
    BooleanField: "boolean",
    DoubleField: "double precision",
    IntegerField: "integer",
    TextField: "text",
    JsonTextField: "json",
    JsonBinaryField: "jsonb",
}

MODELS = (
    Namespace,
    Workflow,
    Attribute,
    Unindexed,
    Segment,
    Block,
    Gram,
    Event,
    Activity,
    Timer,
    Snapshot,
    Schedule,
    Worker,
    Outbox,
    ApiKey,
    Session,
    EngineLock,
    MetaValue,
)
