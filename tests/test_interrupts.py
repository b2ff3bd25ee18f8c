"""Ctrl-C ends a command whenever it comes: also in the middle of parsing an answer, and in code that catches much."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fake_engine import FakeEngine, Reply
from harness import ASSAY, environment, wait_until

from assay import client
from assay.client import AnswerReader, Client

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
CALLBACKS = [name for name in vars(AnswerReader) if name.startswith("on_")]
RUN = {"id": "w", "status": "RUNNING", "error": None, "history_length": 0, "created_at": 0.0}


class Ended(BaseException):
    """What a signal handler other than Python's own may raise."""


def reader_that_is_interrupted(callback: str, interrupt: type[BaseException]) -> AnswerReader:
    def raise_it(*_args: Any) -> None:
        raise interrupt

    return type("Interrupted", (AnswerReader,), {callback: raise_it})()


def test_the_reader_has_a_callback_for_every_part_of_an_answer() -> None:
    parts = ["message_begin", "status", "header", "headers_complete", "body", "message_complete"]
    assert [f"on_{part}" for part in parts] == CALLBACKS


@pytest.mark.parametrize("answer", [ANSWER, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, Ended])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_interrupt_in_a_callback_of_the_parser_stays_what_it_is(
    callback: str, interrupt: type[BaseException], answer: bytes
) -> None:
    with pytest.raises(interrupt) as caught:
        reader_that_is_interrupted(callback, interrupt).feed(answer)
    assert type(caught.value) is interrupt


@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_interrupt_in_a_callback_stays_one_while_an_error_is_handled(callback: str) -> None:
    reader = reader_that_is_interrupted(callback, KeyboardInterrupt)
    try:
        raise ValueError("an error that is being handled")
    except ValueError:
        with pytest.raises(KeyboardInterrupt):
            reader.feed(ANSWER)


class InterruptAt:
    """Raises ``KeyboardInterrupt`` at the given instruction of the client's code, as a signal handler may."""

    def __init__(self, instruction: int) -> None:
        self._left = instruction
        self.happened = False

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != client.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.happened:
            self._left -= 1
            if self._left < 0:
                self.happened = True
                raise KeyboardInterrupt
        return self.trace

    def during(self, work: Callable[[], Any]) -> bool:
        """Whether the interrupt came out of ``work``; False as well when it came to its end before."""
        outer = sys.gettrace()
        sys.settrace(self.trace)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(outer)
        return False


@pytest.mark.parametrize("dropped", [False, True], ids=["first try", "second try"])
def test_an_interrupt_at_any_instruction_of_a_request_comes_out_of_it(dropped: bool) -> None:
    with FakeEngine({}) as engine:
        instruction = 0
        while True:
            caller = Client(engine.url)
            if dropped:  # a kept connection that the engine has closed without telling
                caller.call("GET", "version")
                engine.answer = answers_after_one_drop()
            interrupt = InterruptAt(instruction)
            came_out = interrupt.during(lambda caller=caller: caller.call("GET", "version"))
            caller.close()
            if not interrupt.happened:
                break
            assert came_out, f"lost at instruction {instruction}"
            instruction += 1
            engine.answer = {}
    assert instruction > 500


def answers_after_one_drop() -> Callable[[Any], Reply | None]:
    replies: list[Reply | None] = [None]
    return lambda _request: replies.pop() if replies else Reply(body={})


def test_no_interrupt_is_lost_however_many_come(monkeypatch: pytest.MonkeyPatch) -> None:
    raised = seen = reported = 0

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal raised
        raised += 1
        raise KeyboardInterrupt

    def report(_unraisable: Any) -> None:
        nonlocal reported  # it came in a finalizer, where Python lets nothing through
        reported += 1

    monkeypatch.setattr(sys, "unraisablehook", report)
    with FakeEngine({}) as engine:
        caller = Client(engine.url)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            while raised < 300:
                already = raised
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.002))
                    while raised == already:
                        caller.call("GET", "version")
                except KeyboardInterrupt:
                    seen += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert seen + reported == raised and seen > 250


IN_A_FINALIZER = """
import os, signal, sys
from assay import cli
from assay.cli import root

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass  # somewhere here Python runs the handler

def run(_args):
    Finalized()
    print("the command ran on")

root.run = run
sys.exit(cli.main())
"""


def test_an_interrupt_in_a_finalizer_ends_the_command_all_the_same() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_FINALIZER], env=environment(), capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_a_signal_in_a_finalizer_ends_the_demo_all_the_same(tmp_path: Path) -> None:
    swallow = "import sys; from assay.cli import demo, main\ncheck = demo._Stage._check\n"
    swallow += "class Finalized:\n    def __del__(self):\n        signal.raise_signal(signal.SIGTERM)\n"
    swallow += "def lose(stage):\n    demo._Stage._check = check\n    Finalized()\n    print('lost', flush=True)\n"
    swallow += "import signal; demo._Stage._check = lose; sys.exit(main())"
    command = [sys.executable, "-c", swallow, "demo", "--keep", "--port", "0"]
    done = subprocess.run(command, env=environment({"TMPDIR": str(tmp_path)}), capture_output=True, timeout=60)
    assert done.returncode == 128 + signal.SIGTERM
    assert b"lost" in done.stdout and list(tmp_path.iterdir()) == []


def test_an_interrupt_that_is_to_be_ignored_is_ignored() -> None:
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); from assay.cli import main; main()"
    check = "; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, file=sys.stderr)"
    command = [sys.executable, "-c", code + check, "--version"]
    assert subprocess.run(command, env=environment(), capture_output=True, timeout=60).stderr == b"True\n"


def answer_at_once(request: Any) -> Any:
    return [] if request.path.endswith("/events") else RUN


@pytest.mark.parametrize("command", ["workflow wait w", "workflow events w --follow"])
def test_an_interrupt_at_any_moment_of_watching_is_quiet_and_130(command: str) -> None:
    moments = random.Random(7)
    with FakeEngine(answer_at_once) as engine:
        for _ in range(8):
            before = len(engine.requests)
            wanted = before + moments.randint(1, 5)
            process = subprocess.Popen(
                [*ASSAY, *command.split()],
                env=environment({"ASSAY_ENGINE_URL": engine.url}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            wait_until(lambda wanted=wanted: len(engine.requests) >= wanted, "it asks", timeout=60)
            time.sleep(moments.choice([0, 0, moments.uniform(0, 0.001), moments.uniform(0, 0.1)]))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (130, b"", b"")
