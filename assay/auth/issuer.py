"""The issuer of JWTs: finding its keys and keeping them (OpenID Connect Discovery 1.0, RFC 7517).

Keys are fetched when they are first needed and every 300 s after that, or when a token seems to be signed by a key that
is not among them. However many requests wait, one fetch is on its way at a time. An issuer that does not answer holds
nobody up for long: its last keys stay in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import gevent
import orjson
import urllib3
from gevent.event import Event

from assay import logs
from assay.auth import keys
from assay.auth.keys import Key
from assay.errors import NotReady

log = logs.get("assay.auth")

#: keys are fetched anew after this time
FRESH_SECS = 300.0
#: unknown keys are looked for at most so often
UNKNOWN_KEY_SECS = 10.0
#: after a fetch that failed: when keys are known, and when none are
RETRY_SECS, FIRST_RETRY_SECS = 10.0, 1.0
#: time-out of each of the two requests
REQUEST_SECS = 10.0
#: a request waits so long for a fetch when older keys are there, counted from the fetch's start
PATIENCE_SECS = 3.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
LARGEST_ANSWER = 1024 * 1024


class _Failed(Exception):
    """The issuer did not answer as it should; the text says how."""


class Issuer:
    """The keys of one issuer. ``url`` is its identifier, ``now`` tells the time in epoch seconds."""

    def __init__(self, url: str, now: Callable[[], float]) -> None:
        self.url = url
        #: what tokens may name as their issuer: the same, perhaps with another slash at its end
        self.names = frozenset({url})
        self._now = now
        self._keys: tuple[Key, ...] | None = None
        self._fetched_at = 0.0
        self._next_try = 0.0
        self._next_look = 0.0
        #: set when the fetch that is on its way has ended
        self._landing: Event | None = None
        self._started_at = 0.0
        self._http = urllib3.PoolManager(retries=urllib3.Retry(redirect=3, connect=0, read=0, other=0), maxsize=1)

    def keys_for(self, kid: str | None) -> tuple[Key, ...]:
        """All keys, or those with this id. Raises NotReady as long as no keys are known."""
        if self._keys is None:
            self._refresh("none are known", REQUEST_SECS * 2)
        elif self._now() >= self._fetched_at + FRESH_SECS:
            self._refresh("they are old", PATIENCE_SECS)
        if self._keys is None:
            raise NotReady("the keys of the issuer are not known yet, so no JWT can be checked; try again")
        found = self._with_id(kid)
        if not found:
            self.look_again("a token names an unknown key")
            found = self._with_id(kid)
        return found

    def look_again(self, reason: str) -> None:
        """Have the keys fetched because a token may have been signed by a new one, at most once in ten seconds."""
        if self._now() >= self._next_look:
            self._next_look = self._now() + UNKNOWN_KEY_SECS
            self._refresh(reason, PATIENCE_SECS, urgent=True)
        else:
            self._wait(PATIENCE_SECS)

    def fetch_ahead(self) -> None:
        """Begin to fetch the keys, and do not wait for them."""
        if self.url.startswith("http:") and urlsplit(self.url).hostname not in _LOOPBACK:
            log.warning("the issuer is asked without TLS; whoever is on the way can forge its keys", issuer=self.url)
        if self._landing is None:
            self._begin("the engine starts")

    def _with_id(self, kid: str | None) -> tuple[Key, ...]:
        known = self._keys or ()
        return known if kid is None else tuple(key for key in known if key.kid == kid)

    def _refresh(self, reason: str, patience: float, *, urgent: bool = False) -> None:
        """Have the keys fetched, unless that failed a moment ago, and wait for that up to ``patience`` seconds."""
        if self._landing is None:
            if self._now() < self._next_try and not urgent:
                return
            self._begin(reason)
        self._wait(patience)

    def _wait(self, patience: float) -> None:
        landing = self._landing
        if landing is not None:
            landing.wait(max(0.0, self._started_at + patience - self._now()))

    def _begin(self, reason: str) -> None:
        self._landing = Event()
        self._started_at = self._now()
        gevent.spawn(self._fetch, reason)

    def _fetch(self, reason: str) -> None:
        landing = self._landing
        assert landing is not None
        try:
            document = self._get(self.url.rstrip("/") + "/.well-known/openid-configuration", "the configuration")
            name, address = self._read_configuration(document)
            members = self._get(address, "the key set").get("keys")
            if not isinstance(members, list):
                raise _Failed("the key set has no list of keys")
            self._keys = keys.read(members)
            self.names = frozenset({self.url, name})
            self._fetched_at = self._now()
            self._next_try = 0.0
            log.info("keys of the issuer fetched", issuer=self.url, keys=len(self._keys), reason=reason)
        except _Failed as error:
            self._failed(reason, str(error))
        except Exception:
            log.exception("the keys of the issuer could not be fetched", issuer=self.url)
            self._failed(reason, "internal error")
        finally:
            self._landing = None
            landing.set()

    def _failed(self, reason: str, cause: str) -> None:
        known = self._keys is not None
        self._next_try = self._now() + (RETRY_SECS if known else FIRST_RETRY_SECS)
        log.warning("keys of the issuer not fetched", issuer=self.url, reason=reason, cause=cause, old_keys=known)

    def _read_configuration(self, document: dict[str, Any]) -> tuple[str, str]:
        """The issuer's name for itself, and the address of its keys."""
        name, address = document.get("issuer"), document.get("jwks_uri")
        if not isinstance(name, str) or name.rstrip("/") != self.url.rstrip("/"):
            raise _Failed(f"its configuration is that of another issuer: {str(name)[:200]!r}")
        if not isinstance(address, str) or not _is_http(address):
            raise _Failed("its configuration has no jwks_uri")
        return name, address

    def _get(self, url: str, what: str) -> dict[str, Any]:
        timeout = gevent.Timeout(REQUEST_SECS)
        try:
            with timeout:
                body = self._load(url, what)
        except gevent.Timeout as late:
            if late is not timeout:
                raise
            raise _Failed(f"{what} did not come within {REQUEST_SECS:g} s") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Failed(f"{what} could not be fetched: {error}") from error
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _Failed(f"{what} is not JSON") from error
        if not isinstance(document, dict):
            raise _Failed(f"{what} is not a JSON object")
        return document

    def _load(self, url: str, what: str) -> bytes:
        answer = self._http.request(
            "GET",
            url,
            headers={"Accept": "application/json", "User-Agent": "assay"},
            timeout=urllib3.Timeout(REQUEST_SECS),
            preload_content=False,
        )
        try:
            if answer.status != 200:
                raise _Failed(f"{what} could not be fetched: HTTP {answer.status}")
            body = answer.read(LARGEST_ANSWER + 1)
        finally:
            answer.close()
        if len(body) > LARGEST_ANSWER:
            raise _Failed(f"{what} is larger than {LARGEST_ANSWER} bytes")
        return body


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
