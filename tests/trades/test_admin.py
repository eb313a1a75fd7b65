"""What staff may do in the admin, and what nobody may."""

import pytest
from django.contrib.auth.models import Permission
from django.db import transaction
from django.urls import reverse

from accounts.models import BotKey, User
from audit.models import AuditLog
from tests.signed import opening
from trades import services
from trades.models import ActiveTrade, TradeHistory

READ_ONLY = ["trades_activetrade", "trades_tradehistory", "trades_copyorder", "audit_auditlog"]


@pytest.fixture
def admin(client, staff):
    """The browser of `desk`, a superuser."""
    client.force_login(staff)
    return client


@pytest.fixture
def viewer(client, cast):
    """A staff member who may see trades, but not close them."""
    user = User.objects.create_user("vera", password=None, is_staff=True)
    names = ["view_activetrade", "view_tradehistory"]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client.force_login(user)
    return client


def open_one(account, ticket="1"):
    with transaction.atomic():
        return services.open_trade(account=account, **as_decimals(opening(ticket)))["trade"]["trade_id"]


def as_decimals(fields):
    from decimal import Decimal

    amounts = ("volume", "open_price", "sl", "tp")
    return {name: Decimal(value) if name in amounts else value for name, value in fields.items()}


def close_one(account, ticket="1", profit="5"):
    from decimal import Decimal

    open_one(account, ticket)
    with transaction.atomic():
        services.close_trade(
            account=account, ticket_id=ticket, close_price=Decimal("1.11"), profit=Decimal(profit), reason="TP"
        )
    return TradeHistory.objects.get(ticket_id=ticket)


def force_close(browser, trade_id, **more):
    form = {
        "action": "force_close", "_selected_action": trade_id, "confirmed": "1", "note": "the provider's bot is gone",
        "form-TOTAL_FORMS": "1", "form-INITIAL_FORMS": "1", "form-0-trade_id": trade_id, "form-0-close_price": "1.1",
        "form-0-profit": "-5", **more,
    }  # fmt: skip
    return browser.post(reverse("admin:trades_activetrade_changelist"), form, follow=True)


@pytest.mark.parametrize("model", READ_ONLY)
def test_a_superuser_cannot_add_change_or_delete(admin, lena, model):
    closed = close_one(lena)
    pk = {"trades_activetrade": open_one(lena, "2"), "audit_auditlog": AuditLog.objects.first().pk}.get(
        model, closed.pk
    )

    assert admin.get(reverse(f"admin:{model}_add")).status_code == 403
    assert admin.post(reverse(f"admin:{model}_delete", args=[pk]), {"post": "yes"}).status_code in (403, 302)
    assert admin.post(reverse(f"admin:{model}_change", args=[pk]), {"symbol": "XAUUSD"}).status_code in (403, 302)
    assert TradeHistory.objects.get(ticket_id="1").symbol == "EURUSD"
    assert ActiveTrade.objects.get().symbol == "EURUSD"


def test_force_close_moves_the_trade_and_keeps_the_reason(admin, lena, staff):
    trade_id = open_one(lena)

    answer = force_close(admin, trade_id)

    assert "Ticket 1 is closed." in answer.content.decode()
    closed = TradeHistory.objects.get(trade_id=trade_id)
    assert (closed.reason, closed.profit) == ("STAFF", -5)
    fact = AuditLog.objects.get(action="trade.closed")
    assert (fact.actor_kind, fact.actor) == ("staff", str(staff.pk))
    assert fact.detail["note"] == "the provider's bot is gone"


def test_force_close_asks_for_price_and_reason_first(admin, lena):
    trade_id = open_one(lena)

    asked = admin.post(
        reverse("admin:trades_activetrade_changelist"), {"action": "force_close", "_selected_action": trade_id}
    )
    unsaid = force_close(admin, trade_id, note="", **{"form-0-close_price": "-1"})

    assert "Close for ever" in asked.content.decode()
    assert "This field is required." in unsaid.content.decode()
    assert ActiveTrade.objects.filter(trade_id=trade_id).exists()


def test_who_may_only_look_cannot_force_a_close(viewer, lena):
    trade_id = open_one(lena)

    force_close(viewer, trade_id)

    assert ActiveTrade.objects.filter(trade_id=trade_id).exists()


def test_history_is_exported_as_filtered_with_formulas_defused(admin, lena):
    close_one(lena, "1", profit="-5")
    close_one(lena, "2")
    account = lena
    account.name = "=cmd"
    account.save(update_fields=["name"])

    answer = admin.get(reverse("admin:trades_tradehistory_export") + "?q=1")

    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert len([line for line in lines if ",EURUSD," in line]) >= 1
    assert all("'=cmd" in line for line in lines[1:])
    assert "-5.00000000" in lines[-1] or "-5.00000000" in lines[1]


def test_looking_at_history_and_exporting_it_is_audited(admin, lena):
    admin.get(reverse("admin:trades_tradehistory_changelist") + "?reason=TP")
    admin.get(reverse("admin:trades_tradehistory_export"))

    actions = list(AuditLog.objects.filter(actor_kind="staff").order_by("id").values_list("action", flat=True))
    assert actions == ["history.viewed", "history.exported"]


@pytest.mark.parametrize("page", ["trades_activetrade", "trades_tradehistory", "audit_auditlog", "accounts_botkey"])
def test_a_list_costs_as_many_queries_for_many_rows_as_for_one(admin, lena, sam, page, django_assert_max_num_queries):
    for number in range(1, 8):
        close_one(lena, str(number))
        open_one(sam, str(number))

    with django_assert_max_num_queries(22):
        assert admin.get(reverse(f"admin:{page}_changelist")).status_code == 200


def test_a_trades_page_tells_what_happened_to_it(admin, lena):
    closed = close_one(lena)

    page = admin.get(reverse("admin:trades_tradehistory_change", args=[closed.pk])).content.decode()

    assert "trade.opened" in page
    assert "trade.closed" in page


def test_a_new_keys_secret_is_shown_once(admin, lena):
    made = admin.post(
        reverse("admin:accounts_botkey_add"),
        {"account": lena.pk, "kind": "master", "label": "second", "allowed_networks": "203.0.113.0/24"},
    )
    key = BotKey.objects.get(label="second")
    secret = made.context_data["made"][0][1].secret

    assert secret in made.content.decode()
    assert "no-store" in made["Cache-Control"]
    assert key.allowed_networks == ["203.0.113.0/24"]
    for page in (reverse("admin:accounts_botkey_changelist"), reverse("admin:accounts_botkey_change", args=[key.pk])):
        assert secret not in admin.get(page).content.decode()
    assert AuditLog.objects.filter(action="key.created", subject=f"key:{key.key_id}").exists()


def test_a_revoked_key_is_refused_from_the_next_request_on(admin, lena, lena_bot):
    key = BotKey.objects.get(account=lena)
    form = {"action": "revoke", "_selected_action": key.pk}

    assert "There is no way back" in admin.post(reverse("admin:accounts_botkey_changelist"), form).content.decode()
    assert lena_bot.send("GET").status_code == 200
    admin.post(reverse("admin:accounts_botkey_changelist"), {**form, "confirmed": "1"})
    assert lena_bot.send("GET").json()["code"] == "key_revoked"


def test_a_rotated_keys_new_secret_signs(admin, lena):
    key = BotKey.objects.get(account=lena)

    page = admin.post(
        reverse("admin:accounts_botkey_changelist"), {"action": "rotate", "_selected_action": key.pk}
    ).content.decode()

    assert f"{key.key_id}.2" in page


def test_a_changed_key_keeps_its_account_and_leaves_a_row(admin, lena, sam):
    key = BotKey.objects.get(account=lena)

    admin.post(reverse("admin:accounts_botkey_change", args=[key.pk]), {"account": sam.pk, "label": "renamed"})

    key.refresh_from_db()
    assert (key.account_id, key.label) == (lena.pk, "renamed")
    assert AuditLog.objects.get(action="key.changed").detail == {"label": "renamed"}


def test_a_frozen_strategy_refuses_opens_and_takes_closes(admin, lena, lena_bot):
    lena_bot.send("POST", fields=opening("1"))
    form = {"action": "freeze", "_selected_action": lena.strategy.pk, "confirmed": "1", "reason": "under review"}

    admin.post(reverse("admin:strategies_strategy_changelist"), form)

    assert lena_bot.send("POST", fields=opening("2")).json()["code"] == "strategy_close_only"
    closing = {"ticket_id": "1", "close_price": "1.1", "profit": "0"}
    assert lena_bot.send("POST", "/api/v2/signal/close", closing).status_code == 200
    assert AuditLog.objects.get(action="strategy.frozen").detail == {"reason": "under review"}
