"""The snapshot of active trades: read at one instant, and shown only to those who may see it."""

import hashlib
import json
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, transaction

from accounts.models import TradingAccount
from audit import services as audit
from copybot import signing
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests.conftest import key_of
from tests.signed import LONG_AGO, Bot, opening
from tests.transactions import committed
from trades import services, snapshot
from trades.models import ActiveTrade

ACTIVE = "/api/v2/trades/active"
OPEN: dict[str, Any] = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal(2)}
CLOSE = {"close_price": Decimal(1), "profit": Decimal(1)}


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    """Finn's subscription to lena."""
    return Subscription.objects.get(account=finn)


def close(bot: Any, ticket: str = "1") -> Any:
    return bot.send("DELETE", f"{ACTIVE}/{ticket}", query="close_price=1.11&profit=5&reason=TP")


def seen(bot: Any) -> Any:
    return bot.send("GET").json()


def tickets(bot: Any) -> list[Any]:
    return [trade["ticket_id"] for trade in seen(bot)["trades"]]


def copy(bot: Any, ticket: str = "501", master_ticket: str = "1") -> Any:
    return bot.send("POST", fields=opening(ticket, strategy="lena-eurusd", master_ticket=master_ticket))


# --- what it says


def test_an_empty_desk_answers_with_its_numbers(lena_bot: Bot) -> None:
    assert seen(lena_bot) == {
        "stream_epoch": "1", "as_of": {"lena-eurusd": "0"}, "count": 0, "digest": hashlib.sha256(b"[]").hexdigest(),
        "trades": [],
    }  # fmt: skip


def test_the_digest_covers_the_bytes_of_the_trades_array(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1", comment="ünïcode", symbol="US500.cash#"))
    lena_bot.send("POST", fields=opening("2"))

    sent = lena_bot.send("GET").content
    _, _, array = sent.partition(b',"trades":')

    assert json.loads(sent)["digest"] == hashlib.sha256(array[:-1]).hexdigest()
    assert json.loads(array[:-1]) == json.loads(sent)["trades"]


def test_a_trade_contains_all_that_a_copier_needs(lena_bot: Bot, finn_bot: Bot, lena: TradingAccount) -> None:
    opened_trade = lena_bot.send(
        "POST", fields=opening("987654", opened_at="2026-01-05T10:00:00.123Z", tp=None)
    ).json()["trade"]

    (trade,) = seen(finn_bot)["trades"]

    copy = {
        "symbol": "EURUSD", "type": "BUY", "volume": "0.10000000", "sl": "1.10000000", "tp": None, "opens": True,
        "why_not": "",
    }  # fmt: skip
    assert trade == {**opened_trade, "copy_volume": "0.10000000", "copy": copy}
    assert (trade["opened_at"], trade["tp"], trade["status"]) == ("2026-01-05T10:00:00.123Z", None, "OPEN")


def test_lists_trades_in_the_order_of_their_opens(lena_bot: Bot) -> None:
    for ticket, day in (("1", 7), ("2", 5), ("3", 6)):
        lena_bot.send("POST", fields=opening(ticket, opened_at=f"2026-01-0{day}T10:00:00.000Z"))

    assert tickets(lena_bot) == ["2", "3", "1"]


def test_every_event_and_no_refusal_takes_a_number(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("POST", fields=opening("2"))
    lena_bot.send("PATCH", f"{ACTIVE}/1", {"sl": None})
    lena_bot.send("POST", fields=opening("1", volume="3"))
    close(lena_bot, "2")

    now = seen(lena_bot)
    assert now["as_of"] == {"lena-eurusd": "4"}
    assert [(trade["ticket_id"], trade["seq"]) for trade in now["trades"]] == [("1", "3")]


def test_earlier_routes_return_the_same_list(lena_bot: Bot, finn_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("99999"))

    for path in ("/api/v2/actives", "/signals"):
        (trade,) = finn_bot.send("GET", path).json()
        assert (trade["ticket_id"], trade["status"]) == (99999, "OPEN")


# --- numbers and rows are of one instant


def in_one_read(account: Any) -> Any:
    now = snapshot.read([account.pk], using="bot")
    return int(now.as_of["lena-eurusd"]), [trade["seq"] for trade in now.trades]


def in_two_reads(account: Any) -> Any:
    number = Strategy.objects.get(account=account).last_seq
    return number, [str(trade.seq) for trade in ActiveTrade.objects.filter(account=account)]


def disagreements(account: Any, read: Any, reads: Any) -> Any:
    """Compare numbers and rows while a writer opens and closes in turn, so the number determines the open trade."""
    stop, wrong = threading.Event(), 0

    def write() -> None:
        ticket = 0
        while not stop.is_set():
            ticket += 1
            with transaction.atomic():
                services.open_trade(account=account, ticket_id=str(ticket), **OPEN)
            with transaction.atomic():
                services.close_trade(account=account, ticket_id=str(ticket), **CLOSE)
        connections.close_all()

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(reads):
        number, open_now = read(account)
        wrong += open_now != ([str(number)] if number % 2 else [])
        if wrong:
            break
    stop.set()
    writer.join()
    assert wrong or number > 1, "the writer wrote nothing"
    return wrong


def test_numbers_and_rows_agree_while_trades_come_and_go(lena: TradingAccount) -> None:
    assert disagreements(lena, in_one_read, 300) == 0


def test_control_numbers_and_rows_read_separately_disagree(lena: TradingAccount) -> None:
    """Reads in two statements, as a control."""
    assert disagreements(lena, in_two_reads, 5000) == 1


# --- ETag


def test_an_unchanged_snapshot_is_answered_304(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    first = lena_bot.send("GET")

    again = lena_bot.send("GET", but={"headers": {"If-None-Match": first["ETag"]}})

    assert (again.status_code, again.content, again["ETag"]) == (304, b"", first["ETag"])
    assert "X-Cd-Response-Sig" in again


def test_earlier_routes_return_the_same_etag(lena_bot: Bot) -> None:
    etag = lena_bot.send("GET")["ETag"]

    again = lena_bot.send("GET", "/api/v2/actives", but={"headers": {"If-None-Match": etag}})

    assert again.status_code == 304


@pytest.mark.parametrize(
    "change",
    [
        lambda lena, finn, subscription: lena.send("POST", fields=opening("2")),
        lambda lena, finn, subscription: lena.send("PATCH", f"{ACTIVE}/1", {"sl": None}),
        lambda lena, finn, subscription: lena.send(
            "POST", f"{ACTIVE}/1/reduce", {"deal_id": "1", "volume": "0.04", "close_price": "1", "profit": "1"}
        ),
        lambda lena, finn, subscription: close(lena),
        lambda lena, finn, subscription: copy(finn),
        lambda lena, finn, subscription: strategies.pause(subscription=subscription, actor=audit.SYSTEM),
        lambda lena, finn, subscription: strategies.end(subscription=subscription, actor=audit.SYSTEM),
        lambda lena, finn, subscription: strategies.set_terms(
            subscription=subscription, multiplier=Decimal(2), actor=audit.SYSTEM, since=LONG_AGO
        ),
    ],
    ids=["open", "modify", "reduce", "close", "copy", "pause", "end", "resize"],
)
def test_every_visible_change_changes_the_etag(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, change: Callable[..., Any]
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    before = finn_bot.send("GET")

    change(lena_bot, finn_bot, subscription)
    after = finn_bot.send("GET", but={"headers": {"If-None-Match": before["ETag"]}})

    assert after.status_code == 200
    assert after["ETag"] != before["ETag"]
    assert after.content != before.content


@pytest.mark.parametrize("path", ["/api/v2/trades/active", "/api/v2/actives", "/signals"])
def test_a_second_signature_covers_the_etag(finn_bot: Bot, path: str) -> None:
    first = finn_bot.request("GET", path)
    fresh = first.send()
    again = finn_bot.request("GET", path, but={"headers": {"If-None-Match": fresh["ETag"]}})
    unchanged = again.send()

    assert (fresh.status_code, unchanged.status_code) == (200, 304)
    for request, answer in ((first, fresh), (again, unchanged)):
        assert is_signed(finn_bot, request, answer, answer["ETag"])
        assert not is_signed(finn_bot, request, answer, '"another"')


def is_signed(bot: Bot, request: Any, answer: Any, etag: str) -> bool:
    return signing.answers(
        bot.secret, request_signature=request.signature(), status=answer.status_code,
        time_ms=answer["X-Cd-Response-Time"], body=answer.content,
        response_signature=answer["X-Cd-Response-Etag-Sig"], etag=etag,
    )  # fmt: skip


def test_changes_of_others_keep_the_etag(lena_bot: Bot, finn_bot: Bot, sam_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    etag = lena_bot.send("GET")["ETag"]

    copy(finn_bot)
    sam_bot.send("POST", fields=opening("1"))

    assert lena_bot.send("GET", but={"headers": {"If-None-Match": etag}}).status_code == 304


# --- who sees what


def test_a_provider_sees_only_its_own_trades(lena_bot: Bot, sam_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    sam_bot.send("POST", fields=opening("2"))

    (trade,) = seen(lena_bot)["trades"]
    assert (trade["ticket_id"], trade["role"], trade["copy_volume"]) == ("1", "master", None)
    assert tickets(sam_bot) == ["2"]


def test_a_copier_sees_followed_trades_with_planned_volumes_and_its_own_copies(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    strategies.set_terms(
        subscription=subscription, multiplier=Decimal("0.33333333"), actor=audit.SYSTEM, since=LONG_AGO
    )
    lena_bot.send("POST", fields=opening("1"))
    copy(finn_bot)

    master, own = seen(finn_bot)["trades"]

    assert (master["role"], master["volume"], master["copy_volume"]) == ("master", "0.10000000", "0.03333333")
    assert (own["role"], own["ticket_id"], own["master_ticket"], own["copy_volume"]) == ("copy", "501", "1", None)


def test_a_paused_copier_sees_trades_but_opens_none(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    lena_bot.send("POST", fields=opening("1"))
    strategies.pause(subscription=subscription, actor=audit.SYSTEM)

    now = seen(finn_bot)
    assert now["as_of"] == {"lena-eurusd": "1"}
    assert [(trade["ticket_id"], trade["copy_volume"]) for trade in now["trades"]] == [("1", None)]


def test_an_ended_subscription_shows_only_its_own_copies(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    copy(finn_bot)
    strategies.end(subscription=subscription, actor=audit.SYSTEM)

    now = seen(finn_bot)
    assert now["as_of"] == {}
    assert [(trade["ticket_id"], trade["role"]) for trade in now["trades"]] == [("501", "copy")]


def test_subscribing_again_shows_the_trades_again(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, lena: TradingAccount, subscription: Subscription
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    strategies.end(subscription=subscription, actor=audit.SYSTEM)
    committed(strategies.subscribe, account=finn, strategy=Strategy.objects.get(account=lena), actor=audit.SYSTEM)

    assert tickets(finn_bot) == ["1"]


def test_a_stranger_sees_nothing_of_it(lena_bot: Bot, sam_bot: Bot, cast: dict[str, Any]) -> None:
    lena_bot.send("POST", fields=opening("1"))

    for stranger in (sam_bot, Bot(key_of(cast, "sam", "copier"))):
        answer = stranger.send("GET")
        assert answer.json()["as_of"] == {"sam-xauusd": "0"}
        assert answer.json()["trades"] == []
        assert b"lena" not in answer.content


def test_a_readonly_key_sees_what_its_account_sees(lena_bot: Bot, finn_bot: Bot, finn: TradingAccount) -> None:
    from accounts import services as accounts

    lena_bot.send("POST", fields=opening("1"))
    secret = committed(accounts.create_key, account=finn, kind="readonly", actor=audit.SYSTEM)[1]
    reader = Bot({"key": secret.key, "secret": secret.secret})

    assert seen(reader) == seen(finn_bot)


def test_the_same_ticket_on_two_accounts_is_two_trades(lena_bot: Bot, sam_bot: Bot, finn_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    sam_bot.send("POST", fields=opening("1", symbol="XAUUSD"))
    copy(finn_bot, ticket="1")

    assert [t["symbol"] for t in seen(sam_bot)["trades"]] == ["XAUUSD"]
    assert [(t["ticket_id"], t["role"]) for t in seen(finn_bot)["trades"]] == [("1", "master"), ("1", "copy")]
    close(lena_bot)
    assert [(t["ticket_id"], t["role"]) for t in seen(finn_bot)["trades"]] == [("1", "copy")]
    assert tickets(sam_bot) == ["1"]
