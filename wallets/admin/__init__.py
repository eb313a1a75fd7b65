"""Staff's view of the ledger. Nobody edits any of it here: money moves, and is decided on, through its verbs."""

from wallets.admin import fees, journal, requests, wallets

__all__ = ["fees", "journal", "requests", "wallets"]
