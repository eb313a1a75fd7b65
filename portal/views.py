"""The desk's page, and the way in for visitors of a demo."""

import json
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from accounts import networks
from accounts.models import TradingAccount, User
from core.requests import DeskRequest
from market.models import Instrument
from trades import copy_statistics, corrections, receipts, snapshot
from trades.models import Reason, TradeHistory

LATEST = 20


@never_cache
def desk(request: DeskRequest) -> HttpResponse:
    """The open trades: rendered from one snapshot, then kept up to date by the socket (static/js/desk.js)."""
    _sign_in_guest(request)
    page: HttpResponse = _desk(request)
    return page


@login_required
def _desk(request: HttpRequest) -> HttpResponse:
    accounts = list(TradingAccount.objects.filter(owner=request.user.pk).values_list("pk", flat=True))
    active = snapshot.read(accounts)
    published = [source for source in active.sources.values() if not source.follows]
    followed = [source for source in active.sources.values() if source.follows]
    strategies = [source.strategy_id for source in followed]
    lists = [
        _closed("Closed by strategies you follow", followed, strategy__in=strategies, master_trade=None),
        _closed("Closed on your accounts", published, account__in=accounts),
    ]
    masters = [trade for trade in active.trades if trade["role"] == "master"]
    symbols = [trade["symbol"] for trade in active.trades] + [row.symbol for part in lists for row in part["rows"]]
    now = timezone.now()
    overdue = copy_statistics.overdue(account__in=accounts)
    context = {
        "now": now,
        "is_guest": request.user.get_username() == settings.DEMO_GUEST,
        "sources": active.sources,
        "followed": followed,
        "trades": sorted(map(_with_datetime, active.trades), key=itemgetter("opened_at"), reverse=True),
        "open_count": len(masters),
        "copy_count": len(active.trades) - len(masters),
        "lots": sum((Decimal(trade["volume"]) for trade in masters), Decimal(0)),
        "decimals": price_decimals(set(symbols)),
        "closed": lists,
        "published": [source.name for source in published],
        "overdue": overdue,
        "overdue_is_late": overdue.is_late(now),
    }
    return render(request, "portal/desk.html", context)


def _with_datetime(trade: dict[str, Any]) -> dict[str, Any]:
    return {**trade, "opened_at": datetime.fromisoformat(trade["opened_at"])}


def _closed(heading: str, live: Iterable[snapshot.Source], **filters: Any) -> dict[str, Any]:
    """The latest closed trades of one list. `live`: the strategies whose closes the page's script adds to it."""
    closed_before = TradeHistory.objects.filter(trade=OuterRef("master_trade"), closed_at__lte=OuterRef("closed_at"))
    rows = (
        corrections.with_corrections(TradeHistory.objects.filter(kind=TradeHistory.Kind.TRADE, **filters))
        .annotate(follows_provider=Exists(closed_before))
        .order_by("-closed_at", "-trade_id")[:LATEST]
    )
    return {
        "heading": heading,
        "live": json.dumps([source.name for source in live]),
        "rows": [_with_reason(row) for row in rows],
    }


def _with_reason(row: Any) -> Any:
    with_provider = row.follows_provider and row.reason == Reason.MANUAL
    row.reason_text = receipts.WITH_PROVIDER if with_provider else row.get_reason_display()
    if row.is_corrected:
        row.reason_text += ", corrected"
    return row


def price_decimals(symbols: set[str]) -> dict[str, int]:
    """The least number of decimals with which the prices of each symbol are shown."""
    points = Instrument.objects.filter(symbol__in=symbols).values_list("symbol", "point")
    return {symbol: max(0, -int(point.normalize().as_tuple().exponent)) for symbol, point in points}


def _sign_in_guest(request: DeskRequest) -> None:
    """On a demo, sign in a visitor from this machine as the demo's guest, who is neither staff nor a provider."""
    if settings.DEMO_GUEST and not request.user.is_authenticated and _is_from_this_machine(request):
        guest = User.objects.filter(username=settings.DEMO_GUEST, is_active=True, is_staff=False).first()
        if guest is not None:
            login(request, guest, backend=settings.AUTHENTICATION_BACKENDS[0])


def _is_from_this_machine(request: DeskRequest) -> bool:
    """Whether the browser runs here. A tunnel or proxy on this machine connects from loopback too: it forwards, and
    its visitors use another name for the desk."""
    host = urlsplit(f"//{request.get_host()}").hostname
    is_local_name = host in ("localhost", "127.0.0.1", "::1")
    is_forwarded = any(name in request.META for name in networks.FORWARDING)
    return networks.is_loopback(request.client_ip) and is_local_name and not is_forwarded


def sign_in_as_another(request: HttpRequest) -> HttpResponse:
    """Sign the guest out, without asking: a guest has nothing to lose. Then go to the login page."""
    if request.user.is_authenticated and request.user.get_username() == settings.DEMO_GUEST:
        logout(request)
    return redirect("login")
