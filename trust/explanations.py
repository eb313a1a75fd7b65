"""A score in words, for its user and for staff: what counted, by how much, its consequence, and how to raise it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.utils import timezone

from accounts.models import User
from trust import restrictions, services
from trust.models import ScoreKind, TrustAppeal, TrustAssessment, TrustHold, TrustScore

QUESTIONS = {
    ScoreKind.ENDPOINT: "Bot reliability",
    ScoreKind.FLOW: "Quality of your trades for copiers",
    ScoreKind.RELATIONSHIP: "Independence of your trades",
}
NOTHING = {
    ScoreKind.ENDPOINT: "Your bots caused no incidents in the last 90 days.",
    ScoreKind.FLOW: "Your trades of the last year show nothing that harms copiers.",
    ScoreKind.RELATIONSHIP: "No other person's trades match yours.",
}
RECOVERY = "Each whole day without an incident gives ten points back."
# For each kind of incident: the text with its count, and how to avoid it. The last three count no more;
# assessments from before 0.2.0 have them.
INCIDENTS = {
    "REPLAY_ATTACK": (
        "Your bot sent a closed trade again as a new one, {times}.",
        "After a restart, request the active trades before your bot opens anything.",
    ),
    "INSUFFICIENT_FUNDS": (
        "An order failed: insufficient margin, {times}.",
        "Keep more free margin, or copy with smaller volume.",
    ),
    "REPORT_DIFFERS": (
        "Your bot reported prices, a symbol or a profit of a copy that cannot be right, {times}.",
        "Compare the copy with your broker's statement, and its symbol with your settings. Fees do not follow reports.",
    ),
    "DUPLICATE_SEQ": (
        "Your bot sent a request with a sequence number used before, {times}.",
        "Use each key from one process only, and count up.",
    ),
    "TTL_EXPIRED": (
        "A signal was too old when your bot processed it, {times}.",
        "Make your bot faster: its own part of the delay was a second or more.",
    ),
    "PRICE_DEVIATION": (
        "The price was too far away when your bot processed a signal, {times}.",
        "Make your bot faster, or allow a larger deviation.",
    ),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One feature or incident in a score. `points`: by how many the score would be higher without it.

    A feature has `n` observations and counts from `least_n` on. From the value `warn` on it takes points, at `red` the
    maximum of its weight. The last four are None for an incident, which always counts.
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
        """Takes points, is for information only, has too few observations, or is well."""
        if self.points:
            return "counts"
        if self.is_for_information:
            return "for information"
        return "too few" if self.least_n and self.n < self.least_n else "well"


@dataclass(frozen=True, slots=True)
class ScoreExplanation:
    """A user's score of one kind, with its reasons. `strategy`: the provider's worst-scored strategy."""

    score: TrustScore
    question: str
    consequence: str
    reasons: list[Reason]
    strategy: str
    hold: TrustHold | None
    appeal: TrustAppeal | None

    @property
    def counted(self) -> list[Reason]:
        return [reason for reason in self.reasons if reason.points]

    @property
    def remedies(self) -> list[str]:
        """How to raise the score, the largest effect first."""
        remedies = [reason.remedy for reason in self.counted if reason.remedy]
        return [*remedies, RECOVERY] if remedies and self.score.kind == ScoreKind.ENDPOINT else remedies

    @property
    def is_restricted(self) -> bool:
        return self.score.restricted_at is not None

    @property
    def may_appeal(self) -> bool:
        """There is something to appeal against, and no open appeal."""
        has_cause = bool(self.counted) or self.is_restricted
        return has_cause and (self.appeal is None or self.appeal.answered_at is not None)

    @property
    def nothing(self) -> str:
        return NOTHING[ScoreKind(self.score.kind)]


def explain(user: User) -> list[ScoreExplanation]:
    """Explain all scores of a user by their latest assessments."""
    now = timezone.now()
    holds = {hold.kind: hold for hold in TrustHold.objects.filter(user=user, ended_at=None, expires_at__gt=now)}
    appeals = {appeal.kind: appeal for appeal in TrustAppeal.objects.filter(user=user).order_by("pk")}
    return [
        ScoreExplanation(
            score=score,
            question=QUESTIONS[ScoreKind(score.kind)],
            consequence=consequence(score, holds.get(score.kind)),
            reasons=reasons(assessment),
            strategy=assessment.inputs.get("strategy", ""),
            hold=holds.get(score.kind),
            appeal=appeals.get(score.kind),
        )
        for score, assessment in services.latest(user)
    ]


def reasons(assessment: TrustAssessment) -> list[Reason]:
    """All features or incidents of an assessment, those with the most points first."""
    if assessment.kind == ScoreKind.ENDPOINT:
        unsorted = _incident_reasons(assessment.features, most=float(100 - assessment.score))
    else:
        unsorted = _feature_reasons(assessment.features)
    return sorted(unsorted, key=lambda reason: -reason.points)


def _feature_reasons(features: Sequence[dict[str, Any]]) -> list[Reason]:
    return [
        Reason(
            name=feature["name"], says=feature["says"], points=round(feature["contribution"], 1),
            remedy=feature["remedy"], n=feature["n"], value=feature["value"], warn=feature["warn"],
            red=feature["red"], least_n=feature["least_n"],
        )
        for feature in features
    ]  # fmt: skip


def _incident_reasons(events: Sequence[dict[str, Any]], *, most: float) -> list[Reason]:
    """No reason has more points than are missing now: recovered points do not count."""
    points: dict[str, list[int]] = {}
    for event in events:
        points.setdefault(event["reason"], []).append(event["points"])
    reasons = []
    for name, taken in points.items():
        says, remedy = INCIDENTS.get(name, (f"{name.replace('_', ' ').capitalize()}, {{times}}.", ""))
        times = "on one occasion" if len(taken) == 1 else f"on {len(taken)} occasions"
        reasons.append(Reason(name, says.format(times=times), min(most, float(sum(taken))), remedy, len(taken)))
    return reasons


def consequence(score: TrustScore, hold: TrustHold | None) -> str:
    """The restriction that the score leads to, and how it ends."""
    is_of_bot = score.kind == ScoreKind.ENDPOINT
    if score.restricted_at is not None:
        effect = "No new trades are copied to your accounts." if is_of_bot else "Your strategies open no new trades."
        return f"{effect} Closes always pass. {_end_of_restriction(score, hold)}"
    if hold is not None:
        if hold.effect == TrustHold.Effect.CLOSE_ONLY:
            return "Staff have just decided to restrict this to closes. The restriction begins within a minute."
        return f"Staff keep this open until {_day(hold.expires_at)}, whatever the score."
    if score.kind == ScoreKind.RELATIONSHIP and score.score < restrictions.NO_NEW_BELOW:
        return "Staff are reviewing this."
    if (
        not is_of_bot
        and score.score < restrictions.NEW_FROM
        and score.user.strategies.filter(takes_subscribers=False).exists()
    ):
        return f"Your strategies accept no new subscribers until the score is {restrictions.NEW_FROM} or above."
    return "No restrictions."


def _end_of_restriction(score: TrustScore, hold: TrustHold | None) -> str:
    if hold is not None:
        return f"This is a decision of staff until {_day(hold.expires_at)}."
    if score.by_hold:
        return "The decision of staff has ended, and the restriction ends within a minute."
    if score.clean_since is not None:
        ends_at = score.clean_since + restrictions.CLEAN
        return f"The restriction ends on {_day(ends_at)} if the score stays at {restrictions.OPEN_FROM} or above."
    return f"The restriction ends after a day with a score of {restrictions.OPEN_FROM} or above, or when staff lift it."


def _day(moment: Any) -> str:
    return f"{moment.day} {moment:%B} at {moment:%H:%M} UTC"


def line(scores: Sequence[Decimal], width: int, height: int) -> str:
    """The points of an SVG polyline: scores oldest to newest from left to right, 0 at the bottom and 100 at the top."""
    if len(scores) == 1:
        scores = [*scores, *scores]
    step = width / max(1, len(scores) - 1)
    return " ".join(
        f"{index * step:.1f},{height - float(score) * height / 100:.1f}" for index, score in enumerate(scores)
    )
