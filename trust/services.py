"""The verbs of trust: recalculated under the user's lock, held by staff, appealed by the judged; and what follows."""

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

from accounts.models import BotKey, BotKeyGeneration, User
from audit import services as audit
from audit.models import AuditLog
from core import responses
from core.errors import DomainError, Invalid, NotFound
from core.transactions import use_case
from strategies import services as strategies
from strategies.models import Strategy, Subscription
from trades.models import CopyOrder, TradeHistory
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

AGAIN = timedelta(days=1)  # with time alone: old faults fade
REST = timedelta(minutes=10)  # news of a user is gathered for that long, not judged one by one
LATE = timedelta(seconds=10)  # what was committed by now may carry a time that long ago
BATCH = 200
FLOWS = (ScoreKind.FLOW, ScoreKind.RELATIONSHIP)

log = structlog.get_logger()


class AppealedAlready(DomainError):
    code = "appealed_already"
    detail = "You appealed before, and staff have not answered yet."


class OwnScore(DomainError):
    code = "own_score"
    status = HTTPStatus.FORBIDDEN
    detail = "Nobody decides on their own score. Have a colleague look at it."


def recalculate(*, user_id: Any, now: datetime | None = None, always: bool = False) -> list[TrustScore]:
    """Judge a user anew, from everything that is known now: read, calculated and written under the lock of their row.

    May be called any number of times by any number of workers: each waits for the one before and goes on from what it
    wrote. Behind the lock each assessment refers to the one before, so that no stale one can be written. Where nothing
    has changed none is written, unless it shall be `always`.
    """
    now = now or timezone.now()
    with use_case():
        TrustSubject.objects.get_or_create(user_id=user_id, defaults={"due_at": now, "seen_until": now})
        subject = TrustSubject.objects.lock().get(pk=user_id)
        return _recalculate(subject, now, always=always)


def sweep(*, now: datetime, most: int = BATCH) -> int:
    """Recalculate whoever is due, each in a transaction of its own; workers beside this one take others. How many.

    One who cannot be judged is tried again later, and does not keep the others waiting.
    """
    for look in (_meet, _hear):
        try:
            look(now)
        except Exception:  # whoever is due by the clock is judged all the same
            log.exception("trust.not_looked", at=look.__name__)
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
            log.exception("trust.not_judged", user=str(subject.pk))
            _set_due(TrustSubject.objects.filter(pk=subject.pk), now + REST)
    enforce(now)
    return done


def make_due(users: Any) -> int:
    """Have these users judged with the next sweep. How many there are."""
    return _set_due(TrustSubject.objects.filter(user__in=users), timezone.now())


@use_case()
def _set_due(subjects: TrustSubjectQuerySet, at: datetime) -> int:
    """By key, and past the rows that a worker holds: it judges them just now, and waiting would stop the sweep."""
    free = [subject.pk for subject in subjects.order_by("pk").lock(skip_locked=True)]
    return TrustSubject.objects.filter(pk__in=free).update(due_at=at)


def _recalculate(subject: TrustSubject, now: datetime, *, always: bool = False) -> list[TrustScore]:
    user = User.locked(subject.pk)
    written = [_write(user, kind, now, always=always, **found) for kind, found in _judged(user, now)]
    holds = TrustHold.objects.filter(user=user, ended_at=None).values_list("expires_at", flat=True)
    opens = [score.clean_since + restrictions.CLEAN for score in written if score.clean_since]
    subject.due_at = min([now + AGAIN, *(at for at in [*holds, *opens] if at > now)])
    subject.seen_until = now - LATE
    subject.save(update_fields=["due_at", "seen_until"])
    return written


def _judged(user: User, now: datetime) -> Iterable[tuple[ScoreKind, dict[str, Any]]]:
    if incidents.has_bots(user):
        events = incidents.events_of(user, now=now)
        found = endpoint.fold(events, now=now)
        yield (
            ScoreKind.ENDPOINT,
            {
                "score": Decimal(found.score),
                "features": [
                    {"at": responses.iso(event.at), "reason": event.reason, "points": points, "score": after}
                    for event, points, after in found.counted
                ],
                "inputs": {"events": len(events), "days": incidents.SPAN.days},
                "as_of": responses.iso(found.last_at) if found.last_at else "",
            },
        )
    strategies = user.strategies.select_related("account").order_by("pk")
    judged = [_of_strategy(one, now) for one in strategies]
    if judged:  # each strategy is a book of its own, and the provider stands where the worst of them does
        yield ScoreKind.FLOW, min((flow for flow, _ in judged), key=_rank)
        yield ScoreKind.RELATIONSHIP, min((related for _, related in judged), key=_rank)


def _of_strategy(strategy: Strategy, now: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both of the questions that a provider is judged by."""
    known = evidence.of_provider(strategy, now=now)
    inputs = {
        "strategy": strategy.name,
        "deals": len(known.deals),
        "positions": len(known.positions),
        "fills": len(known.fills),
        "copies": len(known.copies),
        "bars": sum(map(len, known.bars.values())),
        "others": len(known.others),
        "days": evidence.WINDOW.days,
    }
    about = {"inputs": inputs, "as_of": known.deals[-1].ref if known.deals else ""}
    flow, related = detector.assess(known, now=now), detector.relate(known)
    return (
        {"score": flow.score, "features": _feature_rows(flow), **about},
        {"score": related.score, "features": _feature_rows(related), **about},
    )


def _rank(judged: dict[str, Any]) -> tuple[Decimal, int]:
    """The lowest score first, and of equal ones that which rests on most."""
    return judged["score"], -judged["inputs"]["deals"]


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
    stands = _restriction(user, kind, score, before, now)
    same = before is not None and (before.score, _restriction_of(before)) == (score, stands)
    if before is not None and same and not always and _explained(before) == (features, inputs.get("strategy")):
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
    told = {
        "score": score,
        "band": restrictions.band(score),
        "as_of": as_of,
        **asdict(stands),
        "calculated_at": now,
    }
    if before is None:
        return TrustScore.objects.create(user=user, kind=kind, version=1, **told)
    if bool(before.restricted_at) != bool(stands.restricted_at):
        fact = "trust.restricted" if stands.restricted_at else "trust.restored"
        audit.record(fact, actor=audit.SYSTEM, subject=f"user:{user.pk}", kind=kind, score=str(score))
    before.version += 1
    for name, value in told.items():
        setattr(before, name, value)
    before.save(update_fields=["version", *told])
    return before


def _explained(score: TrustScore) -> tuple[Any, Any]:
    last = TrustAssessment.objects.get(user=score.user_id, kind=score.kind, version=score.version)
    return last.features, last.inputs.get("strategy")


def _restriction(
    user: User, kind: ScoreKind, score: Decimal, before: TrustScore | None, now: datetime
) -> restrictions.Restriction:
    held = TrustHold.objects.filter(user=user, kind=kind, ended_at=None, expires_at__gt=now).first()
    stood = _restriction_of(before)
    if held is not None and held.effect == TrustHold.Effect.OPEN:
        return restrictions.Restriction()
    # Who trades beside one is not one's own doing: that score closes nothing, and staff decide by a hold.
    says = detector.HUNDRED if kind == ScoreKind.RELATIONSHIP else score
    return (restrictions.next_restriction if held is None else restrictions.restriction_by_hold)(says, stood, now=now)


def _restriction_of(score: TrustScore | None) -> restrictions.Restriction:
    return (
        restrictions.Restriction(score.restricted_at, score.clean_since, score.by_hold)
        if score
        else restrictions.Restriction()
    )


# --- who is due


def _meet(now: datetime) -> None:
    """Users not judged yet are due now."""
    judged = TrustSubject.objects.filter(user=OuterRef("pk"))
    has_keys = BotKey.objects.filter(account__owner=OuterRef("pk"))
    leads = Strategy.objects.filter(owner=OuterRef("pk"))
    fresh = User.objects.filter(Exists(has_keys) | Exists(leads), ~Exists(judged)).values_list("pk", flat=True)
    TrustSubject.objects.bulk_create(
        [TrustSubject(user_id=pk, due_at=now, seen_until=now) for pk in fresh[:BATCH]], ignore_conflicts=True
    )


def _hear(now: datetime) -> None:
    """Users of whom there is news are due now. No message can be lost: this looks."""
    closed = TradeHistory.objects.filter(account__owner=OuterRef("pk"), closed_at__gt=OuterRef("seen_until"))
    failed = CopyOrder.objects.filter(
        account__owner=OuterRef("pk"), status=CopyOrder.Status.FAILED, reported_at__gt=OuterRef("seen_until")
    )
    key = Concat("key__key_id", Value("."), Cast("generation", TextField()), output_field=TextField())
    keys = BotKeyGeneration.objects.filter(key__account__owner=OuterRef(OuterRef("pk"))).values(name=key)
    refused = AuditLog.objects.filter(**incidents.REFUSALS, actor__in=keys, at__gt=OuterRef("seen_until"))
    waiting = TrustSubject.objects.filter(due_at__gt=now, seen_until__lte=now - REST)
    _set_due(waiting.filter(Exists(closed) | Exists(failed) | Exists(refused)), now)


# --- what follows


def enforce(now: datetime | None = None) -> dict[str, int]:
    """Bring strategies and subscriptions in line with the scores. Nothing here ever holds back a close."""
    now = now or timezone.now()
    scores = TrustScore.objects.filter(user=OuterRef("owner"), kind__in=FLOWS)
    kept_open = TrustHold.objects.filter(
        user=OuterRef("user"), kind=OuterRef("kind"), effect=TrustHold.Effect.OPEN, ended_at=None, expires_at__gt=now
    )
    flow = scores.filter(restricted_at__isnull=False)
    own, restricted = Q(kind=ScoreKind.FLOW), Q(restricted_at__isnull=False)
    low = scores.filter(own & Q(score__lt=restrictions.NO_NEW_BELOW) | restricted).exclude(Exists(kept_open))
    not_high = scores.filter(own & Q(score__lt=restrictions.NEW_FROM) | restricted).exclude(Exists(kept_open))
    bot = TrustScore.objects.filter(
        user=OuterRef("account__owner"), kind=ScoreKind.ENDPOINT, restricted_at__isnull=False
    )
    for_flow, for_bot = Strategy.FrozenFor.TRUST, Subscription.PausedFor.TRUST
    system, trust = audit.SYSTEM, "trust"
    return {
        "frozen": _each(
            Strategy.objects.filter(Exists(flow), status=Strategy.Status.ACTIVE),
            lambda one: strategies.freeze(strategy=one, actor=system, reason=trust, why=for_flow),
        ),
        "thawed": _each(
            Strategy.objects.filter(~Exists(flow), frozen_for=for_flow),
            lambda one: strategies.thaw(strategy=one, actor=system, reason=trust, why=for_flow),
        ),
        "closed_to_new": _each(
            Strategy.objects.filter(Exists(low), takes_subscribers=True),
            lambda one: strategies.close_to_new(strategy=one, actor=system, reason=trust),
        ),
        "opened_to_new": _each(
            Strategy.objects.filter(~Exists(not_high), takes_subscribers=False),
            lambda one: strategies.open_to_new(strategy=one, actor=system, reason=trust),
        ),
        "paused": _each(
            Subscription.objects.filter(Exists(bot), status=Subscription.Status.ACTIVE),
            lambda one: strategies.pause(subscription=one, actor=system, why=for_bot),
        ),
        "resumed": _each(
            Subscription.objects.filter(~Exists(bot), paused_for=for_bot),
            lambda one: strategies.resume(subscription=one, actor=system, why=for_bot),
        ),
    }


def _each(rows: Any, do: Callable[[Any], None]) -> int:
    found = list(rows[:BATCH])
    for row in found:
        try:
            do(row)
        except OperationalError:  # somebody holds the row: the next sweep comes back to it
            log.warning("trust.not_enforced", on=str(row))
    return len(found)


# --- staff, and the judged


def hold(
    *, user: User, kind: ScoreKind | str, effect: TrustHold.Effect | str, reason: str, expires_at: datetime,
    by: User | None, actor: audit.Actor, now: datetime | None = None,
) -> TrustHold:  # fmt: skip
    """Decide instead of the score until a day, for a reason. One at a time: a new one ends the one before."""
    now = now or timezone.now()
    if user == by:
        raise OwnScore
    if not reason.strip():
        raise Invalid({"reason": ["is required"]})
    if expires_at <= now:
        raise Invalid({"expires_at": ["must lie ahead"]})
    with use_case():
        TrustSubject.objects.filter(user=user).update(due_at=now)  # whatever happens then, it takes effect
        User.locked(user.pk)
        TrustHold.objects.filter(user=user, kind=kind, ended_at=None).update(ended_at=now)
        made = TrustHold.objects.create(
            user=user, kind=kind, effect=effect, reason=reason, by=by, expires_at=expires_at
        )
        audit.record(
            "trust.held", actor=actor, subject=f"user:{user.pk}", kind=str(kind), effect=str(effect), reason=reason
        )
    _take_effect(user.pk, now)
    return made


def end_hold(*, held: TrustHold, by: User, actor: audit.Actor, now: datetime | None = None) -> None:
    """Let the score decide again."""
    now = now or timezone.now()
    if held.user == by:
        raise OwnScore
    with use_case():
        TrustSubject.objects.filter(user=held.user_id).update(due_at=now)
        if TrustHold.objects.filter(pk=held.pk, ended_at=None).update(ended_at=now):
            audit.record("trust.hold_ended", actor=actor, subject=f"user:{held.user_id}", kind=held.kind)
    _take_effect(held.user_id, now)


def _take_effect(user_id: Any, now: datetime) -> None:
    """At once; or with the next sweep, where a worker is at it."""
    try:
        recalculate(user_id=user_id, now=now)
    except OperationalError:
        log.warning("trust.left_to_the_sweep", user=str(user_id))
    enforce(now)


def appeal(*, user: User, kind: ScoreKind | str, note: str, actor: audit.Actor) -> TrustAppeal:
    """Object to one's score. Staff read it beside the assessment; until they answer there is no second one."""
    score = TrustScore.objects.filter(user=user, kind=kind).first() if kind in ScoreKind.values else None
    if score is None:
        raise NotFound
    if not note.strip() or "\0" in note or len(note) > 2000:
        raise Invalid({"note": ["is required, as text of at most 2000 characters"]})
    try:
        with use_case():
            made = TrustAppeal.objects.create(user=user, kind=kind, version=score.version, note=note)
            audit.record(
                "trust.appealed", actor=actor, subject=f"user:{user.pk}", kind=str(kind), version=score.version
            )
    except IntegrityError as fault:
        raise AppealedAlready from fault
    return made


@use_case()
def answer(*, appealed: TrustAppeal, text: str, by: User, actor: audit.Actor) -> None:
    """Answer an appeal, once."""
    if appealed.user == by:
        raise OwnScore
    found = TrustAppeal.objects.filter(pk=appealed.pk, answered_at=None)
    if found.update(answer=text, answered_by=by, answered_at=timezone.now()):
        audit.record("trust.answered", actor=actor, subject=f"user:{appealed.user_id}", kind=appealed.kind)


def latest(user: User) -> list[tuple[TrustScore, TrustAssessment]]:
    """A user's scores, each with the assessment that explains it."""
    scores = list(TrustScore.objects.filter(user=user).order_by("kind"))
    wanted = Q()
    for score in scores:
        wanted |= Q(kind=score.kind, version=score.version)
    found = {one.kind: one for one in TrustAssessment.objects.filter(wanted, user=user)} if scores else {}
    return [(score, found[score.kind]) for score in scores]


def trend(user: User, kind: ScoreKind | str, count: int = 60) -> list[TrustAssessment]:
    """The latest assessments of a kind, oldest first."""
    rows = TrustAssessment.objects.filter(user=user, kind=kind).order_by(F("version").desc())
    return list(rows.only("score", "at", "version", "kind")[:count])[::-1]
