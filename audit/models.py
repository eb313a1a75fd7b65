"""The audit log. Rows are only added; the database refuses everything else, TRUNCATE included."""

from django.db import connections, models
from django.db.models.functions import Now

_ACTIONS = """
    with recursive step (action) as (
      select min(action) from audit_log
      union all select (select min(a.action) from audit_log a where a.action > step.action)
                  from step where step.action is not null)
    select action from step where action is not null"""


class AuditLogQuerySet(models.QuerySet["AuditLog"]):
    def actions(self) -> list[str]:
        """Return the actions that occur. The query steps through the index, because the log is too long to scan."""
        with connections[self.db].cursor() as cursor:
            cursor.execute(_ACTIONS)
            return [action for (action,) in cursor.fetchall()]


class AuditLog(models.Model):
    """One fact. Actor and subject are plain text, so that a fact outlives the rows that it refers to."""

    class Actor(models.TextChoices):
        BOT = "bot"
        USER = "user"
        STAFF = "staff"
        SYSTEM = "system"
        NOBODY = "nobody"

    class Outcome(models.TextChoices):
        OK = "ok"
        REFUSED = "refused"

    at = models.DateTimeField(db_default=Now(), editable=False)
    actor_kind = models.TextField(choices=Actor)
    actor = models.TextField(blank=True, default="", help_text="User id, or the bot's key and generation.")
    ip = models.GenericIPAddressField(null=True, blank=True)
    request_id = models.TextField(blank=True, default="")
    action = models.TextField(help_text="A past-tense fact: trade.opened, key.revoked, zombie.refused.")
    subject = models.TextField(blank=True, default="", help_text="What it is about: trade:…, key:…, account:….")
    outcome = models.TextField(choices=Outcome, default=Outcome.OK)
    code = models.TextField(blank=True, default="", help_text="The code of the refusal.")
    detail = models.JSONField(default=dict)

    objects = AuditLogQuerySet.as_manager()

    class Meta:
        db_table = "audit_log"
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["action", "-id"], name="audit_log_action_idx"),
            models.Index(fields=["subject", "-id"], name="audit_log_subject_idx"),
            models.Index(
                fields=["actor", "at"],
                condition=models.Q(action__in=["request.refused", "zombie.refused"]),
                name="audit_log_refused_idx",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(actor_kind__in=["bot", "user", "staff", "system", "nobody"]),
                name="audit_log_actor_kind_is_known",
            ),
            models.CheckConstraint(
                condition=models.Q(outcome__in=["ok", "refused"]), name="audit_log_outcome_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"
