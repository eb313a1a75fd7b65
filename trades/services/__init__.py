"""Opening, modifying, reducing and closing trades. Each verb calls one SQL function (trades/sql), which does the work.

The four verbs are parts: they run inside the caller's transaction. A signed request is a use case of its own, in the
transaction of the protocol (`run_signed`).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Required, TypedDict

import orjson
from django.db import connection, transaction

from accounts import protocol
from accounts.models import TradingAccount
from accounts.protocol import OwnerInactive, SignedCall
from audit import services as audit
from core import database, errors, money
from core.errors import DomainError
from core.transactions import part, use_case
from trades import publisher
from trades.models import ActiveTrade, Reason, Side


class TradeClosed(DomainError):
    code = "trade_closed"
    detail = "This trade is closed and cannot be opened again. Ask for the active trades; do not send it again."


class TradeExistsDifferent(DomainError):
    code = "trade_exists_different"
    detail = "This ticket is already open with other content."


class TradeClosedConflict(DomainError):
    code = "trade_closed_conflict"
    detail = "This trade was already closed at another price or for another reason. The first close stands."


class TradeUnknown(DomainError):
    code = "trade_unknown"
    status = 404
    detail = "This account has no such trade."


class VolumeIncrease(DomainError):
    code = "volume_increase"
    detail = "The volume of a reduction is the lots that must remain open. It cannot be more than are open now."


class DealExistsDifferent(DomainError):
    code = "deal_exists_different"
    detail = "This deal was already reported with other content."


class StrategyCloseOnly(DomainError):
    code = "strategy_close_only"
    detail = "This strategy may close trades but not open new ones."


class StopWrongSide(DomainError):
    code = "stop_wrong_side"
    status = 422
    detail = (
        "A stop is on the wrong side of the price. "
        "A BUY has its stop loss below and its target above; a SELL the other way round."
    )


class VolumeAboveLimit(DomainError):
    code = "volume_above_limit"
    status = 422
    detail = "The volume is above the largest that the desk takes for this instrument; `largest` names it."


class TooManyOpen(DomainError):
    code = "too_many_open"
    detail = "The account has its largest number of open trades; `largest` names it. Close some first."


class StrategyMissing(DomainError):
    code = "strategy_missing"
    detail = "This account publishes no strategy."


class LeaseLost(DomainError):
    code = "lease_lost"
    detail = "Another copier has taken over this account. Open nothing more; stop or restart this copier."


class CurrencyDiffers(DomainError):
    code = "currency_differs"
    detail = (
        "The bot's account has another currency than the desk has registered for it, so its amounts are not used. "
        "Log the terminal in to the registered account, or ask staff to register the reported currency. "
        "A cent account has a currency of its own, such as USC."
    )


class Outcome(TypedDict, total=False):
    """The answer of a function in trades/sql: its code, and the fields that belong to that code."""

    code: Required[str]
    refused: bool
    replayed: bool  # the outcome that was stored under the idempotency key
    event: str  # in the stream of `strategy_id`
    strategy_id: int
    paused: list[str]  # the subscriptions that are not shown this open
    trade: dict[str, Any]
    fence: int  # of a copier's heartbeat: its lease
    lease_ms: int
    may_open_in_ms: int
    currency: str  # of an account's report: the registered one
    symbols: list[dict[str, Any]]
    changed: bool  # what sizes copies is not as it was before


@dataclass(frozen=True, slots=True)
class Operation:
    """One effect that a signed request asks for."""

    idempotency_key: str
    fingerprint: str
    verb: str
    args: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"idem": self.idempotency_key, "fingerprint": self.fingerprint, "verb": self.verb, "args": self.args}


def run_signed(call: SignedCall, operations: Sequence[Operation]) -> list[Outcome]:
    """Execute a signed request in one transaction: sequence number, idempotency, effects, audit rows.

    Outcomes have the order of the operations. A refused operation has `refused`; one whose result was stored before has
    `replayed`. Raises a refusal if the request as a whole is refused. Deltas are published after the commit.
    """
    answer = database.ask(
        database.BOT,
        "select signed_call($1, $2, $3::jsonb, $4::jsonb)::text",
        call.credential.generation_id,
        call.signable.seq,
        orjson.dumps(call.caller()).decode(),
        orjson.dumps([operation.as_dict() for operation in operations]).decode(),
    )
    response = orjson.loads(answer)
    if "refused" in response:
        protocol.refuse(call, errors.of_code(response.pop("refused"), **response))
    outcomes: list[Outcome] = response["results"]
    if any(outcome["code"] == OwnerInactive.code for outcome in outcomes):
        protocol.record_refused_call(call, OwnerInactive())
    for outcome in outcomes:
        if "event" in outcome and "replayed" not in outcome:
            publisher.publish(outcome)
    return outcomes


@part
def open_trade(
    *,
    account: TradingAccount,
    ticket_id: str,
    symbol: str,
    type: Side | str,
    volume: Decimal,
    open_price: Decimal,
    sl: Decimal | None = None,
    tp: Decimal | None = None,
    opened_at: datetime | None = None,
    comment: str = "",
    copies: tuple[str, str] | None = None,
    actor: audit.Actor = audit.SYSTEM,
) -> Outcome:
    """Open a trade on a provider's account, or report a copy (`copies`: strategy name, provider's ticket).

    Locks the account's strategy; for a copy, the account. Refuses a ticket that is closed, or open with other content.
    """
    args: dict[str, Any] = {
        "ticket_id": str(ticket_id),
        "symbol": symbol,
        "type": str(type),
        "volume": _amount(volume),
        "open_price": _amount(open_price),
        "sl": None if sl is None else _amount(sl),
        "tp": None if tp is None else _amount(tp),
        "comment": comment,
    }
    if opened_at is not None:
        args["opened_at"] = opened_at.isoformat()
    if copies is not None:
        args["copies"] = {"strategy": copies[0], "master_ticket": str(copies[1])}
    return _do("trade_open", account, actor, args)


_KEEP: Any = object()


@part
def modify_trade(
    *,
    account: TradingAccount,
    ticket_id: str,
    sl: Decimal | None = _KEEP,
    tp: Decimal | None = _KEEP,
    actor: audit.Actor = audit.SYSTEM,
) -> Outcome:
    """Set the given stops; None removes one. Locks the stream, then the trade."""
    changed = {name: value for name, value in (("sl", sl), ("tp", tp)) if value is not _KEEP}
    stops = {name: None if value is None else _amount(value) for name, value in changed.items()}
    return _do("trade_modify", account, actor, {"ticket_id": str(ticket_id), **stops})


@part
def reduce_trade(
    *,
    account: TradingAccount,
    ticket_id: str,
    deal_id: str,
    volume: Decimal,
    close_price: Decimal,
    profit: Decimal,
    actor: audit.Actor = audit.SYSTEM,
) -> Outcome:
    """Close a part of a trade: `volume` lots remain (zero closes the trade). Repeating a `deal_id` changes nothing."""
    return _do(
        "trade_reduce",
        account,
        actor,
        {
            "ticket_id": str(ticket_id),
            "deal_id": deal_id,
            "volume": _amount(volume),
            "close_price": _amount(close_price),
            "profit": _amount(profit),
        },
    )


@part
def close_trade(
    *,
    account: TradingAccount,
    ticket_id: str,
    close_price: Decimal,
    profit: Decimal,
    reason: Reason | str = Reason.MANUAL,
    note: str = "",
    actor: audit.Actor = audit.SYSTEM,
) -> Outcome:
    """Move a trade from the hot to the cold table. An unknown ticket leaves a tombstone that refuses its late open."""
    args = {
        "ticket_id": str(ticket_id),
        "close_price": _amount(close_price),
        "profit": _amount(profit),
        "reason": str(reason),
    }
    return _do("trade_close", account, actor, {**args, "note": note} if note else args)


def _amount(value: Decimal) -> str:
    """The amount as text for the SQL functions; ValueError if the database could not store it exactly."""
    return money.text(money.exact(value))


def _do(verb: str, account: TradingAccount, actor: audit.Actor, args: dict[str, Any]) -> Outcome:
    """Call one SQL function in the caller's transaction. Its event is published after the commit, if there is one."""
    outcome = call(verb, account, actor, args)
    if "event" in outcome:
        transaction.on_commit(lambda: publisher.publish(outcome))
    return outcome


@part
def call(verb: str, account: TradingAccount, actor: audit.Actor, args: dict[str, Any]) -> Outcome:
    """Call one SQL function in the caller's transaction; raise its refusal."""
    outcome = _ask(verb, {**actor.caller(), "account": account.pk}, args)
    if (refusal := errors.of_outcome(outcome)) is not None:
        raise refusal
    return outcome


def _ask(verb: str, caller: dict[str, Any], args: dict[str, Any]) -> Outcome:
    with connection.cursor() as cursor:
        cursor.execute(
            f"select {verb}(%s::jsonb, %s::jsonb)::text",  # the name comes from this module, never from a request
            [orjson.dumps(caller).decode(), orjson.dumps(args).decode()],
        )
        (answer,) = cursor.fetchone() or ("{}",)
    outcome: Outcome = orjson.loads(answer)
    return outcome


def force_close(
    *, trade_id: uuid.UUID, close_price: Decimal, profit: Decimal, note: str, actor: audit.Actor
) -> Outcome:
    """Close an open trade on behalf of staff, with a note for the audit log."""
    with use_case():
        trade = ActiveTrade.objects.select_related("account").filter(pk=trade_id).first()
        if trade is None:
            raise TradeClosed
        return close_trade(
            account=trade.account,
            ticket_id=trade.ticket_id,
            close_price=close_price,
            profit=profit,
            reason=Reason.STAFF,
            note=note,
            actor=actor,
        )
