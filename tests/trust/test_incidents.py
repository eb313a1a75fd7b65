"""What is held against a bot is its own doing, and each incident counts once."""

from datetime import timedelta
from typing import Any

from accounts.models import TradingAccount
from core.responses import iso
from tests.signed import Bot, opening
from tests.trust.factories import DAY, NOW, failed, refused, score_of
from trust import incidents, services
from trust.models import ScoreKind, TrustAssessment


def test_a_zombie_counts_against_the_bot_that_sent_it(lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    lena_bot.send("POST", fields=opening("1"))
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50
    services.recalculate(user_id=lena.owner.pk)
    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50  # once, however often it is reckoned


def test_a_bot_that_repeats_itself_makes_one_fault_of_it(lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    for _ in range(7):
        assert lena_bot.send("POST", fields=opening("1")).status_code == 409
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50


def test_a_change_that_meets_a_closed_trade_is_no_fault(lena: TradingAccount, lena_bot: Bot) -> None:
    """The broker closed it in the same moment."""
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    late = lena_bot.send("PATCH", "/api/v2/trades/active/1", fields={"sl": "1.0"})
    assert late.json()["code"] == "trade_closed"
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 100


def minutes_of(user: Any) -> list[Any]:
    """At which minutes something is held against them."""
    events = incidents.events_of(user, now=NOW)
    return [(event.reason, round((event.at - NOW + DAY) / timedelta(minutes=1), 1)) for event in events]


def test_the_same_fault_at_another_hour_is_another(lena: TradingAccount, lena_bot: Bot) -> None:
    refused(lena_bot.key, "trade_closed", [0, 1, 59, 60, 119, 121, 300])
    failed(lena, "INSUFFICIENT_FUNDS", [10, 10.1, 10.2])

    replays = [("REPLAY_ATTACK", at) for at in (0, 60, 121, 300)]
    assert minutes_of(lena.owner) == sorted([*replays, ("INSUFFICIENT_FUNDS", 10)], key=lambda one: one[1])


def test_a_number_used_twice_may_be_a_lost_answer(lena: TradingAccount, lena_bot: Bot) -> None:
    refused(lena_bot.key, "seq_replayed", [1, 2])
    assert minutes_of(lena.owner) == []

    refused(lena_bot.key, "seq_replayed", range(120, 150))
    assert minutes_of(lena.owner) == [("DUPLICATE_SEQ", 122)]


def test_a_flood_of_faults_comes_as_its_incidents(lena: TradingAccount, lena_bot: Bot) -> None:
    refused(lena_bot.key, "trade_closed", (second / 60 for second in range(0, 12 * 3600, 4)))
    failed(lena, "TTL_EXPIRED", (second / 60 for second in range(0, 12 * 3600, 4)))

    assert len(incidents.events_of(lena.owner, now=NOW)) == 24


def test_another_key_and_another_account_are_others(
    lena: TradingAccount, finn: TradingAccount, lena_bot: Bot, finn_bot: Bot
) -> None:
    for bot in (lena_bot, finn_bot):
        refused(bot.key, "trade_closed", [0])
    failed(finn, "TTL_EXPIRED", [5])
    failed(finn, "TTL_EXPIRED", [70], latency_ms=20)
    failed(finn, "TTL_EXPIRED", [140], latency_ms=None)
    failed(finn, "OTHER", [7])

    assert minutes_of(lena.owner) == [("REPLAY_ATTACK", 0)]
    assert minutes_of(finn.owner) == [("REPLAY_ATTACK", 0), ("TTL_EXPIRED", 5)]


def test_the_latest_fault_is_told_by_its_time(lena: TradingAccount, lena_bot: Bot) -> None:
    refused(lena_bot.key, "trade_closed", [0])
    services.recalculate(user_id=lena.owner.pk, now=NOW)

    assessment = TrustAssessment.objects.get(user=lena.owner, kind=ScoreKind.ENDPOINT)
    assert assessment.as_of == assessment.features[0]["at"] == iso(NOW - DAY)
    assert "event" not in assessment.features[0]


def test_a_late_open_of_a_close_that_came_first_is_no_fault(lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5&reason=TP")
    assert lena_bot.send("POST", fields=opening("1")).json()["code"] == "trade_closed"
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 100


def test_what_others_send_in_a_users_name_is_not_held_against_them(lena: TradingAccount, lena_bot: Bot) -> None:
    from tests.signed import Bot

    impostor = Bot({"key": lena_bot.key, "secret": "0" * 64})
    for _ in range(3):
        assert impostor.send("POST", fields=opening("1")).status_code == 401
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 100


def test_the_desks_own_delay_is_not_billed_to_a_copier(finn: TradingAccount, finn_bot: Bot, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    order = {"strategy": "lena-eurusd", "seq": "1", "master_ticket": "1", "status": "failed", "requested_price": "1.1",
             "volume": "0.1", "failed_reason": "TTL_EXPIRED"}  # fmt: skip
    for latency in (5, 20):
        assert finn_bot.send("POST", "/api/v2/trades/orders", {**order, "latency_ms": latency}).status_code == 201
    services.recalculate(user_id=finn.owner.pk)
    assert score_of(finn.owner, ScoreKind.ENDPOINT).score == 100

    finn_bot.send("POST", "/api/v2/trades/orders", {**order, "latency_ms": 4000})
    services.recalculate(user_id=finn.owner.pk)
    assert score_of(finn.owner, ScoreKind.ENDPOINT).score == 95
