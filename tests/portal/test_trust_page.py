"""The trust page: a user's own scores alone, their reasons in words, and appeals."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from accounts.models import TradingAccount, User
from tests.answers import text
from tests.trust.flows import flow
from trust import evidence, explanations, services
from trust.models import ScoreKind, TrustAppeal

PAGE = "/trust/"


@pytest.fixture
def as_lena(client: Client, lena: TradingAccount) -> Client:
    client.force_login(lena.owner)
    return client


@pytest.fixture
def doubled(lena: TradingAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    """lena doubled her volume after each loss, for a year."""
    evidence_of_lena = flow("martingale", 7)
    monkeypatch.setattr(evidence, "of_provider", lambda user, now: evidence_of_lena)
    services.recalculate(user_id=lena.owner.pk, now=evidence_of_lena.until)
    services.enforce()


def test_a_visitor_is_asked_to_sign_in(client: Client, cast: dict[str, Any]) -> None:
    assert client.get(PAGE)["Location"] == f"/login/?next={PAGE}"


def test_a_user_without_scores_is_told_so(as_lena: Client) -> None:
    assert "You have no scores yet" in text(as_lena.get(PAGE))


def test_shows_reasons_restriction_and_remedies(as_lena: Client, doubled: None) -> None:
    page = text(as_lena.get(PAGE))

    assert "the losses the next trade was at least 50 % larger." in page
    assert "close-only Your strategies open no new trades. Closes always pass." in page
    assert "What would raise the score Do not raise the volume after a loss." in page


def test_nobody_sees_the_scores_of_others(client: Client, finn: TradingAccount, doubled: None) -> None:
    client.force_login(finn.owner)

    assert "raise the volume" not in text(client.get(PAGE))


def test_the_page_has_no_inline_scripts_or_styles(as_lena: Client, doubled: None) -> None:
    page = as_lena.get(PAGE).content.decode()

    assert "<svg" in page
    assert not re.findall(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_an_appeal_is_shown_with_its_answer(as_lena: Client, doubled: None, staff: User) -> None:
    sent = text(as_lena.post(f"{PAGE}appeal/", {"kind": "FLOW", "note": "I <hedge> elsewhere"}, follow=True))
    assert "Appeal sent. Staff will review it" in sent
    assert "I &lt;hedge&gt; elsewhere" in sent
    assert "Staff have not answered yet." in sent
    assert "Appeal this score" not in sent

    services.answer(appealed=TrustAppeal.objects.get(), text="Show us.", by=staff, actor=services.audit.SYSTEM)
    assert "Staff's answer" in text(as_lena.get(PAGE))


@pytest.mark.parametrize("fields", [{}, {"kind": "FLOW", "note": " "}, {"kind": "LUCK", "note": "why?"}])
def test_an_invalid_appeal_is_refused_with_a_message(as_lena: Client, doubled: None, fields: dict[str, Any]) -> None:
    answer = as_lena.post(f"{PAGE}appeal/", fields, follow=True)

    assert 'class="fault"' in answer.content.decode()
    assert not TrustAppeal.objects.exists()


def test_each_bar_is_as_long_as_its_points(as_lena: Client, doubled: None, lena: TradingAccount) -> None:
    (score,) = [score for score in explanations.explain(lena.owner) if score.score.kind == ScoreKind.FLOW]
    drawn = re.findall(r'class="part" width="([^"]+)"', as_lena.get(PAGE).content.decode())

    assert [float(width) for width in drawn[: len(score.counted)]] == [reason.points for reason in score.counted]


def test_the_trend_line_runs_from_the_oldest_score_to_the_latest() -> None:
    assert explanations.line([Decimal(0), Decimal(50), Decimal(100)], 100, 10) == "0.0,10.0 50.0,5.0 100.0,0.0"
    assert explanations.line([Decimal(70)], 100, 100) == "0.0,30.0 100.0,30.0"


def test_says_when_a_restriction_ends(lena: TradingAccount) -> None:
    now = timezone.now()
    for score, at in (("40", now), ("80", now)):
        with transaction.atomic():
            services._write(lena.owner, ScoreKind.FLOW, at, score=Decimal(score), features=[], inputs={}, as_of="")
    (explanation,) = explanations.explain(lena.owner)
    opens = now + services.restrictions.CLEAN

    assert (
        f"The restriction ends on {opens.day} {opens:%B} at {opens:%H:%M} UTC if the score stays"
        in explanation.consequence
    )
