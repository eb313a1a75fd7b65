"""Requests that move money: a deposit, a withdrawal or an adjustment, which a second person approves above a limit."""

import uuid
from decimal import Decimal
from typing import Any

from django.utils import timezone

from accounts.models import User
from accounts.protocol import IdempotencyConflict
from audit import services as audit
from core import money
from core.errors import DomainError, RequestDecided, SecondPersonNeeded
from core.transactions import use_case
from wallets.models import Destination, MoneyRequest, Wallet
from wallets.services import destinations, second_person
from wallets.services.ledger import (
    REFUSALS,
    WalletNotFound,
    amount_text,
    checked_key,
    credit,
    debit_wallet,
    hold,
    post,
    raise_if_refused,
    translated_errors,
    void,
    with_retries,
)


def request_money(
    *,
    wallet: Wallet,
    kind: MoneyRequest.Kind | str,
    amount: Decimal,
    reason: str,
    idempotency_key: str,
    by: User,
    actor: audit.Actor,
    destination: Destination | None = None,
) -> MoneyRequest:
    """Request a deposit, a withdrawal or an adjustment.

    Within the limits it is carried out at once. Where the database says that it needs a second person (above a limit at
    once, in 24 hours or in 30 days, or to the requester's own wallet), one has to approve it. A withdrawal that waits
    for approval holds its amount, so that it cannot be spent meanwhile. It goes to a confirmed `destination` of the
    owner, by default the only one. The key works as in `debit_wallet`.
    """
    may_be_negative = kind == MoneyRequest.Kind.ADJUSTMENT
    exact = Decimal(amount_text(abs(amount) if may_be_negative else amount)).copy_sign(amount)
    fields = {"kind": str(kind), "amount": exact, "reason": reason, "requested_by": by}
    if destination is not None:
        fields["destination"] = destination
    checked_key(idempotency_key)

    def attempt() -> MoneyRequest | DomainError:
        with translated_errors(), use_case():
            earlier = MoneyRequest.objects.filter(wallet=wallet, idempotency_key=idempotency_key).first()
            if earlier is not None:
                is_same = all(getattr(earlier, name) == value for name, value in fields.items())
                return earlier if is_same else IdempotencyConflict()
            request = MoneyRequest(wallet=wallet, idempotency_key=idempotency_key, **fields)
            if request.kind == MoneyRequest.Kind.WITHDRAWAL:
                request.destination = destination or destinations.of_owner(_owner(wallet))
                destinations.check_may_withdraw(_owner(wallet), request.destination)
            reason_for_two = second_person.reason(wallet=wallet, kind=request.kind, amount=exact, by=by)
            request.needs_second = bool(reason_for_two)
            try:
                if not request.needs_second:
                    _carry_out(request, by, actor, key=f"request:{idempotency_key}")
                elif request.kind == MoneyRequest.Kind.WITHDRAWAL:
                    request.hold_id = hold(
                        wallet=wallet, amount=amount, purpose=f"withdrawal:{idempotency_key}",
                        idempotency_key=f"withdrawal:{idempotency_key}", actor=actor,
                    )  # fmt: skip
            except REFUSALS as refusal:
                return refusal  # raised after the commit, because the ledger has stored it under the key
            request.save(force_insert=True)
            _record("money.requested", request, actor)
            return request

    return raise_if_refused(with_retries(attempt))


def approve(*, request: MoneyRequest, by: User, actor: audit.Actor) -> MoneyRequest:
    """Carry out a request. The wallet's owner never approves it, nor, above the limit, the person who requested it."""

    def attempt() -> MoneyRequest | DomainError:
        with translated_errors(), use_case():
            pending = _locked_pending(request)
            if pending.wallet.owner == by or (pending.needs_second and pending.requested_by == by):
                raise SecondPersonNeeded
            try:
                # The locked pending row makes sure that this happens once. Each attempt has a new key, so that a stored
                # refusal binds only this attempt: once the wallet is unfrozen or filled, approval can succeed.
                _carry_out(pending, by, actor, key=f"approval:{uuid.uuid4()}")
            except REFUSALS as refusal:
                return refusal
            pending.save(update_fields=["state", "transfer", "decided_by", "decided_at"])
            _record("money.approved", pending, actor)
            return pending

    return raise_if_refused(with_retries(attempt))


def reject(*, request: MoneyRequest, by: User, reason: str, actor: audit.Actor) -> MoneyRequest:
    """Reject a request, or withdraw one's own; its hold is released."""

    def attempt() -> MoneyRequest:
        with translated_errors(), use_case():
            pending = _locked_pending(request)
            if pending.hold_id:
                void(hold_id=pending.hold_id, actor=actor)
            pending.state, pending.decided_by, pending.decided_at = MoneyRequest.State.REJECTED, by, timezone.now()
            pending.save(update_fields=["state", "decided_by", "decided_at"])
            _record("money.rejected", pending, actor, why=reason)
            return pending

    return with_retries(attempt)


def _owner(wallet: Wallet) -> User:
    if wallet.owner is None:
        raise WalletNotFound
    return wallet.owner


def _locked_pending(request: MoneyRequest) -> MoneyRequest:
    locked = MoneyRequest.objects.lock().select_related("wallet").get(pk=request.pk)
    if locked.state != MoneyRequest.State.PENDING:
        raise RequestDecided
    return locked


def _carry_out(request: MoneyRequest, by: User, actor: audit.Actor, key: str) -> None:
    arguments: dict[str, Any] = {
        "wallet": request.wallet,
        "amount": abs(request.amount),
        "kind": request.kind,
        "note": request.reason,
        "idempotency_key": key,
        "actor": actor,
    }
    if request.hold_id:
        result = post(hold_id=request.hold_id, **arguments)
    elif request.kind == MoneyRequest.Kind.WITHDRAWAL or request.amount < 0:
        result = debit_wallet(**arguments)
    else:
        result = credit(**arguments)
    request.transfer_id = result.transfer_id
    request.state, request.decided_by, request.decided_at = MoneyRequest.State.DONE, by, timezone.now()


def _record(action: str, request: MoneyRequest, actor: audit.Actor, **detail: str) -> None:
    audit.record(
        action,
        actor=actor,
        subject=f"wallet:{request.wallet_id}",
        request=str(request.pk),
        kind=request.kind,
        amount=money.text(request.amount),
        state=request.state,
        reason=request.reason,
        **({"destination": str(request.destination.ref)} if request.destination else {}),
        **detail,
    )
