"""The verbs of trust: recalculate a score under the user's lock, hold it, appeal, answer, and enforce restrictions."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import structlog
from django.db import IntegrityError, OperationalError
from django.db.models import Exists, F, OuterRef, Q, TextField, Value
from django.db.models.functions import Cast, Concat
from django.utils import timezone

from accounts.models import BotKey, BotKeyGeneration, TradingAccount, User
from audit import services as audit
from audit.models import AuditLog
from core import responses
from core.errors import DomainError, Invalid, NotFound
from core.transactions import use_case
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from trades.models import CopyOrder, CopySkip, TradeHistory
from trades.reasons import SkipReason
from trust import detector, endpoint, evidence, incidents, restrictions
from trust.models import (
    ScoreKind,
    TrustAppeal,
    TrustAssessment,
    TrustHold,
    TrustScore,
    TrustSubject,
    TrustSubjectQuerySet,
)

RECALCULATE_AFTER = timedelta(days=1)  # without news, too, because old incidents fade
REST = timedelta(minutes=10)  # events of a user are collected for that long, instead of one calculation for each
COMMIT_DELAY = timedelta(seconds=10)  # a row that is committed now may carry a time that long ago
BATCH = 200
FLOWS = (ScoreKind.FLOW, ScoreKind.RELATIONSHIP)

log = structlog.get_logger()


class AppealedAlready(DomainError):
    code = "appealed_already"
    detail = "Your earlier appeal is still open. You can appeal again after staff have answered it."


class OwnScore(DomainError):
    code = "own_score"
    status = HTTPStatus.FORBIDDEN
    detail = "You cannot decide on your own score. Ask a colleague to do it."


def recalculate(*, user_id: Any, now: datetime | None = None, always: bool = False) -> list[TrustScore]:
    """Recalculate all scores of a user from the current evidence, under the lock of the user's row.

    Any number of workers may call this at the same time: each waits for the one before and continues from its result.
    Besides the lock, each assessment refers to the one before, so that a stale one cannot be written. Where nothing has
    changed no assessment is written, unless `always` is set.
    """
    now = now or timezone.now()
    with use_case():
        TrustSubject.objects.get_or_create(user_id=user_id, defaults={"due_at": now, "seen_until": now})
        subject = TrustSubject.objects.lock().get(pk=user_id)
        return _recalculate(subject, now, always=always)


def sweep(*, now: datetime, most: int = BATCH) -> int:
    """Recalculate the users that are due, at most `most`, and return how many; then enforce the restrictions.

    Each user has a transaction, and workers skip the users that another one has locked. A user whose calculation fails
    is tried again later and delays nobody else.
    """
    for make_users_due in (_make_new_users_due, _make_users_with_events_due):
        try:
            make_users_due(now)
        except Exception:  # the users that are due already are recalculated all the same
            log.exception("trust.due_users_failed", at=make_users_due.__name__)
    done = 0
    for _ in range(most):
        subject = None
        try:
            with use_case():
                due = TrustSubject.objects.filter(due_at__lte=now).order_by("due_at")
                subject = due.lock(skip_locked=True).first()
                if subject is None:
                    break
                _recalculate(subject, now)
            done += 1
        except Exception:
            if subject is None:
                raise
            log.exception("trust.recalculation_failed", user=str(subject.pk))
            _set_due(TrustSubject.objects.filter(pk=subject.pk), now + REST)
    enforce(now)
    return done


def make_due(users: Any) -> int:
    """Make these users due for the next sweep; return how many."""
    return _set_due(TrustSubject.objects.filter(user__in=users), timezone.now())


@use_case()
def _set_due(subjects: TrustSubjectQuerySet, at: datetime) -> int:
    """Skips the rows that a worker has locked: it recalculates them just now, and waiting would delay the sweep."""
    unlocked = [subject.pk for subject in subjects.order_by("pk").lock(skip_locked=True)]
    return TrustSubject.objects.filter(pk__in=unlocked).update(due_at=at)


def _recalculate(subject: TrustSubject, now: datetime, *, always: bool = False) -> list[TrustScore]:
    user = User.locked(subject.pk)
    written = [_write(user, kind, now, always=always, **result) for kind, result in _results(user, now)]
    hold_ends = TrustHold.objects.filter(user=user, ended_at=None).values_list("expires_at", flat=True)
    restriction_ends = [score.clean_since + restrictions.CLEAN for score in written if score.clean_since]
    subject.due_at = min([now + RECALCULATE_AFTER, *(at for at in [*hold_ends, *restriction_ends] if at > now)])
    subject.seen_until = now - COMMIT_DELAY
    subject.save(update_fields=["due_at", "seen_until"])
    return written


def _results(user: User, now: datetime) -> Iterable[tuple[ScoreKind, dict[str, Any]]]:
    if incidents.has_bots(user):
        events = incidents.events_of(user, now=now)
        result = endpoint.fold(events, now=now)
        yield (
            ScoreKind.ENDPOINT,
            {
                "score": Decimal(result.score),
                "features": [
                    {"at": responses.iso(event.at), "reason": event.reason, "points": points, "score": score}
                    for event, points, score in result.counted
                ],
                "inputs": {"events": len(events), "days": incidents.SPAN.days},
                "as_of": responses.iso(result.last_at) if result.last_at else "",
            },
        )
    strategies = user.strategies.select_related("account").order_by("pk")
    results = [_strategy_results(strategy, now) for strategy in strategies]
    if results:  # strategies are assessed separately, and the provider's score is that of the worst one
        yield ScoreKind.FLOW, min((flow for flow, _ in results), key=_rank)
        yield ScoreKind.RELATIONSHIP, min((relationship for _, relationship in results), key=_rank)


def _strategy_results(strategy: Strategy, now: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results for flow and relationship."""
    facts = evidence.of_provider(strategy, now=now)
    inputs = {
        "strategy": strategy.name,
        "deals": len(facts.deals),
        "positions": len(facts.positions),
        "fills": len(facts.fills),
        "copies": len(facts.copies),
        "bars": sum(map(len, facts.bars.values())),
        "others": len(facts.others),
        "days": evidence.WINDOW.days,
    }
    source = {"inputs": inputs, "as_of": facts.deals[-1].ref if facts.deals else ""}
    flow, relationship = detector.assess(facts, now=now), detector.assess_relationship(facts)
    return (
        {"score": flow.score, "features": _feature_rows(flow), **source},
        {"score": relationship.score, "features": _feature_rows(relationship), **source},
    )


def _rank(result: dict[str, Any]) -> tuple[Decimal, int]:
    """Sorts the lowest score first; of equal scores the one with the most deals."""
    return result["score"], -result["inputs"]["deals"]


def _feature_rows(assessment: detector.Assessment) -> list[dict[str, Any]]:
    return [
        {name: str(value) if isinstance(value, Decimal) else value for name, value in asdict(feature).items()}
        for feature in assessment.features
    ]


def _write(
    user: User, kind: ScoreKind, now: datetime, *, score: Decimal, features: list[Any], inputs: dict[str, Any],
    as_of: str, always: bool = False,
) -> TrustScore:  # fmt: skip
    before = TrustScore.objects.filter(user=user, kind=kind).first()
    restriction = _restriction(user, kind, score, before, now)
    is_same = before is not None and (before.score, _restriction_of(before)) == (score, restriction)
    if before is not None and is_same and not always and _explanation_of(before) == (features, inputs.get("strategy")):
        before.calculated_at = now
        before.save(update_fields=["calculated_at"])
        return before
    TrustAssessment.objects.create(
        user=user,
        kind=kind,
        version=before.version + 1 if before else 1,
        prev_version=before.version if before else None,
        prev_score=before.score if before else None,
        score=score,
        features=features,
        inputs=inputs,
        as_of=as_of,
    )
    values = {
        "score": score,
        "band": restrictions.band(score),
        "as_of": as_of,
        **asdict(restriction),
        "calculated_at": now,
    }
    if before is None:
        return TrustScore.objects.create(user=user, kind=kind, version=1, **values)
    if restriction.restricted_at and not before.restricted_at:
        audit.record("trust.restricted", actor=audit.SYSTEM, subject=f"user:{user.pk}", kind=kind, score=str(score))
    if before.restricted_at and not restriction.restricted_at:
        audit.by_function("trust_restore", actor=audit.SYSTEM, user=user.pk, kind=kind, score=str(score))
    before.version += 1
    for name, value in values.items():
        setattr(before, name, value)
    before.save(update_fields=["version", *values])
    return before


def _explanation_of(score: TrustScore) -> tuple[Any, Any]:
    last = TrustAssessment.objects.get(user=score.user_id, kind=score.kind, version=score.version)
    return last.features, last.inputs.get("strategy")


def _restriction(
    user: User, kind: ScoreKind, score: Decimal, before: TrustScore | None, now: datetime
) -> restrictions.Restriction:
    hold = TrustHold.objects.filter(user=user, kind=kind, ended_at=None, expires_at__gt=now).first()
    current = _restriction_of(before)
    if hold is not None and hold.effect == TrustHold.Effect.OPEN:
        return restrictions.Restriction()
    # Anybody can trade at the same moments as a provider, so this score restricts nothing: staff decide by a hold.
    effective = detector.HUNDRED if kind == ScoreKind.RELATIONSHIP else score
    restrict = restrictions.next_restriction if hold is None else restrictions.restriction_by_hold
    return restrict(effective, current, now=now)


def _restriction_of(score: TrustScore | None) -> restrictions.Restriction:
    return (
        restrictions.Restriction(score.restricted_at, score.clean_since, score.by_hold)
        if score
        else restrictions.Restriction()
    )


# --- who is due


def _make_new_users_due(now: datetime) -> None:
    subject = TrustSubject.objects.filter(user=OuterRef("pk"))
    has_keys = BotKey.objects.filter(account__owner=OuterRef("pk"))
    has_strategy = Strategy.objects.filter(owner=OuterRef("pk"))
    new_users = User.objects.filter(Exists(has_keys) | Exists(has_strategy), ~Exists(subject)).values_list(
        "pk", flat=True
    )
    TrustSubject.objects.bulk_create(
        [TrustSubject(user_id=pk, due_at=now, seen_until=now) for pk in new_users[:BATCH]], ignore_conflicts=True
    )


def _make_users_with_events_due(now: datetime) -> None:
    """A query, not a message, finds the new events, so that none can be lost."""
    closed = TradeHistory.objects.filter(account__owner=OuterRef("pk"), closed_at__gt=OuterRef("seen_until"))
    failed = CopyOrder.objects.filter(
        account__owner=OuterRef("pk"), status=CopyOrder.Status.FAILED, reported_at__gt=OuterRef("seen_until")
    )
    skipped = CopySkip.objects.filter(
        subscription__account__owner=OuterRef("pk"), reason=SkipReason.NO_MONEY, reported_at__gt=OuterRef("seen_until")
    )
    key = Concat("key__key_id", Value("."), Cast("generation", TextField()), output_field=TextField())
    keys = BotKeyGeneration.objects.filter(key__account__owner=OuterRef(OuterRef("pk"))).values(name=key)
    refused = AuditLog.objects.filter(**incidents.REFUSALS, actor__in=keys, at__gt=OuterRef("seen_until"))
    account = Concat(Value("account:"), Cast("pk", TextField()), output_field=TextField())
    accounts = TradingAccount.objects.filter(owner=OuterRef(OuterRef("pk"))).values(subject=account)
    differing = AuditLog.objects.filter(
        action=incidents.REPORT_DIFFERS, subject__in=accounts, at__gt=OuterRef("seen_until")
    )
    subjects = TrustSubject.objects.filter(due_at__gt=now, seen_until__lte=now - REST)
    events = Exists(closed) | Exists(failed) | Exists(skipped) | Exists(refused) | Exists(differing)
    _set_due(subjects.filter(events), now)


# --- restrictions


def enforce(now: datetime | None = None) -> dict[str, int]:
    """Apply the restrictions of the scores to strategies and subscriptions; return counts. Closes always pass."""
    now = now or timezone.now()
    scores = TrustScore.objects.filter(user=OuterRef("owner"), kind__in=FLOWS)
    open_holds = TrustHold.objects.filter(
        user=OuterRef("user"), kind=OuterRef("kind"), effect=TrustHold.Effect.OPEN, ended_at=None, expires_at__gt=now
    )
    restricting = scores.filter(restricted_at__isnull=False)
    is_flow, is_restricted = Q(kind=ScoreKind.FLOW), Q(restricted_at__isnull=False)
    low = scores.filter(is_flow & Q(score__lt=restrictions.NO_NEW_BELOW) | is_restricted).exclude(Exists(open_holds))
    not_high = scores.filter(is_flow & Q(score__lt=restrictions.NEW_FROM) | is_restricted).exclude(Exists(open_holds))
    bot_restricted = TrustScore.objects.filter(
        user=OuterRef("account__owner"), kind=ScoreKind.ENDPOINT, restricted_at__isnull=False
    )
    for_flow, for_bot = Strategy.FrozenFor.TRUST, Subscription.PausedFor.TRUST
    system, trust = audit.SYSTEM, "trust"
    return {
        "frozen": _each(
            Strategy.objects.filter(Exists(restricting), status=Strategy.Status.ACTIVE),
            lambda strategy: strategies.freeze(strategy=strategy, actor=system, reason=trust, why=for_flow),
        ),
        "thawed": _each(
            Strategy.objects.filter(~Exists(restricting), frozen_for=for_flow),
            lambda strategy: strategies.thaw(strategy=strategy, actor=system, reason=trust, why=for_flow),
        ),
        "closed_to_new": _each(
            Strategy.objects.filter(Exists(low), takes_subscribers=True),
            lambda strategy: strategies.close_to_new(strategy=strategy, actor=system, reason=trust),
        ),
        "opened_to_new": _each(
            Strategy.objects.filter(~Exists(not_high), takes_subscribers=False),
            lambda strategy: strategies.open_to_new(strategy=strategy, actor=system, reason=trust),
        ),
        "paused": _each(
            Subscription.objects.filter(Exists(bot_restricted), status=Subscription.Status.ACTIVE),
            lambda subscription: strategies.pause(subscription=subscription, actor=system, why=for_bot),
        ),
        "resumed": _each(
            Subscription.objects.filter(~Exists(bot_restricted), paused_for=for_bot),
            lambda subscription: strategies.resume(subscription=subscription, actor=system, why=for_bot),
        ),
    }


def _each(rows: Any, do: Callable[[Any], None]) -> int:
    batch = list(rows[:BATCH])
    for row in batch:
        try:
            do(row)
        except (OperationalError, strategies.FollowsInCircle):  # a locked row: the next sweep tries again
            log.warning("trust.enforcement_failed", on=str(row))
    return len(batch)


# --- decisions of staff, and appeals


def hold(
    *, user: User, kind: ScoreKind | str, effect: TrustHold.Effect | str, reason: str, expires_at: datetime,
    by: User | None, actor: audit.Actor, now: datetime | None = None,
) -> TrustHold:  # fmt: skip
    """Override a score until `expires_at`, for a reason. A new hold ends the one before."""
    now = now or timezone.now()
    if user == by:
        raise OwnScore
    if not reason.strip():
        raise Invalid({"reason": ["is required"]})
    if expires_at <= now:
        raise Invalid({"expires_at": ["must be in the future"]})
    with use_case():
        TrustSubject.objects.filter(user=user).update(
            due_at=now
        )  # the sweep applies the hold even if this process dies now
        User.locked(user.pk)
        hold_id = audit.by_function(
            "trust_hold", actor=actor, user=user.pk, kind=str(kind), effect=str(effect), reason=reason,
            by=by and by.pk, expires_at=expires_at, now=now,
        )  # fmt: skip
    _take_effect(user.pk, now)
    return TrustHold.objects.get(pk=hold_id)


def end_hold(*, held: TrustHold, by: User, actor: audit.Actor, now: datetime | None = None) -> None:
    """End a hold, so that the score decides again."""
    now = now or timezone.now()
    if held.user == by:
        raise OwnScore
    with use_case():
        TrustSubject.objects.filter(user=held.user_id).update(due_at=now)
        audit.by_function("trust_hold_end", actor=actor, hold=held.pk, now=now)
    _take_effect(held.user_id, now)


def _take_effect(user_id: Any, now: datetime) -> None:
    """The next sweep applies it where another worker has locked the user."""
    try:
        recalculate(user_id=user_id, now=now)
    except OperationalError:
        log.warning("trust.deferred_to_the_sweep", user=str(user_id))
    enforce(now)


def appeal(*, user: User, kind: ScoreKind | str, note: str, actor: audit.Actor) -> TrustAppeal:
    """Appeal against the caller's own score. There is one open appeal for each kind, until staff answer it."""
    score = TrustScore.objects.filter(user=user, kind=kind).first() if kind in ScoreKind.values else None
    if score is None:
        raise NotFound
    if not note.strip() or "\0" in note or len(note) > 2000:
        raise Invalid({"note": ["is required, as text of at most 2000 characters"]})
    try:
        with use_case():
            appeal = TrustAppeal.objects.create(user=user, kind=kind, version=score.version, note=note)
            audit.record(
                "trust.appealed", actor=actor, subject=f"user:{user.pk}", kind=str(kind), version=score.version
            )
    except IntegrityError as error:
        raise AppealedAlready from error
    return appeal


@use_case()
def answer(*, appealed: TrustAppeal, text: str, by: User, actor: audit.Actor) -> None:
    """Answer an appeal, once."""
    if appealed.user == by:
        raise OwnScore
    unanswered = TrustAppeal.objects.filter(pk=appealed.pk, answered_at=None)
    if unanswered.update(answer=text, answered_by=by, answered_at=timezone.now()):
        audit.record("trust.answered", actor=actor, subject=f"user:{appealed.user_id}", kind=appealed.kind)


def latest(user: User) -> list[tuple[TrustScore, TrustAssessment]]:
    """Return a user's scores, each with its latest assessment."""
    scores = list(TrustScore.objects.filter(user=user).order_by("kind"))
    is_latest = Q()
    for score in scores:
        is_latest |= Q(kind=score.kind, version=score.version)
    rows = TrustAssessment.objects.filter(is_latest, user=user) if scores else []
    assessments = {assessment.kind: assessment for assessment in rows}
    return [(score, assessments[score.kind]) for score in scores]


def trend(user: User, kind: ScoreKind | str, count: int = 60) -> list[TrustAssessment]:
    """Return the latest `count` assessments of a kind, oldest first."""
    rows = TrustAssessment.objects.filter(user=user, kind=kind).order_by(F("version").desc())
    return list(rows.only("score", "at", "version", "kind")[:count])[::-1]
