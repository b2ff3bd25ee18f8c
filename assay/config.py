"""The engine's settings as one frozen object; the only module that reads the environment."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from assay import crashpoints
from assay.errors import ConfigError
from assay.whitelabel import Whitelabel

#: what this start of the program is called; processes that are forked later share it
STARTED = secrets.token_hex(8)
DEFAULT_BACKEND = "sqlite://assay-workflow.db"
MEMORY = ":memory:"


@dataclass(frozen=True)
class Backend:
    """A storage URL, taken apart.

    ``kind`` is ``sqlite`` or ``postgres``. ``path`` is the file of SQLite (relative to the current
    directory unless it starts with a slash; ``:memory:`` for a database of one process), ``url``
    what a Postgres driver takes, password included: log ``str(backend)`` instead, which has none.
    """

    kind: str
    path: str = ""
    url: str = field(default="", repr=False)

    @property
    def is_memory(self) -> bool:
        """Whether this is a SQLite database without a file."""
        return self.kind == "sqlite" and self.path == MEMORY

    def __str__(self) -> str:
        if self.kind == "sqlite":
            return f"sqlite:{self.path}" if self.is_memory else f"sqlite://{self.path}"
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        user = f"{parts.username}@" if parts.username else ""
        return f"postgres://{user}{host}{parts.path}"

    @classmethod
    def parse(cls, url: str, *, name: str = "--backend") -> Backend:
        """Take a storage URL apart.

        Raises ConfigError, which calls the setting ``name`` and never repeats a password.
        """
        scheme, separator, rest = url.partition(":")
        if separator and scheme == "sqlite":
            return cls("sqlite", path=_sqlite_path(rest, name))
        if separator and scheme in ("postgres", "postgresql"):
            _check_postgres(url, name)
            return cls("postgres", url=url)
        shown = f" (given: {scheme}:...)" if separator else ""
        raise ConfigError(
            f"{name}: a storage URL starts with sqlite:, postgres: or postgresql:{shown}, "
            f"for example {DEFAULT_BACKEND} or postgres://user@host:5432/assay"
        )


def _sqlite_path(rest: str, name: str) -> str:
    """The file of a SQLite URL, given what follows ``sqlite:``."""
    path, _, query = rest.partition("?")
    if query not in ("", "mode=rwc"):
        raise ConfigError(f"{name}: the only option of a SQLite URL is ?mode=rwc (given: ?{query})")
    path = unquote(path)
    if path in (MEMORY, "//" + MEMORY, "///" + MEMORY):
        return MEMORY
    if not path.startswith("//") or path == "//" or path.endswith("/"):
        raise ConfigError(
            f"{name}: a SQLite URL names a file: sqlite:///absolute/path.db, sqlite://relative.db or sqlite::memory:"
        )
    if "\0" in path:
        raise ConfigError(f"{name}: the path of the SQLite file contains a NUL character")
    return path[2:]


def _check_postgres(url: str, name: str) -> None:
    problem = f"{name}: not a Postgres URL; it looks like postgres://user:password@host:5432/database"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # From nothing: the original error quotes the URL and with it the password.
        raise ConfigError(problem) from None
    if not url.partition(":")[2].startswith("//") or len(parts.path) < 2:
        raise ConfigError(problem)


@dataclass(frozen=True)
class Config:
    """Everything the engine needs to know. Times are seconds, sizes bytes."""

    #: storage URL, perhaps with a password: show ``database`` instead
    backend: str = field(default=DEFAULT_BACKEND, repr=False)
    host: str = "127.0.0.1"
    port: int = 8080
    lease_secs: float = 30.0
    cancel_grace_secs: float = 30.0
    max_body_bytes: int = 16 * 1024 * 1024
    max_payload_bytes: int = 2 * 1024 * 1024
    sqlite_synchronous: str = "full"
    #: connections for transactions, and how long one statement may take, on Postgres
    postgres_pool_size: int = 10
    postgres_timeout_secs: float = 30.0
    log_level: str = "info"
    build_profile: str = "release"
    version: str | None = None
    #: how the dashboard is branded
    whitelabel: Whitelabel = Whitelabel()
    #: the S3 bucket of the archive; empty: nothing is archived
    archive_bucket: str = ""
    #: what the keys in it start with: empty, or ending in one slash
    archive_prefix: str = "assay/"
    #: how long a closed run keeps its details, in days
    archive_retention_days: float = 30.0
    archive_poll_secs: float = 3600.0
    archive_batch_size: int = 50
    #: a testing aid: the point at which this process dies, see ``assay.crashpoints``
    crash_at: str = ""
    #: whether clients may send API keys; without any way to prove who they are, access is open
    auth_api_key: bool = False
    #: whose JWTs are accepted (its URL, as the tokens name it), and for which audience; None: no JWTs, any audience
    auth_issuer: str | None = None
    auth_audience: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **flags: Any) -> Config:
        """Settings from environment variables (``os.environ`` by default).

        ``flags`` are values of command line options under the names of the fields; they win over
        variables, and ``None`` means that the option was not given. An empty variable counts as
        unset, except for the prefix of the archive. The flag ``no_auth`` wins over the variables
        about authentication. Raises ConfigError naming the variable or option whose value cannot
        be used.
        """
        environ = os.environ if environ is None else environ
        if flags.get("no_auth"):
            environ = _without_auth(environ, flags)
        values: dict[str, Any] = {}
        for name, (variable, parse) in _VARIABLES.items():
            flag = flags.get(name)
            if flag is not None:
                values[name] = parse(str(flag), "--" + name.replace("_", "-"))
            elif environ.get(variable) or (variable in environ and name in _MAY_BE_EMPTY):
                values[name] = parse(environ[variable], variable)
        if "auth_audience" in values and "auth_issuer" not in values:
            name = "--auth-audience" if flags.get("auth_audience") is not None else _VARIABLES["auth_audience"][0]
            raise ConfigError(f"{name} means nothing without an issuer; add --auth-issuer or ASSAY_AUTH_ISSUER")
        if flags.get("version") is not None:
            values["version"] = flags["version"]
        return cls(whitelabel=Whitelabel.from_env(environ), **values)

    @property
    def database(self) -> Backend:
        """The storage URL, taken apart. Raises ConfigError for one that cannot be used."""
        return Backend.parse(self.backend)

    @property
    def auth_mode(self) -> str:
        """How clients prove who they are: ``open`` (they need not), ``api_key``, ``jwt``, ``combined`` (either)."""
        if self.auth_issuer is not None:
            return "combined" if self.auth_api_key else "jwt"
        return "api_key" if self.auth_api_key else "open"


def _without_auth(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Mapping[str, str]:
    """``environ`` as ``--no-auth`` has it. Raises ConfigError when another flag asks for the contrary."""
    for name in _AUTH:
        if flags.get(name) is not None:
            raise ConfigError(f"--no-auth and --{name.replace('_', '-')} contradict each other; leave one out")
    variables = {_VARIABLES[name][0] for name in _AUTH}
    return {name: value for name, value in environ.items() if name not in variables}


Parser = Callable[[str, str], Any]


def _whole(lowest: int, highest: int) -> Parser:
    def parse(text: str, name: str) -> int:
        digits = text.strip()
        if digits.isascii() and digits.isdigit() and lowest <= int(digits[:20]) <= highest:
            return int(digits)
        raise ConfigError(f"{name}: expected a whole number from {lowest} to {highest}, got {_shown(text)}")

    return parse


def _number(lowest: float, highest: float, unit: str = "seconds") -> Parser:
    def parse(text: str, name: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if lowest <= value <= highest:
            return value
        raise ConfigError(
            f"{name}: expected a number of {unit} from {lowest:.12g} to {highest:.12g}, got {_shown(text)}"
        )

    return parse


def _choice(*allowed: str) -> Parser:
    def parse(text: str, name: str) -> str:
        value = text.strip().lower()
        if value in allowed:
            return value
        raise ConfigError(f"{name}: expected one of {', '.join(allowed)}, got {_shown(text)}")

    return parse


def _switch(text: str, name: str) -> bool:
    value = text.strip().lower()
    if value in ("1", "true", "0", "false"):
        return value in ("1", "true")
    # Its value is not shown: somebody may have put a key there.
    raise ConfigError(f"{name}: expected 1 or true (or 0 or false); keys are made with --generate-api-key")


def _issuer(text: str, name: str) -> str:
    problem = f"{name}: expected the URL of an issuer, such as https://login.example.com/realms/main"
    value = text.strip()
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{problem}, got {_shown(text)}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{problem}, without user and password")
    printable = value.isascii() and value.isprintable() and " " not in value
    if parts.scheme not in ("http", "https") or not parts.hostname or not printable or "?" in value or "#" in value:
        raise ConfigError(f"{problem}, got {_shown(text)}")
    return value


def _audience(text: str, name: str) -> str:
    if text.strip() and text.isprintable():
        return text.strip()
    raise ConfigError(f"{name}: expected the audience that tokens name (aud), got {_shown(text)}")


def _backend(text: str, name: str) -> str:
    Backend.parse(text, name=name)
    return text


def _host(text: str, name: str) -> str:
    value = text.strip().removeprefix("[").removesuffix("]")
    if value and not any(character.isspace() or character in "/\0" for character in value):
        return value
    raise ConfigError(f"{name}: expected a host name or address, got {_shown(text)}")


def _bucket(text: str, name: str) -> str:
    value = text.strip()
    if value and not any(character.isspace() or character in "/\\?#\0" for character in value):
        return value
    raise ConfigError(f"{name}: expected the name of a bucket, without s3:// and path, got {_shown(text)}")


def _key_prefix(text: str, name: str) -> str:
    """A prefix with exactly one slash at its end; nothing but slashes is no prefix."""
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text):
        raise ConfigError(f"{name}: a prefix of keys has no control characters, got {_shown(text)}")
    if len(text.encode("utf-8", "replace")) > 400:
        raise ConfigError(f"{name}: a prefix of keys has at most 400 bytes, got {_shown(text)}")
    value = text.rstrip("/")
    return value + "/" if value else ""


def _crash_point(text: str, name: str) -> str:
    try:
        crashpoints.parse(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    return text


def crash_at(environ: Mapping[str, str] | None = None) -> str:
    """The point at which a process that has no ``Config`` is to die, empty for none. Raises ConfigError."""
    text = (os.environ if environ is None else environ).get(CRASH_AT, "")
    return _crash_point(text, CRASH_AT) if text else ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


CRASH_AT = "ASSAY_CRASH_AT"
#: the settings that turn open access off
_AUTH = ("auth_api_key", "auth_issuer", "auth_audience")

#: field of Config -> (environment variable, parser of its text)
_VARIABLES: dict[str, tuple[str, Parser]] = {
    "backend": ("DATABASE_URL", _backend),
    "host": ("ASSAY_HOST", _host),
    "port": ("ASSAY_PORT", _whole(0, 65535)),
    "lease_secs": ("ASSAY_WF_DISPATCH_TIMEOUT_SECS", _number(0.1, 86400)),
    "cancel_grace_secs": ("ASSAY_WF_CANCEL_GRACE_SECS", _number(0, 86400)),
    "max_body_bytes": ("ASSAY_MAX_BODY_BYTES", _whole(1, 1 << 30)),
    "max_payload_bytes": ("ASSAY_MAX_PAYLOAD_BYTES", _whole(1, 1 << 30)),
    "sqlite_synchronous": ("ASSAY_SQLITE_SYNCHRONOUS", _choice("full", "normal")),
    "postgres_pool_size": ("ASSAY_POSTGRES_POOL_SIZE", _whole(1, 1000)),
    "postgres_timeout_secs": ("ASSAY_POSTGRES_TIMEOUT_SECS", _number(1, 3600)),
    "log_level": ("ASSAY_LOG", _choice("debug", "info", "warning", "error")),
    "build_profile": ("ASSAY_BUILD_PROFILE", _choice("release", "debug")),
    "archive_bucket": ("ASSAY_ARCHIVE_S3_BUCKET", _bucket),
    "archive_prefix": ("ASSAY_ARCHIVE_S3_PREFIX", _key_prefix),
    "archive_retention_days": ("ASSAY_ARCHIVE_RETENTION_DAYS", _number(0, 36500, "days")),
    "archive_poll_secs": ("ASSAY_ARCHIVE_POLL_SECS", _number(1, 2678400)),
    "archive_batch_size": ("ASSAY_ARCHIVE_BATCH_SIZE", _whole(1, 10000)),
    "crash_at": (CRASH_AT, _crash_point),
    "auth_api_key": ("ASSAY_AUTH_API_KEY", _switch),
    "auth_issuer": ("ASSAY_AUTH_ISSUER", _issuer),
    "auth_audience": ("ASSAY_AUTH_AUDIENCE", _audience),
}

#: fields whose variable says something when it is set to the empty text
_MAY_BE_EMPTY = frozenset({"archive_prefix"})
