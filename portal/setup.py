"""Sets up a subscriber's copier: one download of a filled configuration, then the wait for its first heartbeat."""

import re
import secrets
from collections.abc import Sequence

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.cache import never_cache

from accounts import services as accounts
from accounts.models import TradingAccount
from audit.actors import actor_of
from core.errors import DomainError
from portal import copying
from strategies import services as strategies
from strategies.models import Subscription
from trades.models import Copier

BROKERS = ("mt5", "paper")
_TOKEN = re.compile(r"[0-9a-f]{24}")


@never_cache
@login_required
def setup(request: HttpRequest, sub_id: str) -> HttpResponse:
    """The page; its form answers with the file. Each page has a token of its own, and a token makes one file."""
    subscription = copying.live_subscription(request, sub_id)
    if request.method == "POST":
        try:
            return _download(request, subscription.account)
        except DomainError as refusal:
            messages.error(request, refusal.message)
            return redirect("portal:copying-setup", sub_id)
    copier = Copier.objects.filter(account=subscription.account).first()
    now = timezone.now()
    context = {
        "now": now,
        "subscription": subscription,
        "others": [other for other in _followed_by(subscription.account) if other != subscription],
        "login": _login(subscription.account),
        "token": secrets.token_hex(12),
        "copier": copier,
        "is_online": copier is not None and copier.leased_until > now,
        "sync_status": copying.sync_status(copier, subscription.strategy.name),
    }
    return render(request, "portal/setup.html", context)


def _download(request: HttpRequest, account: TradingAccount) -> HttpResponse:
    token, broker = request.POST.get("token", ""), request.POST.get("broker")
    if not _TOKEN.fullmatch(token) or broker not in BROKERS:
        raise accounts.KeyWasCreated
    # Where no copier ever ran, nothing has the secrets that sign now, so the new ones sign at once.
    at_once = not Copier.objects.filter(account=account).exists()
    key, followed = strategies.set_up_copier(account=account, actor=actor_of(request), label=token, at_once=at_once)
    context = {
        "url": f"{request.scheme}://{request.get_host()}", "account": account, "key": key, "followed": followed,
        "broker": broker, "login": _login(account),
    }  # fmt: skip
    response = HttpResponse(render_to_string("portal/copybot.toml", context), content_type="application/toml")
    response["Content-Disposition"] = 'attachment; filename="copybot.toml"'
    return response


def _followed_by(account: TradingAccount) -> Sequence[Subscription]:
    live = Subscription.objects.live().filter(account=account)
    return list(live.select_related("strategy").order_by("strategy__name"))


def _login(account: TradingAccount) -> str:
    """The account's number at MetaTrader; empty if the registered login is no number."""
    return account.login if re.fullmatch("[1-9][0-9]{0,11}", account.login) else ""
