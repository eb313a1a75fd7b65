"""Pages for subscribers and providers."""

from django.conf import settings
from django.contrib.auth import login, logout
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from accounts import networks
from accounts.models import TradingAccount, User
from trades import snapshot
from trades.models import TradeHistory

LATEST = 12


@never_cache
def desk(request: HttpRequest) -> HttpResponse:
    """What is open now: painted from one snapshot, kept up to date by the socket."""
    _welcome_guest(request)
    page: HttpResponse = _desk(request)
    return page


@login_required
def _desk(request: HttpRequest) -> HttpResponse:
    accounts = list(TradingAccount.objects.filter(owner=request.user.pk).values_list("pk", flat=True))
    found = snapshot.read(accounts)
    streams = [source.strategy_id for source in found.sources.values()]
    seen = Q(account__in=accounts) | Q(strategy__in=streams, master_trade__isnull=True)
    latest = TradeHistory.objects.filter(seen, kind=TradeHistory.Kind.TRADE).order_by("-closed_at", "-trade_id")
    context = {
        "snapshot": found,
        "history": latest[:LATEST],
        "now": timezone.now(),
        "is_guest": request.user.get_username() == settings.DEMO_GUEST,
    }
    return render(request, "portal/desk.html", context)


def _welcome_guest(request: HttpRequest) -> None:
    """On a demo, on this machine alone, whoever has not signed in looks on as its guest, who owns nothing."""
    if settings.DEMO_GUEST and not request.user.is_authenticated and networks.is_loopback(request.client_ip):  # type: ignore[attr-defined]
        guest = User.objects.filter(username=settings.DEMO_GUEST, is_active=True, is_staff=False).first()
        if guest is not None:
            login(request, guest, backend=settings.AUTHENTICATION_BACKENDS[0])


def sign_in_as_another(request: HttpRequest) -> HttpResponse:
    """A guest has nothing to lose: leave, and go to the door."""
    if request.user.is_authenticated and request.user.get_username() == settings.DEMO_GUEST:
        logout(request)
    return redirect("login")
