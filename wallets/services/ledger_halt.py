"""The stop cord: where the books are found wrong, no money moves until they are right again."""

from django.utils import timezone

from audit import services as audit
from core import invariants
from core.invariants import Fault
from core.transactions import use_case
from wallets import checks
from wallets.models import LedgerHalt


def check() -> list[Fault]:
    """Prove the books; halt the ledger where they are wrong, or where what keeps them right is gone.

    A deployment halts nothing: functions that `migrate` is about to replace are reported, and money goes on moving.
    """
    found = invariants.faults(checks.INVARIANTS)
    halting = found + invariants.structural_faults(checks.APPS, of_deployment=False)
    if halting:
        halt(why="; ".join(f"{fault.invariant}: {fault.subject}" for fault in halting[:5]))
    return found + invariants.structural_faults(checks.APPS)


@use_case()
def halt(*, why: str) -> None:
    if not LedgerHalt.objects.filter(ended_at=None).exists():
        LedgerHalt.objects.create(why=why)
        audit.record("ledger.halted", actor=audit.SYSTEM, why=why)


@use_case()
def resume() -> bool:
    """Let money move again; whether it was halted."""
    ended = LedgerHalt.objects.filter(ended_at=None).update(ended_at=timezone.now())
    if ended:
        audit.record("ledger.resumed", actor=audit.SYSTEM)
    return bool(ended)


def halted() -> str:
    """Why no money moves; empty where it does."""
    return LedgerHalt.objects.filter(ended_at=None).values_list("why", flat=True).first() or ""
