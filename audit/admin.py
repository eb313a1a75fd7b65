"""The audit log, to read."""

import json

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.models import AuditLog
from core.admin import ReadOnly, chip


@admin.register(AuditLog)
class AuditLogAdmin(ReadOnly):
    list_display = ["at", "action", "outcome_chip", "subject", "actor_kind", "actor"]
    list_filter = ["at", "outcome", "action", "actor_kind", "code"]
    search_fields = ["subject", "actor", "request_id"]
    search_help_text = "Subject (trade:…, key:…), actor, or request id"
    ordering = ["-id"]
    list_per_page = 50
    fields = ["at", "action", "outcome", "code", "subject", "actor_kind", "actor", "ip", "request_id", "told"]
    readonly_fields = ["at", "outcome", "told"]

    @admin.display(description="outcome", ordering="outcome")
    def outcome_chip(self, row: AuditLog) -> SafeString:
        return chip(row.code or row.outcome, "bad" if row.outcome == AuditLog.Outcome.REFUSED else "good")

    @admin.display(description="detail")
    def told(self, row: AuditLog) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(row.detail, indent=2, ensure_ascii=False))
