"""Live streams of real engines: several instances, kills, bursts, slow and vanished clients, a stop."""

from __future__ import annotations

import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import EngineProcess, wait_until
from stream_support import PATH, TIMEOUT, Block, EventStream, Follower

from assay.client import Client, HttpError, Unreachable

LONG = 60.0


def start(client: Client, name: str) -> str:
    """Start a run, whatever happens to the engine meanwhile; returns its id."""
    deadline = time.monotonic() + LONG
    while True:
        try:
            client.call("POST", "workflows", body={"workflow_type": "T", "workflow_id": name})
            return name
        except (Unreachable, HttpError) as error:
            if isinstance(error, HttpError) and error.status == 409:
                return name  # the answer to an earlier try was lost
            assert isinstance(error, Unreachable) or error.status == 503
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def names(messages: list[Block]) -> list[str]:
    return [message.json["workflow_id"] for message in messages]


@pytest.fixture
def pair(postgres_database: str) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """Two instances on one database."""
    with EngineProcess(postgres_database) as first, EngineProcess(postgres_database) as second:
        yield first, second


def test_every_instance_tells_what_happens_on_all(pair: tuple[EngineProcess, EngineProcess]) -> None:
    with EventStream(pair[0].url) as here, EventStream(pair[1].url) as there:
        for stream in (here, there):
            assert next(stream.blocks()).comments == ["connected"]
        clients = [Client(engine.url) for engine in pair]

        def work(number: int) -> None:
            for index in range(40):
                start(clients[number], f"{number}-{index}")

        threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        heard, also = here.take(80), there.take(80)
        for thread in threads:
            thread.join()
    assert [message.id for message in heard] == [message.id for message in also]
    assert sorted(names(heard)) == sorted(f"{number}-{index}" for number in (0, 1) for index in range(40))
    ids = [int(message.id or 0) for message in heard]
    assert ids == sorted(set(ids))


def test_a_client_goes_on_at_another_instance_when_its_own_is_killed(pair: tuple[EngineProcess, EngineProcess]) -> None:
    first, second = pair
    _follow_over_kills(first, Follower(first.url, second.url), Client(second.url))


def test_a_client_goes_on_after_its_engine_was_killed() -> None:
    with EngineProcess() as engine:
        _follow_over_kills(engine, Follower(engine.url), Client(engine.url))


def _follow_over_kills(engine: EngineProcess, follower: Follower, client: Client) -> None:
    """Nothing is missing and nothing is told twice although ``engine`` is killed twice."""
    follower.start()
    wait_until(lambda: follower.opened, "the stream to be open", LONG)
    started = [start(client, "first")]
    wait_until(lambda: follower.messages, "the first message", LONG)
    for kill in range(2):
        busy = threading.Thread(
            target=lambda round=kill: started.extend(start(client, f"w{round}-{index}") for index in range(60))
        )
        busy.start()
        wait_until(lambda round=kill: f"w{round}-10" in names(list(follower.messages)), "some messages", LONG)
        engine.kill()
        engine.restart()
        busy.join(LONG)
        assert not busy.is_alive()
        wait_until(lambda: follower.error or len(follower.messages) >= len(started), "the other messages", LONG)
        assert follower.error is None
    follower.stop()
    start(client, "last")
    follower.join(LONG)
    assert follower.error is None and follower.opened > 1
    assert [message.event for message in follower.messages if message.event != "workflow_started"] == []
    told = [name for name in names(follower.messages) if name != "last"]
    assert len(told) == len(set(told)) and set(told) == set(started)


def open_raw(engine: EngineProcess) -> socket.socket:
    """A stream that nobody reads."""
    sock = socket.create_connection(("127.0.0.1", engine.port), TIMEOUT)
    sock.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return sock


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while b": connected" not in head:
        part = sock.recv(4096)
        assert part, "the stream ended"
        head += part
    return head


def worker_pid(engine: EngineProcess) -> int:
    children = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


BURST = 20_000
INSERT = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
INSERT INTO outbox (changes, created_at)
SELECT '[{"event_type":"timer_fired","namespace":"main","workflow_id":"w' || n || '","run_id":"r","status":"RUNNING",'
    || '"name":"' || printf('%0200d', n) || '","timestamp":1.5}]', ? FROM numbers
"""


def test_a_burst_reaches_fast_and_slow_readers_whole_and_costs_no_memory() -> None:
    with EngineProcess() as engine:
        client, pid = Client(engine.url), worker_pid(engine)
        with EventStream(engine.url) as fast, EventStream(engine.url) as slow:
            idle = [open_raw(engine) for _ in range(30)]
            for sock in idle:
                read_head(sock)
            for stream in (fast, slow):
                next(stream.blocks())
            before = resident_mib(pid)
            with sqlite3.connect(engine.backend.removeprefix("sqlite://"), timeout=LONG) as database:
                database.execute(INSERT, (BURST, time.time()))
            database.close()
            start(client, "end")  # makes the engine look
            wanted = [f"w{number}" for number in range(1, BURST + 1)] + ["end"]
            assert names(fast.take(BURST + 1)) == wanted
            grown = resident_mib(pid) - before
            assert names(slow.take(BURST + 1)) == wanted
            for sock in idle:
                sock.close()
        # 32 readers of 8 MiB each would be 256 MiB.
        assert grown < 100, f"the engine grew by {grown:.0f} MiB"
        assert "ERROR" not in engine.log()


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_hundreds_of_streams_hear_the_same_and_free_everything_when_they_go() -> None:
    with EngineProcess() as engine:
        client, pid = Client(engine.url), worker_pid(engine)
        start(client, "before")
        before = descriptors(pid)
        streams = [open_raw(engine) for _ in range(500)]
        for sock in streams:
            read_head(sock)
        start(client, "for-all")
        for sock in streams:
            assert b"for-all" in sock.recv(4096)
        assert descriptors(pid) >= before + 500
        for sock in streams:
            sock.close()
        wait_until(lambda: descriptors(pid) <= before + 5, "the connections to be freed", LONG)
        start(client, "after")
        assert "ERROR" not in engine.log()


def test_a_stop_ends_streams_whole() -> None:
    with EngineProcess() as engine:
        streams = [open_raw(engine) for _ in range(50)]
        for sock in streams:
            read_head(sock)
        assert engine.terminate(LONG) == 0
        for sock in streams:
            assert sock.recv(4096) == b"0\r\n\r\n" and sock.recv(4096) == b"", "the stream broke off"
            sock.close()
        assert "cut off" not in engine.log()
