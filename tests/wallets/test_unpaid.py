"""Who owes a fee gets no new signals, by whatever way a client asks, and every close."""

import json
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import services as accounts
from accounts.models import TradingAccount
from audit import services as audit
from config import demo_data
from copybot import packets
from strategies import services as strategies
from tests.answers import text
from tests.conftest import Serving
from tests.crashes.test_end_to_end import Account, Program, configured
from tests.signed import Bot, opening
from tests.sockets import watch_as_bot
from tests.trades.test_stream import browser
from tests.transactions import committed
from tests.wallets.conftest import JUST_AFTER, Following, pay_in, state, subscription_of
from trades.models import ActiveTrade
from wallets.services import settlement

NEW, HELD = "777001", "888001"
POLLS = ("/api/v2/trades/active", "/api/v2/actives", "/signals")


def sweep(follows: Following) -> None:
    settlement.sweep(now=follows.month_end() + JUST_AFTER)


@pytest.fixture
def owes(follows: Following) -> Following:
    """finn holds a copy of one trade, owes the fee on another, and is paused for it."""
    follows.copy(HELD)
    follows.bar("1.1")
    follows.realise("1", "1000")
    sweep(follows)
    assert state(follows.finn) == ("PAUSED", "UNPAID")
    return follows


def actions(messages: list[dict[str, Any]]) -> list[str]:
    return [message["packet"]["action"] for message in messages]


# --- what bots see


@pytest.mark.parametrize("path", POLLS)
def test_no_poll_shows_a_new_signal_and_each_shows_what_is_held(
    owes: Following, lena_bot: Bot, finn_bot: Bot, path: str
) -> None:
    lena_bot.send("POST", fields=opening(NEW))

    answer = finn_bot.send("GET", path).content.decode()

    assert (NEW in answer, HELD in answer) == (False, True)


def test_the_snapshot_of_a_socket_shows_no_new_signal(owes: Following, web: Serving) -> None:
    """Opened while the fee is owed, and after a request for all of it."""
    web.bot("lena", "master").open(**opening(NEW))
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        first = watching.next()
        watching.say({"type": "resync"})
        second = watching.until(lambda message: message["type"] == "snapshot")

    for snapshot in (first, second):
        assert NEW not in json.dumps(snapshot)
        assert [trade["master_ticket"] for trade in snapshot["trades"]] == [HELD, HELD]


def test_a_new_signal_is_a_gapfill_and_a_close_is_a_close(owes: Following, web: Serving) -> None:
    lena = web.bot("lena", "master")
    with watch_as_bot(web.bot("finn", "copier")) as watching:
        watching.next()
        lena.open(**opening(NEW))
        lena.modify(NEW, sl="1.09")
        lena.close(NEW, close_price="1.11", profit="5")
        lena.close(HELD, close_price="1.11", profit="5")
        hidden, closed = [watching.next() for _ in range(3)], watching.next()

    assert actions(hidden) == ["GAPFILL"] * 3
    assert not any(word in json.dumps(hidden) for word in (NEW, "EURUSD", "1.09", "1.11"))
    subscription = subscription_of(owes.finn)
    for message in hidden:
        secrets = {1: strategies.packet_secret(subscription)}
        packets.read(message["packet"], secrets=secrets, sub_id=subscription.sub_id)
    assert (closed["type"], actions([closed])) == ("trade.closed", ["CLOSE"])


def test_a_browser_gets_no_new_signal_and_the_close(owes: Following, web: Serving) -> None:
    lena = web.bot("lena", "master")
    with browser(web, "finn") as watching:
        watching.next()
        lena.open(**opening(NEW))
        lena.close(HELD, close_price="1.11", profit="5")
        hidden, closed = watching.next(), watching.next()

    assert (hidden["type"], hidden["trade"]) == ("trade.hidden", {})
    assert (closed["type"], closed["trade"]["ticket_id"]) == ("trade.closed", HELD)


def test_a_following_copier_opens_nothing_and_closes(
    follows: Following, web: Serving, tmp_path: Path, finn: TradingAccount
) -> None:
    """The real program, over the real stream: it opens before the fee is owed, not while it is, and closes then."""
    _, key = committed(accounts.create_key, account=finn, kind="copier", actor=audit.SYSTEM)
    subscription = subscription_of(finn)
    secret = strategies.packet_secret(subscription)
    config = configured(
        tmp_path, web.port, key, "finn", 1,
        f'[subscriptions.lena-eurusd]\nsub_id = "{subscription.sub_id}"\nsecrets = {{ 1 = "{secret}" }}\n',
    )  # fmt: skip
    copier = Program(
        "finn", sys.executable, "-m", "copybot", "follow", "--plain", "--config", str(config), log=tmp_path / "log"
    )
    lena, account = web.bot("lena", "master"), Account(tmp_path / "paper-finn.sqlite3")
    copier.start()
    try:
        until(lambda: "finn" in _online())
        lena.open(**opening(HELD, sl=None, tp=None, open_price="1.1"))
        until(lambda: len(account.positions()) == 1)
        until(lambda: ActiveTrade.objects.filter(account=finn).exists())
        strategies.pause(subscription=subscription, actor=audit.SYSTEM, why="UNPAID")
        lena.open(**opening(NEW, sl=None, tp=None, open_price="1.1"))
        time.sleep(3)
        assert len(account.opened()) == 1
        lena.close(HELD, close_price="1.11", profit="5")
        until(lambda: not account.positions())
        assert len(account.opened()) == 1
    finally:
        copier.kill()


def _online() -> set[str]:
    from trades.models import Copier

    live = Copier.objects.filter(leased_until__gt=timezone.now()).select_related("account__owner")
    return {copier.account.owner.username for copier in live}


def until(holds: Callable[[], bool], patience_s: float = 90) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            if holds():
                return
        except Exception as fault:  # the account's file is not there yet
            assert time.monotonic() < deadline, fault
        assert time.monotonic() < deadline
        time.sleep(0.2)


# --- what pages show


@pytest.fixture
def as_finn(client: Client, finn: TradingAccount) -> Client:
    client.force_login(finn.owner)
    return client


def test_no_page_shows_a_new_signal(owes: Following, lena_bot: Bot, as_finn: Client) -> None:
    """Symbol, side, volume and price of an open trade are the signal."""
    sub_id = subscription_of(owes.finn).sub_id
    fields = opening(NEW, symbol="GBPJPY", volume="0.37", open_price="191.234", sl=None, tp=None)
    ref = lena_bot.send("POST", fields=fields).json()["trade"]["trade_id"]

    for path in ("/", "/copying/", f"/copying/{sub_id}/settings/", "/wallet/"):
        page = as_finn.get(path).content.decode()
        assert not any(word in page for word in ("GBPJPY", "191.234", ref)), path
    assert as_finn.get(f"/copying/{sub_id}/receipts/{ref}/").status_code == 404
    assert "EURUSD" in text(as_finn.get("/copying/"))  # what is held


def test_the_pages_show_the_trade_once_the_provider_has_closed_it(
    owes: Following, lena_bot: Bot, as_finn: Client
) -> None:
    ref = lena_bot.send("POST", fields=opening(NEW)).json()["trade"]["trade_id"]
    lena_bot.send("DELETE", f"/api/v2/trades/active/{NEW}", query="close_price=1.11&profit=5&reason=TP")

    sub_id = subscription_of(owes.finn).sub_id
    assert "a fee was unpaid" in text(as_finn.get("/copying/"))
    assert as_finn.get(f"/copying/{sub_id}/receipts/{uuid.UUID(ref)}/").status_code == 200


# --- ways around the pause


def test_the_owners_resume_of_an_own_pause_does_not_get_around_a_fee(
    follows: Following, as_finn: Client, lena_bot: Bot, finn_bot: Bot
) -> None:
    sub_id = subscription_of(follows.finn).sub_id
    as_finn.post(f"/copying/{sub_id}/pause/")
    follows.realise("1", "1000")
    sweep(follows)
    lena_bot.send("POST", fields=opening(NEW))

    page = text(as_finn.post(f"/copying/{sub_id}/resume/", follow=True))

    assert state(follows.finn) == ("PAUSED", "UNPAID")
    assert "paused for an unpaid fee. You cannot resume it here" in page
    assert NEW not in finn_bot.send("GET").content.decode()


def test_leaving_and_coming_back_does_not_get_around_a_fee(owes: Following, lena_bot: Bot, finn_bot: Bot) -> None:
    strategies.end(subscription=subscription_of(owes.finn), actor=audit.SYSTEM)
    lena_bot.send("POST", fields=opening(NEW))

    committed(strategies.subscribe, account=owes.finn, strategy=owes.agreement.strategy, actor=audit.SYSTEM)

    assert state(owes.finn) == ("PAUSED", "UNPAID")
    shown = finn_bot.send("GET").content.decode()
    assert (NEW in shown, HELD in shown) == (False, True)


def test_a_second_account_does_not_get_around_a_fee(owes: Following) -> None:
    second = demo_data.account(owes.finn.owner, "finn-second")

    subscription = committed(strategies.subscribe, account=second, strategy=owes.agreement.strategy, actor=audit.SYSTEM)

    assert (subscription.status, subscription.paused_for) == ("PAUSED", "UNPAID")


def test_a_payment_resumes(owes: Following) -> None:
    pay_in(owes.finn, "1000")
    sweep(owes)

    assert state(owes.finn) == ("ACTIVE", "")
