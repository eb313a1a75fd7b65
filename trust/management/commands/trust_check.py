"""`manage.py trust_check`: exit 0 where every score equals its last assessment, else 1 with the first faults."""

from core.invariants import CheckCommand
from trust import checks


class Command(CheckCommand):
    help = "Check that no trust score was changed outside a calculation. Exit 0 only when all invariants hold."
    invariants = checks.INVARIANTS
    apps = checks.APPS
