"""The ledger in the admin. All rows are read-only: staff move money by actions that call the verbs of services."""

from wallets.admin import destinations, fees, journal, requests, wallets

__all__ = ["destinations", "fees", "journal", "requests", "wallets"]
