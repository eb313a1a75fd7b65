"""Publishing and following: begun, paused, ended; and a strategy that may only close."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import models
from django.db.models.functions import Greatest, Now

from accounts.models import TradingAccount
from audit import services as audit
from core import crypto, money
from core.errors import DomainError
from core.transactions import part, use_case
from strategies.models import Strategy, Subscription, Terms

TERMS_AFTER = timedelta(seconds=10)  # by then every process that signs packets knows them: each looks every 4 s
SECRETS_OVERLAP = timedelta(hours=24)
_BY_HAND = (Subscription.PausedFor.HAND, Subscription.PausedFor.OWNER)
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


class TakesNoSubscribers(DomainError):
    code = "takes_no_subscribers"
    detail = "This strategy takes no new subscribers for now. Those who follow it go on."


@part
def publish(*, strategy: Strategy) -> None:
    """Keep a new strategy, which belongs to the owner of its account."""
    strategy.owner = strategy.account.owner
    strategy.save(force_insert=True)


@part
def change_strategy(*, strategy: Strategy, changed: list[str]) -> None:
    """Keep the changed fields of its form, and nothing that was decided meanwhile."""
    if changed:
        strategy.save(update_fields=changed)


@part
def subscribe(
    *, account: TradingAccount, strategy: Strategy, actor: audit.Actor, multiplier: Decimal = Decimal(1)
) -> Subscription:
    """Follow a strategy with a trading account. One that was ended lives again, on its own terms."""
    known = Subscription.objects.filter(account=account, strategy=strategy).first()
    is_new = known is None or known.status == Subscription.Status.ENDED
    if is_new and not Strategy.objects.filter(pk=strategy.pk, takes_subscribers=True).exists():
        raise TakesNoSubscribers
    if known is not None and is_new:  # what was known of its account's money is as old as its end
        Subscription.objects.filter(pk=known.pk).update(peak_equity=None)
        _revalued(known.pk, timedelta(0))
    if known is not None and known.paused_for in ("", *_BY_HAND):
        _set_subscription(known, Subscription.Status.ACTIVE, "subscription.resumed", actor)
        known.refresh_from_db()
    if known is not None:
        return known
    subscription = Subscription(account=account, strategy=strategy)
    subscription.sealed_packet_secret = crypto.encrypt(crypto.new_secret(), bound_to=binding(subscription))
    subscription.save(force_insert=True)
    Terms.objects.create(subscription=subscription, since=ALWAYS, multiplier=multiplier)
    audit.record("subscription.created", actor=actor, subject=f"subscription:{subscription.sub_id}")
    return subscription


@use_case()
def pause(*, subscription: Subscription, actor: audit.Actor, why: str = Subscription.PausedFor.HAND) -> None:
    """Open nothing new for an active subscription; its closes and reductions go on.

    Staff's hand takes the place of whatever it was paused for. Its owner's does not: they could resume it then.
    """
    active, paused = Subscription.Status.ACTIVE, Subscription.Status.PAUSED
    only = {"status__in": [active, paused] if why == Subscription.PausedFor.HAND else [active]}
    _set_subscription(subscription, Subscription.Status.PAUSED, "subscription.paused", actor, only, why)


@use_case()
def resume(*, subscription: Subscription, actor: audit.Actor, why: str = "") -> None:
    """Open again what is new. With `why`: only where it was paused for that."""
    only = {"status": Subscription.Status.PAUSED, **({"paused_for": why} if why else {})}
    Subscription.objects.filter(pk=subscription.pk, **only).update(peak_equity=None)
    _set_subscription(subscription, Subscription.Status.ACTIVE, "subscription.resumed", actor, only)


@use_case()
def end(*, subscription: Subscription, actor: audit.Actor) -> None:
    """Stop following: the stream is no longer shown to it."""
    _set_subscription(subscription, Subscription.Status.ENDED, "subscription.ended", actor)


def terms_of(subscription: Subscription) -> Terms:
    """The terms that were made last. They are in force, or will be in a few seconds."""
    return Terms.objects.filter(subscription=subscription).latest("pk")


SETTINGS = (
    "mode", "multiplier", "fixed_lots", "risk_pct", "min_volume", "max_volume", "raises_to_min", "reverse", "symbols",
    "symbol_map", "max_open_trades", "max_slippage_bps", "max_drawdown_pct", "closes_on_drawdown",
)  # fmt: skip


@use_case()
def set_terms(
    *, subscription: Subscription, actor: audit.Actor, since: datetime | None = None, **settings: Any
) -> Terms:
    """Copy what is opened from `since` on (by default, in a few seconds) with these settings; others stay as they are.

    Trades that are open go on as they were sized. The current equities of both accounts become part of the terms.
    """
    known = terms_of(Subscription.objects.lock().get(pk=subscription.pk))
    changed = {name: value for name, value in settings.items() if getattr(known, name) != value}
    if not changed:
        return known
    if known.max_drawdown_pct is None and "max_drawdown_pct" in changed:
        Subscription.objects.filter(pk=subscription.pk).update(peak_equity=None)
    made = _renewed(known, since or _later_than(known, TERMS_AFTER), changed)
    audit.record(
        "subscription.terms_set", actor=actor, subject=f"subscription:{subscription.sub_id}", **_audit_detail(changed)
    )
    return made


def _later_than(known: Terms, after: timedelta) -> Any:
    """So long after now, in whole milliseconds, as trades are born. Never before the last terms: they would come back
    in force where the clock was set back in between.
    """
    at = models.Func(Now() + after, template="date_trunc('milliseconds', %(expressions)s)")
    return Greatest(at, models.Value(known.since), output_field=models.DateTimeField())


def _renewed(known: Terms, since: Any, changed: Mapping[str, Any]) -> Terms:
    values = {name: getattr(known, name) for name in SETTINGS} | dict(changed)
    subscription = Subscription.objects.select_related("account", "strategy__account").get(pk=known.subscription_id)
    return Terms.objects.create(
        subscription=subscription,
        since=since,
        equity=subscription.account.equity,
        master_equity=subscription.strategy.account.equity,
        **values,
    )


def _audit_detail(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: money.text(value) if isinstance(value, Decimal) else value for name, value in settings.items()}


def revalue(*, limit: int = 1000) -> int:
    """Make new terms for those who copy by equity, where an equity has moved by more than a hundredth; how many."""
    moved = [terms for terms in Terms.objects.latest_of_each().by_equity() if _is_outdated(terms)][:limit]
    revalue_one = use_case()(_revalued)
    return sum(revalue_one(terms.subscription_id, TERMS_AFTER) for terms in moved)


def _revalued(subscription_id: int, after: timedelta) -> bool:
    """Whether its last terms were by an equity that has moved. They are read under the lock: somebody may just have
    set others, and these would undo them.
    """
    follows = Subscription.objects.lock().select_related("account", "strategy__account").get(pk=subscription_id)
    known = Terms.objects.filter(subscription=follows).by_equity().filter(pk=terms_of(follows).pk).first()
    if known is None:
        return False
    known.subscription = follows
    if not _is_outdated(known):
        return False
    _renewed(known, _later_than(known, after), {})
    return True


def _is_outdated(terms: Terms) -> bool:
    follows = terms.subscription
    return _has_moved(terms.equity, follows.account.equity) or _has_moved(
        terms.master_equity, follows.strategy.account.equity
    )


def _has_moved(then: Decimal | None, now: Decimal | None) -> bool:
    return now is not None and (then is None or abs(now - then) * 100 > abs(then))


def stop_drawdowns(*, actor: audit.Actor) -> int:
    """Pause those whose account fell too far below its highest equity; how many.

    The highest is the account's since it copies without a stop: resuming begins anew.
    """
    limited = Terms.objects.latest_of_each().filter(
        max_drawdown_pct__isnull=False, subscription__status=Subscription.Status.ACTIVE
    )
    return sum(_stops(terms, actor) for terms in limited)


def _stops(terms: Terms, actor: audit.Actor) -> bool:
    """Whether the account fell too far; its highest equity is noted."""
    follows = terms.subscription
    now, limit = follows.account.equity, terms.max_drawdown_pct
    if not now or limit is None:  # none at all is a terminal without its account, not a loss
        return False
    if follows.peak_equity is None or now > follows.peak_equity:
        lower = models.Q(peak_equity=None) | models.Q(peak_equity__lt=now)
        Subscription.objects.filter(lower, pk=follows.pk).update(peak_equity=now)
        return False
    if now > follows.peak_equity * (100 - limit) / 100:
        return False
    pause(subscription=follows, actor=actor, why=Subscription.PausedFor.DRAWDOWN)
    return True


@use_case()
def freeze(*, strategy: Strategy, actor: audit.Actor, reason: str, why: str = Strategy.FrozenFor.HAND) -> None:
    """Refuse an active strategy's opens. Its closes always pass."""
    _set_strategy(strategy, Strategy.Status.CLOSE_ONLY, "strategy.frozen", actor, reason, why=why)


@use_case()
def thaw(*, strategy: Strategy, actor: audit.Actor, reason: str, why: str = "") -> None:
    """Let this strategy open again. With `why`: only where it was frozen for that."""
    only = {"frozen_for": why} if why else {}
    _set_strategy(strategy, Strategy.Status.ACTIVE, "strategy.thawed", actor, reason, only)


@use_case()
def close_to_new(*, strategy: Strategy, actor: audit.Actor, reason: str) -> None:
    """Take no new subscribers. Those who follow go on as before."""
    if Strategy.objects.filter(pk=strategy.pk, takes_subscribers=True).update(takes_subscribers=False):
        audit.record("strategy.closed_to_new", actor=actor, subject=f"strategy:{strategy.name}", reason=reason)


@use_case()
def open_to_new(*, strategy: Strategy, actor: audit.Actor, reason: str) -> None:
    """Take new subscribers again."""
    if Strategy.objects.filter(pk=strategy.pk, takes_subscribers=False).update(takes_subscribers=True):
        audit.record("strategy.opened_to_new", actor=actor, subject=f"strategy:{strategy.name}", reason=reason)


def packet_secret(subscription: Subscription) -> str:
    """What signs its packets now."""
    return crypto.decrypt(subscription.sealed_packet_secret, bound_to=binding(subscription))


def binding(subscription: Subscription, generation: int | None = None) -> str:
    """What ties a sealed packet secret to its row and generation."""
    return Subscription.BINDING.format(
        sub_id=subscription.sub_id, generation=generation or subscription.packet_generation
    )


@use_case()
def rotate_packet_secret(*, subscription: Subscription, actor: audit.Actor, at_once: bool = False) -> str:
    """Make the next packet secret, to be shown once.

    The old one signs until the bot says that it has the new one, for a day at most; with `at_once` (it leaked) no more.
    """
    known = Subscription.objects.lock().get(pk=subscription.pk)
    generation = (known.next_generation or known.packet_generation) + 1
    secret = crypto.new_secret()
    known.sealed_next_secret = crypto.encrypt(secret, bound_to=binding(known, generation))
    known.next_generation = generation
    known.next_secret_at = Now() if at_once else Now() + SECRETS_OVERLAP
    known.save(update_fields=["sealed_next_secret", "next_generation", "next_secret_at"])
    subject = f"subscription:{known.sub_id}"
    audit.record("subscription.secret_rotated", actor=actor, subject=subject, generation=generation, at_once=at_once)
    if at_once:
        activate_next_secrets(subscription_ids=[known.pk])
    return secret


def activate_next_secrets(*, subscription_ids: list[int] | None = None, generation: int | None = None) -> int:
    """Let the next packet secrets sign whose time has come, or whose bot says that it has them; how many."""
    waiting = Subscription.objects.exclude(next_generation=None)
    if subscription_ids is not None:
        waiting = waiting.filter(pk__in=subscription_ids)
    ready = waiting.filter(next_generation=generation) if generation else waiting.filter(next_secret_at__lte=Now())
    return ready.update(
        sealed_packet_secret=models.F("sealed_next_secret"),
        packet_generation=models.F("next_generation"),
        sealed_next_secret=None,
        next_generation=None,
        next_secret_at=None,
    )


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
