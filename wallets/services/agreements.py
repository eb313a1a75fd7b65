"""Fee terms: a notice of them, their acceptance, and the end of subscriptions whose subscribers did not accept.

No terms bind anybody who has not accepted them; keys and triggers of the database refuse the charge. A new subscriber
accepts before copying begins. An existing one keeps what was agreed, no fees included, until accepting; where the new
terms cost more, the subscription ends with the notice period. A lower price binds by acceptance too, so that one rule
holds for every agreement, but nobody is stopped for not answering: that notice has no end.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from django.conf import settings
from django.db import IntegrityError
from django.db.models import BooleanField, Exists, F, Func, OuterRef

from accounts.models import User
from audit import services as audit
from core import database
from core.errors import DomainError, Invalid, NotFound
from core.transactions import savepoint, use_case
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from wallets import fees, services
from wallets.models import FeeAcceptance, FeeAgreement, FeeNotice, FeeTerms, Settlement

BATCH = 500

log = structlog.get_logger()
T = TypeVar("T")


class TermsNotOffered(DomainError):
    code = "terms_not_offered"
    detail = "These are not the strategy's latest terms. Read the present ones."


def latest_terms(strategy: Strategy) -> FeeTerms | None:
    return FeeTerms.objects.filter(strategy=strategy).order_by("-pk").first()


def agreement_of(subscription: Subscription) -> FeeAgreement | None:
    """The agreement that the subscription's fees are charged under; None where there is none yet."""
    own = FeeAgreement.objects.filter(subscriber=subscription.account.owner, strategy=subscription.strategy)
    agreement = own.filter(currency=subscription.account.currency)
    return agreement.select_related("terms", "next_terms", "acceptance", "next_acceptance").first()


def offer_to(subscription: Subscription) -> FeeTerms | None:
    """The terms that the subscriber may accept for this subscription now; None where there is nothing to accept."""
    if Subscription.objects.live().filter(_are_accepted(), pk=subscription.pk).exists():
        return None
    return latest_terms(subscription.strategy)


def _are_accepted() -> Func:
    return Func("account_id", "strategy_id", function="fees_are_accepted", output_field=BooleanField())


# --- the subscriber's answer


def accept(*, subscription: Subscription, terms: FeeTerms, actor: audit.Actor, now: datetime) -> FeeAgreement:
    """Accept `terms`, which the subscriber was shown, for all of the subscriber's accounts in the account's currency.

    The first acceptance begins an agreement and opens its wallet; the terms hold at once, for trades opened from now
    on. Later ones hold from the agreement's next period on. Copying that waited for the acceptance begins. A repeat
    changes nothing. Refused: TermsNotOffered where other terms are the latest by now, NotFound after the end of the
    subscription, Invalid while the account has no currency. ConcurrentModification and WalletBusy may be repeated.
    """
    with services.translated_errors(), use_case():
        live = Subscription.objects.live().select_related("account__owner", "strategy").filter(pk=subscription.pk)
        following = live.first()
        if following is None:
            raise NotFound
        subscriber, strategy, currency = following.account.owner, following.strategy, following.account.currency
        if not currency:
            raise Invalid({"currency": ["is not known yet: start the copier once, or ask staff to enter it"]})
        if terms.strategy_id != strategy.pk or subscriber == strategy.owner:
            raise TermsNotOffered
        acceptance, is_new = _accepted(subscriber, strategy, currency, terms)
        notices = FeeNotice.objects.open().filter(
            subscription__account__owner=subscriber, subscription__account__currency=currency, terms=terms
        )
        for notice in notices.lock():
            _close(notice, FeeNotice.Outcome.ACCEPTED, now)
        if not live.exists():  # the notice's end came first
            raise NotFound
        agreement = _agreed(acceptance, now)
        services.wallet_of(owner=subscriber, currency=currency)
        if is_new:
            audit.record(
                "fee.terms_accepted", actor=actor, subject=f"agreement:{agreement.pk}", terms=str(terms),
                version=terms.pk, currency=currency,
            )  # fmt: skip
    _begin_copying(Subscription.objects.filter(account__owner=subscriber, strategy=strategy), actor)
    return agreement


def _accepted(subscriber: User, strategy: Strategy, currency: str, terms: FeeTerms) -> tuple[FeeAcceptance, bool]:
    """Record the acceptance. The database waits for new terms that are being added, and refuses all but the latest."""
    try:
        with savepoint():
            acceptance, is_new = FeeAcceptance.objects.get_or_create(
                subscriber=subscriber, strategy=strategy, currency=currency, terms=terms
            )
    except IntegrityError as error:
        if database.constraint_name(error) == "fee_acceptance_is_of_the_latest_terms":
            raise TermsNotOffered from error
        raise
    if latest_terms(strategy) != terms:
        raise TermsNotOffered
    return acceptance, is_new


def _agreed(acceptance: FeeAcceptance, now: datetime) -> FeeAgreement:
    """Return the agreement with these terms: begun on them, or with them from the next period on."""
    terms = acceptance.terms
    agreement, is_new = FeeAgreement.objects.get_or_create(
        subscriber=acceptance.subscriber,
        strategy=acceptance.strategy,
        currency=acceptance.currency,
        defaults={
            "terms": terms, "next_terms": terms, "acceptance": acceptance, "next_acceptance": acceptance,
            "started_at": now, "due_at": fees.month_after(now),
        },
    )  # fmt: skip
    if is_new:
        zeros = {
            "closed_result": 0,
            "floating_result": 0,
            "cumulative_pnl": 0,
            "high_water_mark": 0,
            "fee": 0,
            "rate_bps": 0,
        }
        Settlement.objects.create(agreement=agreement, period_no=0, starts_at=now, ends_at=now, **zeros)
    elif agreement.next_acceptance_id != acceptance.pk:
        agreement = FeeAgreement.objects.lock().get(pk=agreement.pk)
        agreement.next_terms, agreement.next_acceptance = terms, acceptance
        agreement.save(update_fields=["next_terms", "next_acceptance"])
    return agreement


@use_case()
def decline(*, subscription: Subscription, terms: FeeTerms, actor: audit.Actor, now: datetime) -> None:
    """Answer that the subscriber does not want these terms.

    A subscription that waited for them ends. One that has a notice goes on as before, to the end of the notice; until
    then the subscriber may still accept. Refused: TermsNotOffered where other terms are the latest by now.
    """
    if latest_terms(subscription.strategy) != terms:
        raise TermsNotOffered
    notice = FeeNotice.objects.open().filter(subscription=subscription, terms=terms, declined_at=None).lock().first()
    waits = Subscription.objects.filter(pk=subscription.pk, paused_for=Subscription.PausedFor.TERMS).exists()
    if notice is None and not waits:
        return
    subject = f"subscription:{subscription.sub_id}"
    audit.record("fee.terms_declined", actor=actor, subject=subject, terms=str(terms), version=terms.pk)
    if notice is not None:
        notice.declined_at = now
        notice.save(update_fields=["declined_at"])
    if waits:
        strategies.stop_following(subscription=subscription, actor=actor)


# --- periodic work


def keep_notices(*, now: datetime) -> dict[str, int]:
    """Close notices that need no answer, give new ones, end what was not accepted in time, and begin what was accepted
    or is free by now; return counts. Each row is handled alone, and again only where something is left to do.
    """
    return {
        "lapsed": _each(_notices_without_purpose()[:BATCH], lambda notice: _lapse(notice, now)),
        "given": _each(_to_be_noticed()[:BATCH], lambda following: _give_notice(following, now)),
        "stopped": _each(_ended_notices(now)[:BATCH], lambda notice: _stop(notice, now)),
        "begun": _begin_copying(Subscription.objects.all(), audit.SYSTEM),
    }


def _each(rows: Iterable[T], do: Callable[[T], bool]) -> int:
    done = 0
    for row in rows:
        try:
            with services.translated_errors():
                done += do(row)
        except DomainError as refusal:
            log.warning("fee.refused", row=str(row), code=refusal.code)
    return done


def _to_be_noticed() -> Any:
    """Subscriptions that began before there were these terms, and whose subscribers have no notice of them."""
    newer = FeeTerms.objects.filter(strategy=OuterRef("strategy"))
    told = FeeNotice.objects.open().filter(subscription=OuterRef("pk"))
    return (
        Subscription.objects.live()
        .exclude(paused_for=Subscription.PausedFor.TERMS)
        .exclude(account__owner=F("strategy__owner"))
        .filter(Exists(newer), ~Exists(told))
        .exclude(_are_accepted())
        .select_related("account__owner", "strategy")
        .order_by("pk")
    )


def _give_notice(following: Subscription, now: datetime) -> bool:
    """Give notice of the strategy's latest terms; return whether there was none yet."""
    with use_case():
        terms, agreement = latest_terms(following.strategy), agreement_of(following)
        assert terms is not None
        costs_more = terms.costs_more_than(agreement.next_binding_terms if agreement else None)
        ends_at = now + timedelta(days=max(1, settings.FEE_NOTICE_DAYS)) if costs_more else None
        _, is_new = FeeNotice.objects.get_or_create(
            subscription=following, closed_at=None, defaults={"terms": terms, "given_at": now, "ends_at": ends_at}
        )
        if is_new:
            audit.record(
                "fee.notice_given", actor=audit.SYSTEM, subject=f"subscription:{following.sub_id}", terms=str(terms),
                version=terms.pk, ends_at=ends_at.isoformat() if ends_at else None,
            )  # fmt: skip
        return is_new


def _notices_without_purpose() -> Any:
    """Open notices of terms that are no longer the latest, and those of which nothing is left to accept."""
    newer = FeeTerms.objects.filter(strategy=OuterRef("terms__strategy"), pk__gt=OuterRef("terms"))
    following = Subscription.objects.live().exclude(paused_for=Subscription.PausedFor.TERMS)
    waiting = following.filter(pk=OuterRef("subscription")).exclude(_are_accepted())
    return FeeNotice.objects.open().filter(Exists(newer) | ~Exists(waiting)).order_by("pk")


def _lapse(notice: FeeNotice, now: datetime) -> bool:
    with use_case():
        locked = FeeNotice.objects.open().lock().filter(pk=notice.pk).first()
        if locked is not None:
            _close(locked, FeeNotice.Outcome.LAPSED, now)
        return locked is not None


def _ended_notices(now: datetime) -> Any:
    return FeeNotice.objects.open().filter(ends_at__lte=now).order_by("ends_at")


def _stop(notice: FeeNotice, now: datetime) -> bool:
    """End the subscription of a notice whose end has come without an acceptance; return whether this call ended it.

    Acceptance locks the notice too, so of two that meet one comes first, and the other sees what it did.
    """
    with use_case():
        open_notices = _ended_notices(now).exclude(pk__in=_notices_without_purpose().values("pk"))
        locked = open_notices.lock().filter(pk=notice.pk).first()
        if locked is None:
            return False
        _close(locked, FeeNotice.Outcome.STOPPED, now)
        following = locked.subscription
        strategies.stop_following(subscription=following, actor=audit.SYSTEM)
        subject = f"subscription:{following.sub_id}"
        audit.record("fee.notice_ended", actor=audit.SYSTEM, subject=subject, terms=str(locked.terms))
        return True


def _close(notice: FeeNotice, outcome: FeeNotice.Outcome, now: datetime) -> None:
    notice.closed_at, notice.outcome = now, outcome
    notice.save(update_fields=["closed_at", "outcome"])


def _begin_copying(subscriptions: Any, actor: audit.Actor) -> int:
    """Begin those that waited for an acceptance that is there, or that is not needed any more; return their number.

    Each in a transaction of its own, because trades lock a subscription after other rows.
    """
    waiting = subscriptions.filter(_are_accepted(), paused_for=Subscription.PausedFor.TERMS)

    def resume(subscription: Subscription) -> bool:
        strategies.resume(subscription=subscription, actor=actor, why=Subscription.PausedFor.TERMS)
        return True

    return _each(waiting[:BATCH], resume)
