"""Instances that start at the same moment on an empty database all come up."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

from cluster import PATIENCE, Cluster
from harness import wait_until
from postgres import PostgresServer
from soundness import assert_invariants

from assay.config import Config
from assay.engine import Engine

ROUNDS = 20


def _start(url: str, together: Barrier, results: multiprocessing.SimpleQueue[str]) -> None:
    together.wait(PATIENCE)
    try:
        Engine(Config(backend=url)).close()
    except BaseException as error:
        results.put(f"{type(error).__name__}: {error}")
    else:
        results.put("came up")


def test_four_at_once_on_an_empty_database_come_up_again_and_again(postgres: PostgresServer) -> None:
    fork = multiprocessing.get_context("fork")
    for _ in range(ROUNDS):
        with postgres.blank() as url:
            together, results = fork.Barrier(4), fork.SimpleQueue()
            processes = [fork.Process(target=_start, args=(url, together, results), daemon=True) for _ in range(4)]
            for process in processes:
                process.start()
            assert [results.get() for _ in processes] == ["came up"] * 4
            for process in processes:
                process.join(PATIENCE)
            assert_invariants(url)


def test_four_servers_at_once_come_up_and_one_of_them_leads(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.blank() as url, Cluster(url, 4, tmp_path) as four:
        four.leader()
        wait_until(lambda: sum("migration applied" in engine.log() for engine in four.engines) == 1, "one migrates")
        for number in range(8):
            four.client.start("Child", f"w{number}")
        four.worker()
        for number in range(8):
            four.client.result(f"w{number}")
        four.assert_nothing_failed()
