"""Only a bot's own faults count against it, and each incident counts once."""

from datetime import timedelta
from typing import Any

from accounts.models import TradingAccount
from core.responses import iso
from tests.signed import Bot, opening
from tests.trust.factories import DAY, NOW, add_failures, add_refusals, score_of
from trust import incidents, services
from trust.models import ScoreKind, TrustAssessment


def test_a_zombie_counts_against_the_bot_that_sent_it(lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    lena_bot.send("POST", fields=opening("1"))
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50
    services.recalculate(user_id=lena.owner.pk)
    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50  # each recalculation counts it once


def test_a_repeated_fault_is_one_incident(lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    for _ in range(7):
        assert lena_bot.send("POST", fields=opening("1")).status_code == 409
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 50


def test_a_change_of_a_trade_closed_meanwhile_is_no_incident(lena: TradingAccount, lena_bot: Bot) -> None:
    """The broker closed the trade at the same moment."""
    lena_bot.send("POST", fields=opening("1"))
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5")
    late = lena_bot.send("PATCH", "/api/v2/trades/active/1", fields={"sl": "1.0"})
    assert late.json()["code"] == "trade_closed"
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 100


def minutes_of(user: Any) -> list[Any]:
    """The incidents of a user, each with its reason and minute."""
    events = incidents.events_of(user, now=NOW)
    return [(event.reason, round((event.at - NOW + DAY) / timedelta(minutes=1), 1)) for event in events]


def test_the_same_fault_in_another_hour_is_a_new_incident(lena: TradingAccount, lena_bot: Bot) -> None:
    add_refusals(lena_bot.key, "trade_closed", [0, 1, 59, 60, 119, 121, 300])
    add_failures(lena, "INSUFFICIENT_FUNDS", [10, 10.1, 10.2])

    replays = [("REPLAY_ATTACK", at) for at in (0, 60, 121, 300)]
    assert minutes_of(lena.owner) == sorted([*replays, ("INSUFFICIENT_FUNDS", 10)], key=lambda incident: incident[1])


def test_a_number_used_before_is_no_incident(lena: TradingAccount, lena_bot: Bot) -> None:
    """Whoever captured a signed request can send it again: it proves nothing about the bot."""
    add_refusals(lena_bot.key, "seq_replayed", range(120, 150))

    assert minutes_of(lena.owner) == []


def test_a_flood_of_faults_is_one_incident_an_hour(lena: TradingAccount, lena_bot: Bot) -> None:
    add_refusals(lena_bot.key, "trade_closed", (second / 60 for second in range(0, 12 * 3600, 4)))
    add_failures(lena, "INSUFFICIENT_FUNDS", (second / 60 for second in range(0, 12 * 3600, 4)))

    assert len(incidents.events_of(lena.owner, now=NOW)) == 24


def test_keys_and_accounts_have_their_own_incidents(
    lena: TradingAccount, finn: TradingAccount, lena_bot: Bot, finn_bot: Bot
) -> None:
    for bot in (lena_bot, finn_bot):
        add_refusals(bot.key, "trade_closed", [0])
    add_failures(finn, "no_money", [5])
    add_failures(finn, "TTL_EXPIRED", [70])
    add_failures(finn, "OTHER", [7])

    assert minutes_of(lena.owner) == [("REPLAY_ATTACK", 0)]
    assert minutes_of(finn.owner) == [("REPLAY_ATTACK", 0), ("INSUFFICIENT_FUNDS", 5)]


def test_an_assessment_names_the_time_of_the_latest_incident(lena: TradingAccount, lena_bot: Bot) -> None:
    add_refusals(lena_bot.key, "trade_closed", [0])
    services.recalculate(user_id=lena.owner.pk, now=NOW)

    assessment = TrustAssessment.objects.get(user=lena.owner, kind=ScoreKind.ENDPOINT)
    assert assessment.as_of == assessment.features[0]["at"] == iso(NOW - DAY)
    assert "event" not in assessment.features[0]


def test_a_late_open_after_its_close_is_no_incident(lena: TradingAccount, lena_bot: Bot) -> None:
    lena_bot.send("DELETE", "/api/v2/trades/active/1", query="close_price=1.1&profit=5&reason=TP")
    assert lena_bot.send("POST", fields=opening("1")).json()["code"] == "trade_closed"
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 100


def test_requests_of_an_impostor_do_not_count(lena: TradingAccount, lena_bot: Bot) -> None:
    from tests.signed import Bot

    impostor = Bot({"key": lena_bot.key, "secret": "0" * 64})
    for _ in range(3):
        assert impostor.send("POST", fields=opening("1")).status_code == 401
    services.recalculate(user_id=lena.owner.pk)

    assert score_of(lena.owner, ScoreKind.ENDPOINT).score == 100


def test_a_late_signal_does_not_count_against_a_copier(finn: TradingAccount, finn_bot: Bot, lena_bot: Bot) -> None:
    """Neither a skip nor a latency says whose part of the way was slow."""
    ref = lena_bot.send("POST", fields=opening("1")).json()["trade"]["trade_id"]
    order = {"strategy": "lena-eurusd", "seq": "1", "master_ticket": "1", "status": "failed", "requested_price": "1.1",
             "volume": "0.1", "failed_reason": "TTL_EXPIRED", "latency_ms": 4000}  # fmt: skip
    assert finn_bot.send("POST", "/api/v2/trades/orders", order).status_code == 201
    skip = {"strategy": "lena-eurusd", "trade_ref": ref, "reason": "missed"}
    assert finn_bot.send("POST", "/api/v2/copier/skips", skip).status_code == 201
    services.recalculate(user_id=finn.owner.pk)

    assert score_of(finn.owner, ScoreKind.ENDPOINT).score == 100
