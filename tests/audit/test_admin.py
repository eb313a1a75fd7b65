"""The audit log's pages: entries can be searched and read, and not changed."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog

LOG = "admin:audit_auditlog_changelist"
TRADE = "01a1fb95-33a0-752c-8343-2269e594f9df"


@pytest.fixture
def facts(cast: dict[str, Any], lena: TradingAccount, staff: User) -> None:
    """Entries of each kind."""
    bot = audit.Actor(AuditLog.Actor.BOT, "ck_0123456789abcdef.1", "203.0.113.7", "a-request-id")
    person = audit.Actor(AuditLog.Actor.USER, str(lena.owner.pk))
    audit.record("trade.opened", actor=bot, subject=f"trade:{TRADE}", symbol="<b>EURUSD</b>", why={"deep": ["ü"]})
    audit.record("zombie.refused", actor=bot, subject="account:lena-mt5", refused="trade_closed")
    audit.record("history.viewed", actor=person, subject="account:lena-mt5")
    audit.record("strategy.frozen", actor=audit.SYSTEM, subject="strategy:lena-eurusd")


def actions(answer: Any) -> list[Any]:
    return [row.action for row in answer.context["cl"].result_list]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"action": "strategy.frozen"}, ["strategy.frozen"]),
        ({"code": "trade_closed"}, ["zombie.refused"]),
        ({"outcome__exact": "refused"}, ["zombie.refused"]),
        ({"actor_kind__exact": "user"}, ["history.viewed"]),
        ({"q": TRADE}, ["trade.opened"]),
        ({"q": f"trade:{TRADE}"}, ["trade.opened"]),
        ({"q": "account:"}, ["history.viewed", "zombie.refused"]),
        ({"q": "lena"}, ["history.viewed"]),
        ({"q": "a-request-id"}, ["zombie.refused", "trade.opened"]),
        ({"q": "ck_0123456789abcdef.1"}, ["zombie.refused", "trade.opened"]),
        ({"q": "nothing of the kind"}, []),
    ],
    ids=str,
)
def test_entries_are_searched_and_listed_latest_first(
    admin: Client, facts: None, asked: dict[str, Any], found: list[Any]
) -> None:
    assert actions(admin.get(reverse(LOG), asked)) == found


def test_the_filter_offers_each_action_that_occurs_once(admin: Client, facts: None) -> None:
    page = admin.get(reverse(LOG)).content.decode()

    for action in AuditLog.objects.values_list("action", flat=True).distinct():
        assert page.count(f'href="?action={action}"') == 1


def test_people_are_shown_by_name_and_bots_by_key(admin: Client, facts: None) -> None:
    rows = admin.get(reverse(LOG), {"q": "account:lena-mt5"}).context["cl"].result_list

    assert [row.who for row in rows] == ["lena", "ck_0123456789abcdef.1"]


def test_an_entrys_detail_is_shown_as_text(admin: Client, facts: None) -> None:
    fact = AuditLog.objects.get(action="trade.opened")

    page = admin.get(reverse("admin:audit_auditlog_change", args=[fact.pk])).content.decode()

    assert "&quot;symbol&quot;: &quot;&lt;b&gt;EURUSD&lt;/b&gt;&quot;" in page
    assert "ü" in page
    assert "<b>EURUSD" not in page


def test_viewing_the_log_writes_nothing_and_nobody_can_edit_it(admin: Client, facts: None) -> None:
    before = list(AuditLog.objects.order_by("id").values())
    fact = AuditLog.objects.first()

    admin.get(reverse(LOG))
    admin.post(reverse(LOG), {"action": "delete_selected", "_selected_action": fact.pk, "post": "yes"})
    for page in ("change", "delete"):
        answer = admin.post(reverse(f"admin:audit_auditlog_{page}", args=[fact.pk]), {"action": "x", "post": "yes"})
        assert answer.status_code == 403

    assert list(AuditLog.objects.order_by("id").values()) == before


def test_a_long_log_is_counted_only_up_to_the_limit(
    admin: Client, cast: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.admin.COUNT_LIMIT", 120)
    for number in range(130):
        audit.record("key.rotated", actor=audit.SYSTEM, subject=f"key:{number}")

    changelist = admin.get(reverse(LOG), {"action": "key.rotated", "p": "3"}).context["cl"]

    assert (changelist.result_count, changelist.paginator.num_pages) == (120, 3)
    assert [row.subject for row in changelist.result_list] == [f"key:{number}" for number in range(29, 9, -1)]
