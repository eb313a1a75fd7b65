"""What is held against a provider is what the desk knows: of trades, copies, prices and neighbours."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import TradingAccount
from market.models import Candle, Instrument
from strategies.models import Strategy
from tests.trust.factories import DAY, NOW, add_bars, closed, known_of, second_of
from trades import services as trades
from trades.models import CopyOrder
from trust import detector, evidence


def hours_of(minutes: Any) -> Any:
    return [one.minutes for one in evidence.bars_of("EURUSD", NOW - 30 * DAY, NOW)][:1] == [minutes]


def test_bars_of_an_hour_are_preferred_where_they_reach_far_enough(lena: TradingAccount) -> None:
    Candle.objects.all().delete()
    add_bars(NOW - 20 * DAY, 20, minutes=1440)
    assert hours_of(1440)
    add_bars(NOW - 2 * DAY, 30)
    assert hours_of(1440)  # two days of hours say little of twenty days
    add_bars(NOW - 15 * DAY, 90, minutes=240)
    assert hours_of(240)
    add_bars(NOW - 14 * DAY, 200)
    assert hours_of(60)


def test_bars_of_minutes_are_gathered_to_hours(lena: TradingAccount) -> None:
    Candle.objects.all().delete()
    first = (NOW - 2 * DAY).replace(minute=0, second=0, microsecond=0)
    add_bars(first, 119, minutes=1)
    Candle.objects.bulk_create(
        Candle(instrument_id="EURUSD", minutes=1, opened_at=first + timedelta(minutes=119), open=2, high=4, low=1,
               close=3, volume=1)
        for _ in range(1)
    )  # fmt: skip
    one, two = evidence.bars_of("EURUSD", NOW - 30 * DAY, NOW)

    assert (one.opened_at, one.minutes, two.opened_at) == (first, 60, first + timedelta(hours=1))
    assert (one.open, one.high, one.low, one.close) == tuple(map(Decimal, ("1.1", "1.2", "1.05", "1.1")))
    assert (two.open, two.high, two.low, two.close) == tuple(map(Decimal, ("1.1", "4", "1", "3")))


def test_a_strategy_holds_its_own_trades_and_money_alone(lena: TradingAccount) -> None:
    second = second_of(lena)
    closed(lena, 1)
    closed(second.account, 2, profit="1500")

    assert [len(known_of(account).deals) for account in (lena, second.account)] == [1, 1]
    assert known_of(lena).worth == {"EURUSD": 100_000}
    assert known_of(second.account).worth == {}


def test_bars_that_come_in_late_are_seen_and_lengths_are_not_mixed(lena: TradingAccount) -> None:
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    Candle.objects.all().delete()
    Instrument.objects.get_or_create(symbol="EURUSD", defaults={"point": "0.00001", "contract_size": 100_000})
    since = now - 30 * DAY
    add_bars(now - 2 * DAY, 24)
    assert len(evidence.bars_of("EURUSD", since, now)) == 24

    add_bars(now - 4 * DAY, 24)  # older than the latest that is known
    add_bars(now - DAY, 100, minutes=5)
    found = evidence.bars_of("EURUSD", since, now)
    assert (len(found), {one.minutes for one in found}) == (48, {60})


def test_copies_are_matched_with_what_they_copied(lena: TradingAccount, finn: TradingAccount) -> None:
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        trades.open_trade(account=finn, ticket_id="9", copies=(lena.strategy.name, "1"), **opening)
        for account, ticket, price in ((lena, "1", "1.2"), (finn, "9", "1.14")):
            trades.close_trade(
                account=account, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(1), reason="TP"
            )
    known = evidence.of_provider(lena.strategy, now=timezone.now())

    assert [(one.of, one.close_price) for one in known.copies] == [(known.deals[0].ref, Decimal("1.14"))]


def executed(account: Any, ticket: Any, price: Any, symbol: str = "EURUSD") -> None:
    CopyOrder.objects.using("owner").create(
        account=account, strategy=Strategy.objects.get(name="lena-eurusd"), seq=1, master_ticket=ticket, symbol=symbol,
        type="BUY", status="executed", volume=1, requested_price=1, executed_price=Decimal(price),
    )  # fmt: skip


def test_a_report_that_is_repeated_is_heard_once_and_ones_own_never(
    lena: TradingAccount, finn: TradingAccount, sam: TradingAccount
) -> None:
    for price in ("1.5", "2", "3"):
        executed(finn, "1", price)
    executed(finn, "2", "1.6")
    executed(sam, "1", "1.7")
    executed(second_of(lena).account, "1", "9")
    executed(sam, "77", "8", symbol="")  # of a trade that there is not

    fills = known_of(lena).fills
    assert [(one.executed_price, one.owner) for one in fills] == [
        (Decimal("1.7"), str(sam.owner.pk)), (Decimal("1.6"), str(finn.owner.pk)), (Decimal("1.5"), str(finn.owner.pk)),
    ]  # fmt: skip


def test_a_trade_that_is_copied_twice_by_one_account_is_one_copy(lena: TradingAccount, finn: TradingAccount) -> None:
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        for ticket, price in (("9", "1.14"), ("10", "0.5")):
            trades.open_trade(account=finn, ticket_id=ticket, copies=(lena.strategy.name, "1"), **opening)
            trades.close_trade(
                account=finn, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(1), reason="TP"
            )

    assert [(one.close_price, one.owner) for one in known_of(lena).copies] == [(Decimal("1.14"), str(finn.owner.pk))]


def test_a_trade_begins_when_the_desk_learns_of_it_whatever_its_bot_says(lena: TradingAccount) -> None:
    told = timezone.now() - 3 * DAY
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1"), "opened_at": told}
    with transaction.atomic():
        for ticket in ("1", "2"):
            trades.open_trade(account=lena, ticket_id=ticket, **opening)
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal("1.2"), profit=Decimal(-5), reason="TP")
    known = known_of(lena)

    (deal,), (position,) = known.deals, known.positions
    assert timedelta(0) <= deal.held < timedelta(minutes=1)
    assert timezone.now() - position.opened_at < timedelta(minutes=1)


def test_a_trade_that_was_closed_in_parts_was_closed_at_the_average(lena: TradingAccount) -> None:
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(4), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        trades.reduce_trade(
            account=lena, ticket_id="1", deal_id="7", volume=Decimal(1), close_price=Decimal("1.3"), profit=Decimal(60)
        )
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal("1.1"), profit=Decimal(0), reason="SL")

    (deal,) = known_of(lena).deals
    assert deal.close_price == Decimal("1.25")


def test_what_a_move_is_worth_is_the_desks_own_knowledge(lena: TradingAccount) -> None:
    now = timezone.now()
    Candle.objects.all().delete()
    add_bars(now - 2 * DAY, 3)  # at 1.1
    symbols = {"EURUSD", "EURGBP", "XAUUSD", "EURUSD.x"}
    bars = {symbol: evidence.bars_of(symbol, now - 30 * DAY, now) for symbol in symbols}

    assert evidence.worth_of(symbols, "USD", bars) == {"EURUSD": 100_000, "XAUUSD": 100}
    assert evidence.worth_of({"EURUSD"}, "EUR", bars) == {"EURUSD": Decimal(100_000) / Decimal("1.1")}
    assert evidence.worth_of(symbols, "CHF", bars) == {}


def beside(account: Any, count: Any, told: Any = None) -> None:
    with transaction.atomic():
        for ticket in range(1, count + 1):
            trades.open_trade(
                account=account, ticket_id=str(ticket), symbol="EURUSD", type="BUY", volume=Decimal(1),
                open_price=Decimal("1.1"), opened_at=told,
            )  # fmt: skip
            trades.close_trade(
                account=account, ticket_id=str(ticket), close_price=Decimal("1.2"), profit=Decimal(1), reason="TP"
            )


def test_who_trades_beside_one_is_found_by_when_the_desk_learned_of_it(
    lena: TradingAccount, sam: TradingAccount
) -> None:
    beside(lena, 12)
    beside(sam, 12, told=timezone.now() - DAY)
    beside(second_of(lena).account, 12)

    ((owner, theirs),) = known_of(lena).others.items()
    assert (owner, len(theirs)) == (str(sam.owner.pk), 12)


def test_ones_own_other_accounts_hide_nobody(
    lena: TradingAccount, sam: TradingAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "TOGETHER", timedelta(hours=1))  # a busy machine takes its time for 600 trades
    beside(lena, 1)
    beside(second_of(lena).account, 600)  # more than are looked at for one trade
    beside(sam, 12)

    assert {len(theirs) for theirs in known_of(lena).others.values()} == {12}
