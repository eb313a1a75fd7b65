"""What staff see of the scores and decide instead of them; and what they may not."""

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
from tests.trust.flows import flow
from trust import evidence, services
from trust.models import ScoreKind, TrustAppeal, TrustHold, TrustScore

SCORES = "/admin/trust/trustscore/"
APPEALS = "/admin/trust/trustappeal/"
PAGES = [SCORES, APPEALS, "/admin/trust/trusthold/"]


@pytest.fixture
def admin(client: Client, staff: User) -> Client:
    client.force_login(staff)
    return client


@pytest.fixture
def score(lena: TradingAccount, monkeypatch: pytest.MonkeyPatch) -> TrustScore:
    """lena's, after a year of martingale."""
    known = flow("martingale", 7)
    monkeypatch.setattr(evidence, "of_provider", lambda user, now: known)
    services.recalculate(user_id=lena.owner.pk, now=known.until)
    services.enforce()
    return TrustScore.objects.get(user=lena.owner, kind=ScoreKind.FLOW)


def page(score: Any) -> Any:
    return reverse("admin:trust_trustscore_change", args=[score.pk])


def act(client: Any, score: Any, action: Any, **fields: Any) -> Any:
    told = {"action": action, "_selected_action": score.pk, **fields}
    return client.post(SCORES, told, follow=True)


def hold(client: Any, score: Any, effect: str = "OPEN", **fields: Any) -> Any:
    told = {"confirmed": "1", "effect": effect, "days": "7", "reason": "known to us"} | fields
    return act(client, score, "hold", **told)


def test_the_list_shows_the_worst_first_with_band_and_trend(admin: Client, score: TrustScore) -> None:
    services.recalculate(user_id=score.user_id)
    shown = admin.get(SCORES).content.decode()

    first = re.search(r"<tbody>(.*?)</tr>", shown, re.S)[1]
    assert "lena" in first
    assert "flow quality" in first
    assert 'class="chip bad">low' in first
    assert re.search(r'<polyline points="0\.0,[0-9.]+ 90\.0,[0-9.]+"', first)


def test_the_list_asks_as_much_of_the_database_for_many_as_for_one(
    admin: Client, score: TrustScore, cast: dict[str, Any]
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as asked:
            assert admin.get(SCORES).status_code == 200
        return len(asked)

    one = queries()
    for user in User.objects.exclude(pk=score.user_id):
        services.recalculate(user_id=user.pk)
    assert TrustScore.objects.count() > 3
    assert queries() == one


def test_the_page_says_why_with_a_bar_for_each(admin: Client, score: TrustScore) -> None:
    shown = admin.get(page(score))

    assert "of the losses the next trade was half as large again" in text(shown)
    assert "What was looked at in lena-eurusd" in text(shown)
    assert re.search(r"It rests on \d+ bars, 365 days, \d+ deals, .* 0 positions\.", text(shown))
    assert "Your strategies open nothing new." in text(shown)
    widths = [float(width) for width in re.findall(r'class="part" width="([^"]+)"', shown.content.decode())]
    assert widths[0] == max(widths) > 50


def test_an_earlier_calculation_can_be_looked_at(
    admin: Client, score: TrustScore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = flow("trend", 3)
    monkeypatch.setattr(evidence, "of_provider", lambda user, now: calm)
    services.recalculate(user_id=score.user_id, now=calm.until)

    assert f"Why it was {score.score}" in text(admin.get(page(score), {"version": "1"}))
    for odd in ("2", "9", "x", "9" * 40, "-1"):
        assert "Why it was" not in text(admin.get(page(score), {"version": odd}))


def test_staff_keep_open_what_the_score_closed_for_a_reason_and_a_time(
    admin: Client, score: TrustScore, lena: TradingAccount
) -> None:
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"
    said = text(hold(admin, score))

    assert "stays open, whatever the score, until" in said
    assert "Held by desk: “known to us”" in said
    assert Strategy.objects.get(account=lena).status == "ACTIVE"
    assert AuditLog.objects.get(action="trust.held").detail["reason"] == "known to us"

    act(admin, score, "end_hold", confirmed="1")
    assert Strategy.objects.get(account=lena).status == "CLOSE_ONLY"


@pytest.mark.parametrize("wrong", [{"reason": ""}, {"days": "365"}, {"effect": "GONE"}])
def test_a_hold_that_cannot_be_is_asked_again(admin: Client, score: TrustScore, wrong: dict[str, Any]) -> None:
    assert "errorlist" in hold(admin, score, **wrong).content.decode()
    assert not TrustHold.objects.exists()


def test_a_hold_asks_before_it_takes_effect(admin: Client, score: TrustScore) -> None:
    assert "You decide instead of the score" in text(act(admin, score, "hold"))
    assert not TrustHold.objects.exists()


def test_nobody_decides_on_their_own_score(client: Client, score: TrustScore, lena: TradingAccount) -> None:
    User.objects.filter(pk=lena.owner.pk).update(is_staff=True, is_superuser=True)
    client.force_login(User.objects.get(pk=lena.owner.pk))

    assert "own_score" in text(hold(client, score))
    assert not TrustHold.objects.exists()


def test_recalculate_adds_a_version_where_something_has_changed(
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
    chosen = [one.pk for one in TrustScore.objects.all()]
    told = admin.post(SCORES, {"action": "recalculate", "_selected_action": chosen}, follow=True)

    assert "2 users are due" in text(told)
    pressed = services.timezone.now()
    assert services.sweep(now=pressed) >= 2
    assert {one.calculated_at for one in TrustScore.objects.all()} == {pressed}


def test_an_appeal_is_answered_once(admin: Client, score: TrustScore, lena: TradingAccount) -> None:
    made = services.appeal(user=lena.owner, kind=ScoreKind.FLOW, note="I hedge", actor=audit.SYSTEM)
    told = {"action": "answer", "_selected_action": made.pk, "confirmed": "1", "text": "Show us."}
    assert "waits" in text(admin.get(APPEALS))

    assert "Answered lena." in text(admin.post(APPEALS, told, follow=True))
    admin.post(APPEALS, told | {"text": "Never mind."}, follow=True)
    made.refresh_from_db()
    assert (made.answer, made.answered_by.username) == ("Show us.", "desk")
    assert AuditLog.objects.filter(action="trust.answered").count() == 1


def thaw(admin: Any, strategy: Any) -> Any:
    fields = {"action": "thaw", "_selected_action": strategy.pk, "confirmed": "1", "reason": "they asked"}
    return text(admin.post("/admin/strategies/strategy/", fields, follow=True))


def test_what_the_score_closed_is_opened_by_a_hold_alone(
    admin: Client, score: TrustScore, lena: TradingAccount
) -> None:
    assert "Lena-eurusd: closed by the owner's trust score" in (said := thaw(admin, lena.strategy))
    assert "Set a hold on that score" in said
    assert Strategy.objects.get(account=lena).frozen_for == "TRUST"
    assert not AuditLog.objects.filter(action="strategy.thawed").exists()

    Strategy.objects.filter(account=lena).update(frozen_for="HAND")
    assert "Thaw: done for lena-eurusd." in thaw(admin, lena.strategy)


def test_looking_is_not_deciding(cast: dict[str, Any], score: TrustScore) -> None:
    looks = of_staff("vera", "view_trustscore", "view_trustappeal", "view_trusthold")

    for url in PAGES:
        assert looks.get(url).status_code == 200
    assert "Hold…" not in text(looks.get(page(score)))
    for action in ("hold", "end_hold", "recalculate"):
        assert act(looks, score, action, confirmed="1").status_code == 403
    assert not TrustHold.objects.exists()


def test_staff_without_a_permission_see_nothing(cast: dict[str, Any], score: TrustScore) -> None:
    nobody = of_staff("nils")

    for url in [*PAGES, page(score)]:
        assert nobody.get(url).status_code == 403


@pytest.mark.parametrize("url", PAGES)
def test_nothing_is_added_or_deleted_by_hand(admin: Client, score: TrustScore, url: Any) -> None:
    assert admin.get(f"{url}add/").status_code == 403
    assert "delete_selected" not in admin.get(url).content.decode()


def test_an_appeal_links_to_the_calculation_that_it_is_about(
    admin: Client, score: TrustScore, lena: TradingAccount
) -> None:
    made = services.appeal(user=lena.owner, kind=ScoreKind.FLOW, note="I hedge", actor=audit.SYSTEM)

    assert f"{page(score)}?version=1" in admin.get(f"{APPEALS}{made.pk}/change/").content.decode()
    assert TrustAppeal.objects.get().version == 1
