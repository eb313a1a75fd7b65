"""The trust API: a user's own scores, and appeals."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from tests.signed import HOST, Bot, opening
from trust import services
from trust.models import ScoreKind, TrustAppeal, TrustHold

ME = "/api/v2/trust/me"


class Person:
    def __init__(self, account: Any) -> None:
        self.client = Client()
        self.client.force_login(account.owner)

    def scores(self) -> dict[Any, Any]:
        answer = self.client.get(ME, HTTP_HOST=HOST)
        assert answer.status_code == 200
        return {score["kind"]: score for score in answer.json()["data"]}

    def appeal(self, **fields: Any) -> Any:
        return self.client.post(f"{ME}/appeals", fields, content_type="application/json", HTTP_HOST=HOST)


@pytest.fixture
def unreliable(lena: TradingAccount, lena_bot: Bot) -> Person:
    """lena's bot sent a closed trade again."""
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    lena_bot.send("POST", fields=opening("1"))
    services.recalculate(user_id=lena.owner.pk)
    return Person(lena)


def test_a_user_without_an_assessment_has_no_scores(lena: TradingAccount) -> None:
    assert Person(lena).scores() == {}


def test_a_score_comes_with_its_reasons_and_remedies(unreliable: Person) -> None:
    score = unreliable.scores()[ScoreKind.ENDPOINT]

    assert (score["score"], score["band"], score["close_only"]) == ("50.00", "WATCH", False)
    (reason,) = score["reasons"]
    assert reason["says"] == "Your bot sent a closed trade again as a new one, on one occasion."
    assert (reason["points"], reason["state"]) == (50, "counts")
    assert "restart" in reason["remedy"]


def test_the_features_of_a_flow_come_with_their_limits(unreliable: Person) -> None:
    reasons = {reason["name"]: reason for reason in unreliable.scores()[ScoreKind.FLOW]["reasons"]}

    assert reasons["martingale"]["state"] == "too few"
    assert (reasons["martingale"]["warn"], reasons["martingale"]["least_n"]) == (0.3, 10)
    assert reasons["markout_1h"]["state"] == "for information"


def test_a_hold_comes_with_its_reason_and_end(unreliable: Person, lena: TradingAccount, staff: User) -> None:
    ends = timezone.now() + timedelta(days=3)
    services.hold(
        user=lena.owner, kind=ScoreKind.FLOW, effect=TrustHold.Effect.CLOSE_ONLY, reason="we look into it",
        expires_at=ends, by=staff, actor=audit.SYSTEM,
    )  # fmt: skip
    score = unreliable.scores()[ScoreKind.FLOW]

    assert score["close_only"] is True
    assert (score["held"]["effect"], score["held"]["reason"]) == ("CLOSE_ONLY", "we look into it")
    assert score["follows"].endswith(f"This is a decision of staff until {ends.day} {ends:%B} at {ends:%H:%M} UTC.")


def test_a_new_appeal_is_possible_after_an_answer(unreliable: Person, lena: TradingAccount, staff: User) -> None:
    first = unreliable.appeal(kind="ENDPOINT", note="it was a test")
    assert (first.status_code, first.json()["note"]) == (201, "it was a test")
    second = unreliable.appeal(kind="ENDPOINT", note="hello?")
    assert (second.status_code, second.json()["code"]) == (409, "appealed_already")

    services.answer(appealed=TrustAppeal.objects.get(), text="we see", by=staff, actor=audit.SYSTEM)
    assert unreliable.scores()[ScoreKind.ENDPOINT]["appeal"]["answer"] == "we see"
    assert unreliable.appeal(kind="ENDPOINT", note="thank you").status_code == 201
    assert AuditLog.objects.filter(action="trust.appealed").count() == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"kind": "FLOW"}, "invalid"),
        ({"kind": "FLOW", "note": " "}, "invalid"),
        ({"kind": "FLOW", "note": "x" * 2001}, "invalid"),
        ({"kind": "LUCK", "note": "why?"}, "invalid"),
        ({"kind": "FLOW", "note": "why?", "score": 100}, "invalid"),
    ],
)
def test_refuses_an_invalid_appeal(unreliable: Person, fields: dict[str, Any], code: str) -> None:
    answer = unreliable.appeal(**fields)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert not TrustAppeal.objects.exists()


def test_refuses_an_appeal_against_a_missing_score(finn: TradingAccount) -> None:
    services.recalculate(user_id=finn.owner.pk)

    assert Person(finn).appeal(kind="FLOW", note="why?").status_code == 404


def test_nobody_reads_the_scores_of_others(unreliable: Person, finn: TradingAccount) -> None:
    services.recalculate(user_id=finn.owner.pk)

    assert {kind: score["score"] for kind, score in Person(finn).scores().items()} == {"ENDPOINT": "100.00"}


def test_the_score_is_exact(unreliable: Person, lena: TradingAccount) -> None:
    with transaction.atomic():
        services._write(
            lena.owner, ScoreKind.FLOW, timezone.now(), score=Decimal("83.07"), features=[], inputs={}, as_of=""
        )

    assert unreliable.scores()[ScoreKind.FLOW]["score"] == "83.07"
