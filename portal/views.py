"""Pages for subscribers and providers."""

import json
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any

from django.conf import settings
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from accounts import networks
from accounts.models import TradingAccount, User
from core.requests import DeskRequest
from market.models import Instrument
from trades import copy_statistics, snapshot
from trades.models import TradeHistory

LATEST = 20


@never_cache
def desk(request: DeskRequest) -> HttpResponse:
    """What is open now: painted from one snapshot, kept up to date by the socket."""
    _welcome_guest(request)
    page: HttpResponse = _desk(request)
    return page


@login_required
def _desk(request: HttpRequest) -> HttpResponse:
    accounts = list(TradingAccount.objects.filter(owner=request.user.pk).values_list("pk", flat=True))
    found = snapshot.read(accounts)
    led = [source for source in found.sources.values() if not source.follows]
    followed = [source for source in found.sources.values() if source.follows]
    streams = [source.strategy_id for source in followed]
    lists = [
        _closed("Closed by strategies you follow", followed, strategy__in=streams, master_trade=None),
        _closed("Closed on your accounts", led, account__in=accounts),
    ]
    masters = [trade for trade in found.trades if trade["role"] == "master"]
    shown = [trade["symbol"] for trade in found.trades] + [row.symbol for one in lists for row in one["rows"]]
    now = timezone.now()
    overdue = copy_statistics.overdue(account__in=accounts)
    context = {
        "now": now,
        "is_guest": request.user.get_username() == settings.DEMO_GUEST,
        "sources": found.sources,
        "follows": followed,
        "trades": sorted(map(_painted, found.trades), key=itemgetter("opened_at"), reverse=True),
        "open_count": len(masters),
        "copy_count": len(found.trades) - len(masters),
        "lots": sum((Decimal(trade["volume"]) for trade in masters), Decimal(0)),
        "places": places_of(set(shown)),
        "closed": lists,
        "led": [source.name for source in led],
        "overdue": overdue,
        "overdue_is_late": overdue.is_late(now),
    }
    return render(request, "portal/desk.html", context)


def _painted(trade: dict[str, Any]) -> dict[str, Any]:
    return {**trade, "opened_at": datetime.fromisoformat(trade["opened_at"])}


def _closed(heading: str, live: Iterable[snapshot.Source], **whose: Any) -> dict[str, Any]:
    """The latest closed trades of one kind. `live`: the streams whose closes the page adds to them by itself."""
    rows = TradeHistory.objects.filter(kind=TradeHistory.Kind.TRADE, **whose).order_by("-closed_at", "-trade_id")
    return {"heading": heading, "live": json.dumps([source.name for source in live]), "rows": list(rows[:LATEST])}


def places_of(symbols: set[str]) -> dict[str, int]:
    """How many decimals these symbols' prices are shown with, at least."""
    points = Instrument.objects.filter(symbol__in=symbols).values_list("symbol", "point")
    return {symbol: max(0, -int(point.normalize().as_tuple().exponent)) for symbol, point in points}


def _welcome_guest(request: DeskRequest) -> None:
    """On a demo, on this machine alone, whoever has not signed in looks on as its guest, who owns nothing."""
    if settings.DEMO_GUEST and not request.user.is_authenticated and networks.is_loopback(request.client_ip):
        guest = User.objects.filter(username=settings.DEMO_GUEST, is_active=True, is_staff=False).first()
        if guest is not None:
            login(request, guest, backend=settings.AUTHENTICATION_BACKENDS[0])


def sign_in_as_another(request: HttpRequest) -> HttpResponse:
    """A guest has nothing to lose: leave, and go to the door."""
    if request.user.is_authenticated and request.user.get_username() == settings.DEMO_GUEST:
        logout(request)
    return redirect("login")
