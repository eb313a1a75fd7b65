"""Balances, entries and statements of a wallet, for its owner."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db.models import QuerySet, Sum

from accounts.models import User
from core import money, paging, responses
from core.errors import Invalid
from wallets import fees
from wallets.models import LedgerEntry, TransferKind, Wallet
from wallets.services import WalletNotFound

COLUMNS = ("at", "kind", "amount", "balance_after", "currency", "note", "version", "transfer_id")


@dataclass(frozen=True, slots=True)
class Statement:
    """One month of a wallet: the `opening` balance plus the entries is the `closing` balance."""

    wallet: Wallet
    month: datetime
    opening: Decimal
    closing: Decimal
    entries: list[LedgerEntry]
    totals: list[tuple[str, Decimal]]


def wallets_of(user: User) -> list[Wallet]:
    return list(Wallet.objects.people().filter(owner=user).order_by("pk"))


def own_wallet(user: User, currency: str | None) -> Wallet:
    """Return the user's wallet in that currency, or the first one where `currency` is empty."""
    wallets = [wallet for wallet in wallets_of(user) if currency in (None, "", wallet.currency)]
    if not wallets:
        raise WalletNotFound
    return wallets[0]


def entries(wallet: Wallet) -> QuerySet[LedgerEntry]:
    """The entries of a wallet, newest first."""
    rows = LedgerEntry.objects.filter(wallet=wallet, version__gt=0).select_related("transfer")
    return rows.order_by("-version")


def page(wallet: Wallet, cursor: paging.Cursor | None, limit: int) -> tuple[list[LedgerEntry], str | None]:
    """Return up to `limit` entries after the cursor, and the next cursor."""
    rows = entries(wallet)
    if cursor is not None:
        last = rows.filter(transfer_id=cursor.id).values_list("version", flat=True).first()
        if last is None:
            raise Invalid({"cursor": ["is not a cursor of this list"]})
        rows = rows.filter(version__lt=last)
    page_rows = list(rows[: limit + 1])
    if len(page_rows) <= limit:
        return page_rows, None
    last_row = page_rows[limit - 1]
    assert last_row.transfer_id is not None
    return page_rows[:limit], paging.Cursor(last_row.at, last_row.transfer_id).text()


def month(text: str) -> datetime:
    """Parse a month such as "2026-11"; return its start."""
    try:
        begins = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        if len(text) != 7 or not 2000 <= begins.year <= 9000:
            raise ValueError
    except ValueError:
        raise Invalid({"month": ["must be a month such as 2026-11"]}) from None
    return begins


def statement(wallet: Wallet, begins: datetime) -> Statement:
    """Return the statement of the month that starts at `begins`.

    Entries are selected by version: their times may differ slightly from the order of the chain.
    """
    rows = LedgerEntry.objects.filter(wallet=wallet)
    before = rows.filter(at__lt=begins).order_by("-version").first()
    last = rows.filter(at__lt=fees.month_after(begins)).order_by("-version").first()
    lowest, highest = before.version if before else 0, last.version if last else 0
    month_entries = entries(wallet).filter(version__gt=lowest, version__lte=highest).order_by("version")
    sums = month_entries.values_list("transfer__kind", "side").annotate(total=Sum("amount"))
    return Statement(
        wallet=wallet,
        month=begins,
        opening=before.balance_after if before else Decimal(0),
        closing=last.balance_after if last else Decimal(0),
        entries=list(month_entries),
        totals=[
            (TransferKind(kind).label, side * total) for kind, side, total in sums.order_by("transfer__kind", "side")
        ],
    )


def months(wallet: Wallet, now: datetime) -> Iterable[datetime]:
    """The months that have a statement, the current one first."""
    first = fees.month_of(wallet.created_at)
    current = fees.month_of(now)
    while current >= first:
        yield current
        current = fees.month_of(current - (fees.month_after(current) - current) / 30)


def row(entry: LedgerEntry, currency: str) -> dict[str, Any]:
    """One entry of the API and the CSV; `amount` is signed."""
    assert entry.transfer is not None
    return {
        "at": responses.iso(entry.at),
        "kind": entry.transfer.kind,
        "amount": money.text(entry.change),
        "balance_after": money.text(entry.balance_after),
        "currency": currency,
        "note": entry.transfer.note,
        "version": entry.version,
        "transfer_id": str(entry.transfer_id),
    }


def wallet_body(wallet: Wallet) -> dict[str, Any]:
    """The API's body of a wallet."""
    return {
        "currency": wallet.currency,
        "balance": money.text(wallet.balance),
        "held": money.text(wallet.held),
        "available": money.text(wallet.available),
        "version": wallet.version,
        "frozen": wallet.is_frozen,
    }
