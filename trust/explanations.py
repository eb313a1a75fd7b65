"""A score in words, for the judged and for staff: what counted, by how much, what follows, and what would raise it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils import timezone

from accounts.models import User
from trust import restrictions, services
from trust.models import ScoreKind, TrustAppeal, TrustAssessment, TrustHold, TrustScore

QUESTIONS = {
    ScoreKind.ENDPOINT: "Does your bot behave?",
    ScoreKind.FLOW: "Can your trades be copied without harm?",
    ScoreKind.RELATIONSHIP: "Are your trades your own?",
}
NOTHING = {
    ScoreKind.ENDPOINT: "Your bots did nothing wrong in the last 90 days.",
    ScoreKind.FLOW: "Nothing that would harm those who copy you was found in the last year.",
    ScoreKind.RELATIONSHIP: "Nobody else's trades go with yours.",
}
TIME_HEALS = "Each day without a fault gives ten points back."
# What a bot did, for a count of it; and how it is avoided.
BOT_FAULTS = {
    "REPLAY_ATTACK": (
        "A trade that is closed was sent again as a new one, {times}.",
        "Ask what is active before your bot opens anything after a restart.",
    ),
    "DUPLICATE_SEQ": (
        "A request came under a number that was used before, {times}.",
        "Let one sender alone use a key, and count up.",
    ),
    "INSUFFICIENT_FUNDS": ("An order failed for want of money, {times}.", "Keep more margin, or copy smaller."),
    "TTL_EXPIRED": (
        "A signal was too old when your bot came to it, {times}.",
        "Bring your bot nearer: it took a second or more by itself.",
    ),
    "PRICE_DEVIATION": (
        "The price was too far off when your bot came to it, {times}.",
        "Act sooner, or allow a wider deviation.",
    ),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that was looked at. `points`: by how many the score would be higher without it.

    `n` observations, of which at least `least_n` are needed before it counts; from `warn` on it takes points, at `red`
    all that its weight allows. The last four are None where a fault is a fault.
    """

    name: str
    says: str
    points: float
    remedy: str
    n: int
    value: float | None = None
    warn: float | None = None
    red: float | None = None
    least_n: int | None = None

    @property
    def is_for_information(self) -> bool:
        return self.warn is not None and self.warn == self.red

    @property
    def state(self) -> str:
        """Whether it took points, informs alone, rests on too little, or is well."""
        if self.points:
            return "counts"
        if self.is_for_information:
            return "for information"
        return "too few" if self.least_n and self.n < self.least_n else "well"


@dataclass(frozen=True, slots=True)
class ScoreExplanation:
    """Where a user stands in one kind, and why. `strategy`: the one it was judged by, the worst of theirs."""

    score: TrustScore
    question: str
    follows: str
    reasons: list[Reason]
    strategy: str
    hold: TrustHold | None
    appeal: TrustAppeal | None

    @property
    def counted(self) -> list[Reason]:
        return [reason for reason in self.reasons if reason.points]

    @property
    def remedies(self) -> list[str]:
        """What would raise it, the most first."""
        found = [reason.remedy for reason in self.counted if reason.remedy]
        return [*found, TIME_HEALS] if found and self.score.kind == ScoreKind.ENDPOINT else found

    @property
    def is_restricted(self) -> bool:
        return self.score.restricted_at is not None

    @property
    def may_appeal(self) -> bool:
        """There is something to object to, and no objection that waits."""
        something = bool(self.counted) or self.is_restricted
        return something and (self.appeal is None or self.appeal.answered_at is not None)

    @property
    def nothing(self) -> str:
        return NOTHING[ScoreKind(self.score.kind)]


def explain(user: User) -> list[ScoreExplanation]:
    """All of a user's scores, each explained by its latest assessment."""
    now = timezone.now()
    holds = {one.kind: one for one in TrustHold.objects.filter(user=user, ended_at=None, expires_at__gt=now)}
    appeals = {one.kind: one for one in TrustAppeal.objects.filter(user=user).order_by("pk")}
    return [
        ScoreExplanation(
            score=score,
            question=QUESTIONS[ScoreKind(score.kind)],
            follows=follows(score, holds.get(score.kind)),
            reasons=reasons(assessment),
            strategy=assessment.inputs.get("strategy", ""),
            hold=holds.get(score.kind),
            appeal=appeals.get(score.kind),
        )
        for score, assessment in services.latest(user)
    ]


def reasons(assessment: TrustAssessment) -> list[Reason]:
    """What was looked at, what took most points first."""
    if assessment.kind == ScoreKind.ENDPOINT:
        found = _bot_incidents(assessment.features, most=float(100 - assessment.score))
    else:
        found = _features(assessment.features)
    return sorted(found, key=lambda reason: -reason.points)


def _features(features: Sequence[dict[str, Any]]) -> list[Reason]:
    return [
        Reason(
            name=one["name"], says=one["says"], points=round(one["contribution"], 1), remedy=one["remedy"], n=one["n"],
            value=one["value"], warn=one["warn"], red=one["red"], least_n=one["least_n"],
        )
        for one in features
    ]  # fmt: skip


def _bot_incidents(events: Sequence[dict[str, Any]], *, most: float) -> list[Reason]:
    """What time has healed takes nothing any more."""
    points: dict[str, list[int]] = {}
    for event in events:
        points.setdefault(event["reason"], []).append(event["points"])
    found = []
    for name, taken in points.items():
        says, remedy = BOT_FAULTS.get(name, (f"{name.replace('_', ' ').capitalize()}, {{times}}.", ""))
        times = "on one occasion" if len(taken) == 1 else f"on {len(taken)} occasions"
        found.append(Reason(name, says.format(times=times), min(most, float(sum(taken))), remedy, len(taken)))
    return found


def follows(score: TrustScore, held: TrustHold | None) -> str:
    """What the score leads to, and how it ends."""
    copies = score.kind == ScoreKind.ENDPOINT
    if score.restricted_at is not None:
        shut = "Nothing new is copied to your accounts." if copies else "Your strategies open nothing new."
        return f"{shut} Closes pass, as always. {_until(score, held)}"
    if held is not None:
        if held.effect == TrustHold.Effect.CLOSE_ONLY:
            return "Staff have just decided on it: in a minute this says how."
        return f"It is kept open until {_day(held.expires_at)}, whatever the score."
    if score.kind == ScoreKind.RELATIONSHIP and score.score < restrictions.NO_NEW_BELOW:
        return "Staff look into it."
    if (
        not copies
        and score.score < restrictions.NEW_FROM
        and score.user.strategies.filter(takes_subscribers=False).exists()
    ):
        return f"Your strategies take no new subscribers until it is at {restrictions.NEW_FROM} again."
    return "Nothing follows from it."


def _until(score: TrustScore, held: TrustHold | None) -> str:
    if held is not None:
        return f"Staff decided so until {_day(held.expires_at)}."
    if score.by_hold:
        return "Staff's decision has ended: in a minute it opens."
    if score.clean_since is not None:
        opens = score.clean_since + restrictions.CLEAN
        return f"It ends on {_day(opens)} if the score stays at {restrictions.OPEN_FROM} or above."
    return f"It ends once the score has been at {restrictions.OPEN_FROM} or above for a day, or when staff decide."


def _day(moment: Any) -> str:
    return f"{moment.day} {moment:%B} at {moment:%H:%M} UTC"


def line(scores: Sequence[Decimal], width: int, height: int) -> str:
    """The points of a polyline, oldest to newest from left to right, 0 at the bottom and 100 at the top."""
    if len(scores) == 1:
        scores = [*scores, *scores]
    step = width / max(1, len(scores) - 1)
    return " ".join(
        f"{index * step:.1f},{height - float(score) * height / 100:.1f}" for index, score in enumerate(scores)
    )
