"""The only writer of the audit log in Python. (The database's functions write their audit rows in SQL.)"""

from dataclasses import dataclass
from typing import Any

import orjson
from django.db import DEFAULT_DB_ALIAS, connection

from audit import sampling
from audit.models import AuditLog


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acted, and from where. `name` is a user's id, or a bot's key with its generation."""

    kind: AuditLog.Actor
    name: str = ""
    ip: str | None = None
    request_id: str = ""

    def caller(self) -> dict[str, Any]:
        """Return the actor as the database's functions take it (`p_caller`).

        `has_limits`: processes of 0.1.0 cannot answer the refusals of the limits of opens. It goes with 0.3.0.
        """
        of_actor = {"kind": str(self.kind), "actor": self.name, "ip": self.ip, "request_id": self.request_id}
        return {**of_actor, "has_limits": True}


SYSTEM = Actor(AuditLog.Actor.SYSTEM)


def by_function(name: str, *, actor: Actor, **args: Any) -> Any:
    """Call a function of the database that lifts a restriction and writes its audit row; return what it returns."""
    with connection.cursor() as cursor:
        calling = [orjson.dumps(actor.caller()).decode(), orjson.dumps(args, default=str).decode()]
        cursor.execute(f"select {name}(%s::jsonb, %s::jsonb)", calling)
        (result,) = cursor.fetchone() or (None,)
    return result


def record(
    action: str,
    *,
    actor: Actor,
    subject: str = "",
    refused: str = "",
    using: str = DEFAULT_DB_ALIAS,
    **detail: Any,
) -> None:
    """Add one fact, in the caller's transaction if one is open. `refused` is the code of a refusal.

    `detail` must never hold a secret, a full signature, a cookie or a password.
    """
    AuditLog.objects.using(using).create(
        actor_kind=actor.kind,
        actor=actor.name,
        ip=actor.ip,
        request_id=actor.request_id,
        action=action,
        subject=subject,
        outcome=AuditLog.Outcome.REFUSED if refused else AuditLog.Outcome.OK,
        code=refused,
        detail=detail,
    )


def record_sampled(
    action: str,
    *,
    of: str,
    actor: Actor,
    subject: str = "",
    refused: str,
    using: str = DEFAULT_DB_ALIAS,
    **detail: Any,
) -> None:
    """Add a refusal that its caller can repeat at will, unless the caller's rows of this minute are used up.

    `of`: whose refusals of this code are counted together: a block of addresses, or a verified key. A row after
    refusals that were only counted has their number as `unrecorded` in its detail.
    """
    sampler = sampling.of_nobody if actor.kind == AuditLog.Actor.NOBODY else sampling.of_the_verified
    unrecorded = sampler.admit(f"{action} {refused} {of}")
    if unrecorded is None:
        return
    if unrecorded:
        detail["unrecorded"] = unrecorded
    record(action, actor=actor, subject=subject, refused=refused, using=using, **detail)
