"""A bot's report of its account: funds, currency, kind, and its broker's conditions for symbols."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connections
from django.utils import timezone

from accounts.models import AccountSymbol, TradingAccount
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Subscription
from tests.signed import Bot, opening
from trades.models import BotAlarm

ACCOUNT, HEARTBEAT = "/api/v2/account", "/api/v2/copier/beat"
US30 = {"symbol": "US30", "contract_size": "25", "volume_min": "0.1", "volume_step": "0.1", "volume_max": "50"}


def report(bot: Bot, **more: Any) -> Any:
    return bot.send("POST", ACCOUNT, {"balance": "10000", "equity": "10000", **more})


def told(bot: Bot, **more: Any) -> Any:
    answer = report(bot, **more)
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_records_what_the_bot_finds_at_its_broker(finn_bot: Bot, finn: TradingAccount) -> None:
    told(finn_bot, currency="USD", kind="fifo", login="5001", server="Broker-Live", symbols=[US30])

    finn.refresh_from_db()
    assert (finn.kind, finn.reported_currency, finn.reported_login, finn.reported_server) == (
        "fifo", "USD", "5001", "Broker-Live",
    )  # fmt: skip
    (row,) = AccountSymbol.objects.filter(account=finn)
    assert (row.symbol, row.contract_size, row.volume_min, row.volume_max) == ("US30", 25, row.volume_step, 50)


def test_an_older_bot_reports_its_funds_alone(finn_bot: Bot, finn: TradingAccount) -> None:
    told(finn_bot)

    finn.refresh_from_db()
    assert (finn.equity, finn.kind, finn.reported_currency) == (10000, "", "")


def test_refuses_another_currency_than_the_registered_one_and_uses_no_amount_of_it(
    finn_bot: Bot, finn: TradingAccount
) -> None:
    told(finn_bot, currency="USD")

    answer = report(finn_bot, currency="USC", equity="1000000", symbols=[US30])

    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["retry"]) == (409, "currency_differs", "never")
    assert (problem["registered"], problem["reported"]) == ("USD", "USC")
    finn.refresh_from_db()
    assert (finn.equity, finn.currency, finn.currency_differs) == (10000, "USD", True)
    assert not AccountSymbol.objects.filter(account=finn).exists()
    assert AuditLog.objects.get(action="account.refused").detail == {"registered": "USD", "reported": "USC"}


def test_a_heartbeat_meanwhile_brings_no_equity_but_keeps_its_lease(finn_bot: Bot, finn: TradingAccount) -> None:
    told(finn_bot)
    report(finn_bot, currency="USC")

    fields = {"instance": "one-" * 4, "subscriptions": [], "balance": "1000000", "equity": "1000000"}
    assert finn_bot.send("POST", HEARTBEAT, fields).status_code == 200

    finn.refresh_from_db()
    assert finn.equity == 10000


def test_closes_pass_while_the_currency_differs(lena_bot: Bot) -> None:
    lena_bot.send("POST", fields=opening("1"))
    assert report(lena_bot, currency="JPY").status_code == 409

    closing = {"query": "close_price=1.1&profit=0&reason=MANUAL"}
    assert lena_bot.send("DELETE", "/api/v2/trades/active/1", **closing).status_code == 200


def test_the_registered_currency_again_ends_the_refusal(finn_bot: Bot, finn: TradingAccount) -> None:
    report(finn_bot, currency="USC")

    told(finn_bot, currency="USD", equity="9000")

    finn.refresh_from_db()
    assert (finn.equity, finn.currency_differs) == (9000, False)


def test_the_difference_is_audited_once(finn_bot: Bot) -> None:
    for _ in range(3):
        report(finn_bot, currency="USC")

    assert AuditLog.objects.filter(action="account.refused", code="currency_differs").count() == 1


def test_the_first_reported_currency_is_registered_where_none_is(finn_bot: Bot, finn: TradingAccount) -> None:
    TradingAccount.objects.filter(pk=finn.pk).update(currency="")

    assert told(finn_bot, currency="USC")["currency"] == "USC"
    assert report(finn_bot, currency="USD").status_code == 409


def test_a_changed_contract_size_is_audited_with_both_values(finn_bot: Bot, finn: TradingAccount) -> None:
    told(finn_bot, symbols=[US30])
    told(finn_bot, symbols=[US30])
    told(finn_bot, symbols=[{**US30, "contract_size": "1"}])

    changes = [row.detail for row in AuditLog.objects.filter(action="account.symbols_changed").order_by("pk")]
    assert changes == [{"US30": [None, "25.00000000"]}, {"US30": ["25.00000000", "1.00000000"]}]


def test_the_answer_names_the_symbols_that_the_desk_wants_to_know(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    told(lena_bot, symbols=[US30])
    subscription = Subscription.objects.get(account=finn)
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, symbol_map={"US30": "DJ30", "XAUUSD": "GOLD"})

    symbols = {
        row["symbol"]: row for row in told(finn_bot, symbols=[{"symbol": "DJ30", "contract_size": "1"}])["symbols"]
    }

    assert symbols.keys() == {"EURUSD", "DJ30", "GOLD"}
    assert symbols["DJ30"] == {
        "symbol": "DJ30", "contract_size": "1.00000000", "strategy": "lena-eurusd", "provider_symbol": "US30",
        "provider_contract_size": "25.00000000",
    }  # fmt: skip


def test_symbols_that_the_terms_exclude_are_not_asked_for(lena_bot: Bot, finn_bot: Bot, finn: TradingAccount) -> None:
    told(lena_bot, symbols=[US30])
    subscription = Subscription.objects.get(account=finn)
    strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, symbols=["EURUSD"])

    assert [row["symbol"] for row in told(finn_bot)["symbols"]] == ["EURUSD"]


def test_a_stranger_is_asked_for_nothing_of_others(lena_bot: Bot, sam_copier: Bot) -> None:
    told(lena_bot, symbols=[US30])

    assert told(sam_copier)["symbols"] == []


def test_a_report_has_at_most_256_symbols_and_an_account_1024(finn_bot: Bot, finn: TradingAccount) -> None:
    names = [{"symbol": f"S{number}", "contract_size": "1"} for number in range(1280)]
    assert report(finn_bot, symbols=names[:257]).status_code == 422
    for start in range(0, 1280, 256):
        told(finn_bot, symbols=names[start : start + 256])

    assert AccountSymbol.objects.filter(account=finn).count() == 1024
    audited = AuditLog.objects.filter(action="account.symbols_changed")
    before = audited.count()
    for _ in range(2):
        told(finn_bot, symbols=[{**US30, "symbol": "BEYOND"}])
    assert audited.count() == before, "a symbol that is not recorded has not changed"


@pytest.mark.parametrize(
    "fields", [{"contract_size": "0"}, {"contract_size": "NaN"}, {"symbol": "US 30"}, {"tick": "1"}]
)
def test_refuses_a_symbol_that_cannot_be(finn_bot: Bot, fields: dict[str, str]) -> None:
    assert report(finn_bot, symbols=[{**US30, **fields}]).status_code == 422


def test_the_database_refuses_what_is_no_number(finn: TradingAccount) -> None:
    with connections["owner"].cursor() as cursor, pytest.raises(IntegrityError, match="amounts_are_numbers"):
        cursor.execute(
            "insert into account_symbols (account_id, symbol, contract_size, changed_at, updated_at) "
            "values (%s, 'US30', 'NaN', now(), now())",
            [finn.pk],
        )


# --- the audit log is never shortened


def test_changes_of_an_account_add_at_most_twenty_rows_an_hour_and_the_rest_is_counted(
    finn_bot: Bot, finn: TradingAccount
) -> None:
    for number in range(25):
        told(finn_bot, login=str(number), symbols=[{**US30, "contract_size": str(number + 1)}])
    changes = ["account.facts_changed", "account.symbols_changed"]
    rows = AuditLog.objects.filter(subject=f"account:{finn.pk}", action__in=changes)
    assert rows.count() == 20

    TradingAccount.objects.filter(pk=finn.pk).update(changes_since=timezone.now() - timedelta(hours=2))
    told(finn_bot, login="an hour later")

    assert (rows.count(), rows.latest("pk").detail["unrecorded"]) == (21, 30)


def test_instances_that_take_over_from_each_other_add_at_most_twenty_rows_an_hour(
    finn_bot: Bot, finn: TradingAccount
) -> None:
    for number in range(25):
        fields = {"instance": f"instance-number-{number}", "subscriptions": []}
        assert finn_bot.send("POST", HEARTBEAT, fields).status_code == 200

    assert AuditLog.objects.filter(subject=f"account:{finn.pk}", action="copier.took_over").count() == 20


def alarms_of(account: TradingAccount) -> list[str]:
    return [row.detail for row in BotAlarm.objects.present().filter(account=account, kind="contract_differs")]


def test_another_contract_size_than_the_desks_is_an_alarm_until_it_agrees(finn_bot: Bot, finn: TradingAccount) -> None:
    told(finn_bot, symbols=[{**US30, "symbol": "EURUSD", "contract_size": "1000"}, US30])
    assert alarms_of(finn) == ["EURUSD: 1000 here, 100000 at the desk"]
    assert AuditLog.objects.filter(action="alarm.raised", subject=f"account:{finn.pk}").count() == 1

    finn_bot.send("POST", "/api/v2/account/alarms", {"alarms": []})  # the bot's own report does not clear it
    assert alarms_of(finn) != []

    told(finn_bot, symbols=[{**US30, "symbol": "EURUSD", "contract_size": "100000"}])
    assert alarms_of(finn) == []


def test_a_mapped_symbol_is_compared_under_the_providers_name(finn_bot: Bot, finn: TradingAccount) -> None:
    strategies.set_terms(
        subscription=Subscription.objects.get(account=finn), actor=audit.SYSTEM, symbol_map={"EURUSD": "6E"}
    )
    told(finn_bot, symbols=[{**US30, "symbol": "6E", "contract_size": "125000"}])

    assert alarms_of(finn) == ["6E: 125000 here, 100000 at the desk"]
