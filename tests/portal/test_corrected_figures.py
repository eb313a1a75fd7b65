"""Where staff corrected a closed trade, every page, sum and score uses the corrected figures."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from strategies.models import Subscription
from tests.answers import text
from tests.people import colleague
from tests.trust.factories import evidence_about
from tests.wallets.conftest import JUST_AFTER, following
from trades import services
from trades.models import ActiveTrade, Reason, TradeHistory
from trades.services import overdue_closes
from trades.services import staff as verbs
from wallets.services import settlement


@pytest.fixture
def second(cast: dict[str, Any]) -> User:
    return colleague()


def opened(account: TradingAccount, ticket: str, **more: Any) -> None:
    fields = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal("0.1"), "open_price": Decimal("1.1"), **more}
    with transaction.atomic():
        services.open_trade(account=account, ticket_id=ticket, **fields)


def closed(account: TradingAccount, ticket: str, profit: str = "77777") -> None:
    with transaction.atomic():
        services.close_trade(
            account=account, ticket_id=ticket, close_price=Decimal("1.9"), profit=Decimal(profit), reason="MANUAL"
        )


@pytest.fixture
def corrected(lena: TradingAccount, finn: TradingAccount, staff: User, second: User) -> TradeHistory:
    """lena's trade and finn's copy were closed with a typo, and corrected to 1.105 and 50; the copy is returned."""
    opened(lena, "1")
    opened(finn, "91", copies=("lena-eurusd", "1"))
    for account, ticket in ((lena, "1"), (finn, "91")):
        closed(account, ticket)
        correct(ticket, staff, second)
    return TradeHistory.objects.get(ticket_id="91")


def correct(ticket: str, by: User, second: User) -> None:
    request = verbs.request_correction(
        trade_id=TradeHistory.objects.get(ticket_id=ticket).pk, close_price=Decimal("1.105"), profit=Decimal(50),
        reason="a typo", by=by, actor=audit.SYSTEM,
    )  # fmt: skip
    verbs.approve(request=request, by=second, actor=audit.SYSTEM)


def page(client: Client, person: User, path: str) -> str:
    client.force_login(person)
    content: str = text(client.get(path))
    return content.replace(",", "")


def test_the_subscribers_pages_show_what_counts(client: Client, finn: TradingAccount, corrected: TradeHistory) -> None:
    receipt = f"/copying/{Subscription.objects.get().sub_id}/receipts/{corrected.master_trade}/"

    desk, copying, one = (page(client, finn.owner, path) for path in ("/", "/copying/", receipt))

    for shown in (desk, copying):
        assert "+50.00" in shown
        assert "corrected" in shown
        assert "77777" not in shown
    assert one.count("+50.00") == 3  # the head, the provider's side, finn's side
    assert one.count("was +77777.00 before") == 2


def test_the_fee_pages_list_adds_up(
    client: Client, lena: TradingAccount, finn: TradingAccount, staff: User, second: User
) -> None:
    follows = following(lena, finn)
    follows.realise("1", "77777")
    follows.realise("2", "10")
    correct("91", staff, second)
    settlement.sweep(now=follows.month_end() + JUST_AFTER)

    shown = page(client, finn.owner, f"/wallet/fees/{follows.agreement.pk}/1/")

    assert "trades closed since you follow 60.00" in shown
    assert "corrected +50.00" in shown
    assert shown.count("77777") == 1  # as the profit before, in the list of corrections


def test_a_fee_from_before_the_correction_lists_what_it_was_calculated_from(
    client: Client, lena: TradingAccount, finn: TradingAccount, staff: User, second: User
) -> None:
    follows = following(lena, finn)
    follows.realise("1", "77777")
    settlement.sweep(now=follows.month_end() + JUST_AFTER)
    correct("91", staff, second)

    shown = page(client, finn.owner, f"/wallet/fees/{follows.agreement.pk}/1/")

    assert "trades closed since you follow 77777.00" in shown
    assert "BUY 1.00 +77777.00" in shown


def test_staff_see_what_counts_and_the_first_figures(client: Client, staff: User, corrected: TradeHistory) -> None:
    listed = page(client, staff, reverse("admin:trades_tradehistory_changelist"))
    shown = page(client, staff, reverse("admin:trades_tradehistory_change", args=[corrected.pk]))

    assert listed.count("corrected +50.00") == 2
    assert "77777" not in listed
    assert "First figures: +77777.00 at 1.90000" in shown
    for order in ("7", "8"):  # by close price, by profit
        assert page(client, staff, f"{reverse('admin:trades_tradehistory_changelist')}?o={order}")


def test_trust_is_judged_by_what_counts(lena: TradingAccount, corrected: TradeHistory) -> None:
    evidence = evidence_about(lena)

    (deal,) = evidence.deals
    assert (deal.close_price, deal.profit) == (Decimal("1.105"), 50)
    assert [copy.close_price for copy in evidence.copies] == [Decimal("1.105")]


def test_an_overdue_copy_is_settled_at_the_providers_corrected_price(
    lena: TradingAccount, finn: TradingAccount, staff: User, second: User
) -> None:
    opened(lena, "1")
    opened(finn, "91", copies=("lena-eurusd", "1"))
    closed(lena, "1")
    correct("1", staff, second)
    settled = overdue_closes.settle(
        copy_id=ActiveTrade.objects.get().pk, told_price=None, reason=Reason.STAFF, note="", actor=audit.SYSTEM,
        now=timezone.now() + timedelta(minutes=5),
    )  # fmt: skip

    assert settled.close_price == Decimal("1.105")
