"""Each refusal of a key leaves a trace with the key and the address; and none that others can cause costs trust."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from accounts import services
from accounts.models import BotKey, BotKeyGeneration, TradingAccount
from audit import sampling
from audit import services as audit
from audit.models import AuditLog
from tests.answers import refusal
from tests.conftest import Serving
from tests.signed import Bot, opening
from tests.sockets import watch
from tests.trades.test_stream import refused
from tests.transactions import committed
from trust import incidents

ACTIVE = "/api/v2/trades/active"


def rows(code: str) -> list[tuple[str, str, str | None, str]]:
    found = AuditLog.objects.filter(code=code).order_by("id")
    return [(row.actor_kind, row.actor, row.ip, row.detail["method"]) for row in found]


def _revoke(key: BotKey) -> None:
    services.revoke_key(key=key, actor=audit.SYSTEM)


def _expire(key: BotKey) -> None:
    key.expires_at = timezone.now()
    committed(services.change_key, key=key, changed=["expires_at"], actor=audit.SYSTEM)


def _deny(key: BotKey) -> None:
    key.allowed_networks = ["203.0.113.0/24"]
    committed(services.change_key, key=key, changed=["allowed_networks"], actor=audit.SYSTEM)


def _retire(key: BotKey) -> None:
    BotKeyGeneration.objects.filter(key=key).update(retires_at=timezone.now())


REASONS: dict[str, Callable[[BotKey], None]] = {
    "key_revoked": _revoke, "key_expired": _expire, "ip_denied": _deny, "key_generation_retired": _retire,
}  # fmt: skip


@pytest.mark.parametrize("code", REASONS)
def test_reads_and_writes_of_a_refused_key_are_recorded(code: str, lena: TradingAccount, lena_bot: Bot) -> None:
    REASONS[code](BotKey.objects.get(account=lena, kind="master"))

    assert refusal(lena_bot.send("GET"))[1] == refusal(lena_bot.send("POST", fields=opening("1")))[1] == code
    assert rows(code) == [("bot", lena_bot.key, "127.0.0.1", method) for method in ("GET", "POST")]
    assert set(AuditLog.objects.filter(code=code).values_list("subject", flat=True)) == {f"key:{lena_bot.key}"}


def test_replays_are_recorded_with_key_and_address(lena_bot: Bot) -> None:
    write = lena_bot.request("POST", fields=opening("1"))
    read = lena_bot.request("GET")
    for request in (write, read):
        assert request.send().status_code < 300
        assert refusal(request.send())[1] == "seq_replayed"

    assert rows("seq_replayed") == [("bot", lena_bot.key, "127.0.0.1", method) for method in ("POST", "GET")]


def test_a_replayed_handshake_is_one_row_under_its_key(web: Serving) -> None:
    finn = web.bot("finn", "copier")
    headers = finn.headers("GET", "/ws/v2/active")
    with watch(web.url, headers):
        pass

    assert refused(watch(web.url, headers)) == (409, "seq_replayed")
    assert [row[:2] for row in rows("seq_replayed")] == [("bot", finn.key)]


def test_a_used_up_limit_is_recorded(lena: TradingAccount) -> None:
    _, secret = committed(
        services.create_key, account=lena, kind="readonly", actor=audit.SYSTEM, rate_per_minute=2
    )  # fmt: skip
    bot = Bot({"key": secret.key, "secret": secret.secret})

    assert [bot.send("GET").status_code for _ in range(4)] == [200, 200, 429, 429]
    limited = AuditLog.objects.filter(action="request.limited", code="rate_limited")
    assert set(limited.values_list("actor", "ip")) == {(bot.key, "127.0.0.1")}


def test_a_flood_of_replays_is_a_bounded_number_of_rows(lena_bot: Bot) -> None:
    request = lena_bot.request("POST", fields=opening("1"))
    for _ in range(100):
        request.send()

    assert len(rows("seq_replayed")) == sampling.of_the_verified.of_a_kind


def incidents_of(account: TradingAccount) -> int:
    return len(incidents.events_of(account.owner, now=timezone.now() + timedelta(minutes=1)))


def test_a_captured_request_that_somebody_else_repeats_costs_its_signer_no_trust(
    lena: TradingAccount, lena_bot: Bot
) -> None:
    captured = [lena_bot.request("POST", fields=opening("1"), window_ms=30_000)]
    assert captured[0].send().status_code == 201
    captured.append(lena_bot.request("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=5"))
    assert captured[1].send().status_code == 200

    for request in captured * 3:
        elsewhere = {"headers": {"X-Forwarded-For": "203.0.113.9", "X-Request-ID": "a-stranger"}}
        assert refusal(replace(request, but=elsewhere).send())[1] == "seq_replayed"

    assert incidents_of(lena) == 0


def test_an_open_that_was_held_back_until_its_trade_closed_costs_no_trust(lena: TradingAccount, lena_bot: Bot) -> None:
    """By another sender of the account, whose numbers do not order it."""
    _, secret = committed(services.create_key, account=lena, kind="master", actor=audit.SYSTEM)
    other = Bot({"key": secret.key, "secret": secret.secret})
    held_back = lena_bot.request("POST", fields=opening("1"), window_ms=30_000)
    assert other.send("POST", fields=opening("1")).status_code == 201
    assert other.send("DELETE", f"{ACTIVE}/1", query="close_price=1.1&profit=5").status_code == 200

    assert refusal(held_back.send()) == (409, "trade_closed")

    assert incidents_of(lena) == 0
    assert refusal(lena_bot.send("POST", fields=opening("1"))) == (409, "trade_closed")  # signed after the close
    assert incidents_of(lena) == 1


def test_refusals_of_a_key_are_no_incidents(lena: TradingAccount, lena_bot: Bot) -> None:
    key = BotKey.objects.get(account=lena, kind="master")
    lena_bot.send("POST", fields=opening("1"))
    _deny(key)
    for _ in range(5):
        lena_bot.send("POST", fields=opening("2"))
    _revoke(key)
    lena_bot.send("GET")

    assert AuditLog.objects.filter(action="request.refused").count() == 6
    assert incidents_of(lena) == 0
