"""Staff decide instead of the score, and answer to the judged."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from strategies.models import Strategy
from tests.trust.factories import DAY, held, score_of, set_score
from trust import services
from trust.models import ScoreKind, TrustHold, TrustSubject


def test_staff_keep_open_what_the_score_would_close(user: User, lena: TradingAccount, staff: User) -> None:
    set_score(user, ScoreKind.FLOW, "10")
    services.enforce()
    held(user, staff, TrustHold.Effect.OPEN)

    assert Strategy.objects.get(account=lena).status == "ACTIVE"


def test_it_is_looked_at_when_it_may_open(user: User) -> None:
    now = timezone.now()
    set_score(user, ScoreKind.FLOW, "10")
    services.recalculate(user_id=user.pk, now=now + timedelta(hours=1))  # without trades it is 100 again: clean since
    services.recalculate(user_id=user.pk, now=now + timedelta(hours=24.5))

    assert TrustSubject.objects.get(user=user).due_at == now + timedelta(hours=25)


def test_a_hold_takes_effect_with_the_next_sweep_where_a_worker_is_at_it(
    user: User, lena: TradingAccount, staff: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.recalculate(user_id=user.pk)
    real = services.recalculate

    def busy(**_: Any) -> Any:
        raise OperationalError("lock timeout")

    monkeypatch.setattr(services, "recalculate", busy)
    held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    monkeypatch.setattr(services, "recalculate", real)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"

    services.sweep(now=timezone.now())
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"


def test_staff_keep_closed_what_the_score_would_open_until_a_day(user: User, lena: TradingAccount, staff: User) -> None:
    one = held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"
    assert TrustSubject.objects.get(user=user).due_at <= one.expires_at

    services.end_hold(held=one, by=staff, actor=audit.SYSTEM)
    assert Strategy.objects.get(account=lena).status == "ACTIVE"


@pytest.mark.parametrize(
    ("scores", "closed_after"),
    [
        (["60"], False),
        (["100"], False),
        (["60", "49", "60"], True),  # the score closed it meanwhile, as it would have without a hold
        (["49"], True),
    ],
)
def test_what_a_hold_alone_closed_opens_with_its_end(
    user: User,
    lena: TradingAccount,
    staff: User,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[Any],
    closed_after: bool,
) -> None:
    now = timezone.now()
    judged = {"features": [], "inputs": {}, "as_of": ""}

    def judge(score: Any, at: Any) -> Any:
        monkeypatch.setattr(services, "_judged", lambda *_: [(ScoreKind.FLOW, {"score": Decimal(score), **judged})])
        services.recalculate(user_id=user.pk, now=at)
        services.enforce(at)
        return Strategy.objects.get(account=lena).status == "CLOSE_ONLY"

    assert judge("60", now) is False
    one = held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    for hours, score in enumerate(scores, 1):
        assert judge(score, now + timedelta(hours=hours)) is True
    assert judge(scores[-1], one.expires_at) is closed_after


def test_a_hold_on_what_the_score_closed_does_not_open_it_when_it_ends(
    user: User, lena: TradingAccount, staff: User
) -> None:
    set_score(user, ScoreKind.FLOW, "40")
    set_score(user, ScoreKind.FLOW, "60")
    one = held(user, staff, TrustHold.Effect.CLOSE_ONLY)
    set_score(user, ScoreKind.FLOW, "60")
    TrustHold.objects.filter(pk=one.pk).update(ended_at=timezone.now())
    set_score(user, ScoreKind.FLOW, "61")

    assert score_of(user).restricted_at


def test_a_hold_needs_a_reason_and_a_day_to_come(user: User, staff: User) -> None:
    for more in ({"reason": " "}, {"expires_at": timezone.now() - DAY}):
        asked = {"reason": "r", "expires_at": timezone.now() + DAY, **more}
        with pytest.raises(services.Invalid):
            services.hold(user=user, kind=ScoreKind.FLOW, effect="OPEN", by=staff, actor=audit.SYSTEM, **asked)


def test_a_score_is_appealed_once_and_answered(user: User, staff: User) -> None:
    services.recalculate(user_id=user.pk)
    made = services.appeal(user=user, kind=ScoreKind.FLOW, note="these were hedges", actor=audit.SYSTEM)
    with pytest.raises(services.AppealedAlready):
        services.appeal(user=user, kind=ScoreKind.FLOW, note="again", actor=audit.SYSTEM)
    services.answer(appealed=made, text="we see", by=staff, actor=audit.SYSTEM)
    services.recalculate(user_id=user.pk)

    made.refresh_from_db()
    assert (made.answer, made.answered_by) == ("we see", staff)
    services.appeal(user=user, kind=ScoreKind.FLOW, note="a new score", actor=audit.SYSTEM)


def test_nobody_appeals_what_is_no_score(finn: TradingAccount) -> None:
    with pytest.raises(services.NotFound):
        services.appeal(user=finn.owner, kind=ScoreKind.FLOW, note="what", actor=audit.SYSTEM)
