"""Browser sessions: what a cookie stands for.

Only this module and the deletion of a key write ``sessions``. A session is kept under the SHA-256 of the secret in its
cookie, and is looked up for every request, so all instances share it and it ends everywhere at once.
"""

from __future__ import annotations

from assay.engine.core import Engine, Transaction, verb
from assay.errors import Unauthorized
from assay.store.database import Row

#: the longest life of a session, in seconds
LIFETIME_SECS = 12 * 3600.0


@verb
def create(
    tx: Transaction,
    *,
    id_hash: str,
    csrf_token: str,
    principal: str,
    auth_mode: str,
    api_key_id: int | None = None,
    expires_at: float | None = None,
) -> float:
    """Begin a session and return when it ends (epoch seconds); doing it again changes nothing.

    ``auth_mode`` tells what was accepted for it: ``api_key`` or ``jwt``. ``expires_at`` is the end of the token, None
    for one without. Raises Unauthorized when the API key was deleted meanwhile.
    """
    if api_key_id is not None:
        locked = f"SELECT 1 FROM api_keys WHERE id = ? {tx.engine.db.dialect.for_update}"
        if tx.db.value(locked, (api_key_id,)) is None:
            raise Unauthorized("this API key was deleted; sign in with another")
    end = tx.now + LIFETIME_SECS
    if expires_at is not None:
        end = min(end, expires_at)
    tx.db.execute(
        "INSERT INTO sessions (id_hash, principal, auth_mode, api_key_id, csrf_token, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id_hash) DO NOTHING",
        (id_hash, principal, auth_mode, api_key_id, csrf_token, tx.now, end),
    )
    return end


def find(engine: Engine, id_hash: str) -> Row | None:
    """The session, None when there is none or it has ended."""
    with engine.reading() as db:
        row = db.one(
            "SELECT s.id_hash, s.principal, s.auth_mode, s.api_key_id, s.csrf_token, s.expires_at, k.id AS living_key "
            "FROM sessions s LEFT JOIN api_keys k ON k.id = s.api_key_id WHERE s.id_hash = ?",
            (id_hash,),
        )
    if row is None or row["expires_at"] <= engine.now() or row["api_key_id"] != row["living_key"]:
        return None
    return row


@verb
def end(tx: Transaction, *, id_hash: str) -> None:
    """End a session."""
    tx.db.execute("DELETE FROM sessions WHERE id_hash = ?", (id_hash,))


def forget_expired(engine: Engine, now: float) -> int:
    """Delete the sessions that have ended; returns how many."""
    with engine.reading() as db:
        if db.value("SELECT 1 FROM sessions WHERE expires_at <= ? LIMIT 1", (now,)) is None:
            return 0
    return _forget_expired(engine, now)


@verb
def _forget_expired(tx: Transaction, now: float) -> int:
    return tx.db.execute("DELETE FROM sessions WHERE expires_at <= ?", (now,))
