"""What a command works with: settings, the client, JSON arguments and the output.

The session also keeps the options that may stand anywhere on the command line: a later one
replaces an earlier one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from assay.cli.errors import BadUsage, CommandError
from assay.cli.settings import Settings

if TYPE_CHECKING:
    import click

    from assay.cli.jsonarg import JsonArguments
    from assay.cli.output import Output
    from assay.client import Client


class Session:
    """One invocation of the command line."""

    def __init__(self) -> None:
        #: options given so far, the rightmost last
        self.flags: dict[str, Any] = {}
        #: the subcommand words, for error lines
        self.context = ""
        #: the innermost command reached so far, for the usage line
        self.place: click.Context | None = None

    @cached_property
    def settings(self) -> Settings:
        """Flags, environment and configuration file together."""
        return Settings(self.flags)

    @cached_property
    def client(self) -> Client:
        """The client of the engine; made when the first request is sent."""
        from assay.client import Client

        try:
            return Client(self.settings.engine_url, token=self.settings.api_key)
        except ValueError as error:
            source = self.settings.api_key_source if "API key" in str(error) else None
            raise BadUsage(f"{error} (it is from {source})" if source else str(error)) from error

    @cached_property
    def out(self) -> Output:
        """The output in the chosen format."""
        from assay.cli.output import Output

        return Output(self.settings.output(is_terminal=self.on_terminal))

    @property
    def on_terminal(self) -> bool:
        """Whether a person reads stdout."""
        return sys.stdout is not None and sys.stdout.isatty()

    @property
    def is_watched(self) -> bool:
        """Whether a person reads stderr."""
        return sys.stderr is not None and sys.stderr.isatty()

    @cached_property
    def json(self) -> JsonArguments:
        """Reader of JSON arguments."""
        from assay.cli.jsonarg import JsonArguments

        return JsonArguments()

    @property
    def namespace(self) -> str:
        """The namespace, ``main`` when the user set none."""
        return self.settings.namespace

    @property
    def scope(self) -> dict[str, str]:
        """Query of a command that lists or changes things of a namespace."""
        return {"namespace": self.settings.namespace}

    @property
    def run_scope(self) -> dict[str, str]:
        """Query of a command on one run: its id is enough unless the user set a namespace."""
        given = self.settings.given_namespace
        return {} if given is None else {"namespace": given}

    def get(self, *segments: str, query: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """GET and decode. Raises what ``Client.call`` raises."""
        return self.call("GET", *segments, query=query, timeout=timeout)

    def post(self, *segments: str, query: Mapping[str, Any] | None = None, **fields: Any) -> Any:
        """POST with the fields that are not None as a JSON object; without fields there is no body."""
        return self.call("POST", *segments, query=query, fields=fields)

    def call(
        self,
        method: str,
        *segments: str,
        query: Mapping[str, Any] | None = None,
        fields: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """One request of this command, with diagnostics on stderr when they are asked for."""
        from assay.client import NO_BODY

        # The output is chosen first: a wrong format must not be noticed after the work is done.
        _ = self.out
        body = {name: value for name, value in (fields or {}).items() if value is not None}
        client, started = self.client, time.monotonic()
        try:
            return client.call(method, *segments, query=query, body=_encode(body) if body else NO_BODY, timeout=timeout)
        finally:
            milliseconds = (time.monotonic() - started) * 1000
            self.note(f"{method} {client.url(*segments, query=query)}: {milliseconds:.1f} ms")

    def rows(self, *segments: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """GET a list of records. Raises ``CommandError`` when the answer is something else."""
        rows = self.get(*segments, query=query)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self.unexpected("a list of records")
        return rows

    def row(
        self, *segments: str, query: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """GET one record. Raises ``CommandError`` when the answer is something else."""
        row = self.get(*segments, query=query, timeout=timeout)
        if not isinstance(row, dict):
            raise self.unexpected("a record")
        return row

    def unexpected(self, wanted: str) -> CommandError:
        """The error for JSON that is not what the endpoint answers."""
        return CommandError(f"unexpected answer from {self.client.base}: not {wanted}")

    def note(self, text: str, *, on_terminal: bool = False) -> None:
        """A diagnostic on stderr, with ``--verbose`` only, or also on a terminal."""
        if self.settings.verbose or (on_terminal and self.is_watched):
            from assay.cli.output import clean

            print(f"# {clean(text)}", file=sys.stderr)


def _encode(body: Mapping[str, Any]) -> bytes:
    import orjson

    try:
        return orjson.dumps(body)
    except TypeError as error:  # the only text orjson refuses: bytes of the command line that are not UTF-8
        raise BadUsage("an argument is not valid UTF-8") from error
