"""Fees on figures that were corrected later: refunded at the next settlement, and the high-water mark goes with them.

What should have been charged is calculated anew from the first period on, with the corrected figures. Only too much is
given back: a correction upwards raises the next fee by itself. The platform's account for adjustments pays at once, and
takes the provider's share back from the provider's wallet as far as it can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import F, Max, OuterRef, QuerySet, Subquery, Sum

from audit import services as audit
from core import money
from core.transactions import part, use_case
from trades.models import TradeCorrection
from wallets import fees, pnl, services
from wallets.models import FeeAgreement, FeeClaim, FeeRefund, Settlement, TransferKind, Wallet
from wallets.services import translated_errors

BATCH = 500


@dataclass(frozen=True, slots=True)
class Correction:
    """What the corrections since the last settlement change. `high_water_mark` is None where the mark stays."""

    high_water_mark: Decimal | None = None
    refund: Decimal = Decimal(0)


def correction(agreement: FeeAgreement, settlements: Sequence[Settlement]) -> Correction:
    """`settlements`: all of the agreement, oldest first."""
    last = settlements[-1]
    rows = pnl.corrections(agreement, at=last.ends_at)
    if all(row.pk in last.corrections for row in rows):
        return Correction()
    periods = [
        fees.Period(settled.cumulative_pnl + _missing(rows, settled), settled.rate_bps) for settled in settlements[1:]
    ]
    due = fees.over(periods)
    charged = sum((settled.fee for settled in settlements), Decimal(0)) - refunded(agreement)
    if charged <= due.fee or due.high_water_mark >= last.high_water_mark:
        return Correction()
    return Correction(due.high_water_mark, charged - due.fee)


def _missing(rows: Sequence[Any], settled: Settlement) -> Decimal:
    """What the corrections that this settlement did not know yet would have changed in its cumulative P/L."""
    unknown = [row for row in rows if row.pk not in settled.corrections and row.closed_at <= settled.ends_at]
    return sum((row.profit - row.profit_before for row in unknown), Decimal(0))


def refunded(agreement: FeeAgreement) -> Decimal:
    total: Decimal | None = FeeRefund.objects.filter(agreement=agreement).aggregate(total=Sum("amount"))["total"]
    return total or Decimal(0)


@part
def refund(agreement: FeeAgreement, settled: Settlement, amount: Decimal) -> FeeRefund:
    """Credit the subscriber, and note the share that the provider has to give back."""
    claims = FeeClaim.objects.filter(agreement=agreement, kind=FeeClaim.Kind.PERFORMANCE)
    totals = claims.aggregate(amount=Sum("amount"), share=Sum("provider_share"))
    row = FeeRefund.objects.create(
        agreement=agreement,
        period_no=settled.period_no,
        payee=services.wallet_of(owner=agreement.subscriber, currency=agreement.currency),
        payer=services.wallet_of(owner=agreement.strategy.owner, currency=agreement.currency),
        amount=amount,
        provider_share=fees.part_of(amount, totals["share"], totals["amount"]),
    )
    _move(row, "refund", amount, debit_house=Wallet.Kind.ADJUSTMENTS, credit=row.payee_id)
    audit.record(
        "fee.refunded", actor=audit.SYSTEM, subject=f"agreement:{agreement.pk}", period=settled.period_no,
        amount=money.text(amount), provider_share=money.text(row.provider_share),
    )  # fmt: skip
    return row


def recover(*, refund_id: int) -> bool:
    """Debit the provider for the share of a refunded fee, at most what is available; whether all is recovered."""
    with translated_errors(), use_case():
        row = FeeRefund.objects.lock().select_related("agreement__strategy").get(pk=refund_id)
        wallet = Wallet.objects.lock().get(pk=row.payer_id)
        amount = min(wallet.available, row.provider_share - row.recovered)
        if amount > 0 and not wallet.is_frozen:
            key = f"recover:{money.text(row.recovered)}"
            _move(row, key, amount, debit=wallet.pk, credit_house=Wallet.Kind.ADJUSTMENTS)
            row.recovered += amount
            row.save(update_fields=["recovered"])
        return bool(row.recovered == row.provider_share)


def unrecovered() -> "QuerySet[FeeRefund]":
    return FeeRefund.objects.filter(recovered__lt=F("provider_share")).order_by("pk")


def _move(row: FeeRefund, key: str, amount: Decimal, **sides: Any) -> None:
    args = {
        "scope": f"refund:{row.agreement_id}/{row.period_no}",
        "key": key,
        "kind": str(TransferKind.REVERSAL),
        "amount": money.text(amount),
        "note": f"{row.agreement.strategy.name}: a trade was corrected",
        "wait": True,
    }
    services.call_ledger("ledger_move", audit.SYSTEM, args | sides)


def awaited(agreement: str) -> "QuerySet[TradeCorrection]":
    """Corrections that the next settlement will take into account, for the agreement in the outer query at this path.

    Until then its performance fees are neither collected nor paid out.
    """
    prefix = f"{agreement}__" if agreement else ""
    settled = Settlement.objects.filter(agreement=OuterRef(OuterRef(f"{prefix}pk")))
    latest = settled.values("agreement").annotate(latest=Max("settled_at")).values("latest")
    return TradeCorrection.objects.filter(
        account__owner=OuterRef(f"{prefix}subscriber"),
        account__currency=OuterRef(f"{prefix}currency"),
        strategy=OuterRef(f"{prefix}strategy"),
        corrected_at__gt=Subquery(latest),
    )
