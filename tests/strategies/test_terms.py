"""How a subscription copies: what holds for which trade, and who decides."""

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
def follows(finn: TradingAccount) -> Subscription:
    return Subscription.objects.get(account=finn)


def set_terms(follows: Any, **settings: Any) -> Any:
    return strategies.set_terms(subscription=follows, actor=audit.SYSTEM, **settings)


def copies(bot: Any) -> dict[Any, Any]:
    return {trade["ticket_id"]: trade["copy"] for trade in bot.send("GET").json()["trades"]}


def test_a_trade_that_is_open_goes_on_as_it_was_sized(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    set_terms(follows, since=LONG_AGO, multiplier=Decimal(2))
    lena_bot.send("POST", fields=opening("1"))
    set_terms(follows, since=timezone.now(), multiplier=Decimal(5))
    lena_bot.send("POST", fields=opening("2"))

    held = copies(finn_bot)

    assert (held["1"]["volume"], held["2"]["volume"]) == ("0.20000000", "0.50000000")
    lena_bot.send("POST", f"{ACTIVE}/1/reduce", {"deal_id": "1", "volume": "0.05", "close_price": "1", "profit": "1"})
    assert copies(finn_bot)["1"]["volume"] == "0.10000000"


def test_new_terms_hold_once_every_process_knows_them(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    asked = timezone.now()
    made = set_terms(follows, multiplier=Decimal(2))
    done = timezone.now()
    made.refresh_from_db()
    lena_bot.send("POST", fields=opening("1"))

    assert timedelta(seconds=10) == strategies.TERMS_AFTER
    assert asked - timedelta(milliseconds=1) <= made.since - strategies.TERMS_AFTER <= done  # in whole milliseconds
    assert copies(finn_bot)["1"]["volume"] == "0.10000000"


def test_what_stays_as_it_was_makes_no_new_terms(follows: Subscription) -> None:
    before = strategies.terms_of(follows)

    assert set_terms(follows, multiplier=Decimal(1)) == before
    assert Terms.objects.filter(subscription=follows).count() == 1


def test_the_audit_log_tells_what_was_changed(follows: Subscription) -> None:
    set_terms(follows, max_open_trades=3, max_slippage_bps=Decimal(25))

    told = AuditLog.objects.get(action="subscription.terms_set")
    assert told.detail == {"max_open_trades": 3, "max_slippage_bps": "25.00000000"}


def test_new_terms_never_come_before_the_last_ones_though_the_clock_was_set_back(follows: Subscription) -> None:
    ahead = set_terms(follows, since=timezone.now() + timedelta(hours=1), multiplier=Decimal(5))

    made = set_terms(follows, multiplier=Decimal("0.01"))

    made.refresh_from_db()
    assert made.since >= ahead.since  # or else five lots for one come back in force in an hour, for ever


def test_new_terms_hold_from_a_whole_millisecond_as_trades_are_born_in(follows: Subscription) -> None:
    for lots in (2, 3, 4):
        made = set_terms(follows, multiplier=Decimal(lots))
        made.refresh_from_db()
        assert made.since.microsecond % 1000 == 0


INTO_TERMS = (
    "insert into subscription_terms "
    "(subscription_id, since, mode, multiplier, raises_to_min, reverse, symbols, symbol_map, closes_on_drawdown)"
)


def test_what_is_no_number_is_refused_by_name(follows: Subscription) -> None:
    odd = f"{INTO_TERMS} select %s, now(), 'MULTIPLIER', 'NaN', false, false, '{{}}', '{{}}', false"
    with connections["owner"].cursor() as cursor, pytest.raises(IntegrityError, match="terms_amounts_are_numbers"):
        cursor.execute(odd, [follows.pk])


def kept_terms(follows: Any) -> list[Any]:
    with connections["owner"].cursor() as cursor:
        cursor.execute(
            "select since, settings::jsonb->>'multiplier' from jsonb_array_elements(terms_of(%s, %s, 'USD')) one, "
            "lateral (select (one->>0)::bigint, one->>1) told (since, settings)",
            [follows.pk, follows.strategy_id],
        )
        return [Decimal(lots) for _, lots in cursor.fetchall()]


def test_only_terms_that_something_open_was_opened_under_are_sent_along(
    lena: TradingAccount, lena_bot: Bot, finn_bot: Bot, follows: Subscription
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
            [follows.strategy_id, lena.pk],
        )
        cursor.execute(
            f"{INTO_TERMS} select %s, to_timestamp(1717000000) + n * interval '1 hour', 'MULTIPLIER', 10 + n, false, "
            "false, '{}', '{}', false from generate_series(0, 1000) n",
            [follows.pk],
        )

    held = copies(finn_bot)

    born_s = 0x019000000000 / 1000
    then = 10 + int((born_s - 1717000000) // 3600)
    assert kept_terms(follows) == [Decimal(then), Decimal(1010)]
    assert (held["2"]["volume"], held["1"]["volume"]) == (f"{then}.00000000", "101.00000000")


def test_terms_of_a_minute_ago_are_sent_along_for_a_trade_may_be_opening_just_now(follows: Subscription) -> None:
    set_terms(follows, since=LONG_AGO, multiplier=Decimal(2))
    set_terms(follows, since=timezone.now() - timedelta(seconds=20), multiplier=Decimal(3))

    assert kept_terms(follows) == [Decimal(2), Decimal(3)]


@contextmanager
def at_the_same_time(work: Any) -> Iterator[None]:
    """Run `work` in a thread of its own while what is in this block is not committed."""
    with ThreadPoolExecutor(1, initializer=connections.close_all) as pool:
        with transaction.atomic():
            yield
            begun = pool.submit(work)
            with suppress(TimeoutError):
                begun.result(timeout=0.5)
        begun.result(timeout=60)
        pool.submit(connections.close_all).result()


def unfinished(verb: Callable[..., Any], follows: Subscription, **settings: Any) -> None:
    """What the use case does, in the open transaction: its locks are held until that ends."""
    inspect.unwrap(verb)(subscription=follows, actor=audit.SYSTEM, **settings)


def test_of_two_who_set_terms_at_once_neither_undoes_the_other(follows: Subscription) -> None:
    with at_the_same_time(lambda: set_terms(follows, max_open_trades=3)):
        unfinished(strategies.set_terms, follows, max_volume=Decimal("0.5"))

    last = strategies.terms_of(follows)
    assert (last.max_volume, last.max_open_trades) == (Decimal("0.5"), 3)


def test_terms_that_are_set_while_equities_are_looked_at_are_not_undone(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription
) -> None:
    tell(lena_bot, "10000")
    tell(finn_bot, "1000")
    set_terms(follows, mode="EQUITY", max_volume=Decimal(9))
    tell(finn_bot, "5000")

    with at_the_same_time(strategies.revalue):
        unfinished(strategies.set_terms, follows, mode="FIXED", fixed_lots=Decimal("0.01"))

    assert strategies.terms_of(follows).mode == "FIXED"


def test_of_two_who_rotate_a_secret_at_once_each_is_shown_one_of_its_own_number(follows: Subscription) -> None:
    with at_the_same_time(lambda: strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)):
        unfinished(strategies.rotate_packet_secret, follows)

    follows.refresh_from_db()
    assert follows.next_generation == 3


def test_who_comes_back_copies_by_what_both_are_worth_now(
    lena_bot: Bot, finn_bot: Bot, finn: TradingAccount, lena: TradingAccount, follows: Subscription
) -> None:
    tell(lena_bot, "10000")
    tell(finn_bot, "10000")
    set_terms(follows, since=LONG_AGO, mode="EQUITY", max_volume=Decimal(9))
    strategies.end(subscription=follows, actor=audit.SYSTEM)
    tell(finn_bot, "100")

    committed(strategies.subscribe, account=finn, strategy=lena.strategy, actor=audit.SYSTEM)
    lena_bot.send("POST", fields=opening("1"))

    assert copies(finn_bot)["1"]["volume"] == "0.00100000"


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "FIXED"},
        {"mode": "RISK"},
        {"mode": "RISK", "risk_pct": Decimal(101), "max_volume": Decimal(9)},
        {"mode": "RISK", "risk_pct": Decimal(1)},
        {"mode": "EQUITY"},
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
def test_terms_that_make_no_sense_are_refused_by_the_database(follows: Subscription, settings: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        set_terms(follows, **settings)


@pytest.mark.parametrize(
    "statement", ["update subscription_terms set multiplier = 9", "delete from subscription_terms"]
)
def test_terms_are_added_and_never_changed(follows: Subscription, statement: str) -> None:
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
def test_the_snapshot_says_what_the_copy_must_be(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription, settings: dict[str, Any], copy: dict[str, Any]
) -> None:
    set_terms(follows, since=LONG_AGO, **settings)
    lena_bot.send("POST", fields=opening("1"))

    found = copies(finn_bot)["1"]

    assert {name: found[name] for name in copy} == copy


def tell(bot: Any, equity: Any, balance: str = "1000") -> None:
    answer = bot.send("POST", "/api/v2/account", {"balance": balance, "equity": equity})
    assert answer.status_code == 200, answer.content


def test_equity_that_both_bots_told_sizes_a_copy(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    tell(lena_bot, "10000")
    tell(finn_bot, "2500")
    set_terms(follows, since=LONG_AGO, mode="EQUITY", max_volume=Decimal(9))
    lena_bot.send("POST", fields=opening("1"))

    assert copies(finn_bot)["1"]["volume"] == "0.02500000"


def test_fixed_risk_knows_contract_and_currency(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    tell(finn_bot, "10000")
    set_terms(follows, since=LONG_AGO, mode="RISK", risk_pct=Decimal(1), max_volume=Decimal(9))
    lena_bot.send("POST", fields=opening("1", open_price="1.105", sl="1.100"))

    assert copies(finn_bot)["1"]["volume"] == "0.20000000"  # 500 a lot; a hundred may be lost


def test_equity_that_moved_by_more_than_a_hundredth_makes_new_terms(
    lena_bot: Bot, finn_bot: Bot, follows: Subscription
) -> None:
    tell(lena_bot, "10000")
    tell(finn_bot, "1000")
    set_terms(follows, mode="EQUITY", max_volume=Decimal(9))

    tell(finn_bot, "1009")
    assert strategies.revalue() == 0
    tell(finn_bot, "1011")
    assert strategies.revalue() == 1
    assert strategies.revalue() == 0
    assert strategies.terms_of(follows).equity == Decimal(1011)
    assert AuditLog.objects.filter(action="subscription.terms_set").count() == 1  # nobody set anything


def test_terms_by_multiplier_are_not_made_anew_for_equity(lena_bot: Bot, finn_bot: Bot, follows: Subscription) -> None:
    tell(lena_bot, "10000")
    tell(finn_bot, "1000")

    assert strategies.revalue() == 0


# --- the drawdown stop


@pytest.fixture
def limited(follows: Subscription) -> Subscription:
    set_terms(follows, max_drawdown_pct=Decimal(20))
    return follows


def stopped(follows: Any) -> Any:
    strategies.stop_drawdowns(actor=audit.SYSTEM)
    follows.refresh_from_db()
    return follows.paused_for == "DRAWDOWN"


def test_a_fifth_below_the_highest_is_a_stop_and_not_before(finn_bot: Bot, limited: Subscription) -> None:
    for equity, stops in (("1000", False), ("1500", False), ("1201", False), ("1200", True)):
        tell(finn_bot, equity)
        assert stopped(limited) is stops


def test_resuming_begins_anew_from_what_there_is(finn_bot: Bot, limited: Subscription) -> None:
    tell(finn_bot, "1000")
    stopped(limited)
    tell(finn_bot, "700")
    assert stopped(limited)

    strategies.resume(subscription=limited, actor=audit.SYSTEM)

    assert not stopped(limited)
    tell(finn_bot, "561")
    assert not stopped(limited)
    tell(finn_bot, "560")
    assert stopped(limited)


@pytest.mark.parametrize(("closes", "volume"), [(False, "0.10000000"), (True, "0.00000000")])
def test_at_the_stop_copies_follow_on_or_are_closed_as_the_terms_say(
    lena_bot: Bot, finn_bot: Bot, limited: Subscription, closes: bool, volume: str
) -> None:
    set_terms(limited, closes_on_drawdown=closes)
    lena_bot.send("POST", fields=opening("1"))
    tell(finn_bot, "1000")
    stopped(limited)
    tell(finn_bot, "700")
    assert stopped(limited)

    copy = copies(finn_bot)["1"]

    assert (copy["volume"], copy["opens"], copy["why_not"]) == (volume, False, "drawdown")


def test_a_limit_that_is_set_anew_does_not_remember_the_highest_of_an_older_one(
    finn_bot: Bot, limited: Subscription
) -> None:
    tell(finn_bot, "1500")
    stopped(limited)
    set_terms(limited, max_drawdown_pct=None)
    tell(finn_bot, "1000")  # some was taken out

    set_terms(limited, max_drawdown_pct=Decimal(20))

    assert not stopped(limited)


def test_who_comes_back_is_not_stopped_for_what_was_lost_before(
    finn_bot: Bot, finn: TradingAccount, lena: TradingAccount, limited: Subscription
) -> None:
    tell(finn_bot, "1500")
    stopped(limited)
    strategies.end(subscription=limited, actor=audit.SYSTEM)
    tell(finn_bot, "1000")

    committed(strategies.subscribe, account=finn, strategy=lena.strategy, actor=audit.SYSTEM)

    assert not stopped(limited)


def test_a_terminal_without_its_account_is_no_loss(finn_bot: Bot, limited: Subscription) -> None:
    tell(finn_bot, "1000")
    stopped(limited)
    tell(finn_bot, "0", balance="0")

    assert not stopped(limited)


def test_whoever_said_nothing_of_their_equity_is_not_stopped(limited: Subscription, finn: TradingAccount) -> None:
    TradingAccount.objects.filter(pk=finn.pk).update(equity=None)

    assert not stopped(limited)


# --- packet secrets


def test_the_next_secret_signs_once_its_bot_has_it(follows: Subscription) -> None:
    old = strategies.packet_secret(follows)

    new = strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)
    follows.refresh_from_db()
    assert (strategies.packet_secret(follows), follows.packet_generation) == (old, 1)
    strategies.activate_next_secrets()  # a day has not passed
    follows.refresh_from_db()
    assert follows.packet_generation == 1

    strategies.activate_next_secrets(subscription_ids=[follows.pk], generation=2)

    follows.refresh_from_db()
    assert (strategies.packet_secret(follows), follows.packet_generation) == (new, 2)
    assert follows.next_generation is None


def test_after_a_day_it_signs_whether_its_bot_has_it_or_not(follows: Subscription) -> None:
    new = strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)
    Subscription.objects.update(next_secret_at=timezone.now())

    assert strategies.activate_next_secrets() == 1

    follows.refresh_from_db()
    assert strategies.packet_secret(follows) == new


def test_one_that_leaked_signs_no_more(follows: Subscription) -> None:
    old = strategies.packet_secret(follows)

    new = strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM, at_once=True)

    follows.refresh_from_db()
    assert strategies.packet_secret(follows) == new != old


def test_a_second_rotation_replaces_what_was_waiting_under_a_number_of_its_own(follows: Subscription) -> None:
    strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)
    newest = strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)

    assert strategies.activate_next_secrets(subscription_ids=[follows.pk], generation=2) == 0
    assert strategies.activate_next_secrets(subscription_ids=[follows.pk], generation=3) == 1
    follows.refresh_from_db()
    assert (strategies.packet_secret(follows), follows.packet_generation) == (newest, 3)


def test_a_secret_of_another_row_or_generation_does_not_open(follows: Subscription) -> None:
    strategies.rotate_packet_secret(subscription=follows, actor=audit.SYSTEM)
    follows.refresh_from_db()
    follows.sealed_packet_secret = follows.sealed_next_secret  # as somebody with an UPDATE might

    with pytest.raises(crypto.SecretUnreadable):
        strategies.packet_secret(follows)
