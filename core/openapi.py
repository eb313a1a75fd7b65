"""The operations of the OpenAPI document. Each names its shapes and the codes of its refusals."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from drf_spectacular.utils import extend_schema

from core import problem, shapes
from core.shapes import Schema

Operation = dict[str, Any]
REFUSES = "x-refuses"  # the codes of an operation, until its responses are written from them


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

    `answers`: the shape of each success by its status. None means a response without a body; a mapping of media types
    is used unchanged. `refuses`: the codes of its refusals, whose statuses are known.
    """
    described: Operation = {"operationId": name, "summary": summary, "tags": [tag]}
    parameter_list = list(parameters)
    if parameter_list:
        described["parameters"] = parameter_list
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
    response: Schema = {"description": HTTPStatus(status).phrase}
    if shape is None:
        return response
    is_content = any("/" in name for name in shape)
    return {**response, "content": shape if is_content else _json(shape)}


def assemble(document: dict[str, Any]) -> None:
    """Add to the document the refusals of all operations, from their codes, and the components."""
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
    document["components"] = {**shapes.COMPONENTS, "responses": responses}


Codes = tuple[str, ...]


def _refusals(codes: Iterable[str]) -> dict[int, Codes]:
    statuses = problem.statuses()
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(statuses[code], []).append(code)
    return {status: tuple(sorted(status_codes)) for status, status_codes in by_status.items()}


def _names(uses: Counter[tuple[int, Codes]]) -> dict[tuple[int, Codes], str]:
    """Name a component for each refusal that several operations share; a status's most frequent one has no number."""
    names: dict[tuple[int, Codes], str] = {}
    numbers: Counter[int] = Counter()
    for (status, codes), count in sorted(uses.items(), key=lambda item: (-item[1], item[0])):
        if count > 1:
            numbers[status] += 1
            names[status, codes] = f"E{status}" if numbers[status] == 1 else f"E{status}-{numbers[status]}"
    return names


def _refusal(codes: Codes) -> Schema:
    return {"description": ", ".join(codes), "content": {"application/problem+json": {"schema": shapes.PROBLEM}}}
