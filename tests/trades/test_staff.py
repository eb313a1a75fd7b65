"""Staff's closes and corrections: true at the broker, calculated by the desk, by two people where that is needed."""

import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from copybot.candles import Bar, Candles, Instrument
from copybot.copier import Copier, Subscription
from copybot.paper import PaperBroker
from core.errors import RequestDecided, RequestPending, SecondPersonNeeded
from market.models import Candle
from market.models import Instrument as Listed
from tests.answers import text
from tests.people import colleague, promote
from tests.signed import Bot, opening
from trades import services, valuation
from trades.models import ActiveTrade, OrderedClose, TradeCorrection, TradeHistory, TradeRequest
from trades.services import overdue_closes
from trades.services import staff as verbs

HOUR_MS = 3_600_000


@pytest.fixture
def second(cast: dict[str, Any]) -> User:
    return colleague()


def price(symbol: str = "EURUSD", at: str = "1.1", *, hours_ago: int = 1, spread: str = "0") -> None:
    """The market's newest bar."""
    opened_at = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours_ago)
    Listed.objects.get_or_create(symbol=symbol, defaults={"point": Decimal("0.00001"), "contract_size": 100_000})
    prices = dict.fromkeys(("open", "high", "close"), Decimal(at)) | {"low": Decimal(at) - Decimal(spread)}
    Candle.objects.create(instrument_id=symbol, minutes=60, opened_at=opened_at, volume=1, **prices)


def opened(account: TradingAccount, ticket: str = "1", **more: Any) -> ActiveTrade:
    fields = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal("0.1"), "open_price": Decimal("1.105"), **more}
    with transaction.atomic():
        trade_id = services.open_trade(account=account, ticket_id=ticket, **fields)["trade"]["trade_id"]
    return ActiveTrade.objects.select_related("account").get(pk=trade_id)


def close(trade: ActiveTrade, at: str, by: User) -> Any:
    return verbs.close(
        trade_id=trade.pk, close_price=Decimal(at), note="its bot is gone", by=by, actor=audit.SYSTEM,
        now=timezone.now(),
    )  # fmt: skip


def closed(account: TradingAccount, profit: str = "99999") -> TradeHistory:
    trade = opened(account, "7")
    with transaction.atomic():
        services.close_trade(
            account=account, ticket_id="7", close_price=Decimal("1.2"), profit=Decimal(profit), reason="MANUAL"
        )
    return TradeHistory.objects.get(pk=trade.pk)


# --- a provider's trade


def test_the_profit_follows_from_price_volume_and_contract_size(lena: TradingAccount, staff: User) -> None:
    price()
    trade = opened(lena)

    close(trade, "1.1", staff)

    row = TradeHistory.objects.get(pk=trade.pk)
    assert (row.reason, row.profit) == ("STAFF", Decimal("-50"))


@pytest.mark.parametrize(
    ("at", "is_near"), [("1.121", True), ("1.08", True), ("1.13", False), ("11", False), ("-1", False)]
)
def test_a_price_beyond_the_bound_waits_for_a_second_person(
    lena: TradingAccount, staff: User, second: User, at: str, is_near: bool
) -> None:
    price()
    trade = opened(lena)

    done = close(trade, at, staff)

    assert isinstance(done, TradeRequest) is not is_near
    assert ActiveTrade.objects.filter(pk=trade.pk).exists() is not is_near
    if isinstance(done, TradeRequest):
        with pytest.raises(SecondPersonNeeded):
            approve(done, staff)
        approve(done, second)
        assert TradeHistory.objects.get(pk=trade.pk).close_price == Decimal(at)


def approve(request: TradeRequest, by: User) -> TradeRequest:
    return verbs.approve(request=request, by=by, actor=audit.SYSTEM)


def test_a_part_closed_since_the_request_is_not_paid_twice(lena: TradingAccount, staff: User, second: User) -> None:
    trade = opened(lena)
    request = close(trade, "1.1", staff)
    with transaction.atomic():
        services.reduce_trade(
            account=lena, ticket_id="1", deal_id="d", volume=Decimal("0.04"), close_price=Decimal("1.11"),
            profit=Decimal(30),
        )  # fmt: skip

    approve(request, second)

    row = TradeHistory.objects.get(pk=trade.pk)
    assert (row.closing_profit, row.profit) == (-20, 10)


def test_a_profit_that_can_no_longer_be_calculated_is_not_the_one_of_the_request(
    lena: TradingAccount, staff: User, second: User
) -> None:
    """A part was closed since, so the profit of the request would count it twice."""
    price("EURGBP", "0.8")
    price("GBPUSD", "1.25", hours_ago=2)
    trade = opened(lena, symbol="EURGBP", open_price=Decimal("0.79"))
    request = close(trade, "0.9", staff)
    assert isinstance(request, TradeRequest)
    assert request.profit == 1375
    with transaction.atomic():
        services.reduce_trade(
            account=lena, ticket_id="1", deal_id="d", volume=Decimal("0.04"), close_price=Decimal("0.9"),
            profit=Decimal(550),
        )  # fmt: skip
    Candle.objects.filter(instrument_id="GBPUSD").delete()

    approve(request, second)

    row = TradeHistory.objects.get(pk=trade.pk)
    assert (row.closing_profit, row.profit) == (0, 550)
    assert "has to be corrected" in AuditLog.objects.get(action="trade.closed").detail["note"]


def test_a_wide_bar_widens_the_bound(lena: TradingAccount, staff: User) -> None:
    price(spread="0.01")

    assert not isinstance(close(opened(lena), "1.19", staff), TradeRequest)


def test_a_stale_price_is_no_price(lena: TradingAccount, staff: User) -> None:
    price(hours_ago=24 * 5)
    trade = opened(lena)

    done = close(trade, "1.1", staff)

    assert isinstance(done, TradeRequest)
    assert done.why_second == "the desk has no recent market price of this symbol"
    assert done.profit == -50


def test_a_profit_in_another_currency_is_converted_at_the_market(lena: TradingAccount) -> None:
    price("EURGBP", "0.8")
    price("GBPUSD", "1.25", hours_ago=2)
    trade = opened(lena, symbol="EURGBP", open_price=Decimal("0.79"))

    assert valuation.profit(trade, Decimal("0.8"), now=timezone.now()) == Decimal("125")


def test_without_a_conversion_the_profit_is_unknown_and_two_people_decide(lena: TradingAccount, staff: User) -> None:
    price("EURGBP", "0.8")

    done = close(opened(lena, symbol="EURGBP", open_price=Decimal("0.79")), "0.8", staff)

    assert isinstance(done, TradeRequest)
    assert "cannot be calculated" in done.why_second


def test_a_rejected_close_changes_nothing_and_is_decided_for_ever(
    lena: TradingAccount, staff: User, second: User
) -> None:
    trade = opened(lena)
    request = close(trade, "1.1", staff)
    with pytest.raises(RequestPending):
        close(trade, "1.1", second)

    verbs.reject(request=request, by=second, reason="no", actor=audit.SYSTEM)

    assert ActiveTrade.objects.filter(pk=trade.pk).exists()
    with pytest.raises(RequestDecided):
        approve(request, second)


# --- a copy


class FollowingBot:
    """finn's real copier at a real desk, on paper."""

    def __init__(self, desk: Any, cast: dict[str, Any], folder: Path) -> None:
        (subscription,) = cast["subscriptions"]
        start = time.time_ns() // 1_000_000 // HOUR_MS * HOUR_MS - 48 * HOUR_MS
        bars = [Bar(start + hour * HOUR_MS, *4 * [Decimal("1.10500")]) for hour in range(96)]
        symbols = [Instrument("EURUSD", Candles(bars, digits=5), 10)]
        self.broker = PaperBroker(folder / "paper", symbols, lambda: time.time_ns() // 1_000_000)
        followed = Subscription(subscription["strategy"], subscription["sub_id"], {1: subscription["packet_secret"]})
        self.copier = Copier(desk, self.broker, (followed,), folder / "state", lambda: time.time_ns() // 1_000_000)

    def step(self, until: Callable[[], bool], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline
            self.copier.step()
            time.sleep(0.1)


def test_an_ordered_close_reaches_the_broker_through_the_real_copier(
    serve: Callable[..., Any], cast: dict[str, Any], lena_bot: Bot, finn: TradingAccount, staff: User, tmp_path: Path
) -> None:
    desk = serve()
    following = FollowingBot(desk.bot("finn", "copier"), cast, tmp_path)
    following.step(lambda: not following.copier.followed[0].guard.needs_snapshot)
    assert lena_bot.send("POST", fields=opening("1", symbol="EURUSD")).status_code == 201
    following.copier.on_message({"type": "snapshot"})
    following.step(lambda: ActiveTrade.objects.filter(account=finn).exists())
    copy = ActiveTrade.objects.get(account=finn)

    verbs.order_close(copy_id=copy.pk, note="margin call", by=staff, actor=audit.SYSTEM)

    assert following.broker.positions() != []  # nothing has reached the broker yet, and the desk says so
    assert [row.pk for row in overdue_closes.overdue()] == [copy.pk]
    following.step(lambda: not ActiveTrade.objects.filter(account=finn).exists())
    assert following.broker.positions() == []
    assert TradeHistory.objects.get(pk=copy.pk).close_price == Decimal("1.105")
    assert ActiveTrade.objects.filter(master_trade=None).count() == 1  # the provider's trade goes on
    following.copier.on_message({"type": "snapshot"})
    for _ in range(20):
        following.copier.step()
        time.sleep(0.1)
    assert following.broker.positions() == []  # and the copy does not come back
    following.copier.close()


def copied(lena: TradingAccount, finn: TradingAccount) -> ActiveTrade:
    opened(lena, "1")
    return opened(finn, "91", copies=("lena-eurusd", "1"))


def test_a_copy_is_not_closed_by_a_price_at_the_desk(lena: TradingAccount, finn: TradingAccount, staff: User) -> None:
    price()

    with pytest.raises(verbs.CopyIsClosedByItsCopier):
        close(copied(lena, finn), "1.1", staff)


def test_an_order_is_given_once_and_never_changed(lena: TradingAccount, finn: TradingAccount, staff: User) -> None:
    copy = copied(lena, finn)
    for _ in range(2):
        verbs.order_close(copy_id=copy.pk, note="margin call", by=staff, actor=audit.SYSTEM)

    assert AuditLog.objects.filter(action="copy.close_ordered").count() == 1
    with pytest.raises(DatabaseError, match="append-only"), connections["owner"].cursor() as cursor:
        cursor.execute("delete from ordered_closes")


# --- corrections


def request_correction(row: TradeHistory, by: User, profit: str = "-50") -> TradeRequest:
    return verbs.request_correction(
        trade_id=row.pk, close_price=Decimal("1.1"), profit=Decimal(profit), reason="a typo", by=by, actor=audit.SYSTEM
    )


def finns_closed(lena: TradingAccount, finn: TradingAccount) -> TradeHistory:
    """A closed copy; both owners have become staff."""
    copy = copied(lena, finn)
    with transaction.atomic():
        services.close_trade(
            account=finn, ticket_id="91", close_price=Decimal("1.2"), profit=Decimal(9), reason="MANUAL"
        )
    promote(lena.owner_id, finn.owner_id, is_staff=True)
    return TradeHistory.objects.get(pk=copy.pk)


def test_a_correction_stands_beside_the_first_figures(lena: TradingAccount, staff: User, second: User) -> None:
    row = closed(lena)

    approve(request_correction(row, staff), second)
    approve(request_correction(row, second, "-49"), staff)

    first, latest = TradeCorrection.objects.order_by("pk")
    assert (first.profit_before, first.profit, latest.profit_before, latest.profit) == (99999, -50, -50, -49)
    row.refresh_from_db()
    assert row.profit == 99999
    assert AuditLog.objects.filter(action="trade.corrected").count() == 2


def test_neither_the_requester_nor_an_owner_approves(lena: TradingAccount, finn: TradingAccount, staff: User) -> None:
    row = finns_closed(lena, finn)
    request = request_correction(row, staff)

    for person in (staff, lena.owner, finn.owner):
        with pytest.raises(SecondPersonNeeded):
            approve(request, person)
    with pytest.raises(SecondPersonNeeded):
        request_correction(row, lena.owner)


@pytest.mark.parametrize("approver", ["staff", "finn", "lena", "sam"])
def test_the_database_refuses_a_correction_without_two_people(
    lena: TradingAccount, finn: TradingAccount, sam: TradingAccount, staff: User, approver: str
) -> None:
    row = finns_closed(lena, finn)
    person = {"staff": staff, "finn": finn.owner, "lena": lena.owner, "sam": sam.owner}[approver]  # sam is not staff

    with pytest.raises(DatabaseError), connections["owner"].cursor() as cursor:
        cursor.execute(
            "insert into trade_corrections (trade_id, account_id, close_price, profit, profit_before, reason,"
            " requested_by_id, approved_by_id) values (%s, %s, 1, 1, 9, '', %s, %s)",
            [row.pk, finn.pk, staff.pk, person.pk],
        )
    assert not TradeCorrection.objects.exists()


@pytest.mark.parametrize("statement", ["update trade_corrections set profit = 1", "delete from trade_corrections"])
def test_a_correction_never_changes(lena: TradingAccount, staff: User, second: User, statement: str) -> None:
    approve(request_correction(closed(lena), staff), second)

    with pytest.raises(DatabaseError, match="append-only"), connections["owner"].cursor() as cursor:
        cursor.execute(statement)


def test_an_open_trade_cannot_be_corrected(lena: TradingAccount, staff: User) -> None:
    trade = opened(lena)

    with pytest.raises(services.TradeUnknown):
        verbs.request_correction(
            trade_id=trade.pk, close_price=Decimal(1), profit=Decimal(1), reason="", by=staff, actor=audit.SYSTEM
        )


# --- pages


def act(browser: Client, model: str, action: str, row: Any, **fields: Any) -> str:
    url = reverse(f"admin:trades_{model}_changelist")
    answer = browser.post(url, {"action": action, "_selected_action": row.pk, **fields}, follow=True)
    return str(text(answer))


def test_the_page_says_what_happens_at_each_broker(
    client: Client, lena: TradingAccount, finn: TradingAccount, staff: User
) -> None:
    price()
    copy = copied(lena, finn)
    client.force_login(staff)

    master = act(client, "activetrade", "force_close", ActiveTrade.objects.get(master_trade=None))
    of_copy = act(client, "activetrade", "force_close", copy)

    assert "The provider's own position stays open at its broker" in master
    assert "no copier is online" in master
    assert "Offline, so still open at their brokers : finn-mt5" in master
    assert "-50" in master.replace("−", "-")
    assert "Until then the copy is open" in of_copy
    assert "offline : the position stays open" in of_copy


def test_a_correction_is_requested_on_the_trades_page_and_approved_by_a_colleague(
    client: Client, lena: TradingAccount, staff: User
) -> None:
    row = closed(lena)
    client.force_login(staff)
    asked = act(client, "tradehistory", "correct", row)
    fields = {"confirmed": "1", "close_price": "1.1", "profit": "-50", "reason": "a typo"}
    done = act(client, "tradehistory", "correct", row, **fields)
    request = TradeRequest.objects.get()
    assert "The new ones stand beside them" in asked
    assert "a colleague has to approve" in done
    assert "(second_person_needed)" in act(client, "traderequest", "approve", request, confirmed="1")

    client.force_login(colleague(superuser=True))
    assert "approved" in act(client, "traderequest", "approve", request, confirmed="1")
    page = text(client.get(reverse("admin:trades_tradehistory_change", args=[row.pk])))

    assert "Corrections" in page
    assert "a typo" in page


@pytest.mark.parametrize(
    "fields",
    [
        {"close_price": "1e400", "profit": "1"},
        {"close_price": "NaN", "profit": "1"},
        {"close_price": "", "profit": "x"},
        {"close_price": "1.123456789", "profit": "1"},
        {"close_price": "1", "profit": "9" * 30},
    ],
)
def test_no_input_breaks_the_correction(
    client: Client, lena: TradingAccount, staff: User, fields: dict[str, str]
) -> None:
    row = closed(lena)
    client.force_login(staff)

    act(client, "tradehistory", "correct", row, confirmed="1", reason="a typo", **fields)

    assert not TradeRequest.objects.exists()


@pytest.mark.parametrize("at", ["1e400", "NaN", "", "x", "999999999999", "-999999999999", "1.123456789"])
def test_no_price_breaks_a_force_close(client: Client, lena: TradingAccount, staff: User, at: str) -> None:
    price()
    trade = opened(lena)
    client.force_login(staff)
    form = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-trade_id": trade.pk, "form-0-close_price": at}

    for more in ({"calculate": "1"}, {}):
        act(client, "activetrade", "force_close", trade, confirmed="1", note="gone", **form, **more)

    assert ActiveTrade.objects.filter(pk=trade.pk).exists()
    assert OrderedClose.objects.count() == 0


def test_people_see_the_correction_beside_the_first_figures(
    client: Client, lena: TradingAccount, staff: User, second: User
) -> None:
    row = closed(lena)
    approve(request_correction(row, staff), second)
    client.force_login(lena.owner)

    (entry,) = client.get("/api/v2/trades/history").json()["data"]
    answer: Any = client.get("/api/v2/trades/history.csv")
    exported = b"".join(answer.streaming_content).decode()

    assert (entry["profit"], entry["corrected_profit"]) == ("99999.00000000", "-50.00000000")
    assert "-50.00000000" in exported
