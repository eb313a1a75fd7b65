"""Template tags of the ledger's pages."""

from typing import Any

from django import template

from core import formatting
from wallets.services import ledger_halt

register = template.Library()
register.filter("signed", formatting.signed)


@register.inclusion_tag("admin/wallets/halt.html")
def ledger_halt_banner() -> dict[str, Any]:
    """A banner while the ledger is halted."""
    return {"why": ledger_halt.halted()}
