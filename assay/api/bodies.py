"""Schemas of requests and answers, and the fast way to read a request with one.

``Body.parse`` checks a decoded body from a table that is made once per class out of the declared fields, because
marshmallow's own ``load`` costs more than everything else in a worker's request. The declaration stays the only source:
the table, ``load`` and the OpenAPI document all come from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, missing

from assay.api.fields import ABSENT, Field, kind
from assay.errors import ValidationFailed

#: no answer lists more bad fields than this
MOST_COMPLAINTS = 50
_REQUIRED = object()

#: name, default (or _REQUIRED, ABSENT), default is a factory, null is accepted, check
Plan = tuple[tuple[str, Any, bool, bool, Callable[[Any], Any]], ...]


class Described(Schema):
    """A schema whose fields are all of fields.py."""

    @classmethod
    def declared(cls) -> Iterator[tuple[str, Field]]:
        """Name and field of every member, in the order of the declaration."""
        for name, field in cls._declared_fields.items():
            assert isinstance(field, Field)
            yield name, field

    @classmethod
    def sample(cls) -> dict[str, Any]:
        """An example for the documentation, made from those of the fields."""
        return {name: field.sample() for name, field in cls.declared() if field.default is not ABSENT}


class Body(Described):
    """A JSON object in a request."""

    class Meta:
        unknown = RAISE

    error_messages = {"unknown": "unknown field"}
    _plan: ClassVar[Plan | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._plan = None  # never that of the base, which has other fields

    @classmethod
    def parse(cls, data: Any) -> dict[str, Any]:
        """The checked members of ``data``, defaults filled in. Raises ValidationError."""
        if type(data) is not dict:
            raise ValidationError(f"must be a JSON object, not {kind(data)}")
        return cls._check(data, cls._plan or cls._make_plan())

    @classmethod
    def whole(cls, data: dict[str, Any], values: dict[str, Any]) -> None:
        """A rule about several members at once; ``data`` is as sent. Raises ValidationError."""

    @classmethod
    def _make_plan(cls) -> Plan:
        cls._plan = tuple(_entry(name, field, field.check) for name, field in cls.declared())
        return cls._plan

    @classmethod
    def _check(cls, data: dict[str, Any], plan: Plan) -> dict[str, Any]:
        result: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        used = 0
        for name, default, factory, null, check in plan:
            value = data.get(name, missing)
            if value is missing:
                if default is _REQUIRED:
                    errors[name] = ["is required"]
                elif default is not ABSENT:
                    result[name] = default() if factory else default
                continue
            used += 1
            if value is None:
                if null:
                    result[name] = None
                else:
                    errors[name] = ["must not be null"]
                continue
            try:
                result[name] = check(value)
            except ValidationError as error:
                errors[name] = error.messages
        if used != len(data):
            errors |= cls._unknown(data)
        if errors:
            raise ValidationError(errors)
        cls.whole(data, result)
        return result

    @classmethod
    def _unknown(cls, data: dict[str, Any]) -> dict[str, Any]:
        known = cls._declared_fields
        hint = f"known here: {', '.join(known)}" if known else "none are known here"
        return {key: [f"unknown field; {hint}"] for key in data if key not in known}


class Query(Body):
    """The query parameters of an operation."""

    @classmethod
    def parse(cls, data: Any) -> dict[str, Any]:
        """The checked parameters out of a mapping of names to texts. Raises ValidationError."""
        return cls._check(data, cls._plan or cls._make_plan())

    @classmethod
    def _make_plan(cls) -> Plan:
        cls._plan = tuple(_entry(name, field, _reader(field)) for name, field in cls.declared())
        return cls._plan

    @classmethod
    def _unknown(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {
            key: [text[0].replace("unknown field", "unknown query parameter")]
            for key, text in super()._unknown(data).items()
        }


class NoQuery(Query):
    """An operation without query parameters."""


class NoBody(Body):
    """An operation without a body; an empty object passes."""


class Record(Described):
    """An object in an answer: documented here, written by the engine, every key always present.

    Clients accept keys that they do not know, so that later versions can add some.
    """

    class Meta:
        unknown = EXCLUDE

    def on_bind_field(self, field_name: str, field_obj: Any) -> None:
        field_obj.required = True


class OneOf(Field):
    """An object of one of several forms; ``choose`` picks the form by what was sent."""

    def __init__(
        self,
        description: str,
        forms: Sequence[type[Body]],
        choose: Callable[[dict[str, Any]], type[Body]],
        **options: Any,
    ) -> None:
        self.forms, self.choose = tuple(forms), choose
        super().__init__(description, **options)

    def check(self, value: Any) -> Any:
        if type(value) is not dict:
            raise ValidationError(f"must be a JSON object, not {kind(value)}")
        return self.choose(value).parse(value)

    def shape(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"oneOf": [refer(form) for form in self.forms]}

    def sample(self) -> Any:
        return self.forms[0].sample() if self.example is missing else self.example


class Typed(OneOf):
    """An object whose ``type`` member names its form."""

    def __init__(self, description: str, forms: Mapping[str, type[Body]], **options: Any) -> None:
        self.by_type = dict(forms)
        super().__init__(description, tuple(forms.values()), self._named, **options)

    def _named(self, value: dict[str, Any]) -> type[Body]:
        name = value.get("type")
        form = self.by_type.get(name) if type(name) is str else None
        if form is None:
            problem = "is required" if "type" not in value else "is unknown"
            raise ValidationError({"type": [f"{problem}; use one of: {', '.join(self.by_type)}"]})
        return form

    def shape(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        references = {name: refer(form) for name, form in self.by_type.items()}
        mapping = {name: reference["$ref"] for name, reference in references.items()}
        return {"oneOf": list(references.values()), "discriminator": {"propertyName": "type", "mapping": mapping}}


class Alone(OneOf):
    """An item that fails alone: a bad one comes out as the ValidationFailed that its own endpoint would answer."""

    def check(self, value: Any) -> Any:
        try:
            return super().check(value)
        except ValidationError as error:
            return failed(error, "item")


def _entry(name: str, field: Field, check: Callable[[Any], Any]) -> tuple[str, Any, bool, bool, Callable[[Any], Any]]:
    default = ABSENT if field.default is ABSENT else field.load_default
    if field.required:
        default = _REQUIRED
    factory = default is dict or default is list
    return name, default, factory, field.allow_none, check


def _reader(field: Field) -> Callable[[str], Any]:
    read, check = field.read, field.check
    return lambda text: check(read(text))


def failed(error: ValidationError, whole: str = "body") -> ValidationFailed:
    """The answer for a failed check; ``whole`` names what was wrong when no member is to blame."""
    fields: dict[str, list[str]] = {}
    for path, message in _flat(error.messages, ()):
        if len(fields) == MOST_COMPLAINTS:
            break
        fields.setdefault(".".join(path) or whole, []).append(message)
    first = next(iter(fields))
    more = len(fields) - 1
    text = f"{first}: {fields[first][0]}" + (f" (and {more} more, see fields)" if more else "")
    return ValidationFailed(text, fields=fields)


def _flat(messages: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from _flat(inner, (*path, _short(str(key))))
    elif isinstance(messages, list):
        for inner in messages:
            yield from _flat(inner, path)
    else:
        yield path, str(messages)


def _short(key: str) -> str:
    return key if len(key) <= 100 else key[:100] + "…"
