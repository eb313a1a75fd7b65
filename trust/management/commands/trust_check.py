"""`manage.py trust_check`: every score is what was calculated, or exit 1 with the first that is not."""

from core.invariants import CheckCommand
from trust import checks


class Command(CheckCommand):
    help = "Prove that no trust score was overwritten or made up. Exit 0 only when all invariants hold."
    invariants = checks.INVARIANTS
    apps = checks.APPS
