"""The OpenAPI document is valid and complete, and the desk's responses to fuzzed requests match it."""

import functools
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
import yaml
from django.test import Client
from django.urls import URLPattern, get_resolver
from drf_spectacular.drainage import GENERATOR_STATS
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from pytest_django import Settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.transport import Response
from schemathesis.specs.openapi import checks

from accounts.models import TradingAccount
from config import openapi
from config.openapi import representations
from tests.conftest import key_of
from tests.signed import HOST, Bot, opening

EXAMPLES = int(os.environ.get("COPYDESK_EXAMPLES", "30"))
VERBS = ("get", "post", "put", "patch", "delete")
NO_OPERATION = {"api/schema/", "api/docs/"}


@functools.cache
def document() -> Any:
    return SchemaGenerator().get_schema(request=None, public=True)


def operations() -> list[Any]:
    return [(verb, path) for path, item in document()["paths"].items() for verb in VERBS if verb in item]


def named(verb: Any, path: Any) -> Any:
    return document()["paths"][path][verb]


def resolved(part: Any) -> Any:
    """Return the component that a reference names; return any other value unchanged."""
    if "$ref" not in part:
        return part
    section, name = part["$ref"].removeprefix("#/components/").split("/")
    return document()["components"][section][name]


def parameters_of(operation: Any) -> list[Any]:
    return [resolved(parameter) for parameter in operation.get("parameters", [])]


def answers_of(operation: Any) -> dict[Any, Any]:
    return {status: resolved(answer) for status, answer in operation["responses"].items()}


# --- the document


def test_the_document_is_valid_openapi_and_generated_without_warnings() -> None:
    GENERATOR_STATS.reset()
    generated = SchemaGenerator().get_schema(request=None, public=True)
    faults = [*GENERATOR_STATS._warn_cache, *GENERATOR_STATS._error_cache]

    assert generated["openapi"] == "3.1.0"
    validate_schema(generated)
    assert faults == []


def test_every_schema_is_a_valid_json_schema() -> None:
    def schemas(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ([value["schema"]] if isinstance(value.get("schema"), dict) else [])
            for inner in value.values():
                yield from schemas(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from schemas(inner)

    all_schemas = [*schemas(document()), *document()["components"]["schemas"].values()]
    assert len(all_schemas) > 100
    for schema in all_schemas:
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_document_is_served(client: Client, desk_db: str) -> None:
    answer = client.get("/api/schema/", {"format": "json"}, HTTP_HOST=HOST)

    assert answer.status_code == 200
    assert answer.json()["paths"].keys() == document()["paths"].keys()
    assert client.get("/api/docs/", HTTP_HOST=HOST).status_code == 200


def routes() -> Iterator[Any]:
    """Return the API's routes and the methods of their views."""
    for pattern in get_resolver().url_patterns:
        view = getattr(getattr(pattern, "callback", None), "cls", None)
        path = str(pattern.pattern)
        if isinstance(pattern, URLPattern) and view is not None and path not in NO_OPERATION:
            methods = [verb for verb in VERBS if hasattr(view, verb) and verb in view.http_method_names]
            yield f"/{path}".replace("<str:ticket>", "{ticket}").replace("<path:symbol>", "{symbol}"), methods


def test_every_route_and_method_of_the_api_is_documented() -> None:
    expected = {(verb, path) for path, methods in routes() for verb in methods}

    assert len(expected) >= 16
    assert set(operations()) == expected


SIGNED = {"X-Cd-Key", "X-Cd-Time", "X-Cd-Window", "X-Cd-Seq", "X-Cd-Sig"}


@pytest.mark.parametrize(("verb", "path"), operations())
def test_every_operation_documents_its_errors(verb: Any, path: Any) -> None:
    operation = named(verb, path)
    answers = answers_of(operation)
    headers = {parameter["name"] for parameter in parameters_of(operation) if parameter["in"] == "header"}
    is_bots = "X-Cd-Key" in headers

    for status, answer in answers.items():
        if int(status) >= 400:
            assert list(answer["content"]) == ["application/problem+json"], status
            assert answer["description"], status
    assert any(int(status) < 300 for status in answers)
    if is_bots:
        assert headers - {"Idempotency-Key"} == SIGNED
        assert ("Idempotency-Key" in headers) is (verb != "get")
        assert answers.keys() >= {"400", "401", "403", "405", "409", "413", "422", "429", "500", "503"}
        assert operation["security"] == [{"CD1": []}]
    elif path != "/api/v2/time":
        assert answers.keys() >= {"401", "403", "405", "422"}
        assert operation["security"] == [{"Session": []}]
        assert ("X-CSRFToken" in headers) is (verb != "get")
    assert operation["operationId"]
    assert operation.get("deprecated", False) is path.startswith("/signal")


@pytest.mark.parametrize(("verb", "path"), operations())
def test_bodies_are_required_and_responses_have_named_shapes(verb: Any, path: Any) -> None:
    operation = named(verb, path)

    if "requestBody" in operation:
        assert operation["requestBody"]["required"] is True
        assert "$ref" in operation["requestBody"]["content"]["application/json"]["schema"]
    else:
        assert verb in ("get", "delete")
    for answer in answers_of(operation).values():
        for content_type, content in answer.get("content", {}).items():
            shape = content["schema"]
            assert content_type == "text/csv" or "$ref" in shape or "$ref" in shape["items"]


def test_every_component_is_used_and_every_reference_resolves() -> None:
    def references(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ([value["$ref"]] if "$ref" in value else [])
            value = list(value.values())
        for inner in value if isinstance(value, list) else ():
            yield from references(inner)

    components = document()["components"]
    used = {name for name in references(document())}
    sections = ("schemas", "parameters", "responses")
    declared = {f"#/components/{section}/{name}" for section in sections for name in components[section]}

    assert used == declared


def test_the_document_names_the_cookies_and_the_pages_for_bot_authors(
    settings: Settings, client: Client, desk_db: str
) -> None:
    components = document()["components"]

    assert components["securitySchemes"]["Session"]["name"] == settings.SESSION_COOKIE_NAME
    assert settings.CSRF_COOKIE_NAME in components["parameters"]["X-CSRFToken"]["description"]
    pages = re.findall(r"\((/docs/\w+/)\)", document()["info"]["description"])
    assert pages == ["/docs/protocol/", "/docs/stream/", "/docs/copier/"]
    assert [client.get(page, HTTP_HOST=HOST).status_code for page in pages] == [200, 200, 200]


def test_the_document_is_small_and_a_generated_client_has_few_classes() -> None:
    """The document had 515 KB, and a generated client 1,025 files: one for each inline object or enum."""

    def models(value: Any) -> Iterator[Any]:
        if isinstance(value, dict):
            yield from ([value] if value.get("type") == "object" or "enum" in value else [])
            value = [inner for name, inner in value.items() if name != "examples"]
        for inner in value if isinstance(value, list) else ():
            yield from models(inner)

    classes = [*models(document()["components"]["schemas"]), *models(document()["paths"])]

    assert len(classes) < 105
    assert len(representations()["json"].body) < 84_000
    assert len(representations()["yaml"].body) < 84_000


# --- how it is served


def served(client: Any, **headers: Any) -> Any:
    return client.get("/api/schema/", HTTP_HOST=HOST, **headers)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list with one element for each time the document is generated."""
    times = []
    write = openapi._generate

    def counted() -> Any:
        times.append(1)
        time.sleep(0.05)  # long enough for all other requests to arrive
        return write()

    monkeypatch.setattr(openapi, "_generated", {})
    monkeypatch.setattr(openapi, "_generate", counted)
    return times


def test_a_second_request_generates_nothing(
    client: Client, desk_db: str, written: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = served(client)
    monkeypatch.setattr(openapi, "_generate", None)

    assert served(client).content == first.content
    assert served(client, HTTP_ACCEPT="application/json").json()["openapi"] == "3.1.0"
    assert len(written) == 1


def test_simultaneous_requests_generate_the_document_once(written: list[Any]) -> None:
    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: representations()["yaml"].body, range(16)))

    assert len(set(bodies)) == 1
    assert len(written) == 1


def test_a_client_with_the_current_etag_gets_304(client: Client, desk_db: str) -> None:
    first = served(client)
    etag = first["ETag"]
    as_json = served(client, HTTP_ACCEPT="application/json")

    again = served(client, HTTP_IF_NONE_MATCH=etag)
    other = served(client, HTTP_IF_NONE_MATCH=as_json["ETag"])

    assert (again.status_code, again.content, again["ETag"]) == (304, b"", etag)
    assert (other.status_code, other.content) == (200, first.content)
    assert yaml.safe_load(first.content) == as_json.json()
    assert "Accept" in first["Vary"]


def test_operations_have_unique_names() -> None:
    names = [named(*operation)["operationId"] for operation in operations()]

    assert len(set(names)) == len(names)


# --- the desk, held against it


@functools.cache
def fuzzer() -> Any:
    load_all_checks()
    return schemathesis.openapi.from_dict(document())


CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


class Desk:
    """Sends the fuzzer's requests: signed afterwards where their operation is signed."""

    def __init__(self, cast: Any, lena: TradingAccount) -> None:
        self.bots = [Bot(key_of(cast, "lena", "master")), Bot(key_of(cast, "finn", "copier"))]
        self.person = Client(raise_request_exception=False)
        self.person.force_login(lena.owner)

    def answer(self, case: Any, who: Any, resign: Any) -> Response:
        prepared = requests.Request(**_kwargs(case)).prepare()
        body = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body or b""
        headers = {name: _text(value) for name, value in prepared.headers.items() if name.lower() != "content-length"}
        path, _, query = prepared.path_url.partition("?")
        if "X-Cd-Key" not in {parameter["name"] for parameter in parameters_of(case.operation.definition.raw)}:
            client = self.person
        else:
            client = Client(raise_request_exception=False)
            if resign:
                headers = {name: value for name, value in headers.items() if name.lower() not in _SIGNED_LOWER}
                headers |= self._signed(who, case.method.upper(), path, query, body)
        content_type = headers.pop("Content-Type", "")
        target = f"{path}?{query}" if query else path
        answer: Any = client.generic(case.method.upper(), target, body, content_type=content_type, headers=headers,
                                HTTP_HOST=HOST)  # fmt: skip
        content = b"".join(answer.streaming_content) if answer.streaming else answer.content
        return Response(
            status_code=answer.status_code,
            headers={name: [value] for name, value in answer.items()},
            content=content,
            request=prepared,
            elapsed=0.01,
            verify=False,
        )

    def _signed(self, who: Any, method: Any, path: Any, query: Any, body: Any) -> Any:
        request = self.bots[who].request(method, path, query=query, body=body)
        try:
            return request.headers()
        except UnicodeEncodeError:
            return {}


_SIGNED_LOWER = {name.lower() for name in SIGNED} | {"idempotency-key"}


def _kwargs(case: Any) -> dict[Any, Any]:
    kwargs = case.as_transport_kwargs(base_url=f"http://{HOST}")
    return {name: kwargs[name] for name in ("method", "url", "headers", "params", "data", "json") if name in kwargs}


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


@pytest.fixture
def desk(cast: dict[str, Any], lena: TradingAccount, settings: Settings) -> Any:
    """A desk with an open and a closed trade, so that not every request is refused as not found."""
    settings.RATE_PER_IP = 0
    sender = Desk(cast, lena)
    for ticket in ("1", "2"):
        assert sender.bots[0].send("POST", fields=opening(ticket)).status_code == 201
    sender.bots[0].send("DELETE", "/api/v2/trades/active/2", query="close_price=1.1&profit=5")
    return sender


COPIERS = dict.fromkeys(["/api/v2/trades/orders", "/api/v2/copier/beat", "/api/v2/copier/skips"], 1)
REACHED = (200, 201, 202, 404, 409, 422)
QUICK = settings(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize(("verb", "path"), operations())
def test_responses_to_fuzzed_requests_match_the_schema(verb: Any, path: Any, desk: Any) -> None:
    operation = fuzzer()[path][verb.upper()]

    seen = Counter()
    codes = {
        status: set(response["description"].split(", ")) for status, response in answers_of(named(verb, path)).items()
    }

    def holds(case: Any, who: Any, resign: Any) -> None:
        answer = desk.answer(case, who, resign)
        assert answer.status_code < 500, answer.content
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            problem = answer.json()
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", problem["code"])
            assert problem["status"] == answer.status_code
            assert problem["code"] in codes[str(answer.status_code)]
        seen[answer.status_code] += 1

    can_be_wrong = bool(operation.definition.raw.get("parameters"))
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)[: 1 + can_be_wrong]:
        property_test = given(
            case=operation.as_strategy(mode),
            who=st.integers(COPIERS.get(path, 0), 1),
            resign=st.sampled_from([True] * 5 + [False]),
        )
        QUICK(seed(20260105)(property_test(holds)))()
    assert sum(seen[status] for status in REACHED) > 0.2 * sum(seen.values()), (
        seen
    )  # enough requests passed the first checks
