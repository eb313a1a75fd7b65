"""Publishing strategies, and subscribing, pausing and ending; terms; packet secrets; freezing a strategy."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, connection, models
from django.db.models.functions import Greatest, Now
from django.utils import timezone

from accounts import services as accounts
from accounts.models import TradingAccount
from audit import services as audit
from core import crypto, database, money
from core.errors import DomainError
from core.transactions import part, savepoint, use_case
from strategies import facts
from strategies.models import Strategy, Subscription, Terms

TERMS_AFTER = timedelta(seconds=10)  # every process that signs packets reads new terms within 4 s
SECRETS_OVERLAP = timedelta(hours=24)
_BY_HAND = (Subscription.PausedFor.HAND, Subscription.PausedFor.OWNER)
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


class TakesNoSubscribers(DomainError):
    code = "takes_no_subscribers"
    detail = "This strategy takes no new subscribers for now. Existing subscriptions continue."


class FollowsInCircle(DomainError):
    code = "follows_in_circle"
    detail = "The account would follow itself, directly or through other accounts: its trades would come back to it."


@contextmanager
def _refusing_circles() -> Iterator[None]:
    """Turn the database's refusal of a circle into its error. The savepoint keeps the caller's transaction usable."""
    try:
        with savepoint():
            yield
    except IntegrityError as error:
        if database.constraint_name(error) == "subscription_makes_no_circle":
            raise FollowsInCircle from error
        raise


def follows_in_circle(*, account: TradingAccount, strategy: Strategy) -> bool:
    """Whether the account would follow itself if it followed this strategy."""
    with connection.cursor() as cursor:
        cursor.execute("select follows_in_circle(%s, %s)", [account.pk, strategy.account_id])
        (is_circle,) = cursor.fetchone() or (False,)
    return bool(is_circle)


@part
def publish(*, strategy: Strategy) -> None:
    """Save a new strategy; its owner is the owner of its account."""
    strategy.owner = strategy.account.owner
    strategy.save(force_insert=True)


@part
def change_strategy(*, strategy: Strategy, changed: list[str]) -> None:
    """Save only the fields changed in the form, so that concurrent decisions are not overwritten."""
    if changed:
        with _refusing_circles():
            strategy.save(update_fields=changed)


@part
def subscribe(
    *, account: TradingAccount, strategy: Strategy, actor: audit.Actor, multiplier: Decimal = Decimal(1)
) -> Subscription:
    """Subscribe a trading account to a strategy. An ended subscription is resumed with its earlier terms.

    Where the strategy charges fees that the account's owner has not accepted, or has not paid, the subscription begins
    paused. Refuses an account that would follow itself, directly or through others.
    """
    earlier = Subscription.objects.filter(account=account, strategy=strategy).first()
    is_new = earlier is None or earlier.status == Subscription.Status.ENDED
    if is_new and not Strategy.objects.filter(pk=strategy.pk, takes_subscribers=True).exists():
        raise TakesNoSubscribers
    if earlier is not None and is_new:  # peak and equities date from before it ended
        Subscription.objects.filter(pk=earlier.pk).update(peak_equity=None)
        _revalue(earlier.pk, timedelta(0))
    if earlier is not None and earlier.paused_for in ("", *_BY_HAND):
        _resume(earlier, actor)
        earlier.refresh_from_db()
    if earlier is not None:
        return earlier
    subscription = Subscription(account=account, strategy=strategy)
    subscription.sealed_packet_secret = crypto.encrypt(crypto.new_secret(), bound_to=subscription.binding(1))
    with _refusing_circles():
        subscription.save(force_insert=True)
    subscription.refresh_from_db(fields=["status", "paused_for"])  # a trigger may have paused it for its fees
    Terms.objects.create(subscription=subscription, since=ALWAYS, multiplier=multiplier)
    more = {"paused_for": subscription.paused_for} if subscription.paused_for else {}
    audit.record("subscription.created", actor=actor, subject=f"subscription:{subscription.sub_id}", **more)
    return subscription


@use_case()
def pause(*, subscription: Subscription, actor: audit.Actor, why: str = Subscription.PausedFor.HAND) -> None:
    """Stop copying new trades for an active subscription. Closes and reductions continue.

    A pause by staff replaces any other reason for a pause. A pause by the owner does not: the owner could resume it.
    """
    active, paused = Subscription.Status.ACTIVE, Subscription.Status.PAUSED
    only = {"status__in": [active, paused] if why == Subscription.PausedFor.HAND else [active]}
    _set_subscription(subscription, Subscription.Status.PAUSED, "subscription.paused", actor, only, why)


@use_case()
def resume(*, subscription: Subscription, actor: audit.Actor, why: str = "") -> None:
    """Copy new trades again. With `why`: only if the subscription is paused for that reason.

    Where its fees are not accepted, or not paid, the subscription is paused for that instead.
    Refuses an account that follows itself, which was possible before 0.2.0.
    """
    only = {"status": Subscription.Status.PAUSED, **({"paused_for": why} if why else {})}
    Subscription.objects.filter(pk=subscription.pk, **only).update(peak_equity=None)
    _resume(subscription, actor, paused=True, **({"why": why} if why else {}))


@use_case()
def end(*, subscription: Subscription, actor: audit.Actor) -> None:
    """End a subscription: its account no longer receives the stream."""
    stop_following(subscription=subscription, actor=actor)


@part
def stop_following(*, subscription: Subscription, actor: audit.Actor) -> None:
    """End a subscription in the transaction that decides it."""
    _set_subscription(subscription, Subscription.Status.ENDED, "subscription.ended", actor)


def terms_of(subscription: Subscription) -> Terms:
    """The latest terms. They are in force now or within a few seconds."""
    return Terms.objects.filter(subscription=subscription).latest("pk")


SETTINGS = (
    "mode", "multiplier", "fixed_lots", "risk_pct", "risk_default_stop_bps", "min_volume", "max_volume",
    "raises_to_min", "reverse", "symbols", "symbol_map", "symbol_factors", "max_open_trades", "max_slippage_bps",
    "max_drawdown_pct", "closes_on_drawdown",
)  # fmt: skip


@use_case()
def set_terms(
    *, subscription: Subscription, actor: audit.Actor, since: datetime | None = None, **settings: Any
) -> Terms:
    """Apply these settings to trades opened from `since` on (default: in a few seconds). Other settings stay.

    Open trades keep the size that they were opened with. The terms store the current equities of both accounts.
    """
    latest = terms_of(Subscription.objects.lock().get(pk=subscription.pk))
    changed = {name: value for name, value in settings.items() if getattr(latest, name) != value}
    if not changed:
        return latest
    if latest.max_drawdown_pct is None and "max_drawdown_pct" in changed:
        Subscription.objects.filter(pk=subscription.pk).update(peak_equity=None)
    terms = _renew(latest, since or _start_of_terms(latest, TERMS_AFTER), changed)
    audit.record(
        "subscription.terms_set", actor=actor, subject=f"subscription:{subscription.sub_id}", **_audit_detail(changed)
    )
    return terms


def _start_of_terms(latest: Terms, after: timedelta) -> Any:
    """The database's time plus `after`, in whole milliseconds like the time in a trade's id.

    Never before the start of the latest terms: if the clock was set back, those would come into force again.
    """
    at = models.Func(Now() + after, template="date_trunc('milliseconds', %(expressions)s)")
    return Greatest(at, models.Value(latest.since), output_field=models.DateTimeField())


def _renew(latest: Terms, since: Any, changed: Mapping[str, Any]) -> Terms:
    values = {name: getattr(latest, name) for name in SETTINGS} | dict(changed)
    symbol_map = values["symbol_map"] if isinstance(values["symbol_map"], dict) else {}  # the database refuses others
    subscription = Subscription.objects.select_related("account", "strategy__account").get(pk=latest.subscription_id)
    return Terms.objects.create(
        subscription=subscription,
        since=since,
        facts=facts.Source.of_all([subscription], timezone.now()).of(subscription, values["mode"], symbol_map),
        equity=subscription.account.usable_equity,
        master_equity=subscription.strategy.account.usable_equity,
        **values,
    )


def _audit_detail(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: money.text(value) if isinstance(value, Decimal) else value for name, value in settings.items()}


def revalue(*, account_id: int | None = None, limit: int = 1000) -> int:
    """Renew the terms of subscriptions where an equity or a rate has moved by more than 1 %, or another fact changed.

    `account_id`: only the subscriptions of this account, and those to its strategy. Returns the number of renewed
    terms, at most `limit`.
    """
    latest = Terms.objects.latest_of_each().with_changing_facts()
    if account_id is not None:
        latest = latest.of_account(account_id)
    candidates = list(latest)
    source = facts.Source.of_all([terms.subscription for terms in candidates], timezone.now())
    outdated = [terms for terms in candidates if _is_outdated(terms, source)][:limit]
    revalue_one = use_case()(_revalue)
    return sum(revalue_one(terms.subscription_id, TERMS_AFTER) for terms in outdated)


def _revalue(subscription_id: int, after: timedelta) -> bool:
    """Renew one subscription's terms if their facts have changed; return whether they have.

    The latest terms are read again under the lock: renewing terms read earlier would undo a change made in between.
    """
    subscription = Subscription.objects.lock().select_related("account", "strategy__account").get(pk=subscription_id)
    latest = terms_of(subscription)
    latest.subscription = subscription
    if not _is_outdated(latest, facts.Source.of_all([subscription], timezone.now())):
        return False
    _renew(latest, _start_of_terms(latest, after), {})
    return True


def _is_outdated(terms: Terms, source: facts.Source) -> bool:
    subscription = terms.subscription
    if terms.mode == Terms.Mode.FIXED:
        return False
    if facts.have_changed(terms.facts, source.of(subscription, terms.mode, terms.symbol_map)):
        return True
    return terms.mode != Terms.Mode.MULTIPLIER and (
        _has_changed(terms.equity, subscription.account)
        or _has_changed(terms.master_equity, subscription.strategy.account)
    )


def _has_changed(then: Decimal | None, account: TradingAccount) -> bool:
    if account.currency_differs:
        return then is not None
    return account.equity is not None and facts.has_moved(then, account.equity)


def stop_drawdowns(*, actor: audit.Actor) -> int:
    """Pause subscriptions whose account's equity has fallen to the drawdown stop; return their number.

    The stop is measured from the highest equity since copying last started or resumed.
    """
    limited = Terms.objects.latest_of_each().filter(
        max_drawdown_pct__isnull=False, subscription__status=Subscription.Status.ACTIVE
    )
    return sum(_stop_at_drawdown(terms, actor) for terms in limited)


def _stop_at_drawdown(terms: Terms, actor: audit.Actor) -> bool:
    """Record a new highest equity, or pause the subscription at its drawdown stop; return whether it was paused."""
    subscription = terms.subscription
    equity, limit_pct = subscription.account.usable_equity, terms.max_drawdown_pct
    if not equity or limit_pct is None:  # an equity of zero comes from a terminal that is not logged in, not a loss
        return False
    if subscription.peak_equity is None or equity > subscription.peak_equity:
        is_lower = models.Q(peak_equity=None) | models.Q(peak_equity__lt=equity)
        Subscription.objects.filter(is_lower, pk=subscription.pk).update(peak_equity=equity)
        return False
    if equity > subscription.peak_equity * (100 - limit_pct) / 100:
        return False
    pause(subscription=subscription, actor=actor, why=Subscription.PausedFor.DRAWDOWN)
    return True


@use_case()
def freeze(*, strategy: Strategy, actor: audit.Actor, reason: str, why: str = Strategy.FrozenFor.HAND) -> None:
    """Set a strategy to close-only: opens are refused, closes always pass."""
    by_hand = {"frozen_for": why} if why == Strategy.FrozenFor.HAND else {}
    rows = Strategy.objects.filter(pk=strategy.pk).exclude(status=Strategy.Status.CLOSE_ONLY, **by_hand)
    if rows.update(status=Strategy.Status.CLOSE_ONLY, frozen_for=why):
        audit.record("strategy.frozen", actor=actor, subject=f"strategy:{strategy.name}", reason=reason)


@use_case()
def thaw(*, strategy: Strategy, actor: audit.Actor, reason: str, why: str = "") -> None:
    """Let a strategy open trades again. With `why`: only if it is frozen for that reason."""
    only = {"why": why} if why else {}
    audit.by_function("strategy_thaw", actor=actor, strategy=strategy.pk, reason=reason, **only)


@use_case()
def close_to_new(*, strategy: Strategy, actor: audit.Actor, reason: str) -> None:
    """Take no new subscribers. Existing subscriptions continue."""
    if Strategy.objects.filter(pk=strategy.pk, takes_subscribers=True).update(takes_subscribers=False):
        audit.record("strategy.closed_to_new", actor=actor, subject=f"strategy:{strategy.name}", reason=reason)


@use_case()
def open_to_new(*, strategy: Strategy, actor: audit.Actor, reason: str) -> None:
    """Take new subscribers again."""
    audit.by_function("strategy_open_to_new", actor=actor, strategy=strategy.pk, reason=reason)


def packet_secret(subscription: Subscription) -> str:
    """The secret that signs the subscription's packets now."""
    bound_to = subscription.binding(subscription.packet_generation)
    return crypto.decrypt(subscription.sealed_packet_secret, bound_to=bound_to)


def packet_secrets(subscription: Subscription) -> dict[int, str]:
    """The secrets that its bot needs, by generation: the one that signs now, and the next one where there is one."""
    secrets = {subscription.packet_generation: packet_secret(subscription)}
    generation, sealed = subscription.next_generation, subscription.sealed_next_secret
    if generation is not None and sealed is not None:
        secrets[generation] = crypto.decrypt(sealed, bound_to=subscription.binding(generation))
    return secrets


@dataclass(frozen=True, slots=True)
class NewSignalSecret:
    """A signal secret of a subscription, shown once, and the generation by which packets name it."""

    subscription: Subscription
    generation: int
    secret: str = field(repr=False)


@use_case()
def set_up_copier(
    *, account: TradingAccount, actor: audit.Actor, label: str, at_once: bool
) -> tuple[accounts.NewSecret, list[NewSignalSecret]]:
    """Create what a copier's configuration needs: a key, and a signal secret of each subscription of the account.

    Raises KeyWasCreated if the account has a key of this label. `at_once`: no copier has the old secrets.
    """
    key = accounts.create_setup_key(account=account, actor=actor, label=label)
    followed = Subscription.objects.live().filter(account=account).select_related("strategy")
    secrets = [_rotate(row, actor, at_once=at_once) for row in followed.lock().order_by("pk")]
    return key, sorted(secrets, key=lambda row: row.subscription.strategy.name)


@use_case()
def rotate_packet_secret(*, subscription: Subscription, actor: audit.Actor, at_once: bool = False) -> str:
    """Create the next packet secret and return it, to be shown once.

    The old secret signs until the bot confirms that it has the new one, for at most a day. With `at_once` (for a leaked
    secret) it stops signing now.
    """
    return _rotate(Subscription.objects.lock().get(pk=subscription.pk), actor, at_once=at_once).secret


def _rotate(locked: Subscription, actor: audit.Actor, *, at_once: bool) -> NewSignalSecret:
    generation = (locked.next_generation or locked.packet_generation) + 1
    secret = crypto.new_secret()
    locked.sealed_next_secret = crypto.encrypt(secret, bound_to=locked.binding(generation))
    locked.next_generation = generation
    locked.next_secret_at = Now() if at_once else Now() + SECRETS_OVERLAP
    locked.save(update_fields=["sealed_next_secret", "next_generation", "next_secret_at"])
    subject = f"subscription:{locked.sub_id}"
    audit.record("subscription.secret_rotated", actor=actor, subject=subject, generation=generation, at_once=at_once)
    if at_once:
        activate_next_secrets(subscription_ids=[locked.pk])
    return NewSignalSecret(locked, generation, secret)


def activate_next_secrets(*, subscription_ids: list[int] | None = None, generation: int | None = None) -> int:
    """Put next packet secrets into use, and return their number.

    With `generation`: those of that generation, because the bots confirmed that they have it. Without: those that are
    due.
    """
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


def _resume(subscription: Subscription, actor: audit.Actor, **only: Any) -> None:
    with _refusing_circles():
        audit.by_function("subscription_resume", actor=actor, subscription=subscription.pk, **only)


def _set_subscription(
    subscription: Subscription,
    status: str,
    fact: str,
    actor: audit.Actor,
    only: Mapping[str, Any] | None = None,
    why: str = "",
) -> None:
    """Update conditionally, so that the audit log records only real changes."""
    by_hand = {"paused_for": why} if why == Subscription.PausedFor.HAND else {}  # staff's pause replaces other reasons
    rows = Subscription.objects.filter(pk=subscription.pk, **(only or {})).exclude(status=status, **by_hand)
    with _refusing_circles():
        changed = rows.update(status=status, paused_for=why)
    if changed:
        # The database pauses a subscription that would come to life with fees that are not accepted or not paid.
        why = Subscription.objects.values_list("paused_for", flat=True).get(pk=subscription.pk)
        fact = "subscription.paused" if why else fact
        more = {"why": why} if why else {}
        audit.record(fact, actor=actor, subject=f"subscription:{subscription.sub_id}", **more)
