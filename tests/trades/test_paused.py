"""A paused follower sees the trades that it holds or may hold, and no other: by snapshot, stream and every poll."""

import hashlib
import json
from decimal import Decimal
from typing import Any

import pytest

from accounts import services as accounts
from accounts.models import TradingAccount
from audit import services as audit
from copybot import packets
from strategies import services as strategies
from strategies.models import Subscription
from tests.conftest import Serving
from tests.signed import LONG_AGO, Bot, opening
from tests.sockets import watch_as_bot
from tests.trades.test_copies import copy
from tests.trades.test_stream import browser
from tests.transactions import committed

ACTIVE, SKIPS = "/api/v2/trades/active", "/api/v2/copier/skips"
POLLS = (ACTIVE, "/api/v2/actives", "/signals")
SECRET_TICKET = "777001"


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def pause(subscription: Subscription, why: str = "UNPAID") -> None:
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why=why)


def masters(bot: Any) -> list[str]:
    return [trade["ticket_id"] for trade in bot.send("GET").json()["trades"] if trade["role"] == "master"]


def skip(bot: Bot, ref: str) -> None:
    bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "slippage"})


def opened(bot: Bot, ticket: str, **more: Any) -> str:
    ref: str = bot.send("POST", fields=opening(ticket, **more)).json()["trade"]["trade_id"]
    return ref


# --- polls


@pytest.mark.parametrize("why", ["HAND", "OWNER", "UNPAID", "TRUST", "DRAWDOWN"])
@pytest.mark.parametrize("path", POLLS)
def test_no_poll_shows_a_trade_that_opened_during_the_pause(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, path: str, why: str
) -> None:
    pause(subscription, why)
    opened(lena_bot, SECRET_TICKET)

    answer = finn_bot.send("GET", path)

    assert answer.status_code == 200
    assert SECRET_TICKET not in answer.content.decode()


def test_a_readonly_key_of_the_account_sees_no_more(
    lena_bot: Bot, finn: TradingAccount, subscription: Subscription
) -> None:
    _, key = committed(accounts.create_key, account=finn, kind="readonly", actor=audit.SYSTEM)
    pause(subscription)
    opened(lena_bot, SECRET_TICKET)

    assert masters(Bot({"key": key.key, "secret": key.secret})) == []


def test_what_it_holds_or_may_hold_stays_visible(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    """1 is held; of 2 nothing was reported yet; 3 was skipped; the copy of 4 is closed; 5 opened during the pause."""
    opened(lena_bot, "1")
    opened(lena_bot, "2")
    skipped = opened(lena_bot, "3")
    opened(lena_bot, "4")
    copy(finn_bot, "501", master_ticket="1")
    copy(finn_bot, "504", master_ticket="4")
    finn_bot.send("DELETE", f"{ACTIVE}/504", query="close_price=1.1&profit=0")
    skip(finn_bot, skipped)
    pause(subscription)
    opened(lena_bot, "5")

    body = finn_bot.send("GET").json()

    assert masters(finn_bot) == ["1", "2"]
    assert (body["count"], len(body["trades"]), body["as_of"]) == (3, 3, {"lena-eurusd": "5"})
    strategies.resume(subscription=subscription, actor=audit.SYSTEM)
    assert masters(finn_bot) == ["1", "2", "3", "4", "5"]


def test_a_trade_that_the_terms_exclude_cannot_be_held(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, since=LONG_AGO, symbols=["XAUUSD"])
    opened(lena_bot, "1")
    assert masters(finn_bot) == ["1"]

    pause(subscription)

    assert masters(finn_bot) == []


def test_the_digest_is_that_of_the_trades_shown(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    opened(lena_bot, "1")
    pause(subscription)
    opened(lena_bot, "2")

    text = finn_bot.send("GET").content.decode()

    rows = text[text.index('"trades":') + len('"trades":') : -1]
    assert json.loads(text)["digest"] == hashlib.sha256(rows.encode()).hexdigest()


@pytest.mark.parametrize("change", ["pause", "skip during the pause", "copy closes during the pause"])
def test_each_change_of_what_is_shown_changes_the_etag(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, change: str
) -> None:
    ref = opened(lena_bot, "1")
    if change.startswith("copy"):
        copy(finn_bot, "501", master_ticket="1")
    if change != "pause":
        pause(subscription)
    before = finn_bot.send("GET")

    if change == "pause":
        pause(subscription)
    elif change.startswith("skip"):
        skip(finn_bot, ref)
    else:
        finn_bot.send("DELETE", f"{ACTIVE}/501", query="close_price=1.1&profit=0")
    after = finn_bot.send("GET", but={"headers": {"If-None-Match": before["ETag"]}})

    assert (after.status_code, after["ETag"] == before["ETag"]) == (200, False)
    assert masters(finn_bot) == (["1"] if change == "pause" else [])


def test_a_heartbeat_asks_for_no_hidden_trade(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    pause(subscription)
    opened(lena_bot, "1")
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    report = {"strategy": "lena-eurusd", "seq": "1", "standing": "LIVE", "generation": 1, "digest": nothing}

    answer = finn_bot.send(
        "POST", "/api/v2/copier/beat", {"instance": "0123456789abcdef", "fence": None, "subscriptions": [report]}
    )

    assert answer.json()["subscriptions"][0]["sync"] == "in_sync"


# --- the stream


def test_a_hidden_trade_uses_up_its_numbers_and_says_nothing_else(web: Serving, subscription: Subscription) -> None:
    lena = web.bot("lena", "master")
    lena.open(**opening("1"))
    pause(subscription)
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        assert [trade["ticket_id"] for trade in watching.next()["trades"]] == ["1"]
        lena.open(**opening(SECRET_TICKET))
        lena.modify(SECRET_TICKET, sl="1.09")
        lena.reduce(SECRET_TICKET, deal_id="d1", volume="0.05", close_price="1.1", profit="1")
        lena.close(SECRET_TICKET, close_price="1.11", profit="5")
        lena.modify("1", sl="1.09")
        lena.reduce("1", deal_id="d1", volume="0.05", close_price="1.1", profit="1")
        lena.close("1", close_price="1.11", profit="5")
        hidden, shown = [watching.next() for _ in range(4)], [watching.next() for _ in range(3)]

    assert [message["seq"] for message in [*hidden, *shown]] == [str(seq) for seq in range(2, 9)]
    for message in hidden:
        assert (message["type"], message["trade"], message["packet"]["action"]) == ("trade.hidden", {}, "GAPFILL")
        assert SECRET_TICKET not in json.dumps(message) and "EURUSD" not in json.dumps(message)
        packets.read(
            message["packet"],
            secrets={1: strategies.packet_secret(subscription)},
            sub_id=subscription.sub_id,
        )
    assert [message["packet"]["action"] for message in shown] == ["MODIFY", "REDUCE", "CLOSE"]


def test_a_browser_of_a_paused_follower_sees_no_more(web: Serving, subscription: Subscription) -> None:
    lena = web.bot("lena", "master")
    pause(subscription)
    with browser(web, "finn") as watching:
        watching.next()
        lena.open(**opening(SECRET_TICKET))
        assert watching.next() == {"type": "trade.hidden", "strategy": "lena-eurusd", "seq": "1", "trade": {}}


def test_an_open_right_after_the_pause_is_hidden_before_the_socket_learns_of_the_pause(
    web: Serving, subscription: Subscription
) -> None:
    """A process reads subscriptions every few seconds. The open itself says who was paused."""
    lena = web.bot("lena", "master")
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        watching.next()
        pause(subscription)
        lena.open(**opening(SECRET_TICKET))
        lena.modify(SECRET_TICKET, sl="1.09")
        first, second = watching.next(), watching.next()

    messages = [message for message in (first, second) if message["type"] != "snapshot"]
    assert messages and {message["type"] for message in messages} == {"trade.hidden"}
    assert SECRET_TICKET not in json.dumps([first, second])


def test_the_provider_sees_its_own_trades_while_a_follower_is_paused(web: Serving, subscription: Subscription) -> None:
    pause(subscription)
    lena = web.bot("lena", "master")
    with watch_as_bot(lena) as watching:
        watching.next()
        lena.open(**opening("1"))
        assert watching.next()["trade"]["ticket_id"] == "1"


def test_a_copy_that_is_reported_during_the_pause_makes_its_trade_visible(
    web: Serving, subscription: Subscription
) -> None:
    """Its order was on the way when the subscription was paused. Its close must arrive as any other."""
    lena, finn = web.bot("lena", "master"), web.bot("finn", "copier")
    pause(subscription)
    ref = lena.open(**opening("1"))["trade"]["trade_id"]
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        assert watching.next()["trades"] == []
        finn.seq += 10_000_000
        finn.open(**opening("501", volume=Decimal("0.1")), strategy="lena-eurusd", trade_ref=ref)
        renewed = watching.until(lambda message: message["type"] == "snapshot")
        lena.close("1", close_price="1.11", profit="5")
        closed = watching.next()

    assert {trade["role"] for trade in renewed["trades"]} == {"master", "copy"}
    assert (closed["type"], closed["packet"]["action"]) == ("trade.closed", "CLOSE")
