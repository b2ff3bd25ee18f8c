"""API keys: make, list, delete."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from assay import errors
from assay.api import schemas_access
from assay.api.access import authenticator, caller
from assay.api.fields import Name
from assay.api.operation import Answer, Resource
from assay.api.outgoing import reply
from assay.auth import ANYONE
from assay.engine import Engine, api_keys

blp = Resource("api-keys", __name__, description="Keys that clients prove themselves with.")


@blp.operation(
    "POST",
    "/api-keys",
    "createApiKey",
    body=schemas_access.CreateApiKey,
    success=(
        Answer(201, schemas_access.CreatedApiKey, description="The key exists now; this answer alone shows it."),
        Answer(200, schemas_access.ApiKeyRecord, description="With `idempotent`: the key that has this label."),
    ),
)
def create(engine: Engine, body: dict[str, Any]) -> Response:
    """Make an API key.

    With `--auth-api-key` alone, the first key ever is made without a credential.
    """
    first = caller(request.environ) is ANYONE and not authenticator().is_open
    record, plaintext = api_keys.create(engine, **body, first=first)
    if plaintext is None:
        return reply(record)
    response = reply({"plaintext": plaintext, **record}, 201)
    response.headers["Cache-Control"] = "no-store"
    return response


@blp.operation(
    "GET",
    "/api-keys",
    "listApiKeys",
    success=Answer(schema=schemas_access.ApiKeyRecord, many=True, description="Keys, newest first."),
)
def list_(engine: Engine) -> Response:
    """List all API keys."""
    return reply(api_keys.records(engine))


@blp.operation(
    "DELETE",
    "/api-keys/<segment:prefix>",
    "deleteApiKey",
    path={"prefix": Name("Prefix of the key, with or without its dots, or the key's id.", example="assay_1f2e3d4c")},
    success=Answer(204, description="The key is refused from now on, and its sessions have ended."),
    errors=(errors.ApiKeyNotFound, errors.AmbiguousPrefix),
)
def delete(engine: Engine, prefix: str) -> Response:
    """Delete an API key."""
    authenticator().delete_key(prefix)
    return Response(status=204)
