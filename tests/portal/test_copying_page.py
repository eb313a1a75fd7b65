"""The copying pages: own subscriptions alone, texts in words, and what an owner may do."""

import hashlib
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from config import demo_data
from strategies import services as strategies
from strategies.models import Subscription
from tests.answers import markup, text
from tests.people import colleague
from tests.portal.copying import (
    ACTIVE,
    COPIES,
    PAGE,
    SKIPS,
    TERMS,
    close,
    copied,
    heartbeat,
    opened,
    page_of,
)
from tests.signed import LONG_AGO, Bot
from tests.transactions import committed
from trades.models import ActiveTrade, TradeHistory
from trades.services import staff as verbs

# --- access


def test_a_visitor_is_asked_to_sign_in(client: Client, cast: dict[str, Any]) -> None:
    assert client.get(PAGE)["Location"] == f"/login/?next={PAGE}"


@pytest.mark.parametrize("action", ["settings", "secret"])
def test_only_the_owner_sees_the_pages_of_a_subscription(
    client: Client, lena: TradingAccount, sam: TradingAccount, follows: Subscription, action: str
) -> None:
    for stranger in (sam, lena):  # nor the provider
        client.force_login(stranger.owner)
        assert client.get(page_of(follows, action)).status_code == 404
        assert client.post(page_of(follows, action), TERMS).status_code == 404


@pytest.mark.parametrize("action", ["pause", "resume", "end"])
def test_only_the_owner_may_act_on_a_subscription(
    client: Client, sam: TradingAccount, follows: Subscription, action: str
) -> None:
    client.force_login(sam.owner)

    assert client.post(page_of(follows, action)).status_code == 404
    follows.refresh_from_db()
    assert follows.status == "ACTIVE"


@pytest.mark.parametrize("action", ["pause", "resume", "end"])
def test_actions_are_refused_by_get(as_finn: Client, follows: Subscription, action: str) -> None:
    assert as_finn.get(page_of(follows, action)).status_code == 405


def test_only_the_owner_sees_a_receipt(
    client: Client,
    finn: TradingAccount,
    lena: TradingAccount,
    sam: TradingAccount,
    lena_bot: Bot,
    follows: Subscription,
) -> None:
    page = page_of(follows, f"receipts/{opened(lena_bot)}")

    for user, status in ((finn.owner, 200), (lena.owner, 404), (sam.owner, 404)):
        client.force_login(user)
        assert client.get(page).status_code == status
    assert client.get(page_of(follows, f"receipts/{uuid.uuid4()}")).status_code == 404


def test_only_the_provider_sees_how_a_strategy_was_copied(
    client: Client, lena: TradingAccount, finn: TradingAccount, sam: TradingAccount
) -> None:
    for user, status in ((lena.owner, 200), (finn.owner, 404), (sam.owner, 404)):
        client.force_login(user)
        assert client.get(COPIES).status_code == status


def test_a_stranger_sees_neither_subscriptions_nor_trades(client: Client, sam: TradingAccount, lena_bot: Bot) -> None:
    opened(lena_bot, symbol="GBPUSD")
    client.force_login(sam.owner)

    page = text(client.get(PAGE))

    assert "You follow no strategy yet" in page
    assert "GBPUSD" not in page and "lena-eurusd" not in page


# --- the overview


def test_shows_that_no_copier_has_connected_yet(as_finn: Client) -> None:
    page = text(as_finn.get(PAGE))

    assert "lena-eurusd active" in page
    assert "never connected" in page and "No copier has reported yet" in page
    assert "Settings provider's lots × 1; at most 100 lots " in page


def test_shows_a_copier_online_and_in_sync(as_finn: Client, finn_bot: Bot) -> None:
    heartbeat(finn_bot, digest=hashlib.sha256(b"").hexdigest(), balance="1000", equity="998.5")

    page = text(as_finn.get(PAGE))

    assert "online last contact 0 s ago" in page
    assert "In sync with the provider" in page
    assert "998.50 USD" in page


def test_describes_how_the_copies_are_out_of_sync(as_finn: Client, lena_bot: Bot, finn_bot: Bot) -> None:
    opened(lena_bot)
    heartbeat(finn_bot, seq="1", copies=[{"trade_ref": str(uuid.uuid4()), "volume": "0.10000000"}])

    assert "Out of sync: 1 copy open whose trade the provider has closed, 1 copy missing" in text(as_finn.get(PAGE))


@pytest.mark.parametrize(
    ("standing", "says"), [("HOLD", "Waiting: the desk was restored"), ("HALT", "Stopped by itself")]
)
def test_shows_a_copier_that_waits_or_stopped_itself(as_finn: Client, finn_bot: Bot, standing: str, says: str) -> None:
    heartbeat(finn_bot, standing=standing)

    assert says in text(as_finn.get(PAGE))


def test_a_copier_that_gave_up_its_lease_is_offline(as_finn: Client, finn_bot: Bot) -> None:
    heartbeat(finn_bot, ends=True)

    assert "offline last contact 0 s ago" in text(as_finn.get(PAGE))


def test_an_overdue_close_turns_red_after_half_a_minute(
    as_finn: Client, lena_bot: Bot, finn_bot: Bot, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(finn_bot, opened(lena_bot), volume="0.04")
    close(lena_bot, "1")

    early = markup(as_finn.get(PAGE))
    assert '<p class="warning" role="status"><b>1 copy still open after the provider closed</b>: 0.04 lots' in early
    now = timezone.now
    monkeypatch.setattr("django.utils.timezone.now", lambda: now() + timedelta(seconds=40))
    late = markup(as_finn.get(PAGE))
    assert '<p class="fault" role="alert"><b>1 copy still open after the provider closed</b>' in late
    assert "close overdue" in text(as_finn.get(PAGE))


def alarm(bot: Bot, **fields: Any) -> None:
    assert bot.send("POST", "/api/v2/account/alarms", {"alarms": [fields]}).status_code == 200


def test_a_copiers_alarm_stands_at_its_subscription_with_ticket_and_advice(as_finn: Client, finn_bot: Bot) -> None:
    alarm(finn_bot, kind="close_refused", ticket="501", strategy="lena-eurusd", detail="10018 <i>market closed</i>")

    page = as_finn.get(PAGE)

    assert "The broker refuses the close , ticket 501" in text(page)
    assert "Close the position at your broker if the copier cannot." in text(page)
    assert "10018 &lt;i&gt;market closed" in page.content.decode()


def test_a_silent_bots_alarm_says_that_it_is_silent(as_finn: Client, finn_bot: Bot) -> None:
    alarm(finn_bot, kind="terminal")
    assert "silent" not in text(as_finn.get(PAGE))
    with connections["owner"].cursor() as cursor:
        cursor.execute("update bot_alarms set reported_at = reported_at - interval '1 hour'")

    assert "the bot has been silent since" in text(as_finn.get(PAGE))


def test_a_publishers_alarm_stands_on_the_providers_page_alone(
    client: Client, lena: TradingAccount, finn: TradingAccount, lena_bot: Bot
) -> None:
    alarm(lena_bot, kind="zombie", ticket="7001")
    client.force_login(finn.owner)
    assert "7001" not in text(client.get(PAGE))

    client.force_login(lena.owner)
    page = text(client.get(COPIES))

    assert "ticket 7001" in page
    assert "It is copied no more." in page


def test_a_follower_learns_that_the_providers_close_has_no_evidence(
    as_finn: Client, lena_bot: Bot, finn_bot: Bot, follows: Subscription
) -> None:
    ref = opened(lena_bot)
    copied(finn_bot, ref)
    query = "close_price=1.11&profit=5&reason=RECONCILED"
    assert lena_bot.send("DELETE", f"{ACTIVE}/1", query=query).status_code == 200

    assert "showed no deal for the provider's close" in text(as_finn.get(page_of(follows, f"receipts/{ref}")))


# --- an overdue close that its owner closed at the broker


@pytest.fixture
def overdue(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> Any:
    """A copy of finn's whose provider's trade was closed at 1.11 two minutes ago; its profit there is 100."""
    ref = opened(lena_bot, volume="0.2")
    copied(finn_bot, ref, volume="0.2")
    close(lena_bot, "1")
    with connections["owner"].cursor() as cursor:
        cursor.execute("update subscriptions set created_at = created_at - interval '1 hour'")
        cursor.execute("alter table trade_history disable trigger user")
        cursor.execute("update trade_history set closed_at = closed_at - interval '2 minutes'")
        cursor.execute("alter table trade_history enable always trigger append_only")
        cursor.execute("alter table trade_history enable always trigger append_only_truncate")
    return ActiveTrade.objects.get(account=follows.account)


def settle(browser: Client, follows: Subscription, copy: Any, **fields: Any) -> str:
    url = page_of(follows, f"overdue/{copy.pk}")
    return str(text(browser.post(url, {"confirms": "on", **fields}, follow=True)))


def test_the_owner_records_an_overdue_close(as_finn: Client, follows: Subscription, overdue: Any) -> None:
    assert "I closed it at my broker" in text(as_finn.get(PAGE))

    page = settle(as_finn, follows, overdue, close_price="1.109")

    assert "is recorded as closed at 1.109, your price." in page
    row = TradeHistory.objects.get(pk=overdue.pk)
    assert (row.reason, row.close_price, row.profit) == ("RECONCILED", Decimal("1.109"), 100)
    fact = AuditLog.objects.get(action="trade.closed", subject=f"trade:{overdue.pk}")
    assert fact.detail["note"] == "told by the owner"


def test_the_owner_reads_that_staff_ordered_the_close(
    as_finn: Client, follows: Subscription, overdue: Any, staff: User
) -> None:
    verbs.order_close(copy_id=overdue.pk, note="internal", by=staff, actor=audit.SYSTEM)

    assert "to be closed by order of staff" in text(as_finn.get(PAGE))
    assert "Staff ordered the close" in text(as_finn.get(page_of(follows, f"receipts/{overdue.master_trade}")))


def test_a_receipt_shows_a_correction(
    as_finn: Client, follows: Subscription, overdue: Any, staff: User, cast: dict[str, Any]
) -> None:
    settle(as_finn, follows, overdue)
    request = verbs.request_correction(
        trade_id=overdue.pk, close_price=Decimal("1.1"), profit=Decimal(-7), reason="A typo", by=staff,
        actor=audit.SYSTEM,
    )  # fmt: skip
    second = colleague()
    verbs.approve(request=request, by=second, actor=audit.SYSTEM)

    page = text(as_finn.get(page_of(follows, f"receipts/{overdue.master_trade}")))

    assert "Your copy was corrected" in page
    assert "A typo" in page


@pytest.mark.parametrize("price", ["", "2", "-5", "0"])
def test_a_price_that_cannot_be_is_not_recorded(
    as_finn: Client, follows: Subscription, overdue: Any, price: str
) -> None:
    assert "the provider's close price" in settle(as_finn, follows, overdue, close_price=price)

    row = TradeHistory.objects.get(pk=overdue.pk)
    assert (row.close_price, row.profit) == (Decimal("1.11"), 100)


def test_a_copier_that_still_holds_it_refuses_the_owners_word(
    as_finn: Client, follows: Subscription, overdue: Any, finn_bot: Bot
) -> None:
    heartbeat(finn_bot)
    alarm(finn_bot, kind="closing", ticket=overdue.ticket_id, strategy="lena-eurusd")

    page = settle(as_finn, follows, overdue)

    assert f"Your copier still reports ticket {overdue.ticket_id}" in page
    assert ActiveTrade.objects.filter(pk=overdue.pk).exists()


def test_a_copier_whose_report_holds_it_refuses_the_owners_word(
    as_finn: Client, follows: Subscription, overdue: Any, finn_bot: Bot
) -> None:
    held = [{"trade_ref": str(overdue.master_trade), "volume": "0.20000000"}]
    heartbeat(finn_bot, seq="2", copies=held)

    assert "as open at your broker. Close it there first." in settle(as_finn, follows, overdue)


def test_an_offline_copier_does_not_stop_its_owner(
    as_finn: Client, follows: Subscription, overdue: Any, finn_bot: Bot
) -> None:
    heartbeat(finn_bot, ends=True)
    alarm(finn_bot, kind="closing", ticket=overdue.ticket_id, strategy="lena-eurusd")

    assert "is recorded as closed" in settle(as_finn, follows, overdue)


def test_without_the_confirmation_nothing_is_recorded(as_finn: Client, follows: Subscription, overdue: Any) -> None:
    settle(as_finn, follows, overdue, confirms="")

    assert ActiveTrade.objects.filter(pk=overdue.pk).exists()


def test_only_the_owner_settles_and_only_what_is_overdue(
    client: Client, follows: Subscription, overdue: Any, sam: TradingAccount, lena_bot: Bot, finn_bot: Bot
) -> None:
    ref = opened(lena_bot, "2")
    copied(finn_bot, ref, "502")
    still_open = ActiveTrade.objects.get(ticket_id="502")
    client.force_login(follows.account.owner)
    assert client.post(page_of(follows, f"overdue/{still_open.pk}"), {"confirms": "on"}).status_code == 404
    client.force_login(sam.owner)

    assert client.post(page_of(follows, f"overdue/{overdue.pk}"), {"confirms": "on"}).status_code == 404


def test_a_close_of_this_minute_waits_for_the_copier(
    as_finn: Client, follows: Subscription, lena_bot: Bot, finn_bot: Bot
) -> None:
    copied(finn_bot, opened(lena_bot))
    close(lena_bot, "1")
    copy = ActiveTrade.objects.get(account=follows.account)

    assert "I closed it at my broker" not in text(as_finn.get(PAGE))
    assert "less than a minute old" in settle(as_finn, follows, copy)


def test_the_desk_page_shows_overdue_closes_too(as_finn: Client, lena_bot: Bot, finn_bot: Bot) -> None:
    copied(finn_bot, opened(lena_bot), volume="0.04")
    assert "still open after" not in text(as_finn.get("/"))
    close(lena_bot, "1")

    assert "1 copy still open after the provider closed : 0.04 lots" in text(as_finn.get("/"))


# --- the provider's page


def test_a_provider_sees_counts_and_no_names(
    client: Client,
    lena: TradingAccount,
    finn: TradingAccount,
    sam: TradingAccount,
    lena_bot: Bot,
    finn_bot: Bot,
    follows: Subscription,
) -> None:
    other = committed(strategies.subscribe, account=sam, strategy=lena.strategy, actor=audit.SYSTEM)
    strategies.set_terms(subscription=other, actor=audit.SYSTEM, since=LONG_AGO, symbols=["XAUUSD"])
    copied(finn_bot, opened(lena_bot), volume="0.07")
    close(lena_bot, "1")
    ref = opened(lena_bot, "2")
    finn_bot.send(
        "POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "no_money", "detail": "finn is broke"}
    )
    client.force_login(lena.owner)

    answer = client.get(COPIES)
    page = text(answer)

    assert "Subscriptions now 2" in page
    assert "Copied 25.0 %" in page and "Not copyable 50.0 %" in page
    assert "1 of 2 1 the settings exclude this symbol" in page
    assert "1 insufficient margin" in page
    assert "1 copy still open after you closed : 0.07 lots" in page
    for name in (finn.owner.username, sam.owner.username, finn.name, sam.name, follows.sub_id, other.sub_id, "broke"):
        assert name not in answer.content.decode()


def test_a_provider_finds_the_page_from_the_desk(client: Client, lena: TradingAccount) -> None:
    client.force_login(lena.owner)

    assert COPIES in client.get("/").content.decode()
    assert COPIES in client.get(PAGE).content.decode()


def test_the_queries_of_the_providers_page_do_not_depend_on_the_number_of_trades(
    client: Client, lena: TradingAccount, lena_bot: Bot, finn_bot: Bot
) -> None:
    client.force_login(lena.owner)

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert client.get(COPIES).status_code == 200
        return len(seen)

    opened(lena_bot, 1)
    few = queries()
    for ticket in range(2, 8):
        copied(finn_bot, opened(lena_bot, ticket), 500 + ticket)

    assert queries() == few <= 14


def test_the_guest_of_the_demo_sees_its_subscription(client: Client, desk_db: str) -> None:
    demo_data.make_demo()
    demo_data.accept_demo_fees()
    client.force_login(User.objects.get(username="guest"))

    page = text(client.get(PAGE))

    assert "eurusd-breakout active" in page
    assert "Settings provider's lots × 0.5" in page
    assert "No trade yet since you follow" in page
