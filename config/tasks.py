"""Scheduled tasks of the desk as a whole."""

import structlog
from celery import shared_task

from accounts.models import User
from audit import services as audit
from audit.models import AuditLog
from config.drill import reports

log = structlog.get_logger()


@shared_task(name="config.tasks.zombie_drill", soft_time_limit=120, time_limit=150)
def zombie_drill(*, user_id: str = "") -> bool:
    """Run the zombie drill, for a staff user or by schedule; return whether all rules passed."""
    from config.drill import rules  # imports the bots' package, which no other task needs

    user = User.objects.filter(pk=user_id).first() if user_id else None
    actor = audit.SYSTEM if user is None else audit.Actor(AuditLog.Actor.STAFF, str(user.pk))
    try:
        return rules.run(actor=actor, by="schedule" if user is None else user.get_username()).passed
    except reports.AlreadyRunning:
        log.warning("drill.runs_already")
        return False
