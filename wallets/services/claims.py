"""The transfers of a fee claim: accrued, collected in parts, paid out. Each has a key, so a repeat moves nothing."""

from decimal import Decimal
from typing import Any

from audit import services as audit
from core import money
from wallets import services
from wallets.models import FeeClaim, Wallet


def collect_part(claim: FeeClaim, wallet: Wallet, amount: Decimal, **options: Any) -> Decimal:
    """Debit the payer's wallet, which is locked, for a part of what is owed; return the amount."""
    if amount <= 0:
        return Decimal(0)
    key = f"collect:{money.text(claim.collected)}"  # the sum collected before identifies the part
    move(claim, key, claim.kind, amount, debit=wallet.pk, credit_house=Wallet.Kind.RECEIVABLE, **options)
    claim.collected += amount
    return amount


def move(claim: FeeClaim, key: str, kind: str, amount: Decimal, **sides: Any) -> dict[str, Any]:
    args = {
        "scope": f"claim:{claim.pk}",
        "key": key,
        "kind": str(kind),
        "amount": money.text(amount),
        "note": claim.description,
        "claim": claim.pk,
        "wait": True,
    }
    return services.call_ledger("ledger_move", audit.SYSTEM, args | sides)
