"""API keys: make, list, delete, recognise.

Only this module writes ``api_keys``. A key is kept as the SHA-256 of its whole text; its prefix is for people. The row
``api_key_created`` of ``meta`` appears with the first key ever and stays, also when all keys are deleted; whoever makes
a key locks it, so that keys are made one after the other on every database. Nothing is cached: a deleted key is
refused by every instance from its commit on.
"""

from __future__ import annotations

import hashlib
import re

from assay import clock, logs
from assay.engine.core import Engine, Transaction, verb
from assay.errors import AmbiguousPrefix, ApiKeyNotFound, Unauthorized
from assay.store.database import Connection, Dialect, Row

log = logs.get("assay.auth")

KEY = re.compile(r"assay_[0-9a-f]{64}")
#: how a key can be named to delete it: its id, or its prefix with or without the dots
_ID = re.compile(r"[1-9][0-9]{0,18}")
_PREFIX = re.compile(r"(assay_[0-9a-f]{8})(\.\.\.)?")
_MARKER = "api_key_created"
_COLUMNS = "id, prefix, label, created_at"
_LARGEST_ID = 2**63 - 1


def digest(secret: str) -> str:
    """SHA-256 of a secret as 64 hex digits: all that is kept of it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


@verb
def create(
    tx: Transaction, *, label: str | None = None, idempotent: bool = False, first: bool = False
) -> tuple[Row, str | None]:
    """Make a key; returns its record and its plain text, which nobody can see again.

    With ``idempotent`` a key with this label is enough: its record is returned, without plain text. With ``first`` it
    must be the first key ever, else Unauthorized is raised.
    """
    return add(tx.db, tx.engine.db.dialect, tx.now, label=label, idempotent=idempotent, first=first)


def add(
    db: Connection,
    dialect: Dialect,
    now: float,
    *,
    label: str | None = None,
    idempotent: bool = False,
    first: bool = False,
) -> tuple[Row, str | None]:
    """As ``create``, in a transaction that is open already; ``now`` is in epoch seconds."""
    is_first = db.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (_MARKER, str(now))
    )
    if not is_first:
        db.value(f"SELECT value FROM meta WHERE key = ? {dialect.for_update}", (_MARKER,))
    if first and not (is_first and _has_no_key(db)):
        raise Unauthorized("the first API key was made already; send Authorization: Bearer <API key>")
    if idempotent:
        known = db.one(f"SELECT {_COLUMNS} FROM api_keys WHERE label = ? ORDER BY id LIMIT 1", (label,))
        if known is not None:
            return known, None
    plaintext = "assay_" + clock.new_secret()
    prefix = plaintext[:14] + "..."
    key_id = db.insert(
        "INSERT INTO api_keys (key_hash, prefix, label, created_at) VALUES (?, ?, ?, ?) RETURNING id",
        (digest(plaintext), prefix, label, now),
    )
    log.info("API key created", id=key_id, prefix=prefix, label=label or "-", without_credential=first)
    return {"id": key_id, "prefix": prefix, "label": label, "created_at": now}, plaintext


def _has_no_key(db: Connection) -> bool:
    return db.value("SELECT 1 FROM api_keys LIMIT 1") is None


def may_create_first(engine: Engine) -> bool:
    """Whether no key was ever made, so that ``create(first=True)`` has a chance."""
    with engine.reading() as db:
        return db.value("SELECT 1 FROM meta WHERE key = ?", (_MARKER,)) is None and _has_no_key(db)


def records(engine: Engine) -> list[Row]:
    """The records of all keys, newest first."""
    with engine.reading() as db:
        return listed(db)


def listed(db: Connection) -> list[Row]:
    """As ``records``, on an open connection."""
    return db.all(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at DESC, id DESC")


def find(engine: Engine, key: str) -> Row | None:
    """The id, prefix and label of a key given as plain text, None when there is no such key."""
    with engine.reading() as db:
        return db.one("SELECT id, prefix, label FROM api_keys WHERE key_hash = ?", (digest(key),))


def exists(engine: Engine, key_id: int) -> bool:
    """Whether the key with this id was not deleted."""
    with engine.reading() as db:
        return db.value("SELECT 1 FROM api_keys WHERE id = ?", (key_id,)) is not None


@verb
def delete(tx: Transaction, *, name: str) -> None:
    """Delete a key, given its id or prefix, and end its sessions. Raises ApiKeyNotFound, AmbiguousPrefix."""
    key_id, prefix = _named(tx, name)
    tx.db.execute("DELETE FROM sessions WHERE api_key_id = ?", (key_id,))
    tx.db.execute("DELETE FROM api_keys WHERE id = ?", (key_id,))
    log.info("API key deleted", id=key_id, prefix=prefix)


def _named(tx: Transaction, name: str) -> tuple[int, str]:
    """Id and prefix of the key that a user named, locked."""
    by_prefix = _PREFIX.fullmatch(name)
    if by_prefix:
        column, value = "prefix", by_prefix[1] + "..."
    elif _ID.fullmatch(name) and int(name) <= _LARGEST_ID:
        column, value = "id", name
    else:  # not repeated: it may be a whole key
        raise ApiKeyNotFound("no API key is called this; give the prefix (assay_ and 8 hex digits) or the id of a key")
    found = tx.db.tuples(
        f"SELECT id, prefix FROM api_keys WHERE {column} = ? ORDER BY id {tx.engine.db.dialect.for_update}",
        (int(value) if column == "id" else value,),
    )
    if not found:
        raise ApiKeyNotFound(f"no API key has the {column} {value}")
    if len(found) > 1:
        ids = ", ".join(str(key_id) for key_id, _ in found)
        raise AmbiguousPrefix(f"{len(found)} API keys have the prefix {value}; give one of their ids: {ids}")
    return found[0]
