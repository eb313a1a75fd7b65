"""Holds, which override scores, and appeals with their answers."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from strategies.models import Strategy
from tests.trust.factories import DAY, score_of, set_hold, set_score
from trust import services
from trust.models import ScoreKind, TrustHold, TrustSubject


def test_a_hold_keeps_open_what_the_score_would_restrict(user: User, lena: TradingAccount, staff: User) -> None:
    set_score(user, ScoreKind.FLOW, "10")
    services.enforce()
    set_hold(user, staff, TrustHold.Effect.OPEN)

    assert Strategy.objects.get(account=lena).status == "ACTIVE"


def test_a_score_is_due_when_its_restriction_may_end(user: User) -> None:
    now = timezone.now()
    set_score(user, ScoreKind.FLOW, "10")
    services.recalculate(user_id=user.pk, now=now + timedelta(hours=1))  # no trades, so 100: clean
    services.recalculate(user_id=user.pk, now=now + timedelta(hours=24.5))

    assert TrustSubject.objects.get(user=user).due_at == now + timedelta(hours=25)


def test_the_next_sweep_applies_a_hold_if_the_user_is_locked(
    user: User, lena: TradingAccount, staff: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.recalculate(user_id=user.pk)
    real = services.recalculate

    def busy(**_: Any) -> Any:
        raise OperationalError("lock timeout")

    monkeypatch.setattr(services, "recalculate", busy)
    set_hold(user, staff, TrustHold.Effect.CLOSE_ONLY)
    monkeypatch.setattr(services, "recalculate", real)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"

    services.sweep(now=timezone.now())
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"


def test_a_hold_restricts_what_the_score_would_keep_open(user: User, lena: TradingAccount, staff: User) -> None:
    hold = set_hold(user, staff, TrustHold.Effect.CLOSE_ONLY)
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"
    assert TrustSubject.objects.get(user=user).due_at <= hold.expires_at

    services.end_hold(held=hold, by=staff, actor=audit.SYSTEM)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"


@pytest.mark.parametrize(
    ("scores", "closed_after"),
    [
        (["60"], False),
        (["100"], False),
        (["60", "49", "60"], True),  # the score restricts in the meantime, as it would without a hold
        (["49"], True),
    ],
)
def test_a_restriction_by_a_hold_alone_ends_with_the_hold(
    user: User,
    lena: TradingAccount,
    staff: User,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[Any],
    closed_after: bool,
) -> None:
    now = timezone.now()
    details = {"features": [], "inputs": {}, "as_of": ""}

    def is_closed_after(score: Any, at: Any) -> Any:
        monkeypatch.setattr(services, "_results", lambda *_: [(ScoreKind.FLOW, {"score": Decimal(score), **details})])
        services.recalculate(user_id=user.pk, now=at)
        services.enforce(at)
        return Strategy.objects.get(account=lena).status == "CLOSE_ONLY"

    assert is_closed_after("60", now) is False
    hold = set_hold(user, staff, TrustHold.Effect.CLOSE_ONLY)
    for hours, score in enumerate(scores, 1):
        assert is_closed_after(score, now + timedelta(hours=hours)) is True
    assert is_closed_after(scores[-1], hold.expires_at) is closed_after


def test_the_end_of_a_hold_does_not_lift_a_restriction_by_the_score(
    user: User, lena: TradingAccount, staff: User
) -> None:
    set_score(user, ScoreKind.FLOW, "40")
    set_score(user, ScoreKind.FLOW, "60")
    hold = set_hold(user, staff, TrustHold.Effect.CLOSE_ONLY)
    set_score(user, ScoreKind.FLOW, "60")
    TrustHold.objects.using("owner").filter(pk=hold.pk).update(ended_at=timezone.now())
    set_score(user, ScoreKind.FLOW, "61")

    assert score_of(user).restricted_at


def test_a_hold_needs_a_reason_and_an_end_in_the_future(user: User, staff: User) -> None:
    for invalid in ({"reason": " "}, {"expires_at": timezone.now() - DAY}):
        fields = {"reason": "r", "expires_at": timezone.now() + DAY, **invalid}
        with pytest.raises(services.Invalid):
            services.hold(user=user, kind=ScoreKind.FLOW, effect="OPEN", by=staff, actor=audit.SYSTEM, **fields)


def test_an_appeal_is_unique_until_it_is_answered(user: User, staff: User) -> None:
    services.recalculate(user_id=user.pk)
    appeal = services.appeal(user=user, kind=ScoreKind.FLOW, note="these were hedges", actor=audit.SYSTEM)
    with pytest.raises(services.AppealedAlready):
        services.appeal(user=user, kind=ScoreKind.FLOW, note="again", actor=audit.SYSTEM)
    services.answer(appealed=appeal, text="we see", by=staff, actor=audit.SYSTEM)
    services.recalculate(user_id=user.pk)

    appeal.refresh_from_db()
    assert (appeal.answer, appeal.answered_by) == ("we see", staff)
    services.appeal(user=user, kind=ScoreKind.FLOW, note="a new score", actor=audit.SYSTEM)


def test_refuses_an_appeal_against_a_missing_score(finn: TradingAccount) -> None:
    with pytest.raises(services.NotFound):
        services.appeal(user=finn.owner, kind=ScoreKind.FLOW, note="what", actor=audit.SYSTEM)
