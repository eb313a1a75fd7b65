"""Alarms: a bot reports all that it cannot mend by itself; the desk keeps what is present, and since when."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import SignedResult, TradingAccount, User
from audit.models import AuditLog
from tests.answers import text
from tests.signed import Bot, opening
from trades.models import BotAlarm

ALARMS = "/api/v2/account/alarms"
ZOMBIE = {"kind": "zombie", "ticket": "7001", "detail": "open at the broker but closed at the desk"}
WAITING = {"kind": "waiting", "ticket": "7002"}


def report(bot: Bot, *alarms: Any) -> None:
    answer = bot.send("POST", ALARMS, {"alarms": list(alarms)})
    assert (answer.status_code, answer.json()["status"]) == (200, "told"), answer.content


def present() -> list[tuple[str, str]]:
    return [(alarm.kind, alarm.ticket_id) for alarm in BotAlarm.objects.present()]


def logged(action: str) -> int:
    return AuditLog.objects.filter(action=action).count()


def age(**fields: timedelta) -> None:
    """Move times of all alarms into the past."""
    for name, by in fields.items():
        with connections["owner"].cursor() as cursor:
            cursor.execute(f"update bot_alarms set {name} = {name} - %s", [by])


def test_a_report_opens_what_is_new_and_clears_what_is_missing(lena_bot: Bot, lena: TradingAccount) -> None:
    report(lena_bot, ZOMBIE, WAITING)
    report(lena_bot, WAITING, WAITING)

    assert present() == [("waiting", "7002")]
    zombie = BotAlarm.objects.get(kind="zombie")
    assert zombie.cleared_at is not None
    assert (zombie.account, zombie.detail, zombie.bot) == (lena, ZOMBIE["detail"], "master")
    assert (logged("alarm.raised"), logged("alarm.cleared")) == (2, 1)


def test_an_unchanged_report_writes_no_row_and_no_log(lena_bot: Bot) -> None:
    report(lena_bot, ZOMBIE)
    before, answers = BotAlarm.objects.get(), SignedResult.objects.count()

    report(lena_bot, ZOMBIE)

    after = BotAlarm.objects.get()
    assert (after.pk, after.raised_at, after.times) == (before.pk, before.raised_at, 1)
    assert after.reported_at > before.reported_at
    assert logged("alarm.raised") == 1
    assert SignedResult.objects.count() == answers


def test_an_alarm_that_flaps_is_one_alarm_and_one_log_entry_an_hour(lena_bot: Bot) -> None:
    for _ in range(5):
        report(lena_bot, ZOMBIE)
        report(lena_bot)
    report(lena_bot, ZOMBIE)

    alarm = BotAlarm.objects.get()
    assert (alarm.times, alarm.cleared_at) == (6, None)
    assert (logged("alarm.raised"), logged("alarm.cleared")) == (1, 1)
    age(logged_at=timedelta(hours=2))
    report(lena_bot, ZOMBIE)
    assert logged("alarm.raised") == 2


def test_an_alarm_that_comes_back_later_begins_anew(lena_bot: Bot) -> None:
    report(lena_bot, ZOMBIE)
    report(lena_bot)
    age(raised_at=timedelta(hours=1), cleared_at=timedelta(hours=1), reported_at=timedelta(hours=1))

    report(lena_bot, ZOMBIE)

    assert timezone.now() - BotAlarm.objects.get().raised_at < timedelta(minutes=1)


def test_an_account_fills_the_log_with_at_most_a_hundred_alarms_an_hour(lena_bot: Bot) -> None:
    for batch in range(2):
        report(lena_bot, *({"kind": "grew", "ticket": str(8000 + 200 * batch + number)} for number in range(200)))

    assert logged("alarm.raised") == 100
    assert BotAlarm.objects.present().count() == 200


def test_a_flood_of_alarms_does_not_make_the_desk_forget_what_it_logged(lena_bot: Bot) -> None:
    for batch in range(10):
        report(lena_bot, *({"kind": "grew", "ticket": str(8000 + 200 * batch + number)} for number in range(200)))

    assert (logged("alarm.raised"), logged("alarm.cleared")) == (100, 100)
    assert BotAlarm.objects.count() <= 1000 + 100 + 200


def test_a_silent_bots_alarm_stays_with_its_age(lena_bot: Bot, finn_bot: Bot) -> None:
    report(lena_bot, ZOMBIE)
    age(raised_at=timedelta(days=2), reported_at=timedelta(days=2))

    report(finn_bot, WAITING)  # another account's bot clears nothing of it

    assert present() == [("zombie", "7001"), ("waiting", "7002")]
    assert timezone.now() - BotAlarm.objects.get(kind="zombie").raised_at > timedelta(days=1)


def test_the_two_bots_of_an_account_have_each_their_own_set(lena_bot: Bot, lena: TradingAccount) -> None:
    from django.db import transaction

    from accounts import services as accounts
    from accounts.models import BotKey
    from audit import services as audit

    with transaction.atomic():
        _, made = accounts.create_key(account=lena, kind=BotKey.Kind.COPIER, actor=audit.SYSTEM)
    copier = Bot({"key": made.key, "secret": made.secret})
    report(lena_bot, ZOMBIE)

    report(copier, WAITING)
    report(copier)

    assert present() == [("zombie", "7001")]


def test_an_alarm_names_the_trades_that_it_is_about(lena_bot: Bot, finn_bot: Bot, sam_bot: Bot) -> None:
    trade = lena_bot.send("POST", fields=opening("1")).json()["trade"]["trade_id"]
    strange = sam_bot.send("POST", fields=opening("1", symbol="XAUUSD")).json()["trade"]["trade_id"]
    copy = finn_bot.send("POST", fields={**opening("91"), "strategy": "lena-eurusd", "master_ticket": "1"}).json()

    report(
        finn_bot,
        {"kind": "closing", "ticket": "91", "strategy": "lena-eurusd", "trade_ref": trade},
        {"kind": "refused", "strategy": "sam-xauusd", "trade_ref": strange},
    )

    closing, refused = BotAlarm.objects.order_by("kind")
    assert (str(closing.master_trade), str(closing.trade)) == (trade, copy["trade"]["trade_id"])
    assert closing.strategy is not None
    assert (refused.strategy, refused.master_trade) == (None, None)  # a strategy that the account does not follow


@pytest.mark.parametrize(
    "alarm",
    [
        {"kind": "unheard_of"},
        {"kind": "zombie", "detail": "x" * 301},
        {"kind": "zombie", "ticket": "0"},
        {"kind": "zombie", "trade_ref": "1; drop table"},
        {"kind": "zombie", "more": 1},
        "zombie",
    ],
)
def test_a_malformed_alarm_changes_nothing(lena_bot: Bot, alarm: Any) -> None:
    report(lena_bot, ZOMBIE)

    answer = lena_bot.send("POST", ALARMS, {"alarms": [alarm]})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert present() == [("zombie", "7001")]


def test_more_than_two_hundred_are_refused(lena_bot: Bot) -> None:
    assert lena_bot.send("POST", ALARMS, {"alarms": [ZOMBIE] * 201}).status_code == 422


def test_staff_see_the_alarm_its_ticket_and_what_to_do(
    client: Client, staff: User, lena_bot: Bot, lena: TradingAccount
) -> None:
    trade = lena_bot.send("POST", fields=opening("7001")).json()["trade"]["trade_id"]
    report(lena_bot, {**ZOMBIE, "detail": "<b>5 lots</b>"}, WAITING)
    client.force_login(staff)

    listed = text(client.get(reverse("admin:trades_botalarm_changelist"), {"state": "present", "kind": "zombie"}))
    alarm = BotAlarm.objects.get(kind="zombie")
    page = client.get(reverse("admin:trades_botalarm_change", args=[alarm.pk])).content.decode()
    of_trade = client.get(reverse("admin:trades_activetrade_change", args=[trade])).content.decode()

    assert "7001" in listed
    assert "7002" not in listed
    assert "Close the position at your broker" in page
    assert "&lt;b&gt;5 lots&lt;/b&gt;" in page
    assert "Alarms of bots" in of_trade
    assert "7001" in of_trade
