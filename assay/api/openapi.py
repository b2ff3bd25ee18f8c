"""The OpenAPI document, made from the declarations of the operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from flask import Flask
from flask_smorest import Api
from marshmallow import EXCLUDE

from assay import errors
from assay.api.bodies import Body, Described, NoBody, NoQuery
from assay.api.fields import ABSENT, Field, Messages, Text

if TYPE_CHECKING:
    from assay.api.operation import Answer, Spec

OPENAPI = "3.0.3"
COOKIE = "assay_session"

DESCRIPTION = """REST API of the assay workflow engine.

Bodies are JSON in UTF-8; times are Unix epoch seconds as floats, durations are seconds. Percent-encode every path
segment on its own: ids and names may hold any printable character, `/` included. Unknown keys and unknown query
parameters are refused. State-changing requests need a JSON content type, or an empty body and `X-Requested-With`.
"""

#: what every operation may answer; what every protected one may; what every state-changing one may
ALWAYS = (errors.BadRequest, errors.ValidationFailed, errors.ShuttingDown)
PROTECTED = (errors.Unauthorized, errors.NotReady)
CHANGING = (
    errors.InvalidJson,
    errors.CrossSiteRequest,
    errors.CsrfFailed,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
)

_PHRASES = {
    400: "The request is malformed.",
    401: "Authentication is required.",
    403: "Refused: the request may come from another site.",
    404: "Something named in the request does not exist.",
    409: "The current state does not allow this.",
    410: "The details were moved to the archive.",
    413: "Too large.",
    415: "The body is not JSON.",
    422: "Something in the request is not valid; `fields` names it.",
    503: "Not available now; try again after `Retry-After` seconds.",
}


class Error(Described):
    """Every error has this form."""

    class Meta:
        unknown = EXCLUDE

    error = Text("One sentence: what is wrong and what to do.", example="workflow 'order-17' not found")
    code = Text("Stable name of the error.", example="workflow_not_found")
    fields = Messages(  # type: ignore[assignment]
        "Validation errors: messages by field, nested ones as `commands.0.seq`.", default=ABSENT
    )
    archive_uri = Text("Only with `archived`: where the details are.", default=ABSENT)


class RestApi(Api):
    """flask-smorest with this project's field types; ``document`` gives the finished text."""

    ERROR_SCHEMA = Error

    def __init__(self, app: Flask, version: str) -> None:
        options = {
            "title": "assay workflow engine",
            "version": version,
            "openapi_version": OPENAPI,
            "info": {"description": DESCRIPTION},
            "security": [{"bearer": []}, {"cookie": []}, {}],
        }
        super().__init__(app, spec_kwargs=options)
        self.ma_plugin.converter.add_attribute_function(_properties)
        self.spec.components.security_scheme("bearer", BEARER)
        self.spec.components.security_scheme("cookie", SESSION)
        self._texts: dict[str, bytes] = {}
        self._undescribed: list[Callable[[], None]] = []

    def describe_later(self, describe: Callable[[], None]) -> None:
        """Put off a part of the document until somebody asks for it; an engine starts faster without."""
        self._undescribed.append(describe)

    def _register_error_handlers(self) -> None:
        """Errors are answered by problems.py."""

    def _register_responses(self) -> None:
        """Every operation lists its own answers, errors included."""

    def _register_etag_headers(self) -> None:
        """The API has none."""

    def _register_pagination_header(self) -> None:
        """Paging is described by the one operation that has it."""

    def document(self, mount: str = "") -> bytes:
        """The document as JSON for an engine that clients reach below the prefix ``mount``."""
        text = self._texts.get(mount)
        if text is None:
            while self._undescribed:
                self._undescribed.pop(0)()
            whole = {**self.spec.to_dict(), "servers": [{"url": mount or "/"}]}
            text = orjson.dumps(whole)
            if len(self._texts) < 8:  # the mount point may come from a header
                self._texts[mount] = text
        return text


BEARER = {"type": "http", "scheme": "bearer", "description": "An API key or a JWT; ignored in open mode."}
SESSION = {
    "type": "apiKey",
    "in": "cookie",
    "name": COOKIE,
    "description": "A browser session; state-changing requests add the header X-CSRF-Token.",
}


def _properties(self: Any, field: Any, ret: dict[str, Any]) -> dict[str, Any]:
    """apispec asks this last for every field: ours describe themselves, whatever was guessed before."""
    if not isinstance(field, Field):
        return {}
    ret.clear()
    return field.properties(self.resolve_nested_schema)


def describe(spec: Spec) -> dict[str, Any]:
    """The OpenAPI operation object; schema classes in it are resolved when it is registered."""
    operation: dict[str, Any] = {"operationId": spec.operation_id, "responses": _responses(spec)}
    parameters: list[dict[str, Any]] = [
        {"in": "header", "name": name, "description": text, "schema": {"type": "string"}}
        for name, text in spec.headers.items()
    ]
    if spec.query is not NoQuery:
        parameters.insert(0, {"in": "query", "schema": spec.query})
    if parameters:
        operation["parameters"] = parameters
    if spec.changes_state and spec.body is not NoBody:
        operation["requestBody"] = _request_body(spec.body)
    if spec.public:
        operation["security"] = []
    return operation


def _request_body(body: type[Body]) -> dict[str, Any]:
    required = any(field.required for _, field in body.declared())
    return {
        "required": required,
        "description": "" if required else "Optional: no body, `null` and `{}` mean the same.",
        "content": {"application/json": {"schema": body, "example": body.sample()}},
    }


def path_parameters(spec: Spec) -> list[dict[str, Any]]:
    """The path parameters with description and example."""
    described = []
    for name, field in spec.path.items():
        schema = field.properties(_no_reference)
        parameter = {"in": "path", "name": name, "required": True, "description": schema.pop("description")}
        described.append({**parameter, "schema": schema})
    return described


def _no_reference(schema: Any) -> dict[str, Any]:
    raise TypeError(f"a path parameter cannot be a {schema}")


def _responses(spec: Spec) -> dict[str, Any]:
    responses = {str(answer.status): _success(answer) for answer in spec.success}
    by_status: dict[int, list[type[errors.AssayError]]] = {}
    for error in _possible(spec):
        by_status.setdefault(error.status, []).append(error)
    for status, possible in sorted(by_status.items()):
        responses[str(status)] = _failure(status, possible)
    return responses


def _possible(spec: Spec) -> Iterable[type[errors.AssayError]]:
    found = [*ALWAYS, *([] if spec.public else PROTECTED), *(CHANGING if spec.changes_state else ()), *spec.errors]
    return dict.fromkeys(found)


def _success(answer: Answer) -> dict[str, Any]:
    response: dict[str, Any] = {"description": answer.description or "Done."}
    if answer.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
        }
    if answer.schema is None:
        if answer.status != 204:
            example = {"example": answer.example} if answer.example else {}
            response["content"] = {answer.content_type: {"schema": {"type": "string"}, **example}}
        return response
    schema: Any = {"type": "array", "items": answer.schema} if answer.many else answer.schema
    if answer.null:
        schema = {"allOf": [answer.schema], "nullable": True}
    sample = answer.schema.sample()
    response["content"] = {"application/json": {"schema": schema, "example": [sample] if answer.many else sample}}
    return response


def _failure(status: int, possible: Sequence[type[errors.AssayError]]) -> dict[str, Any]:
    examples = {
        error.code: {"value": {"error": _sentence(error), "code": error.code, **_extra(error)}} for error in possible
    }
    codes = ", ".join(f"`{code}`" for code in examples)
    response: dict[str, Any] = {
        "description": f"{_PHRASES.get(status, 'Failed.')} Codes: {codes}.",
        "content": {"application/json": {"schema": Error, "examples": examples}},
    }
    if status == 503:
        response["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"description": "Always `Bearer`.", "schema": {"type": "string"}}}
    return response


def _sentence(error: type[errors.AssayError]) -> str:
    return re.split(r"\n", (error.__doc__ or "").strip())[0]


def _extra(error: type[errors.AssayError]) -> dict[str, Any]:
    if error is errors.ValidationFailed:
        return {"fields": {"workflow_id": ["is required"]}}
    if error is errors.Archived:
        return {"archive_uri": "s3://bucket/assay/main/order-17.json"}
    return {}
