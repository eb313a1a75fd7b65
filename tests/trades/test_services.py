"""The services called from Python: they run inside the caller's transaction and are exact."""

from decimal import Decimal
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connections, transaction
from django.db.transaction import TransactionManagementError

from accounts.models import TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from market.models import Instrument
from strategies.models import Strategy
from trades import publisher, services
from trades.models import ActiveTrade, Trade, TradeHistory

OPEN: dict[str, Any] = {"symbol": "EURUSD", "type": "BUY", "volume": Decimal("0.1"), "open_price": Decimal("1.105")}
CLOSE = {"close_price": Decimal("1.108"), "profit": Decimal("30")}
PART: dict[str, Any] = {"deal_id": "1", "volume": Decimal("0.04"), **CLOSE}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    events: list[Any] = []
    monkeypatch.setattr(publisher, "publish", events.append)
    return events


def open_one(account: Any, ticket: str = "1", **more: Any) -> Any:
    with transaction.atomic():
        return services.open_trade(account=account, ticket_id=ticket, **{**OPEN, **more})


def close_one(account: Any, ticket: str = "1", **more: Any) -> Any:
    with transaction.atomic():
        return services.close_trade(account=account, ticket_id=ticket, **{**CLOSE, **more})


def test_opens_modifies_reduces_and_closes_a_trade(lena: TradingAccount, published: list[Any]) -> None:
    with transaction.atomic():
        services.open_trade(account=lena, ticket_id="1", sl=Decimal("1.1"), comment="by hand", **OPEN)
        services.modify_trade(account=lena, ticket_id="1", sl=None, tp=Decimal("1.2"))
        services.reduce_trade(account=lena, ticket_id="1", **PART)
        closed = services.close_trade(account=lena, ticket_id="1", reason="SL", **CLOSE)

    assert (closed["code"], closed["trade"]["profit"]) == ("closed", "60.00000000")
    history = TradeHistory.objects.get()
    assert (history.reason, history.sl, str(history.tp), history.seq) == ("SL", None, "1.20000000", 4)
    events = ["trade.opened", "trade.modified", "trade.reduced", "trade.closed"]
    assert [outcome["event"] for outcome in published] == events


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        (services.open_trade, OPEN),
        (services.modify_trade, {"sl": None}),
        (services.reduce_trade, PART),
        (services.close_trade, CLOSE),
    ],
)
def test_refuses_to_work_outside_a_transaction(lena: TradingAccount, verb: Any, arguments: Any) -> None:
    with pytest.raises(TransactionManagementError, match="is a part"):
        verb(account=lena, ticket_id="1", **arguments)
    assert not Trade.objects.exists()


def test_a_rollback_publishes_and_stores_nothing(lena: TradingAccount, published: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        services.open_trade(account=lena, ticket_id="1", **OPEN)
        raise ZeroDivisionError

    assert published == []
    assert not Trade.objects.exists()
    assert not AuditLog.objects.filter(action="trade.opened").exists()
    assert Strategy.objects.get(account=lena).last_seq == 0


def test_nothing_is_published_before_the_commit(lena: TradingAccount, published: list[Any]) -> None:
    with transaction.atomic():
        services.open_trade(account=lena, ticket_id="1", **OPEN)
        assert published == []

    assert [outcome["trade"]["seq"] for outcome in published] == ["1"]


def test_raises_the_refusal_with_its_details(lena: TradingAccount) -> None:
    open_one(lena)
    close_one(lena)

    with pytest.raises(services.TradeClosed):
        open_one(lena)
    with pytest.raises(services.TradeClosedConflict) as conflict:
        close_one(lena, reason="TP")
    assert conflict.value.extra["trade"]["reason"] == "MANUAL"


@pytest.mark.parametrize(
    ("verb", "arguments", "error"),
    [
        (services.modify_trade, {"sl": None}, services.TradeUnknown),
        (services.reduce_trade, PART, services.TradeUnknown),
    ],
)
def test_refuses_an_unknown_trade(lena: TradingAccount, verb: Any, arguments: Any, error: Any) -> None:
    with pytest.raises(error), transaction.atomic():
        verb(account=lena, ticket_id="1", **arguments)


def test_the_actor_is_audited(lena: TradingAccount, staff: User) -> None:
    actor = audit.Actor(AuditLog.Actor.STAFF, str(staff.pk), "127.0.0.9", "request-1")

    open_one(lena, actor=actor)

    audit_row = AuditLog.objects.get(action="trade.opened")
    assert (audit_row.actor_kind, audit_row.actor, audit_row.ip, audit_row.request_id) == (
        "staff",
        str(staff.pk),
        "127.0.0.9",
        "request-1",
    )


def test_the_default_actor_is_the_system(lena: TradingAccount) -> None:
    open_one(lena)

    assert AuditLog.objects.get(action="trade.opened").actor_kind == "system"


@pytest.mark.parametrize("wrong", ["NaN", "sNaN", "Infinity", "-Infinity", "0.123456789", "1E-9", "1E+12"])
@pytest.mark.parametrize("name", ["volume", "open_price", "sl", "tp"])
def test_refuses_an_amount_that_cannot_be_stored_exactly(lena: TradingAccount, name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=r"must be|decimals"):
        open_one(lena, **{name: Decimal(wrong)})
    assert not Trade.objects.exists()


@pytest.mark.parametrize("name", ["close_price", "profit"])
def test_a_close_refuses_an_amount_that_cannot_be_stored_exactly(lena: TradingAccount, name: str) -> None:
    open_one(lena)

    with pytest.raises(ValueError, match="finite"):
        close_one(lena, **{name: Decimal("NaN")})
    assert ActiveTrade.objects.exists()


def test_stores_the_largest_and_the_smallest_amounts_exactly(lena: TradingAccount) -> None:
    largest, smallest = Decimal("999999999999.99999999"), Decimal("0.00000001")
    Instrument.objects.filter(symbol="EURUSD").update(max_volume=largest)

    open_one(lena, volume=largest, open_price=smallest)
    close_one(lena, close_price=smallest, profit=-largest)

    closed = TradeHistory.objects.get()
    assert (closed.volume, closed.open_price, closed.profit) == (largest, smallest, -largest)


def test_a_copy_is_reported_by_strategy_and_the_providers_ticket(
    lena: TradingAccount, finn: TradingAccount, published: list[Any]
) -> None:
    open_one(lena)
    published.clear()

    outcome = open_one(finn, "501", copies=("lena-eurusd", "1"))

    assert outcome["trade"]["role"] == "copy"
    assert published == []


# --- by staff's hand


def force_close(trade_id: Any, **more: Any) -> Any:
    by = audit.Actor(AuditLog.Actor.STAFF, "desk")
    return services.force_close(trade_id=trade_id, note="the bot is gone", actor=by, **{**CLOSE, **more})


def test_force_close_is_a_whole_use_case(lena: TradingAccount) -> None:
    trade_id = open_one(lena)["trade"]["trade_id"]

    force_close(trade_id)

    assert TradeHistory.objects.get().reason == "STAFF"
    audit_row = AuditLog.objects.get(action="trade.closed")
    assert (audit_row.actor_kind, audit_row.detail["note"]) == ("staff", "the bot is gone")


def test_force_close_refuses_to_run_inside_a_transaction(lena: TradingAccount) -> None:
    trade_id = open_one(lena)["trade"]["trade_id"]

    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        force_close(trade_id)
    assert ActiveTrade.objects.exists()


def test_force_close_of_a_closed_or_unknown_trade_is_refused(lena: TradingAccount) -> None:
    trade_id = open_one(lena)["trade"]["trade_id"]
    force_close(trade_id)

    with pytest.raises(services.TradeClosed):
        force_close(trade_id)


def test_a_force_close_that_fails_leaves_no_transaction_behind(lena: TradingAccount) -> None:
    trade_id = open_one(lena)["trade"]["trade_id"]

    with pytest.raises(ValueError, match="finite"):
        force_close(trade_id, profit=Decimal("NaN"))
    assert not connections[DEFAULT_DB_ALIAS].in_atomic_block
    assert ActiveTrade.objects.exists()
