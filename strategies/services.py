"""Publishing and following: begun, paused, ended; and a strategy that may only close."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from django.db import transaction

from accounts.models import TradingAccount
from audit import services as audit
from core import crypto, money
from core.errors import DomainError
from strategies.models import Strategy, Subscription


class TakesNoSubscribers(DomainError):
    code = "takes_no_subscribers"
    detail = "This strategy takes no new subscribers for now. Those who follow it go on."


def subscribe(
    *, account: TradingAccount, strategy: Strategy, actor: audit.Actor, multiplier: Decimal = Decimal(1)
) -> Subscription:
    """Follow a strategy with a trading account. One that was ended lives again, with its own settings."""
    with transaction.atomic():
        known = Subscription.objects.filter(account=account, strategy=strategy).first()
        is_new = known is None or known.status == Subscription.Status.ENDED
        if is_new and not Strategy.objects.filter(pk=strategy.pk, takes_subscribers=True).exists():
            raise TakesNoSubscribers
        if known is not None and known.paused_for in ("", Subscription.PausedFor.HAND):
            _set_subscription(known, Subscription.Status.ACTIVE, "subscription.resumed", actor)
            known.refresh_from_db()
        if known is not None:
            return known
        subscription = Subscription(account=account, strategy=strategy, multiplier=multiplier)
        subscription.sealed_packet_secret = crypto.encrypt(crypto.new_secret(), bound_to=binding(subscription))
        subscription.save(force_insert=True)
        audit.record("subscription.created", actor=actor, subject=f"subscription:{subscription.sub_id}")
        return subscription


def pause(*, subscription: Subscription, actor: audit.Actor, why: str = Subscription.PausedFor.HAND) -> None:
    """Open nothing new for an active subscription; its closes and reductions go on."""
    active, paused = Subscription.Status.ACTIVE, Subscription.Status.PAUSED
    only = {"status__in": [active, paused] if why == Subscription.PausedFor.HAND else [active]}
    _set_subscription(subscription, Subscription.Status.PAUSED, "subscription.paused", actor, only, why)


def resume(*, subscription: Subscription, actor: audit.Actor, why: str = "") -> None:
    """Open again what is new. With `why`: only where it was paused for that."""
    only = {"status": Subscription.Status.PAUSED, **({"paused_for": why} if why else {})}
    _set_subscription(subscription, Subscription.Status.ACTIVE, "subscription.resumed", actor, only)


def end(*, subscription: Subscription, actor: audit.Actor) -> None:
    """Stop following: the stream is no longer shown to it."""
    _set_subscription(subscription, Subscription.Status.ENDED, "subscription.ended", actor)


@transaction.atomic
def resize(*, subscription: Subscription, multiplier: Decimal, actor: audit.Actor) -> None:
    """Copy with another multiplier from the next snapshot or delta on."""
    Subscription.objects.filter(pk=subscription.pk).update(multiplier=multiplier)
    audit.record(
        "subscription.resized",
        actor=actor,
        subject=f"subscription:{subscription.sub_id}",
        multiplier=money.text(multiplier),
    )


def freeze(*, strategy: Strategy, actor: audit.Actor, reason: str, why: str = Strategy.FrozenFor.HAND) -> None:
    """Refuse an active strategy's opens. Its closes always pass."""
    _set_strategy(strategy, Strategy.Status.CLOSE_ONLY, "strategy.frozen", actor, reason, why=why)


def thaw(*, strategy: Strategy, actor: audit.Actor, reason: str, why: str = "") -> None:
    """Let this strategy open again. With `why`: only where it was frozen for that."""
    only = {"frozen_for": why} if why else {}
    _set_strategy(strategy, Strategy.Status.ACTIVE, "strategy.thawed", actor, reason, only)


@transaction.atomic
def close_to_new(*, strategy: Strategy, actor: audit.Actor, reason: str) -> None:
    """Take no new subscribers. Those who follow go on as before."""
    if Strategy.objects.filter(pk=strategy.pk, takes_subscribers=True).update(takes_subscribers=False):
        audit.record("strategy.closed_to_new", actor=actor, subject=f"strategy:{strategy.name}", reason=reason)


@transaction.atomic
def open_to_new(*, strategy: Strategy, actor: audit.Actor, reason: str) -> None:
    """Take new subscribers again."""
    if Strategy.objects.filter(pk=strategy.pk, takes_subscribers=False).update(takes_subscribers=True):
        audit.record("strategy.opened_to_new", actor=actor, subject=f"strategy:{strategy.name}", reason=reason)


def packet_secret(subscription: Subscription) -> str:
    return crypto.decrypt(subscription.sealed_packet_secret, bound_to=binding(subscription))


def binding(subscription: Subscription) -> str:
    """What ties the sealed packet secret to its row."""
    return Subscription.BINDING.format(sub_id=subscription.sub_id, generation=subscription.packet_generation)


@transaction.atomic
def _set_subscription(
    subscription: Subscription,
    status: str,
    fact: str,
    actor: audit.Actor,
    only: Mapping[str, Any] | None = None,
    why: str = "",
) -> None:
    """A conditional update: only from where this leads somewhere, so that nothing is told that did not happen."""
    by_hand = {"paused_for": why} if why == Subscription.PausedFor.HAND else {}  # outranks what the desk paused it for
    found = Subscription.objects.filter(pk=subscription.pk, **(only or {})).exclude(status=status, **by_hand)
    if found.update(status=status, paused_for=why):
        more = {"why": why} if why else {}
        audit.record(fact, actor=actor, subject=f"subscription:{subscription.sub_id}", **more)


@transaction.atomic
def _set_strategy(
    strategy: Strategy,
    status: str,
    fact: str,
    actor: audit.Actor,
    reason: str,
    only: Mapping[str, Any] | None = None,
    why: str = "",
) -> None:
    by_hand = {"frozen_for": why} if why == Strategy.FrozenFor.HAND else {}
    found = Strategy.objects.filter(pk=strategy.pk, **(only or {})).exclude(status=status, **by_hand)
    if found.update(status=status, frozen_for=why):
        audit.record(fact, actor=actor, subject=f"strategy:{strategy.name}", reason=reason)
