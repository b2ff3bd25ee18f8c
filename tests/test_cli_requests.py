"""Every command: the exact request it sends, and what it prints for the answer."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from fake_engine import BASE, FakeEngine, Reply, Request, error
from in_process import cli

ODD = "a/b ?#%\"'\\&ü日🚀 .."
ODD_ENCODED = "a%2Fb%20%3F%23%25%22%27%5C%26%C3%BC%E6%97%A5%F0%9F%9A%80%20.."
START = ["--type", "T", "--id", "w"]
STARTED = {"workflow_type": "T", "workflow_id": "w", "namespace": "main", "task_queue": "default"}
SCHEDULE = {
    "name": "s",
    "workflow_type": "T",
    "cron_expr": "0 0 2 * * *",
    "namespace": "main",
    "timezone": "UTC",
    "task_queue": "default",
    "overlap_policy": "skip",
}
CREATE = ["s", "--type", "T", "--cron", "0 0 2 * * *"]
PREVIEW = {"cron_expr": "0 * * * * *", "timezone": "UTC", "count": 5}

#: arguments -> method, path, query, body (None: no body at all)
REQUESTS: list[tuple[list[str], str, str, str, Any]] = [
    (["workflow", "start", *START], "POST", "/workflows", "", STARTED),
    (
        ["workflow", "start", *START, "--input", "[1]", "--queue", "q", "--search-attrs", '{"a":1}'],
        "POST",
        "/workflows",
        "",
        {**STARTED, "input": [1], "task_queue": "q", "search_attributes": {"a": 1}},
    ),
    (["workflow", "start", *START, "--input", "null"], "POST", "/workflows", "", {**STARTED, "input": None}),
    (["workflow", "list"], "GET", "/workflows", "namespace=main&limit=20&offset=0", None),
    (
        ["workflow", "list", "--status", "running", "--type", "A&B", "--search-attrs", '{"e": "p"}']
        + ["--limit", "5", "--offset", "10"],
        "GET",
        "/workflows",
        "namespace=main&status=RUNNING&type=A%26B&search_attrs=%7B%22e%22%3A%20%22p%22%7D&limit=5&offset=10",
        None,
    ),
    (["workflow", "state", "w"], "GET", "/workflows/w/state", "", None),
    (["workflow", "state", "w", "a/b"], "GET", "/workflows/w/state/a%2Fb", "", None),
    (["workflow", "events", "w"], "GET", "/workflows/w/events", "after_seq=0&limit=10000", None),
    (["workflow", "children", "w"], "GET", "/workflows/w/children", "", None),
    (["workflow", "signal", "w", "go"], "POST", "/workflows/w/signal/go", "", None),
    (["workflow", "signal", "w", "go", "{}"], "POST", "/workflows/w/signal/go", "", {"payload": {}}),
    (["workflow", "signal", "w", "go", "null"], "POST", "/workflows/w/signal/go", "", {"payload": None}),
    (["workflow", "signal", "w", "go", "-12.5e1"], "POST", "/workflows/w/signal/go", "", {"payload": -125.0}),
    (["workflow", "cancel", "w"], "POST", "/workflows/w/cancel", "", None),
    (["workflow", "cancel", "w", "--reason", "r"], "POST", "/workflows/w/cancel", "", {"reason": "r"}),
    (["workflow", "terminate", "w"], "POST", "/workflows/w/terminate", "", None),
    (["workflow", "terminate", "w", "--reason", ""], "POST", "/workflows/w/terminate", "", {"reason": ""}),
    (["workflow", "continue-as-new", "w"], "POST", "/workflows/w/continue-as-new", "", None),
    (
        ["workflow", "continue-as-new", "w", "--input", "1", "--id", "n"],
        "POST",
        "/workflows/w/continue-as-new",
        "",
        {"input": 1, "workflow_id": "n"},
    ),
    (["schedule", "list"], "GET", "/schedules", "namespace=main", None),
    (["schedule", "describe", "s"], "GET", "/schedules/s", "namespace=main", None),
    (["schedule", "create", *CREATE], "POST", "/schedules", "", SCHEDULE),
    (
        ["schedule", "create", *CREATE, "--timezone", "Europe/Berlin", "--input", "{}", "--queue", "q"]
        + ["--overlap", "cancel_old"],
        "POST",
        "/schedules",
        "",
        {
            **SCHEDULE,
            "timezone": "Europe/Berlin",
            "input": {},
            "task_queue": "q",
            "overlap_policy": "cancel_old",
        },
    ),
    (
        ["schedule", "patch", "s", "--input", "null"],
        "PATCH",
        "/schedules/s",
        "namespace=main",
        {"input": None},
    ),
    (
        ["schedule", "patch", "s", "--cron", "c", "--timezone", "z", "--queue", "q", "--overlap", "queue"],
        "PATCH",
        "/schedules/s",
        "namespace=main",
        {"cron_expr": "c", "timezone": "z", "task_queue": "q", "overlap_policy": "queue"},
    ),
    (["schedule", "pause", "s"], "POST", "/schedules/s/pause", "namespace=main", None),
    (["schedule", "resume", "s"], "POST", "/schedules/s/resume", "namespace=main", None),
    (["schedule", "delete", "s"], "DELETE", "/schedules/s", "namespace=main", None),
    (["schedule", "trigger", "s"], "POST", "/schedules/s/trigger", "namespace=main", None),
    (["schedule", "preview", "0 * * * * *"], "POST", "/schedules/preview", "namespace=main", PREVIEW),
    (
        ["schedule", "preview", "0 * * * * *", "--timezone", "Z", "--count", "9"],
        "POST",
        "/schedules/preview",
        "namespace=main",
        {**PREVIEW, "timezone": "Z", "count": 9},
    ),
    (["namespace", "list"], "GET", "/namespaces", "", None),
    (["namespace", "create", "n"], "POST", "/namespaces", "", {"name": "n"}),
    (["namespace", "describe", "n"], "GET", "/namespaces/n", "", None),
    (["namespace", "delete", "n"], "DELETE", "/namespaces/n", "", None),
    (["worker", "list"], "GET", "/workers", "namespace=main", None),
    (["queue", "stats"], "GET", "/queues", "namespace=main", None),
]


def answer(request: Request) -> Any:
    """A list where the API gives one, else an object."""
    parts = request.path.removeprefix(f"{BASE}/").split("/")
    return [] if request.method == "GET" and parts[-1] in LISTS and len(parts) != 2 else {"ok": 1}


LISTS = ("workflows", "events", "children", "schedules", "namespaces", "workers", "queues")


@pytest.mark.parametrize(
    ("arguments", "method", "path", "query", "body"), REQUESTS, ids=[" ".join(row[0]) for row in REQUESTS]
)
def test_a_command_sends_this_request(arguments: list[str], method: str, path: str, query: str, body: Any) -> None:
    with FakeEngine(answer) as engine:
        result = cli(*arguments, url=engine.url)
    assert (result.code, result.err) == (0, "")
    assert len(engine.requests) == 1
    sent = engine.last
    assert (sent.method, sent.path, sent.query) == (method, BASE + path, query)
    assert (orjson.loads(sent.body) if sent.body else None) == body


ON_A_RUN = [
    ["describe"],
    ["state"],
    ["state", ODD],
    ["events"],
    ["children"],
    ["signal", ODD],
    ["cancel"],
    ["terminate"],
    ["continue-as-new"],
]


@pytest.mark.parametrize("words", ON_A_RUN, ids=" ".join)
@pytest.mark.parametrize("source", ["flag", "env", "none"])
def test_commands_on_a_run_send_a_namespace_only_when_it_is_set(words: list[str], source: str) -> None:
    flag = ["--namespace", "n/s"] if source == "flag" else []
    env = {"ASSAY_NAMESPACE": "n/s"} if source == "env" else {}
    with FakeEngine(answer) as engine:
        assert cli("workflow", words[0], ODD, *words[1:], *flag, url=engine.url, env=env).code == 0
    for request in engine.requests:
        assert ("namespace=n%2Fs" in request.query) == (source != "none")
        assert "namespace=main" not in request.query
        assert request.path.startswith(f"{BASE}/workflows/{ODD_ENCODED}")
        assert not words[1:] or request.path.endswith(f"/{ODD_ENCODED}")


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["workflow", "start", *START], "body"),
        (["schedule", "create", *CREATE], "body"),
        (["workflow", "list"], "query"),
        (["schedule", "list"], "query"),
        (["schedule", "describe", "s"], "query"),
        (["schedule", "patch", "s", "--queue", "q"], "query"),
        (["schedule", "pause", "s"], "query"),
        (["schedule", "resume", "s"], "query"),
        (["schedule", "delete", "s"], "query"),
        (["schedule", "trigger", "s"], "query"),
        (["schedule", "preview", "* * * * * *"], "query"),
        (["worker", "list"], "query"),
        (["queue", "stats"], "query"),
        (["namespace", "list"], "nowhere"),
        (["namespace", "create", "n"], "nowhere"),
        (["namespace", "describe", "n"], "nowhere"),
        (["namespace", "delete", "n"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_the_namespace_goes_where_the_endpoint_takes_it(arguments: list[str], where: str) -> None:
    with FakeEngine(answer) as engine:
        assert cli(*arguments, "--namespace", "other", url=engine.url).code == 0
    sent = engine.last
    assert ("namespace=other" in sent.query) == (where == "query")
    assert (b'"namespace":"other"' in sent.body) == (where == "body")


def test_schedule_names_and_namespace_names_are_encoded() -> None:
    with FakeEngine({}) as engine:
        for words in (["schedule", "describe"], ["schedule", "pause"], ["namespace", "delete"]):
            cli(*words, ODD, url=engine.url)
            assert ODD_ENCODED in engine.last.path.split("/")[6]


def test_an_id_is_made_up_from_the_type() -> None:
    with FakeEngine({}) as engine:
        cli("workflow", "start", "--type", "Approve & Deploy ü", url=engine.url)
        assert re.fullmatch(r"wf-approve---deploy---\d{13}-[0-9a-f]{4}", engine.last.json["workflow_id"])
        cli("workflow", "start", "--type", "T" * 255, url=engine.url)
        assert len(engine.last.json["workflow_id"]) <= 255


def test_describe_adds_what_the_run_waits_for() -> None:
    with FakeEngine(lambda r: {"code": "closed"} if r.path.endswith("/pending") else {"id": "w"}) as engine:
        result = cli("workflow", "describe", "w", url=engine.url)
    assert result.json == {"id": "w", "pending": {"code": "closed"}}
    assert [r.path for r in engine.requests] == [f"{BASE}/workflows/w", f"{BASE}/workflows/w/pending"]


def test_long_histories_are_read_page_by_page() -> None:
    def events(request: Request) -> Any:
        after = int(request.query.split("after_seq=")[1].split("&")[0])
        return [
            {"seq": n, "event_type": "E", "timestamp": 0.0} for n in range(after + 1, min(after + 10_000, 25_000) + 1)
        ]

    with FakeEngine(events) as engine:
        result = cli("workflow", "events", "w", "--output", "jsonl", url=engine.url)
    assert [orjson.loads(line)["seq"] for line in result.out.splitlines()] == list(range(1, 25_001))
    assert len(engine.requests) == 3


MESSAGES = [
    (["workflow", "signal", "w 1", "g'o"], "signal 'g'o' sent to w 1"),
    (["workflow", "cancel", "w"], "cancel requested for w"),
    (["workflow", "terminate", "w"], "w terminated"),
    (["schedule", "pause", "s"], "s paused"),
    (["schedule", "resume", "s"], "s resumed"),
    (["schedule", "delete", "s"], "s deleted"),
    (["namespace", "create", "n"], "namespace 'n' created"),
    (["namespace", "delete", "n"], "namespace 'n' deleted"),
]


@pytest.mark.parametrize(("arguments", "message"), MESSAGES, ids=[row[1] for row in MESSAGES])
def test_an_action_says_what_was_done(arguments: list[str], message: str) -> None:
    with FakeEngine({}) as engine:
        assert cli(*arguments, "--output", "table", url=engine.url).out == f"{message}\n"
        assert cli(*arguments, url=engine.url).out == f'{{"ok": true, "message": "{message}"}}\n'


CONTEXTS = sorted({" ".join(row[0][:2]) for row in REQUESTS} | {"workflow describe", "workflow wait"})


@pytest.mark.parametrize("context", CONTEXTS)
def test_an_error_line_names_the_command(context: str) -> None:
    arguments = next((row[0] for row in REQUESTS if " ".join(row[0][:2]) == context), [*context.split(), "w"])
    with FakeEngine(error(404, "workflow 'x' not found", "Not Found")) as engine:
        result = cli(*arguments, url=engine.url)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: {context}: HTTP 404 Not Found: workflow 'x' not found\n"


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(500, b"boom", reason="Internal Server Error"), "HTTP 500 Internal Server Error: boom"),
        (Reply(502, b"", reason="Bad Gateway"), "HTTP 502 Bad Gateway: <empty>"),
        (Reply(400, b"two\r\nlines\x1b[31m", reason="Bad Request"), "HTTP 400 Bad Request: two lines?[31m"),
        (error(401, "Authentication is required", "Unauthorized"), "HTTP 401 Unauthorized: Authentication is"),
    ],
)
def test_an_error_is_one_line_whatever_the_body_is(reply: Reply, text: str) -> None:
    with FakeEngine(reply) as engine:
        result = cli("workflow", "list", url=engine.url)
    assert result.code == 1 and result.err.startswith(f"error: workflow list: {text}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"a":', b'{"a":1}', b"[1]", b"7"])
def test_an_answer_that_cannot_be_used_ends_with_1(body: bytes) -> None:
    with FakeEngine(Reply(200, body)) as engine:
        result = cli("workflow", "list", url=engine.url)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: workflow list: ") and result.err.count("\n") == 1


def test_an_engine_that_is_not_there_ends_with_1_and_a_hint() -> None:
    with FakeEngine() as engine:
        url = engine.url
    result = cli("workflow", "list", url=f"{url}/prefix/")
    assert result.code == 1
    expected = f"error: workflow list: engine unreachable at {url}/prefix{BASE}: connection refused"
    assert result.err == f"{expected} (is the engine running? `assay serve` starts one)\n"


NO_PATH = error(404, "no such path", code="not_found")
HTML = Reply(200, b"<!doctype html><p>hello</p>", headers={"Content-Type": "text/html"})


@pytest.mark.parametrize(
    ("path", "reply", "hint"),
    [
        ("", HTML, "; is this the address of an assay engine?"),
        ("/workflow/", HTML, " (--engine-url is the part before /workflow: {url})"),
        (
            "/workflow",
            error(404, "no such path", code="not_found"),
            " (--engine-url is the part before /workflow: {url})",
        ),
        (BASE, NO_PATH, " (--engine-url is the part before " + BASE + ": {url})"),
        ("", Reply(404, b"<h1>Not found</h1>", headers={"Content-Type": "text/html"}), "of an assay engine?"),
        ("", error(404, "workflow 'w' not found", code="workflow_not_found"), "workflow 'w' not found"),
    ],
)
def test_a_wrong_address_gets_a_hint(path: str, reply: Reply, hint: str) -> None:
    with FakeEngine(reply) as engine:
        result = cli("workflow", "describe", "w", url=engine.url + path)
        assert result.code == 1 and result.err.rstrip("\n").endswith(hint.format(url=engine.url))


def test_a_plain_address_of_an_engine_without_tls_gets_a_hint() -> None:
    with FakeEngine({}) as engine:
        result = cli("workflow", "list", url=engine.url.replace("http:", "https:"))
        assert result.code == 1 and "the address begins with http://" in result.err
