"""What of a subscriber's reports counts for fees: that a trade is copied, and that it no longer is."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connections, transaction
from django.utils import timezone

from market.models import Candle, Instrument
from strategies import services as strategies
from strategies.models import Subscription
from tests.answers import text
from tests.wallets.conftest import Following
from trades import services as trades
from trades.models import TradeHistory
from wallets import copied_trades, lines
from wallets.models import Settlement
from wallets.services import settlement


def bar_now(low: str, high: str, close: str, *, minutes: int = 60) -> None:
    """The bar in which the present lies."""
    opened_at = timezone.now() - timedelta(minutes=minutes / 2)
    Candle.objects.create(
        instrument_id="EURUSD", minutes=minutes, opened_at=opened_at, open=close, high=high, low=low, close=close,
        volume=1,
    )  # fmt: skip


def close(account: Any, ticket: str, price: str, profit: str = "0") -> None:
    with transaction.atomic():
        trades.close_trade(
            account=account, ticket_id=ticket, close_price=Decimal(price), profit=Decimal(profit), reason="MANUAL"
        )


def the_line(settled: Settlement) -> Any:
    (line,) = settled.lines
    return line


@pytest.mark.parametrize("told", ["-10000", "-999999999999", "999999999999", "0"])
def test_a_winner_counts_whatever_profit_the_copiers_bot_reports(follows: Following, told: str) -> None:
    follows.copy("1")
    close(follows.lena, "1", "1.11", "1000")
    close(follows.finn, "91", "0.00001", told)

    assert follows.settle().fee == 200


def test_a_close_that_is_never_reported_counts_at_the_providers(follows: Following) -> None:
    follows.copy("1")
    close(follows.lena, "1", "1.11", "1000")

    assert follows.settle().fee == 200


def test_a_copy_under_a_symbol_without_a_price_counts_under_the_providers(follows: Following) -> None:
    follows.copy("1", called="NOSUCH")
    close(follows.lena, "1", "1.11", "1000")

    assert follows.settle().fee == 200


def test_a_trade_counts_once_however_many_copies_of_it_are_reported(follows: Following) -> None:
    follows.copy("1")
    for ticket in ("92", "93"):
        with transaction.atomic():
            trades.open_trade(
                account=follows.finn, ticket_id=ticket, symbol="EURUSD", type="SELL", volume=Decimal(50),
                open_price=Decimal("1.1"), copies=("lena-eurusd", "1"),
            )  # fmt: skip
    close(follows.lena, "1", "1.11", "1000")

    assert (follows.settle().fee, len(Settlement.objects.get(period_no=1).lines)) == (200, 1)


def test_the_lots_are_those_of_the_terms(follows: Following) -> None:
    subscription = Subscription.objects.get(account=follows.finn)
    strategies.set_terms(
        subscription=subscription, actor=trades.audit.SYSTEM, since=subscription.created_at, multiplier=Decimal("0.455")
    )
    follows.copy("1")
    close(follows.lena, "1", "1.11", "1000")

    settled = follows.settle()

    assert (settled.cumulative_pnl, the_line(settled)["volume"]) == (450, "0.45000000")  # rounded down as brokers do


def test_a_reversed_copy_loses_what_the_provider_wins(follows: Following) -> None:
    subscription = Subscription.objects.get(account=follows.finn)
    strategies.set_terms(
        subscription=subscription, actor=trades.audit.SYSTEM, since=subscription.created_at, reverse=True
    )
    follows.copy("1")
    close(follows.lena, "1", "1.09", "-1000")

    assert follows.settle().fee == 200


# --- a copy that is left before its provider's trade


def test_a_copy_that_is_left_early_counts_at_the_market_not_at_its_bots_price(follows: Following) -> None:
    bar_now("1.09", "1.12", "1.105")
    follows.copy("1")
    close(follows.finn, "91", "0.5", "-99999")

    settled = follows.settle()

    assert (settled.closed_result, the_line(settled)["why"]) == (500, lines.LEFT)
    assert settlement.recalculate(settled).agrees


def test_the_page_of_a_fee_says_by_which_prices_a_trade_counts(follows: Following, client: Any) -> None:
    bar_now("1.09", "1.12", "1.105")
    follows.copy("1")
    close(follows.finn, "91", "0.5", "-99999")
    follows.settle()
    client.force_login(follows.finn.owner)

    page = text(client.get(f"/wallet/fees/{follows.agreement.pk}/1/"))

    assert "91 EURUSD ▲ BUY 1.00 1.10000 1.10500 100000 +500.00 closed before the provider's trade" in page
    assert "matches the fee charged" in page


def test_without_bars_a_copy_that_is_left_counts_at_the_providers_close(follows: Following) -> None:
    """Not at the last known price, which a bot could wait for; and it is not settled as nothing meanwhile."""
    follows.copy("1")
    close(follows.finn, "91", "0.5", "-99999")
    waited = timedelta(days=6)
    first = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end() + waited)
    assert first is not None
    assert (first.cumulative_pnl, the_line(first)["is_open"]) == (0, True)
    close(follows.lena, "1", "1.11", "1000")
    with connections["owner"].cursor() as cursor:  # long after the copy
        cursor.execute("alter table trade_history disable trigger user")
        cursor.execute("update trade_history set closed_at = closed_at + interval '1 hour' where ticket_id = '1'")
        cursor.execute("alter table trade_history enable trigger user")

    second = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end(2) + waited)

    assert second is not None
    assert second.fee == 200
    assert all(settlement.recalculate(row).agrees for row in (first, second))


def test_what_the_provider_makes_after_a_copy_was_left_does_not_count(
    follows: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied_trades, "IN_TIME", timedelta(0))
    bar_now("1.09", "1.12", "1.1")
    with transaction.atomic():  # both begin in the same instant of the database
        follows.copy("1")
    close(follows.finn, "91", "1.1")
    close(follows.lena, "1", "1.12", "2000")

    assert follows.settle().cumulative_pnl == 0


def test_a_copy_that_its_stop_closes_just_before_the_providers_counts_as_closed_with_it(follows: Following) -> None:
    follows.copy("1")
    close(follows.finn, "91", "1.109", "900")
    close(follows.lena, "1", "1.11", "1000")

    assert follows.settle().fee == 200


def test_a_copy_reported_again_after_it_was_left_stays_left(
    follows: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hindsight a bot would be in each loss again."""
    bar_now("1.09", "1.12", "1.1")
    follows.copy("1")
    close(follows.finn, "91", "1.1")
    monkeypatch.setattr(copied_trades, "IN_TIME", timedelta(milliseconds=-1))
    with transaction.atomic():
        trades.open_trade(
            account=follows.finn, ticket_id="92", symbol="EURUSD", type="BUY", volume=Decimal(1),
            open_price=Decimal("1.1"), copies=("lena-eurusd", "1"),
        )  # fmt: skip
    close(follows.lena, "1", "1.0", "-10000")

    assert follows.settle().cumulative_pnl == 0


# --- a copy that is reported late


def test_a_loss_that_is_reported_as_copied_with_hindsight_does_not_count(
    follows: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied_trades, "IN_TIME", timedelta(milliseconds=-1))
    opening = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal(1), "open_price": Decimal("1.1")}
    with transaction.atomic():
        trades.open_trade(account=follows.lena, ticket_id="1", **opening)
    close(follows.lena, "1", "1.0", "-10000")
    with transaction.atomic():
        trades.open_trade(account=follows.finn, ticket_id="91", copies=("lena-eurusd", "1"), **opening)

    settled = follows.settle()

    assert (settled.cumulative_pnl, the_line(settled)["why"]) == (0, lines.TOO_LATE)


def test_a_copy_reported_late_counts_from_the_markets_price_at_that_time(
    follows: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copied_trades, "IN_TIME", timedelta(milliseconds=-1))
    bar_now("1.05", "1.12", "1.06")
    follows.copy("1")
    close(follows.lena, "1", "1.07", "-3000")

    settled = follows.settle()

    assert (settled.cumulative_pnl, the_line(settled)["why"]) == (1000, lines.LATE)
    assert settlement.recalculate(settled).agrees


# --- the provider's side


def test_a_provider_cannot_report_a_price_that_the_market_never_had(follows: Following) -> None:
    bar_now("1.095", "1.105", "1.1")
    follows.copy("1")
    close(follows.lena, "1", "1.5", "40000")

    settled = follows.settle()

    assert (settled.cumulative_pnl, the_line(settled)["why"]) == (500, lines.LIMITED)
    assert settlement.recalculate(settled).agrees


def test_what_cannot_be_priced_counts_as_a_share_of_the_providers_profit(follows: Following) -> None:
    """US30 has no currency in its name, and USDJPY in dollars no rate: their P/L cannot be calculated from prices."""
    subscription = Subscription.objects.get(account=follows.finn)
    strategies.set_terms(
        subscription=subscription, actor=trades.audit.SYSTEM, since=subscription.created_at, multiplier=Decimal("0.5")
    )
    for account, ticket, copies in ((follows.lena, "1", None), (follows.finn, "91", ("lena-eurusd", "1"))):
        with transaction.atomic():
            trades.open_trade(
                account=account, ticket_id=ticket, symbol="US30", type="BUY", volume=Decimal(1),
                open_price=Decimal(40_000), copies=copies,
            )  # fmt: skip
    close(follows.lena, "1", "40100", "100.00000001")
    close(follows.finn, "91", "40100", "-77777")

    settled = follows.settle()

    assert settled.cumulative_pnl == 50
    assert "its share of the provider's profit" in the_line(settled)["why"]
    assert settlement.recalculate(settled).agrees


def test_a_contract_size_that_the_copiers_bot_conceals_makes_no_trade_free(follows: Following) -> None:
    """Where both bots report, the desk copies no symbol of unknown size; what is copied all the same counts."""
    type(follows.lena).objects.update(kind="hedging")
    subscription = Subscription.objects.get(account=follows.finn)
    terms = strategies.set_terms(
        subscription=subscription, actor=trades.audit.SYSTEM, since=subscription.created_at,
        multiplier=Decimal("0.5"),
    )  # fmt: skip
    assert "US30" not in terms.facts["known"]
    for account, ticket, copies in ((follows.lena, "1", None), (follows.finn, "91", ("lena-eurusd", "1"))):
        with transaction.atomic():
            trades.open_trade(
                account=account, ticket_id=ticket, symbol="US30", type="BUY", volume=Decimal(1),
                open_price=Decimal(40_000), copies=copies,
            )  # fmt: skip
    close(follows.lena, "1", "40100", "100")

    assert follows.settle().cumulative_pnl == 50


def test_a_third_currency_is_converted_at_the_rate_of_the_close(follows: Following) -> None:
    Instrument.objects.get_or_create(symbol="GBPUSD", defaults={"point": "0.00001", "contract_size": 100_000})
    Instrument.objects.get_or_create(symbol="EURGBP", defaults={"point": "0.00001", "contract_size": 100_000})
    Candle.objects.create(
        instrument_id="GBPUSD", minutes=60, opened_at=timezone.now() - timedelta(hours=2), open=2, high=2, low=2,
        close=2, volume=1,
    )  # fmt: skip
    for account, ticket, copies in ((follows.lena, "1", None), (follows.finn, "91", ("lena-eurusd", "1"))):
        with transaction.atomic():
            trades.open_trade(
                account=account, ticket_id=ticket, symbol="EURGBP", type="BUY", volume=Decimal(1),
                open_price=Decimal("0.85"), copies=copies,
            )  # fmt: skip
        close(account, ticket, "0.86", "1")

    settled = follows.settle()

    assert settled.cumulative_pnl == 2000
    Candle.objects.update(open=3, high=3, low=3, close=3)
    assert settlement.recalculate(settled).agrees


def test_a_trade_without_a_rate_counts_once_the_rate_is_known(follows: Following) -> None:
    """An account in a currency that the desk cannot convert into pays later, not never."""
    type(follows.lena).objects.filter(pk=follows.lena.pk).update(currency="CHF")
    for account, ticket, copies in ((follows.lena, "1", None), (follows.finn, "91", ("lena-eurusd", "1"))):
        with transaction.atomic():
            trades.open_trade(
                account=account, ticket_id=ticket, symbol="EURGBP", type="BUY", volume=Decimal(1),
                open_price=Decimal("0.85"), copies=copies,
            )  # fmt: skip
        close(account, ticket, "0.86", "1")
    Instrument.objects.get_or_create(symbol="EURGBP", defaults={"point": "0.00001", "contract_size": 100_000})
    Instrument.objects.get_or_create(symbol="GBPUSD", defaults={"point": "0.00001", "contract_size": 100_000})
    waited = timedelta(days=6)

    first = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end() + waited)
    Candle.objects.create(
        instrument_id="GBPUSD", minutes=60, opened_at=timezone.now() - timedelta(hours=2), open=2, high=2, low=2,
        close=2, volume=1,
    )  # fmt: skip
    second = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end(2) + waited)

    assert first is not None
    assert second is not None
    assert (first.cumulative_pnl, second.cumulative_pnl) == (0, 2000)


# --- periods that were settled by reports


def test_what_was_settled_by_reports_stays_and_later_trades_are_calculated(follows: Following) -> None:
    """The first period was settled by the version before, on a profit of 700 that the bot reported."""
    follows.copy("1")
    close(follows.lena, "1", "1.11", "1000")
    close(follows.finn, "91", "1.11", "700")
    now = timezone.now()
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "insert into settlements (agreement_id, period_no, prev_no, starts_at, ends_at, closed_result,"
            " floating_result, base, mark_before, mark, rate_bps, fee, trades, marks)"
            " values (%s, 1, 0, %s, %s, 700, 0, 700, 0, 700, 0, 0, 1, '[]')",
            [follows.agreement.pk, follows.agreement.started_at, now],
        )
    first = Settlement.objects.get(period_no=1)
    assert (first.rule, settlement.recalculate(first).agrees) == (Settlement.Rule.REPORTED, True)

    follows.copy("2")
    close(follows.lena, "2", "1.11", "1000")
    close(follows.finn, "92", "1.11", "-5000")
    second = settlement.settle(agreement_id=follows.agreement.pk, now=follows.month_end() + timedelta(hours=1))

    assert second is not None
    assert (second.cumulative_pnl, second.fee, second.trades) == (1700, 200, 2)
    assert settlement.recalculate(second).agrees
    assert TradeHistory.objects.filter(account=follows.finn).count() == 2
