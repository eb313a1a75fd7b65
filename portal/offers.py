"""Fee terms that wait for a subscriber's answer, and the answers that a provider sees."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from strategies.models import Strategy, Subscription
from wallets.models import FeeAcceptance, FeeAgreement, FeeNotice, FeeTerms
from wallets.services import agreements

MOST_ANSWERS = 200
_TERMS = Subscription.PausedFor.TERMS


@dataclass(frozen=True, slots=True)
class Offer:
    """Terms that wait for the subscriber's answer. `waits`: nothing is copied until then."""

    terms: FeeTerms
    present: FeeTerms | None
    notice: FeeNotice | None
    waits: bool
    now: datetime

    @property
    def is_dearer(self) -> bool:
        return self.terms.costs_more_than(self.present)

    @property
    def ends_at(self) -> datetime | None:
        return self.notice.ends_at if self.notice else None

    @property
    def left(self) -> str:
        """The time until the notice ends, in words."""
        return time_left(self.ends_at, self.now) if self.ends_at else ""

    @property
    def is_declined(self) -> bool:
        return self.notice is not None and self.notice.declined_at is not None


def time_left(ends_at: datetime, now: datetime) -> str:
    """Whole days, rounded down, so that nobody relies on more than there is."""
    days = (ends_at - now) // timedelta(days=1)
    if days < 1:
        return "less than a day left"
    return f"{days} day{'' if days == 1 else 's'} left"


def with_notices(subscriptions: QuerySet[Subscription]) -> Any:
    """The subscriptions with `has_notice`, as `by_subscription` needs it, and `was_stopped`: for new fees."""
    notices = FeeNotice.objects.filter(subscription=OuterRef("pk"))
    accepted = FeeAcceptance.objects.filter(
        terms=OuterRef("terms"), subscriber=OuterRef("subscription__account__owner")
    )
    stopped = notices.filter(~Exists(accepted), outcome=FeeNotice.Outcome.STOPPED)
    return subscriptions.annotate(has_notice=Exists(notices.open()), was_stopped=Exists(stopped))


def by_subscription(subscriptions: Iterable[Any], now: datetime) -> dict[int, Offer]:
    """The terms that wait for an answer, by subscription, for those that have a notice or wait to begin."""
    concerned = [row for row in subscriptions if row.has_notice or row.paused_for == _TERMS]
    if not concerned:
        return {}
    notices = {row.subscription_id: row for row in FeeNotice.objects.open().filter(subscription__in=concerned)}
    found = {row.pk: offer(row, agreements.agreement_of(row), notices.get(row.pk), now) for row in concerned}
    return {pk: given for pk, given in found.items() if given is not None}


def offer(
    subscription: Subscription, agreement: FeeAgreement | None, notice: FeeNotice | None, now: datetime
) -> Offer | None:
    terms = agreements.offer_to(subscription)
    if terms is None:
        return None
    present = agreement.next_binding_terms if agreement else None
    given = notice if notice is not None and notice.terms_id == terms.pk else None
    return Offer(terms, present, given, subscription.paused_for == _TERMS, now)


# --- the answers, for the provider


@dataclass(frozen=True, slots=True)
class Answer:
    """What one subscriber has answered to the strategy's latest terms. `tone`: the class of the chip."""

    sub_id: str
    since: datetime
    text: str
    tone: str
    at: datetime | None = None
    stops_at: datetime | None = None


def answers(strategy: Strategy) -> list[Answer]:
    """The answers of the strategy's subscribers, those who have not accepted first. Nobody is named."""
    latest = agreements.latest_terms(strategy)
    if latest is None:
        return []
    following = Subscription.objects.live().filter(strategy=strategy).exclude(account__owner=strategy.owner_id)
    rows = list(following.select_related("account").order_by("pk")[:MOST_ANSWERS])
    accepted = {
        (row.subscriber_id, row.currency): row.accepted_at
        for row in FeeAcceptance.objects.filter(strategy=strategy, terms=latest)
    }
    notices = {row.subscription_id: row for row in FeeNotice.objects.open().filter(subscription__in=rows, terms=latest)}
    return sorted(_answers(rows, accepted, notices), key=lambda answer: answer.at is not None)


def _answers(
    rows: Iterable[Subscription], accepted: Mapping[tuple[Any, str], datetime], notices: Mapping[int, FeeNotice]
) -> Iterable[Answer]:
    for row in rows:
        at, notice = accepted.get((row.account.owner_id, row.account.currency)), notices.get(row.pk)
        if at is not None:
            yield Answer(row.sub_id, row.created_at, "accepted", "buy", at)
        elif row.paused_for == _TERMS:
            yield Answer(row.sub_id, row.created_at, "waits to accept", "wait")
        elif notice is not None and notice.declined_at is not None:
            yield Answer(row.sub_id, row.created_at, "declined", "sell", stops_at=notice.ends_at)
        else:
            yield Answer(row.sub_id, row.created_at, "no answer", "", stops_at=notice.ends_at if notice else None)
