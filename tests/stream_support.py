"""A client of the event stream: what arrives, block by block, over a real connection."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

PATH = "/api/v1/engine/workflow/events/stream"
TIMEOUT = 60.0


@dataclass
class Block:
    """What stands between two empty lines; ``event`` is None for one that only keeps the connection alive."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    comments: list[str] = field(default_factory=list)

    @property
    def json(self) -> dict[str, Any]:
        assert self.data is not None
        return dict(orjson.loads(self.data))


class EventStream:
    """One open stream. Raises OSError or http.client's errors when it breaks."""

    def __init__(self, url: str, last_id: str | None = None, **query: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=TIMEOUT)
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        try:
            self._connection.request("GET", f"{PATH}?{urlencode(query)}" if query else PATH, headers=headers)
            self.response = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise
        if self.response.status == 503:
            raise ConnectionRefusedError(self.response.read().decode())
        assert self.response.status == 200, self.response.read()
        #: what a browser would send as Last-Event-ID
        self.last_id = last_id

    def blocks(self) -> Iterator[Block]:
        """Every block until the stream ends."""
        block, empty = Block(), True
        for raw in iter(self.response.readline, b""):
            line = raw.decode().rstrip("\n")
            if line:
                empty = False
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "":
                    block.comments.append(value)
                elif name in ("id", "event", "data"):
                    assert getattr(block, name) is None, f"{name} twice in one block"
                    setattr(block, name, value)
            elif not empty:
                self.last_id = block.id if block.id is not None else self.last_id
                yield block
                block, empty = Block(), True

    def messages(self) -> Iterator[Block]:
        """Every message until the stream ends."""
        return (block for block in self.blocks() if block.data is not None)

    def take(self, count: int) -> list[Block]:
        """The next ``count`` messages."""
        found = [block for _, block in zip(range(count), self.messages(), strict=False)]
        assert len(found) == count, f"the stream ended after {len(found)} of {count} messages"
        return found

    def close(self) -> None:
        self.response.close()
        self._connection.close()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Follower(threading.Thread):
    """Reads a stream in the background, and opens it anew after the last message whenever it breaks.

    A transaction of which only a part may have arrived is sent again as a whole; what is known of it is left out.
    """

    def __init__(self, *urls: str) -> None:
        super().__init__(daemon=True)
        self._urls = urls
        self._ended = threading.Event()
        self.messages: list[Block] = []
        self.opened = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        last_id: str | None = None
        while not self._ended.is_set():
            try:
                with EventStream(self._urls[self.opened % len(self._urls)], last_id) as stream:
                    self.opened += 1
                    resumed = last_id
                    known = sum(1 for message in self.messages if message.id == resumed)
                    for block in stream.blocks():
                        if block.data is not None and block.id == resumed and known > 0:
                            known -= 1
                        elif block.data is not None:
                            self.messages.append(block)
                        last_id = stream.last_id
                        if self._ended.is_set():
                            return
            except (OSError, http.client.HTTPException):
                self._ended.wait(0.05)
            except BaseException as error:
                self.error = error
                raise

    def stop(self) -> None:
        self._ended.set()
