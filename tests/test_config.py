"""Settings: where they come from, which one wins, and what is refused."""

from __future__ import annotations

import pytest

from assay.config import Backend, Config
from assay.errors import ConfigError


def test_without_any_setting_the_defaults_hold() -> None:
    assert Config.from_env({}) == Config()
    assert Config().database == Backend("sqlite", path="assay-workflow.db")


def test_every_variable_is_read() -> None:
    config = Config.from_env(
        {
            "DATABASE_URL": "sqlite:///data/w.db",
            "ASSAY_HOST": "0.0.0.0",
            "ASSAY_PORT": "0",
            "ASSAY_WF_DISPATCH_TIMEOUT_SECS": "1.5",
            "ASSAY_WF_CANCEL_GRACE_SECS": "0",
            "ASSAY_MAX_BODY_BYTES": "1000",
            "ASSAY_MAX_PAYLOAD_BYTES": "100",
            "ASSAY_SQLITE_SYNCHRONOUS": "NORMAL",
            "ASSAY_LOG": "debug",
            "ASSAY_BUILD_PROFILE": "debug",
        }
    )
    assert config == Config(
        "sqlite:///data/w.db", "0.0.0.0", 0, 1.5, 0.0, 1000, 100, "normal", log_level="debug", build_profile="debug"
    )


@pytest.mark.parametrize(
    ("given", "prefix"),
    [("assay", "assay/"), ("a/b//", "a/b/"), ("", ""), ("/", ""), ("old runs/ü", "old runs/ü/"), (None, "assay/")],
)
def test_the_prefix_of_the_archive_ends_in_one_slash_or_is_empty(given: str | None, prefix: str) -> None:
    environ = {} if given is None else {"ASSAY_ARCHIVE_S3_PREFIX": given}
    assert Config.from_env(environ).archive_prefix == prefix


def test_the_settings_of_the_archive_are_read_and_an_empty_bucket_is_none() -> None:
    config = Config.from_env(
        {
            "ASSAY_ARCHIVE_S3_BUCKET": "runs",
            "ASSAY_ARCHIVE_RETENTION_DAYS": "0.25",
            "ASSAY_ARCHIVE_POLL_SECS": "1",
            "ASSAY_ARCHIVE_BATCH_SIZE": "10000",
        }
    )
    assert (config.archive_bucket, config.archive_retention_days) == ("runs", 0.25)
    assert (config.archive_poll_secs, config.archive_batch_size) == (1.0, 10000)
    assert Config.from_env({"ASSAY_ARCHIVE_S3_BUCKET": ""}).archive_bucket == ""


def test_a_flag_wins_over_its_variable_and_an_empty_variable_is_unset() -> None:
    environ = {"ASSAY_PORT": "81", "ASSAY_HOST": "", "ASSAY_LOG": ""}
    config = Config.from_env(environ, port=82, host=None, backend=None)
    assert (config.port, config.host, config.log_level) == (82, "127.0.0.1", "info")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ASSAY_PORT", "-1"),
        ("ASSAY_PORT", "65536"),
        ("ASSAY_PORT", "8080.0"),
        ("ASSAY_PORT", "٣"),
        ("ASSAY_PORT", "1" * 5000),
        ("ASSAY_HOST", "a b"),
        ("ASSAY_HOST", "http://x"),
        ("ASSAY_WF_DISPATCH_TIMEOUT_SECS", "0"),
        ("ASSAY_WF_DISPATCH_TIMEOUT_SECS", "nan"),
        ("ASSAY_WF_DISPATCH_TIMEOUT_SECS", "inf"),
        ("ASSAY_WF_DISPATCH_TIMEOUT_SECS", "30s"),
        ("ASSAY_WF_CANCEL_GRACE_SECS", "-1"),
        ("ASSAY_MAX_BODY_BYTES", "0"),
        ("ASSAY_MAX_PAYLOAD_BYTES", "2 MiB"),
        ("ASSAY_SQLITE_SYNCHRONOUS", "off"),
        ("ASSAY_LOG", "trace"),
        ("ASSAY_BUILD_PROFILE", "x"),
        ("ASSAY_ARCHIVE_S3_BUCKET", "a b"),
        ("ASSAY_ARCHIVE_S3_BUCKET", "s3://bucket"),
        ("ASSAY_ARCHIVE_S3_PREFIX", "a\nb"),
        ("ASSAY_ARCHIVE_S3_PREFIX", "x" * 401),
        ("ASSAY_ARCHIVE_RETENTION_DAYS", "-0.5"),
        ("ASSAY_ARCHIVE_RETENTION_DAYS", "nan"),
        ("ASSAY_ARCHIVE_RETENTION_DAYS", "30d"),
        ("ASSAY_ARCHIVE_POLL_SECS", "0.9"),
        ("ASSAY_ARCHIVE_BATCH_SIZE", "0"),
        ("ASSAY_ARCHIVE_BATCH_SIZE", "1.5"),
        ("DATABASE_URL", "assay.db"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Config.from_env({name: value})
    assert refusal.value.message.startswith(f"{name}: ")
    assert len(refusal.value.message) < 300


def test_limits_are_written_out() -> None:
    with pytest.raises(ConfigError, match="from 1 to 2678400, got '0'"):
        Config.from_env({"ASSAY_ARCHIVE_POLL_SECS": "0"})


def test_a_bad_flag_is_refused_by_its_own_name() -> None:
    with pytest.raises(ConfigError, match="^--port: "):
        Config.from_env({}, port="http")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///var/lib/w.db", "/var/lib/w.db"),
        ("sqlite://w.db", "w.db"),
        ("sqlite://data/w.db?mode=rwc", "data/w.db"),
        ("sqlite:///my%20files/w.db", "/my files/w.db"),
        ("sqlite::memory:", ":memory:"),
        ("sqlite://:memory:", ":memory:"),
    ],
)
def test_sqlite_urls_name_a_file(url: str, path: str) -> None:
    backend = Backend.parse(url)
    assert (backend.kind, backend.path, backend.is_memory) == ("sqlite", path, path == ":memory:")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "w.db",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:w.db",
        "sqlite://data/",
        "sqlite://w.db?mode=ro",
        "sqlite://a%00b",
        "mysql://h/d",
        "postgres:",
        "postgres://",
        "postgres://host",
        "postgres://host:port/d",
        "postgresql://u:hunter2@host:99999/d",
    ],
)
def test_other_urls_are_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        Backend.parse(url)
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__context__ is None or refusal.value.__suppress_context__


def test_a_backend_is_shown_without_its_password() -> None:
    assert str(Backend.parse("postgresql://me:hunter2@db:5433/assay")) == "postgres://me@db:5433/assay"
    assert str(Backend.parse("postgres://db/assay?password=hunter2")) == "postgres://db/assay"
    assert str(Backend.parse("sqlite:///a/b.db?mode=rwc")) == "sqlite:///a/b.db"
    assert "hunter2" not in repr(Backend.parse("postgres://me:hunter2@db/assay"))
