"""A signed request with any part changed in transit is refused and audited, and has no effect."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.test import RequestFactory

from accounts import signed_http
from copybot import signing
from core.errors import RequestMalformed
from market.models import Instrument
from tests.conftest import Serving
from tests.signed import HOST, Bot, opening

ACTIVE = "/api/v2/trades/active"


@pytest.fixture
def audited(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that returns the codes of refusals in the audit log since its last call. None is left out."""
    from audit import sampling
    from audit.models import AuditLog

    monkeypatch.setattr(sampling, "of_nobody", sampling.Sampler(of_a_kind=1000, of_all=1000))

    seen = AuditLog.objects.count

    class Audited:
        last = seen()

        def codes(self) -> list[Any]:
            rows = list(AuditLog.objects.order_by("id")[self.last :])
            self.last += len(rows)
            return [row.code for row in rows if row.action == "request.refused"]

    return Audited()


@pytest.fixture
def last_seq() -> Callable[..., Any]:
    from accounts.models import BotKeyGeneration

    def read(bot: Any) -> Any:
        key_id, generation = bot.key.split(".")
        return BotKeyGeneration.objects.get(key__key_id=key_id, generation=generation).last_seq

    return read


def refusal(response: Any) -> Any:
    assert response["Content-Type"] == "application/problem+json"
    assert response["Cache-Control"] == "no-store"
    problem = response.json()
    assert problem["status"] == response.status_code
    return response.status_code, problem["code"]


FORGED = (401, "signature_invalid")
MALFORMED = (400, "request_malformed")
BODY = json.dumps(opening("1")).encode()

CHANGES = {
    "the method to PUT": ({"method": "PUT"}, FORGED),
    "the method to PATCH": ({"method": "PATCH"}, FORGED),
    "the method to DELETE": ({"method": "DELETE"}, FORGED),
    "the method to one of one's own": ({"method": "OPEN"}, FORGED),
    "the method to GET": ({"method": "GET"}, MALFORMED),  # which has no effect to name
    "the host to another of ours": ({"host": "localhost:8000"}, FORGED),
    "the port": ({"host": "127.0.0.1:8001"}, FORGED),
    "the port to none": ({"host": "127.0.0.1"}, FORGED),
    "the host to somebody else's": ({"host": "evil.example"}, MALFORMED),
    "the host to nonsense": ({"host": "127.0.0.1:8000,evil.example"}, MALFORMED),
    "the host to a user's": ({"host": "evil@127.0.0.1:8000"}, MALFORMED),
    "the path to its alias": ({"path": "/api/v2/actives"}, FORGED),
    "the path to that of V1": ({"path": "/signal/broadcast"}, FORGED),
    "the path to a trade's": ({"path": f"{ACTIVE}/1/reduce"}, FORGED),
    "the path to the batch's": ({"path": f"{ACTIVE}/batch"}, FORGED),
    "the path to orders": ({"path": "/api/v2/trades/orders"}, FORGED),
    "the path to history": ({"path": "/api/v2/trades/history"}, FORGED),
    "the query": ({"query": "a=1"}, FORGED),
    "the query's name to stand twice": ({"query": "a=1&a=2"}, MALFORMED),
    "the query to encoded characters": ({"query": "a=%31"}, MALFORMED),
    "a digit of the body": ({"body": BODY.replace(b"0.10000000", b"9.10000000")}, FORGED),
    "a letter of the body": ({"body": BODY.replace(b"BUY", b"SELL")}, FORGED),
    "a name in the body": ({"body": BODY.replace(b'"sl"', b'"tp"', 1)}, FORGED),
    "the body's white space": ({"body": BODY.replace(b": ", b":")}, FORGED),
    "the body's order": ({"body": json.dumps(dict(reversed(opening("1").items()))).encode()}, FORGED),
    "the body's end by LF": ({"body": BODY + b"\n"}, FORGED),
    "the body's end by NUL": ({"body": BODY + b"\0"}, FORGED),
    "the body's beginning by a BOM": ({"body": b"\xef\xbb\xbf" + BODY}, FORGED),
    "the body's end away": ({"body": BODY[:-1]}, FORGED),
    "the body to nothing": ({"body": b""}, FORGED),
    "the body to another encoding": ({"body": BODY.decode().encode("utf-16")}, FORGED),
    "the Content-Type to text": ({"content_type": "text/plain"}, MALFORMED),
    "the Content-Type's parameters": ({"content_type": "application/json; charset=utf-8"}, MALFORMED),
    "the Content-Type's case": ({"content_type": "application/JSON"}, MALFORMED),
    "the Content-Type to a form's": ({"content_type": "application/x-www-form-urlencoded"}, MALFORMED),
}


def test_refuses_a_request_with_any_part_changed(lena_bot: Bot, audited: Any, last_seq: Callable[..., Any]) -> None:
    request = lena_bot.request("POST", body=BODY, window_ms=30_000)

    for what, (but, expected) in CHANGES.items():
        tampered = replace(request, but=but).send()

        assert refusal(tampered) == expected, what
        assert "X-Cd-Response-Sig" not in tampered
        assert audited.codes() == [expected[1]], what
    assert last_seq(lena_bot) == 0
    assert request.send().status_code == 201  # no number was used up, so the original request still passes


def header(name: Any, value: Any) -> dict[str, Any]:
    return {"headers": {name: value}}


def other(bot: Any, name: Any) -> Any:
    """Return a well-formed value of this header other than the signed one."""
    return {
        "X-Cd-Key": f"{bot.key.split('.')[0]}.2",
        "X-Cd-Time": str(time.time_ns() // 1_000_000 + 7),
        "X-Cd-Window": "6000",
        "X-Cd-Seq": str(bot.seq + 1),
        "X-Cd-Sig": "v1=" + "0" * 64,
        "Idempotency-Key": "another-effect-0001",
    }[name]


HEADERS = ("X-Cd-Key", "X-Cd-Time", "X-Cd-Window", "X-Cd-Seq", "X-Cd-Sig", "Idempotency-Key")


def test_refuses_another_value_of_a_signed_header(lena_bot: Bot, audited: Any) -> None:
    request = lena_bot.request("POST", body=BODY)

    for name in HEADERS:
        assert refusal(replace(request, but=header(name, other(lena_bot, name))).send()) == FORGED, name
        assert audited.codes() == ["signature_invalid"], name
    assert request.send().status_code == 201


def test_refuses_without_a_signed_header(lena_bot: Bot, audited: Any) -> None:
    request = lena_bot.request("POST", body=BODY, window_ms=6000)

    for name in HEADERS:
        expected = {"X-Cd-Window": FORGED, "Idempotency-Key": (400, "idempotency_key_missing")}.get(name, MALFORMED)
        assert refusal(replace(request, but=header(name, None)).send()) == expected, name
        assert audited.codes() == [expected[1]], name
    assert request.send().status_code == 201


def test_the_window_header_may_be_omitted_for_the_default(lena_bot: Bot) -> None:
    request = lena_bot.request("POST", body=BODY, window_ms=5000)

    assert replace(request, but=header("X-Cd-Window", None)).send().status_code == 201


MALFORMED_VALUES = {
    "X-Cd-Key": ["", "ck_", "ck_0123456789abcdef", "ck_0123456789abcdef.0", "ck_0123456789ABCDEF.1", "' or 1=1 --"],
    "X-Cd-Time": ["", "0", "-1", "1.7e12", "１７６７６０００００００0", "now", "9" * 14],
    "X-Cd-Window": ["", "0", "-1", "30001", "99999", "5000.0", "05000"],
    "X-Cd-Seq": ["", "0", "-1", "01", "9" * 19, "1 ", "+1", "0x10"],
    "X-Cd-Sig": ["", "v1=", "v1=zz", "v0=" + "0" * 64, "v1=" + "0" * 65, "0" * 64],
    "Idempotency-Key": ["", "short", "x" * 65, "with blanks in it", "with/a/slash/in-it", "ümläute-in-the-key"],
}


def test_refuses_a_malformed_header_and_names_it(lena_bot: Bot) -> None:
    for name, value in [(header_name, value) for header_name in HEADERS for value in MALFORMED_VALUES[header_name]]:
        response = replace(lena_bot.request("POST", body=BODY), but=header(name, value)).send()

        assert refusal(response) == MALFORMED, (name, value)
        assert response.json()["header"] == name


def test_refuses_an_idempotency_key_on_a_get(lena_bot: Bot) -> None:
    request = lena_bot.request("GET")

    assert refusal(replace(request, but=header("Idempotency-Key", "a" * 16)).send()) == MALFORMED


def test_refuses_a_content_encoding(lena_bot: Bot) -> None:
    request = lena_bot.request("POST", body=BODY)

    for coding in ("gzip", "identity", ""):
        assert refusal(replace(request, but=header("Content-Encoding", coding)).send()) == MALFORMED


@pytest.mark.parametrize("length", ["-1", "1.5", "²", "９", "9" * 5000, "0x10", " 1", "1\n"])
def test_refuses_a_content_length_that_is_not_a_number(length: str, rf: RequestFactory) -> None:
    request = rf.post(ACTIVE, BODY, content_type="application/json")
    request.META["CONTENT_LENGTH"] = length

    with pytest.raises(RequestMalformed):
        signed_http.read_body(request, 65_536)


def test_refuses_a_body_over_64_kib_without_an_audit_row(lena_bot: Bot, audited: Any) -> None:
    body = json.dumps(opening("1", comment="x" * 65_536)).encode()

    assert refusal(lena_bot.send("POST", body=body)) == (413, "body_too_large")
    assert audited.codes() == []
    assert refusal(lena_bot.send("POST", body=b" " * 65_537)) == (413, "body_too_large")


def test_accepts_a_body_of_64_kib(lena_bot: Bot) -> None:
    body = BODY[:-1] + b" " * (65_536 - len(BODY)) + b"}"

    assert lena_bot.send("POST", body=body).status_code == 201


def test_refuses_every_flipped_byte_of_the_body(lena_bot: Bot, last_seq: Callable[..., Any], audited: Any) -> None:
    request = lena_bot.request("POST", body=BODY)

    for at in range(len(BODY)):
        flipped = BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :]
        assert refusal(replace(request, but={"body": flipped}).send()) == FORGED
    assert audited.codes() == ["signature_invalid"] * len(BODY)
    assert last_seq(lena_bot) == 0


def test_refuses_every_flipped_digit_of_the_signature(lena_bot: Bot) -> None:
    request = lena_bot.request("POST", body=BODY)
    right = request.signature()

    for at in range(64):
        wrong = right[:at] + ("0" if right[at] != "0" else "1") + right[at + 1 :]
        assert refusal(replace(request, but=header("X-Cd-Sig", f"v1={wrong}")).send()) == FORGED


def test_text_moved_between_two_fields_changes_the_signature(lena_bot: Bot) -> None:
    """No line can contain the separator, so no text can move to another field."""
    request = lena_bot.request("DELETE", f"{ACTIVE}/1", query="close_price=1&profit=2")

    moved = replace(request, but={"path": f"{ACTIVE}/12", "query": "close_price=1&profit="}).send()

    assert refusal(moved) == FORGED


def test_another_bots_key_with_ones_own_signature_is_refused(lena_bot: Bot, sam_bot: Bot, audited: Any) -> None:
    request = sam_bot.request("POST", body=BODY)

    assert refusal(replace(request, but=header("X-Cd-Key", lena_bot.key)).send()) == FORGED
    assert audited.codes() == ["signature_invalid"]
    assert lena_bot.send("GET").json()["count"] == 0


def test_an_unknown_key_and_a_wrong_secret_get_the_same_response(lena_bot: Bot) -> None:
    unknown = Bot({"key": "ck_0123456789abcdef.1", "secret": "0" * 64}).send("POST", body=BODY)
    wrong = Bot({"key": lena_bot.key, "secret": "0" * 64}).send("POST", body=BODY)

    def stable(response: Any) -> dict[Any, Any]:
        body = response.json()
        return {name: body[name] for name in body.keys() - {"request_id", "server_time"}}

    assert stable(unknown) == stable(wrong)
    assert dict(unknown.headers).keys() == dict(wrong.headers).keys()


def test_no_audit_row_contains_a_signature_or_a_secret(lena_bot: Bot) -> None:
    from audit.models import AuditLog

    request = lena_bot.request("POST", body=BODY)
    replace(request, but={"query": "a=1"}).send()
    replace(request, but=header("X-Cd-Key", f"{lena_bot.key}{lena_bot.secret}")).send()

    written = json.dumps(list(AuditLog.objects.values("actor", "subject", "detail")))
    assert lena_bot.secret not in written
    assert request.signature()[8:] not in written


# --- bodies with a valid signature


NOT_JSON: dict[str, Any] = {
    "nothing": b"",
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "two documents": b"{}{}",
    "a name twice": b'{"ticket_id": "1", "ticket_id": "2"}',
    "a name twice further down": b'{"analysis": {"a": 1, "a": 2}}',
    "a name twice, once escaped": b'{"sl": "1", "s\\u006c": "2"}',
    "NaN": b'{"volume": NaN}',
    "Infinity": b'{"volume": Infinity}',
    "-Infinity": b'{"volume": -Infinity}',
    "a comma too many": b'{"volume": 1,}',
    "a comment": b'{/* */"volume": 1}',
    "single quotes": b"{'volume': 1}",
    "a number that begins with zero": b'{"volume": 01}',
    "a number with a plus": b'{"volume": +1}',
    "hex": b'{"volume": 0x10}',
    "an integer of 100,000 digits": b'{"ticket_id": ' + b"9" * 60_000 + b"}",
    "a fraction of 60,000 digits": b'{"volume": 0.' + b"9" * 60_000 + b"}",
    "an exponent of twenty digits": b'{"volume": 1e99999999999999999999}',
    "30,000 levels": b'{"analysis":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "20,000 open objects": b'{"a":' * 13_000,
    "a BOM": b"\xef\xbb\xbf{}",
    "UTF-16": '{"volume": "1"}'.encode("utf-16"),
    "UTF-32": '{"volume": "1"}'.encode("utf-32"),
    "Latin-1": '{"comment": "é"}'.encode("latin-1"),
    "a surrogate's bytes": b'{"comment": "\xed\xa0\x80"}',
    "an overlong sequence": b'{"comment": "\xc0\xaf"}',
    "a byte that is never UTF-8": b'{"comment": "\xff"}',
    "a bare control character": b'{"comment": "a\x01b"}',
    "a bare NUL": b'{"comment": "a\x00b"}',
    "a form": b"ticket_id=1&volume=1",
    "XML": b"<ticket_id>1</ticket_id>",
}


@pytest.mark.parametrize(
    "path", [ACTIVE, "/api/v2/actives", "/api/v2/signal/close", f"{ACTIVE}/batch", f"{ACTIVE}/1/reduce"]
)
def test_refuses_a_body_that_is_not_a_json_object(path: Any, lena_bot: Bot, last_seq: Callable[..., Any]) -> None:
    for what, body in NOT_JSON.items():
        response = lena_bot.send("POST", path, body=body)

        assert refusal(response) == MALFORMED, what
        assert "X-Cd-Response-Sig" in response
    assert last_seq(lena_bot) == 0


STRANGE_FIELDS = {
    "a lone surrogate in a text": ('"comment": "\\ud800"', "comment"),
    "a lone surrogate in a name": ('"\\ud800": 1', "\\ud800"),
    "a lone surrogate in the symbol": ('"symbol": "EUR\\udfff"', "symbol"),
    "a lone surrogate in the analysis": ('"analysis": {"a": "\\ud800"}', "analysis"),
    "a lone surrogate in the analysis' name": ('"analysis": {"\\ud800": 1}', "analysis"),
    "NUL in a text": ('"comment": "a\\u0000b"', "comment"),
    "NUL in the analysis": ('"analysis": {"a": "\\u0000"}', "analysis"),
    "NUL in the analysis' name": ('"analysis": {"\\u0000": 1}', "analysis"),
    "300 levels in the analysis": (f'"analysis": {{"a": {"[" * 300}{"]" * 300}}}', "analysis"),
    "an integer of 30 digits in the analysis": (f'"analysis": {{"a": {"9" * 30}}}', "analysis"),
    "an analysis of 3 KiB": (f'"analysis": {{"a": "{"x" * 3072}"}}', "analysis"),
    "an analysis that is a list": ('"analysis": [1]', "analysis"),
    "a newline in the comment": ('"comment": "a\\nb"', "comment"),
    "text that runs backwards": ('"comment": "a\\u202eb"', "comment"),
    "a volume of 1e400": ('"volume": 1e400', "volume"),
    "a volume of 1e-9": ('"volume": 1e-9', "volume"),
    "a volume of nine decimals": ('"volume": "0.123456789"', "volume"),
    "a volume in Arabic digits": ('"volume": "١"', "volume"),
    "a volume with an exponent in text": ('"volume": "1e1"', "volume"),
    "a volume in text with blanks": ('"volume": " 1"', "volume"),
    "a volume that is true": ('"volume": true', "volume"),
    "a volume that is a list": ('"volume": ["1"]', "volume"),
    "a volume of nothing": ('"volume": null', "volume"),
    "a volume of zero": ('"volume": "0.00000000"', "volume"),
    "a volume of minus zero": ('"volume": "-0"', "volume"),
    "a volume below zero": ('"volume": "-1"', "volume"),
    "a volume of thirteen digits": ('"volume": "1000000000000"', "volume"),
    "a ticket that begins with zero": ('"ticket_id": "01"', "ticket_id"),
    "a ticket of twenty digits": (f'"ticket_id": "{"9" * 20}"', "ticket_id"),
    "a ticket that is a fraction": ('"ticket_id": 1.0', "ticket_id"),
    "a ticket that is true": ('"ticket_id": true', "ticket_id"),
    "a ticket with a newline": ('"ticket_id": "1\\n"', "ticket_id"),
    "a ticket below zero": ('"ticket_id": -1', "ticket_id"),
    "a type of its own": ('"type": "HOLD"', "type"),
    "a type that is an object": ('"type": {"a": 1}', "type"),
    "a side said twice, differently": ('"direction": "SELL"', "type"),
    "a time without a zone": ('"opened_at": "2026-01-05T10:00:00"', "opened_at"),
    "a time to come": ('"opened_at": "2199-01-05T10:00:00Z"', "opened_at"),
    "a time before time": ('"opened_at": "0001-01-01T00:00:00+14:00"', "opened_at"),
    "a time that is a number": ('"opened_at": 1767600000', "opened_at"),
    "a symbol with a pipe": ('"symbol": "EUR|USD"', "symbol"),
    "a symbol that is a number": ('"symbol": 1', "symbol"),
    "an unknown name": ('"profit": "1"', "profit"),
    "an unknown name of a thousand letters": (f'"{"x" * 1000}": 1', "x" * 64),
}


def test_names_the_invalid_field(lena_bot: Bot) -> None:
    """Well-formed JSON with one invalid field is refused with 422, and nothing is opened."""
    for what, (written, name) in STRANGE_FIELDS.items():
        field = written.split(":")[0].strip('"')
        rest = {key: value for key, value in opening("1").items() if key != field}

        response = lena_bot.send("POST", body=json.dumps(rest)[:-1].encode() + f", {written}}}".encode())

        assert refusal(response) == (422, "symbol_grammar" if name == "symbol" else "invalid"), what
        assert list(response.json()["fields"]) == [name], what
    assert lena_bot.send("GET").json()["count"] == 0


def test_an_ordinary_analysis_is_accepted(lena_bot: Bot) -> None:
    for ticket, analysis in enumerate(
        ['{"a": 18446744073709551615}', '{"a": 0.1}', '{"a": "\\\\u0000"}', "{}", "null"], 1
    ):
        body = json.dumps(opening(ticket))[:-1] + f', "analysis": {analysis}}}'

        assert lena_bot.send("POST", body=body.encode()).status_code == 201, analysis


def test_numbers_are_read_exactly(lena_bot: Bot) -> None:
    Instrument.objects.update(max_volume="999999999999")
    body = BODY.replace(b'"0.10000000"', b"123456789012.12345678").replace(b'"987654"', b"9999999999999999999")

    answer = lena_bot.send("POST", body=body)

    assert answer.json()["trade"]["volume"] == "123456789012.12345678"


@pytest.mark.parametrize("how", ["PATCH", "reduce", "DELETE"])
def test_a_body_cannot_name_another_trade_than_its_path(how: str, lena_bot: Bot) -> None:
    for ticket in ("1", "2"):
        assert lena_bot.send("POST", fields=opening(ticket)).status_code == 201

    if how == "PATCH":
        answer = lena_bot.send("PATCH", f"{ACTIVE}/1", {"ticket_id": "2", "sl": "1.00000000"})
    elif how == "reduce":
        fields = {"ticket_id": "2", "deal_id": "d", "volume": "0.05", "close_price": "1.1", "profit": "1"}
        answer = lena_bot.send("POST", f"{ACTIVE}/1/reduce", fields)
    else:
        answer = lena_bot.send("DELETE", f"{ACTIVE}/1", query="ticket_id=2&close_price=1.1&profit=1")

    assert refusal(answer) == (422, "invalid")
    assert list(answer.json()["fields"]) == ["ticket_id"]
    assert {trade["seq"] for trade in lena_bot.send("GET").json()["trades"]} == {"1", "2"}


# --- answers and hosts


def test_the_client_rejects_a_response_without_a_signature(web: Serving) -> None:
    """The bots' side: a proxy that empties the snapshot is detected."""
    from copybot.client import AnswerForged

    bot = web.bot("lena", "master")
    genuine = bot._is_genuine
    bot._is_genuine = lambda answer, signature: genuine(replace(answer, body=b'{"trades":[]}'), signature)

    with pytest.raises(AnswerForged):
        bot.active()
    bot.hang_up()


def test_a_request_signed_for_another_host_is_refused(lena_bot: Bot) -> None:
    """A request captured at a test desk does not verify at this one."""
    request = lena_bot.request("POST", body=BODY, host="trial.copydesk.example")

    assert refusal(replace(request, but={"host": HOST}).send()) == FORGED


def test_client_and_server_calculate_the_same_signature(lena_bot: Bot) -> None:
    request = lena_bot.request("POST", body=BODY)
    by_hand = signing.sign(
        lena_bot.secret, method="POST", host=HOST, path=ACTIVE, query="", key=lena_bot.key, time_ms=request.time_ms,
        window_ms=request.window_ms, seq=request.seq, idempotency_key=request.effect, body=BODY,
    )  # fmt: skip

    assert replace(request, but=header("X-Cd-Sig", f"v1={by_hand.upper()}")).send().status_code == 201
