"""The life of a fee: settled once a period, accrued once, collected, paid out. `agreements` says what was agreed.

Accrual is separate from collection: keys of the database make sure that a fee is accrued exactly once, and an empty
wallet neither delays nor repeats the accrual. Each verb is a use case that any number of workers may repeat at will.
"""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import structlog
from django.conf import settings
from django.db.models import Exists, OuterRef, Q

from audit import services as audit
from core import money
from core.errors import DomainError
from core.transactions import use_case
from strategies import services as strategies
from strategies.models import Subscription
from wallets import fees, pnl, services
from wallets.models import FeeAgreement, FeeClaim, FeeTerms, Settlement, TransferKind, Wallet, WalletHold
from wallets.services import claims, refunds, translated_errors

GRACE = timedelta(minutes=5)  # longer than any transaction, so that every close of the period is committed
COOLING = timedelta(days=7)  # a fee can be corrected before the provider receives it
BATCH = 500

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recalculation:
    """A settled fee, calculated again from the trades by the code that charged it."""

    settlement: Settlement
    result: pnl.Result
    performance: fees.Performance

    @property
    def agrees(self) -> bool:
        charged = self.settlement
        return (self.result.cumulative_pnl, self.performance.fee, self.performance.high_water_mark) == (
            charged.cumulative_pnl, charged.fee, charged.high_water_mark,
        )  # fmt: skip


# --- accrual


def settle(*, agreement_id: int, now: datetime) -> Settlement | None:
    """Settle the period that is due and accrue its fee. None: no period is due, or a price is missing.

    A task that is delivered several times settles a period once: it locks the agreement's row, and besides the lock the
    settlement's keys refuse a second settlement, a gap, or a high-water mark other than the last one.
    """
    with translated_errors(), use_case():
        agreement = FeeAgreement.objects.lock().get(pk=agreement_id)
        if agreement.due_at > now - GRACE:
            return None
        settlements = list(agreement.settlements.order_by("period_no"))
        has_waited = now - agreement.due_at >= timedelta(days=settings.FEE_PRICE_DAYS)
        result = pnl.result(agreement, at=agreement.due_at, settlements=settlements, takes_any=has_waited)
        if result.unpriced:
            _postpone(agreement, result.unpriced)
            return None
        last, correction = settlements[-1], refunds.correction(agreement, settlements)
        mark = last.high_water_mark if correction.high_water_mark is None else correction.high_water_mark
        rate = agreement.rate_bps
        due = fees.performance(cumulative_pnl=result.cumulative_pnl, high_water_mark=mark, rate_bps=rate)
        settled = Settlement.objects.create(
            agreement=agreement,
            period_no=last.period_no + 1,
            prev_no=last.period_no,
            starts_at=last.ends_at,
            ends_at=agreement.due_at,
            closed_result=result.closed,
            floating_result=result.floating,
            cumulative_pnl=result.cumulative_pnl,
            high_water_mark_before=last.high_water_mark,
            mark_corrected=correction.high_water_mark,
            high_water_mark=due.high_water_mark,
            rate_bps=rate,
            fee=due.fee,
            trades=result.trades,
            lines=[line.as_json(agreement.currency) for line in result.lines],
            corrections=list(result.corrections),
        )
        if correction.refund:
            refunds.refund(agreement, settled, correction.refund)
        if due.fee:
            detail = {"base": money.text(result.cumulative_pnl), "mark": money.text(mark), "rate_bps": rate}
            _accrue(agreement, agreement.terms, FeeClaim.Kind.PERFORMANCE, settled.period_no, due.fee, detail)
        else:
            _release_reserve(agreement)
        agreement.terms, agreement.acceptance = agreement.next_terms, agreement.next_acceptance
        agreement.due_at, agreement.postponed = fees.month_after(agreement.due_at), ""
        agreement.save(update_fields=["terms", "acceptance", "due_at", "postponed"])
        audit.record(
            "fee.settled", actor=audit.SYSTEM, subject=f"agreement:{agreement.pk}", period=settled.period_no,
            fee=money.text(due.fee),
        )  # fmt: skip
        return settled


def _postpone(agreement: FeeAgreement, why: str) -> None:
    """Without a price the period waits, at most FEE_PRICE_DAYS."""
    if agreement.postponed != why[:200]:
        agreement.postponed = why[:200]
        agreement.save(update_fields=["postponed"])


def charge_subscription(*, agreement_id: int, now: datetime) -> FeeClaim | None:
    """Accrue the subscription fee of this month, or of the rest of it, once; None where it is accrued or not due."""
    with translated_errors(), use_case():
        agreement = FeeAgreement.objects.lock().get(pk=agreement_id)
        month, ends = fees.month_of(now), fees.month_after(now)
        charged = agreement.claims.filter(kind=FeeClaim.Kind.SUBSCRIPTION, period_no=_month_no(now))
        if charged.exists() or not _live_subscriptions(agreement).exists():
            return None
        # The month has begun before the period before it is settled: by then, the next terms hold.
        terms = agreement.next_binding_terms if agreement.due_at <= now else agreement.binding_terms
        if terms is None:
            return None
        # A subscriber since before the month pays for all of it; a later one pays by whole days.
        begins = month if agreement.started_at < month and now < month + timedelta(days=1) else now
        monthly = terms.subscription_fee
        fee = fees.subscription(monthly=monthly, begins=begins, ends=ends)
        if not fee:
            return None
        detail = {"monthly": money.text(monthly), "from": begins.isoformat(), "until": ends.isoformat()}
        return _accrue(agreement, terms, FeeClaim.Kind.SUBSCRIPTION, _month_no(now), fee, detail)


def _month_no(at: datetime) -> int:
    return at.year * 100 + at.month


def _accrue(
    agreement: FeeAgreement, terms: FeeTerms, kind: str, period_no: int, fee: Decimal, detail: dict[str, Any]
) -> FeeClaim:
    """Create the claim under these terms and book it: the subscriber owes it to the house, which has earned the fee."""
    payer = services.wallet_of(owner=agreement.subscriber, currency=agreement.currency)
    claim = FeeClaim.objects.create(
        agreement=agreement,
        kind=kind,
        period_no=period_no,
        payer=payer,
        payee=services.wallet_of(owner=agreement.strategy.owner, currency=agreement.currency),
        amount=fee,
        provider_share=fees.provider_share(fee, terms.platform_bps),
        detail=detail,
    )
    claims.move(
        claim, "accrual", TransferKind.ACCRUAL, fee, debit_house=Wallet.Kind.RECEIVABLE, credit_house=Wallet.Kind.FEES,
        currency=agreement.currency, shard=payer.pk,
    )  # fmt: skip
    return claim


# --- collection and payout


def reserve(*, agreement_id: int, now: datetime) -> None:
    """Hold the fee that the open period would cost if it ended now, at most what the wallet has available."""
    with translated_errors(), use_case():
        agreement = FeeAgreement.objects.lock().get(pk=agreement_id)
        if not agreement.rate_bps:
            _release_reserve(agreement)
            return
        settlements = list(agreement.settlements.order_by("period_no"))
        if agreement.due_at <= now:
            return
        # Without a price for a trade the fee of the others is held: no report that lacks one keeps money free.
        result, last = pnl.result(agreement, at=now, settlements=settlements, takes_any=True), settlements[-1]
        due = fees.performance(
            cumulative_pnl=result.cumulative_pnl,
            high_water_mark=last.high_water_mark,
            rate_bps=agreement.rate_bps,
        ).fee
        wallet = Wallet.objects.lock().filter(owner=agreement.subscriber_id, currency=agreement.currency).first()
        if wallet is None:
            return
        hold = _pending_reserve(agreement)
        target = min(due, wallet.available + (hold.amount if hold else 0))
        if wallet.is_frozen or target == (hold.amount if hold else 0):
            return
        if hold is not None:
            services.void(hold_id=hold.pk, wait=True)
        if target:
            services.hold(
                wallet=wallet, amount=target, purpose=_purpose(agreement), idempotency_key=f"reserve:{uuid.uuid4()}",
                wait=True,
            )  # fmt: skip


def collect(*, claim_id: int) -> Decimal:
    """Debit the payer's wallet for a claim, at most what is available; return what is still owed."""
    with translated_errors(), use_case():
        claim = FeeClaim.objects.select_related("agreement").get(pk=claim_id)
        wallet = Wallet.objects.lock().get(pk=claim.payer_id)
        claim.refresh_from_db(fields=["collected", "collected_at"])
        if claim.owed and not wallet.is_frozen:
            hold = _pending_reserve(claim.agreement) if claim.kind == FeeClaim.Kind.PERFORMANCE else None
            if hold is not None:
                claims.collect_part(claim, wallet, min(hold.amount, claim.owed), hold=str(hold.pk))
                wallet.refresh_from_db(fields=["balance", "held", "version"])
            claims.collect_part(claim, wallet, min(wallet.available, claim.owed))
        return claim.owed


def pay_out(*, claim_id: int, now: datetime) -> bool:
    """Pay the provider's share of a fee whose cooling period is over; return whether this call paid it."""
    claim = _payable(now).filter(pk=claim_id).first()
    if claim is None:
        return False
    sides = {"debit_house": Wallet.Kind.FEES, "credit": claim.payee_id, "shard": claim.payer_id}
    return "replayed" not in claims.move(claim, "payout", TransferKind.PAYOUT, claim.provider_share, **sides)


# --- periodic work


def sweep(*, now: datetime) -> dict[str, int]:
    """Do all work that is due and return counts. Each row is handled alone, so that one fault delays no other."""
    return {
        "settled": _each(_ids(due(now)), lambda pk: settle(agreement_id=pk, now=now)),
        "charged": _each(
            _ids(_without_subscription_fee(now)), lambda pk: charge_subscription(agreement_id=pk, now=now)
        ),
        "collected": _each(_ids(_uncollected()), lambda pk: collect(claim_id=pk) == 0),
        "paused": _each(_subscriptions_to_pause(), _pause),
        "resumed": _each(_subscriptions_to_resume(), _resume),
        "paid out": _each(_ids(_payable(now)), lambda pk: pay_out(claim_id=pk, now=now)),
        "recovered": _each(_ids(refunds.unrecovered()), lambda pk: refunds.recover(refund_id=pk)),
        "expired": _each(_ids(_expired_holds(now)), lambda pk: services.expire(hold_id=pk)),
    }


def reserve_all(*, now: datetime) -> int:
    """Update the holds for all open periods; return how many agreements were visited."""
    charged = Q(acceptance__terms__performance_bps__gt=0)
    not_accepted = Q(acceptance=None)  # whose holds are released
    agreements = FeeAgreement.objects.filter(charged | not_accepted, due_at__gt=now)
    return _each(agreements.values_list("pk", flat=True).iterator(), lambda pk: reserve(agreement_id=pk, now=now))


def _each(rows: Iterable[Any], do: Callable[[Any], Any]) -> int:
    done = 0
    for row in rows:
        try:
            done += bool(do(row))
        except DomainError as refusal:
            log.warning("fee.refused", row=str(row), code=refusal.code)
        except Exception:  # a fault in one row's data delays nobody else's fees
            log.exception("fee.failed", row=str(row))
    return done


def _ids(rows: Any) -> list[Any]:
    return list(rows.values_list("pk", flat=True)[:BATCH])


def due(now: datetime) -> Any:
    return FeeAgreement.objects.filter(due_at__lte=now - GRACE).order_by("due_at")


def _without_subscription_fee(now: datetime) -> Any:
    """Agreements whose subscription fee for this month is not accrued yet."""
    charged = FeeClaim.objects.filter(
        agreement=OuterRef("pk"), kind=FeeClaim.Kind.SUBSCRIPTION, period_no=_month_no(now)
    )
    present = Q(acceptance__terms__subscription_fee__gt=0)
    following = Q(next_acceptance__terms__subscription_fee__gt=0, due_at__lte=now)
    return FeeAgreement.objects.filter(~Exists(charged)).filter(present | following)


def _unpaid_fees() -> Any:
    """The unpaid fees of the subscription in the outer query."""
    return _undisputed(FeeClaim.objects).filter(
        agreement__subscriber=OuterRef("account__owner"),
        agreement__strategy=OuterRef("strategy"),
        agreement__currency=OuterRef("account__currency"),
        collected_at=None,
    )


def _subscriptions_to_pause() -> Any:
    """A pause stops new copies while a fee is unpaid. Closes always pass."""
    return Subscription.objects.filter(Exists(_unpaid_fees()), status=Subscription.Status.ACTIVE)[:BATCH]


def _subscriptions_to_resume() -> Any:
    return Subscription.objects.filter(~Exists(_unpaid_fees()), paused_for=Subscription.PausedFor.UNPAID)[:BATCH]


def _pause(subscription: Subscription) -> bool:
    strategies.pause(subscription=subscription, actor=audit.SYSTEM, why=Subscription.PausedFor.UNPAID)
    return True


def _resume(subscription: Subscription) -> bool:
    strategies.resume(subscription=subscription, actor=audit.SYSTEM, why=Subscription.PausedFor.UNPAID)
    return True


def _uncollected() -> Any:
    return _undisputed(FeeClaim.objects.filter(collected_at=None)).order_by("pk")


def _undisputed(rows: Any) -> Any:
    """Without the performance fees of agreements whose trades were corrected since the last settlement."""
    return rows.exclude(Exists(refunds.awaited("agreement")), kind=FeeClaim.Kind.PERFORMANCE)


def _payable(now: datetime) -> Any:
    conditions = {"collected_at__lte": now - COOLING, "paid_out_at": None, "provider_share__gt": 0}
    return _undisputed(FeeClaim.objects.filter(**conditions)).select_related("agreement__strategy")


def _expired_holds(now: datetime) -> Any:
    return WalletHold.objects.filter(state=WalletHold.State.PENDING, expires_at__lte=now)


def _live_subscriptions(agreement: FeeAgreement) -> Any:
    accounts = {"account__owner": agreement.subscriber_id, "account__currency": agreement.currency}
    following = Subscription.objects.live().exclude(paused_for=Subscription.PausedFor.TERMS)
    return following.filter(strategy=agreement.strategy_id, **accounts)


def _purpose(agreement: FeeAgreement) -> str:
    return f"performance:{agreement.pk}"


def _pending_reserve(agreement: FeeAgreement) -> WalletHold | None:
    return WalletHold.objects.filter(purpose=_purpose(agreement), state=WalletHold.State.PENDING).first()


def _release_reserve(agreement: FeeAgreement) -> None:
    hold = _pending_reserve(agreement)
    if hold is not None:
        services.void(hold_id=hold.pk, wait=True)


# --- recalculation


def recalculate(settlement: Settlement) -> Recalculation:
    """Calculate a settled fee again, from the trades and the market's prices stored with the settlement."""
    recalculated = pnl.again(settlement)
    due = fees.performance(
        cumulative_pnl=recalculated.cumulative_pnl,
        high_water_mark=settlement.mark_that_counts,
        rate_bps=settlement.rate_bps,
    )
    return Recalculation(settlement, recalculated, due)
