"""The archive over the protocol of S3: a server of moto in a process of its own, real engines, the command line."""

from __future__ import annotations

import hashlib
import io
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
from harness import CHECKOUT, EngineProcess, Process, run_cli, wait_until

from assay import s3
from assay.client import Client, HttpError
from assay.config import Config
from assay.engine import Engine, archive, workflows
from assay.s3 import Bucket, StoreError

#: generous: a loaded machine must not matter
PATIENCE = 40.0


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """Address of an S3 service."""
    with Process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]) as server:
        yield server.wait_for(r"Running on http://\S+", PATIENCE).split()[-1]


def aws(url: str) -> dict[str, str]:
    """What the SDK finds in the environment."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }


@pytest.fixture
def bucket_name(s3_url: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A new bucket, which the SDK of this process can reach too."""
    for name, value in aws(s3_url).items():
        monkeypatch.setenv(name, value)
    name = f"test-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=name)
    return name


def settings(url: str, bucket: str, **more: str) -> dict[str, str | None]:
    """The environment of an engine that archives at once and looks every second."""
    return {
        **aws(url),
        "ASSAY_ARCHIVE_S3_BUCKET": bucket,
        "ASSAY_ARCHIVE_RETENTION_DAYS": "0",
        "ASSAY_ARCHIVE_POLL_SECS": "1",
        **more,
    }


# The bucket.


@pytest.mark.parametrize("size", [0, 1, s3.PART_BYTES, s3.PART_BYTES + 1, 2 * s3.PART_BYTES + 12345])
def test_an_object_of_any_size_is_stored_and_read_back(bucket_name: str, size: int) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    bucket = Bucket(bucket_name)
    bucket.put("a%2Fb/c d.json", io.BytesIO(b"something else before"), 21)
    bucket.put("a%2Fb/c d.json", io.BytesIO(content), size)
    assert bucket.digest("a%2Fb/c d.json") == s3.Digest(size, hashlib.sha256(content).hexdigest())
    assert b"".join(bucket.chunks("a%2Fb/c d.json")) == content
    client = boto3.client("s3", region_name="us-east-1")
    assert client.head_object(Bucket=bucket_name, Key="a%2Fb/c d.json")["ContentType"] == "application/json"
    assert client.list_multipart_uploads(Bucket=bucket_name).get("Uploads", []) == []


def test_a_large_upload_that_fails_leaves_no_parts(bucket_name: str) -> None:
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise OSError("the disk broke")
            return super().read(size)

    with pytest.raises(StoreError, match="the disk broke"):
        Bucket(bucket_name).put("k", Breaks(bytes(2 * s3.PART_BYTES)), 2 * s3.PART_BYTES)
    assert (
        boto3.client("s3", region_name="us-east-1").list_multipart_uploads(Bucket=bucket_name).get("Uploads", []) == []
    )


def test_errors_say_what_was_tried_and_whether_others_would_fare_better(bucket_name: str) -> None:
    with pytest.raises(StoreError, match="reading s3://.*/nothing: NoSuchKey") as missing:
        Bucket(bucket_name).digest("nothing")
    assert not missing.value.everything
    with pytest.raises(StoreError, match="writing s3://no-such-bucket/k: NoSuchBucket") as nowhere:
        Bucket("no-such-bucket").put("k", io.BytesIO(b"x"), 1)
    assert nowhere.value.everything


def test_a_service_that_is_not_there_is_an_error_of_the_store(bucket_name: str, monkeypatch: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(StoreError, match="connect") as refused:
            Bucket(bucket_name).put("k", io.BytesIO(b"x"), 1)
    assert refused.value.everything


def test_only_addresses_of_objects_are_taken_apart() -> None:
    assert s3.parse_uri("s3://bucket/a/b%20c.json") == ("bucket", "a/b%20c.json")
    for text in ("", "s3://", "s3://bucket", "s3://bucket/", "s3:///key", "http://bucket/key", "bucket/key"):
        with pytest.raises(ValueError, match="s3://bucket/key"):
            s3.parse_uri(text)


def test_a_history_larger_than_a_part_is_archived_whole(bucket_name: str, backend: str) -> None:
    config = Config(backend=backend, archive_bucket=bucket_name, archive_retention_days=0, sqlite_synchronous="off")
    engine = Engine(config)
    try:
        workflows.start(engine, workflow_id="large", workflow_type="t")
        for number in range(12):
            workflows.signal(engine, workflow_id="large", name="s", payload=[number, "ü" * 900_000])
        workflows.terminate(engine, workflow_id="large")
        engine.archiver = archive.open_archiver(engine)
        assert engine.archiver is not None
        assert archive.run_once(engine, engine.now() + 1) == 1
        bundle = orjson.loads(b"".join(Bucket(bucket_name).chunks("assay/main/large.json")))
        assert [event["payload"]["payload"][0] for event in bundle["events"][1:-1]] == list(range(12))
        assert len(bundle["events"][5]["payload"]["payload"][1]) == 900_000
    finally:
        engine.close()


# Engines.


@pytest.fixture(params=["sqlite", "postgres"])
def any_backend(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite://{tmp_path}/assay.db"


def close_run(client: Client, workflow_id: str) -> None:
    client.call("POST", "workflows", body={"workflow_id": workflow_id, "workflow_type": "t", "input": {"n": 1}})
    client.call("POST", "workflows", workflow_id, "terminate")


def archived(client: Client, workflow_id: str) -> dict[str, Any]:
    """The record of the run once it is archived."""

    def look() -> Any:
        record = client.call("GET", "workflows", workflow_id)
        return record if record["archive_uri"] else None

    record: dict[str, Any] = wait_until(look, f"{workflow_id} is archived", PATIENCE)
    return record


def test_an_engine_archives_and_the_command_line_shows_it(s3_url: str, bucket_name: str, any_backend: str) -> None:
    with EngineProcess(any_backend, env=settings(s3_url, bucket_name, ASSAY_ARCHIVE_S3_PREFIX="x//")) as engine:
        client = Client(engine.url)
        close_run(client, "a/b")
        record = archived(client, "a/b")
        assert record["archive_uri"] == f"s3://{bucket_name}/x/main/a%2Fb.json"
        assert record["archived_at"] >= record["completed_at"]
        for path in ("events", "activities", "state"):
            answer = client.request("GET", "workflows", "a/b", path)
            assert answer.status == 410
            assert answer.json()["code"] == "archived"
            assert answer.json()["archive_uri"] == record["archive_uri"]
        shown = run_cli("workflow", "archive-get", "a/b", url=engine.url, env=aws(s3_url))
        assert (shown.returncode, shown.stderr) == (0, "")
        bundle = orjson.loads(shown.stdout)
        assert bundle["format_version"] == 1
        assert [event["event_type"] for event in bundle["events"]] == ["WorkflowStarted", "WorkflowFailed"]
        assert bundle["record"]["input"] == {"n": 1}
        described = orjson.loads(run_cli("workflow", "describe", "a/b", url=engine.url).stdout)
        assert described["archive_uri"] == record["archive_uri"]
        events = run_cli("workflow", "events", "a/b", url=engine.url)
        assert (events.returncode, record["archive_uri"] in events.stderr) == (1, True)
        assert "a-secret-of-this-test" not in engine.log()
        assert "runs archived" in engine.log()
        close_run(client, "b")
        archived(client, "b")
    checked = run_cli("doctor", "--backend", any_backend)
    assert checked.returncode == 0, checked.stdout


def test_what_is_not_archived_or_cannot_be_read_is_said_plainly(s3_url: str, bucket_name: str) -> None:
    with EngineProcess(env=settings(s3_url, bucket_name)) as engine:
        client = Client(engine.url)
        client.call("POST", "workflows", body={"workflow_id": "open", "workflow_type": "t"})
        for arguments, text in ((("open",), "'open' is not archived"), (("nope",), "HTTP 404")):
            failed = run_cli("workflow", "archive-get", *arguments, url=engine.url, env=aws(s3_url))
            assert (failed.returncode, text in failed.stderr, failed.stderr.count("\n")) == (1, True, 1), failed.stderr
        close_run(client, "w")
        archived(client, "w")
        boto3.client("s3", region_name="us-east-1").delete_object(Bucket=bucket_name, Key="assay/main/w.json")
        lost = run_cli("workflow", "archive-get", "w", url=engine.url, env=aws(s3_url))
        assert (lost.returncode, "NoSuchKey" in lost.stderr, lost.stderr.count("\n")) == (1, True, 1), lost.stderr


def test_an_engine_that_dies_after_an_upload_loses_nothing(s3_url: str, bucket_name: str) -> None:
    with EngineProcess(env=settings(s3_url, bucket_name, ASSAY_CRASH_AT="archive:after-upload")) as engine:
        client = Client(engine.url)
        close_run(client, "w")
        engine.wait(PATIENCE)
        engine.env["ASSAY_CRASH_AT"] = None
        engine.restart()
        archived(client, "w")
    assert len(orjson.loads(b"".join(Bucket(bucket_name).chunks("assay/main/w.json")))["events"]) == 2


def test_of_two_instances_one_archives(s3_url: str, bucket_name: str, postgres_database: str) -> None:
    env = settings(s3_url, bucket_name)
    with EngineProcess(postgres_database, env=env) as one, EngineProcess(postgres_database, env=env) as two:
        client = Client(two.url)
        names = [f"w{number}" for number in range(8)]
        for name in names:
            close_run(client, name)
        for name in names:
            archived(client, name)

        def counts() -> list[int]:
            return [
                sum(int(line.split("count=")[1].split()[0]) for line in log.splitlines() if "runs archived" in line)
                for log in (one.log(), two.log())
            ]

        wait_until(lambda: sum(counts()) >= len(names), "the log of the last pass")
        assert sorted(counts()) == [0, len(names)]


def test_requests_are_answered_and_the_engine_stops_while_an_upload_hangs(bucket_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with EngineProcess(env=settings(url, bucket_name)) as engine:
            client = Client(engine.url)
            close_run(client, "w")
            silent.settimeout(PATIENCE)
            connection, _ = silent.accept()
            with connection:
                for number in range(20):
                    close_run(client, f"other{number}")
                assert client.call("GET", "workflows", "w")["archived_at"] is None
                assert len(client.call("GET", "workflows", "w", "events")) == 2
                assert engine.terminate(PATIENCE) == 0
            assert "Traceback" not in engine.log()
            assert "archiving failed" not in engine.log()


def test_a_service_that_is_down_is_reported_and_tried_again(s3_url: str, bucket_name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        env = settings(f"http://127.0.0.1:{taken.getsockname()[1]}", bucket_name)
        with EngineProcess(env=env) as engine:
            client = Client(engine.url)
            close_run(client, "w")
            engine.wait_for("archiving failed; nothing was deleted .*retry_in_secs=4", PATIENCE)
            assert len(client.call("GET", "workflows", "w", "events")) == 2
            engine.env |= aws(s3_url)
            engine.restart()
            archived(client, "w")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sitecustomize.py", "import sys\nsys.modules['boto3'] = None\n"),
        ("boto3.py", "raise ImportError('half of it is missing')\n"),
    ],
    ids=["missing", "broken"],
)
def test_without_the_extra_the_engine_starts_and_says_what_is_missing(
    tmp_path: Path, bucket_name: str, file: str, content: str
) -> None:
    (tmp_path / file).write_text(content)
    env = settings("http://127.0.0.1:1", bucket_name, PYTHONPATH=f"{tmp_path}:{CHECKOUT}")
    with EngineProcess(env=env) as engine:
        engine.wait_for("s3-archival", PATIENCE)
        client = Client(engine.url)
        close_run(client, "w")
        assert client.call("GET", "workflows", "w")["archived_at"] is None
        with pytest.raises(HttpError, match="404"):
            client.call("GET", "workflows", "nope")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ASSAY_ARCHIVE_S3_BUCKET", "s3://bucket"),
        ("ASSAY_ARCHIVE_RETENTION_DAYS", "-1"),
        ("ASSAY_ARCHIVE_POLL_SECS", "0.5"),
        ("ASSAY_ARCHIVE_BATCH_SIZE", "10001"),
    ],
)
def test_a_setting_that_cannot_be_used_stops_the_start(name: str, value: str) -> None:
    failed = run_cli("serve", "--port", "0", "--backend", "sqlite::memory:", env={name: value})
    assert (failed.returncode, name in failed.stderr, failed.stderr.count("\n")) == (64, True, 1), failed.stderr
