"""Serves the OpenAPI document, which each process generates once.

Generating takes a quarter of a second of pure Python. Sixteen requests that each did so delayed bots for seconds.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import (
    OpenApiJsonRenderer,
    OpenApiJsonRenderer2,
    OpenApiYamlRenderer,
    OpenApiYamlRenderer2,
)
from rest_framework.request import Request
from rest_framework.views import APIView

from core import openapi

EXAMPLES = Path(__file__).with_name("openapi_examples.json")  # recorded from real calls by tests/test_openapi.py


def complete(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add components, refusals and examples to what drf-spectacular generated from the routes."""
    openapi.assemble(result)
    schemas = result["components"]["schemas"]
    examples: dict[str, Any] = json.loads(EXAMPLES.read_bytes())
    for name, example in examples.items():
        schemas[name] = {**schemas[name], "examples": [example]}
    return result


@dataclass(frozen=True, slots=True)
class Representation:
    """The document in one format."""

    body: bytes
    etag: str


class _Dumper(yaml.CSafeDumper):
    """Writes short values on one line; otherwise a third of the document would be indentation."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        return super().represent_mapping(tag, mapping, flow_style=_fits(mapping))

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        return super().represent_sequence(tag, sequence, flow_style=_fits(sequence))


def _fits(value: Any) -> bool:
    return len(orjson.dumps(value)) <= 180 or (isinstance(value, list) and all(map(_is_short, value)))


def _is_short(item: Any) -> bool:
    return isinstance(item, str) or (isinstance(item, dict) and list(item) == ["$ref"])


def _generate() -> dict[str, Representation]:
    document = SchemaGenerator().get_schema(request=None, public=True)
    as_json = orjson.dumps(document)
    as_yaml = yaml.dump(orjson.loads(as_json), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000).encode()
    return {
        name: Representation(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        for name, body in (("json", as_json), ("yaml", as_yaml))
    }


_lock = threading.Lock()
_generated: dict[str, Representation] = {}


def representations() -> Mapping[str, Representation]:
    """Return the document by format. The first caller generates it while others wait."""
    if not _generated:
        with _lock:
            if not _generated:
                _generated.update(_generate())
    return _generated


class Document(APIView):
    """`/api/schema/`: as YAML, or as JSON where the caller asks for it."""

    schema = None
    renderer_classes = [OpenApiYamlRenderer, OpenApiYamlRenderer2, OpenApiJsonRenderer, OpenApiJsonRenderer2]

    def get(self, request: Request) -> HttpResponseBase:
        renderer = request.accepted_renderer
        representation = representations()[renderer.format]
        response = HttpResponse(representation.body, content_type=f"{renderer.media_type}; charset=utf-8")
        response["Content-Disposition"] = f'inline; filename="copydesk.{renderer.format}"'
        response["Cache-Control"] = "public, no-cache"
        response["ETag"] = representation.etag
        return get_conditional_response(request._request, etag=representation.etag, response=response) or response
