"""Compares what copiers' bots report of their copies with what the desk knows, since fees do not follow the reports.

A difference beyond a bound is an incident of the bot: trust reads it in the audit log, it lowers the bot's reliability,
and below 50 nothing new is copied by this bot. The bounds are wide, because costs, slippage and brokers' prices differ.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from accounts.models import AccountSymbol
from audit import services as audit
from audit.models import AuditLog
from core import money, uuid7
from core.transactions import use_case
from market import profit
from strategies.models import Terms
from trades import receipts, valuation
from trades.models import TradeHistory, TradeReduction
from wallets.copied_trades import IN_TIME
from wallets.models import FeeAgreement

SPAN = timedelta(hours=26)  # of closes that a run looks at, since some runs may be missed
MOST = 20  # rows of one account in a run
ACTION = "copy.report_differs"
OF_NOTIONAL, A_DAY = Decimal("0.01"), Decimal("0.001")  # commission and spread; swaps


@use_case()
def compare(*, now: datetime) -> int:
    """Record each copy closed lately whose report differs, once; return how many are new."""
    payers = FeeAgreement.objects.values("subscriber")
    closed = TradeHistory.objects.filter(
        kind=TradeHistory.Kind.TRADE, master_trade__isnull=False, closed_at__gt=now - SPAN, closed_at__lte=now,
        account__owner__in=payers,
    )  # fmt: skip
    copies = list(closed.select_related("account").order_by("closed_at"))
    providers = TradeHistory.objects.filter(kind=TradeHistory.Kind.TRADE).in_bulk([row.master_trade for row in copies])
    listed, recorded = receipts.contracts(), Counter[int]()
    for copy in copies:
        provider = providers.get(copy.master_trade)
        if provider is None or recorded[copy.account_id] >= MOST:
            continue
        differs = list(differences(copy, provider, listed))
        if differs and not _is_recorded(copy):
            recorded[copy.account_id] += 1
            _record(copy, provider, differs)
    return recorded.total()


def differences(copy: TradeHistory, provider: TradeHistory, listed: Mapping[str, Decimal]) -> Iterator[str]:
    """The fields of the copy that differ beyond their bound. `listed`: the desk's contract sizes."""
    if not is_symbol_of(copy, provider):
        yield "symbol"
    if not valuation.is_near(_known(copy.open_price), _known(provider.open_price)):
        yield "open_price"
    were_closed_together = abs(copy.closed_at - provider.closed_at) <= IN_TIME
    if were_closed_together and not valuation.is_near(copy.close_price, provider.close_price):
        yield "close_price"
    calculated, bound = _calculated(copy, provider, listed)
    if calculated is not None and abs(_known(copy.profit) - calculated) > bound:
        yield "profit"


def is_symbol_of(copy: TradeHistory, provider: TradeHistory) -> bool:
    """Whether the copy's symbol is the provider's, perhaps as the broker decorates it, or a mapping of its terms."""
    own, symbol = copy.symbol or "", provider.symbol or ""
    maps = Terms.objects.filter(subscription__account=copy.account_id, subscription__strategy=copy.strategy_id)
    return symbol in own or any(own == mapped.get(symbol) for mapped in maps.values_list("symbol_map", flat=True))


def _calculated(
    copy: TradeHistory, provider: TradeHistory, listed: Mapping[str, Decimal]
) -> tuple[Decimal | None, Decimal]:
    """The profit that follows from the copy's own prices, lots and contract size, and by how much it may differ."""
    symbol, currency, lots = provider.symbol or "", copy.account.currency, _known(copy.volume)
    reported = AccountSymbol.objects.filter(account=copy.account_id, symbol=copy.symbol or "")
    size = reported.values_list("contract_size", flat=True).first() or listed.get(symbol)
    if size is None or not lots:
        return None, Decimal(0)
    parts = TradeReduction.objects.filter(trade=copy.pk).order_by("pk")
    closes = [*parts.values_list("volume", "close_price"), (_known(copy.closed_volume), copy.close_price)]
    results = [
        profit.profit(
            symbol=symbol, currency=currency, side=str(copy.type), volume=volume, open_price=_known(copy.open_price),
            price=price, contract_size=size,
        )
        for volume, price in closes
    ]  # fmt: skip
    value = profit.value_of_move(symbol=symbol, currency=currency, contract_size=size, price=copy.close_price or None)
    if value is None or None in results:
        return None, Decimal(0)
    days = (copy.closed_at - uuid7.time_of(copy.pk)) // timedelta(days=1)  # by the desk's clock, not the bot's
    bound = abs(_known(copy.open_price) * lots * value) * (OF_NOTIONAL + A_DAY * days)
    return sum((result for result in results if result is not None), Decimal(0)), bound


def _known(amount: Decimal | None) -> Decimal:
    return Decimal(0) if amount is None else amount


def _is_recorded(copy: TradeHistory) -> bool:
    rows = AuditLog.objects.filter(action=ACTION, subject=f"account:{copy.account_id}", at__gt=copy.closed_at)
    return rows.filter(detail__trade=str(copy.pk)).exists()


def _record(copy: TradeHistory, provider: TradeHistory, differs: list[str]) -> None:
    audit.record(
        ACTION, actor=audit.SYSTEM, subject=f"account:{copy.account_id}", trade=str(copy.pk),
        ticket_id=copy.ticket_id, differs=differs, symbol=copy.symbol, open_price=money.text(_known(copy.open_price)),
        close_price=money.text(copy.close_price), profit=money.text(_known(copy.profit)),
        provider=[provider.symbol, money.text(_known(provider.open_price)), money.text(provider.close_price)],
    )  # fmt: skip
