"""Demo users, created by the real verbs: lena leads, finn follows her, sam is a stranger, desk is staff."""

import secrets
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone

from accounts import services as accounts
from accounts.models import BotKey, TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from core.transactions import use_case
from market import calendars
from market.models import Instrument, TradingCalendar
from market.symbols import class_of
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from trust import services as trust
from trust.models import ScoreKind, TrustHold
from wallets import services as wallets
from wallets.models import Destination, FeeTerms
from wallets.services import agreements, destinations

_LEADERS = {"lena": "lena-eurusd", "sam": "sam-xauusd"}
_INSTRUMENTS = {
    "EURUSD": ("Euro / US dollar", "0.00001", "100000"),
    "GBPUSD": ("Pound sterling / US dollar", "0.00001", "100000"),
    "USDJPY": ("US dollar / yen", "0.001", "100000"),
    "XAUUSD": ("Gold / US dollar", "0.01", "100"),
}


def user(name: str, *, staff: bool = False, password: str | None = None) -> User:
    """Return the user of that name, created where missing, with this password (None: no usable password)."""
    person, _ = User.objects.get_or_create(
        username=name, defaults={"email": f"{name}@copydesk.example", "is_staff": staff, "is_superuser": staff}
    )
    person.set_password(password)
    person.save(update_fields=["password"])
    return person


def account(owner: User, name: str) -> TradingAccount:
    trading_account, _ = TradingAccount.objects.get_or_create(
        name=name, defaults={"owner": owner, "broker": "Demo Broker", "server": "Demo-1", "login": name}
    )
    return trading_account


def strategy(owner: User, trades_on: TradingAccount, name: str, title: str = "") -> Strategy:
    row, _ = Strategy.objects.get_or_create(
        name=name, defaults={"owner": owner, "account": trades_on, "title": title or name}
    )
    return row


def destination(owner: User) -> None:
    """A bank account to withdraw to, added where the user has none. With DEBUG it is confirmed at once."""
    if not Destination.objects.present().filter(owner=owner).exists():
        destinations.add(
            owner=owner, name="Demo bank", kind=Destination.Kind.BANK, details="DE89370400440532013000",
            actor=audit.SYSTEM,
        )  # fmt: skip


def instruments() -> None:
    for symbol, (description, point, size) in _INSTRUMENTS.items():
        Instrument.objects.get_or_create(
            symbol=symbol,
            defaults={
                "description": description,
                "point": point,
                "contract_size": size,
                "asset_class": class_of(symbol),
                "calendar": TradingCalendar.objects.filter(name=calendars.OF_CLASS[class_of(symbol)]).first(),
            },
        )


def key(trades_on: TradingAccount, kind: str) -> accounts.NewSecret:
    """Create a key of that kind, or rotate it where it exists. It has no rate limit and no list of networks."""
    existing = BotKey.objects.filter(account=trades_on, kind=kind, revoked_at__isnull=True).first()
    if existing is not None:
        return accounts.rotate_key(key=existing, actor=audit.SYSTEM)
    return accounts.create_key(account=trades_on, kind=kind, actor=audit.SYSTEM, label="demo")[1]


@use_case()
def make() -> dict[str, Any]:
    """Create the users, or give existing ones new passwords and key generations. Return what `seed --json` prints."""
    instruments()
    passwords = {name: secrets.token_urlsafe(18) for name in ("lena", "finn", "sam", "desk")}
    users = {name: user(name, staff=name == "desk", password=word) for name, word in passwords.items()}
    accounts_of = {name: account(users[name], f"{name}-mt5") for name in ("lena", "finn", "sam")}
    led = {name: strategy(users[name], accounts_of[name], title) for name, title in _LEADERS.items()}
    subscription = strategies.subscribe(account=accounts_of["finn"], strategy=led["lena"], actor=audit.SYSTEM)
    for name in accounts_of:
        wallets.wallet_of(owner=users[name], currency="USD")
        destination(users[name])
    kinds = [("lena", "master"), ("finn", "copier"), ("sam", "master"), ("sam", "copier")]
    return {
        "users": {
            name: {"username": name, "email": users[name].email, "password": word} for name, word in passwords.items()
        },
        "keys": [_key_row(name, kind, accounts_of[name]) for name, kind in kinds],
        "strategies": [{"owner": name, "name": led[name].name} for name in _LEADERS],
        "subscriptions": [_subscription_row("finn", subscription)],
    }


def _key_row(owner: str, kind: str, trades_on: TradingAccount) -> dict[str, str]:
    secret = key(trades_on, kind)
    return {"owner": owner, "kind": kind, "key": secret.key, "secret": secret.secret, "account": trades_on.name}


def _subscription_row(subscriber: str, subscription: Subscription) -> dict[str, str]:
    return {
        "subscriber": subscriber,
        "strategy": subscription.strategy.name,
        "sub_id": subscription.sub_id,
        "packet_secret": strategies.packet_secret(subscription),
    }


# --- the demo: a provider whose bot trades, and a guest who follows

DEMO_PROVIDER, DEMO_GUEST, DEMO_STRATEGY = "marco", "guest", "eurusd-breakout"


@use_case()
def make_demo() -> Strategy:
    """Create the demo's provider and guest where missing; return the strategy that the guest follows."""
    instruments()
    provider, guest = user(DEMO_PROVIDER), user(DEMO_GUEST)
    trades_on = account(provider, f"{DEMO_PROVIDER}-demo")
    published = strategy(provider, trades_on, DEMO_STRATEGY, "Breakouts of EURUSD, hourly")
    _set_fee_terms(published)
    wallet = wallets.wallet_of(owner=guest, currency="USD")
    wallets.deposit(wallet=wallet, amount=Decimal(250), note="Play money", idempotency_key="demo")
    destination(guest)
    strategies.subscribe(
        account=account(guest, f"{DEMO_GUEST}-demo"), strategy=published, actor=audit.SYSTEM, multiplier=Decimal("0.5")
    )
    return published


def accept_demo_fees() -> None:
    """The demo's guest accepts the fees, so that the demo copies from its start."""
    subscription = demo_subscription()
    terms = agreements.offer_to(subscription) if subscription else None
    if subscription is not None and terms is not None:
        guest = audit.Actor(AuditLog.Actor.USER, str(subscription.account.owner_id))
        agreements.accept(subscription=subscription, terms=terms, actor=guest, now=timezone.now())


def demo_subscription() -> Subscription | None:
    subscriptions = Subscription.objects.select_related("strategy", "account")
    return subscriptions.filter(strategy__name=DEMO_STRATEGY, account__owner__username=DEMO_GUEST).first()


@use_case()
def demo_key(trades_on: TradingAccount, kind: str) -> accounts.NewSecret:
    """Create or rotate a key of one of the demo's bots."""
    return key(trades_on, kind)


def hold_demo_scores() -> None:
    """Hold the demo provider's score open: its hours pass in half a second, so its trades look like scalping."""
    provider = User.objects.get(username=DEMO_PROVIDER)
    if not TrustHold.objects.filter(user=provider, kind=ScoreKind.FLOW, ended_at=None).exists():
        trust.hold(
            user=provider, kind=ScoreKind.FLOW, effect=TrustHold.Effect.OPEN,
            reason="Demo: an hour of its market passes in half a second.",
            expires_at=timezone.now() + timedelta(days=3650), by=None, actor=audit.SYSTEM,
        )  # fmt: skip


def _set_fee_terms(published: Strategy) -> None:
    """A fifth of new profit (the default), and a small monthly fee."""
    if not FeeTerms.objects.filter(strategy=published).exists():
        FeeTerms.objects.create(strategy=published, subscription_fee=Decimal(12))
