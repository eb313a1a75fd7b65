"""People, their trading accounts, and their bots' keys. A secret is shown once, on the page that made it."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import Max, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts import services
from accounts.models import BotKey, TradingAccount, User
from audit.people import actor_of
from core.admin import NeverDeleted, chip
from core.errors import DomainError


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    """Deactivate, never delete: trades and money point here."""

    list_display = ["username", "email", "is_active", "is_staff", "last_login"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(TradingAccount)
class TradingAccountAdmin(NeverDeleted):
    list_display = ["name", "owner", "broker", "server", "login", "generation", "currency"]
    list_select_related = ["owner"]
    search_fields = ["name", "owner__username", "login"]
    autocomplete_fields = ["owner"]
    ordering = ["name"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["owner", "broker", "server", "login", "generation"] if obj else []


class NewKeyForm(forms.ModelForm):
    class Meta:
        model = BotKey
        fields = ["account", "kind", "label", "allowed_networks", "rate_per_minute", "expires_at"]


@admin.register(BotKey)
class BotKeyAdmin(NeverDeleted):
    list_display = ["key_id", "state", "kind_", "account", "label", "networks", "rate_per_minute", "last_used"]
    list_filter = ["kind", "revoked_at"]
    list_select_related = ["account"]
    search_fields = ["key_id", "label", "account__name"]
    autocomplete_fields = ["account"]
    ordering = ["-id"]
    form = NewKeyForm
    actions = ["rotate", "revoke"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(used_at=Max("generations__last_used_at"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["key_id", "account", "kind", "revoked_at", "created_at"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = list(NewKeyForm.Meta.fields)
        return ["key_id", *asked, "revoked_at", "created_at"] if obj else asked

    @admin.display(description="state")
    def state(self, key: BotKey) -> SafeString:
        if key.revoked_at:
            return chip("revoked", "bad")
        if key.expires_at and key.expires_at <= timezone.now():
            return chip("expired", "bad")
        return chip("active", "good")

    @admin.display(description="kind", ordering="kind")
    def kind_(self, key: BotKey) -> str:
        return key.kind

    @admin.display(description="networks")
    def networks(self, key: BotKey) -> str:
        return ", ".join(key.allowed_networks) or "any"

    @admin.display(description="last used", ordering="used_at")
    def last_used(self, key: Any) -> Any:
        return key.used_at

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Not saved by the form: made by the verb, and answered with the secret."""
        form = NewKeyForm(request.POST or None)
        if request.method != "POST" or not self.has_add_permission(request) or not form.is_valid():
            return super().add_view(request, form_url, extra_context)
        key, secret = services.create_key(actor=actor_of(request), **form.cleaned_data)
        return self._show(request, [(key, secret)])

    def save_model(self, request: HttpRequest, obj: BotKey, form: Any, change: bool) -> None:
        services.change_key(key=obj, changed=form.changed_data, actor=actor_of(request))

    @admin.action(description="Rotate: a new secret, the old one stays valid for a day", permissions=["change"])
    def rotate(self, request: HttpRequest, keys: QuerySet[BotKey]) -> HttpResponse | None:
        made = []
        for key in keys:
            try:
                made.append((key, services.rotate_key(key=key, actor=actor_of(request))))
            except DomainError as no:
                self.message_user(request, f"{key}: {no.says}", messages.ERROR)
        return self._show(request, made) if made else None

    @admin.action(description="Revoke: refused from the next request on", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: QuerySet[BotKey]) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            context = self._context(request, title="Revoke keys", keys=keys)
            return TemplateResponse(request, "admin/revoke_keys.html", context)
        for key in keys:
            services.revoke_key(key=key, actor=actor_of(request))
        self.message_user(request, f"Revoked: {', '.join(str(key) for key in keys)}.")
        return None

    def _show(self, request: HttpRequest, made: list[tuple[BotKey, services.NewSecret]]) -> HttpResponse:
        context = self._context(request, title="Note the secret now: it is not shown again", made=made)
        answer = TemplateResponse(request, "admin/key_secret.html", context)
        answer["Cache-Control"] = "no-store"
        return answer

    def _context(self, request: HttpRequest, **more: Any) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.model._meta, **more}
