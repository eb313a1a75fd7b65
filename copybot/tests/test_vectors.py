"""The published vectors through the client as it is used: what it would send, and which answer it would believe.

`test_signing` and `test_packets` hold them against the functions; here is what those leave out.
"""

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from copybot import packets
from copybot.errors import AnswerForged
from copybot.protocol import Answer, Line

VECTORS = json.loads((Path(__file__).parent.parent / "vectors.json").read_text())
REQUESTS = {vector["name"]: vector for vector in VECTORS["requests"]}
PACKET_SECRET = VECTORS["packet_secret"].encode()


def attempt(vector: Any, **but: Any) -> Any:
    """The client's request in the vector's form."""
    fields = vector | but
    line = Line(
        f"https://{fields['host']}", fields["key"], VECTORS["request_secret"], window_ms=fields["window"],
        seq=fields["seq"] - 1, wall_ms=lambda: fields["time"],
    )  # fmt: skip
    effect = "" if fields["idempotency_key"] == "-" else fields["idempotency_key"]
    return line, line.attempt(fields["method"], fields["path"], fields["query"], fields["body"].encode(), effect)


@pytest.mark.parametrize("name", REQUESTS)
def test_the_client_sends_what_was_published(name: Any) -> None:
    vector = REQUESTS[name]
    _, sent = attempt(vector)
    named = {"POST": {"Content-Type": "application/json"}}.get(vector["method"], {})
    if vector["idempotency_key"] != "-":
        named["Idempotency-Key"] = vector["idempotency_key"]

    assert sent.headers == {
        "X-Cd-Key": vector["key"], "X-Cd-Time": str(vector["time"]), "X-Cd-Window": str(vector["window"]),
        "X-Cd-Seq": str(vector["seq"]), "X-Cd-Sig": f"v1={vector['signature']}", **named,
    }  # fmt: skip
    query = f"?{vector['query']}" if vector["query"] else ""
    assert sent.url == f"https://{vector['host']}{vector['path']}{query}"
    assert hashlib.sha256(sent.body).hexdigest() == vector["body_sha256"]


def answered(to: str = "R2", **but: Any) -> Any:
    fields = VECTORS["response"] | but
    line, sent = attempt(REQUESTS[to])
    headers = {"x-cd-response-time": str(fields["time"]), "x-cd-response-sig": f"v1={fields['signature']}"}
    line.check(Answer(fields["status"], headers, fields["body"].encode()), sent)
    return line


def test_the_client_accepts_the_published_answer_and_its_clock() -> None:
    assert answered().desk_ms() == VECTORS["response"]["time"]


@pytest.mark.parametrize(
    "forged", [{"status": 201}, {"time": 1767600000261}, {"body": "{}"}, {"to": "R1"}, {"signature": "0" * 64}], ids=str
)
def test_the_client_refuses_any_other_answer(forged: dict[str, Any]) -> None:
    with pytest.raises(AnswerForged):
        answered(**forged)


def mac(key: Any, payload: Any) -> Any:
    return hmac.new(key, payload, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("vector", VECTORS["packets_v1"]["vectors"], ids=lambda vector: vector["name"].split()[0])
def test_packets_without_a_trade_are_signed_the_same_way(vector: Any) -> None:
    payload = vector["payload"].encode()

    assert mac(packets.derived_key(VECTORS["packet_secret"]), payload) == vector["signature"]
    assert payload.count(b"|") == 12
    assert mac(PACKET_SECRET, payload) != vector["signature"]  # the nine fields' key is another


def test_the_known_mistakes_give_the_published_values() -> None:
    """Each published value must come from the mistake that it names."""
    text = VECTORS["packets"][0]["payload"].encode()
    tampered = text.replace(b"|0.10000000|", b"|1.00000000|", 1)

    assert VECTORS["recognisable_mistakes_for_K1"] == {
        "plain SHA-256 (CryptEncode ignores its key)": hashlib.sha256(text).hexdigest(),
        "payload + NUL": mac(PACKET_SECRET, text + b"\0"),
        "key + NUL": mac(PACKET_SECRET + b"\0", text),
        "hex-decoded key": mac(bytes.fromhex(VECTORS["packet_secret"]), text),
        "payload + LF": mac(PACKET_SECRET, text + b"\n"),
        "UTF-16LE": mac(PACKET_SECRET, text.decode().encode("utf-16-le")),
        "volume 1.00000000 (tampered)": mac(PACKET_SECRET, tampered),
    }


def test_the_library_is_an_hmac() -> None:
    vector = VECTORS["rfc4231_2"]

    assert mac(vector["key"].encode(), vector["data"].encode()) == vector["mac"]
