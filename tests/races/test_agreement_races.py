"""Acceptances against each other, against new terms, and against the end of a notice; each with its control."""

import json
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.utils import timezone

from accounts.models import TradingAccount
from audit import services as audit
from audit.models import AuditLog
from config import demo_data
from core.errors import DomainError
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests import databases
from tests.races.test_wallet_races import all_at_once
from tests.transactions import committed
from tests.wallets.conftest import accept
from trades import snapshot
from wallets.models import FeeAcceptance, FeeAgreement, FeeNotice, FeeNoticeQuerySet, FeeTerms, Settlement
from wallets.services import agreements

WITHOUT_TURNS = """create or replace function take_turns_with_terms(p_strategy bigint) returns void language plpgsql as
                   $$ begin end $$"""


@pytest.fixture
def terms(lena: TradingAccount) -> FeeTerms:
    strategy = Strategy.objects.get(account=lena)
    return FeeTerms.objects.create(strategy=strategy, performance_bps=2000, subscription_fee=Decimal(15))


class Thread(threading.Thread):
    """Runs one call beside the test, and keeps the code of its refusal."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self.call, self.refusal = call, ""
        self.start()

    def run(self) -> None:
        try:
            self.call()
        except DomainError as error:
            self.refusal = error.code
        finally:
            connections.close_all()


def test_forty_acceptances_at_once_are_one(finn: TradingAccount, terms: FeeTerms) -> None:
    agreements.keep_notices(now=timezone.now())

    outcomes = all_at_once(*[lambda: accept(finn, terms)] * 40)

    assert outcomes == {"done": 40}
    assert FeeAcceptance.objects.count() == FeeAgreement.objects.count() == Settlement.objects.count() == 1
    assert AuditLog.objects.filter(action="fee.terms_accepted").count() == 1
    assert FeeNotice.objects.get().outcome == "ACCEPTED"


# --- against new terms


def accepted_while_terms_are_added(finn: TradingAccount, terms: FeeTerms, database: str) -> tuple[bool, str]:
    """Accept the terms while another transaction has added new ones and not committed yet. Return whether the
    acceptance waited for it, and its refusal.
    """
    with psycopg.connect(**databases.login(), dbname=database) as other:
        other.execute(
            "insert into fee_terms (strategy_id, performance_bps, subscription_fee, platform_bps)"
            " values (%s, 5000, 0, 2500)", [terms.strategy_id],
        )  # fmt: skip
        accepting = Thread(lambda: accept(finn, terms))
        accepting.join(0.7)
        waits = accepting.is_alive()
        other.commit()
    accepting.join(30)
    return waits, accepting.refusal


def test_terms_that_are_being_added_are_waited_for(finn: TradingAccount, terms: FeeTerms, desk_db: str) -> None:
    assert accepted_while_terms_are_added(finn, terms, desk_db) == (True, "terms_not_offered")
    assert FeeAcceptance.objects.count() == FeeAgreement.objects.count() == 0


def test_control_without_the_turns_old_terms_are_accepted(finn: TradingAccount, terms: FeeTerms, desk_db: str) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute(WITHOUT_TURNS)

    assert accepted_while_terms_are_added(finn, terms, desk_db) == (False, "")
    assert FeeAcceptance.objects.get().terms != agreements.latest_terms(terms.strategy)


# --- against the end of the notice


def accepted_at_the_end(finn: TradingAccount, terms: FeeTerms, monkeypatch: pytest.MonkeyPatch) -> str:
    """Accept the terms between the look at a notice that has ended and the end of its subscription; return the
    refusal."""
    now = timezone.now()
    agreements.keep_notices(now=now)
    close, accepting = agreements._close, []

    def close_after_an_acceptance(*arguments: Any) -> None:
        if not accepting:
            accepting.append(Thread(lambda: accept(finn, terms)))
            accepting[0].join(0.7)
        close(*arguments)

    monkeypatch.setattr(agreements, "_close", close_after_an_acceptance)
    try:
        agreements.keep_notices(now=now + timedelta(days=31))
    finally:
        accepting[0].join(30)
    return str(accepting[0].refusal)


def test_an_acceptance_at_the_end_of_the_notice_finds_the_subscription_ended(
    finn: TradingAccount, terms: FeeTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accepted_at_the_end(finn, terms, monkeypatch) == "not_found"

    assert Subscription.objects.get(account=finn).status == "ENDED"
    assert (FeeAgreement.objects.count(), FeeNotice.objects.get().outcome) == (0, "STOPPED")


@pytest.fixture
def unlocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeeNoticeQuerySet, "lock", lambda notices: notices.order_by("pk"))


def test_control_without_the_lock_the_trigger_refuses_the_second(
    finn: TradingAccount, terms: FeeTerms, monkeypatch: pytest.MonkeyPatch, unlocked: None
) -> None:
    with pytest.raises(Exception, match="keeps what it says"):
        accepted_at_the_end(finn, terms, monkeypatch)

    assert Subscription.objects.get(account=finn).status == "ACTIVE"
    assert FeeNotice.objects.get().outcome == "ACCEPTED"


def test_control_without_lock_and_trigger_a_subscription_ends_although_its_fees_are_accepted(
    finn: TradingAccount, terms: FeeTerms, monkeypatch: pytest.MonkeyPatch, unlocked: None
) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute("alter table fee_notices disable trigger keeps_what_it_says")

    accepted_at_the_end(finn, terms, monkeypatch)

    assert Subscription.objects.get(account=finn).status == "ENDED"
    assert FeeAgreement.objects.count() == 1


# --- a subscription that begins paused, against a trade that opens


def seen_by_who_waits_to_accept(
    ella: TradingAccount, lena: TradingAccount, terms: FeeTerms, database: str
) -> tuple[bool, list[str]]:
    """Subscribe while another transaction has opened a trade and not committed yet. Return whether the subscription
    waited for it, and the tickets that its account is shown.
    """
    opening = {"ticket_id": "777001", "symbol": "EURUSD", "type": "BUY", "volume": "0.1", "open_price": "1.1"}
    caller = {"kind": "system", "account": lena.pk}
    strategy = terms.strategy
    with psycopg.connect(**databases.login(), dbname=database) as other:
        outcome = other.execute("select trade_open(%s, %s)", [json.dumps(caller), json.dumps(opening)]).fetchone()
        assert outcome is not None and outcome[0]["code"] == "opened"
        subscribing = Thread(
            lambda: committed(strategies.subscribe, account=ella, strategy=strategy, actor=audit.SYSTEM)
        )
        subscribing.join(0.7)
        waits = subscribing.is_alive()
        other.commit()
    subscribing.join(30)
    return waits, [trade["ticket_id"] for trade in snapshot.read([ella.pk]).trades]


@pytest.fixture
def ella(cast: dict[str, Any]) -> TradingAccount:
    return demo_data.account(demo_data.user("ella"), "ella-mt5")


def test_a_trade_that_opens_meanwhile_is_not_shown_to_who_waits_to_accept(
    ella: TradingAccount, lena: TradingAccount, terms: FeeTerms, desk_db: str
) -> None:
    assert seen_by_who_waits_to_accept(ella, lena, terms, desk_db) == (True, [])


def test_control_without_the_streams_lock_it_is_shown(
    ella: TradingAccount, lena: TradingAccount, terms: FeeTerms, desk_db: str
) -> None:
    with connections["owner"].cursor() as cursor:
        cursor.execute("select pg_get_functiondef('subscription_begins_without_open_trades()'::regprocedure)")
        (definition,) = cursor.fetchone()
        assert "perform from strategies" in definition
        cursor.execute(re.sub(r"perform from strategies[^;]*;", "", definition))

    assert seen_by_who_waits_to_accept(ella, lena, terms, desk_db) == (False, ["777001"])
