"""One operation of the API: its route, its checks and its documentation in one declaration.

    @blp.operation("POST", "/namespaces", "createNamespace", body=CreateNamespace, success=(201, NamespaceRecord))
    def create(engine, body):
        return reply(namespaces.create(engine, **body), 201)

The view gets the engine, the path parameters by name, and ``body`` and ``query`` where the declaration names a schema.
All views read requests this way, so every state-changing one passes the cross-site check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from typing import Any

from flask import Response, current_app, request
from flask_smorest import Blueprint
from marshmallow import ValidationError

from assay import crashpoints
from assay.api import access, incoming
from assay.api.bodies import Body, Described, NoBody, NoQuery, Query, failed
from assay.api.fields import Field
from assay.api.incoming import Environ
from assay.api.openapi import describe, path_parameters
from assay.engine import Engine
from assay.errors import AssayError, BodyTooLarge

View = Callable[..., Response]
#: runs an operation for a request with these path parameters
Run = Callable[[Engine, Environ, dict[str, Any]], Response]


@dataclass(frozen=True)
class Answer:
    """A success answer: status, what it holds and how that is described."""

    status: int = 200
    #: a schema class, or None for an answer without JSON
    schema: type[Described] | None = None
    many: bool = False
    null: bool = False
    description: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    #: of an answer without JSON
    example: str = ""


@dataclass(frozen=True)
class Spec:
    """What an operation declares about itself; the OpenAPI document is made from it."""

    method: str
    rule: str
    operation_id: str
    path: Mapping[str, Field]
    query: type[Query]
    #: request headers that mean something here, each with its description
    headers: Mapping[str, str]
    body: type[Body]
    success: Sequence[Answer]
    errors: Sequence[type[AssayError]]
    public: bool

    @property
    def changes_state(self) -> bool:
        """Whether the method is one that changes something."""
        return self.method not in ("GET", "HEAD", "OPTIONS")


class Resource(Blueprint):
    """The operations on one kind of thing; its name is their tag."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: method, rule and function of the operations that need no Flask
        self.direct: list[tuple[str, str, Run]] = []

    def operation(
        self,
        method: str,
        rule: str,
        operation_id: str,
        *,
        path: Mapping[str, Field] | None = None,
        query: type[Query] = NoQuery,
        headers: Mapping[str, str] | None = None,
        body: type[Body] = NoBody,
        success: Answer | Sequence[Answer],
        errors: Sequence[type[AssayError]] = (),
        public: bool = False,
        any_size: bool = False,
        direct: bool = False,
    ) -> Callable[[View], View]:
        """Register the decorated view, which gets the WSGI environment when it has a parameter ``environ``.

        ``any_size``: a body above the limit counts as ``{}`` instead of failing. ``direct``: the operation is frequent,
        and its view uses nothing of Flask's contexts (see direct.py).
        """
        answers = [success] if isinstance(success, Answer) else success
        spec = Spec(method, rule, operation_id, path or {}, query, headers or {}, body, answers, errors, public)

        def register(view: View) -> View:
            run = _run(view, spec, any_size)
            if direct:
                self.direct.append((method, rule, run))

            @wraps(view)
            def checked(**given: Any) -> Response:
                return run(current_app.extensions["assay"], request.environ, given)

            # where flask-smorest looks for the documentation of a view
            checked._apidoc = {"manual_doc": describe(spec)}  # type: ignore[attr-defined]
            checked.public = public  # type: ignore[attr-defined]
            self.add_url_rule(rule, operation_id, checked, methods=[method], parameters=path_parameters(spec))
            return view

        return register

    def _prepare_response_doc(self, doc: dict[str, Any], *_args: Any, **_options: Any) -> dict[str, Any]:
        """The declaration lists all answers; flask-smorest would add a default one."""
        return doc

    def register_views_in_doc(self, api: Any, *args: Any, **options: Any) -> None:
        """Called by flask-smorest when the routes are registered."""
        api.describe_later(partial(super().register_views_in_doc, api, *args, **options))


def _run(view: View, spec: Spec, any_size: bool) -> Run:
    path = tuple((name, field.check) for name, field in spec.path.items())
    query = None if spec.query is NoQuery else spec.query
    body = None if spec.body is NoBody else spec.body
    changes_state = spec.changes_state
    if changes_state:
        crashpoints.declare("answer:" + spec.operation_id)

    wants_environ = "environ" in signature(view).parameters

    def run(engine: Engine, environ: Environ, given: dict[str, Any]) -> Response:
        if changes_state:
            data = _body(environ, engine.config.max_body_bytes, any_size)
        for name, check in path:
            try:
                given[name] = check(given[name])
            except ValidationError as error:
                raise failed(error, name) from error
        if query or environ.get("QUERY_STRING"):
            values = parse(spec.query, incoming.query(environ), "query")
            if query:
                given["query"] = values
        if changes_state:
            values = parse(spec.body, data, "body")
            if body:
                given["body"] = values
        if wants_environ:
            given["environ"] = environ
        answer = view(engine, **given)
        crashpoints.point("answer:", spec.operation_id)
        return answer

    return run


def _body(environ: Environ, limit: int, any_size: bool) -> Any:
    try:
        raw = incoming.receive(environ, limit)
    except BodyTooLarge:
        _admit(environ, empty=False)
        if not any_size:
            raise
        return {}
    _admit(environ, empty=not raw)
    return incoming.decode(raw)


def _admit(environ: Environ, *, empty: bool) -> None:
    """Refuse a state-changing request that a page of another site could have caused."""
    incoming.guard(environ, empty=empty)
    access.check_csrf(environ)


def parse(schema: type[Body], data: Any, whole: str) -> dict[str, Any]:
    """``data`` checked by ``schema``. Raises ValidationFailed; ``whole`` names the data in its text."""
    try:
        return schema.parse(data)
    except ValidationError as error:
        raise failed(error, whole) from error
