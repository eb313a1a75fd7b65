"""Read-only admin pages whose actions ask for confirmation on a page of their own before they take effect."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django import forms, urls
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst

from core.admin import ReadOnlyAdmin
from core.errors import DomainError


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=200, widget=forms.Textarea(attrs={"rows": 3}),
        help_text="Recorded in the audit log with your name.",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ConfirmedAction:
    """The page between an action and its effect. `grave`: its button is shown as a warning."""

    action: str
    title: str
    lead: str
    form: Callable[..., forms.Form]
    grave: bool = False

    def bound_form(self, request: HttpRequest) -> forms.Form:
        return self.form(request.POST if "confirmed" in request.POST else None)


class ConfirmedActionsAdmin(ReadOnlyAdmin):
    """For rows that nobody edits, but that have actions. An action that is not offered to the user is refused."""

    change_form_template = "admin/confirmed_actions.html"
    confirmation_template = "admin/confirm_action.html"
    list_per_page = 50
    list_max_show_all = 50
    confirmation_columns: ClassVar[Sequence[str]] = ()  # of the chosen rows, on the confirmation page

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        action = request.POST.get("action")
        if action and action not in self.get_actions(request):
            raise PermissionDenied
        return super().changelist_view(request, extra_context)

    def render_change_form(
        self, request: HttpRequest, context: Any, add: bool = False, change: bool = False, form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:  # fmt: skip
        allowed = self.get_actions(request)
        offered = [action for action in self.offered_actions(obj) if action.action in allowed]
        return super().render_change_form(request, {**context, "offered": offered}, add, change, form_url, obj)

    def offered_actions(self, obj: Any) -> Sequence[ConfirmedAction]:
        """Return the actions that make sense for this object now."""
        return ()

    def single(self, request: HttpRequest, chosen: QuerySet[Any]) -> Any:
        rows = list(chosen[:2])
        if len(rows) == 1:
            return rows[0]
        self.message_user(request, f"Choose one {self.opts.verbose_name}, not several.", messages.ERROR)
        return None

    def ask_confirmation(
        self, request: HttpRequest, action: ConfirmedAction, rows: Iterable[Any], form: forms.Form, **more: Any
    ) -> HttpResponse:
        chosen = list(rows)
        columns = [(name, getattr(self, name)) for name in self.confirmation_columns]
        only = chosen[0] if len(chosen) == 1 else None
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": action.title,
            "confirmed_action": action,
            "heads": [(name, capfirst(column.short_description)) for name, column in columns],
            "rows": [(row.pk, [column(row) for _, column in columns]) for row in chosen],
            "only": only,
            "back": change_url(only) if only else list_url(self.model),
            "form": form,
            **more,
        }
        return TemplateResponse(request, self.confirmation_template, context)

    def show_refusal(self, request: HttpRequest, refusal: DomainError, subject: str = "") -> None:
        prefix = f"{subject}: " if subject else ""
        self.message_user(request, f"{prefix}{refusal.message} ({refusal.code})", messages.ERROR)


def list_url(model: type[Model]) -> str:
    return urls.reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def change_url(obj: Any) -> str:
    return urls.reverse(f"admin:{obj._meta.app_label}_{obj._meta.model_name}_change", args=[obj.pk])


def link(obj: Any, text: Any = None) -> SafeString | str:
    return "–" if obj is None else format_html('<a href="{}">{}</a>', change_url(obj), text or obj)


def wrapped_text(text: str) -> SafeString:
    """A text that a person wrote, wrapped to fit a column."""
    return format_html('<span class="wrapped">{}</span>', text or "–")


def caller(request: HttpRequest) -> Any:
    return request.user
