"""Shapes of values in the OpenAPI document, as JSON Schema; a named shape is a component. Pure.

Each app declares its shapes once, and routes share components: a generated client has one Problem and one Trade, and
the document stays small.
"""

from collections.abc import Iterable
from typing import Any, get_args

from core import paging
from core.errors import Retry

Schema = dict[str, Any]

# Component sections by their names in the document. Modules fill them as they are imported.
COMPONENTS: dict[str, dict[str, Schema]] = {"schemas": {}, "parameters": {}, "responses": {}, "securitySchemes": {}}


def _shared(section: str, name: str, shape: Schema) -> Schema:
    declared = COMPONENTS[section].setdefault(name, shape)
    assert declared == shape, f"two different {section} are called {name}"
    return {"$ref": f"#/components/{section}/{name}"}


def schema(name: str, shape: Schema) -> Schema:
    """Declare a named shape; return the reference to it."""
    return _shared("schemas", name, shape)


def shape_of(reference: Schema) -> Schema:
    """Return the shape that a reference points to."""
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
    """Declare a parameter; return the reference to it. `component`: its own name where two have the same `name`."""
    declared: Schema = {"name": name, "in": where, "schema": shape}
    if required or where == "path":
        declared["required"] = True
    if description:
        declared["description"] = description
    return _shared("parameters", component or name, declared)


def security(name: str, scheme: Schema) -> str:
    """Declare how a caller is authenticated; return the scheme's name."""
    _shared("securitySchemes", name, scheme)
    return name


def nullable(shape: Schema) -> Schema:
    """Return the shape or null. Where the shape is a reference alone, the result is a shared component too."""
    or_null: Schema = {"oneOf": [shape, {"type": "null"}]}
    return schema(f"{name_of(shape)}OrNull", or_null) if list(shape) == ["$ref"] else or_null


def array(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def obj(properties: Schema, required: Iterable[str] | None = None, **more: Any) -> Schema:
    """Return an object's shape; all properties are required unless `required` lists those that are."""
    names = list(properties if required is None else required)
    return {"type": "object", "properties": properties, **({"required": names} if names else {}), **more}


def pattern(grammar: str) -> Schema:
    """Return the shape of a text that matches the grammar as a whole."""
    return {"type": "string", "pattern": f"^{grammar.removeprefix('^').removesuffix('$')}$"}


def described(reference: Schema, description: str) -> Schema:
    """Return the same shape with a description of its meaning here."""
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
    """Declare an amount of a request: text, or a JSON number of at most 8 decimals, which is read as a decimal."""
    return schema(name, {"type": ["string", "number"], "pattern": pattern, **bounds, "examples": ["1.10500000"]})


AMOUNT_IN = or_number("AmountIn", r"^-?[0-9]{1,12}(\.[0-9]{1,8})?$")
POSITIVE_IN = or_number("PositiveAmountIn", _POSITIVE, exclusiveMinimum=0)
NOT_NEGATIVE_IN = or_number("AmountNotNegativeIn", r"^[0-9]{1,12}(\.[0-9]{1,8})?$", minimum=0)


def page(item: Schema) -> Schema:
    """Return the shape of one page of a list with a cursor."""
    return obj({"data": array(item), "next": NEXT, "has_more": {"type": "boolean"}})
