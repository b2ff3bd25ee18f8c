"""API keys and sessions on the wire."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError

from assay.api.bodies import Body, Record
from assay.api.fields import Bool, Choice, Int, Name, Number, Text
from assay.api.schemas import time

MODES = ("open", "api_key", "jwt", "combined")


def _prefix() -> Text:
    return Text("Beginning of the key: `assay_`, 8 hex digits and dots.", example="assay_1f2e3d4c...")


def _label() -> Text:
    return Text("What the key is for.", null=True, example="ci")


class ApiKeyRecord(Record):
    """An API key, without the key itself."""

    id = Int("Id of the key.", example=3)
    prefix = _prefix()
    label = _label()
    created_at = time("Creation")


class CreatedApiKey(Record):
    """A new API key; its text is shown this once."""

    plaintext = Text(
        "The key. Keep it: only its hash is stored.",
        example="assay_1f2e3d4c5b6a79880f1e2d3c4b5a69781f2e3d4c5b6a79880f1e2d3c4b5a6978",
    )
    id = Int("Id of the key.", example=3)
    prefix = _prefix()
    label = _label()
    created_at = time("Creation")


class CreateApiKey(Body):
    """A key to make."""

    label = Name("What the key is for; it names the caller.", default=None, example="ci")
    idempotent = Bool("true: when a key with this label exists, none is made.", default=False)

    @classmethod
    def whole(cls, data: dict[str, Any], values: dict[str, Any]) -> None:
        if values["idempotent"] and values["label"] is None:
            raise ValidationError({"label": ["is required with idempotent: it tells which key is meant"]})


class Session(Record):
    """Who the caller is."""

    principal = Text("Who the caller is; null when nobody is checked.", null=True, example="ci")
    auth_mode = Choice("How the engine checks callers.", MODES, example="api_key")
    csrf_token = Text(
        "What writes of this browser session send as X-CSRF-Token; null without a session.", null=True, example=None
    )
    expires_at = Number("When the credential ends (epoch seconds); null for never.", null=True, example=None)
