"""The sweep recalculates every user that is due, and no user delays the others."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from accounts.models import TradingAccount
from audit.models import AuditLog
from tests.signed import Bot, opening
from tests.trust.factories import DAY, LATER, NOW, add_failures, make_closed_trade, score_of
from trust import evidence, services, tasks
from trust.models import ScoreKind, TrustAssessment, TrustScore, TrustSubject


def test_the_sweep_recalculates_each_due_user_once(cast: dict[str, Any]) -> None:
    now = timezone.now()

    assert services.sweep(now=now) == 3
    assert services.sweep(now=now) == 0
    assert set(TrustAssessment.objects.values_list("version", flat=True)) == {1}


def test_a_close_makes_its_user_due(lena: TradingAccount) -> None:
    services.sweep(now=timezone.now())
    make_closed_trade(lena, 1)

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(lena.owner).version == 2


def test_events_are_collected_for_a_while(lena: TradingAccount) -> None:
    services.sweep(now=timezone.now())
    make_closed_trade(lena, 1)
    make_closed_trade(lena, 2)

    assert services.sweep(now=timezone.now() + services.REST / 2) == 0


def test_a_zombie_makes_only_its_sender_due(lena: TradingAccount, lena_bot: Bot) -> None:
    services.sweep(now=timezone.now())
    TrustSubject.objects.update(seen_until=timezone.now() - timedelta(days=1))
    assert services.sweep(now=timezone.now() + LATER) == 0  # the control: without a zombie nobody is due

    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    TrustSubject.objects.update(seen_until=timezone.now())  # the close has been seen
    lena_bot.send("POST", fields=opening("1"))

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50


def test_a_user_whose_calculation_fails_delays_nobody(
    cast: dict[str, Any], lena: TradingAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = evidence.of_provider

    def broken(strategy: Any, *, now: Any) -> Any:
        if strategy.owner == lena.owner:
            raise OperationalError("canceling statement due to statement timeout")
        return real(strategy, now=now)

    monkeypatch.setattr(evidence, "of_provider", broken)
    now = timezone.now()
    assert services.sweep(now=now) == 2
    assert not TrustScore.objects.filter(user=lena.owner).exists()

    monkeypatch.setattr(evidence, "of_provider", real)
    assert services.sweep(now=now + LATER) == 1
    assert score_of(lena.owner).version == 1


@pytest.mark.parametrize("search", ["_make_new_users_due", "_make_users_with_events_due"])
def test_a_failing_search_for_events_does_not_stop_the_sweep(
    cast: dict[str, Any], monkeypatch: pytest.MonkeyPatch, search: str
) -> None:
    def broken(now: Any) -> Any:
        raise OperationalError("canceling statement due to statement timeout")

    now = timezone.now()
    services.sweep(now=now)
    monkeypatch.setattr(services, search, broken)

    assert services.sweep(now=now + DAY + timedelta(minutes=1)) == 3


def test_a_locked_user_does_not_delay_the_sweep(
    cast: dict[str, Any], lena: TradingAccount, finn: TradingAccount, desk_db: str
) -> None:
    """Another worker has locked lena's row; there are events of her and of finn."""
    import psycopg

    from tests import databases

    services.sweep(now=timezone.now())
    make_closed_trade(lena, 1)
    add_failures(finn, "TTL_EXPIRED", [DAY / timedelta(minutes=1)])
    TrustSubject.objects.update(seen_until=NOW - DAY)
    with psycopg.connect(**databases.login(), dbname=desk_db) as other_worker:
        other_worker.execute("select from trust_subjects where user_id = %s for no key update", [lena.owner.pk])
        assert services.sweep(now=timezone.now() + LATER) == 1
        assert services.make_due([lena.owner.pk, finn.owner.pk]) == 1
    assert services.sweep(now=timezone.now() + LATER) == 2


def test_a_day_without_events_makes_users_due(cast: dict[str, Any]) -> None:
    services.sweep(now=timezone.now())

    assert services.sweep(now=timezone.now() + DAY + timedelta(minutes=1)) == 3


def test_the_task_runs_the_sweep(cast: dict[str, Any]) -> None:
    assert tasks.sweep() == 3


def test_a_report_that_differs_makes_its_owner_due(finn: TradingAccount) -> None:
    services.sweep(now=timezone.now())
    details: dict[str, Any] = {"outcome": "ok", "code": "", "detail": {}}
    AuditLog.objects.create(actor_kind="system", action="copy.report_differs", subject=f"account:{finn.pk}", **details)

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(finn.owner, ScoreKind.ENDPOINT).score == 80
