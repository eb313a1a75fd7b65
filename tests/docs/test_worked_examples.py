"""Compares every figure of the pages' examples with the desk's code: a wrong digit would cost bot authors a day."""

import hashlib
import json
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from accounts import signing
from strategies import packets, sizing
from tests.docs import reading
from tests.signed import Bot
from trades import reconciliation
from trades.reasons import SkipReason

PROTOCOL, STREAM, COPIER = (reading.blocks(page) for page in ("protocol", "stream", "copier"))
VECTORS = json.loads((reading.DOCS / "vectors.json").read_text())
SECRET, PACKET_SECRET = VECTORS["request_secret"], VECTORS["packet_secret"]


def sent(block: Any) -> Any:
    """Return request line, headers by lower-case name, and body of an HTTP example."""
    head, _, body = block.partition("\n\n")
    line, *headers = head.split("\n")
    return line, {name.lower(): value for name, value in (header.split(": ", 1) for header in headers)}, body.encode()


def signable(block: Any) -> Any:
    line, headers, body = sent(block)
    method, path, _ = line.split(" ")
    return signing.Signable(
        method, headers["host"], path, "", headers["x-cd-key"], int(headers["x-cd-time"]), int(headers["x-cd-window"]),
        int(headers["x-cd-seq"]), headers["idempotency-key"], hashlib.sha256(body).hexdigest(),
    )  # fmt: skip


# --- protocol


def test_the_secrets_of_the_pages_are_those_of_the_vectors() -> None:
    assert reading.text("protocol").count(f"`{SECRET}`") == 1
    assert reading.text("stream").count(f"`{PACKET_SECRET}`") == 1


def test_the_open_is_signed_as_the_page_says() -> None:
    request = signable(PROTOCOL["open.request"])
    _, headers, body = sent(PROTOCOL["open.request"])
    page = reading.text("protocol")

    assert request.canonical().decode() == PROTOCOL["open.canonical"]
    signature = signing.sign(SECRET, request.canonical())
    assert headers["x-cd-sig"] == f"v1={signature}"
    assert page.count(signature) == 2
    assert f"The body is {len(body)} bytes. These {len(request.canonical())} bytes are signed" in page


def test_the_read_and_its_answer_are_signed_as_the_page_says() -> None:
    page, body = reading.text("protocol"), PROTOCOL["read.body"].encode()
    signature = signing.sign(SECRET, PROTOCOL["read.canonical"].encode())
    first, of, status, time_ms, hashed = PROTOCOL["read.answer"].split("\n")

    assert f"Its signature is `{signature}`" in page.replace("\n", " ")
    assert (first, of, hashed) == ("CD1-RESPONSE", signature, hashlib.sha256(body).hexdigest())
    answer = signing.sign_response(SECRET, request_signature=of, status=int(status), time_ms=int(time_ms), body=body)
    assert PROTOCOL["read.headers"] == f"X-Cd-Response-Time: {time_ms}\nX-Cd-Response-Sig: {answer}"
    assert f"this body of {len(body)} bytes" in page.replace("\n", " ")
    etag = PROTOCOL["read.etag"].partition("\n")[0].removeprefix("ETag: ")
    second = signing.sign_response_etag(
        SECRET, request_signature=of, status=int(status), time_ms=int(time_ms), body=body, etag=etag
    )
    assert PROTOCOL["read.etag"] == f"ETag: {etag}\nX-Cd-Response-Etag-Sig: {second}"


def test_the_snapshot_of_the_page_has_the_digest_of_the_page() -> None:
    body = PROTOCOL["read.body"]
    sent_trades = body[body.index('"trades":') + len('"trades":') : -1]

    assert json.loads(body)["digest"] == hashlib.sha256(sent_trades.encode()).hexdigest()


def test_the_desk_accepts_the_example(lena_bot: Bot) -> None:
    """The exact bytes of the page's body, signed with a key of this desk."""
    line, _, body = sent(PROTOCOL["open.request"])
    method, path, _ = line.split(" ")

    answer = lena_bot.request(method, path, body=body).send()

    assert (answer.status_code, answer.json()["ticket_id"]) == (201, "987654")


def test_the_grammars_of_the_headers_are_the_desks() -> None:
    grammars = {name: grammar for name, grammar, _ in reading.table("protocol", "header")}

    assert grammars["X-Cd-Key"] == signing.KEY.pattern
    assert grammars["X-Cd-Time"] == signing.TIME.pattern
    assert grammars["X-Cd-Seq"] == signing.SEQ.pattern
    assert grammars["X-Cd-Window"] == f"{signing.WINDOW.pattern}, at most {signing.MAX_WINDOW_MS}"
    assert grammars["Idempotency-Key"] == signing.IDEMPOTENCY_KEY.pattern
    assert signing.PATH.pattern in reading.text("protocol")
    assert signing.QUERY.pattern in reading.text("protocol")


# --- stream


def packet(name: Any) -> Any:
    return json.loads(STREAM[name])


@pytest.mark.parametrize("name", ["packet.open", "packet.gapfill", "packet.close"])
def test_packets_are_signed_as_the_page_says(name: str) -> None:
    given = packet(name)
    fields = tuple(given[name] for name in packets.FIELDS)

    signed = packets.sign(
        PACKET_SECRET, fields, action=given["action"], trade_ref=given["trade_ref"], generation=int(given["gen"])
    )

    assert signed == given


def test_the_signed_text_of_the_open_consists_of_its_fields() -> None:
    given = packet("packet.open")
    tail = ("CP1", given["action"], given["trade_ref"], given["gen"])

    assert STREAM["packet.open.v1"] == "|".join([*(given[name] for name in packets.FIELDS), *tail])
    assert packets.derived_key(PACKET_SECRET).decode() in reading.text("stream")


@pytest.mark.parametrize(
    ("name", "event", "opens"),
    [
        ("packet.open", "trade.opened", True),
        ("packet.gapfill", "trade.opened", False),
        ("packet.close", "trade.closed", True),
    ],
)
def test_the_packets_of_the_page_are_what_the_desk_would_send(name: str, event: str, opens: bool) -> None:
    given = packet(name)
    trade = {
        "trade_id": packet("packet.open")["trade_ref"], "open_price": "1.10500000", "close_price": "1.11000000",
    }  # fmt: skip
    plan = sizing.Plan("EURUSD", "BUY", Decimal("0.05"), Decimal("1.1"), None)

    fields, action, ref = packets.of_event(
        event, trade, plan, sub_id=given["sub_id"], seq=given["seq"], timestamp_ms=int(given["timestamp"]), opens=opens
    )

    assert (dict(zip(packets.FIELDS, fields, strict=True)), action, ref) == (
        {field: given[field] for field in packets.FIELDS}, given["action"], given["trade_ref"],
    )  # fmt: skip


def test_the_trades_id_has_the_time_of_the_page() -> None:
    """The time in its id lies between its open and its packet."""
    ref = packet("packet.open")["trade_ref"]
    opened = re.search(r'"opened_at": "([^"]+)"', reading.text("protocol"))[1]

    born_ms = int(ref[:8] + ref[9:13], 16)
    assert int(datetime.fromisoformat(opened).timestamp() * 1000) <= born_ms <= int(packet("packet.open")["timestamp"])


# --- copier


def test_the_digest_of_a_heartbeat_is_as_the_page_says() -> None:
    held = dict(line.split(" ") for line in COPIER["digest.lines"].split("\n"))

    assert reconciliation.digest(held) == COPIER["digest.hex"]


def test_the_check_of_a_signal_secret_is_as_the_page_says() -> None:
    (subscription,) = json.loads(COPIER["account.answer"])["subscriptions"]

    assert subscription["checks"] == {
        "1": packets.secret_check(PACKET_SECRET, sub_id=subscription["sub_id"], generation=1)
    }


def test_every_reason_of_a_skip_is_on_the_page() -> None:
    assert {reason: words for reason, words in reading.table("copier", "reason")} == {
        value: label for value, label in SkipReason.choices if value != SkipReason.NOT_REPORTED
    }


TERMS = {
    "MULTIPLIER, 0.5": {"mode": "MULTIPLIER", "multiplier": Decimal("0.5")},
    "FIXED, 0.02": {"mode": "FIXED", "multiplier": Decimal(1), "fixed_lots": Decimal("0.02")},
    "EQUITY, multiplier 1, equities 5000 and 20000": {
        "mode": "EQUITY", "multiplier": Decimal(1), "equity": Decimal(5000), "master_equity": Decimal(20000),
    },
    "EQUITY, multiplier 1, equities 1500000 JPY and 10000 USD, at 150": {
        "mode": "EQUITY", "multiplier": Decimal(1), "equity": Decimal(1_500_000), "master_equity": Decimal(10_000),
        "currency": "JPY", "master_currency": "USD", "rates": {"USD": Decimal(150)},
    },
    "MULTIPLIER, 0.5, provider's 100000 and copier's 2500000 units a lot": {
        "mode": "MULTIPLIER", "multiplier": Decimal("0.5"), "sizes": {"EURUSD": (Decimal(100_000), Decimal(2_500_000))},
    },
    "RISK, 1 %, equity 10000 USD, 100000 units a lot": {
        "mode": "RISK", "multiplier": Decimal(1), "risk_pct": Decimal(1), "equity": Decimal(10000), "currency": "USD",
        "contracts": {"EURUSD": Decimal(100_000)},
    },
}  # fmt: skip
TRADE = re.compile(r"(?:EURUSD )?BUY ([0-9.]+)(?:, ([0-9.]+|all) open| at ([0-9.]+), stop ([0-9.]+))")


@pytest.mark.parametrize(("terms", "provider", "lots"), reading.table("copier", "terms"))
def test_the_sizes_of_the_page_are_the_desks(terms: Any, provider: Any, lots: Any) -> None:
    volume, remains, price, stop = TRADE.fullmatch(provider).groups()
    opened, sl = Decimal(volume), Decimal(stop) if stop else None
    master = sizing.ProviderTrade(
        symbol="EURUSD", type="BUY", opened_volume=opened, open_price=Decimal(price or "1.1"), opened_sl=sl,
        volume=opened if remains in (None, "all") else Decimal(remains), sl=sl, tp=None,
    )  # fmt: skip

    plan = sizing.plan(sizing.Settings(**TERMS[terms]), master)

    assert (f"{plan.volume:.8f}", plan.why_not) == (lots, "")


# --- control


def test_control_a_wrong_digit_is_detected() -> None:
    """The example with one digit of its body changed no longer has the signature of the page."""
    block = PROTOCOL["open.request"].replace('"0.10"', '"0.11"')

    assert signable(block).canonical().decode() != PROTOCOL["open.canonical"]
