"""A short way for the requests that come by the thousand: workers' turns and results, starts, signals, looks at a run.

Flask's routing and contexts cost more than most of these operations. So an operation that is declared ``direct`` is
found here by its path and runs with the WSGI environment alone. Its checks, the check of credentials and the answers
are the same code either way. Whatever is not plain (a cookie, an unknown path, an engine that stops) goes on
to Flask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from assay.api import access, problems
from assay.api.operation import Resource, Run
from assay.api.rawpath import PREFIX
from assay.auth import Authenticator
from assay.engine import Engine
from assay.errors import AssayError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: a rule taken apart: its texts and, by their places, the names of its parameters; and what runs the operation
Route = tuple[tuple[tuple[int, str], ...], tuple[tuple[int, str], ...], Run]


class Direct:
    """The WSGI middleware around Flask; ``RawPath`` stands before it and has normalised the path."""

    def __init__(self, app: WSGIApplication, engine: Engine, checks: Authenticator, resources: Iterable[Resource]):
        self.app = app
        self._engine = engine
        self._checks = checks
        #: by method and number of segments
        self._routes: dict[tuple[str, int], list[Route]] = {}
        for resource in resources:
            for method, rule, run in resource.direct:
                self._add(method, rule, run)

    def _add(self, method: str, rule: str, run: Run) -> None:
        parts = list(enumerate((PREFIX + rule).split("/")))
        names = tuple((place, part[9:-1]) for place, part in parts if part.startswith("<segment:"))
        texts = tuple((place, part) for place, part in reversed(parts) if not part.startswith("<"))
        self._routes.setdefault((method, len(parts)), []).append((texts, names, run))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        found = self._find(environ)
        if found is None:
            return self.app(environ, start_response)
        try:
            if not self._checks.is_open:
                access.admit(environ, self._checks, None)
            answer = found[0](self._engine, environ, found[1])
        except AssayError as error:
            answer = problems.respond(error, environ, self._engine.config.max_body_bytes)
        except Exception as error:
            answer = problems.fault(error, environ)
        return answer(environ, start_response)

    def _find(self, environ: WSGIEnvironment) -> tuple[Run, dict[str, Any]] | None:
        """What runs the operation, and its path parameters; None when Flask has to answer."""
        if self._engine.stopping or "HTTP_COOKIE" in environ:
            return None
        parts = environ["PATH_INFO"].split("/")
        for texts, names, run in self._routes.get((environ["REQUEST_METHOD"], len(parts)), ()):
            if all(parts[place] == text for place, text in texts):
                given = {name: unquote(parts[place]) for place, name in names}
                return None if "" in given.values() else (run, given)
        return None
