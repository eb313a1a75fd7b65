"""What the ledger's pages show besides amounts."""

from typing import Any

from django import template

from core import admin as shown
from wallets import guard

register = template.Library()
register.filter("signed", shown.signed)


@register.inclusion_tag("admin/wallets/halt.html")
def stop_cord() -> dict[str, Any]:
    """A banner on top of the page while no money moves."""
    return {"why": guard.halted()}
