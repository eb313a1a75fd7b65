"""The ledger halt: after a failed check of the books, no money moves until the ledger is resumed."""

from audit import services as audit
from core import invariants
from core.invariants import Fault
from core.transactions import use_case
from wallets import checks
from wallets.models import LedgerHalt


def check() -> list[Fault]:
    """Check the books; halt the ledger where an invariant does not hold or a constraint or trigger is missing.

    A deployment does not halt the ledger: stale functions, which `migrate` is about to replace, are only reported.
    """
    broken = invariants.faults(checks.INVARIANTS)
    halting = broken + invariants.structural_faults(checks.APPS, of_deployment=False)
    if halting:
        halt(why="; ".join(f"{fault.invariant}: {fault.subject}" for fault in halting[:5]))
    return broken + invariants.structural_faults(checks.APPS)


@use_case()
def halt(*, why: str) -> None:
    if not LedgerHalt.objects.filter(ended_at=None).exists():
        LedgerHalt.objects.create(why=why)
        audit.record("ledger.halted", actor=audit.SYSTEM, why=why)


@use_case()
def resume() -> bool:
    """End the halt; return whether there was one."""
    return bool(audit.by_function("ledger_resume", actor=audit.SYSTEM))


def halted() -> str:
    """Return why the ledger is halted; empty where it is not."""
    return LedgerHalt.objects.filter(ended_at=None).values_list("why", flat=True).first() or ""
