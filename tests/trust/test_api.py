"""What the judged read of their scores over HTTP, and what they may say."""

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
        return {one["kind"]: one for one in answer.json()["data"]}

    def appeal(self, **fields: Any) -> Any:
        return self.client.post(f"{ME}/appeals", fields, content_type="application/json", HTTP_HOST=HOST)


@pytest.fixture
def misbehaved(lena: TradingAccount, lena_bot: Bot) -> Person:
    """lena's bot sent a closed trade again."""
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    lena_bot.send("POST", fields=opening("1"))
    services.recalculate(user_id=lena.owner.pk)
    return Person(lena)


def test_whoever_is_not_judged_yet_has_no_scores(lena: TradingAccount) -> None:
    assert Person(lena).scores() == {}


def test_a_score_says_why_and_what_would_raise_it(misbehaved: Person) -> None:
    told = misbehaved.scores()[ScoreKind.ENDPOINT]

    assert (told["score"], told["band"], told["close_only"]) == ("50.00", "WATCH", False)
    (reason,) = told["reasons"]
    assert reason["says"] == "A trade that is closed was sent again as a new one, on one occasion."
    assert (reason["points"], reason["state"]) == (50, "counts")
    assert "restart" in reason["remedy"]


def test_what_a_flow_was_judged_by_comes_with_its_limits(misbehaved: Person) -> None:
    reasons = {one["name"]: one for one in misbehaved.scores()[ScoreKind.FLOW]["reasons"]}

    assert reasons["martingale"]["state"] == "too few"
    assert (reasons["martingale"]["warn"], reasons["martingale"]["least_n"]) == (0.3, 10)
    assert reasons["markout_1h"]["state"] == "for information"


def test_a_hold_is_told_with_its_reason_and_its_end(misbehaved: Person, lena: TradingAccount, staff: User) -> None:
    ends = timezone.now() + timedelta(days=3)
    services.hold(
        user=lena.owner, kind=ScoreKind.FLOW, effect=TrustHold.Effect.CLOSE_ONLY, reason="we look into it",
        expires_at=ends, by=staff, actor=audit.SYSTEM,
    )  # fmt: skip
    told = misbehaved.scores()[ScoreKind.FLOW]

    assert told["close_only"] is True
    assert (told["held"]["effect"], told["held"]["reason"]) == ("CLOSE_ONLY", "we look into it")
    assert told["follows"].endswith(f"Staff decided so until {ends.day} {ends:%B} at {ends:%H:%M} UTC.")


def test_an_appeal_waits_for_its_answer_and_then_there_may_be_another(
    misbehaved: Person, lena: TradingAccount, staff: User
) -> None:
    first = misbehaved.appeal(kind="ENDPOINT", note="it was a test")
    assert (first.status_code, first.json()["note"]) == (201, "it was a test")
    again = misbehaved.appeal(kind="ENDPOINT", note="hello?")
    assert (again.status_code, again.json()["code"]) == (409, "appealed_already")

    services.answer(appealed=TrustAppeal.objects.get(), text="we see", by=staff, actor=audit.SYSTEM)
    assert misbehaved.scores()[ScoreKind.ENDPOINT]["appeal"]["answer"] == "we see"
    assert misbehaved.appeal(kind="ENDPOINT", note="thank you").status_code == 201
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
def test_what_cannot_be_read_is_refused_in_words(misbehaved: Person, fields: dict[str, Any], code: str) -> None:
    answer = misbehaved.appeal(**fields)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert not TrustAppeal.objects.exists()


def test_a_score_that_there_is_not_cannot_be_appealed(finn: TradingAccount) -> None:
    services.recalculate(user_id=finn.owner.pk)

    assert Person(finn).appeal(kind="FLOW", note="why?").status_code == 404


def test_nobody_reads_the_scores_of_others(misbehaved: Person, finn: TradingAccount) -> None:
    services.recalculate(user_id=finn.owner.pk)

    assert {kind: one["score"] for kind, one in Person(finn).scores().items()} == {"ENDPOINT": "100.00"}


def test_the_score_is_exact(misbehaved: Person, lena: TradingAccount) -> None:
    with transaction.atomic():
        services._write(
            lena.owner, ScoreKind.FLOW, timezone.now(), score=Decimal("83.07"), features=[], inputs={}, as_of=""
        )

    assert misbehaved.scores()[ScoreKind.FLOW]["score"] == "83.07"
