"""The evidence about a provider comes from what the desk knows itself: trades, copies, prices, trades of others."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import TradingAccount
from market.models import Candle, Instrument
from strategies.models import Strategy
from tests.trust.factories import DAY, NOW, add_bars, evidence_about, make_closed_trade, second_strategy_of
from trades import services as trades
from trades.models import CopyOrder
from trust import detector, evidence
from trust.evidence_types import Bar


def bars_have_length(minutes: Any) -> Any:
    return [bar.minutes for bar in evidence.bars_of("EURUSD", NOW - 30 * DAY, NOW)][:1] == [minutes]


def prices_of(bar: Bar) -> tuple[Decimal, ...]:
    return bar.open, bar.high, bar.low, bar.close


def test_bars_of_an_hour_are_preferred_where_they_reach_far_enough(lena: TradingAccount) -> None:
    Candle.objects.all().delete()
    add_bars(NOW - 20 * DAY, 20, minutes=1440)
    assert bars_have_length(1440)
    add_bars(NOW - 2 * DAY, 30)
    assert bars_have_length(1440)  # two days of hourly bars cover too little of twenty days
    add_bars(NOW - 15 * DAY, 90, minutes=240)
    assert bars_have_length(240)
    add_bars(NOW - 14 * DAY, 200)
    assert bars_have_length(60)


def test_minute_bars_are_merged_into_hours(lena: TradingAccount) -> None:
    Candle.objects.all().delete()
    first = (NOW - 2 * DAY).replace(minute=0, second=0, microsecond=0)
    add_bars(first, 119, minutes=1)
    Candle.objects.bulk_create(
        Candle(instrument_id="EURUSD", minutes=1, opened_at=first + timedelta(minutes=119), open=2, high=4, low=1,
               close=3, volume=1)
        for _ in range(1)
    )  # fmt: skip
    first_bar, second_bar = evidence.bars_of("EURUSD", NOW - 30 * DAY, NOW)

    assert (first_bar.opened_at, first_bar.minutes, second_bar.opened_at) == (first, 60, first + timedelta(hours=1))
    assert prices_of(first_bar) == tuple(map(Decimal, ("1.1", "1.2", "1.05", "1.1")))
    assert prices_of(second_bar) == tuple(map(Decimal, ("1.1", "4", "1", "3")))


def test_a_strategy_has_only_its_own_trades_and_currency(lena: TradingAccount) -> None:
    second = second_strategy_of(lena)
    make_closed_trade(lena, 1)
    make_closed_trade(second.account, 2, profit="1500")

    assert [len(evidence_about(account).deals) for account in (lena, second.account)] == [1, 1]
    assert evidence_about(lena).move_values == {"EURUSD": 100_000}
    assert evidence_about(second.account).move_values == {}


def test_late_bars_are_read_and_lengths_are_not_mixed(lena: TradingAccount) -> None:
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    Candle.objects.all().delete()
    Instrument.objects.get_or_create(symbol="EURUSD", defaults={"point": "0.00001", "contract_size": 100_000})
    since = now - 30 * DAY
    add_bars(now - 2 * DAY, 24)
    assert len(evidence.bars_of("EURUSD", since, now)) == 24

    add_bars(now - 4 * DAY, 24)  # older than the latest known bar
    add_bars(now - DAY, 100, minutes=5)
    hourly = evidence.bars_of("EURUSD", since, now)
    assert (len(hourly), {bar.minutes for bar in hourly}) == (48, {60})


def test_copies_are_matched_with_their_deals(lena: TradingAccount, finn: TradingAccount) -> None:
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        trades.open_trade(account=finn, ticket_id="9", copies=(lena.strategy.name, "1"), **opening)
        for account, ticket, price in ((lena, "1", "1.2"), (finn, "9", "1.14")):
            trades.close_trade(
                account=account, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(1), reason="TP"
            )
    facts = evidence.of_provider(lena.strategy, now=timezone.now())

    assert [(copy.deal_ref, copy.close_price) for copy in facts.copies] == [(facts.deals[0].ref, Decimal("1.14"))]


def executed(account: Any, ticket: Any, price: Any, symbol: str = "EURUSD") -> None:
    CopyOrder.objects.using("owner").create(
        account=account, strategy=Strategy.objects.get(name="lena-eurusd"), seq=1, master_ticket=ticket, symbol=symbol,
        type="BUY", status="executed", volume=1, requested_price=1, executed_price=Decimal(price),
    )  # fmt: skip


def test_a_repeated_report_counts_once_and_the_providers_own_never(
    lena: TradingAccount, finn: TradingAccount, sam: TradingAccount
) -> None:
    for price in ("1.5", "2", "3"):
        executed(finn, "1", price)
    executed(finn, "2", "1.6")
    executed(sam, "1", "1.7")
    executed(second_strategy_of(lena).account, "1", "9")
    executed(sam, "77", "8", symbol="")  # a trade that does not exist

    fills = evidence_about(lena).fills
    assert [(fill.executed_price, fill.owner) for fill in fills] == [
        (Decimal("1.7"), str(sam.owner.pk)), (Decimal("1.6"), str(finn.owner.pk)), (Decimal("1.5"), str(finn.owner.pk)),
    ]  # fmt: skip


def test_two_copies_of_a_trade_by_one_account_count_once(lena: TradingAccount, finn: TradingAccount) -> None:
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        for ticket, price in (("9", "1.14"), ("10", "0.5")):
            trades.open_trade(account=finn, ticket_id=ticket, copies=(lena.strategy.name, "1"), **opening)
            trades.close_trade(
                account=finn, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(1), reason="TP"
            )

    assert [(copy.close_price, copy.owner) for copy in evidence_about(lena).copies] == [
        (Decimal("1.14"), str(finn.owner.pk))
    ]


def test_a_trade_begins_when_the_desk_learns_of_it(lena: TradingAccount) -> None:
    reported = timezone.now() - 3 * DAY
    opening = {
        "symbol": "EURUSD",
        "type": "BUY",
        "volume": Decimal(1),
        "open_price": Decimal("1.1"),
        "opened_at": reported,
    }
    with transaction.atomic():
        for ticket in ("1", "2"):
            trades.open_trade(account=lena, ticket_id=ticket, **opening)
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal("1.2"), profit=Decimal(-5), reason="TP")
    facts = evidence_about(lena)

    (deal,), (position,) = facts.deals, facts.positions
    assert timedelta(0) <= deal.held < timedelta(minutes=1)
    assert timezone.now() - position.opened_at < timedelta(minutes=1)


def test_a_trade_closed_in_parts_has_the_average_close_price(lena: TradingAccount) -> None:
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(4), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=lena, ticket_id="1", **opening)
        trades.reduce_trade(
            account=lena, ticket_id="1", deal_id="7", volume=Decimal(1), close_price=Decimal("1.3"), profit=Decimal(60)
        )
        trades.close_trade(account=lena, ticket_id="1", close_price=Decimal("1.1"), profit=Decimal(0), reason="SL")

    (deal,) = evidence_about(lena).deals
    assert deal.close_price == Decimal("1.25")


def test_move_values_come_from_the_desks_instruments(lena: TradingAccount) -> None:
    now = timezone.now()
    Candle.objects.all().delete()
    add_bars(now - 2 * DAY, 3)  # at 1.1
    symbols = {"EURUSD", "EURGBP", "XAUUSD", "EURUSD.x"}
    bars = {symbol: evidence.bars_of(symbol, now - 30 * DAY, now) for symbol in symbols}

    assert evidence.move_values(symbols, "USD", bars) == {"EURUSD": 100_000, "XAUUSD": 100}
    assert evidence.move_values({"EURUSD"}, "EUR", bars) == {"EURUSD": Decimal(100_000) / Decimal("1.1")}
    assert evidence.move_values(symbols, "CHF", bars) == {}


@pytest.fixture
def long_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trades within an hour count as simultaneous, so that a slow machine opens all of them in time."""
    monkeypatch.setattr(detector, "TOGETHER", timedelta(hours=1))


def trade_at_once(account: Any, count: Any, reported: Any = None) -> None:
    with transaction.atomic():
        for ticket in range(1, count + 1):
            trades.open_trade(
                account=account, ticket_id=str(ticket), symbol="EURUSD", type="BUY", volume=Decimal(1),
                open_price=Decimal("1.1"), opened_at=reported,
            )  # fmt: skip
            trades.close_trade(
                account=account, ticket_id=str(ticket), close_price=Decimal("1.2"), profit=Decimal(1), reason="TP"
            )


def test_trades_of_others_at_the_same_time_are_found_by_the_desks_time(
    lena: TradingAccount, sam: TradingAccount, long_window: None
) -> None:
    trade_at_once(lena, 12)
    trade_at_once(sam, 12, reported=timezone.now() - DAY)
    trade_at_once(second_strategy_of(lena).account, 12)

    ((owner, deals),) = evidence_about(lena).others.items()
    assert (owner, len(deals)) == (str(sam.owner.pk), 12)


def test_other_accounts_of_the_provider_hide_nobody(
    lena: TradingAccount, sam: TradingAccount, long_window: None
) -> None:
    trade_at_once(lena, 1)
    trade_at_once(sam, 12)
    trade_at_once(second_strategy_of(lena).account, 600)  # newer, and more than the query reads for one trade

    assert {len(deals) for deals in evidence_about(lena).others.values()} == {12}
