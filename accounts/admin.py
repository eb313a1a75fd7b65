"""Admin pages of groups, trading accounts and bots' keys. A secret is shown once, on the page that creates it."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.models import Group
from django.db.models import Max, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString

from accounts import (
    people_admin,  # noqa: F401 - registers users
    services,
)
from accounts.models import BotKey, TradingAccount
from audit.actors import actor_of
from audit.admin import AuditedAdmin
from core import money
from core.admin import NoDeleteAdmin
from core.errors import DomainError
from core.formatting import amount, chip, ref
from core.transactions import use_case

admin.site.unregister(Group)


class GroupForm(forms.ModelForm):
    class Meta:
        model = Group
        fields = ["name", "permissions"]

    def clean_permissions(self) -> Any:
        permissions = self.cleaned_data["permissions"]
        if self.instance.pk and self.instance.user_set.exists():
            before = set(self.instance.permissions.values_list("pk", flat=True))
            if {permission.pk for permission in permissions} - before:
                raise forms.ValidationError(
                    "This group has members, who would get these permissions. Make another group, and request it for "
                    "them."
                )
        return permissions


@admin.register(Group)
class GroupAdmin(AuditedAdmin, DjangoGroupAdmin):
    """Groups of permissions, by superusers. A group with members can only lose some: giving rights takes two people."""

    audit_subject = "group"
    form = GroupForm

    def has_add_permission(self, request: HttpRequest) -> bool:
        return _is_superuser(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _is_superuser(request)


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)


@admin.register(TradingAccount)
class TradingAccountAdmin(AuditedAdmin):
    audit_subject = "account"
    list_display = ["name", "owner", "broker", "server", "login", "generation", "currency", "equity_", "reported_at"]
    list_select_related = ["owner"]
    search_fields = ["name", "owner__username", "login"]
    search_help_text = "Name, owner or login"
    autocomplete_fields = ["owner"]
    ordering = ["name"]
    REPORTED = (  # by the account's bot
        "balance_", "equity_", "reported_at", "kind", "reported_currency_", "reported_login", "reported_server",
        "symbols_",
    )  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["owner", "broker", "server", "login", "generation", *self.REPORTED] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        entered = ["name", "owner", "broker", "server", "login", "currency", "generation", "max_open_trades"]
        return [*entered, *self.REPORTED] if obj else entered

    @admin.display(description="balance", ordering="balance")
    def balance_(self, account: TradingAccount) -> SafeString:
        return amount(account.balance)

    @admin.display(description="equity", ordering="equity")
    def equity_(self, account: TradingAccount) -> SafeString:
        return amount(account.equity)

    @admin.display(description="reported currency", ordering="reported_currency")
    def reported_currency_(self, account: TradingAccount) -> SafeString | str:
        if account.currency_differs:
            return chip(f"{account.reported_currency}, registered is {account.currency or 'none'}", "bad")
        return account.reported_currency or "–"

    @admin.display(description="contract sizes")
    def symbols_(self, account: TradingAccount) -> str:
        rows = account.symbols.order_by("symbol").values_list("symbol", "contract_size")[:100]
        return ", ".join(f"{symbol} {money.plain(size)}" for symbol, size in rows) or "–"


class StateFilter(admin.SimpleListFilter):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("active", "active"), ("expired", "expired"), ("revoked", "revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[BotKey]) -> QuerySet[BotKey]:
        is_expired = Q(expires_at__isnull=False, expires_at__lte=timezone.now())
        states = {
            "active": Q(revoked_at__isnull=True) & ~is_expired,
            "expired": Q(revoked_at__isnull=True) & is_expired,
            "revoked": Q(revoked_at__isnull=False),
        }
        return queryset.filter(states.get(self.value() or "", Q()))


class KeyForm(forms.ModelForm):
    class Meta:
        model = BotKey
        fields = ["account", "kind", "label", "allowed_networks", "rate_per_minute", "expires_at"]
        widgets = {"allowed_networks": forms.TextInput(attrs={"class": "vTextField", "placeholder": "203.0.113.0/24"})}


@admin.register(BotKey)
class BotKeyAdmin(NoDeleteAdmin):
    list_display = [
        "key_id", "state", "kind_", "account", "label", "networks", "rate_per_minute", "expires_at", "last_used",
    ]  # fmt: skip
    list_filter = [StateFilter, "kind"]
    list_select_related = ["account"]
    search_fields = ["key_id", "label", "account__name"]
    search_help_text = "Key id, label or account"
    autocomplete_fields = ["account"]
    ordering = ["-id"]
    form = KeyForm
    actions = ["rotate", "revoke"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(used_at=Max("generations__last_used_at"))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["ref", "state", "account", "kind", "created_at", "revoked_at", "last_used"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        entered = list(KeyForm.Meta.fields)
        return ["ref", "state", *entered, "created_at", "last_used", "revoked_at"] if obj else entered

    @admin.display(description="key id")
    def ref(self, key: BotKey) -> SafeString:
        return ref(key.key_id)

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
        first, *others = key.allowed_networks or ["any"]
        return f"{first} and {len(others)} more" if others else first

    @admin.display(description="last used", ordering="used_at")
    def last_used(self, key: Any) -> Any:
        return key.used_at or "–"

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """Create the key by its verb instead of by the form, and show its secret."""
        if request.method == "POST" and self.has_add_permission(request):
            form = self.get_form(request)(request.POST)
            if form.is_valid():
                with use_case():
                    created = services.create_key(actor=actor_of(request), **form.cleaned_data)
                return self._show_secrets(request, [created])
        return super().add_view(request, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: BotKey, form: Any, change: bool) -> None:
        services.change_key(key=obj, changed=form.changed_data, actor=actor_of(request))

    @admin.action(description="Rotate: new secret, the old one stays valid for a day", permissions=["change"])
    def rotate(self, request: HttpRequest, keys: QuerySet[BotKey]) -> HttpResponse | None:
        rotated = []
        for key in keys:
            try:
                with use_case():
                    rotated.append((key, services.rotate_key(key=key, actor=actor_of(request))))
            except DomainError as refusal:
                self.message_user(request, f"Key {key}: {refusal.message}", messages.ERROR)
        return self._show_secrets(request, rotated) if rotated else None

    @admin.action(description="Revoke: the next request is refused", permissions=["change"])
    def revoke(self, request: HttpRequest, keys: QuerySet[BotKey]) -> HttpResponse | None:
        if "confirmed" not in request.POST:
            context = self._context(request, title="Revoke keys", keys=keys)
            return TemplateResponse(request, "admin/revoke_keys.html", context)
        for key in keys:
            services.revoke_key(key=key, actor=actor_of(request))
        self.message_user(request, f"Revoked: {', '.join(str(key) for key in keys)}.")
        return None

    def _show_secrets(self, request: HttpRequest, secrets: list[tuple[BotKey, services.NewSecret]]) -> HttpResponse:
        context = self._context(request, title="Note the secret now: it is not shown again", secrets=secrets)
        response = TemplateResponse(request, "admin/key_secret.html", context)
        response["Cache-Control"] = "no-store"
        return response

    def _context(self, request: HttpRequest, **more: Any) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts, **more}
