"""Where settings come from: flag, environment, configuration file, default; each value on its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from fake_engine import FakeEngine, error
from in_process import Result, cli

SOURCES = ("flag", "env", "config")


def config_file(folder: Path, **values: object) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def key_file(folder: Path, name: str, content: str) -> str:
    path = folder / name
    path.write_text(content)
    return str(path)


@pytest.mark.parametrize("given", [c for n in range(4) for c in itertools.combinations(SOURCES, n)], ids="+".join)
def test_precedence_holds_for_the_namespace_and_the_output(given: tuple[str, ...], tmp_path: Path) -> None:
    formats = {"flag": "jsonl", "env": "yaml", "config": "table"}
    args, env = [], {}
    if "config" in given:
        env["ASSAY_CONFIG_FILE"] = config_file(tmp_path, namespace="config", output=formats["config"])
    if "env" in given:
        env |= {"ASSAY_NAMESPACE": "env", "ASSAY_OUTPUT": formats["env"]}
    if "flag" in given:
        args = ["--namespace", "flag", "--output", formats["flag"]]
    with FakeEngine([]) as engine:
        result = cli("queue", "stats", *args, url=engine.url, env=env)
    winner = given[0] if given else None
    assert engine.last.query == f"namespace={winner or 'main'}"
    shown = {"jsonl": "", "yaml": "[]\n", "table": "QUEUE  PENDING  RUNNING  BACKOFF  WORKERS\n", None: "[]\n"}
    assert result.out == shown[formats.get(winner or "")]


@pytest.mark.parametrize("given", [c for n in range(1, 4) for c in itertools.combinations(SOURCES, n)], ids="+".join)
def test_precedence_holds_for_the_engine_url(given: tuple[str, ...], tmp_path: Path) -> None:
    with FakeEngine([]) as flag, FakeEngine([]) as env, FakeEngine([]) as config:
        engines = {"flag": flag, "env": env, "config": config}
        variables = {}
        if "config" in given:
            variables["ASSAY_CONFIG_FILE"] = config_file(tmp_path, engine_url=config.url)
        if "env" in given:
            variables["ASSAY_ENGINE_URL"] = env.url
        args = ["--engine-url", flag.url] if "flag" in given else []
        assert cli("queue", "stats", *args, env=variables).code == 0
    assert [name for name in SOURCES if engines[name].requests] == [given[0]]


def test_without_any_setting_the_engine_is_on_this_machine() -> None:
    result = cli("queue", "stats", env={"http_proxy": "http://127.0.0.1:1"})
    assert "http://127.0.0.1:8080/api/v1/engine/workflow" in result.err or result.code == 0


KEY_SOURCES = ("flag", "env file", "env", "config file", "config")


@pytest.mark.parametrize("given", [c for n in range(6) for c in itertools.combinations(KEY_SOURCES, n)], ids="+".join)
def test_precedence_holds_for_the_key(given: tuple[str, ...], tmp_path: Path) -> None:
    env, config, args = {}, {}, []
    if "flag" in given:
        args = ["--api-key", "flag"]
    if "env file" in given:
        env["ASSAY_API_KEY_FILE"] = key_file(tmp_path, "env.key", " env-file\n\n")
    if "env" in given:
        env["ASSAY_API_KEY"] = "env"
    if "config file" in given:
        config["api_key_file"] = key_file(tmp_path, "config.key", "config-file\r\n")
    if "config" in given:
        config["api_key"] = "config"
    env["ASSAY_CONFIG_FILE"] = config_file(tmp_path, **config)
    with FakeEngine([]) as engine:
        result = cli("queue", "stats", "-v", *args, url=engine.url, env=env)
    expected = f"Bearer {given[0].replace(' ', '-')}" if given else None
    assert engine.last.headers.get("authorization") == expected
    assert not given or given[0].replace(" ", "-") not in result.out


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (("env file", "env"), "env"),
        (("env file", "config"), "config"),
        (("config file", "config"), "config"),
        (("env file", "config file"), None),
    ],
)
def test_a_missing_key_file_falls_through(given: tuple[str, ...], key: str | None, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone" / "key")
    env, config = {}, {}
    if "env file" in given:
        env["ASSAY_API_KEY_FILE"] = gone
    if "env" in given:
        env["ASSAY_API_KEY"] = "env"
    if "config file" in given:
        config["api_key_file"] = gone
    if "config" in given:
        config["api_key"] = "config"
    env["ASSAY_CONFIG_FILE"] = config_file(tmp_path, **config)
    with FakeEngine([]) as engine:
        assert cli("queue", "stats", url=engine.url, env=env).code == 0
    assert engine.last.headers.get("authorization") == (f"Bearer {key}" if key else None)


def test_a_key_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    result = cli("queue", "stats", env={"ASSAY_API_KEY_FILE": str(tmp_path)})
    assert (result.code, result.err) == (64, f"error: cannot read API key file {tmp_path}: is a directory\n")


def test_empty_variables_count_as_unset(tmp_path: Path) -> None:
    names = ("ENGINE_URL", "API_KEY", "API_KEY_FILE", "NAMESPACE", "OUTPUT", "LOG")
    env = {f"ASSAY_{name}": "" for name in names}
    with FakeEngine([]) as engine:
        env["ASSAY_CONFIG_FILE"] = config_file(
            tmp_path, engine_url=engine.url, api_key="k", namespace="n", output="jsonl"
        )
        result = cli("queue", "stats", env=env)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert engine.last.query == "namespace=n" and engine.last.headers["authorization"] == "Bearer k"
    assert cli("queue", "stats", env={"ASSAY_CONFIG_FILE": "", "ASSAY_OUTPUT": "x"}).code == 64


PLACES = ("flag", "env", "xdg", "home")


@pytest.mark.parametrize("given", [c for n in range(1, 5) for c in itertools.combinations(PLACES, n)], ids="+".join)
def test_the_first_existing_config_file_wins(given: tuple[str, ...], tmp_path: Path) -> None:
    paths = {
        "flag": tmp_path / "flag.yaml",
        "env": tmp_path / "env.yaml",
        "xdg": tmp_path / "xdg" / "assay" / "config.yaml",
        "home": tmp_path / "home" / ".config" / "assay" / "config.yaml",
    }
    for name in given:
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(f"namespace: {name}\n")
    env = {
        "ASSAY_CONFIG_FILE": str(paths["env"]),  # also when there is no such file
        "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        "HOME": str(tmp_path / "home"),
    }
    args = ["--config", str(paths["flag"])] if "flag" in given else []
    with FakeEngine([]) as engine:
        assert cli("queue", "stats", *args, url=engine.url, env=env).code == 0
    assert engine.last.query == f"namespace={given[0]}"


def fails(result: Result, text: str) -> None:
    assert (result.code, result.out, result.err) == (64, "", f"error: {text}\n")


def test_an_explicit_config_file_must_exist(tmp_path: Path) -> None:
    path = str(tmp_path / "gone.yaml")
    fails(cli("--config", path, "queue", "stats"), f"config file not found: {path}")
    fails(cli("queue", "stats", "--config", str(tmp_path)), f"config file not found: {tmp_path}")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("namespace: [", "while parsing"),
        ("- a\n- b\n", "must be a mapping of keys to values"),
        ("just text\n", "must be a mapping of keys to values"),
        ("namespaces: main\n", "unknown key 'namespaces' (expected engine_url, api_key, "),
        ("1: main\n", "unknown key '1'"),
        ("namespace: 5\n", "namespace must be a text"),
        ("api_key: [a]\n", "api_key must be a text"),
        ("engine_url: null\n", "engine_url must be a text"),
        ("output: true\n", "output must be a text"),
        ("namespace: \x00\n", "unacceptable character"),
    ],
)
@pytest.mark.parametrize("source", ["flag", "env"])
def test_a_bad_config_file_is_named_with_its_key(content: str, text: str, source: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    args, env = (["--config", str(path)], {}) if source == "flag" else ([], {"ASSAY_CONFIG_FILE": str(path)})
    result = cli("queue", "stats", *args, env=env)
    assert (result.code, result.out) == (64, "")
    assert result.err.startswith(f"error: config file {path}: ") and text in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    "content", ['api_key: "secret\n', "api_key: secret: x\n", "api_key: *secret\n", "api_key: !secret\n"]
)
def test_the_error_of_a_config_file_never_shows_its_text(content: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    result = cli("queue", "stats", "--config", str(path))
    assert result.code == 64 and "line " in result.err and "secret" not in result.err


def test_an_empty_config_file_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("# nothing yet\n")
    with FakeEngine([]) as engine:
        assert cli("queue", "stats", "--config", str(path), url=engine.url).code == 0


@pytest.mark.parametrize("name", ["TABLE", "Json", "jsonl", "YAML", "yml", "Yml"])
def test_format_names_in_any_letter_case(name: str) -> None:
    with FakeEngine([]) as engine:
        assert cli("queue", "stats", "--output", name, url=engine.url).code == 0


@pytest.mark.parametrize("source", SOURCES)
def test_an_unknown_format_is_refused_from_every_source(source: str, tmp_path: Path) -> None:
    args, env = [], {}
    if source == "flag":
        args = ["--output", "Xml"]
    elif source == "env":
        env["ASSAY_OUTPUT"] = "Xml"
    else:
        env["ASSAY_CONFIG_FILE"] = config_file(tmp_path, output="Xml")
    text = "unknown output format 'Xml' (expected table, json, jsonl, yaml)"
    with FakeEngine([]) as engine:
        fails(cli("workflow", "terminate", "w", *args, url=engine.url, env=env), text)
    assert engine.requests == []


POSITIONS = {
    "before": lambda flag: [*flag, "queue", "stats"],
    "between": lambda flag: ["queue", *flag, "stats"],
    "after": lambda flag: ["queue", "stats", *flag],
}


@pytest.mark.parametrize("position", POSITIONS)
def test_global_options_stand_anywhere(position: str) -> None:
    with FakeEngine([]) as engine:
        flags = ["--engine-url", engine.url, "--api-key=k", "--namespace", "n", "--output", "table", "-v"]
        result = cli(*POSITIONS[position](flags))
    assert result.code == 0 and result.out.startswith("QUEUE")
    assert engine.last.query == "namespace=n" and engine.last.headers["authorization"] == "Bearer k"
    assert result.err.startswith("# GET ") and "Bearer" not in result.err


@pytest.mark.parametrize(
    ("args", "wins"),
    [
        (["--namespace", "a", "queue", "--namespace", "b", "stats", "--namespace", "c"], "c"),
        (["--namespace", "a", "queue", "--namespace", "b", "stats"], "b"),
        (["--namespace", "a", "queue", "stats"], "a"),
        (["queue", "--namespace", "b", "--namespace", "x", "stats"], "x"),
    ],
)
def test_the_rightmost_wins(args: list[str], wins: str) -> None:
    with FakeEngine([]) as engine:
        assert cli(*args, url=engine.url).code == 0
    assert engine.last.query == f"namespace={wins}"


def test_diagnostics_with_the_flag_or_the_variable_only() -> None:
    with FakeEngine([]) as engine:
        assert cli("queue", "stats", url=engine.url, env={"ASSAY_LOG": "info"}).err == ""
        told = cli("queue", "stats", url=engine.url, env={"ASSAY_LOG": "debug"}).err
        assert f"GET {engine.url}/api/v1/engine/workflow/queues?namespace=main: " in told


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_never_shown(key: str, tmp_path: Path) -> None:
    for result in (
        cli("queue", "stats", "--api-key", key, "-v"),
        cli("queue", "stats", env={"ASSAY_API_KEY_FILE": key_file(tmp_path, "key", key)}),
    ):
        assert "(it is from " in result.err
        assert result.code == 64 and result.err.startswith("error: bad API key") and key not in result.err


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://u:secret@h", "http://x y", ""])
def test_a_bad_engine_url_is_a_usage_error(url: str) -> None:
    result = cli("queue", "stats", "--engine-url", url)
    assert result.code == 64 and result.err.startswith("error: bad engine URL") and "secret" not in result.err


def test_a_refused_command_tells_of_a_key_file_that_is_not_there(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    with FakeEngine(error(401, "this needs a credential", code="unauthorized")) as engine:
        told = cli("workflow", "list", url=engine.url, env={"ASSAY_API_KEY_FILE": gone})
        assert told.err.endswith(f"(no key was sent: the key file {gone} does not exist)\n")
        told = cli("workflow", "list", url=engine.url, env={"ASSAY_API_KEY_FILE": gone, "ASSAY_API_KEY": "k"})
        assert told.err.endswith("(the key is from ASSAY_API_KEY)\n")
