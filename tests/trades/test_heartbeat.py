"""A copier's heartbeat: one instance at a time holds the lease, and the answer says whether it is in sync."""

import hashlib
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import SignedResult, TradingAccount
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription
from tests.signed import LONG_AGO, Bot, opening
from trades.models import Copier, CopySkip

HEARTBEAT, SKIPS, ACTIVE = "/api/v2/copier/beat", "/api/v2/copier/skips", "/api/v2/trades/active"
ONE, OTHER = "one-" * 4, "other-" * 4


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def digest(held: Any) -> Any:
    return hashlib.sha256("".join(sorted(f"{ref} {lots}\n" for ref, lots in held.items())).encode()).hexdigest()


def report(
    bot: Any,
    held: Any = (),
    *,
    seq: str = "0",
    instance: Any = ONE,
    fence: Any = None,
    generation: int = 1,
    tells: bool = False,
    **more: Any,
) -> Any:
    held = dict(held)
    subscription = {
        "strategy": "lena-eurusd", "seq": seq, "standing": "LIVE", "generation": generation, "digest": digest(held),
    }  # fmt: skip
    if tells:
        subscription["copies"] = [{"trade_ref": ref, "volume": lots} for ref, lots in held.items()]
    return bot.send("POST", HEARTBEAT, {"instance": instance, "fence": fence, "subscriptions": [subscription], **more})


def heartbeat(*args: Any, **more: Any) -> Any:
    answer = report(*args, **more)
    assert answer.status_code == 200, answer.content
    return answer.json()


def opened(bot: Any, ticket: str = "1", **more: Any) -> Any:
    return bot.send("POST", fields=opening(ticket, **more)).json()["trade"]["trade_id"]


# --- the lease


def test_the_first_instance_may_open_at_once(finn_bot: Bot) -> None:
    answer = heartbeat(finn_bot)

    assert (answer["fence"], answer["lease_ms"], answer["may_open_in_ms"]) == ("1", 45000, 0)


def test_a_second_instance_takes_over_and_waits_until_the_first_lease_has_ended(finn_bot: Bot) -> None:
    first = heartbeat(finn_bot)

    second = heartbeat(finn_bot, instance=OTHER)

    assert second["fence"] == "2"
    assert 44000 < second["may_open_in_ms"] <= 45000
    lost = report(finn_bot, fence=first["fence"])
    assert (lost.status_code, lost.json()["code"], lost.json()["retry"]) == (409, "lease_lost", "never")
    assert heartbeat(finn_bot, instance=OTHER, fence="2")["may_open_in_ms"] > 0


def test_a_restarted_instance_need_not_wait_for_its_own_lease(finn_bot: Bot) -> None:
    heartbeat(finn_bot)

    again = heartbeat(finn_bot)

    assert (again["fence"], again["may_open_in_ms"]) == ("2", 0)
    assert report(finn_bot, fence="1").json()["code"] == "lease_lost"


def test_an_orderly_stop_gives_the_lease_back(finn_bot: Bot) -> None:
    first = heartbeat(finn_bot)
    heartbeat(finn_bot, fence=first["fence"], ends=True)

    assert heartbeat(finn_bot, instance=OTHER)["may_open_in_ms"] == 0


def test_an_instance_that_came_and_went_does_not_end_the_previous_lease(finn_bot: Bot) -> None:
    heartbeat(finn_bot)  # and goes on, out of touch with the desk
    second = heartbeat(finn_bot, instance=OTHER)
    heartbeat(finn_bot, instance=OTHER, fence=second["fence"], ends=True)

    third = heartbeat(finn_bot, instance="third-" * 4)

    assert 44000 < third["may_open_in_ms"] <= 45000


def test_after_an_expired_lease_nobody_waits(finn_bot: Bot) -> None:
    heartbeat(finn_bot)
    with connection.cursor() as cursor, pytest.raises(DatabaseError):  # not the application's to change
        cursor.execute("update copiers set leased_until = now()")
    assert Copier.objects.get().leased_until - timezone.now() > timedelta(seconds=40)


def test_takeovers_and_refusals_are_audited(finn_bot: Bot) -> None:
    heartbeat(finn_bot)
    heartbeat(finn_bot, instance=OTHER)
    report(finn_bot, fence="1")

    facts = AuditLog.objects.filter(action__startswith="copier.").order_by("id").values_list("action", "code")
    assert list(facts) == [("copier.took_over", ""), ("copier.took_over", ""), ("copier.refused", "lease_lost")]


def test_accounts_have_separate_leases(finn_bot: Bot, sam_copier: Bot) -> None:
    heartbeat(finn_bot)

    answer = sam_copier.send("POST", HEARTBEAT, {"instance": OTHER, "subscriptions": []}).json()

    assert (answer["fence"], answer["may_open_in_ms"], answer["subscriptions"]) == ("1", 0, [])


def test_heartbeats_store_no_growing_rows(finn_bot: Bot) -> None:
    fence = heartbeat(finn_bot)["fence"]
    before = SignedResult.objects.count()
    for _ in range(3):
        heartbeat(finn_bot, fence=fence)

    assert SignedResult.objects.count() == before
    assert Copier.objects.count() == 1


def test_a_heartbeat_reports_balance_and_equity(finn_bot: Bot, finn: TradingAccount) -> None:
    heartbeat(finn_bot, balance="1000.5", equity="999.25")

    account = TradingAccount.objects.get(pk=finn.pk)
    assert (account.balance, account.equity) == (Decimal("1000.5"), Decimal("999.25"))


# --- in sync, or the exact difference


def of(answer: Any) -> Any:
    (subscription,) = answer["subscriptions"]
    return subscription


def test_a_copier_with_the_planned_copies_is_in_sync(lena_bot: Bot, finn_bot: Bot) -> None:
    ref = opened(lena_bot)

    answer = of(heartbeat(finn_bot, {ref: "0.10000000"}, seq="1"))

    assert (answer["sync"], answer["difference"], answer["as_of"]) == ("in_sync", None, "1")


def test_a_copier_at_an_earlier_number_is_behind(lena_bot: Bot, finn_bot: Bot) -> None:
    opened(lena_bot)

    assert of(heartbeat(finn_bot, seq="0"))["sync"] == "behind"


def test_the_answer_includes_subscriptions_that_were_not_reported(finn_bot: Bot, subscription: Subscription) -> None:
    answer = finn_bot.send("POST", HEARTBEAT, {"instance": ONE, "subscriptions": []}).json()

    assert (of(answer)["sub_id"], of(answer)["sync"], of(answer)["generation"]) == (subscription.sub_id, "behind", 1)


def test_the_difference_is_exact_once_copies_are_reported(lena_bot: Bot, finn_bot: Bot) -> None:
    planned, larger, missing = (opened(lena_bot, ticket) for ticket in "123")
    orphan = "00000000-0000-7000-8000-000000000000"
    held = {planned: "0.10000000", larger: "0.30000000", orphan: "0.10000000"}

    assert of(heartbeat(finn_bot, held, seq="3"))["difference"] is None
    answer = of(heartbeat(finn_bot, held, seq="3", tells=True))

    assert answer["sync"] == "differs"
    assert answer["difference"] == {
        "orphans": [orphan],
        "missing": [missing],
        "volume": [{"trade_ref": larger, "is": "0.30000000", "must": "0.10000000"}],
    }
    assert Copier.objects.get().reported == [
        {
            "strategy": "lena-eurusd", "standing": "LIVE", "sync": "differs", "orphans": 1, "missing": 1, "volume": 1,
            "still_held": [orphan],
        }
    ]  # fmt: skip


def test_a_skipped_trade_is_not_missing(lena_bot: Bot, finn_bot: Bot) -> None:
    ref = opened(lena_bot)
    finn_bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "slippage"})

    assert of(heartbeat(finn_bot, seq="1"))["sync"] == "in_sync"


def test_a_copy_closed_by_its_own_stop_is_not_missing(lena_bot: Bot, finn_bot: Bot) -> None:
    ref = opened(lena_bot)
    copied = {**opening("501"), "strategy": "lena-eurusd", "trade_ref": ref}
    assert finn_bot.send("POST", fields=copied).status_code == 201
    finn_bot.send("DELETE", f"{ACTIVE}/501", query="close_price=1.1&profit=-5&reason=SL")

    assert of(heartbeat(finn_bot, seq="1"))["sync"] == "in_sync"


def test_a_trade_with_one_closed_and_one_open_copy_must_be_held(lena_bot: Bot, finn_bot: Bot) -> None:
    ref = opened(lena_bot)
    for ticket in ("501", "502"):  # a broker that gives what remains of a position another number
        finn_bot.send("POST", fields={**opening(ticket), "strategy": "lena-eurusd", "trade_ref": ref})
    finn_bot.send("DELETE", f"{ACTIVE}/501", query="close_price=1.1&profit=-5&reason=SL")

    assert of(heartbeat(finn_bot, {ref: "0.10000000"}, seq="1"))["sync"] == "in_sync"


def test_copies_open_before_a_pause_must_still_be_held(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    ref = opened(lena_bot)
    finn_bot.send("POST", fields={**opening("501"), "strategy": "lena-eurusd", "trade_ref": ref})
    strategies.pause(subscription=subscription, actor=audit.SYSTEM)
    opened(lena_bot, "2")

    assert of(heartbeat(finn_bot, {ref: "0.10000000"}, seq="2"))["sync"] == "in_sync"


def test_the_answer_contains_the_limits_for_the_copier(finn_bot: Bot, subscription: Subscription) -> None:
    strategies.set_terms(
        subscription=subscription, actor=audit.SYSTEM, since=LONG_AGO, max_open_trades=3, max_slippage_bps=Decimal(25)
    )

    row = of(heartbeat(finn_bot))

    assert (row["max_open_trades"], row["max_slippage_bps"], row["max_open_age_ms"]) == (3, "25.00000000", 5000)


def test_the_next_secret_signs_once_the_heartbeat_confirms_it(finn_bot: Bot, subscription: Subscription) -> None:
    strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)

    assert of(heartbeat(finn_bot, generation=1))["generation"] == 1
    heartbeat(finn_bot, generation=2)
    assert of(heartbeat(finn_bot, generation=2))["generation"] == 2


def test_a_heartbeat_without_the_lease_activates_no_secret(finn_bot: Bot, subscription: Subscription) -> None:
    heartbeat(finn_bot)
    heartbeat(finn_bot, instance=OTHER)
    strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)

    assert report(finn_bot, fence="1", generation=2).status_code == 409

    subscription.refresh_from_db()
    assert subscription.packet_generation == 1


def test_a_heartbeat_works_in_the_role_that_reads_no_table(finn_bot: Bot, lena_bot: Bot) -> None:
    opened(lena_bot)
    with CaptureQueriesContext(connection) as as_people:
        assert of(heartbeat(finn_bot, seq="1"))["sync"] == "differs"

    assert as_people.captured_queries == []


# --- why not


def test_the_first_reported_reason_stays(lena_bot: Bot, finn_bot: Bot) -> None:
    ref = opened(lena_bot)
    for reason in ("slippage", "missed"):
        answer = finn_bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": ref, "reason": reason})
        assert (answer.status_code, answer.json()) == (201, {"status": "noted"})

    skip = CopySkip.objects.get()
    assert (str(skip.master_trade), skip.reason) == (ref, "slippage")


def test_keeps_a_reason_that_it_does_not_know_as_the_detail_of_another(lena_bot: Bot, finn_bot: Bot) -> None:
    """A newer bot may have more reasons. Its report must not be lost."""
    ref = opened(lena_bot)

    fields = {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "bad_mood", "detail": "since Monday"}
    answer = finn_bot.send("POST", SKIPS, fields)

    assert answer.status_code == 201
    skip = CopySkip.objects.get()
    assert (skip.reason, skip.detail) == ("other", "bad_mood: since Monday")


def test_refuses_a_skip_of_a_trade_of_another_strategy(lena_bot: Bot, sam_bot: Bot, finn_bot: Bot) -> None:
    foreign = opened(sam_bot)

    answer = finn_bot.send("POST", SKIPS, {"strategy": "lena-eurusd", "trade_ref": foreign, "reason": "missed"})

    assert (answer.status_code, answer.json()["code"]) == (404, "trade_unknown")


@pytest.mark.parametrize(
    ("why", "reason"),
    [("HAND", "paused"), ("OWNER", "paused"), ("UNPAID", "unpaid"), ("TRUST", "trust"), ("DRAWDOWN", "drawdown")],
)
def test_the_desk_records_a_pause_as_the_reason_when_a_trade_opens(
    lena_bot: Bot, subscription: Subscription, why: str, reason: str
) -> None:
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why=why)
    ref = opened(lena_bot)
    strategies.resume(subscription=subscription, actor=audit.SYSTEM)

    skip = CopySkip.objects.get()
    assert (str(skip.master_trade), skip.reason) == (ref, reason)
