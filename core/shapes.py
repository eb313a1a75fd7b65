"""Shapes of values in the OpenAPI document, as JSON Schema; those that have a name are its components. Pure.

Each app declares its shapes once. What two routes have in common is one component: a generated client then has one
Problem and one Trade, and the document stays small.
"""

from collections.abc import Iterable
from typing import Any, get_args

from core import paging
from core.errors import Retry

Schema = dict[str, Any]

# Component sections by their names in the document. Modules fill them as they are imported.
COMPONENTS: dict[str, dict[str, Schema]] = {"schemas": {}, "parameters": {}, "responses": {}, "securitySchemes": {}}


def _shared(section: str, name: str, shape: Schema) -> Schema:
    known = COMPONENTS[section].setdefault(name, shape)
    assert known == shape, f"two {section} are called {name}"
    return {"$ref": f"#/components/{section}/{name}"}


def schema(name: str, shape: Schema) -> Schema:
    """Declare a shape that has a name; returns the reference to it."""
    return _shared("schemas", name, shape)


def shape_of(reference: Schema) -> Schema:
    """The shape that a reference stands for."""
    return COMPONENTS["schemas"][name_of(reference)]


def name_of(reference: Schema) -> str:
    return str(reference["$ref"].rpartition("/")[2])


def parameter(
    name: str,
    shape: Schema,
    description: str = "",
    *,
    where: str = "query",
    required: bool = False,
    component: str = "",
) -> Schema:
    """Declare a parameter; returns the reference to it. `component` names it where two have the same name."""
    declared: Schema = {"name": name, "in": where, "schema": shape}
    if required or where == "path":
        declared["required"] = True
    if description:
        declared["description"] = description
    return _shared("parameters", component or name, declared)


def security(name: str, scheme: Schema) -> str:
    """Declare how a caller is recognised; returns the scheme's name."""
    _shared("securitySchemes", name, scheme)
    return name


# --- shapes of values


def nullable(shape: Schema) -> Schema:
    """The shape or null. A shape that is shared and nothing else is shared with null as well."""
    either: Schema = {"oneOf": [shape, {"type": "null"}]}
    return schema(f"{name_of(shape)}OrNull", either) if list(shape) == ["$ref"] else either


def array(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def obj(properties: Schema, required: Iterable[str] | None = None, **more: Any) -> Schema:
    """An object; all of its properties are required unless `required` names those that are."""
    named = list(properties if required is None else required)
    return {"type": "object", "properties": properties, **({"required": named} if named else {}), **more}


def pattern(grammar: str) -> Schema:
    """A text that matches the grammar from its first to its last character."""
    return {"type": "string", "pattern": f"^{grammar.removeprefix('^').removesuffix('$')}$"}


def described(reference: Schema, description: str) -> Schema:
    """The same shape, with a word on what it means here."""
    return {**reference, "description": description}


MOMENT: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
AMOUNT = schema("Amount", {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,8})?$", "examples": ["1.10500000"]})
_POSITIVE = r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,8})?$"
NEXT = described({"type": ["string", "null"]}, "The cursor of the next page.")
PROBLEM = schema(
    "Problem",
    obj(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"type": "string", "description": "Stable; every code is explained at /docs/errors/."},
            "retry": {"type": "string", "enum": list(get_args(Retry))},
            "request_id": {"type": "string"},
            "server_time": {"type": "integer"},
            "retry_after_ms": {"type": "integer"},
            "fields": {
                "type": "object",
                "additionalProperties": array({"type": "string"}),
                "description": "Each invalid field with its faults.",
            },
        },
        ["type", "title", "status", "detail", "code", "retry", "request_id"],
    ),
)
CURSOR = parameter("cursor", {"type": "string"})
LIMIT = parameter("limit", {"type": "integer", "minimum": 1, "maximum": paging.MOST})
CSV: Schema = {"text/csv": {"schema": {"type": "string"}}}


def or_number(name: str, pattern: str, **bounds: int) -> Schema:
    """An amount as a caller may write it: a JSON number of at most 8 decimals is read as well, digit by digit."""
    return schema(name, {"type": ["string", "number"], "pattern": pattern, **bounds, "examples": ["1.10500000"]})


AMOUNT_IN = or_number("AmountIn", r"^-?[0-9]{1,12}(\.[0-9]{1,8})?$")
POSITIVE_IN = or_number("PositiveAmountIn", _POSITIVE, exclusiveMinimum=0)
NOT_NEGATIVE_IN = or_number("AmountNotNegativeIn", r"^[0-9]{1,12}(\.[0-9]{1,8})?$", minimum=0)


def page(item: Schema) -> Schema:
    """A page of a list that is read by cursor."""
    return obj({"data": array(item), "next": NEXT, "has_more": {"type": "boolean"}})
