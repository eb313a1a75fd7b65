"""`manage.py trade_check`: exit 0 if all invariants of trades hold, otherwise 1 with the first offenders."""

from core.invariants import CheckCommand
from trades import checks


class Command(CheckCommand):
    help = "Check that every trade is in exactly one home. Exit 0 only if all invariants hold."
    invariants = checks.INVARIANTS
    apps = checks.APPS
