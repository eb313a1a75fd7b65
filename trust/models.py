"""Trust scores. Three separate scores: whether a user's bots are reliable, whether a provider's trades can be copied
without harm, and whether they are the provider's own.

A score is locked, calculated and written in one transaction. Each calculation adds an assessment that is chained to the
one before, so that a writer with an old score cannot commit.
"""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now


class ScoreKind(models.TextChoices):
    ENDPOINT = "ENDPOINT", "endpoint trust"
    FLOW = "FLOW", "flow quality"
    RELATIONSHIP = "RELATIONSHIP", "relationship risk"


class Band(models.TextChoices):
    FINE = "FINE", "fine"
    NOTE = "NOTE", "note"
    WATCH = "WATCH", "watch"
    CLOSE_ONLY = "CLOSE_ONLY", "low"


KINDS = Q(kind__in=list(ScoreKind.values))


def score_field(**more: Any) -> "models.DecimalField[Any, Any]":
    """0 to 100, with two decimals."""
    return models.DecimalField(max_digits=5, decimal_places=2, **more)


class TrustSubjectQuerySet(models.QuerySet["TrustSubject"]):
    def lock(self, *, skip_locked: bool = False) -> "TrustSubjectQuerySet":
        return self.select_for_update(no_key=True, skip_locked=skip_locked, of=("self",))


class TrustSubject(models.Model):
    """A user with scores, and when they are due for recalculation. The row is the queue that the sweep reads."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.PROTECT, primary_key=True, related_name="trust_subject"
    )
    due_at = models.DateTimeField(db_index=True)
    seen_until = models.DateTimeField(help_text="Events up to this time are in the latest assessment.")

    objects = TrustSubjectQuerySet.as_manager()

    class Meta:
        db_table = "trust_subjects"

    def __str__(self) -> str:
        return str(self.user)


class TrustScore(models.Model):
    """The current score of a user. `restricted_at` is set while a restriction holds, and outlasts a short recovery."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="trust_scores")
    kind = models.CharField(max_length=12, choices=ScoreKind)
    score = score_field()
    band = models.CharField(max_length=10, choices=Band)
    version = models.PositiveBigIntegerField()
    as_of = models.CharField(max_length=64, blank=True, help_text="The latest event in the calculation.")
    restricted_at = models.DateTimeField(null=True)
    by_hold = models.BooleanField(
        default=False, db_default=False, help_text="Restricted by a hold alone: the restriction ends with the hold."
    )
    clean_since = models.DateTimeField(
        null=True, help_text="Since when the score has been high enough to lift the restriction."
    )
    calculated_at = models.DateTimeField()

    class Meta:
        db_table = "trust_scores"
        constraints = [
            models.UniqueConstraint(fields=["user", "kind"], name="trust_score_is_one_of_its_kind"),
            models.CheckConstraint(condition=KINDS, name="trust_score_kind_is_known"),
            models.CheckConstraint(condition=Q(score__gte=0, score__lte=100), name="trust_score_is_within_bounds"),
            models.CheckConstraint(condition=Q(version__gte=1), name="trust_score_was_calculated"),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.get_kind_display()} {self.score}"


class TrustAssessment(models.Model):
    """One calculation: its inputs, its features and the score."""

    pk = models.CompositePrimaryKey("user_id", "kind", "version")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=12, choices=ScoreKind)
    version = models.PositiveBigIntegerField()
    prev_version = models.PositiveBigIntegerField(null=True)
    prev_score = score_field(null=True)
    score = score_field()
    features = models.JSONField(default=list, help_text="Each with value, limits, weight, contribution and text.")
    inputs = models.JSONField(default=dict, help_text="The number of inputs of each kind, and the days they cover.")
    as_of = models.CharField(max_length=64, blank=True)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "trust_assessments"
        constraints = [
            models.CheckConstraint(condition=KINDS, name="trust_assessment_kind_is_known"),
            models.CheckConstraint(condition=Q(score__gte=0, score__lte=100), name="trust_assessment_is_within_bounds"),
            models.CheckConstraint(
                condition=Q(version=1, prev_version__isnull=True, prev_score__isnull=True)
                | Q(version__gt=1, prev_version__isnull=False, prev_version=F("version") - 1, prev_score__isnull=False),
                name="trust_assessment_follows_the_one_before",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} {self.kind} v{self.version}"


class TrustHold(models.Model):
    """A decision of staff that overrides the score, for a reason and until a day."""

    class Effect(models.TextChoices):
        OPEN = "OPEN", "stays open, whatever the score"
        CLOSE_ONLY = "CLOSE_ONLY", "stays close-only, whatever the score"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="trust_holds")
    kind = models.CharField(max_length=12, choices=ScoreKind)
    effect = models.CharField(max_length=10, choices=Effect)
    reason = models.CharField(max_length=500)
    by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", null=True, help_text="None: the desk itself."
    )
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "trust_holds"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "kind"], condition=Q(ended_at=None), name="trust_hold_is_the_only_one_in_force"
            ),
            models.CheckConstraint(condition=KINDS, name="trust_hold_kind_is_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} {self.effect}"


class TrustAppeal(models.Model):
    """A user's appeal against a score, with the answer of staff."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="trust_appeals")
    kind = models.CharField(max_length=12, choices=ScoreKind)
    version = models.PositiveBigIntegerField(help_text="The version of the score.")
    note = models.CharField(max_length=2000)
    created_at = models.DateTimeField(db_default=Now())
    answer = models.CharField(max_length=2000, blank=True)
    answered_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", null=True)
    answered_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "trust_appeals"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "kind"], condition=Q(answered_at=None), name="trust_appeal_is_the_only_one_that_waits"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.get_kind_display()}"
