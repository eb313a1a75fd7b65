"""Trust in the admin: what staff see, what they decide, and what they may not."""

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from strategies.models import Strategy
from tests.answers import text
from tests.browsers import of_staff
from tests.people import promote
from tests.trust.flows import flow
from trust import evidence, services
from trust.models import ScoreKind, TrustAppeal, TrustHold, TrustScore

SCORES = "/admin/trust/trustscore/"
APPEALS = "/admin/trust/trustappeal/"
PAGES = [SCORES, APPEALS, "/admin/trust/trusthold/"]


@pytest.fixture
def score(lena: TradingAccount, monkeypatch: pytest.MonkeyPatch) -> TrustScore:
    """lena's score after a year of martingale."""
    facts = flow("martingale", 7)
    monkeypatch.setattr(evidence, "of_provider", lambda user, now: facts)
    services.recalculate(user_id=lena.owner.pk, now=facts.until)
    services.enforce()
    return TrustScore.objects.get(user=lena.owner, kind=ScoreKind.FLOW)


def page(score: Any) -> Any:
    return reverse("admin:trust_trustscore_change", args=[score.pk])


def act(client: Any, score: Any, action: Any, **fields: Any) -> Any:
    form = {"action": action, "_selected_action": score.pk, **fields}
    return client.post(SCORES, form, follow=True)


def hold(client: Any, score: Any, effect: str = "OPEN", **fields: Any) -> Any:
    form = {"confirmed": "1", "effect": effect, "days": "7", "reason": "known to us"} | fields
    return act(client, score, "hold", **form)


def test_the_list_shows_the_worst_first_with_band_and_trend(admin: Client, score: TrustScore) -> None:
    services.recalculate(user_id=score.user_id)
    html = admin.get(SCORES).content.decode()

    first = re.search(r"<tbody>(.*?)</tr>", html, re.S)[1]
    assert "lena" in first
    assert "flow quality" in first
    assert 'class="chip bad">low' in first
    assert re.search(r'<polyline points="0\.0,[0-9.]+ 90\.0,[0-9.]+"', first)


def test_the_list_needs_the_same_queries_for_many_users_as_for_one(
    admin: Client, score: TrustScore, cast: dict[str, Any]
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert admin.get(SCORES).status_code == 200
        return len(captured)

    for_one = queries()
    for user in User.objects.exclude(pk=score.user_id):
        services.recalculate(user_id=user.pk)
    assert TrustScore.objects.count() > 3
    assert queries() == for_one


def test_the_page_shows_each_reason_with_a_bar(admin: Client, score: TrustScore) -> None:
    answer = admin.get(page(score))

    assert "of the losses the next trade was at least 50 % larger" in text(answer)
    assert "Reason in lena-eurusd" in text(answer)
    assert re.search(r"Calculated from \d+ bars, 365 days, \d+ deals, .* 0 positions\.", text(answer))
    assert "Your strategies open no new trades." in text(answer)
    widths = [float(width) for width in re.findall(r'class="part" width="([^"]+)"', answer.content.decode())]
    assert widths[0] == max(widths) > 50


def test_an_earlier_assessment_can_be_opened(admin: Client, score: TrustScore, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = flow("trend", 3)
    monkeypatch.setattr(evidence, "of_provider", lambda user, now: calm)
    services.recalculate(user_id=score.user_id, now=calm.until)

    assert f"Why the score was {score.score}" in text(admin.get(page(score), {"version": "1"}))
    for odd in ("2", "9", "x", "9" * 40, "-1"):
        assert "Why the score was" not in text(admin.get(page(score), {"version": odd}))


def test_a_hold_keeps_a_strategy_open_for_a_reason_and_a_time(
    admin: Client, score: TrustScore, lena: TradingAccount
) -> None:
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"
    html = text(hold(admin, score))

    assert "stays open, whatever the score, until" in html
    assert "Held by desk: “known to us”" in html
    assert Strategy.objects.get(account=lena).status == "ACTIVE"
    assert AuditLog.objects.get(action="trust.held").detail["reason"] == "known to us"

    act(admin, score, "end_hold", confirmed="1")
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"


@pytest.mark.parametrize("wrong", [{"reason": ""}, {"days": "365"}, {"effect": "GONE"}])
def test_an_invalid_hold_is_shown_again(admin: Client, score: TrustScore, wrong: dict[str, Any]) -> None:
    assert "errorlist" in hold(admin, score, **wrong).content.decode()
    assert not TrustHold.objects.exists()


def test_a_hold_asks_for_confirmation(admin: Client, score: TrustScore) -> None:
    assert "Your decision overrides the score" in text(act(admin, score, "hold"))
    assert not TrustHold.objects.exists()


def test_nobody_decides_on_their_own_score(client: Client, score: TrustScore, lena: TradingAccount) -> None:
    promote(lena.owner.pk, is_staff=True, is_superuser=True)
    client.force_login(User.objects.get(pk=lena.owner.pk))

    assert "own_score" in text(hold(client, score))
    assert not TrustHold.objects.exists()


def test_recalculating_adds_a_version_only_after_a_change(
    admin: Client, score: TrustScore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known, version in ((flow("martingale", 7), 1), (flow("trend", 3), 2)):
        monkeypatch.setattr(evidence, "of_provider", lambda strategy, now, known=known: known)
        assert "Recalculated: lena." in text(act(admin, score, "recalculate"))
        before = score.calculated_at
        score.refresh_from_db()
        assert score.version == version
        assert score.calculated_at > before


def test_several_are_recalculated_by_the_next_sweep(admin: Client, score: TrustScore, finn: TradingAccount) -> None:
    services.recalculate(user_id=finn.owner.pk)
    chosen = [row.pk for row in TrustScore.objects.all()]
    answer = admin.post(SCORES, {"action": "recalculate", "_selected_action": chosen}, follow=True)

    assert "The next sweep recalculates 2 users" in text(answer)
    pressed = services.timezone.now()
    assert services.sweep(now=pressed) >= 2
    assert {row.calculated_at for row in TrustScore.objects.all()} == {pressed}


def test_an_appeal_is_answered_once(admin: Client, score: TrustScore, lena: TradingAccount) -> None:
    appeal = services.appeal(user=lena.owner, kind=ScoreKind.FLOW, note="I hedge", actor=audit.SYSTEM)
    form = {"action": "answer", "_selected_action": appeal.pk, "confirmed": "1", "text": "Show us."}
    assert "unanswered" in text(admin.get(APPEALS))

    assert "The appeal of lena is answered." in text(admin.post(APPEALS, form, follow=True))
    admin.post(APPEALS, form | {"text": "Never mind."}, follow=True)
    appeal.refresh_from_db()
    assert (appeal.answer, appeal.answered_by.username) == ("Show us.", "desk")
    assert AuditLog.objects.filter(action="trust.answered").count() == 1


def thaw(admin: Any, strategy: Any) -> Any:
    fields = {"action": "thaw", "_selected_action": strategy.pk, "confirmed": "1", "reason": "they asked"}
    return text(admin.post("/admin/strategies/strategy/", fields, follow=True))


def test_only_a_hold_lifts_a_restriction_by_the_score(admin: Client, score: TrustScore, lena: TradingAccount) -> None:
    assert "Lena-eurusd: frozen by the owner's trust score" in (html := thaw(admin, lena.strategy))
    assert "Set a hold on that score" in html
    assert Strategy.objects.get(account=lena).frozen_for == "TRUST"
    assert not AuditLog.objects.filter(action="strategy.thawed").exists()

    Strategy.objects.filter(account=lena).update(frozen_for="HAND")
    assert "Thaw: done for lena-eurusd." in thaw(admin, lena.strategy)


def test_viewers_cannot_decide(cast: dict[str, Any], score: TrustScore) -> None:
    viewer = of_staff("vera", "view_trustscore", "view_trustappeal", "view_trusthold")

    for url in PAGES:
        assert viewer.get(url).status_code == 200
    assert "Hold…" not in text(viewer.get(page(score)))
    for action in ("hold", "end_hold", "recalculate"):
        assert act(viewer, score, action, confirmed="1").status_code == 403
    assert not TrustHold.objects.exists()


def test_staff_without_a_permission_see_nothing(cast: dict[str, Any], score: TrustScore) -> None:
    nobody = of_staff("nils")

    for url in [*PAGES, page(score)]:
        assert nobody.get(url).status_code == 403


@pytest.mark.parametrize("url", PAGES)
def test_staff_cannot_add_or_delete_rows(admin: Client, score: TrustScore, url: Any) -> None:
    assert admin.get(f"{url}add/").status_code == 403
    assert "delete_selected" not in admin.get(url).content.decode()


def test_an_appeal_links_to_its_assessment(admin: Client, score: TrustScore, lena: TradingAccount) -> None:
    appeal = services.appeal(user=lena.owner, kind=ScoreKind.FLOW, note="I hedge", actor=audit.SYSTEM)

    assert f"{page(score)}?version=1" in admin.get(f"{APPEALS}{appeal.pk}/change/").content.decode()
    assert TrustAppeal.objects.get().version == 1
