"""The page on which the judged find their scores: their own alone, in words, with a way to object."""

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
    known = flow("martingale", 7)
    monkeypatch.setattr(evidence, "of_provider", lambda user, now: known)
    services.recalculate(user_id=lena.owner.pk, now=known.until)
    services.enforce()


def test_a_visitor_is_asked_to_sign_in(client: Client, cast: dict[str, Any]) -> None:
    assert client.get(PAGE)["Location"] == f"/login/?next={PAGE}"


def test_who_is_not_judged_is_told_so(as_lena: Client) -> None:
    assert "Nothing here is judged yet" in text(as_lena.get(PAGE))


def test_says_what_counted_what_follows_and_what_would_raise_it(as_lena: Client, doubled: None) -> None:
    page = text(as_lena.get(PAGE))

    assert "the losses the next trade was half as large again, or more." in page
    assert "close-only Your strategies open nothing new. Closes pass, as always." in page
    assert "What would raise it Do not raise the volume after a loss." in page


def test_nobody_sees_the_scores_of_others(client: Client, finn: TradingAccount, doubled: None) -> None:
    client.force_login(finn.owner)

    assert "raise the volume" not in text(client.get(PAGE))


def test_nothing_on_it_is_inline(as_lena: Client, doubled: None) -> None:
    page = as_lena.get(PAGE).content.decode()

    assert "<svg" in page
    assert not re.findall(r"<style|style=|\son\w+=|<script(?![^>]*\ssrc=)", page)


def test_an_appeal_is_shown_with_its_answer(as_lena: Client, doubled: None, staff: User) -> None:
    sent = text(as_lena.post(f"{PAGE}appeal/", {"kind": "FLOW", "note": "I <hedge> elsewhere"}, follow=True))
    assert "Sent. Staff read it" in sent
    assert "I &lt;hedge&gt; elsewhere" in sent
    assert "Staff have not answered yet." in sent
    assert "Is this wrong?" not in sent

    services.answer(appealed=TrustAppeal.objects.get(), text="Show us.", by=staff, actor=services.audit.SYSTEM)
    assert "Staff answered" in text(as_lena.get(PAGE))


@pytest.mark.parametrize("fields", [{}, {"kind": "FLOW", "note": " "}, {"kind": "LUCK", "note": "why?"}])
def test_a_faulty_appeal_is_refused_in_words(as_lena: Client, doubled: None, fields: dict[str, Any]) -> None:
    answer = as_lena.post(f"{PAGE}appeal/", fields, follow=True)

    assert 'class="fault"' in answer.content.decode()
    assert not TrustAppeal.objects.exists()


def test_every_bar_is_as_long_as_its_points(as_lena: Client, doubled: None, lena: TradingAccount) -> None:
    (score,) = [one for one in explanations.explain(lena.owner) if one.score.kind == ScoreKind.FLOW]
    drawn = re.findall(r'class="part" width="([^"]+)"', as_lena.get(PAGE).content.decode())

    assert [float(width) for width in drawn[: len(score.counted)]] == [reason.points for reason in score.counted]


def test_the_line_runs_from_the_oldest_to_the_newest() -> None:
    assert explanations.line([Decimal(0), Decimal(50), Decimal(100)], 100, 10) == "0.0,10.0 50.0,5.0 100.0,0.0"
    assert explanations.line([Decimal(70)], 100, 100) == "0.0,30.0 100.0,30.0"


def test_what_ends_a_restriction_is_told(lena: TradingAccount) -> None:
    now = timezone.now()
    for score, at in (("40", now), ("80", now)):
        with transaction.atomic():
            services._write(lena.owner, ScoreKind.FLOW, at, score=Decimal(score), features=[], inputs={}, as_of="")
    (told,) = explanations.explain(lena.owner)
    opens = now + services.restrictions.CLEAN

    assert f"It ends on {opens.day} {opens:%B} at {opens:%H:%M} UTC if the score stays" in told.follows
