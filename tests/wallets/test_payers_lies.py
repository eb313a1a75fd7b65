"""A fee cannot be changed by a byte that its payer's bot sends: a liar and an honest bot pay the same.

Two subscribers follow one strategy with the same settings. The honest bot reports what happened; the other one lies in
every field of each request that a copier's bot may send, reports closes that did not happen and conceals others.
What a bot can still decide stands in SECURITY.md: whether it reports a trade as copied before anybody knows how it goes
on, when it reports that it left one, and the equity by which its copies are sized.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from core.errors import DomainError
from market.models import Candle
from strategies import services as strategies
from strategies.models import Subscription
from tests.transactions import committed
from tests.wallets.conftest import JUST_AFTER, Following, accept, following
from trades import receipts
from trades import services as trades
from wallets import copied_trades, lines
from wallets.models import FeeAgreement, FeeClaim, Settlement
from wallets.services import settlement

MONTHS = 3
SYMBOLS = ("EURUSD", "EURUSD.vip", "USDJPY", "NOSUCH", "XAUUSD")
REASONS = ("TP", "SL", "MANUAL", "STOP_OUT", "RECONCILED")
PRICES = ("0.00000001", "0.5", "1.1", "999999", "-3")


def lie(rng: random.Random, truth: str, *lies: str) -> str:
    return rng.choice((truth, *lies))


def money_lie(rng: random.Random, truth: Decimal) -> str:
    return f"{lie(rng, str(truth), str(-truth), '0', '-10000', '-999999999999', '999999999999')}"


@dataclass
class Lena:
    """The provider. Her trades, their remaining lots and what they were opened at."""

    account: TradingAccount
    rng: random.Random
    open: dict[str, tuple[str, Decimal, Decimal]] = field(default_factory=dict)

    def opens(self, ticket: str) -> None:
        side, price = self.rng.choice(("BUY", "SELL")), Decimal(self.rng.randint(105_000, 115_000)).scaleb(-5)
        volume = Decimal(self.rng.randint(10, 300)).scaleb(-2)
        self.open[ticket] = (side, volume, price)
        call(self.account, "trade_open", ticket_id=ticket, symbol="EURUSD", type=side, volume=str(volume),
             open_price=str(price))  # fmt: skip

    def closes(self, ticket: str, price: Decimal, *, rest: Decimal | None = None) -> Decimal:
        """All, or all but the rest. Return the profit of it."""
        side, volume, opened = self.open[ticket]
        closed = volume if rest is None else volume - rest
        profit = (price - opened) * closed * 100_000 * (1 if side == "BUY" else -1)
        if rest is None:
            del self.open[ticket]
            call(self.account, "trade_close", ticket_id=ticket, close_price=str(price), profit=str(profit),
                 reason="MANUAL")  # fmt: skip
        else:
            self.open[ticket] = (side, rest, opened)
            call(self.account, "trade_reduce", ticket_id=ticket, deal_id=f"d{rest}", volume=str(rest),
                 close_price=str(price), profit=str(profit))  # fmt: skip
        return profit


def call(account: TradingAccount, verb: str, **args: Any) -> bool:
    """Send the request as its bot would; return whether it was accepted."""
    try:
        with transaction.atomic():
            trades.call(verb, account, audit.SYSTEM, {"ticket_id": "", **args})
    except DomainError:
        return False
    return True


@dataclass
class Liar:
    account: TradingAccount
    rng: random.Random

    def copies(self, ticket: str, side: str, volume: Decimal, price: Decimal) -> None:
        rng = self.rng
        for own in (f"9{ticket}", f"8{ticket}", f"7{ticket}")[: rng.randint(1, 3)]:
            told = {
                "ticket_id": own, "symbol": rng.choice(SYMBOLS), "type": rng.choice(("BUY", "SELL")),
                "volume": lie(rng, str(volume), "0.00000001", "1000"), "open_price": lie(rng, str(price), *PRICES),
                "sl": rng.choice((None, "0.1", "5")), "tp": rng.choice((None, "0.1", "5")),
                "opened_at": (timezone.now() + timedelta(days=rng.randint(-900, 900))).isoformat(),
                "comment": "a lie", "copies": {"strategy": "lena-eurusd", "master_ticket": ticket},
            }  # fmt: skip
            assert call(self.account, "trade_open", **told)

    def follows_a_close(self, ticket: str, price: Decimal, profit: Decimal, *, rest: Decimal | None) -> None:
        """Report it, or not; conceal the rest of it, or make more of it."""
        rng = self.rng
        for own in (f"9{ticket}", f"8{ticket}", f"7{ticket}"):
            told = {
                "ticket_id": own, "close_price": lie(rng, str(price), *PRICES), "profit": money_lie(rng, profit),
                "reason": rng.choice(REASONS),
            }  # fmt: skip
            if rng.random() < 0.4:
                call(self.account, "trade_reduce", **told, deal_id=f"r{rng.random()}", volume="0.00000001")
            if rest is None and rng.random() < 0.6:
                call(self.account, "trade_close", **told)

    def chatters(self, ticket: str) -> None:
        """Everything else that a copier's bot may send."""
        rng, strategy = self.rng, "lena-eurusd"
        symbols = [
            {"symbol": symbol, "contract_size": lie(rng, "100000", "0.00000001", "99999999"), "volume_min": "0.01",
             "volume_step": lie(rng, "0.01", "1000"), "volume_max": lie(rng, "100", "0.01")}
            for symbol in SYMBOLS
        ]  # fmt: skip
        requests: list[Callable[[], bool]] = [
            lambda: call(self.account, "account_tell", balance=money_lie(rng, Decimal(1000)), login="1", server="x",
                         equity=money_lie(rng, Decimal(1000)), currency=lie(rng, "USD", "JPY", "USC"),
                         kind=lie(rng, "hedging", "netting"), symbols=symbols),
            lambda: call(self.account, "copier_beat", instance="x", balance="0", equity=money_lie(rng, Decimal(5))),
            lambda: call(self.account, "order_report", strategy=strategy, seq=rng.randint(0, 9), master_ticket=ticket,
                         status=lie(rng, "executed", "failed", "cancelled"), requested_price="1", executed_price="9",
                         volume="1000", latency_ms=1, failed_reason="no_money", type="SELL"),
            lambda: call(self.account, "trade_modify", ticket_id=f"9{ticket}", sl=lie(rng, "0.1", "7"), tp=None),
            lambda: call(self.account, "account_alarms", bot="copier", alarms=[
                {"kind": "zombie", "ticket": f"9{ticket}", "detail": "a lie"}]),
        ]  # fmt: skip
        for request in rng.sample(requests, rng.randint(0, len(requests))):
            request()
        self.skips(ticket)

    def skips(self, ticket: str) -> None:
        from trades.models import Trade

        trade = Trade.objects.get(account__name="lena-mt5", ticket_id=ticket)
        call(self.account, "copy_skip", strategy="lena-eurusd", trade_ref=str(trade.pk),
             reason=lie(self.rng, "no_money", "slippage", "paused"))  # fmt: skip


SETTINGS: tuple[dict[str, Any], ...] = (
    {"multiplier": Decimal(1)},
    {"multiplier": Decimal("0.37")},
    {"mode": "FIXED", "fixed_lots": Decimal("0.7")},
    {"multiplier": Decimal(3), "max_volume": Decimal(2), "reverse": True},
    {"multiplier": Decimal(2), "symbol_map": {"EURUSD": "EURUSD.vip"}, "symbol_factors": {"EURUSD": "0.5"}},
)


@pytest.fixture
def liar(lena: TradingAccount, finn: TradingAccount, sam: TradingAccount) -> Callable[[random.Random], Liar]:
    """sam copies lena too, with finn's settings; his bot lies."""

    def make(rng: random.Random) -> Liar:
        committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)
        settings = rng.choice(SETTINGS)
        for account in (finn, sam):
            subscription = Subscription.objects.get(account=account, strategy=lena.strategy)
            strategies.set_terms(
                subscription=subscription, actor=audit.SYSTEM, since=subscription.created_at, **settings
            )
        return Liar(sam, rng)

    return make


@pytest.mark.dated
@pytest.mark.model
@pytest.mark.parametrize("seed", range(12))
def test_a_bot_that_lies_in_every_field_pays_what_an_honest_one_pays(
    lena: TradingAccount, finn: TradingAccount, sam: TradingAccount, liar: Callable[[random.Random], Liar], seed: int
) -> None:
    rng = random.Random(seed)
    bad = liar(rng)
    follows = following(lena, finn)
    his = accept(sam, now=follows.agreement.started_at)
    live_through_some_trades(Lena(lena, rng), finn, bad)

    for month in range(1, MONTHS + 1):
        if rng.random() < 0.7:
            follows.bar(str(Decimal(rng.randint(105_000, 115_000)).scaleb(-5)), month=month)
        settle_both(follows, his, month)

    assert charged(follows.agreement) == charged(his)
    assert all(settlement.recalculate(row).agrees for row in Settlement.objects.filter(period_no__gt=0))


BELIEVED: dict[str, Callable[[copied_trades.CopiedTrade, Any], copied_trades.CopiedTrade]] = {
    "volume": lambda trade, copy: replace(trade, lots=receipts.as_opened(copy).opened_volume),
    "side": lambda trade, copy: replace(trade, side=copy.type),
    "symbol": lambda trade, copy: replace(trade, symbol=copy.symbol),
    "open_price": lambda trade, copy: replace(trade, open_price=copy.open_price),
    "close_price": lambda trade, copy: replace(
        trade,
        deals=tuple(replace(deal, price=getattr(copy, "close_price", deal.price)) for deal in trade.deals),
    ),
}


@pytest.mark.dated
@pytest.mark.parametrize("field", BELIEVED)
def test_the_comparison_finds_a_fee_that_follows_one_field_of_the_report(
    lena: TradingAccount, finn: TradingAccount, sam: TradingAccount, liar: Callable[[random.Random], Liar],
    monkeypatch: pytest.MonkeyPatch, field: str,
) -> None:  # fmt: skip
    """The control of the test above."""
    real = copied_trades._copied

    def believing(trade: Any, rows: Any, *others: Any) -> copied_trades.CopiedTrade:
        return BELIEVED[field](real(trade, rows, *others), rows[0])

    monkeypatch.setattr(copied_trades, "_copied", believing)
    rng = random.Random(3)
    bad = liar(rng)
    follows = following(lena, finn)
    his = accept(sam, now=follows.agreement.started_at)
    live_through_some_trades(Lena(lena, rng), finn, bad, number_of_trades=60)  # so that each field lies sometimes
    for month in range(1, MONTHS + 1):
        settle_both(follows, his, month)

    assert charged(follows.agreement) != charged(his)


def live_through_some_trades(provider: Lena, honest: TradingAccount, bad: Liar, number_of_trades: int = 0) -> None:
    rng = provider.rng
    for number in range(number_of_trades or rng.randint(1, 6)):
        ticket = str(100 + number)
        provider.opens(ticket)
        side, volume, price = provider.open[ticket]
        call(honest, "trade_open", ticket_id=f"9{ticket}", symbol="EURUSD", type=side, volume=str(volume),
             open_price=str(price), copies={"strategy": "lena-eurusd", "master_ticket": ticket})  # fmt: skip
        bad.copies(ticket, side, volume, price)
        bad.chatters(ticket)
        for rest in (Decimal("0.05"), None)[rng.randint(0, 1) :][: rng.randint(0, 2)]:
            close_price = Decimal(rng.randint(100_000, 120_000)).scaleb(-5)
            profit = provider.closes(ticket, close_price, rest=rest)
            if rest is None:
                call(honest, "trade_close", ticket_id=f"9{ticket}", close_price=str(close_price), profit=str(profit),
                     reason="MANUAL")  # fmt: skip
            bad.follows_a_close(ticket, close_price, profit, rest=rest)
            bad.chatters(ticket)


def settle_both(follows: Following, his: FeeAgreement, month: int) -> None:
    """As the sweep does, first in time, and once more when a period has waited long enough for its price."""
    for waited in (JUST_AFTER, timedelta(days=6)):
        for agreement in (follows.agreement, his):
            settlement.settle(agreement_id=agreement.pk, now=follows.month_end(month) + waited)


def charged(agreement: FeeAgreement) -> list[tuple[Decimal, ...]]:
    rows = agreement.settlements.order_by("period_no")
    periods = [(row.closed_result, row.floating_result, row.high_water_mark, row.fee) for row in rows]
    assert len(periods) == MONTHS + 1
    claims = FeeClaim.objects.filter(agreement=agreement).order_by("period_no")
    return [*periods, tuple(claim.amount for claim in claims)]


# --- what remains, and what bounds it


def test_a_trade_that_is_never_reported_as_copied_costs_nothing_and_gains_nothing(follows: Following) -> None:
    """Nobody can prove that it was copied. The decision has to be made before anybody knows how the trade goes on."""
    provider = Lena(follows.lena, random.Random(1))
    provider.opens("1")
    provider.closes("1", Decimal("1.3"))

    assert (follows.settle().fee, Settlement.objects.get(period_no=1).lines) == (0, [])


def test_a_bot_chooses_when_it_leaves_a_trade_but_not_at_which_price(follows: Following) -> None:
    Candle.objects.create(
        instrument_id="EURUSD", minutes=60, opened_at=timezone.now() - timedelta(minutes=30), open="1.1", low="1.1",
        high="1.2", close="1.2", volume=1,
    )  # fmt: skip
    follows.copy("1", price="1.1")
    call(follows.finn, "trade_close", ticket_id="91", close_price="0.1", profit="-100000", reason="SL")

    settled = follows.settle()

    assert (settled.fee, settled.lines[0]["why"]) == (2000, lines.LEFT)


def test_a_bot_cannot_wait_for_the_result_before_it_reports_a_copy(follows: Following) -> None:
    longest = timedelta(minutes=2)

    assert longest >= copied_trades.IN_TIME
    assert copied_trades.IN_TIME < settlement.GRACE  # or a settlement would not know yet what belongs to it
