"""The audit log's read-only page, and a base class for admin pages whose changes are audited."""

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit import services as audit
from audit.actors import actor_of
from audit.models import AuditLog
from core.admin import NoDeleteAdmin, ReadOnlyAdmin
from core.errors import every_error
from core.formatting import chip, ref

PEOPLE = (AuditLog.Actor.USER, AuditLog.Actor.STAFF)


class AuditedAdmin(NoDeleteAdmin):
    """Each addition or change by a form writes an audit row with the names of the fields, never their values."""

    audit_subject = ""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        audit.record(f"{self.audit_subject}.added", actor=actor_of(request), subject=f"{self.audit_subject}:{obj.pk}")
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        audit.record(
            f"{self.audit_subject}.changed",
            actor=actor_of(request),
            subject=f"{self.audit_subject}:{obj.pk}",
            what=message,
        )
        return super().log_change(request, obj, message)


def with_user_names(rows: Iterable[AuditLog]) -> list[AuditLog]:
    """Return the rows, each with `who`: the user name where the actor is a person, else the actor."""
    entries = list(rows)
    ids = {row.actor for row in entries if row.actor_kind in PEOPLE and _as_uuid(row.actor)}
    names = {str(pk): name for pk, name in get_user_model().objects.filter(pk__in=ids).values_list("pk", "username")}
    for row in entries:
        row.who = names.get(row.actor, row.actor)  # type: ignore[attr-defined]
    return entries


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


class ActionFilter(admin.SimpleListFilter):
    title = parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [(action, action) for action in AuditLog.objects.actions()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditLog]) -> QuerySet[AuditLog]:
        return queryset.filter(action=self.value()) if self.value() else queryset


class CodeFilter(admin.SimpleListFilter):
    """Offers the code of every refusal."""

    title = parameter_name = "code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [(error.code, error.code) for error in every_error()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditLog]) -> QuerySet[AuditLog]:
        return queryset.filter(code=self.value()) if self.value() else queryset


@admin.register(AuditLog)
class AuditLogAdmin(ReadOnlyAdmin):
    list_display = ["at", "action", "outcome_chip", "actor_kind", "who", "subject"]
    list_filter = ["at", "outcome", "actor_kind", ActionFilter, CodeFilter]
    search_fields = ["subject__startswith", "actor__exact", "request_id__exact"]
    search_help_text = "Subject (trade:…, key:…), a trade's id, a user name, a key with its generation, or a request id"
    ordering = ["-id"]
    list_per_page = 50
    fields = ["at", "action", "outcome_chip", "subject_", "actor_kind", "person", "ip", "request_id", "detail_"]
    readonly_fields = ["at", "outcome_chip", "subject_", "person", "detail_"]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist: Any = super().get_changelist_instance(request)
        changelist.result_list = with_user_names(changelist.result_list)
        return changelist

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        entry = super().get_object(request, object_id, from_field)
        return entry and with_user_names([entry])[0]

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditLog], search_term: str
    ) -> tuple[QuerySet[AuditLog], bool]:
        """Find entries also by user name, and by the id of a trade or user."""
        person = get_user_model().objects.filter(username=search_term).first()
        if person is not None:
            return queryset.filter(actor=str(person.pk)), False
        if _as_uuid(search_term):
            return queryset.filter(Q(subject=f"trade:{search_term}") | Q(actor=search_term)), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="outcome", ordering="outcome")
    def outcome_chip(self, row: AuditLog) -> SafeString:
        return chip(row.code or row.outcome, "bad" if row.outcome == AuditLog.Outcome.REFUSED else "good")

    @admin.display(description="actor", ordering="actor")
    def who(self, row: Any) -> str:
        return str(row.who)

    @admin.display(description="actor")
    def person(self, row: Any) -> SafeString | str:
        if row.who == row.actor:
            return ref(row.actor) if row.actor else "–"
        return format_html("{} {}", row.who, ref(row.actor))

    @admin.display(description="subject")
    def subject_(self, row: AuditLog) -> SafeString | str:
        return ref(row.subject) if row.subject else "–"

    @admin.display(description="detail")
    def detail_(self, row: AuditLog) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(row.detail, indent=2, ensure_ascii=False))
