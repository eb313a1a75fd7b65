"""The published vectors on the bot's side, which shares no code with the desk."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from accounts import signing as desk
from copybot import signing

VECTORS = json.loads((Path(__file__).resolve().parent.parent / "vectors.json").read_text())
SECRET = VECTORS["request_secret"]
REQUESTS = {vector["name"]: vector for vector in VECTORS["requests"]}


def sign(vector: Any, **but: Any) -> Any:
    effect = vector["idempotency_key"]
    parts = {
        "method": vector["method"],
        "host": vector["host"],
        "path": vector["path"],
        "query": vector["query"],
        "key": vector["key"],
        "time_ms": vector["time"],
        "window_ms": vector["window"],
        "seq": vector["seq"],
        "idempotency_key": "" if effect == "-" else effect,
        "body": vector["body"].encode(),
    }
    return signing.sign(SECRET, **{**parts, **but})


@pytest.mark.parametrize("name", REQUESTS)
def test_signs_as_published(name: Any) -> None:
    assert sign(REQUESTS[name]) == REQUESTS[name]["signature"]


@pytest.mark.parametrize(
    ("change", "begins"),
    [
        ({"method": "PUT"}, "3e31db34"),
        ({"path": "/api/v2/actives/"}, "548df6a2"),
        ({"key": "ck_4f9a2c71d0b3e865.2"}, "29b1c7b7"),
        ({"time_ms": 1767600000001}, "710b8622"),
        ({"seq": 44}, "442ecd76"),
        ({"host": "api.staging.test"}, "a0a82503"),
        ({"query": "x=1"}, "1e3cfd8a"),
        ({"window_ms": 30000}, "d168a9bb"),
        ({"idempotency_key": "open-987654-000000000002"}, "5324b56c"),
        ({"body": REQUESTS["R1"]["body"].replace("0.10000000", "1.00000000", 1).encode()}, "38c37b90"),
    ],
)
def test_signs_tampered_requests_as_published(change: dict[str, Any], begins: str) -> None:
    assert sign(REQUESTS["R1"], **change)[:8] == begins


def believes(**but: Any) -> Any:
    response = VECTORS["response"]
    answer = {
        "request_signature": REQUESTS[response["to"]]["signature"],
        "status": response["status"],
        "time_ms": str(response["time"]),
        "body": response["body"].encode(),
        "response_signature": f"v1={response['signature']}",
    }
    return signing.answers(SECRET, **{**answer, **but})


def test_accepts_the_published_answer() -> None:
    assert believes()


@pytest.mark.parametrize(
    "forged",
    [
        {"status": 201},
        {"time_ms": "1767600000261"},
        {"time_ms": ""},
        {"body": b'{"account":"a1","as_of_seq":"17","count":0,"trades":[] }'},
        {"body": b""},
        {"request_signature": REQUESTS["R1"]["signature"]},  # the answer to another question
        {"response_signature": ""},
        {"response_signature": VECTORS["response"]["signature"]},
        {"response_signature": "v1=" + "0" * 64},
    ],
)
def test_refuses_forged_answers(forged: dict[str, Any]) -> None:
    assert not believes(**forged)


def test_agrees_with_the_desk_without_sharing_code_with_it() -> None:
    vector = REQUESTS["R3"]
    canonical = vector["canonical"].encode()
    imports = [
        node.names[0].name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(Path(signing.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]

    assert sign(vector) == desk.sign(SECRET, canonical)
    assert set(imports) == {"hashlib", "hmac"}
