"""The published vectors, on the server's side."""

import hashlib
import hmac
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accounts import signing
from accounts.signing import Signable

VECTORS = json.loads((Path(__file__).resolve().parent.parent.parent / "copybot" / "vectors.json").read_text())
SECRET = VECTORS["request_secret"]
REQUESTS = {vector["name"]: vector for vector in VECTORS["requests"]}
R1_BODY = REQUESTS["R1"]["body"]

# What R1 signs to when one part of it is changed: the first eight digits, as published.
TAMPERED = {
    "method": ({"method": "PUT"}, "3e31db34"),
    "host": ({"host": "api.staging.test"}, "a0a82503"),
    "path": ({"path": "/api/v2/actives/"}, "548df6a2"),
    "query": ({"query": "x=1"}, "1e3cfd8a"),
    "generation": ({"key": "ck_4f9a2c71d0b3e865.2"}, "29b1c7b7"),
    "time": ({"time_ms": 1767600000001}, "710b8622"),
    "window": ({"window_ms": 30000}, "d168a9bb"),
    "seq": ({"seq": 44}, "442ecd76"),
    "idempotency key": ({"idempotency_key": "open-987654-000000000002"}, "5324b56c"),
    "volume": (
        {"body_sha256": hashlib.sha256(R1_BODY.replace("0.10000000", "1.00000000", 1).encode()).hexdigest()},
        "38c37b90",
    ),
}


def signable(vector: Any) -> Signable:
    return Signable(
        method=vector["method"],
        host=vector["host"],
        path=vector["path"],
        query=vector["query"],
        key=vector["key"],
        time_ms=vector["time"],
        window_ms=vector["window"],
        seq=vector["seq"],
        idempotency_key="" if vector["idempotency_key"] == "-" else vector["idempotency_key"],
        body_sha256=signing.sha256_hex(vector["body"].encode()),
    )


R1 = signable(REQUESTS["R1"])


@pytest.mark.parametrize("name", REQUESTS)
def test_writes_the_canonical_string_as_published(name: Any) -> None:
    vector = REQUESTS[name]

    assert signable(vector).body_sha256 == vector["body_sha256"]
    assert signable(vector).canonical() == vector["canonical"].encode()
    assert signable(vector).canonical().count(b"\n") == 10


@pytest.mark.parametrize("name", REQUESTS)
def test_signs_as_published(name: Any) -> None:
    vector = REQUESTS[name]

    assert signing.sign(SECRET, signable(vector).canonical()) == vector["signature"]
    assert signing.is_signature_of(SECRET, signable(vector).canonical(), vector["signature"])


@pytest.mark.parametrize("what", TAMPERED)
def test_a_tampered_request_has_its_published_signature(what: str) -> None:
    change, expected = TAMPERED[what]

    assert signing.sign(SECRET, replace(R1, **change).canonical())[:8] == expected


def test_every_flipped_bit_of_the_canonical_string_is_detected() -> None:
    canonical, right = R1.canonical(), REQUESTS["R1"]["signature"]
    flipped = [
        canonical[:at] + bytes([canonical[at] ^ (1 << bit)]) + canonical[at + 1 :]
        for at in range(len(canonical))
        for bit in range(8)
    ]

    assert len(flipped) == 8 * 189
    assert not any(signing.is_signature_of(SECRET, changed, right) for changed in flipped)


def test_every_flipped_bit_of_the_secret_and_the_signature_is_detected() -> None:
    right = REQUESTS["R1"]["signature"]
    digits = "0123456789abcdef"

    for at in range(64):
        other = digits[(digits.index(right[at]) + 1) % 16]
        assert not signing.is_signature_of(SECRET, R1.canonical(), right[:at] + other + right[at + 1 :])
        other = digits[(digits.index(SECRET[at]) + 1) % 16]
        assert not signing.is_signature_of(SECRET[:at] + other + SECRET[at + 1 :], R1.canonical(), right)


def test_the_hmac_key_is_the_secret_as_shown_not_its_bytes() -> None:
    decoded = hmac.new(bytes.fromhex(SECRET), R1.canonical(), hashlib.sha256).hexdigest()

    assert signing.sign(SECRET, R1.canonical()) != decoded


def test_upper_case_hex_is_accepted() -> None:
    assert signing.is_signature_of(SECRET, R1.canonical(), REQUESTS["R1"]["signature"].upper())


def test_signs_a_response_as_published() -> None:
    response = VECTORS["response"]
    request_signature = REQUESTS[response["to"]]["signature"]

    def signature(**but: Any) -> Any:
        return signing.sign_response(
            SECRET,
            **{
                "request_signature": request_signature,
                "status": response["status"],
                "time_ms": response["time"],
                "body": response["body"].encode(),
                **but,
            },
        )

    right = f"v1={response['signature']}"
    assert signature() == right
    assert signature(request_signature=request_signature.upper()) == right
    assert signature(status=201) != right
    assert signature(time_ms=response["time"] + 1) != right
    assert signature(body=b"{}") != right
    assert signature(request_signature=REQUESTS["R1"]["signature"]) != right


def test_the_hmac_matches_rfc_4231() -> None:
    vector = VECTORS["rfc4231_2"]

    assert signing.sign(vector["key"], vector["data"].encode()) == vector["mac"]


@pytest.mark.parametrize(
    ("sent", "window", "now", "timely"),
    [
        (1000_000, 5000, 1000_000, True),
        (1000_000, 5000, 1005_000, True),
        (1000_000, 5000, 1005_001, False),
        (1000_999, 5000, 1000_000, True),
        (1001_000, 5000, 1000_000, False),
        (1000_000, 1, 1000_001, True),
        (1000_000, 1, 1000_002, False),
        (1000_000, 30_000, 1030_000, True),
    ],
)
def test_a_time_is_valid_for_its_window_and_less_than_a_second_ahead(
    sent: int, window: int, now: int, timely: bool
) -> None:
    assert replace(R1, time_ms=sent, window_ms=window).is_timely(now) is timely


def test_only_a_repeat_has_the_fingerprint_of_the_first_request() -> None:
    later = replace(R1, time_ms=R1.time_ms + 5, seq=R1.seq + 1, key="ck_4f9a2c71d0b3e865.2")

    assert later.fingerprint() == R1.fingerprint()
    for change in ({"method": "PATCH"}, {"path": "/x"}, {"query": "a=1"}, {"body_sha256": "0" * 64}):
        assert replace(R1, **change).fingerprint() != R1.fingerprint()


@pytest.mark.parametrize(
    ("grammar", "valid", "invalid"),
    [
        (
            signing.KEY,
            ["ck_0123456789abcdef.1", "ck_0123456789abcdef.999999"],
            ["ck_0123456789abcdef", "ck_0123456789abcdef.0", "ck_0123456789abcdef.01", "ck_0123456789ABCDEF.1",
             "ck_0123456789abcdef.1000000", "ck_0123456789abcdef.1\n", "xck_0123456789abcdef.1"],
        ),
        (signing.TIME, ["1767600000000"], ["0767600000000", "176760000000", "17676000000000", "-767600000000"]),
        (signing.WINDOW, ["1", "5000", "99999"], ["0", "05000", "100000", "-1", "5000.0", ""]),
        (signing.SEQ, ["1", "9" * 18], ["0", "01", "9" * 19, "-1", "1_0", "+1", " 1", "١"]),
        (signing.IDEMPOTENCY_KEY, ["a" * 16, "A-_9" * 16], ["a" * 15, "a" * 65, "a" * 15 + "\n", "a" * 15 + "é"]),
        (signing.SIGNATURE, ["v1=" + "0" * 64, "v1=" + "F" * 64], ["0" * 64, "v2=" + "0" * 64, "v1=" + "0" * 63]),
        (signing.PATH, ["/signals", "/api/v2/trades/1", "/a/"], ["", "/", "//a", "/a//b", "/a%41", "/a;b", "/a.b"]),
        (signing.QUERY, ["", "a=1&b=~.-_", "x" * 512], ["a=%41", "a b", "a+b", "x" * 513, "é", "a=1\n", "a#b"]),
    ],
)  # fmt: skip
def test_each_part_has_its_grammar(grammar: Any, valid: list[Any], invalid: list[Any]) -> None:
    assert [value for value in valid if not grammar.fullmatch(value)] == []
    assert [value for value in invalid if grammar.fullmatch(value)] == []
