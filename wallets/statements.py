"""Reading the ledger for the person whose wallet it is."""

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
    """One month of a wallet: `opening` and what moved make `closing`."""

    wallet: Wallet
    month: datetime
    opening: Decimal
    closing: Decimal
    entries: list[LedgerEntry]
    totals: list[tuple[str, Decimal]]


def of(user: User) -> list[Wallet]:
    return list(Wallet.objects.people().filter(owner=user).order_by("pk"))


def mine(user: User, currency: str | None) -> Wallet:
    """The user's wallet in that currency; their first, where none is named."""
    found = [wallet for wallet in of(user) if currency in (None, "", wallet.currency)]
    if not found:
        raise WalletNotFound
    return found[0]


def entries(wallet: Wallet) -> QuerySet[LedgerEntry]:
    """What moved, newest first."""
    rows = LedgerEntry.objects.filter(wallet=wallet, version__gt=0).select_related("transfer")
    return rows.order_by("-version")


def page(wallet: Wallet, cursor: paging.Cursor | None, limit: int) -> tuple[list[LedgerEntry], str | None]:
    """Up to `limit` entries behind the cursor, and the next cursor."""
    rows = entries(wallet)
    if cursor is not None:
        last = rows.filter(transfer_id=cursor.id).values_list("version", flat=True).first()
        if last is None:
            raise Invalid({"cursor": ["is not a cursor of this list"]})
        rows = rows.filter(version__lt=last)
    found = list(rows[: limit + 1])
    if len(found) <= limit:
        return found, None
    last_row = found[limit - 1]
    assert last_row.transfer_id is not None
    return found[:limit], paging.Cursor(last_row.at, last_row.transfer_id).text()


def month(text: str) -> datetime:
    """The month of "2026-11", as the moment it begins."""
    try:
        found = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
        if len(text) != 7 or not 2000 <= found.year <= 9000:
            raise ValueError
    except ValueError:
        raise Invalid({"month": ["must be a month such as 2026-11"]}) from None
    return found


def statement(wallet: Wallet, begins: datetime) -> Statement:
    """The month that begins then. By version and not by time: an entry belongs where the chain has it."""
    rows = LedgerEntry.objects.filter(wallet=wallet)
    before = rows.filter(at__lt=begins).order_by("-version").first()
    last = rows.filter(at__lt=fees.month_after(begins)).order_by("-version").first()
    lowest, highest = before.version if before else 0, last.version if last else 0
    moved = entries(wallet).filter(version__gt=lowest, version__lte=highest).order_by("version")
    sums = moved.values_list("transfer__kind", "side").annotate(total=Sum("amount"))
    return Statement(
        wallet=wallet,
        month=begins,
        opening=before.balance_after if before else Decimal(0),
        closing=last.balance_after if last else Decimal(0),
        entries=list(moved),
        totals=[
            (TransferKind(kind).label, side * total) for kind, side, total in sums.order_by("transfer__kind", "side")
        ],
    )


def months(wallet: Wallet, now: datetime) -> Iterable[datetime]:
    """The months that have a statement, the running one first."""
    first = fees.month_of(wallet.created_at)
    running = fees.month_of(now)
    while running >= first:
        yield running
        running = fees.month_of(running - (fees.month_after(running) - running) / 30)


def row(entry: LedgerEntry, currency: str) -> dict[str, Any]:
    """One entry as people get it; `amount` has its sign."""
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
    """A wallet as its owner gets it."""
    return {
        "currency": wallet.currency,
        "balance": money.text(wallet.balance),
        "held": money.text(wallet.held),
        "available": money.text(wallet.available),
        "version": wallet.version,
        "frozen": wallet.is_frozen,
    }
