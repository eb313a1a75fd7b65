"""Who behaves. Three questions, three scores, never mixed: does this user's bot behave, can a provider's flow be copied
without harm, and is somebody dealing with himself.

A score is a row that is locked, calculated and written in one transaction; each calculation leaves an assessment, which
is chained to the one before, so that a writer who read an old score cannot commit.
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
    """A user who is judged, and when next. The row is the queue: whoever recalculates takes those that are due."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.PROTECT, primary_key=True, related_name="trust_subject"
    )
    due_at = models.DateTimeField(db_index=True)
    seen_until = models.DateTimeField(help_text="What happened up to then is in the latest assessment.")

    objects = TrustSubjectQuerySet.as_manager()

    class Meta:
        db_table = "trust_subjects"

    def __str__(self) -> str:
        return str(self.user)


class TrustScore(models.Model):
    """Where a user stands. `restricted_at` is set while something is kept closed, and outlasts a short recovery."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="trust_scores")
    kind = models.CharField(max_length=12, choices=ScoreKind)
    score = score_field()
    band = models.CharField(max_length=10, choices=Band)
    version = models.PositiveBigIntegerField()
    as_of = models.CharField(max_length=64, blank=True, help_text="The latest event that is in it.")
    restricted_at = models.DateTimeField(null=True)
    by_hold = models.BooleanField(
        default=False, db_default=False, help_text="Closed by a hold alone: with its end it opens."
    )
    clean_since = models.DateTimeField(null=True, help_text="Since when it has been high enough to open again.")
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
    """One calculation: what went in, what each feature made of it, and what came out."""

    pk = models.CompositePrimaryKey("user_id", "kind", "version")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=12, choices=ScoreKind)
    version = models.PositiveBigIntegerField()
    prev_version = models.PositiveBigIntegerField(null=True)
    prev_score = score_field(null=True)
    score = score_field()
    features = models.JSONField(default=list, help_text="Each with value, limits, weight, contribution, and words.")
    inputs = models.JSONField(default=dict, help_text="How much went in, and of which time.")
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
    """Staff decide instead of the score, for a reason and until a day."""

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
    """What a judged user has to say to it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="trust_appeals")
    kind = models.CharField(max_length=12, choices=ScoreKind)
    version = models.PositiveBigIntegerField(help_text="Of the score that it is about.")
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
