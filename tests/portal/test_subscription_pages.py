"""What an owner may do with a subscription: pause, resume, end, a new signal secret, settings."""

import re
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription, Terms
from tests.answers import text
from tests.portal.copying import PAGE, TERMS, opened, page_of
from tests.signed import Bot

# --- pause, resume, stop following


def test_the_owner_pauses_and_resumes(as_finn: Client, follows: Subscription, finn: TradingAccount) -> None:
    assert "No new trades are copied" in text(as_finn.post(page_of(follows, "pause"), follow=True))
    assert "paused by you" in text(as_finn.get(PAGE))

    assert "Copying resumed" in text(as_finn.post(page_of(follows, "resume"), follow=True))
    facts = AuditLog.objects.filter(subject=f"subscription:{follows.sub_id}", actor=str(finn.owner.pk)).order_by("id")
    assert [fact.action for fact in facts] == ["subscription.paused", "subscription.resumed"]


@pytest.mark.parametrize("why", ["UNPAID", "TRUST", "HAND"])
def test_the_owner_cannot_end_a_pause_by_the_desk_or_by_staff(as_finn: Client, follows: Subscription, why: str) -> None:
    strategies.pause(subscription=follows, actor=audit.SYSTEM, why=why)
    assert page_of(follows, "resume") not in as_finn.get(PAGE).content.decode()

    for action in ("pause", "resume", "resume"):  # a pause by the owner must not replace the reason
        as_finn.post(page_of(follows, action))

    follows.refresh_from_db()
    assert (follows.status, follows.paused_for) == ("PAUSED", why)


def test_explains_why_a_subscription_cannot_be_resumed(as_finn: Client, follows: Subscription) -> None:
    strategies.pause(subscription=follows, actor=audit.SYSTEM, why="UNPAID")

    page = text(as_finn.post(page_of(follows, "resume"), follow=True))

    assert "paused for an unpaid fee. You cannot resume it here" in page
    assert "A fee is unpaid. Deposit the amount due" in page


def test_the_owner_may_resume_after_a_drawdown_stop(as_finn: Client, follows: Subscription) -> None:
    strategies.pause(subscription=follows, actor=audit.SYSTEM, why="DRAWDOWN")

    as_finn.post(page_of(follows, "resume"))

    follows.refresh_from_db()
    assert follows.status == "ACTIVE"


def test_an_ended_subscription_is_only_named_and_refuses_all_actions(as_finn: Client, follows: Subscription) -> None:
    assert "You no longer follow lena-eurusd" in text(as_finn.post(page_of(follows, "end"), follow=True))

    assert "No longer followed: lena-eurusd on finn-mt5" in text(as_finn.get(PAGE))
    for action in ("pause", "resume", "secret", "settings"):
        assert as_finn.post(page_of(follows, action), TERMS).status_code == 404


def test_a_new_signal_secret_is_shown_once_and_never_again(as_finn: Client, follows: Subscription) -> None:
    page = as_finn.get(page_of(follows, "secret"))
    assert not re.findall(r"[0-9a-f]{64}", page.content.decode().split("</form>")[-1])

    answer = as_finn.post(page_of(follows, "secret"), {"at_once": "on"})

    follows.refresh_from_db()
    secret = strategies.packet_secret(follows)
    assert secret in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    assert f"Generation {follows.packet_generation}" in text(answer)
    for page in (page_of(follows, "secret"), PAGE, page_of(follows, "settings")):
        assert secret not in as_finn.get(page).content.decode()
    assert secret not in str(list(AuditLog.objects.values_list("detail", flat=True)))


def test_the_old_signal_secret_stays_in_use_until_the_copier_has_the_new_one(
    as_finn: Client, follows: Subscription
) -> None:
    old = strategies.packet_secret(follows)

    page = text(as_finn.post(page_of(follows, "secret")))

    follows.refresh_from_db()
    assert strategies.packet_secret(follows) == old
    assert "Generation 2" in page and "The old secret stays in use" in page


# --- settings


def test_saved_settings_apply_from_now_on(as_finn: Client, follows: Subscription, finn: TradingAccount) -> None:
    page = text(
        as_finn.post(
            page_of(follows, "settings"), {**TERMS, "max_volume": "0.2", "symbols": "EURUSD, GBPUSD"}, follow=True
        )
    )

    assert "Saved. The settings apply to trades opened from now on" in page
    terms = strategies.terms_of(follows)
    assert (terms.multiplier, terms.max_volume, terms.symbols) == (Decimal("0.5"), Decimal("0.2"), ["EURUSD", "GBPUSD"])
    assert AuditLog.objects.get(action="subscription.terms_set").actor == str(finn.owner.pk)


def test_a_preview_shows_the_copies_and_saves_nothing(as_finn: Client, follows: Subscription, lena_bot: Bot) -> None:
    opened(lena_bot, symbol="GBPUSD", volume="0.40")
    fields = {**TERMS, "max_volume": "0.2", "symbol_map": "GBPUSD = GBPUSD.vip", "preview": "1"}

    page = text(as_finn.post(page_of(follows, "settings"), fields))

    assert "0.50 lots of EURUSD bought at 1.10000, stop 1.09500 0.20 lots" in page
    assert "0.50 lots × 0.5 = 0.25; at most 0.20 → 0.20" in page
    assert "0.40 lots of GBPUSD" in page and "of GBPUSD.vip" in page
    assert Terms.objects.filter(subscription=follows).count() == 1


def test_a_preview_uses_the_present_equities(
    as_finn: Client, follows: Subscription, lena_bot: Bot, finn_bot: Bot
) -> None:
    lena_bot.send("POST", "/api/v2/account", {"balance": "10000", "equity": "10000"})
    finn_bot.send("POST", "/api/v2/account", {"balance": "2500", "equity": "2500"})

    page = text(
        as_finn.post(
            page_of(follows, "settings"),
            {**TERMS, "mode": "EQUITY", "multiplier": "1", "max_volume": "9", "preview": "1"},
        )
    )

    assert "0.50 lots × 1 × 2,500 / 10,000 of equity = 0.125" in page


MISTAKES = [
    ({"multiplier": ""}, "multiplier"),
    ({"multiplier": "0"}, "multiplier"),
    ({"multiplier": "-1"}, "multiplier"),
    ({"multiplier": "NaN"}, "multiplier"),
    ({"multiplier": "1e30"}, "multiplier"),
    ({"multiplier": "0.000000001"}, "multiplier"),
    ({"mode": "FIXED"}, "fixed_lots"),
    ({"mode": "FIXED", "fixed_lots": "0"}, "fixed_lots"),
    ({"mode": "EQUITY"}, "max_volume"),
    ({"mode": "RISK", "risk_pct": "1"}, "max_volume"),
    ({"mode": "RISK", "max_volume": "9"}, "risk_pct"),
    ({"mode": "RISK", "risk_pct": "101", "max_volume": "9"}, "risk_pct"),
    ({"mode": "RISK", "risk_pct": "1", "reverse": "on", "max_volume": "9"}, "reverse"),
    ({"mode": "SOMEHOW"}, "mode"),
    ({"min_volume": "2", "max_volume": "1"}, "min_volume"),
    ({"min_volume": "-1"}, "min_volume"),
    ({"max_volume": "0"}, "max_volume"),
    ({"raises_to_min": "on"}, "min_volume"),
    ({"max_slippage_bps": "-1"}, "max_slippage_bps"),
    ({"max_drawdown_pct": "100"}, "max_drawdown_pct"),
    ({"max_drawdown_pct": "0"}, "max_drawdown_pct"),
    ({"max_open_trades": "-1"}, "max_open_trades"),
    ({"max_open_trades": "99999999999"}, "max_open_trades"),
    ({"symbols": "EUR USD <b>"}, "symbols"),
    ({"symbols": " ".join(f"S{number}" for number in range(101))}, "symbols"),
    ({"symbol_map": "XAUUSD"}, "symbol_map"),
    ({"symbol_map": "XAUUSD = "}, "symbol_map"),
    ({"symbol_map": "XAUUSD = GOLD\nXAUUSD = XAU"}, "symbol_map"),
    ({"symbols": "EUR\x00"}, "symbols"),
]


@pytest.mark.parametrize("button", [{}, {"preview": "1"}], ids=["save", "preview"])
@pytest.mark.parametrize(("wrong", "field"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_shown_at_its_field(
    as_finn: Client, follows: Subscription, wrong: dict[str, Any], field: str, button: dict[str, Any]
) -> None:
    answer = as_finn.post(page_of(follows, "settings"), {**TERMS, **wrong, **button})

    assert (answer.status_code, list(answer.context["form"].errors)) == (200, [field])
    assert f'class="field of-{field} invalid"' in answer.content.decode()
    assert Terms.objects.filter(subscription=follows).count() == 1


def test_the_database_accepts_what_the_form_accepts(as_finn: Client, follows: Subscription) -> None:
    for more in (
        {"mode": "FIXED", "fixed_lots": "0.01", "multiplier": ""},
        {"mode": "RISK", "risk_pct": "100", "multiplier": "", "max_volume": "9"},
        {"mode": "EQUITY", "max_volume": "9", "reverse": "on", "max_slippage_bps": "0", "max_open_trades": "0"},
        {"min_volume": "1", "max_volume": "1", "raises_to_min": "on", "max_drawdown_pct": "99.99"},
        {"multiplier": "999999999999.99999999"},
    ):
        assert as_finn.post(page_of(follows, "settings"), {**TERMS, **more}).status_code == 302

    assert Terms.objects.filter(subscription=follows).count() == 6


def test_the_form_shows_amounts_without_trailing_zeros(as_finn: Client, follows: Subscription) -> None:
    strategies.set_terms(subscription=follows, actor=audit.SYSTEM, max_volume=Decimal("0.10"), multiplier=Decimal(100))

    page = as_finn.get(page_of(follows, "settings")).content.decode()

    assert 'value="0.1"' in page and 'value="100"' in page
