"""The order of checks in docs/protocol.md: a request with every fault, corrected one fault at a time."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

from accounts import services as accounts
from accounts.models import TradingAccount
from audit import services as audit
from tests.docs import reading
from tests.signed import Bot, Request, opening
from tests.transactions import committed

TOO_LARGE, UNREADABLE = b'{"comment": "' + b"x" * 70_000 + b'"}', b'{"ticket_id": "0"}'
OPEN_AGAIN = json.dumps(opening("1")).encode()
EFFECT = "taken-by-another-effect"


def ways(lena: TradingAccount, lena_bot: Bot) -> Iterator[Any]:
    """Return requests, each with one fault less than the one before, and the code of each response."""
    _, readonly = committed(accounts.create_key, account=lena, kind="readonly", actor=audit.SYSTEM)
    revoked_key, revoked = committed(accounts.create_key, account=lena, kind="master", actor=audit.SYSTEM)
    accounts.revoke_key(key=revoked_key, actor=audit.SYSTEM)
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=1")
    lena_bot.send("POST", fields=opening("2"), effect=EFFECT)
    valid = {
        "key": lena_bot.key, "secret": lena_bot.secret, "method": "POST", "seq": lena_bot.seq + 1, "window_ms": 5000,
        "time_ms": time.time_ns() // 1_000_000, "effect": "an-effect-of-its-own", "body": OPEN_AGAIN,
    }  # fmt: skip
    at_fault = {
        "key": readonly.key, "secret": "0" * 64, "seq": 1, "effect": EFFECT, "body": TOO_LARGE,
        "time_ms": 1_700_000_000_000,
        "but": {"ip": "203.0.113.9", "headers": {"X-Cd-Window": "soon"}},
    }  # fmt: skip
    corrected = [
        ("body_too_large", {}),
        ("https_required", {"body": UNREADABLE}),
        ("request_malformed", {"but": {"headers": {"X-Cd-Window": "soon"}}}),
        ("clock_outside_window", {"but": {}}),
        ("signature_invalid", {"time_ms": valid["time_ms"]}),
        ("scope_denied", {"secret": readonly.secret}),
        ("invalid", {"key": revoked.key, "secret": revoked.secret}),
        ("key_revoked", {"body": OPEN_AGAIN}),
        ("seq_replayed", {"key": lena_bot.key, "secret": lena_bot.secret}),
        ("idempotency_conflict", {"seq": valid["seq"]}),
        ("trade_closed", {"effect": valid["effect"], "seq": valid["seq"] + 1}),
    ]
    request = valid | at_fault
    for code, change in corrected:
        request = request | change
        yield code, Request(**request)


def test_each_check_comes_before_the_next(lena: TradingAccount, lena_bot: Bot) -> None:
    for code, request in ways(lena, lena_bot):
        assert request.send().json()["code"] == code


def test_responses_are_signed_from_the_seventh_check_on(lena: TradingAccount, lena_bot: Bot) -> None:
    """As the page says in its list of what cannot be signed."""
    listed = reading.text("protocol").partition("except these**")[2].partition("- any 5xx")[0]
    unsigned = set(re.findall(r"`([a-z_]+)`", listed))

    for code, request in ways(lena, lena_bot):
        is_signed = "X-Cd-Response-Sig" in request.send().headers
        assert is_signed == (code not in unsigned), code


def test_a_request_refused_before_its_transaction_uses_up_no_number(lena_bot: Bot) -> None:
    refused = lena_bot.request("POST", fields={"ticket_id": "0"})
    assert refused.send().json()["code"] == "invalid"

    assert lena_bot.send("POST", fields=opening("1"), seq=refused.seq).status_code == 201


def test_the_table_names_the_codes_in_this_order(lena: TradingAccount, lena_bot: Bot) -> None:
    table = [" ".join(row) for row in reading.table("protocol", "")]
    at = {
        code: next(number for number, row in enumerate(table) if re.search(rf"\b{code}\b", row))
        for code, _ in ways(lena, lena_bot)
        if code != "trade_closed"
    }

    assert list(at.values()) == sorted(at.values())
    assert len(set(at.values())) == len(at)
