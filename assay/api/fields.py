"""The field types of the wire: strict, described, fast.

A field is an ordinary marshmallow field whose whole rule is ``check(value)``: it returns the value to use or raises
``ValidationError``. ``Body.parse`` (bodies.py) runs these checks from a table made once per schema, so a request costs
a few microseconds; ``Schema.load`` gives the same answers through marshmallow, and apispec reads the same declaration
for the OpenAPI document.

Nothing is converted on the way in: ``"1"`` is not 1, ``true`` is not 1, ``1.0`` is not an integer. Query parameters
are text, so they pass through ``read(text)`` first, which is just as strict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import marshmallow
from marshmallow import ValidationError, missing

from assay.api import jsontext

#: stands for a default in the declaration of a field: the key stays absent when it was not sent
ABSENT = object()

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,63}")
#: the same rules for the OpenAPI document, in the dialect of JSON schemas
NAME_PATTERN = r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f]*$"
NAMESPACE_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,63}$"
INTEGER = re.compile(r"-?[0-9]{1,19}")
NUMBER = re.compile(r"-?[0-9]{1,300}(\.[0-9]{1,300})?([eE][+-]?[0-9]{1,3})?")

#: the largest value of an INTEGER column on either database
INT32 = 2**31 - 1
INT64 = 2**63 - 1

KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


class Field(marshmallow.fields.Field[Any]):
    """One member of a body, one query parameter or one path parameter.

    Without ``default`` the field is required. ``default=None`` also accepts null, which then means the same as
    leaving the field out. ``default=ABSENT`` keeps the key out of the result when it was not sent.
    """

    #: JSON schema of the type, without description, default and example
    schema: dict[str, Any] = {}
    default_error_messages = {"required": "is required", "null": "must not be null"}

    def __init__(self, description: str, *, default: Any = missing, null: bool = False, example: Any = missing) -> None:
        self.description = description
        self.example = example
        self.default = default
        given = missing if default is ABSENT else default
        if isinstance(given, (dict, list)):
            given = type(given)  # a fresh one per request
        super().__init__(
            required=default is missing, allow_none=null or default is None, load_default=given, metadata={}
        )

    def check(self, value: Any) -> Any:
        """The value to use. Raises ValidationError; None reaches it only as an item of an array."""
        return value

    def read(self, text: str) -> Any:
        """The value that ``text`` of a query parameter stands for. Raises ValidationError."""
        return text

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return self.check(value)

    def properties(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The OpenAPI schema object of this field. ``refer`` gives the reference to a schema class."""
        shape = self.shape(refer)
        if self.allow_none and shape:
            shape = {"allOf": [shape], "nullable": True} if "$ref" in shape else {**shape, "nullable": True}
        shape = {**shape, "description": self.description}
        if self.default not in (missing, ABSENT):
            shape["default"] = self.default
        if self.example is not missing:
            shape["example"] = self.example
        return shape

    def shape(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """The type alone, as a JSON schema."""
        return dict(self.schema)

    def sample(self) -> Any:
        """A value for the documentation."""
        if self.example is not missing:
            return self.example
        return None if self.default in (missing, ABSENT) else self.default


class Text(Field):
    """Free text. NUL, which Postgres cannot store, becomes U+FFFD."""

    schema: dict[str, Any] = {"type": "string"}

    def check(self, value: Any) -> str:
        if type(value) is not str:
            raise ValidationError(f"must be a string, not {kind(value)}")
        return value.replace("\x00", "\ufffd") if "\x00" in value else value


class NonEmpty(Text):
    """Free text of at least one character."""

    schema = {"type": "string", "minLength": 1}

    def check(self, value: Any) -> str:
        if value == "":
            raise ValidationError("must not be empty; leave it out instead")
        return super().check(value)


class Name(Field):
    """An id or name: 1..``longest`` characters, no control characters, not ``.`` or ``..``."""

    def __init__(self, description: str, *, longest: int = 255, **options: Any) -> None:
        self.longest = longest
        self.schema = {"type": "string", "minLength": 1, "maxLength": longest, "pattern": NAME_PATTERN}
        super().__init__(description, **options)

    def check(self, value: Any) -> str:
        if type(value) is not str:
            raise ValidationError(f"must be a string, not {kind(value)}")
        if not 0 < len(value) <= self.longest or value in (".", "..") or CONTROL.search(value):
            raise ValidationError(self._complaint(value))
        return value

    def _complaint(self, value: str) -> str:
        if not value:
            return f"must not be empty; use 1 to {self.longest} characters"
        if len(value) > self.longest:
            return f"is {len(value)} characters long; use 1 to {self.longest}"
        if value in (".", ".."):
            return f"must not be {value!r}, HTTP clients fold such a path segment away; choose another text"
        found = CONTROL.search(value)
        assert found
        what = "unpaired surrogate" if "\ud800" <= found[0] <= "\udfff" else "control character"
        return f"must not contain the {what} U+{ord(found[0]):04X} (position {found.start() + 1})"


class BlankableName(Name):
    """A name where blank text means that none is given."""

    def __init__(self, description: str, **options: Any) -> None:
        super().__init__(description, **options)
        del self.schema["minLength"]

    def check(self, value: Any) -> Any:
        if type(value) is str and len(value) <= self.longest and not value.strip(" "):
            return None
        return super().check(value)


class Namespace(Field):
    """A namespace name."""

    schema = {"type": "string", "pattern": NAMESPACE_PATTERN, "minLength": 1, "maxLength": 63}

    def check(self, value: Any) -> str:
        if type(value) is not str:
            raise ValidationError(f"must be a string, not {kind(value)}")
        if not NAMESPACE.fullmatch(value) or value in (".", ".."):
            raise ValidationError(
                "is not a namespace name; use 1 to 63 of the characters a-z A-Z 0-9 . _ - (other than '.' and '..')"
            )
        return value


class Bool(Field):
    """true or false."""

    schema = {"type": "boolean"}

    def check(self, value: Any) -> bool:
        if type(value) is not bool:
            raise ValidationError(f"must be true or false, not {kind(value)}")
        return value

    def read(self, text: str) -> Any:
        if text not in ("true", "false"):
            raise ValidationError("must be true or false")
        return text == "true"


class Int(Field):
    """A whole number of ``least``..``most``."""

    def __init__(self, description: str, *, least: int = 0, most: int = INT32, **options: Any) -> None:
        self.least, self.most = least, most
        self.schema = {"type": "integer", "minimum": least, "maximum": most}
        if most > INT32:
            self.schema["format"] = "int64"
        super().__init__(description, **options)

    def check(self, value: Any) -> int:
        if type(value) is not int:
            raise ValidationError(f"must be a whole number, not {kind(value)}")
        if not self.least <= value <= self.most:
            raise ValidationError(f"must be {self.least} to {self.most}")
        return value

    def read(self, text: str) -> Any:
        if not INTEGER.fullmatch(text):
            raise ValidationError(f"must be a whole number of {self.least} to {self.most}")
        return int(text)


class Number(Field):
    """A finite number; ``least`` is allowed, ``above`` is not. Comes out as a float."""

    def __init__(
        self,
        description: str,
        *,
        least: float | None = None,
        above: float | None = None,
        most: float | None = None,
        **options: Any,
    ) -> None:
        self.least, self.above, self.most = least, above, most
        self.schema = {"type": "number", "format": "double"}
        if least is not None:
            self.schema["minimum"] = least
        if above is not None:
            self.schema |= {"minimum": above, "exclusiveMinimum": True}
        if most is not None:
            self.schema["maximum"] = most
        super().__init__(description, **options)

    def check(self, value: Any) -> float:
        if type(value) is not float:
            if type(value) is not int:
                raise ValidationError(f"must be a number, not {kind(value)}")
            value = float(value)
        if not math.isfinite(value):
            raise ValidationError("must be a finite number")
        if self.least is not None and value < self.least:
            raise ValidationError(f"must be at least {self.least:g}")
        if self.above is not None and value <= self.above:
            raise ValidationError(f"must be greater than {self.above:g}")
        if self.most is not None and value > self.most:
            raise ValidationError(f"must be at most {self.most:g}")
        return value

    def read(self, text: str) -> Any:
        if not NUMBER.fullmatch(text):
            raise ValidationError("must be a number")
        return float(text)


class Choice(Field):
    """One of a few texts; with ``fold`` in any letter case, and it comes out in upper case."""

    def __init__(self, description: str, choices: Iterable[str], *, fold: bool = False, **options: Any) -> None:
        self.choices, self.fold = tuple(choices), fold
        self.schema = {"type": "string", "enum": list(self.choices)}
        super().__init__(description, **options)

    def check(self, value: Any) -> str:
        if type(value) is str:
            wanted = value.upper() if self.fold else value
            if wanted in self.choices:
                return wanted
        raise ValidationError(f"must be one of: {', '.join(self.choices)}")


class Json(Field):
    """Any JSON value; null is a value. Its OpenAPI schema has no type, which allows everything."""

    def __init__(self, description: str, **options: Any) -> None:
        super().__init__(description, null=True, **options)


class Object(Field):
    """A JSON object with any members."""

    schema = {"type": "object", "additionalProperties": True}

    def check(self, value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise ValidationError(f"must be a JSON object, not {kind(value)}")
        return value


class Attributes(Object):
    """Search attributes: a JSON object that Postgres can index, which excludes U+0000 anywhere in it."""

    def check(self, value: Any) -> dict[str, Any]:
        if jsontext.contains_nul(super().check(value)):
            raise ValidationError("must not contain the character U+0000 in a key or text")
        return value


class AttributesFilter(Attributes):
    """Search attributes as JSON text in a query parameter."""

    schema = {"type": "string"}

    def read(self, text: str) -> Any:
        try:
            return jsontext.parse(text.encode())
        except jsontext.Malformed as error:
            raise ValidationError(f"must be a JSON object, and this is not JSON: {error}") from error


class Snapshot(Object):
    """Query values by query name."""

    _name = Name("")

    def check(self, value: Any) -> dict[str, Any]:
        errors = {}
        for key in super().check(value):
            try:
                self._name.check(key)
            except ValidationError as error:
                errors[key] = error.messages
        if errors:
            raise ValidationError(errors)
        return value


class Const(Field):
    """A fixed text, for example the type of a command."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.schema = {"type": "string", "enum": [text]}
        super().__init__(f"Always `{text}`.", example=text)

    def check(self, value: Any) -> str:
        if value != self.text or type(value) is not str:
            raise ValidationError(f"must be {self.text!r}")
        return self.text


class List(Field):
    """A JSON array whose items all pass ``item.check``."""

    def __init__(self, description: str, item: Field, **options: Any) -> None:
        self.item = item
        super().__init__(description, **options)

    def check(self, value: Any) -> list[Any]:
        if type(value) is not list:
            raise ValidationError(f"must be an array, not {kind(value)}")
        result = []
        errors: dict[int, Any] = {}
        check = self.item.check
        for index, item in enumerate(value):
            try:
                result.append(check(item))
            except ValidationError as error:
                errors[index] = error.messages
        if errors:
            raise ValidationError(errors)
        return result

    def shape(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {"type": "array", "items": self.item.properties(refer)}

    def sample(self) -> Any:
        return [self.item.sample()] if self.example is missing else self.example


class Nested(Field):
    """A JSON object described by a Body class."""

    def __init__(self, description: str, body: Any, **options: Any) -> None:
        self.body = body
        super().__init__(description, **options)

    def check(self, value: Any) -> dict[str, Any]:
        result: dict[str, Any] = self.body.parse(value)
        return result

    def shape(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return refer(self.body)

    def properties(self, refer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        shape = super().properties(refer)
        # a reference may have no siblings in OpenAPI 3.0
        return {"allOf": [{"$ref": shape.pop("$ref")}], **shape} if "$ref" in shape else shape

    def sample(self) -> Any:
        return self.body.sample() if self.example is missing and self.default is missing else super().sample()


class Messages(Field):
    """Texts by field name: the ``fields`` member of an error."""

    schema = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}


def kind(value: Any) -> str:
    """What a JSON value is, in words, for messages."""
    return KINDS.get(type(value), type(value).__name__)
