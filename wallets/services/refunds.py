"""Fees on figures that were corrected later: refunded at the next settlement, and the high-water mark goes with them.

What should have been charged is calculated anew from the first period on, with the corrected figures, of a copy or of
the provider's trade. Only too much is given back: a correction upwards raises the next fee by itself. The platform's
account for adjustments pays at once, and takes back what the provider has received of it, as far as it can.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import Exists, F, Func, JSONField, OuterRef, Q, QuerySet, Sum

from audit import services as audit
from core import money
from core.transactions import part, use_case
from trades.models import ActiveTrade, TradeCorrection, TradeHistory
from wallets import fees, pnl, services
from wallets.models import FeeAgreement, FeeClaim, FeeRefund, Settlement, TransferKind, Wallet
from wallets.services import claims, translated_errors

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
    settled = pnl.Settled(agreement, settlements)
    periods = [
        fees.Period(period.cumulative_pnl + _missing(settled, rows, period), period.rate_bps)
        for period in settlements[1:]
    ]
    due = fees.over(periods)
    charged = sum((period.fee for period in settlements), Decimal(0)) - refunded(agreement)
    if charged <= due.fee or due.high_water_mark >= last.high_water_mark:
        return Correction()
    return Correction(due.high_water_mark, charged - due.fee)


def _missing(settled: pnl.Settled, rows: Sequence[Any], period: Settlement) -> Decimal:
    """What the corrections that this period did not know yet would have changed in its cumulative P/L."""
    known = [row for row in rows if row.pk in period.corrections]
    return settled.realised(period.period_no, rows) - settled.realised(period.period_no, known)


def refunded(agreement: FeeAgreement) -> Decimal:
    total: Decimal | None = FeeRefund.objects.filter(agreement=agreement).aggregate(total=Sum("amount"))["total"]
    return total or Decimal(0)


@part
def refund(agreement: FeeAgreement, settled: Settlement, amount: Decimal) -> FeeRefund:
    """Credit the subscriber, and note the share that the provider has to give back.

    The money first pays what is still owed of the agreement's fees: the platform refunds nothing that it never got.
    """
    charged = FeeClaim.objects.filter(agreement=agreement, kind=FeeClaim.Kind.PERFORMANCE)
    totals = charged.aggregate(amount=Sum("amount"), share=Sum("provider_share"))
    row = FeeRefund.objects.create(
        agreement=agreement,
        period_no=settled.period_no,
        payee=services.wallet_of(owner=agreement.subscriber, currency=agreement.currency),
        payer=services.wallet_of(owner=agreement.strategy.owner, currency=agreement.currency),
        amount=amount,
        provider_share=fees.part_of(amount, totals["share"], totals["amount"]),
    )
    _move(row, "refund", amount, debit_house=Wallet.Kind.ADJUSTMENTS, credit=row.payee_id)
    _pay_owed(charged.filter(collected_at=None).order_by("pk"), amount)
    audit.record(
        "fee.refunded", actor=audit.SYSTEM, subject=f"agreement:{agreement.pk}", period=settled.period_no,
        amount=money.text(amount), provider_share=money.text(row.provider_share),
    )  # fmt: skip
    return row


def _pay_owed(owed: Iterable[FeeClaim], refund: Decimal) -> None:
    for claim in owed:
        wallet = Wallet.objects.lock().get(pk=claim.payer_id)
        claim.refresh_from_db(fields=["collected", "collected_at"])
        if not wallet.is_frozen:  # of a frozen wallet no money can leave, so the sweep collects it afterwards
            refund -= claims.collect_part(claim, wallet, min(refund, claim.owed, wallet.available))


def recover(*, refund_id: int) -> bool:
    """Debit the provider for the share of a refunded fee, at most what was paid out and is available; return whether
    all is recovered."""
    with translated_errors(), use_case():
        row = FeeRefund.objects.lock().select_related("agreement__strategy").get(pk=refund_id)
        wallet = Wallet.objects.lock().get(pk=row.payer_id)
        amount = min(wallet.available, row.provider_share - row.recovered, _paid_out(row.agreement))
        if amount > 0 and not wallet.is_frozen:
            key = f"recover:{money.text(row.recovered)}"
            _move(row, key, amount, debit=wallet.pk, credit_house=Wallet.Kind.ADJUSTMENTS)
            row.recovered += amount
            row.save(update_fields=["recovered"])
        return bool(row.recovered == row.provider_share)


def _paid_out(agreement: FeeAgreement) -> Decimal:
    """What the provider has received of the agreement's performance fees, and not given back."""
    rows = FeeClaim.objects.filter(agreement=agreement, kind=FeeClaim.Kind.PERFORMANCE, paid_out_at__isnull=False)
    paid = rows.aggregate(total=Sum("provider_share"))["total"] or Decimal(0)
    recovered = FeeRefund.objects.filter(agreement=agreement).aggregate(total=Sum("recovered"))["total"] or Decimal(0)
    return max(paid - recovered, Decimal(0))


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
    """Corrections of settled trades that no settlement knows yet, of the agreement in the outer query at this path.

    Until the next settlement its performance fees are neither collected nor paid out.
    """
    outer = {name: OuterRef(f"{agreement}__{name}") for name in ("pk", "subscriber", "currency", "strategy")}
    nested = {name: OuterRef(OuterRef(f"{agreement}__{name}")) for name in outer}
    settlements = Settlement.objects.filter(agreement=nested["pk"])
    number = Func(OuterRef("pk"), function="to_jsonb", output_field=JSONField())
    copied = TradeHistory.objects.filter(
        account__owner=nested["subscriber"], account__currency=nested["currency"], strategy=nested["strategy"],
        master_trade=OuterRef("trade"),
    )  # fmt: skip
    open_copy = ActiveTrade.objects.filter(
        account__owner=nested["subscriber"], account__currency=nested["currency"], strategy=nested["strategy"],
        master_trade=OuterRef("trade"),
    )  # fmt: skip
    own = Q(account__owner=outer["subscriber"], account__currency=outer["currency"])
    return TradeCorrection.objects.filter(
        own | Exists(copied) | Exists(open_copy),
        ~Exists(settlements.filter(corrections__contains=number)),
        Exists(settlements.filter(period_no__gt=0, ends_at__gte=OuterRef("trade__history__closed_at"))),
        strategy=outer["strategy"],
    )
