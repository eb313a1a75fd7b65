"""How money moves. The ledger's own functions (wallets/sql/ledger.sql) do it; these are the verbs around them.

Each public verb is a use case of its own: it opens its transaction, fails fast where another holds the wallet (NOWAIT),
tries again a few times, and raises `WalletBusy` then. Inside a transaction it is a part of it, and does not try again.
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
from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone

from accounts.models import User
from accounts.protocol import IdempotencyConflict
from audit import services as audit
from core import errors, money
from core.errors import DomainError, Invalid, NotFound
from core.transactions import use_case, use_case_or_part
from wallets.models import LedgerTransfer, MoneyRequest, TransferKind, Wallet

KEY_CHARS = 200
TRIES, SHORTEST_S, LONGEST_S, PATIENCE_S = 4, 0.005, 0.080, 0.25


class InsufficientFunds(DomainError):
    code = "insufficient_funds"
    status = 422
    detail = "There is less available than that."


class WalletBusy(DomainError):
    code = "wallet_busy"
    retry = "same_key"
    detail = "Concurrent modification detected: another transaction holds this wallet. Repeat with the same key."


class ConcurrentModification(DomainError):
    code = "concurrent_modification"
    retry = "same_key"
    detail = "Concurrent modification detected: the wallet has moved on. Repeat with the same key."


class AmountInvalid(DomainError):
    code = "amount_invalid"
    status = 422
    detail = "An amount is more than nothing, has at most 8 decimals, and fits the wallet."


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
    detail = "This wallet is frozen: nothing goes out of it."


class HoldNotFound(DomainError):
    code = "hold_not_found"
    status = 404
    detail = "There is no such hold on this wallet."


class HoldResolved(DomainError):
    code = "hold_resolved"
    status = 422
    detail = "This hold was posted or released before."


class HoldExpired(DomainError):
    code = "hold_expired"
    status = 422
    detail = "This hold has expired."


class ReversedAlready(DomainError):
    code = "reversed_already"
    detail = "This transfer was reversed before, or is itself a reversal."


class LedgerHalted(DomainError):
    code = "ledger_halted"
    status = 503
    retry = "same_key"
    detail = "The books were found wrong: no money moves until that is cleared up. Trading goes on."


# What the ledger's functions refuse, and keep under the key of the request.
_REFUSALS = (
    InsufficientFunds, AmountInvalid, CurrencyMismatch, WalletNotFound, WalletFrozen, HoldNotFound, HoldResolved,
    HoldExpired, ReversedAlready, IdempotencyConflict,
)  # fmt: skip

# Which errors of the database mean what. By SQLSTATE, for their classes do not tell them apart.
_BY_STATE: dict[str, type[DomainError]] = {
    "55P03": WalletBusy,  # NOWAIT, and lock_timeout
    "CD006": ConcurrentModification,
    "40001": ConcurrentModification,
    "40P01": ConcurrentModification,
    "CD007": LedgerHalted,
}

# What two of the same request, at the same time, run into: the second finds what the first did when it tries again.
_ANOTHER_WAS_FIRST = (
    "ledger_entries_pkey", "transfer_is_asked_for_once", "money_is_asked_for_once", "money_requests_transfer_id_key",
    "money_requests_hold_id_key",
)  # fmt: skip

# The house's side of what comes in and of what goes out.
_COMES_FROM = {
    TransferKind.DEPOSIT: Wallet.Kind.CASH_IN,
    TransferKind.ADJUSTMENT: Wallet.Kind.ADJUSTMENTS,
    TransferKind.REVERSAL: Wallet.Kind.ADJUSTMENTS,
    TransferKind.PAYOUT: Wallet.Kind.FEES,
}
_GOES_TO = {
    TransferKind.DEPOSIT: Wallet.Kind.CASH_IN,  # a deposit taken back
    TransferKind.WITHDRAWAL: Wallet.Kind.CASH_OUT,
    TransferKind.PAYOUT: Wallet.Kind.CASH_OUT,
    TransferKind.FEE_PERFORMANCE: Wallet.Kind.FEES,
    TransferKind.FEE_SUBSCRIPTION: Wallet.Kind.FEES,
    TransferKind.ADJUSTMENT: Wallet.Kind.ADJUSTMENTS,
    TransferKind.REVERSAL: Wallet.Kind.ADJUSTMENTS,
}


@dataclass(frozen=True, slots=True)
class Moved:
    """A transfer that was done, as the wallet asked about has it. `replayed`: it had been done before."""

    transfer_id: uuid.UUID
    balance: Decimal
    version: int
    replayed: bool


def wallet_of(*, owner: User, currency: str) -> Wallet:
    """The person's wallet in that currency, made empty the first time."""
    return Wallet.objects.get_or_create(owner=owner, currency=currency, kind=Wallet.Kind.PERSON)[0]


def deposit(
    *, wallet: Wallet, amount: Decimal, note: str, idempotency_key: str, actor: audit.Actor = audit.SYSTEM
) -> Moved:
    """Credit a wallet with money that came in."""
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
) -> Moved:
    """Take `amount` out of a wallet, to the house's account of that kind.

    The key stands for this very debit for ever: a repeat answers as the first time and moves nothing. Raises
    InsufficientFunds, WalletFrozen, AmountInvalid, WalletNotFound, IdempotencyConflict; WalletBusy and
    ConcurrentModification may be repeated with the same key.
    """
    sides = {"debit": wallet.pk, "credit_house": _house(kind, _GOES_TO)}
    return _of(wallet, _move(wallet, amount, kind, note, idempotency_key, actor, **sides))


def credit(
    *,
    wallet: Wallet,
    amount: Decimal,
    kind: TransferKind | str,
    note: str,
    idempotency_key: str,
    actor: audit.Actor = audit.SYSTEM,
) -> Moved:
    """Bring `amount` into a wallet, from the house's account of that kind."""
    sides = {"credit": wallet.pk, "debit_house": _house(kind, _COMES_FROM)}
    return _of(wallet, _move(wallet, amount, kind, note, idempotency_key, actor, **sides))


def transfer(
    *,
    source: Wallet,
    target: Wallet,
    amount: Decimal,
    note: str,
    idempotency_key: str,
    actor: audit.Actor = audit.SYSTEM,
) -> Moved:
    """Move `amount` from one wallet to another of the same currency; answers as the source has it."""
    sides = {"debit": source.pk, "credit": target.pk}
    return _of(source, _move(source, amount, TransferKind.TRANSFER, note, idempotency_key, actor, **sides))


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
    """Set `amount` aside (`up_to`: less where there is less), so that it cannot be spent; the hold's id."""
    args = {
        "scope": _scope(wallet),
        "key": _checked(idempotency_key),
        "wallet": wallet.pk,
        "amount": _amount(amount),
        "purpose": purpose,
        "expires_at": expires_at.isoformat() if expires_at else None,
    }
    more = {"wait": True} if wait else {}
    outcome = ask("ledger_hold", actor, args | more | ({"up_to": True} if up_to else {}))
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
) -> Moved:
    """Spend `amount` of what is held, at most all of it; the rest goes back. A hold is posted at most once."""
    sides = {"debit": wallet.pk, "credit_house": _house(kind, _GOES_TO), "hold": str(hold_id)}
    return _of(wallet, _move(wallet, amount, kind, note, idempotency_key, actor, **sides))


def void(*, hold_id: uuid.UUID, actor: audit.Actor = audit.SYSTEM, wait: bool = False) -> None:
    """Give back what is held. Again is no error; what was spent stays spent (HoldResolved)."""
    ask("ledger_release", actor, {"hold": str(hold_id), "as": "VOIDED"} | ({"wait": True} if wait else {}))


def expire(*, hold_id: uuid.UUID) -> None:
    ask("ledger_release", audit.SYSTEM, {"hold": str(hold_id), "as": "EXPIRED", "wait": True})


def reverse(*, transfer_id: uuid.UUID, note: str, idempotency_key: str, actor: audit.Actor = audit.SYSTEM) -> uuid.UUID:
    """Undo a transfer by a new one that names it, once. What its receiver has spent since cannot be taken back.

    Above the limit that takes two people, and so an adjustment.
    """
    first = LedgerTransfer.objects.filter(pk=transfer_id).first()
    if first is None:
        raise NotFound
    if first.reverses_id or first.claim_id:
        raise ReversedAlready("A reversal, or a fee's own transfer, is not reversed: adjust instead.")
    if first.amount > settings.SECOND_PERSON_ABOVE:
        raise SecondPersonNeeded("Above the limit two people undo a transfer: ask for an adjustment.")
    args = {
        "scope": first.scope,
        "key": _checked(idempotency_key),
        "kind": TransferKind.REVERSAL,
        "amount": money.text(first.amount),
        "note": note,
        "debit": first.credit_id,
        "credit": first.debit_id,
        "reverses": str(first.pk),
    }
    return uuid.UUID(ask("ledger_move", actor, args)["transfer"])


@use_case()
def freeze(*, wallet: Wallet, reason: str, actor: audit.Actor) -> None:
    """Let nothing go out of this wallet. What comes in still comes in."""
    if Wallet.objects.people().filter(pk=wallet.pk, frozen_at=None).update(frozen_at=_now()):
        audit.record("wallet.frozen", actor=actor, subject=f"wallet:{wallet.pk}", reason=reason)


@use_case()
def unfreeze(*, wallet: Wallet, reason: str, actor: audit.Actor) -> None:
    if Wallet.objects.filter(pk=wallet.pk, frozen_at__isnull=False).update(frozen_at=None):
        audit.record("wallet.unfrozen", actor=actor, subject=f"wallet:{wallet.pk}", reason=reason)


# --- money that waits for a second person


class RequestDecided(DomainError):
    code = "request_decided"
    detail = "This request was decided before."


class SecondPersonNeeded(DomainError):
    code = "second_person_needed"
    status = 403
    detail = "Another person than who asked, and not the wallet's owner, has to decide this."


def request_money(
    *,
    wallet: Wallet,
    kind: MoneyRequest.Kind | str,
    amount: Decimal,
    reason: str,
    idempotency_key: str,
    by: User,
    actor: audit.Actor,
) -> MoneyRequest:
    """Ask for a deposit, a withdrawal or an adjustment: done at once up to the limit, above it once a second person
    approves; and so is whatever staff would bring into their own wallet. A withdrawal that waits is held, so that it
    cannot be spent meanwhile. The key as in `debit_wallet`.
    """
    own = wallet.owner == by and kind != MoneyRequest.Kind.WITHDRAWAL
    may_take = kind == MoneyRequest.Kind.ADJUSTMENT
    exact = Decimal(_amount(abs(amount) if may_take else amount)).copy_sign(amount)
    asked = {"kind": str(kind), "amount": exact, "reason": reason, "requested_by": by}
    _checked(idempotency_key)

    def ask() -> MoneyRequest | DomainError:
        with translated(), use_case():
            known = MoneyRequest.objects.filter(wallet=wallet, idempotency_key=idempotency_key).first()
            if known is not None:
                same = all(getattr(known, name) == value for name, value in asked.items())
                return known if same else IdempotencyConflict()
            request = MoneyRequest(wallet=wallet, idempotency_key=idempotency_key, **asked)
            request.needs_second = own or abs(request.amount) > settings.SECOND_PERSON_ABOVE
            try:
                if not request.needs_second:
                    _carry_out(request, by, actor, key=f"request:{idempotency_key}")
                elif request.kind == MoneyRequest.Kind.WITHDRAWAL:
                    request.hold_id = hold(
                        wallet=wallet, amount=amount, purpose=f"withdrawal:{idempotency_key}",
                        idempotency_key=f"withdrawal:{idempotency_key}", actor=actor,
                    )  # fmt: skip
            except _REFUSALS as no:
                return no  # to be raised after the commit: the ledger has kept it under the key
            request.save(force_insert=True)
            _record("money.requested", request, actor)
            return request

    return _unless_refused(_persisting(ask))


def approve(*, request: MoneyRequest, by: User, actor: audit.Actor) -> MoneyRequest:
    """Carry out what was asked for. Above the limit, by another person than who asked; never by the wallet's owner."""

    def decide() -> MoneyRequest | DomainError:
        with translated(), use_case():
            found = _undecided(request)
            if found.wallet.owner == by or (found.needs_second and found.requested_by == by):
                raise SecondPersonNeeded
            try:
                # The row, locked and pending, is what keeps this to once. Under a key of its own a refusal binds only
                # this attempt: once the wallet is thawed or filled, the request can still be approved.
                _carry_out(found, by, actor, key=f"approval:{uuid.uuid4()}")
            except _REFUSALS as no:
                return no
            found.save(update_fields=["state", "transfer", "decided_by", "decided_at"])
            _record("money.approved", found, actor)
            return found

    return _unless_refused(_persisting(decide))


def reject(*, request: MoneyRequest, by: User, reason: str, actor: audit.Actor) -> MoneyRequest:
    """Refuse what was asked for, or take one's own request back; what was held is free again."""

    def decide() -> MoneyRequest:
        with translated(), use_case():
            found = _undecided(request)
            if found.hold_id:
                void(hold_id=found.hold_id, actor=actor)
            found.state, found.decided_by, found.decided_at = MoneyRequest.State.REJECTED, by, _now()
            found.save(update_fields=["state", "decided_by", "decided_at"])
            _record("money.rejected", found, actor, why=reason)
            return found

    return _persisting(decide)


def _undecided(request: MoneyRequest) -> MoneyRequest:
    found = MoneyRequest.objects.lock().select_related("wallet").get(pk=request.pk)
    if found.state != MoneyRequest.State.PENDING:
        raise RequestDecided
    return found


def _carry_out(request: MoneyRequest, by: User, actor: audit.Actor, key: str) -> None:
    how: dict[str, Any] = {
        "wallet": request.wallet,
        "amount": abs(request.amount),
        "kind": request.kind,
        "note": request.reason,
        "idempotency_key": key,
        "actor": actor,
    }
    if request.hold_id:
        moved = post(hold_id=request.hold_id, **how)
    elif request.kind == MoneyRequest.Kind.WITHDRAWAL or request.amount < 0:
        moved = debit_wallet(**how)
    else:
        moved = credit(**how)
    request.transfer_id = moved.transfer_id
    request.state, request.decided_by, request.decided_at = MoneyRequest.State.DONE, by, _now()


def _record(fact: str, request: MoneyRequest, actor: audit.Actor, **more: str) -> None:
    audit.record(
        fact,
        actor=actor,
        subject=f"wallet:{request.wallet_id}",
        request=str(request.pk),
        kind=request.kind,
        amount=money.text(request.amount),
        state=request.state,
        reason=request.reason,
        **more,
    )


# --- beneath


def _move(
    wallet: Wallet, amount: Decimal, kind: TransferKind | str, note: str, key: str, actor: audit.Actor, **sides: Any
) -> dict[str, Any]:
    args = {"scope": _scope(wallet), "key": _checked(key), "kind": str(kind), "amount": _amount(amount), "note": note}
    return ask("ledger_move", actor, args | sides)


def ask(function: str, actor: audit.Actor, args: dict[str, Any]) -> dict[str, Any]:
    """Call one of the ledger's functions, in the caller's transaction or one of its own; raises what was refused."""
    caller = {"kind": actor.kind, "actor": actor.name, "ip": actor.ip, "request_id": actor.request_id}

    def once() -> dict[str, Any]:
        with translated(), use_case_or_part(), connection.cursor() as cursor:
            cursor.execute(
                f"select {function}(%s::jsonb, %s::jsonb)::text",  # the function is one of ours
                [orjson.dumps(caller).decode(), orjson.dumps(args).decode()],
            )
            (answer,) = cursor.fetchone() or ("{}",)
            outcome: dict[str, Any] = orjson.loads(answer)
            return outcome

    outcome = _persisting(once)
    if (refusal := errors.of_outcome(outcome)) is not None:
        raise refusal
    return outcome


T = TypeVar("T")


def _persisting(do: Callable[[], T]) -> T:
    """Do it, and again a few times with a jitter where another was in the way. Inside a transaction: once."""
    if connection.in_atomic_block:
        return do()
    give_up_at = time.monotonic() + PATIENCE_S
    for tried in range(1, TRIES + 1):
        try:
            return do()
        except (WalletBusy, ConcurrentModification) as no:
            if tried == TRIES or time.monotonic() > give_up_at:
                no.extra["retry_after_ms"] = int(LONGEST_S * 1000)
                raise
            time.sleep(random.uniform(SHORTEST_S, LONGEST_S))  # noqa: S311 - only to spread
    raise AssertionError("unreachable")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Errors of the database that are refusals, by their SQLSTATE; the commit's own too, so it goes around `atomic`."""
    try:
        yield
    except DatabaseError as fault:
        state = getattr(fault.__cause__, "sqlstate", None) or ""
        if _constraint(fault) in _ANOTHER_WAS_FIRST:
            raise ConcurrentModification from fault
        if state in _BY_STATE:
            raise _BY_STATE[state] from fault
        raise


def _constraint(fault: DatabaseError) -> str:
    diagnostics = getattr(fault.__cause__, "diag", None)
    return getattr(diagnostics, "constraint_name", None) or ""


def _unless_refused(found: T | DomainError) -> T:
    if isinstance(found, DomainError):
        raise found
    return found


def _of(wallet: Wallet, outcome: dict[str, Any]) -> Moved:
    side = next(side for side in (outcome["debit"], outcome["credit"]) if side["wallet"] == wallet.pk)
    return Moved(
        uuid.UUID(outcome["transfer"]), Decimal(side["balance"]), side["version"], replayed="replayed" in outcome
    )


def _scope(wallet: Wallet) -> str:
    return f"wallet:{wallet.pk}"


def _checked(key: str) -> str:
    if not 1 <= len(key) <= KEY_CHARS or "\0" in key:
        raise Invalid({"idempotency_key": [f"must be 1 to {KEY_CHARS} characters"]})
    return key


def _amount(value: Decimal) -> str:
    if isinstance(value, float):
        raise AmountInvalid("An amount is a Decimal, never a float.")
    try:
        exact = money.exact(Decimal(value))
    except ValueError as fault:
        raise AmountInvalid(f"An amount {fault}.") from None
    if exact <= 0:
        raise AmountInvalid
    return money.text(exact)


def _house(kind: TransferKind | str, sides: Mapping[Any, str]) -> str:
    try:
        return str(sides[TransferKind(kind)])
    except (KeyError, ValueError):
        allowed = ", ".join(sorted(sides))
        raise Invalid({"kind": [f"must be one of {allowed}"]}) from None


def _now() -> datetime:
    return timezone.now()
