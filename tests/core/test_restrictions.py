"""What lifts a restriction goes through its function, which writes the audit row. The application has no other way."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.utils import timezone

from accounts import services as accounts
from accounts.models import BotKey, TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from tests import databases
from tests.sql import as_owner
from trust import services as trust
from trust.models import TrustScore
from wallets import services as wallets
from wallets.models import LedgerHalt
from wallets.services import ledger_halt

CALLER = {"kind": "system", "actor": ""}
TABLES = ("strategies", "subscriptions", "wallets", "ledger_halts", "trust_holds", "trust_scores", "bot_keys")


@pytest.fixture
def restricted(lena: TradingAccount, finn: TradingAccount, staff: User) -> dict[str, Any]:
    """Lena's strategy is frozen and takes nobody; finn's subscription is paused; his wallet is frozen; the ledger is
    halted; lena is held and restricted; one of her keys is revoked. Ids by table."""
    strategy, subscription = Strategy.objects.get(account=lena), Subscription.objects.get(account=finn)
    strategies.freeze(strategy=strategy, actor=audit.SYSTEM, reason="test")
    strategies.close_to_new(strategy=strategy, actor=audit.SYSTEM, reason="test")
    strategies.pause(subscription=subscription, actor=audit.SYSTEM)
    wallet = wallets.wallet_of(owner=finn.owner, currency="USD")
    wallets.freeze(wallet=wallet, reason="test", actor=audit.SYSTEM)
    expires_at = timezone.now() + timedelta(days=9)
    hold = trust.hold(
        user=lena.owner, kind="FLOW", effect="CLOSE_ONLY", reason="test", expires_at=expires_at, by=staff,
        actor=audit.SYSTEM,
    )  # fmt: skip
    score = TrustScore.objects.get(user=lena.owner, kind="FLOW")
    assert score.restricted_at is not None
    key = BotKey.objects.filter(account=lena).earliest("pk")
    accounts.revoke_key(key=key, actor=audit.SYSTEM)
    ledger_halt.halt(why="test")
    return {
        "strategy": strategy.pk, "subscription": subscription.pk, "wallet": wallet.pk, "hold": hold.pk,
        "user": str(lena.owner.pk), "key": key.pk, "kind": "FLOW",
    }  # fmt: skip


@pytest.fixture
def app(desk_db: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(databases.url(desk_db, "DATABASE_URL"), autocommit=True)) as connection:
        yield connection


@pytest.fixture
def owner(desk_db: str) -> Iterator[psycopg.Connection[Any]]:
    with closing(psycopg.connect(databases.url(desk_db), autocommit=True)) as connection:
        yield connection


def rows(owner: Any) -> Any:
    query = " union all ".join(
        f"select '{table}', to_jsonb(t)::text from {table} t" for table in (*TABLES, "audit_log")
    )
    return owner.execute(f"{query} order by 1, 2").fetchall()


LIFTS = [
    "update strategies set status = 'ACTIVE', frozen_for = ''",
    "update strategies set frozen_for = 'TRUST' where frozen_for = 'HAND'",
    "update strategies set takes_subscribers = true",
    "update subscriptions set status = 'ACTIVE', paused_for = ''",
    "update subscriptions set paused_for = 'OWNER' where status = 'PAUSED'",
    "update subscriptions set status = 'ENDED', paused_for = ''; update subscriptions set status = 'ACTIVE'",
    "update wallets set frozen_at = null",
    "update ledger_halts set ended_at = now()",
    "update trust_holds set ended_at = now()",
    "update trust_holds set effect = 'OPEN'",
    "delete from trust_holds",
    "insert into trust_holds (user_id, kind, effect, reason, expires_at)"
    " select user_id, 'ENDPOINT', 'OPEN', 'mine', now() + interval '1 day' from trust_holds",
    "update trust_scores set restricted_at = null",
    "update bot_keys set revoked_at = null",
    "merge into wallets w using (values (1)) v on true when matched then update set frozen_at = null",
]
DELETES = ["delete from strategies where status <> 'ACTIVE'", "delete from bot_keys where revoked_at is not null"]


@pytest.mark.parametrize("statement", [*LIFTS, *DELETES])
def test_the_application_lifts_no_restriction_by_itself(
    statement: str, restricted: dict[str, Any], app: Any, owner: Any
) -> None:
    before = rows(owner)

    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute(statement)
    app.execute("create temporary table pg_class as select oid, session_user::regrole::oid as relowner"
                " from pg_catalog.pg_class")  # fmt: skip
    app.execute("set search_path = pg_temp, public, pg_catalog")
    with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
        app.execute(statement)

    assert rows(owner) == before


@pytest.mark.breaks_the_books
@pytest.mark.parametrize("statement", LIFTS)
def test_control_without_the_triggers_the_application_lifts_it_without_a_trace(
    statement: str, restricted: dict[str, Any], app: Any, owner: Any
) -> None:
    for table in TABLES:
        as_owner(f"alter table {table} disable trigger user")
    recorded, before = AuditLog.objects.count(), rows(owner)

    app.execute(statement)

    assert rows(owner) != before
    assert AuditLog.objects.count() == recorded


FUNCTIONS = {
    "strategy_thaw": ("strategy.thawed", {"reason": "test"}),
    "strategy_open_to_new": ("strategy.opened_to_new", {"reason": "test"}),
    "subscription_resume": ("subscription.resumed", {}),
    "wallet_unfreeze": ("wallet.unfrozen", {"reason": "test"}),
    "ledger_resume": ("ledger.resumed", {}),
    "trust_hold_end": ("trust.hold_ended", {"now": "2027-01-01T00:00:00Z"}),
    "trust_restore": ("trust.restored", {"score": "80"}),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_writes_the_audit_row_of_what_it_lifted_and_no_other(
    function: str, restricted: dict[str, Any], app: Any
) -> None:
    action, args = FUNCTIONS[function]
    recorded = AuditLog.objects.count()

    def call(**more: Any) -> Any:
        call_args = [json.dumps(CALLER), json.dumps({**restricted, **args, **more})]
        return app.execute(f"select {function}(%s, %s)", call_args).fetchone()

    assert call() == (True,)
    assert list(AuditLog.objects.values_list("action", flat=True).order_by("pk"))[recorded:] == [action]
    assert call() == (False,)
    assert AuditLog.objects.count() == recorded + 1


def test_the_services_lift_what_they_set(restricted: dict[str, Any], finn: TradingAccount, staff: User) -> None:
    strategy, subscription = Strategy.objects.get(pk=restricted["strategy"]), Subscription.objects.get(account=finn)

    strategies.thaw(strategy=strategy, actor=audit.SYSTEM, reason="test", why="TRUST")
    assert Strategy.objects.get(pk=strategy.pk).status == "CLOSE_ONLY"  # it is frozen for another reason
    strategies.thaw(strategy=strategy, actor=audit.SYSTEM, reason="test")
    strategies.resume(subscription=subscription, actor=audit.SYSTEM, why="TRUST")
    assert Subscription.objects.get(pk=subscription.pk).status == "PAUSED"
    strategies.resume(subscription=subscription, actor=audit.SYSTEM)
    assert ledger_halt.resume()
    assert not ledger_halt.resume()

    assert Strategy.objects.get(pk=strategy.pk).status == "ACTIVE"
    assert Subscription.objects.get(pk=subscription.pk).status == "ACTIVE"
    assert not LedgerHalt.objects.filter(ended_at=None).exists()
    wallet = wallets.wallet_of(owner=finn.owner, currency="USD")
    wallets.unfreeze(wallet=wallet, reason="test", actor=audit.SYSTEM)
    wallets.deposit(wallet=wallet, amount=Decimal(1), note="", idempotency_key="one")


def test_the_bots_login_lifts_nothing(desk_db: str, restricted: dict[str, Any], owner: Any) -> None:
    before = rows(owner)
    with closing(psycopg.connect(databases.url(desk_db, "DATABASE_BOT_URL"), autocommit=True)) as bot:
        for function in (*FUNCTIONS, "trust_hold"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                bot.execute(f"select {function}('{{}}', %s)", [json.dumps(restricted)])
        for statement in LIFTS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                bot.execute(statement)

    assert rows(owner) == before


def test_a_process_of_0_1_0_lifts_what_it_set(restricted: dict[str, Any], owner: Any) -> None:
    """Its login may take on both roles. For one release it runs on this schema."""
    owner.execute("set role copydesk_app")

    owner.execute("update strategies set status = 'ACTIVE', frozen_for = ''")
    owner.execute("update trust_holds set ended_at = now()")
