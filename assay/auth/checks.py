"""The order of the checks, and the checks of API keys and browser sessions."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from assay import clock, logs
from assay.auth import tokens
from assay.auth.tokens import TokenVerifier
from assay.engine import Engine, api_keys, sessions
from assay.errors import AssayError, CsrfFailed, NotReady, Unauthorized

log = logs.get("assay.auth")

#: what each mode accepts
ACCEPTED = {
    "open": frozenset[str](),
    "api_key": frozenset({"api_key"}),
    "jwt": frozenset({"jwt"}),
    "combined": frozenset({"api_key", "jwt"}),
}
#: how often a stream that is open for hours looks whether its credential is still good
WATCH_SECS = 1.0
_WANTED = {"api_key": "an API key", "jwt": "a JWT", "combined": "an API key or a JWT"}


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request. ``principal`` is for people; every principal may do everything."""

    principal: str | None
    #: what was accepted: ``api_key`` or ``jwt``, None where nobody is checked
    credential: str | None = None
    api_key_id: int | None = None
    #: when the credential ends (epoch seconds), None for never
    expires_at: float | None = None
    #: of a browser session: the hash that it is kept under, and the token that its writes must send
    session: str | None = None
    csrf_token: str | None = None

    def check_csrf(self, sent: str | None) -> None:
        """Whether a state-changing request may go on; ``sent`` is its X-CSRF-Token. Raises CsrfFailed."""
        if self.csrf_token is None:
            return
        if sent is None:
            raise CsrfFailed("a browser session needs the header X-CSRF-Token for this; GET session tells its value")
        if not hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), self.csrf_token.encode()):
            raise CsrfFailed()


#: the caller where access is open
ANYONE = Caller(None)


class Authenticator:
    """Checks the credentials of requests to one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.mode = engine.config.auth_mode
        self._accepted = ACCEPTED[self.mode]
        #: how many keys and sessions were ended by way of this instance
        self.ended = 0
        config = engine.config
        self._tokens: TokenVerifier | None = None
        if config.auth_issuer is not None:
            self._tokens = TokenVerifier(config.auth_issuer, config.auth_audience, engine.now)

    @property
    def is_open(self) -> bool:
        """Whether nobody is checked."""
        return not self._accepted

    def may_create_first_key(self) -> bool:
        """Whether an API key may be made without any credential: it would be the first one ever. Raises NotReady."""
        if self.mode != "api_key":
            return False
        with _faults_are_ours():
            return api_keys.may_create_first(self._engine)

    def fetch_ahead(self) -> None:
        """Begin to find out what the first request needs; to be called when the engine starts."""
        if self._tokens is not None:
            self._tokens.issuer.fetch_ahead()

    def identify(self, authorization: str | None, cookie: str | None) -> Caller:
        """The caller, given the Authorization header and the value of the session cookie, None when they are missing.

        With a header the cookie is ignored. Raises Unauthorized naming the check that failed, NotReady when a check
        could not be made.
        """
        if authorization is not None:
            return self.bearer(authorization)
        if not cookie:
            raise Unauthorized(f"this needs a credential; send Authorization: Bearer with {_WANTED[self.mode]}")
        return self._of_session(cookie)

    def bearer(self, authorization: str | None) -> Caller:
        """The caller, given the Authorization header. Raises as ``identify``."""
        if authorization is None:
            raise Unauthorized(f"this needs the header Authorization: Bearer with {_WANTED[self.mode]}")
        scheme, _, token = authorization.strip().partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized(
                "the scheme of the Authorization header is not Bearer; send Authorization: Bearer <token>"
            )
        token = token.strip()
        if not token:
            raise Unauthorized("the Authorization header has no token after Bearer")
        header = tokens.header_of(token)
        return self._of_key(token) if header is None else self._of_jwt(token, header)

    def _of_jwt(self, token: str, header: tokens.Claims) -> Caller:
        if self._tokens is None:
            raise Unauthorized("this token is a JWT; this engine accepts API keys only")
        claims = self._tokens.verify(token, header)
        return Caller(tokens.principal(claims), "jwt", expires_at=tokens.ends_at(claims))

    def _of_key(self, key: str) -> Caller:
        if "api_key" not in self._accepted:
            raise Unauthorized("this token is not a JWT; this engine accepts JWTs only")
        if not api_keys.KEY.fullmatch(key):
            raise Unauthorized("this token is not an API key; one is 'assay_' and 64 hex digits in lower case")
        with _faults_are_ours():
            row = api_keys.find(self._engine, key)
        if row is None:
            raise Unauthorized("this API key is unknown or was deleted")
        return Caller(row["label"] or row["prefix"], "api_key", api_key_id=row["id"])

    def _of_session(self, secret: str) -> Caller:
        with _faults_are_ours():
            row = sessions.find(self._engine, api_keys.digest(secret))
        if row is None or row["auth_mode"] not in self._accepted:
            raise Unauthorized("this session is unknown or has ended; sign in again")
        return Caller(
            row["principal"],
            row["auth_mode"],
            api_key_id=row["api_key_id"],
            expires_at=row["expires_at"],
            session=row["id_hash"],
            csrf_token=row["csrf_token"],
        )

    def still_accepts(self, caller: Caller) -> bool:
        """Whether the credential of a request that began earlier is still good. Raises NotReady."""
        if caller.credential is None:
            return True
        with _faults_are_ours():
            if caller.session is not None:
                return sessions.find(self._engine, caller.session) is not None
            if caller.api_key_id is not None:
                return api_keys.exists(self._engine, caller.api_key_id)
        return caller.expires_at is None or self._engine.now() < caller.expires_at

    def watch(self, caller: Caller) -> Callable[[], bool]:
        """A function that may be called all the time, and tells whether the caller's credential is still good.

        It looks at once after a key or session was ended by way of this instance, else every second. While the
        database does not answer, the last answer holds.
        """
        seen, next_look = self.ended, 0.0

        def is_good() -> bool:
            nonlocal seen, next_look
            if seen == self.ended and time.monotonic() < next_look:
                return True
            seen, next_look = self.ended, time.monotonic() + WATCH_SECS
            try:
                return self.still_accepts(caller)
            except NotReady:
                return True

        return is_good

    def delete_key(self, name: str) -> None:
        """Delete an API key. Raises ApiKeyNotFound, AmbiguousPrefix."""
        api_keys.delete(self._engine, name=name)
        self.ended += 1

    def sign_in(self, caller: Caller) -> tuple[str, Caller]:
        """Begin a browser session for a caller with a bearer token: the secret for its cookie, and its caller."""
        assert caller.credential is not None and caller.principal is not None
        secret, csrf_token = clock.new_secret(), clock.new_secret()
        session = api_keys.digest(secret)
        end = sessions.create(
            self._engine,
            id_hash=session,
            csrf_token=csrf_token,
            principal=caller.principal,
            auth_mode=caller.credential,
            api_key_id=caller.api_key_id,
            expires_at=caller.expires_at,
        )
        return secret, replace(caller, expires_at=end, session=session, csrf_token=csrf_token)

    def sign_out(self, caller: Caller) -> None:
        """End the session of a caller; nothing happens to one without."""
        if caller.session is not None:
            sessions.end(self._engine, id_hash=caller.session)
            self.ended += 1


@contextmanager
def _faults_are_ours() -> Iterator[None]:
    """A fault of the database says nothing about the credential."""
    try:
        yield
    except AssayError:
        raise
    except Exception as error:
        log.exception("a credential could not be checked")
        raise NotReady("the database could not be asked about this credential; try again") from error
