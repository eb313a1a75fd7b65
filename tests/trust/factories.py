"""Factories for the tests of trust: scores, trades, incidents, bars."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from market.models import Candle
from strategies.models import Strategy
from tests.transactions import committed
from trades import services as trades
from trades.models import CopyOrder
from trust import evidence, services
from trust.models import ScoreKind, TrustScore

DAY = timedelta(days=1)
NOW = timezone.now()
LATER = services.REST + timedelta(seconds=1)


def score_of(user: Any, kind: Any = ScoreKind.FLOW) -> TrustScore:
    return TrustScore.objects.get(user=user, kind=kind)


def make_closed_trade(account: Any, ticket: Any, profit: str = "10") -> None:
    with transaction.atomic():
        trades.open_trade(
            account=account,
            ticket_id=str(ticket),
            symbol="EURUSD",
            type="BUY",
            volume=Decimal(1),
            open_price=Decimal("1.1"),
        )
        trades.close_trade(
            account=account, ticket_id=str(ticket), close_price=Decimal("1.2"), profit=Decimal(profit), reason="TP"
        )


def set_score(user: Any, kind: Any, score: Any) -> None:
    """Write a score as a calculation does."""
    with transaction.atomic():
        services._write(user, kind, timezone.now(), score=Decimal(score), features=[], inputs={}, as_of="")


def second_strategy_of(account: Any, currency: str = "JPY") -> Strategy:
    """A second strategy of the same provider."""
    account_of_second = TradingAccount.objects.create(
        owner=account.owner, name="second", broker="b", server="s", login="2", currency=currency
    )
    return Strategy.objects.create(name="second", owner=account.owner, account=account_of_second)


def add_bars(first: Any, count: Any, minutes: int = 60, low: str = "1.05") -> None:
    Candle.objects.bulk_create(
        Candle(
            instrument_id="EURUSD", minutes=minutes, opened_at=first + timedelta(minutes=minutes * number),
            open=Decimal("1.1"), high=Decimal("1.2"), low=Decimal(low), close=Decimal("1.1"), volume=1,
        )
        for number in range(count)
    )  # fmt: skip


def evidence_about(account: Any, now: Any = None) -> Any:
    return evidence.of_provider(account.strategy, now=now or timezone.now())


def add_refusals(key: Any, code: Any, minutes: Any) -> None:
    AuditLog.objects.bulk_create(
        AuditLog(
            actor_kind="bot", actor=key, action="request.refused", outcome="refused", code=code,
            at=NOW - DAY + timedelta(minutes=minute),
        )
        for minute in minutes
    )  # fmt: skip


def add_failures(account: Any, reason: Any, minutes: Any, latency_ms: int = 4_000) -> None:
    strategy = Strategy.objects.get(name="lena-eurusd")
    CopyOrder.objects.using("owner").bulk_create(
        CopyOrder(
            account=account, strategy=strategy, seq=1, master_ticket="1", symbol="EURUSD", status="failed", volume=1,
            requested_price=1, failed_reason=reason, latency_ms=latency_ms,
            reported_at=NOW - DAY + timedelta(minutes=minute),
        )
        for minute in minutes
    )  # fmt: skip


def set_hold(user: Any, staff: User, effect: Any, **options: Any) -> Any:
    return services.hold(
        user=user, kind=ScoreKind.FLOW, effect=effect, reason="looked into it", expires_at=timezone.now() + DAY,
        by=staff, actor=audit.SYSTEM, **options,
    )  # fmt: skip


def subscribe_again(account: Any, strategy: Any) -> Any:
    from strategies import services as strategies

    return committed(strategies.subscribe, account=account, strategy=strategy, actor=audit.SYSTEM)
