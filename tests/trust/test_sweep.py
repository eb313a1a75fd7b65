"""Whoever is due is judged, and nobody keeps the others waiting."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from accounts.models import TradingAccount
from tests.signed import Bot, opening
from tests.trust.factories import DAY, LATER, NOW, closed, failed, score_of
from trust import evidence, services, tasks
from trust.models import ScoreKind, TrustAssessment, TrustScore, TrustSubject


def test_the_sweep_takes_whoever_is_due_once(cast: dict[str, Any]) -> None:
    now = timezone.now()

    assert services.sweep(now=now) == 3
    assert services.sweep(now=now) == 0
    assert set(TrustAssessment.objects.values_list("version", flat=True)) == {1}


def test_a_close_makes_its_user_due(lena: TradingAccount) -> None:
    services.sweep(now=timezone.now())
    closed(lena, 1)

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(lena.owner).version == 2


def test_news_is_gathered_for_a_while(lena: TradingAccount) -> None:
    services.sweep(now=timezone.now())
    closed(lena, 1)
    closed(lena, 2)

    assert services.sweep(now=timezone.now() + services.REST / 2) == 0


def test_a_zombie_makes_its_sender_due_and_nobody_else(lena: TradingAccount, lena_bot: Bot) -> None:
    services.sweep(now=timezone.now())
    TrustSubject.objects.update(seen_until=timezone.now() - timedelta(days=1))
    assert services.sweep(now=timezone.now() + LATER) == 0  # the control: without it nobody is due

    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    TrustSubject.objects.update(seen_until=timezone.now())  # the close has been seen
    lena_bot.send("POST", fields=opening("1"))

    assert services.sweep(now=timezone.now() + LATER) == 1
    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50


def test_one_who_cannot_be_judged_keeps_nobody_waiting(
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


@pytest.mark.parametrize("look", ["_meet", "_hear"])
def test_a_look_for_news_that_fails_does_not_stop_the_sweep(
    cast: dict[str, Any], monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    def broken(now: Any) -> Any:
        raise OperationalError("canceling statement due to statement timeout")

    now = timezone.now()
    services.sweep(now=now)
    monkeypatch.setattr(services, look, broken)

    assert services.sweep(now=now + DAY + timedelta(minutes=1)) == 3


def test_one_who_is_being_judged_just_now_keeps_no_sweep_waiting(
    cast: dict[str, Any], lena: TradingAccount, finn: TradingAccount, desk_db: str
) -> None:
    """Another worker has lena's row; there is news of her and of finn."""
    import psycopg

    from tests import databases

    services.sweep(now=timezone.now())
    closed(lena, 1)
    failed(finn, "TTL_EXPIRED", [DAY / timedelta(minutes=1)])
    TrustSubject.objects.update(seen_until=NOW - DAY)
    with psycopg.connect(**databases.login(), dbname=desk_db) as other:
        other.execute("select from trust_subjects where user_id = %s for no key update", [lena.owner.pk])
        assert services.sweep(now=timezone.now() + LATER) == 1
        assert services.make_due([lena.owner.pk, finn.owner.pk]) == 1
    assert services.sweep(now=timezone.now() + LATER) == 2


def test_a_day_without_news_is_news(cast: dict[str, Any]) -> None:
    services.sweep(now=timezone.now())

    assert services.sweep(now=timezone.now() + DAY + timedelta(minutes=1)) == 3


def test_the_task_does_the_same(cast: dict[str, Any]) -> None:
    assert tasks.sweep() == 3
