"""The pieces of the OpenAPI document: shared components, and operations that refer to them by name.

Each app declares its shapes here once. What two routes have in common is one component: a generated client then has
one Problem and one Trade, and the document stays small.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from drf_spectacular.utils import extend_schema

from core import paging, problem

Schema = dict[str, Any]
Operation = dict[str, Any]

# Component sections by their names in the document. Modules fill them as they are imported.
COMPONENTS: dict[str, dict[str, Schema]] = {"schemas": {}, "parameters": {}, "responses": {}, "securitySchemes": {}}
REFUSES = "x-refuses"  # the codes of an operation, until its responses are written from them


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


def described(reference: Schema, description: str) -> Schema:
    """The same shape, with a word on what it means here."""
    return {**reference, "description": description}


MOMENT: Schema = {"type": "string", "format": "date-time"}
UUID: Schema = {"type": "string", "format": "uuid"}
AMOUNT = schema("Amount", {"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,8})?$", "examples": ["1.10500000"]})
_POSITIVE = r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,8})?$"
POSITIVE = schema("PositiveAmount", {"type": "string", "pattern": _POSITIVE, "examples": ["0.10000000"]})
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
            "retry": {"type": "string", "enum": ["never", "new_seq", "same_key", "after", "rotate", "resync"]},
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


# --- operations


def operation(
    name: str,
    summary: str,
    answers: Mapping[int, Schema | None],
    *,
    tag: str,
    security: str | None,
    parameters: Iterable[Schema] = (),
    body: Schema | None = None,
    refuses: Iterable[str] = (),
    deprecated: bool = False,
) -> Callable[[Any], Any]:
    """Describe the method of a view.

    `answers`: the shape of each success by its status; None is an answer without a body, and a mapping of media types
    is taken as it is. `refuses`: the codes of its refusals, each of which knows its status.
    """
    described: Operation = {"operationId": name, "summary": summary, "tags": [tag]}
    listed = list(parameters)
    if listed:
        described["parameters"] = listed
    if body is not None:
        described["requestBody"] = {"required": True, "content": _json(body)}
    described["security"] = [{security: []}] if security else [{}]
    if deprecated:
        described["deprecated"] = True
    described["responses"] = {str(status): _success(status, shape) for status, shape in answers.items()}
    described[REFUSES] = sorted(set(refuses))
    decorate: Callable[[Any], Any] = extend_schema(operation=described)
    return decorate


def _json(shape: Schema) -> Schema:
    return {"application/json": {"schema": shape}}


def _success(status: int, shape: Schema | None) -> Schema:
    answer: Schema = {"description": HTTPStatus(status).phrase}
    if shape is None:
        return answer
    is_content = any("/" in name for name in shape)
    return {**answer, "content": shape if is_content else _json(shape)}


def assemble(document: dict[str, Any]) -> None:
    """Write the refusals of all operations from their codes, and add the components."""
    operations = [described for path in document["paths"].values() for described in path.values()]
    refusals = {described["operationId"]: _refusals(described.pop(REFUSES)) for described in operations}
    uses = Counter((status, codes) for by_status in refusals.values() for status, codes in by_status.items())
    names = _names(uses)
    for described in operations:
        for status, codes in sorted(refusals[described["operationId"]].items()):
            name = names.get((status, codes))
            shared = {"$ref": f"#/components/responses/{name}"}
            described["responses"][str(status)] = shared if name else _refusal(codes)
    responses = {name: _refusal(codes) for (_, codes), name in names.items()}
    document["components"] = {**COMPONENTS, "responses": responses}


Codes = tuple[str, ...]


def _refusals(codes: Iterable[str]) -> dict[int, Codes]:
    statuses = problem.statuses()
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(statuses[code], []).append(code)
    return {status: tuple(sorted(some)) for status, some in by_status.items()}


def _names(uses: Counter[tuple[int, Codes]]) -> dict[tuple[int, Codes], str]:
    """A component's name for each refusal that more than one operation has, the most frequent of a status first."""
    names: dict[tuple[int, Codes], str] = {}
    numbers: Counter[int] = Counter()
    for (status, codes), count in sorted(uses.items(), key=lambda item: (-item[1], item[0])):
        if count > 1:
            numbers[status] += 1
            names[status, codes] = f"E{status}" if numbers[status] == 1 else f"E{status}-{numbers[status]}"
    return names


def _refusal(codes: Codes) -> Schema:
    return {"description": ", ".join(codes), "content": {"application/problem+json": {"schema": PROBLEM}}}
