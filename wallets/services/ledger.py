"""The verbs that move money. They call the ledger's SQL functions (wallets/sql/functions).

Each public verb is a use case: it opens its own transaction, fails at once where another transaction holds the wallet
(NOWAIT), tries again a few times, and then raises `WalletBusy`. Inside a transaction a verb becomes a part of it and
does not try again.
"""

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import orjson
from django.db import DatabaseError, connection
from django.utils import timezone

from accounts.models import User
from accounts.protocol import IdempotencyConflict
from audit import services as audit
from core import database, errors, money
from core.errors import DomainError, Invalid, NotFound, SecondPersonNeeded
from core.transactions import use_case, use_case_or_part
from wallets.models import LedgerTransfer, TransferKind, Wallet
from wallets.services.destinations import CoolingTime, DestinationNotConfirmed

KEY_CHARS = 200
TRIES, SHORTEST_S, LONGEST_S, PATIENCE_S = 4, 0.005, 0.080, 0.25


class InsufficientFunds(DomainError):
    code = "insufficient_funds"
    status = 422
    detail = "The wallet's available balance is lower than this amount."


class WalletBusy(DomainError):
    code = "wallet_busy"
    retry = "same_key"
    detail = "Concurrent modification detected: another transaction holds this wallet. Repeat with the same key."


class ConcurrentModification(DomainError):
    code = "concurrent_modification"
    retry = "same_key"
    detail = "Concurrent modification detected: the wallet changed in the meantime. Repeat with the same key."


class AmountInvalid(DomainError):
    code = "amount_invalid"
    status = 422
    detail = "The amount must be above zero, have at most 8 decimals, and fit the wallet."


class CurrencyMismatch(DomainError):
    code = "currency_mismatch"
    status = 422
    detail = "The two wallets are in different currencies."


class WalletNotFound(DomainError):
    code = "wallet_not_found"
    status = 404
    detail = "There is no such wallet."


class WalletFrozen(DomainError):
    code = "wallet_frozen"
    status = 422
    detail = "This wallet is frozen: no money can leave it. Contact support."


class HoldNotFound(DomainError):
    code = "hold_not_found"
    status = 404
    detail = "There is no such hold on this wallet."


class HoldResolved(DomainError):
    code = "hold_resolved"
    status = 422
    detail = "This hold has already been posted or released."


class HoldExpired(DomainError):
    code = "hold_expired"
    status = 422
    detail = "This hold has expired."


class ReversedAlready(DomainError):
    code = "reversed_already"
    detail = "This transfer has already been reversed, or is itself a reversal."


class LedgerHalted(DomainError):
    code = "ledger_halted"
    status = 503
    retry = "same_key"
    detail = "A check of the books failed: no money moves until staff have resolved it. Trading continues."


# Refusals that the ledger's functions store under the key of the request.
REFUSALS = (
    InsufficientFunds, AmountInvalid, CurrencyMismatch, WalletNotFound, WalletFrozen, HoldNotFound, HoldResolved,
    HoldExpired, ReversedAlready, IdempotencyConflict,
)  # fmt: skip

# Database errors that are refusals, by SQLSTATE: Django's exception classes do not tell them apart.
_ERRORS_BY_SQLSTATE: dict[str, type[DomainError]] = {
    "55P03": WalletBusy,  # NOWAIT, and lock_timeout
    "CD006": ConcurrentModification,
    "40001": ConcurrentModification,
    "40P01": ConcurrentModification,
    "CD007": LedgerHalted,
    "CD010": DestinationNotConfirmed,
    "CD011": CoolingTime,
}

# Constraints that refuse the second of two identical concurrent requests. Its retry finds the outcome of the first.
_DUPLICATE_REQUEST_CONSTRAINTS = (
    "ledger_entries_pkey", "transfer_is_asked_for_once", "money_is_asked_for_once", "money_requests_transfer_id_key",
    "money_requests_hold_id_key",
)  # fmt: skip

# The house account on the other side: of a credit to a person's wallet, and of a debit.
_CREDITED_FROM = {
    TransferKind.DEPOSIT: Wallet.Kind.CASH_IN,
    TransferKind.ADJUSTMENT: Wallet.Kind.ADJUSTMENTS,
    TransferKind.REVERSAL: Wallet.Kind.ADJUSTMENTS,
    TransferKind.PAYOUT: Wallet.Kind.FEES,
}
_DEBITED_TO = {
    TransferKind.DEPOSIT: Wallet.Kind.CASH_IN,  # a deposit that is taken back
    TransferKind.WITHDRAWAL: Wallet.Kind.CASH_OUT,
    TransferKind.PAYOUT: Wallet.Kind.CASH_OUT,
    TransferKind.FEE_PERFORMANCE: Wallet.Kind.FEES,
    TransferKind.FEE_SUBSCRIPTION: Wallet.Kind.FEES,
    TransferKind.ADJUSTMENT: Wallet.Kind.ADJUSTMENTS,
    TransferKind.REVERSAL: Wallet.Kind.ADJUSTMENTS,
}


@dataclass(frozen=True, slots=True)
class TransferResult:
    """A transfer, with the balance and version of the wallet that the verb was called for.

    `replayed`: an earlier request with the same key made the transfer.
    """

    transfer_id: uuid.UUID
    balance: Decimal
    version: int
    replayed: bool


def wallet_of(*, owner: User, currency: str) -> Wallet:
    """Return the person's wallet in that currency; create it empty the first time."""
    return Wallet.objects.get_or_create(owner=owner, currency=currency, kind=Wallet.Kind.PERSON)[0]


def deposit(
    *, wallet: Wallet, amount: Decimal, note: str, idempotency_key: str, actor: audit.Actor = audit.SYSTEM
) -> TransferResult:
    """Credit a wallet with money received."""
    return credit(
        wallet=wallet, amount=amount, kind=TransferKind.DEPOSIT, note=note, idempotency_key=idempotency_key, actor=actor
    )


def debit_wallet(
    *,
    wallet: Wallet,
    amount: Decimal,
    kind: TransferKind | str,
    note: str,
    idempotency_key: str,
    actor: audit.Actor = audit.SYSTEM,
) -> TransferResult:
    """Debit `amount` from a wallet to the house account that belongs to `kind`.

    The key identifies this debit for ever: a repeat returns the first outcome and moves nothing. Raises
    InsufficientFunds, WalletFrozen, AmountInvalid, WalletNotFound, IdempotencyConflict; after WalletBusy and
    ConcurrentModification the caller may repeat with the same key.
    """
    sides = {"debit": wallet.pk, "credit_house": _house_account(kind, _DEBITED_TO)}
    return _result(wallet, _move(wallet, amount, kind, note, idempotency_key, actor, **sides))


def credit(
    *,
    wallet: Wallet,
    amount: Decimal,
    kind: TransferKind | str,
    note: str,
    idempotency_key: str,
    actor: audit.Actor = audit.SYSTEM,
) -> TransferResult:
    """Credit `amount` to a wallet from the house account that belongs to `kind`."""
    sides = {"credit": wallet.pk, "debit_house": _house_account(kind, _CREDITED_FROM)}
    return _result(wallet, _move(wallet, amount, kind, note, idempotency_key, actor, **sides))


def transfer(
    *,
    source: Wallet,
    target: Wallet,
    amount: Decimal,
    note: str,
    idempotency_key: str,
    actor: audit.Actor = audit.SYSTEM,
) -> TransferResult:
    """Move `amount` between two wallets of the same currency; return the result for the source."""
    sides = {"debit": source.pk, "credit": target.pk}
    return _result(source, _move(source, amount, TransferKind.TRANSFER, note, idempotency_key, actor, **sides))


def hold(
    *,
    wallet: Wallet,
    amount: Decimal,
    purpose: str,
    idempotency_key: str,
    expires_at: datetime | None = None,
    actor: audit.Actor = audit.SYSTEM,
    wait: bool = False,
    up_to: bool = False,
) -> uuid.UUID:
    """Reserve `amount` (`up_to`: at most what is available) so that it cannot be spent; return the hold's id."""
    args = {
        "scope": _scope(wallet),
        "key": checked_key(idempotency_key),
        "wallet": wallet.pk,
        "amount": amount_text(amount),
        "purpose": purpose,
        "expires_at": expires_at.isoformat() if expires_at else None,
    }
    options = {name: True for name, is_set in (("wait", wait), ("up_to", up_to)) if is_set}
    outcome = call_ledger("ledger_hold", actor, args | options)
    return uuid.UUID(outcome["hold"])


def post(
    *,
    wallet: Wallet,
    hold_id: uuid.UUID,
    amount: Decimal,
    kind: TransferKind | str,
    note: str,
    idempotency_key: str,
    actor: audit.Actor = audit.SYSTEM,
) -> TransferResult:
    """Spend `amount` out of a hold and release the rest. A hold is posted at most once."""
    sides = {"debit": wallet.pk, "credit_house": _house_account(kind, _DEBITED_TO), "hold": str(hold_id)}
    return _result(wallet, _move(wallet, amount, kind, note, idempotency_key, actor, **sides))


def void(*, hold_id: uuid.UUID, actor: audit.Actor = audit.SYSTEM, wait: bool = False) -> None:
    """Release a hold. A repeat is no error; a hold that was posted is refused (HoldResolved)."""
    call_ledger("ledger_release", actor, {"hold": str(hold_id), "as": "VOIDED"} | ({"wait": True} if wait else {}))


def expire(*, hold_id: uuid.UUID) -> None:
    call_ledger("ledger_release", audit.SYSTEM, {"hold": str(hold_id), "as": "EXPIRED", "wait": True})


def reverse(*, transfer_id: uuid.UUID, note: str, idempotency_key: str, actor: audit.Actor = audit.SYSTEM) -> uuid.UUID:
    """Reverse a transfer, once, by a new transfer that refers to it. Money that the receiver has spent stays spent.

    It counts as a movement of its own. Where it needs two people, an adjustment, which a second person approves, takes
    its place.
    """
    original = LedgerTransfer.objects.filter(pk=transfer_id).first()
    if original is None:
        raise NotFound
    if original.reverses_id or original.claim_id:
        raise ReversedAlready("A reversal, or a transfer of a fee, cannot be reversed: make an adjustment instead.")
    args = {
        "scope": original.scope,
        "key": checked_key(idempotency_key),
        "kind": TransferKind.REVERSAL,
        "amount": money.text(original.amount),
        "note": note,
        "debit": original.credit_id,
        "credit": original.debit_id,
        "reverses": str(original.pk),
    }
    try:
        return uuid.UUID(call_ledger("ledger_move", actor, args)["transfer"])
    except SecondPersonNeeded as refusal:
        raise SecondPersonNeeded(f"{refusal.message} Request an adjustment instead.") from refusal


@use_case()
def freeze(*, wallet: Wallet, reason: str, actor: audit.Actor) -> None:
    """Block all debits of this wallet. Credits still pass."""
    if Wallet.objects.people().filter(pk=wallet.pk, frozen_at=None).update(frozen_at=timezone.now()):
        audit.record("wallet.frozen", actor=actor, subject=f"wallet:{wallet.pk}", reason=reason)


@use_case()
def unfreeze(*, wallet: Wallet, reason: str, actor: audit.Actor) -> None:
    audit.by_function("wallet_unfreeze", actor=actor, wallet=wallet.pk, reason=reason)


# --- calls of the ledger's functions


def _move(
    wallet: Wallet, amount: Decimal, kind: TransferKind | str, note: str, key: str, actor: audit.Actor, **sides: Any
) -> dict[str, Any]:
    args = {
        "scope": _scope(wallet),
        "key": checked_key(key),
        "kind": str(kind),
        "amount": amount_text(amount),
        "note": note,
    }
    return call_ledger("ledger_move", actor, args | sides)


def call_ledger(function: str, actor: audit.Actor, args: dict[str, Any]) -> dict[str, Any]:
    """Call a ledger function, in the caller's transaction or its own; return its outcome, or raise its refusal."""

    def attempt() -> dict[str, Any]:
        with translated_errors(), use_case_or_part(), connection.cursor() as cursor:
            cursor.execute(
                f"select {function}(%s::jsonb, %s::jsonb)::text",  # never a caller's text
                [orjson.dumps(actor.caller()).decode(), orjson.dumps(args).decode()],
            )
            (answer,) = cursor.fetchone() or ("{}",)
            outcome: dict[str, Any] = orjson.loads(answer)
            return outcome

    outcome = with_retries(attempt)
    if (refusal := errors.of_outcome(outcome)) is not None:
        raise refusal
    return outcome


T = TypeVar("T")


def with_retries(attempt: Callable[[], T]) -> T:
    """Retry a few times, with jitter, after a conflict with another transaction. Inside a transaction: one attempt."""
    if connection.in_atomic_block:
        return attempt()
    give_up_at = time.monotonic() + PATIENCE_S
    for number in range(1, TRIES + 1):
        try:
            return attempt()
        except (WalletBusy, ConcurrentModification) as conflict:
            if number == TRIES or time.monotonic() > give_up_at:
                conflict.extra["retry_after_ms"] = int(LONGEST_S * 1000)
                raise
            time.sleep(random.uniform(SHORTEST_S, LONGEST_S))  # noqa: S311 - only spreads the retries
    raise AssertionError("unreachable")


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn database errors that are refusals into domain errors. It wraps the transaction: a commit may fail, too."""
    try:
        yield
    except DatabaseError as error:
        sqlstate = getattr(error.__cause__, "sqlstate", None) or ""
        if database.constraint_name(error) in _DUPLICATE_REQUEST_CONSTRAINTS:
            raise ConcurrentModification from error
        if sqlstate == "CD008":
            raise SecondPersonNeeded(_sentence(error)) from error
        if sqlstate in _ERRORS_BY_SQLSTATE:
            raise _ERRORS_BY_SQLSTATE[sqlstate] from error
        raise


def _sentence(error: DatabaseError) -> str:
    """The message of the database's refusal, as a sentence for people."""
    text: str = error.__cause__.diag.message_primary or ""  # type: ignore[union-attr]
    return f"{text[:1].upper()}{text[1:]}."


def raise_if_refused(outcome: T | DomainError) -> T:
    """Return the outcome of an attempt, or raise the refusal that it returned in order to commit first."""
    if isinstance(outcome, DomainError):
        raise outcome
    return outcome


def _result(wallet: Wallet, outcome: dict[str, Any]) -> TransferResult:
    side = next(side for side in (outcome["debit"], outcome["credit"]) if side["wallet"] == wallet.pk)
    return TransferResult(
        uuid.UUID(outcome["transfer"]), Decimal(side["balance"]), side["version"], replayed="replayed" in outcome
    )


def _scope(wallet: Wallet) -> str:
    return f"wallet:{wallet.pk}"


def checked_key(key: str) -> str:
    """Return an idempotency key that the ledger can store. Raises Invalid."""
    if not 1 <= len(key) <= KEY_CHARS or "\0" in key:
        raise Invalid({"idempotency_key": [f"must be 1 to {KEY_CHARS} characters"]})
    return key


def amount_text(value: Decimal) -> str:
    """Return an amount above zero as the ledger's functions take it. Raises AmountInvalid."""
    if isinstance(value, float):
        raise AmountInvalid("The amount must be a Decimal, never a float.")
    try:
        exact = money.exact(Decimal(value))
    except ValueError as error:
        raise AmountInvalid(f"The amount {error}.") from None
    if exact <= 0:
        raise AmountInvalid
    return money.text(exact)


def _house_account(kind: TransferKind | str, sides: Mapping[Any, str]) -> str:
    try:
        return str(sides[TransferKind(kind)])
    except (KeyError, ValueError):
        allowed = ", ".join(sorted(sides))
        raise Invalid({"kind": [f"must be one of {allowed}"]}) from None
