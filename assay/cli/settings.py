"""Where the command line's settings come from: flag, environment, configuration file, default.

Each value is looked up on its own in that order. An empty environment variable counts as unset.
The configuration file is read when the first value is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.cli.errors import BadUsage

FORMATS = ("table", "json", "jsonl", "yaml")
CONFIG_KEYS = ("engine_url", "api_key", "api_key_file", "namespace", "output")
DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_NAMESPACE = "main"


class Settings:
    """The resolved settings of one command.

    ``flags`` holds the options given on the command line (``engine_url``, ``api_key``, ``namespace``,
    ``output``, ``config``, ``verbose``). Every property raises ``BadUsage`` for a value that cannot be used.
    """

    def __init__(self, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
        self._flags = flags
        self._environ = environ

    @cached_property
    def engine_url(self) -> str:
        """Address of the engine."""
        given = self._value("engine_url")
        return DEFAULT_URL if given is None else given

    @cached_property
    def given_namespace(self) -> str | None:
        """The namespace that the user set somewhere, None when it is only the default."""
        return self._value("namespace")

    @property
    def namespace(self) -> str:
        """The namespace to use."""
        return DEFAULT_NAMESPACE if self.given_namespace is None else self.given_namespace

    @property
    def api_key(self) -> str | None:
        """The bearer token; a key file wins over a key of the same layer when the file exists."""
        return self._found_key[0]

    @property
    def api_key_source(self) -> str | None:
        """Where the bearer token was found, for people; None without one."""
        return self._found_key[1]

    @property
    def missing_key_file(self) -> str | None:
        """A key file that a setting names and that does not exist, for people."""
        files = (self._environ.get("ASSAY_API_KEY_FILE"), self.config.get("api_key_file"))
        return next((path for path in files if path and not Path(path).expanduser().exists()), None)

    @cached_property
    def _found_key(self) -> tuple[str | None, str | None]:
        if self._flags.get("api_key") is not None:
            return str(self._flags["api_key"]), "--api-key"
        environ, config = self._environ, self.config
        if key := _read_key(environ.get("ASSAY_API_KEY_FILE")):
            return key, "the file of ASSAY_API_KEY_FILE"
        if key := environ.get("ASSAY_API_KEY"):
            return key, "ASSAY_API_KEY"
        if key := _read_key(config.get("api_key_file")):
            return key, f"api_key_file of {self.config_path}"
        if key := config.get("api_key"):
            return key, f"api_key of {self.config_path}"
        return None, None

    @property
    def verbose(self) -> bool:
        """Whether to write diagnostics on stderr."""
        return bool(self._flags.get("verbose")) or self._environ.get("ASSAY_LOG", "").lower() == "debug"

    def output(self, *, is_terminal: bool) -> str:
        """One of ``FORMATS``; without a setting ``table`` on a terminal, else ``json``."""
        given = self._value("output")
        if given is None:
            return "table" if is_terminal else "json"
        name = given.lower()
        if name == "yml":
            return "yaml"
        if name not in FORMATS:
            raise BadUsage(f"unknown output format '{given}' (expected {', '.join(FORMATS)})")
        return name

    @cached_property
    def config_path(self) -> Path | None:
        """The configuration file in use: the first that exists."""
        explicit = self._flags.get("config")
        if explicit is not None:
            if not os.path.isfile(explicit) or not os.access(explicit, os.R_OK):
                raise BadUsage(f"config file not found: {explicit}")
            return Path(explicit)
        return next((path for path in self._candidates() if path.is_file()), None)

    @cached_property
    def config(self) -> dict[str, str]:
        """The content of the configuration file, ``{}`` without one."""
        return {} if self.config_path is None else _read_config(self.config_path)

    def _candidates(self) -> list[Path]:
        environ = self._environ
        named, xdg = environ.get("ASSAY_CONFIG_FILE"), environ.get("XDG_CONFIG_HOME")
        paths = [Path(named)] if named else []
        if xdg:
            paths.append(Path(xdg, "assay", "config.yaml"))
        home = os.path.expanduser("~")
        if os.path.isabs(home):
            paths.append(Path(home, ".config", "assay", "config.yaml"))
        return [*paths, Path("/etc/assay/config.yaml")]

    def _value(self, name: str) -> str | None:
        flag = self._flags.get(name)
        if flag is not None:
            return str(flag)
        return self._environ.get("ASSAY_" + name.upper()) or self.config.get(name) or None


def _read_key(path: str | None) -> str | None:
    """The trimmed content of a key file, None when there is no such file."""
    if not path:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise BadUsage(f"cannot read API key file {path}: {reason(error)}") from error


def _read_config(path: Path) -> dict[str, str]:
    import yaml  # only needed with a configuration file, and slow to import

    try:
        content = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise BadUsage(f"config file {path}: {_yaml_problem(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadUsage(f"config file {path}: {reason(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadUsage(f"config file {path}: must be a mapping of keys to values")
    for key, value in content.items():
        if key not in CONFIG_KEYS:
            raise BadUsage(f"config file {path}: unknown key '{key}' (expected {', '.join(CONFIG_KEYS)})")
        if not isinstance(value, str):
            raise BadUsage(f"config file {path}: {key} must be a text")
    return content


def reason(error: BaseException) -> str:
    """What went wrong, without the path that an ``OSError`` repeats."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error)


def _yaml_problem(error: Any) -> str:
    """Where the YAML is wrong and why, without its text: the line may hold the key."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return "it holds an unacceptable character; it must be YAML in UTF-8"
    named = next((word for word in ("alias", "anchor", "tag") if word in problem), None)
    cause = f"unknown {named}" if named else ", ".join(filter(None, (getattr(error, "context", None), problem)))
    return f"line {mark.line + 1}, column {mark.column + 1}: {cause}"
