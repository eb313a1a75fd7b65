"""Terms of a subscription: which hold for which trade, and how they change."""

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from core import crypto
from strategies import services as strategies
from strategies.models import Subscription, Terms
from tests.signed import LONG_AGO, Bot, opening
from tests.transactions import committed

ACTIVE = "/api/v2/trades/active"


@pytest.fixture
def subscription(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def set_terms(subscription: Any, **settings: Any) -> Any:
    return strategies.set_terms(subscription=subscription, actor=audit.SYSTEM, **settings)


def copies(bot: Any) -> dict[Any, Any]:
    return {trade["ticket_id"]: trade["copy"] for trade in bot.send("GET").json()["trades"]}


def test_an_open_trade_keeps_the_terms_that_it_was_opened_under(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    set_terms(subscription, since=LONG_AGO, multiplier=Decimal(2))
    lena_bot.send("POST", fields=opening("1"))
    set_terms(subscription, since=timezone.now(), multiplier=Decimal(5))
    lena_bot.send("POST", fields=opening("2"))

    plans = copies(finn_bot)

    assert (plans["1"]["volume"], plans["2"]["volume"]) == ("0.20000000", "0.50000000")
    lena_bot.send("POST", f"{ACTIVE}/1/reduce", {"deal_id": "1", "volume": "0.05", "close_price": "1", "profit": "1"})
    assert copies(finn_bot)["1"]["volume"] == "0.10000000"


def test_new_terms_hold_only_when_every_process_has_read_them(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    requested_at = timezone.now()
    terms = set_terms(subscription, multiplier=Decimal(2))
    done = timezone.now()
    terms.refresh_from_db()
    lena_bot.send("POST", fields=opening("1"))

    assert timedelta(seconds=10) == strategies.TERMS_AFTER
    assert (
        requested_at - timedelta(milliseconds=1) <= terms.since - strategies.TERMS_AFTER <= done
    )  # in whole milliseconds
    assert copies(finn_bot)["1"]["volume"] == "0.10000000"


def test_unchanged_settings_add_no_terms(subscription: Subscription) -> None:
    before = strategies.terms_of(subscription)

    assert set_terms(subscription, multiplier=Decimal(1)) == before
    assert Terms.objects.filter(subscription=subscription).count() == 1


def test_the_audit_log_records_the_changed_settings(subscription: Subscription) -> None:
    set_terms(subscription, max_open_trades=3, max_slippage_bps=Decimal(25))

    audit_row = AuditLog.objects.get(action="subscription.terms_set")
    assert audit_row.detail == {"max_open_trades": 3, "max_slippage_bps": "25.00000000"}


def test_new_terms_never_start_before_the_latest_ones_even_if_the_clock_was_set_back(
    subscription: Subscription,
) -> None:
    later_terms = set_terms(subscription, since=timezone.now() + timedelta(hours=1), multiplier=Decimal(5))

    terms = set_terms(subscription, multiplier=Decimal("0.01"))

    terms.refresh_from_db()
    assert terms.since >= later_terms.since  # or else five lots for one come back in force in an hour, for ever


def test_new_terms_start_at_a_whole_millisecond_like_trade_ids(subscription: Subscription) -> None:
    for lots in (2, 3, 4):
        terms = set_terms(subscription, multiplier=Decimal(lots))
        terms.refresh_from_db()
        assert terms.since.microsecond % 1000 == 0


INTO_TERMS = (
    "insert into subscription_terms "
    "(subscription_id, since, mode, multiplier, raises_to_min, reverse, symbols, symbol_map, closes_on_drawdown)"
)


def test_what_is_no_number_is_refused_by_name(subscription: Subscription) -> None:
    odd = f"{INTO_TERMS} select %s, now(), 'MULTIPLIER', 'NaN', false, false, '{{}}', '{{}}', false"
    with connections["owner"].cursor() as cursor, pytest.raises(IntegrityError, match="terms_amounts_are_numbers"):
        cursor.execute(odd, [subscription.pk])


def kept_terms(subscription: Any) -> list[Any]:
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "select since, settings::jsonb->>'multiplier' "
            "from jsonb_array_elements(terms_in_force(%s, %s, 'USD', true)) one, "
            "lateral (select (one->>0)::bigint, one->>1) audit_row (since, settings)",
            [subscription.pk, subscription.strategy_id],
        )
        return [Decimal(lots) for _, lots in cursor.fetchall()]


def test_only_terms_that_something_open_was_opened_under_are_sent_along(
    lena: TradingAccount, lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    lena_bot.send("POST", fields=opening("1"))
    with transaction.atomic("owner"), connections["owner"].cursor() as cursor:
        cursor.execute(  # opened in June 2024; the terms have changed every hour around that
            "insert into trades (id, account_id, ticket_id, state) "
            "values ('01900000-0000-7000-8000-000000000001', %s, '2', 'OPEN')",
            [lena.pk],
        )
        cursor.execute(
            "insert into active_trades (trade_id, account_id, strategy_id, ticket_id, master_ticket, seq, symbol, "
            "type, volume, opened_volume, open_price, status, comment, opened_at) "
            "select id, account_id, %s, '2', '2', 1, 'EURUSD', 'BUY', 1, 1, 1, 'OPEN', '', now() "
            "from trades where account_id = %s and ticket_id = '2'",
            [subscription.strategy_id, lena.pk],
        )
        cursor.execute(
            f"{INTO_TERMS[:-1]}, max_volume) select %s, to_timestamp(1717000000) + n * interval '1 hour', "
            "'MULTIPLIER', 10 + n, false, false, '{}', '{}', false, 1000 from generate_series(0, 1000) n",
            [subscription.pk],
        )

    plans = copies(finn_bot)

    born_s = 0x019000000000 / 1000
    then = 10 + int((born_s - 1717000000) // 3600)
    assert kept_terms(subscription) == [Decimal(then), Decimal(1010)]
    assert (plans["2"]["volume"], plans["1"]["volume"]) == (f"{then}.00000000", "101.00000000")


def test_snapshots_keep_recent_terms_for_trades_that_are_opening_now(subscription: Subscription) -> None:
    set_terms(subscription, since=LONG_AGO, multiplier=Decimal(2))
    set_terms(subscription, since=timezone.now() - timedelta(seconds=20), multiplier=Decimal(3))

    assert kept_terms(subscription) == [Decimal(2), Decimal(3)]


@contextmanager
def at_the_same_time(work: Any) -> Iterator[None]:
    """Run `work` in a thread of its own while what is in this block is not committed."""
    with ThreadPoolExecutor(1, initializer=connections.close_all) as pool:
        with transaction.atomic():
            yield
            future = pool.submit(work)
            with suppress(TimeoutError):
                future.result(timeout=0.5)
        future.result(timeout=60)
        pool.submit(connections.close_all).result()


def unfinished(verb: Callable[..., Any], subscription: Subscription, **settings: Any) -> None:
    """Run the body of the use case in the open transaction, which holds its locks until it ends."""
    inspect.unwrap(verb)(subscription=subscription, actor=audit.SYSTEM, **settings)


def test_two_concurrent_changes_of_terms_both_take_effect(subscription: Subscription) -> None:
    with at_the_same_time(lambda: set_terms(subscription, max_open_trades=3)):
        unfinished(strategies.set_terms, subscription, max_volume=Decimal("0.5"))

    last = strategies.terms_of(subscription)
    assert (last.max_volume, last.max_open_trades) == (Decimal("0.5"), 3)


def test_revaluing_does_not_undo_a_concurrent_change_of_terms(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report_equity(lena_bot, "10000")
    report_equity(finn_bot, "1000")
    set_terms(subscription, mode="EQUITY", max_volume=Decimal(9))
    report_equity(finn_bot, "5000")

    with at_the_same_time(strategies.revalue):
        unfinished(strategies.set_terms, subscription, mode="FIXED", fixed_lots=Decimal("0.01"))

    assert strategies.terms_of(subscription).mode == "FIXED"


def test_two_concurrent_rotations_have_different_generations(subscription: Subscription) -> None:
    with at_the_same_time(lambda: strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)):
        unfinished(strategies.rotate_packet_secret, subscription)

    subscription.refresh_from_db()
    assert subscription.next_generation == 3


def test_subscribing_again_uses_the_present_equities(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, lena: TradingAccount, subscription: Subscription
) -> None:
    report_equity(lena_bot, "10000")
    report_equity(finn_bot, "10000")
    set_terms(subscription, since=LONG_AGO, mode="EQUITY", max_volume=Decimal(9))
    strategies.end(subscription=subscription, actor=audit.SYSTEM)
    report_equity(finn_bot, "100")

    committed(strategies.subscribe, account=finn, strategy=lena.strategy, actor=audit.SYSTEM)
    lena_bot.send("POST", fields=opening("1"))

    assert copies(finn_bot)["1"]["volume"] == "0.00100000"


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "FIXED"},
        {"mode": "RISK"},
        {"mode": "RISK", "risk_pct": Decimal(101), "max_volume": Decimal(9)},
        {"mode": "RISK", "risk_pct": Decimal(1), "max_volume": None},
        {"mode": "EQUITY", "max_volume": None},
        {"mode": "RISK", "risk_pct": Decimal(1), "reverse": True, "max_volume": Decimal(9)},
        {"multiplier": Decimal(0)},
        {"multiplier": Decimal(-1)},
        {"min_volume": Decimal(2), "max_volume": Decimal(1)},
        {"max_drawdown_pct": Decimal(100)},
        {"max_slippage_bps": Decimal(-1)},
        {"mode": "SOMEHOW"},
        {"symbol_map": {"EURUSD": "EUR|USD"}},
        {"symbol_map": {"EURUSD": "€"}},
        {"symbol_map": {"EURUSD": 5}},
        {"symbol_map": ["EURUSD"]},
    ],
    ids=str,
)
def test_the_database_refuses_contradictory_terms(subscription: Subscription, settings: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        set_terms(subscription, **settings)


@pytest.mark.parametrize(
    "statement", ["update subscription_terms set multiplier = 9", "delete from subscription_terms"]
)
def test_terms_are_added_and_never_changed(subscription: Subscription, statement: str) -> None:
    with connections["owner"].cursor() as cursor, pytest.raises(DatabaseError, match="append-only"):
        cursor.execute(statement)


@pytest.mark.parametrize(
    ("settings", "copy"),
    [
        ({"mode": "FIXED", "fixed_lots": Decimal("0.03")}, {"volume": "0.03000000"}),
        ({"symbols": ["XAUUSD"]}, {"volume": "0.00000000", "opens": False, "why_not": "symbol_not_allowed"}),
        ({"symbol_map": {"EURUSD": "EURUSD.vip"}}, {"symbol": "EURUSD.vip"}),
        ({"reverse": True}, {"type": "SELL", "sl": "1.12000000", "tp": "1.10000000"}),
        ({"min_volume": Decimal(1)}, {"volume": "0.00000000", "opens": False, "why_not": "volume_too_small"}),
        ({"min_volume": Decimal(1), "raises_to_min": True}, {"volume": "1.00000000", "opens": True}),
        ({"mode": "EQUITY", "max_volume": Decimal(9)}, {"opens": False, "why_not": "not_sizable"}),
        (
            {"mode": "RISK", "risk_pct": Decimal(1), "max_volume": Decimal(9)},
            {"opens": False, "why_not": "not_sizable"},
        ),
    ],
    ids=lambda one: next(iter(one)),
)
def test_the_snapshot_contains_the_plan_of_the_copy(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription, settings: dict[str, Any], copy: dict[str, Any]
) -> None:
    set_terms(subscription, since=LONG_AGO, **settings)
    lena_bot.send("POST", fields=opening("1"))

    trade = copies(finn_bot)["1"]

    assert {name: trade[name] for name in copy} == copy


def report_equity(bot: Any, equity: Any, balance: str = "1000") -> None:
    answer = bot.send("POST", "/api/v2/account", {"balance": balance, "equity": equity})
    assert answer.status_code == 200, answer.content


def test_reported_equities_size_a_copy(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    report_equity(lena_bot, "10000")
    report_equity(finn_bot, "2500")
    set_terms(subscription, since=LONG_AGO, mode="EQUITY", max_volume=Decimal(9))
    lena_bot.send("POST", fields=opening("1"))

    assert copies(finn_bot)["1"]["volume"] == "0.02500000"


def test_risk_uses_contract_size_and_currency(lena_bot: Bot, finn_bot: Bot, subscription: Subscription) -> None:
    report_equity(finn_bot, "10000")
    set_terms(subscription, since=LONG_AGO, mode="RISK", risk_pct=Decimal(1), max_volume=Decimal(9))
    lena_bot.send("POST", fields=opening("1", open_price="1.105", sl="1.100"))

    assert copies(finn_bot)["1"]["volume"] == "0.20000000"  # 500 a lot; a hundred may be lost


def test_an_equity_that_changes_by_more_than_one_percent_renews_the_terms(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report_equity(lena_bot, "10000")
    report_equity(finn_bot, "1000")
    set_terms(subscription, mode="EQUITY", max_volume=Decimal(9))

    report_equity(finn_bot, "1009")
    assert strategies.revalue() == 0
    report_equity(finn_bot, "1011")
    assert strategies.revalue() == 1
    assert strategies.revalue() == 0
    assert strategies.terms_of(subscription).equity == Decimal(1011)
    assert AuditLog.objects.filter(action="subscription.terms_set").count() == 1  # nobody set anything


def test_terms_by_multiplier_are_never_renewed_for_equity(
    lena_bot: Bot, finn_bot: Bot, subscription: Subscription
) -> None:
    report_equity(lena_bot, "10000")
    report_equity(finn_bot, "1000")

    assert strategies.revalue() == 0


# --- the drawdown stop


@pytest.fixture
def limited(subscription: Subscription) -> Subscription:
    set_terms(subscription, max_drawdown_pct=Decimal(20))
    return subscription


def stopped(subscription: Any) -> Any:
    strategies.stop_drawdowns(actor=audit.SYSTEM)
    subscription.refresh_from_db()
    return subscription.paused_for == "DRAWDOWN"


def test_the_drawdown_stop_pauses_at_its_limit_and_not_before(finn_bot: Bot, limited: Subscription) -> None:
    for equity, stops in (("1000", False), ("1500", False), ("1201", False), ("1200", True)):
        report_equity(finn_bot, equity)
        assert stopped(limited) is stops


def test_resuming_measures_the_drawdown_from_the_present_equity(finn_bot: Bot, limited: Subscription) -> None:
    report_equity(finn_bot, "1000")
    stopped(limited)
    report_equity(finn_bot, "700")
    assert stopped(limited)

    strategies.resume(subscription=limited, actor=audit.SYSTEM)

    assert not stopped(limited)
    report_equity(finn_bot, "561")
    assert not stopped(limited)
    report_equity(finn_bot, "560")
    assert stopped(limited)


@pytest.mark.parametrize(("closes", "volume"), [(False, "0.10000000"), (True, "0.00000000")])
def test_at_the_drawdown_stop_copies_stay_or_close_as_the_terms_say(
    lena_bot: Bot, finn_bot: Bot, limited: Subscription, closes: bool, volume: str
) -> None:
    set_terms(limited, closes_on_drawdown=closes)
    lena_bot.send("POST", fields=opening("1"))
    report_equity(finn_bot, "1000")
    stopped(limited)
    report_equity(finn_bot, "700")
    assert stopped(limited)

    copy = copies(finn_bot)["1"]

    assert (copy["volume"], copy["opens"], copy["why_not"]) == (volume, False, "drawdown")


def test_a_new_drawdown_limit_starts_from_the_present_equity(finn_bot: Bot, limited: Subscription) -> None:
    report_equity(finn_bot, "1500")
    stopped(limited)
    set_terms(limited, max_drawdown_pct=None)
    report_equity(finn_bot, "1000")  # some was taken out

    set_terms(limited, max_drawdown_pct=Decimal(20))

    assert not stopped(limited)


def test_subscribing_again_measures_the_drawdown_from_the_present_equity(
    finn_bot: Bot, finn: TradingAccount, lena: TradingAccount, limited: Subscription
) -> None:
    report_equity(finn_bot, "1500")
    stopped(limited)
    strategies.end(subscription=limited, actor=audit.SYSTEM)
    report_equity(finn_bot, "1000")

    committed(strategies.subscribe, account=finn, strategy=lena.strategy, actor=audit.SYSTEM)

    assert not stopped(limited)


def test_an_equity_of_zero_from_a_disconnected_terminal_does_not_stop(finn_bot: Bot, limited: Subscription) -> None:
    report_equity(finn_bot, "1000")
    stopped(limited)
    report_equity(finn_bot, "0", balance="0")

    assert not stopped(limited)


def test_an_unknown_equity_does_not_stop(limited: Subscription, finn: TradingAccount) -> None:
    TradingAccount.objects.filter(pk=finn.pk).update(equity=None)

    assert not stopped(limited)


# --- packet secrets


def test_the_next_secret_signs_once_the_bot_has_it(subscription: Subscription) -> None:
    old = strategies.packet_secret(subscription)

    new = strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)
    subscription.refresh_from_db()
    assert (strategies.packet_secret(subscription), subscription.packet_generation) == (old, 1)
    strategies.activate_next_secrets()  # a day has not passed
    subscription.refresh_from_db()
    assert subscription.packet_generation == 1

    strategies.activate_next_secrets(subscription_ids=[subscription.pk], generation=2)

    subscription.refresh_from_db()
    assert (strategies.packet_secret(subscription), subscription.packet_generation) == (new, 2)
    assert subscription.next_generation is None


def test_the_next_secret_signs_after_a_day_in_any_case(subscription: Subscription) -> None:
    new = strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)
    Subscription.objects.update(next_secret_at=timezone.now())

    assert strategies.activate_next_secrets() == 1

    subscription.refresh_from_db()
    assert strategies.packet_secret(subscription) == new


def test_a_leaked_secret_stops_signing_at_once(subscription: Subscription) -> None:
    old = strategies.packet_secret(subscription)

    new = strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM, at_once=True)

    subscription.refresh_from_db()
    assert strategies.packet_secret(subscription) == new != old


def test_a_second_rotation_replaces_the_waiting_secret_with_a_new_generation(subscription: Subscription) -> None:
    strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)
    newest = strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)

    assert strategies.activate_next_secrets(subscription_ids=[subscription.pk], generation=2) == 0
    assert strategies.activate_next_secrets(subscription_ids=[subscription.pk], generation=3) == 1
    subscription.refresh_from_db()
    assert (strategies.packet_secret(subscription), subscription.packet_generation) == (newest, 3)


def test_a_secret_of_another_row_or_generation_does_not_open(subscription: Subscription) -> None:
    strategies.rotate_packet_secret(subscription=subscription, actor=audit.SYSTEM)
    subscription.refresh_from_db()
    subscription.sealed_packet_secret = subscription.sealed_next_secret  # as somebody with an UPDATE might

    with pytest.raises(crypto.SecretUnreadable):
        strategies.packet_secret(subscription)
