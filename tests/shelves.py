"""Places for bundles in tests: a folder, and one that fails, truncates or takes its time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote

import orjson

from assay.s3 import Digest, StoreError, parse_uri


class FolderShelf:
    """One file per key. It has the methods of ``assay.s3.Bucket`` that the engine uses."""

    name = "shelf"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def put(self, key: str, content: IO[bytes], size: int) -> None:
        """Store it whole or not at all."""
        data = content.read()
        assert len(data) == size
        path = self._path(key)
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").replace(path)

    def digest(self, key: str) -> Digest:
        """What is stored."""
        data = self._path(key).read_bytes()
        return Digest(len(data), hashlib.sha256(data).hexdigest())

    def bundle(self, archive_uri: str) -> dict[str, Any]:
        """The decoded content behind an ``archive_uri``."""
        bucket, key = parse_uri(archive_uri)
        assert bucket == self.name
        bundle: dict[str, Any] = orjson.loads(self._path(key).read_bytes())
        return bundle

    def keys(self) -> list[str]:
        """Every key."""
        return sorted(unquote(path.name) for path in self.folder.iterdir())

    def clear(self) -> None:
        """Forget everything."""
        for path in self.folder.iterdir():
            path.unlink()

    def _path(self, key: str) -> Path:
        # A file name has 255 bytes; a key has more.
        name = quote(key, safe="")
        return self.folder / (name if len(name) < 200 else hashlib.sha256(key.encode()).hexdigest())


class FaultyShelf(FolderShelf):
    """``fault`` is called with each key before it is stored: it may raise, wait, or return how many bytes get lost."""

    def __init__(self, folder: Path, fault: Callable[[str], int] = lambda key: 0) -> None:
        super().__init__(folder)
        self.fault = fault
        self.puts: list[str] = []

    def put(self, key: str, content: IO[bytes], size: int) -> None:
        self.puts.append(key)
        lost = self.fault(key)
        super().put(key, content, size)
        if lost:
            path = self._path(key)
            path.write_bytes(path.read_bytes()[:-lost])


def down(key: str) -> int:
    """The fault of a store that does not answer."""
    raise StoreError(f"writing {key}: nobody answers")


def refuses(key: str) -> int:
    """The fault of a store that does not take this object."""
    raise StoreError(f"writing {key}: KeyTooLongError", everything=False)
