"""The examples of the published schema: recorded from real calls, and held to what those calls answer now.

`COPYDESK_RECORD=1` writes the file anew.
"""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from django.test import Client

from accounts.models import TradingAccount
from config import openapi
from core.shapes import name_of
from market.models import Candle
from tests.signed import HOST, Bot, opening
from tests.test_openapi import answers_of, document, named
from tests.wallets.conftest import pay_in
from trust import services as trust

ACTIVE = "/api/v2/trades/active"
INSTANCE = "finn-laptop-0001"


class Recorder:
    """Makes calls, and records for each shape the first request or response body with its name."""

    def __init__(self) -> None:
        self.examples = {}

    def keep(self, content: Any, body: Any) -> None:
        shape = content["application/json" if "application/json" in content else "application/problem+json"]["schema"]
        if "$ref" in shape:
            self.examples.setdefault(name_of(shape), shortened(body))

    def heard(self, verb: Any, route: Any, sent: Any, answer: Any) -> Any:
        operation = named(verb, route)
        if sent is not None:
            self.keep(operation["requestBody"]["content"], sent)
        self.keep(answers_of(operation)[str(answer.status_code)]["content"], answer.json())
        return answer.json()

    def bot(self, bot: Any, verb: Any, route: Any, fields: Any = None, *, query: str = "", **names: Any) -> Any:
        answer = bot.send(verb.upper(), route.format(**names), fields, query=query)
        return self.heard(verb, route, fields, answer)

    def person(self, account: Any, verb: Any, route: Any, fields: Any = None, *, query: str = "", **names: Any) -> Any:
        client = Client()
        client.force_login(account.owner)
        body = "" if fields is None else json.dumps(fields)
        headers = {"HTTP_HOST": HOST, "HTTP_IDEMPOTENCY_KEY": uuid.uuid4().hex}
        path = route.format(**names) + query
        answer = client.generic(verb.upper(), path, body, content_type="application/json", **headers)
        return self.heard(verb, route, fields, answer)


def shortened(body: Any) -> Any:
    """Keep one element of each list, which is enough to show its shape."""
    if isinstance(body, dict):
        return {name: shortened(value) for name, value in body.items()}
    return [shortened(value) for value in body[:1]] if isinstance(body, list) else body


@pytest.fixture
def recorded(lena: TradingAccount, finn: TradingAccount, lena_bot: Bot, finn_bot: Bot) -> Any:
    """The life of a trade and its copy, a copier's reports, a wallet and a score."""
    desk = Recorder()
    desk.heard("get", "/api/v2/time", None, Client().get("/api/v2/time", HTTP_HOST=HOST))
    ref = desk.bot(lena_bot, "post", ACTIVE, opening("987654"))["trade"]["trade_id"]
    _copier(desk, finn_bot, ref)
    stops = {"sl": "1.10200000", "tp": None}
    desk.bot(lena_bot, "patch", f"{ACTIVE}/{{ticket}}", stops, ticket="987654")
    part = {"deal_id": "55001", "volume": "0.05000000", "close_price": "1.10900000", "profit": "20.00"}
    desk.bot(lena_bot, "post", f"{ACTIVE}/{{ticket}}/reduce", part, ticket="987654")
    batch = {"idempotency_key": "close-987654-0001", "action": "close", "ticket_id": "987654"}
    closing = {"close_price": "1.11000000", "profit": "25.00", "reason": "TP"}
    desk.bot(lena_bot, "post", f"{ACTIVE}/batch", {"operations": [{**batch, **closing}]})
    desk.bot(lena_bot, "post", ACTIVE, opening("987654"))  # refused: a Problem
    desk.bot(lena_bot, "post", "/api/v2/actives", opening("987655"))
    desk.bot(lena_bot, "post", "/api/v2/signal/close", {"ticket_id": "987655", **closing})
    _people(desk, lena, finn)
    return desk.examples


def _copier(desk: Any, bot: Any, ref: Any) -> None:
    source = {"strategy": "lena-eurusd", "trade_ref": ref}
    desk.bot(bot, "get", ACTIVE)
    held = {"trade_ref": ref, "volume": "0.05000000"}
    digest = hashlib.sha256(f"{ref} 0.05000000\n".encode()).hexdigest()
    state = {"strategy": "lena-eurusd", "seq": "1", "standing": "LIVE", "generation": 1, "digest": digest}
    heartbeat = {"instance": INSTANCE, "subscriptions": [{**state, "copies": [held]}]}
    desk.bot(bot, "post", "/api/v2/copier/beat", heartbeat)
    desk.bot(bot, "get", "/api/v2/account")
    desk.bot(bot, "post", "/api/v2/copier/skips", {**source, "reason": "slippage", "detail": "8 bps"})
    symbols = [{"symbol": "US30", "contract_size": "25", "volume_min": "0.1", "volume_step": "0.1", "volume_max": "50"}]
    report = {"balance": "10000.00", "equity": "10020.50", "currency": "USD", "kind": "hedging", "login": "5001"}
    desk.bot(bot, "post", "/api/v2/account", {**report, "server": "Broker-Live", "symbols": symbols})
    order = {
        **source, "seq": "1", "status": "executed", "requested_price": "1.10500000", "executed_price": "1.10503000",
        "volume": "0.05000000", "latency_ms": 157, "ticket_id": "501",
    }  # fmt: skip
    desk.bot(bot, "post", "/api/v2/trades/orders", order)
    alarm = {**source, "kind": "close_refused", "ticket": "501", "detail": "10018 market closed"}
    desk.bot(bot, "post", "/api/v2/account/alarms", {"alarms": [alarm]})


def _people(desk: Any, lena: TradingAccount, finn: TradingAccount) -> None:
    desk.person(lena, "get", "/api/v2/trades/history")
    pay_in(finn, "100")
    desk.person(finn, "get", "/api/v2/wallets/me")
    desk.person(finn, "get", "/api/v2/wallets/me/entries")
    desk.person(finn, "post", "/api/v2/wallets/me/withdrawals", {"amount": "50.00", "note": "To my bank"})
    trust.recalculate(user_id=lena.owner.pk)
    desk.person(lena, "get", "/api/v2/trust/me")
    Candle.objects.create(
        instrument_id="EURUSD", minutes=60, opened_at=datetime(2026, 1, 5, 9, tzinfo=UTC), open="1.10500",
        high="1.10720", low="1.10480", close="1.10690", volume=1843,
    )  # fmt: skip
    desk.person(lena, "get", "/api/v2/candles/{symbol}", query="?minutes=240", symbol="EURUSD")
    appeal = {"kind": "ENDPOINT", "note": "The terminal restarted and sent its list again."}
    desk.person(lena, "post", "/api/v2/trust/me/appeals", appeal)


VOLATILE = {
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "hex": r"[0-9a-f]{32,64}",
    "moment": r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d.*",
    "subscription": r"s-[0-9a-f]{12}",
}
PROSE = {"detail", "follows", "question", "remedy", "says"}  # for people: its words may change at any time


def steady(value: Any) -> Any:
    """Replace values that differ in each run by their kind."""
    if isinstance(value, dict):
        return {name: type(inner) if name in PROSE else steady(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [steady(inner) for inner in value]
    if isinstance(value, int) and value > 10**12:
        return "<milliseconds>"
    if isinstance(value, str):
        return next((f"<{kind}>" for kind, form in VOLATILE.items() if re.fullmatch(form, value)), value)
    return value


def test_each_example_equals_a_real_request_or_response(recorded: Any) -> None:
    if "COPYDESK_RECORD" in os.environ:
        openapi.EXAMPLES.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")

    assert steady(recorded) == steady(json.loads(openapi.EXAMPLES.read_text()))


def bodies() -> Iterator[Any]:
    """Return the names of the shapes that are whole bodies."""
    for path in document()["paths"].values():
        for operation in path.values():
            parts = [operation.get("requestBody", {}), *answers_of(operation).values()]
            contents = [content for part in parts for content in part.get("content", {}).values()]
            yield from (name_of(content["schema"]) for content in contents if "$ref" in content["schema"])


def test_every_body_has_an_example() -> None:
    schemas = document()["components"]["schemas"]

    assert {name for name in bodies() if "examples" not in schemas[name]} == set()


def faults_of(name: Any, example: Any) -> list[Any]:
    validator = jsonschema.Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": document()["components"]},
        format_checker=jsonschema.FormatChecker(),
    )
    return [fault.message for fault in validator.iter_errors(example)]


def examples() -> list[Any]:
    return [
        (name, example)
        for name, shape in document()["components"]["schemas"].items()
        for example in shape.get("examples", [])
    ]


@pytest.mark.parametrize(("name", "example"), examples(), ids=lambda value: value if isinstance(value, str) else "")
def test_an_example_matches_its_schema(name: Any, example: Any) -> None:
    assert faults_of(name, example) == []


def test_control_an_example_that_does_not_match_is_found() -> None:
    trade = dict(examples())["Done"]["trade"]

    assert faults_of("Trade", {**trade, "volume": "a lot"})
    assert faults_of("Trade", {name: value for name, value in trade.items() if name != "seq"})
    assert faults_of("Done", {"status": "CLOSED", "trade": {}})
