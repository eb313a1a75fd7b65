"""Strategies and subscriptions in the admin, with confirmed actions for what changes them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.actors import actor_of
from audit.admin import AuditedAdmin
from core.confirmed_actions import ConfirmedAction, ConfirmedActionsAdmin, ReasonForm, change_url
from core.formatting import chip, number, ref
from strategies import explanations, facts, services
from strategies.forms import RotateForm, TermsForm
from strategies.models import Strategy, Subscription, Terms

_HOLD_INSTEAD = "Set a hold on that score instead, to keep the strategy open until a chosen day. Nothing was changed."


@admin.register(Strategy)
class StrategyAdmin(AuditedAdmin):
    """A strategy is published from one account and belongs to that account's owner."""

    audit_subject = "strategy"
    list_display = ["name", "state", "title", "owner", "account", "last_seq", "created_at"]
    list_filter = ["status"]
    list_select_related = ["owner", "account"]
    search_fields = ["name", "title", "owner__username"]
    search_help_text = "Name, title or owner"
    autocomplete_fields = ["account"]
    fields = ["name", "title", "account", "owner", "state", "last_seq", "created_at"]
    ordering = ["name"]
    actions = ["freeze", "thaw"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["owner", "state", "last_seq", "created_at", *(["name", "account"] if obj else [])]

    def save_model(self, request: HttpRequest, obj: Strategy, form: Any, change: bool) -> None:
        if change:
            services.change_strategy(strategy=obj, changed=form.changed_data)
        else:
            services.publish(strategy=obj)

    @admin.display(description="state", ordering="status")
    def state(self, strategy: Strategy) -> SafeString:
        if strategy.status == Strategy.Status.CLOSE_ONLY:
            return chip("close-only", "bad")
        return chip("active", "good") if strategy.takes_subscribers else chip("no new subscribers", "wait")

    @admin.action(description="Freeze: refuse opens, accept closes", permissions=["change"])
    def freeze(self, request: HttpRequest, chosen: QuerySet[Strategy]) -> HttpResponse | None:
        lead = "From now on the desk refuses their opens. It always accepts closes."
        return self._with_reason(request, chosen, "freeze", lead, services.freeze)

    @admin.action(description="Thaw: accept opens again", permissions=["change"])
    def thaw(self, request: HttpRequest, chosen: QuerySet[Strategy]) -> HttpResponse | None:
        if by_score := chosen.filter(frozen_for=Strategy.FrozenFor.TRUST):
            text = (
                f"{_listed(by_score)}: frozen by the owner's trust score, which would freeze it again. {_HOLD_INSTEAD}"
            )
            self.message_user(request, text, messages.ERROR)
            return None
        return self._with_reason(request, chosen, "thaw", "They may open trades again.", services.thaw)

    def _with_reason(
        self, request: HttpRequest, chosen: QuerySet[Strategy], action: str, lead: str, verb: Callable[..., None]
    ) -> HttpResponse | None:
        form = ReasonForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": f"{action.capitalize()} strategies",
                "lead": lead,
                "back": reverse("admin:strategies_strategy_changelist"),
                "chosen": chosen,
                "action": action,
                "form": form,
            }
            return TemplateResponse(request, "admin/reason.html", context)
        for strategy in chosen:
            verb(strategy=strategy, actor=actor_of(request), reason=form.cleaned_data["reason"])
        self.message_user(request, f"{action.capitalize()}: done for {_listed(chosen)}.")
        return None


class SubscriptionForm(forms.ModelForm):
    def clean_strategy(self) -> Strategy:
        strategy: Strategy = self.cleaned_data["strategy"]
        if not strategy.takes_subscribers:
            raise forms.ValidationError(services.TakesNoSubscribers.detail)
        return strategy

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if {"account", "strategy"} <= values.keys() and services.follows_in_circle(
            account=values["account"], strategy=values["strategy"]
        ):
            self.add_error("account", services.FollowsInCircle.detail)
        return values


class TermsInline(admin.TabularInline):
    """The history of a subscription's terms, read-only. The action “Set terms” adds new ones."""

    model = Terms
    fields = ["held_since", "summary", "equity", "master_equity", "made_at"]
    readonly_fields = ["held_since", "summary", "equity", "master_equity", "made_at"]
    extra = 0
    max_num = 0
    can_delete = False
    ordering = ["-id"]
    verbose_name_plural = "terms, the latest first"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="since")
    def held_since(self, terms: Terms) -> str:
        return "always" if terms.since == services.ALWAYS else f"{terms.since:%Y-%m-%d %H:%M:%S}"

    @admin.display(description="settings")
    def summary(self, terms: Terms) -> str:
        return explanations.terms(terms)


SET_TERMS = ConfirmedAction(
    "set_terms", "Set terms", "In a few seconds these terms hold for all trades that are opened from then on. Open "
    "copies stay as they are.", TermsForm,  # type: ignore[arg-type]
)  # fmt: skip
PAUSE = ConfirmedAction("pause", "Pause", "New trades are not copied. Closes and reductions continue.", forms.Form)
RESUME = ConfirmedAction(
    "resume", "Resume", "Trades opened from now on are copied again, whatever the pause was for.", forms.Form
)
ROTATE = ConfirmedAction(
    "rotate_secret", "Rotate signal secret", "The old secret signs until the bot has the new one, for at most a day. "
    "The next page shows the new secret once.", RotateForm,
)  # fmt: skip
END = ConfirmedAction(
    "end", "End", "The copier no longer receives the stream, nor its closes. The subscriber must close open copies.",
    forms.Form, grave=True,
)  # fmt: skip


@admin.register(Subscription)
class SubscriptionAdmin(ConfirmedActionsAdmin):
    """A form creates a subscription. Confirmed actions do everything else."""

    form = SubscriptionForm
    add_form_template = "admin/change_form.html"
    list_display = ["sub_id", "state", "account", "strategy", "copies_by", "created_at"]
    list_filter = ["status", "paused_for", "strategy"]
    list_select_related = ["account", "strategy"]
    search_fields = ["sub_id", "account__name", "strategy__name"]
    autocomplete_fields = ["account", "strategy"]
    ordering = ["-id"]
    search_help_text = "Subscription id, account or strategy"
    actions = ["set_terms", "pause", "resume", "rotate_secret", "end"]
    confirmation_columns = ["ref", "account_", "strategy_", "state"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("strategies.add_subscription")

    def has_decide_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("strategies.change_subscription")

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [TermsInline] if obj else []

    def get_queryset(self, request: HttpRequest) -> Any:
        last = Terms.objects.filter(subscription=OuterRef("pk")).order_by("-pk")
        rows = super().get_queryset(request)
        return rows.annotate(mode=Subquery(last.values("mode")[:1]), multiplier=Subquery(last.values("multiplier")[:1]))

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        fields = ["strategy", "account"]
        if obj is None:
            return fields
        return ["ref", "state", *fields, "packet_generation", "next_generation", "created_at", "contracts", "warnings"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return list(self.get_fields(request, obj)) if obj else []

    def offered_actions(self, obj: Subscription | None) -> Sequence[ConfirmedAction]:
        if obj is None or obj.status == Subscription.Status.ENDED:
            return ()
        return (SET_TERMS, PAUSE if obj.status == Subscription.Status.ACTIVE else RESUME, ROTATE, END)

    @admin.display(description="subscription id")
    def ref(self, subscription: Subscription) -> SafeString:
        return ref(subscription.sub_id)

    @admin.display(description="contract sizes")
    def contracts(self, subscription: Subscription) -> str:
        """Those where lots are converted, as the latest terms have them."""
        sizes = services.terms_of(subscription).facts.get("sizes", {})
        texts = [f"{symbol}: provider {provider}, copier {copier}" for symbol, (provider, copier) in sizes.items()]
        return "; ".join(texts) or "as the provider's"

    @admin.display(description="warnings")
    def warnings(self, subscription: Subscription) -> str:
        source = facts.Source.of_all([subscription], timezone.now())
        contracts = source.contracts(subscription, services.terms_of(subscription).symbol_map)
        return " ".join(explanations.warnings(subscription, contracts)) or "none"

    @admin.display(description="account")
    def account_(self, subscription: Subscription) -> str:
        return subscription.account.name

    @admin.display(description="strategy")
    def strategy_(self, subscription: Subscription) -> str:
        return subscription.strategy.name

    @admin.display(description="copies", ordering="mode")
    def copies_by(self, subscription: Any) -> SafeString | str:
        if subscription.mode == Terms.Mode.MULTIPLIER:
            return format_html("× {}", number(subscription.multiplier))
        return str(Terms.Mode(subscription.mode).name.lower())

    @admin.display(description="state", ordering="status")
    def state(self, subscription: Subscription) -> SafeString:
        why = f" {subscription.get_paused_for_display()}" if subscription.paused_for else ""
        kinds = {Subscription.Status.ACTIVE: "good", Subscription.Status.PAUSED: "bad"}
        kind = kinds.get(Subscription.Status(subscription.status), "")
        return chip(f"{subscription.status.lower()}{why}", kind)

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        if not change:
            subscription = services.subscribe(account=obj.account, strategy=obj.strategy, actor=actor_of(request))
            obj.pk = subscription.pk
            if waits := _still_paused(subscription):
                self.message_user(request, f"{subscription}: {waits}", messages.WARNING)

    @admin.action(description="Set terms: how trades are copied", permissions=["decide"])
    def set_terms(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        """Set the terms of one subscription, on a page that shows the present ones."""
        subscription = self.single(request, chosen.select_related("account", "strategy"))
        if subscription is None:
            return None
        data = request.POST if "confirmed" in request.POST else None
        form = TermsForm(data, instance=services.terms_of(subscription))
        if not form.is_valid():
            return self.ask_confirmation(request, SET_TERMS, [subscription], form)  # type: ignore[arg-type]
        services.set_terms(subscription=subscription, actor=actor_of(request), **form.settings())
        text = f"{subscription}: in a few seconds these terms hold for all trades that are opened from then on."
        self.message_user(request, text)
        return redirect(change_url(subscription))

    @admin.action(description="Pause: do not copy new trades, accept closes", permissions=["decide"])
    def pause(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        return self._each(request, chosen, PAUSE, services.pause)

    @admin.action(description="Resume: copy trades opened from now on", permissions=["decide"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        return self._each(request, chosen, RESUME, services.resume)

    @admin.action(description="End: stop the stream to this copier", permissions=["decide"])
    def end(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        return self._each(request, chosen, END, services.end)

    def _each(
        self, request: HttpRequest, chosen: QuerySet[Subscription], action: ConfirmedAction, verb: Callable[..., None]
    ) -> HttpResponse | None:
        form = action.bound_form(request)
        rows = list(chosen.select_related("account", "strategy"))
        if not form.is_valid():
            return self.ask_confirmation(request, action, rows, form)
        refused = []
        for subscription in rows:
            try:
                verb(subscription=subscription, actor=actor_of(request))
                subscription.refresh_from_db(fields=["status", "paused_for"])
                fault = _still_paused(subscription) if action in (PAUSE, RESUME) else ""
            except services.FollowsInCircle as refusal:
                fault = refusal.message
            if fault:
                self.message_user(request, f"{subscription}: {fault}", messages.ERROR)
                refused.append(subscription)
        if done := [subscription for subscription in rows if subscription not in refused]:
            self.message_user(request, f"{action.title}: done for {_listed(done)}.")
        return redirect(change_url(rows[0])) if len(rows) == 1 else None

    @admin.action(description="Rotate signal secret: create a new one, shown once", permissions=["decide"])
    def rotate_secret(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        form = ROTATE.bound_form(request)
        rows = list(chosen.select_related("account", "strategy"))
        if not form.is_valid():
            return self.ask_confirmation(request, ROTATE, rows, form)
        at_once, actor = form.cleaned_data["at_once"], actor_of(request)
        secrets = [
            (
                row,
                services.rotate_packet_secret(subscription=row, actor=actor, at_once=at_once),
                _newest_generation(row),
            )
            for row in rows
        ]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Note the secret now: it is not shown again",
            "secrets": secrets,
        }
        return TemplateResponse(request, "admin/packet_secrets.html", context)


def _still_paused(subscription: Subscription) -> str:
    """Why neither a pause nor a resume by staff holds: only the subscriber ends these pauses. Empty: it does."""
    if subscription.paused_for == Subscription.PausedFor.TERMS:
        return "nothing is copied until its subscriber accepts the strategy's fees."
    if subscription.paused_for == Subscription.PausedFor.UNPAID:
        return "nothing is copied until its subscriber pays the fee that is due."
    return ""


def _newest_generation(subscription: Subscription) -> int:
    subscription.refresh_from_db(fields=["packet_generation", "next_generation"])
    return subscription.next_generation or subscription.packet_generation


def _listed(rows: Iterable[Any]) -> str:
    return ", ".join(str(row) for row in rows)
