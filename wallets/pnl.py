"""The P/L of a subscriber's copies of a strategy up to a moment in the past, which later events never change.

A close carries the database's own time, and a trade's id (UUID v7) contains the time at which the desk learned of it:
no bot can change either later. Positions open at that moment are valued at the last bar before it; without a bar there
is no result.
"""

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db.models import F, QuerySet, Sum

from accounts.models import AccountSymbol
from core import money, uuid7
from market import prices
from market.models import Instrument
from strategies.models import Subscription
from trades.models import ActiveTrade, TradeCorrection, TradeHistory, TradeReduction
from wallets import fees
from wallets.models import FeeAgreement

ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Result:
    """Realised (`closed`) and `floating` P/L. `unpriced` says why there is none: a position without a mark price, or an
    account whose bot reports another currency. `corrections`: the ids of those that `closed` takes into account."""

    closed: Decimal
    floating: Decimal
    trades: int
    mark_prices: list[dict[str, str]]
    unpriced: str = ""
    corrections: tuple[int, ...] = ()

    @property
    def cumulative_pnl(self) -> Decimal:
        return self.closed + self.floating


@dataclass(frozen=True, slots=True)
class _OpenCopy:
    """An open copy. `symbol`: by which it is valued. `contract_size`: its broker's, None if that is not known."""

    trade_id: uuid.UUID
    symbol: str
    side: str
    volume: Decimal
    open_price: Decimal
    contract_size: Decimal | None


def result(
    agreement: FeeAgreement,
    *,
    at: datetime,
    mark_prices: list[dict[str, str]] | None = None,
    counted: Collection[int] | None = None,
) -> Result:
    """The cumulative P/L at that moment. `mark_prices`: stored prices of an earlier valuation, used again with the
    contract sizes that are stored beside them. `counted`: the corrections that it took into account; None for all."""
    if mark_prices is None and (other_currency := _other_currency(agreement)):
        return Result(ZERO, ZERO, 0, [], other_currency)
    closed = closed_trades(agreement, at=at)
    still_open = _open_at(agreement, at)
    parts = TradeReduction.objects.filter(trade_id__in=[trade.trade_id for trade in still_open], closed_at__lte=at)
    corrected = [row for row in corrections(agreement, at=at) if counted is None or row.pk in counted]
    change = sum((row.profit - row.profit_before for row in corrected), ZERO)
    realised = _sum(closed, "profit") + _sum(parts, "profit") + change
    count = closed.count() + len(still_open)
    stored = {mark_price["trade"]: mark_price for mark_price in mark_prices or []}
    valued: list[dict[str, str]] = []
    for trade in still_open:
        if mark_prices is None:
            last = prices.last(trade.symbol, at=at)
            price, contract_size = (
                None if last is None else last.close,
                trade.contract_size or _listed_size(trade.symbol),
            )
        else:
            price, contract_size = _stored(stored.get(str(trade.trade_id)), trade.symbol)
        result_at_price = _floating(trade, price, contract_size, agreement.currency)
        if price is None or contract_size is None or result_at_price is None:
            return Result(realised, ZERO, count, [], f"no price of {trade.symbol} in {agreement.currency}")
        valued.append(
            {
                "trade": str(trade.trade_id),
                "symbol": trade.symbol,
                "type": trade.side,
                "volume": money.text(trade.volume),
                "open_price": money.text(trade.open_price),
                "price": money.text(price),
                "contract_size": money.text(contract_size),
                "result": money.text(result_at_price),
            }
        )
    floating = sum((Decimal(mark_price["result"]) for mark_price in valued), ZERO)
    return Result(realised, floating, count, valued, corrections=tuple(row.pk for row in corrected))


def _other_currency(agreement: FeeAgreement) -> str:
    """Which of the subscriber's accounts reports its profits in another currency; empty if none does."""
    followed = Subscription.objects.filter(
        strategy=agreement.strategy_id, account__owner=agreement.subscriber_id, account__currency=agreement.currency
    ).exclude(account__reported_currency__in=["", agreement.currency])
    for account in (subscription.account for subscription in followed.select_related("account")):
        return f"{account.name} reports {account.reported_currency}, registered is {account.currency}"
    return ""


def _stored(mark_price: dict[str, str] | None, symbol: str) -> tuple[Decimal | None, Decimal | None]:
    """Price and contract size of an earlier valuation. The first version stored no size: it used the desk's."""
    if mark_price is None:
        return None, None
    size = mark_price.get("contract_size")
    return Decimal(mark_price["price"]), _listed_size(symbol) if size is None else Decimal(size)


def _listed_size(symbol: str) -> Decimal | None:
    return Instrument.objects.filter(symbol=symbol).values_list("contract_size", flat=True).first()


def closed_trades(agreement: FeeAgreement, *, at: datetime) -> QuerySet[TradeHistory]:
    return TradeHistory.objects.filter(**_copies(agreement), kind=TradeHistory.Kind.TRADE, closed_at__lte=at)


def corrections(agreement: FeeAgreement, *, at: datetime) -> list[Any]:
    """The corrections of copies that were closed by then, each with the copy's `closed_at`."""
    history = {f"trade__history__{name}": value for name, value in _copies(agreement).items()}
    rows = TradeCorrection.objects.filter(**history, trade__history__closed_at__lte=at)
    return list(rows.annotate(closed_at=F("trade__history__closed_at")).order_by("pk"))


def _copies(agreement: FeeAgreement) -> dict[str, Any]:
    return {
        "account__owner": agreement.subscriber_id,
        "account__currency": agreement.currency,
        "strategy": agreement.strategy_id,
        "master_trade__isnull": False,
        "trade_id__gte": uuid7.first_at(agreement.started_at),
    }


def _open_at(agreement: FeeAgreement, at: datetime) -> list[_OpenCopy]:
    """The copies open at that moment. Some have been closed since; some were partly closed before."""
    copies = {**_copies(agreement), "trade_id__lt": uuid7.first_at(at)}
    columns = ("trade_id", "symbol", "type", "open_price", "master_trade", "account_id")
    hot = ActiveTrade.objects.filter(**copies).values_list(*columns, "opened_volume")
    cold = TradeHistory.objects.filter(**copies, kind=TradeHistory.Kind.TRADE, closed_at__gt=at)
    rows = [*hot, *cold.values_list(*columns, "volume")]
    parts = TradeReduction.objects.filter(trade_id__in=[row[0] for row in rows], closed_at__lte=at)
    closed_volumes = dict(parts.values_list("trade_id").annotate(closed_volume=Sum("volume")))
    symbols = _desk_symbols({row[4]: str(row[1]) for row in rows})
    sizes = _contract_sizes({row[5] for row in rows})
    return [
        _OpenCopy(
            trade_id, symbols[master], str(side), volume - closed_volumes.get(trade_id, ZERO), open_price,
            sizes.get((account, str(symbol))),
        )
        for trade_id, symbol, side, open_price, master, account, volume in sorted(rows)
    ]  # fmt: skip


def _contract_sizes(accounts: Iterable[int]) -> dict[tuple[int, str], Decimal]:
    """The contract sizes that the accounts' bots reported, by account and the account's own symbol."""
    rows = AccountSymbol.objects.filter(account__in=accounts).values_list("account_id", "symbol", "contract_size")
    return {(account, symbol): size for account, symbol, size in rows}


def _desk_symbols(copies: dict[uuid.UUID, str]) -> dict[uuid.UUID, str]:
    """The symbol by which each copy is valued, by provider's trade: its own, or the provider's where the desk has none.

    A copier's broker may call XAUUSD "GOLD"; the price is that of XAUUSD.
    """
    listed = set(Instrument.objects.filter(symbol__in=copies.values()).values_list("symbol", flat=True))
    unknown = [master for master, symbol in copies.items() if symbol not in listed]
    homes: tuple[QuerySet[Any], ...] = (ActiveTrade.objects.all(), TradeHistory.objects.all())
    masters = {pk: symbol for home in homes for pk, symbol in home.filter(pk__in=unknown).values_list("pk", "symbol")}
    return {master: symbol if symbol in listed else masters.get(master) or symbol for master, symbol in copies.items()}


def _floating(trade: _OpenCopy, price: Decimal | None, contract_size: Decimal | None, currency: str) -> Decimal | None:
    """In the account's currency; None for an unknown symbol, or one that is priced in two other currencies."""
    if price is None or contract_size is None or currency not in (trade.symbol[:3], trade.symbol[3:6]):
        return None
    return fees.floating(
        side=trade.side,
        volume=trade.volume,
        open_price=trade.open_price,
        price=price,
        contract_size=contract_size,
        inverse=currency == trade.symbol[:3],
    )


def _sum(rows: QuerySet[Any], field: str) -> Decimal:
    total: Decimal | None = rows.aggregate(total=Sum(field))["total"]
    return total or ZERO
