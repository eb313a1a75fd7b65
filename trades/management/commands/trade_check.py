"""`manage.py trade_check`: every trade is in exactly one home, or exit 1 with the first that is not."""

from core.invariants import CheckCommand
from trades import checks


class Command(CheckCommand):
    help = "Prove that every trade is in exactly one home. Exit 0 only when all invariants hold."
    invariants = checks.INVARIANTS
    apps = checks.APPS
