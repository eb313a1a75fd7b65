"""What copiers' bots report is compared with what the desk knows. A difference is an incident of the bot."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription
from tests.wallets.conftest import Following
from trades import services as trades
from wallets import tasks
from wallets.services import reports

LATER = timedelta(minutes=1)


def copy_and_close(follows: Following, ticket: str = "1", **told: Any) -> None:
    """A lot of EURUSD from 1.1 to 1.11, which is 1000 dollars; `told`: what finn's bot reports instead."""
    facts = {"symbol": "EURUSD", "open_price": "1.1", "close_price": "1.11", "profit": "993", **told}
    with transaction.atomic():
        trades.open_trade(
            account=follows.lena, ticket_id=ticket, symbol="EURUSD", type="BUY", volume=Decimal(1),
            open_price=Decimal("1.1"),
        )  # fmt: skip
        trades.open_trade(
            account=follows.finn, ticket_id=f"9{ticket}", symbol=facts["symbol"], type="BUY", volume=Decimal(1),
            open_price=Decimal(facts["open_price"]), copies=("lena-eurusd", ticket),
        )  # fmt: skip
    for account, own, price, profit in (
        (follows.lena, ticket, "1.11", "1000"), (follows.finn, f"9{ticket}", facts["close_price"], facts["profit"]),
    ):  # fmt: skip
        with transaction.atomic():
            trades.close_trade(
                account=account, ticket_id=own, close_price=Decimal(price), profit=Decimal(profit), reason="MANUAL"
            )


def differing() -> list[Any]:
    reports.compare(now=timezone.now() + LATER)
    return [row.detail["differs"] for row in AuditLog.objects.filter(action=reports.ACTION)]


def test_a_report_with_costs_and_slippage_is_no_incident(follows: Following) -> None:
    copy_and_close(follows, open_price="1.1004", close_price="1.1091", profit="855", symbol="EURUSD.vip")

    assert differing() == []


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"profit": "-10000"}, "profit"),
        ({"profit": "-999999999999"}, "profit"),
        ({"open_price": "1.2", "profit": "-9000"}, "open_price"),
        ({"close_price": "1.0", "profit": "-10000"}, "close_price"),
        ({"symbol": "NOSUCH"}, "symbol"),
    ],
)
def test_a_report_that_cannot_be_right_is_an_incident(follows: Following, told: dict[str, str], field: str) -> None:
    copy_and_close(follows, **told)

    assert differing() == [[field]]


def test_an_incident_is_recorded_once(follows: Following) -> None:
    copy_and_close(follows, profit="-10000")

    assert [tasks.compare_reports() for _ in range(3)] == [1, 0, 0]


def test_a_mapped_symbol_is_the_providers(follows: Following) -> None:
    strategies.set_terms(
        subscription=Subscription.objects.get(account=follows.finn), actor=audit.SYSTEM, symbol_map={"EURUSD": "6E"}
    )
    copy_and_close(follows, symbol="6E")

    assert differing() == []


def test_a_flood_of_lies_adds_a_bounded_number_of_rows(follows: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MOST", 2)
    for ticket in ("1", "2", "3"):
        copy_and_close(follows, ticket, profit="-10000")

    assert reports.compare(now=timezone.now() + LATER) == 2


def test_a_bot_that_lies_hour_after_hour_copies_nothing_new(follows: Following) -> None:
    """Its score falls below 50, so its subscriptions are restricted. One lie is not enough."""
    from trust import services as trust
    from trust.models import ScoreKind, TrustScore

    copy_and_close(follows, profit="-10000")
    reports.compare(now=timezone.now() + LATER)
    row = AuditLog.objects.get(action=reports.ACTION)
    trust.recalculate(user_id=follows.finn.owner.pk)
    score = TrustScore.objects.get(user=follows.finn.owner, kind=ScoreKind.ENDPOINT)
    assert (score.score, score.restricted_at) == (80, None)

    for hours in (2, 4, 6):  # recorded by the same task, earlier
        AuditLog.objects.create(
            actor_kind=row.actor_kind, action=row.action, subject=row.subject, detail=row.detail,
            at=row.at - timedelta(hours=hours),
        )  # fmt: skip
    trust.recalculate(user_id=follows.finn.owner.pk, now=timezone.now() + LATER)
    trust.enforce()

    score.refresh_from_db()
    assert (score.score, score.restricted_at is not None) == (20, True)
    assert Subscription.objects.get(account=follows.finn).status == "PAUSED"
