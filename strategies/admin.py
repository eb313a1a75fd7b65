"""Who publishes and who copies; freezing, pausing, ending."""

from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString

from audit.admin import Told
from audit.people import actor_of
from core.admin import NeverDeleted, chip, number, ref
from core.steps import ReasonForm
from strategies import services
from strategies.models import Strategy, Subscription


@admin.register(Strategy)
class StrategyAdmin(Told):
    """A strategy is published from one account, by that account's owner."""

    told_as = "strategy"
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
        obj.owner = obj.account.owner
        if change:  # what the form shows, and nothing that was decided meanwhile
            obj.save(update_fields=form.changed_data)
        else:
            super().save_model(request, obj, form, change)

    @admin.display(description="state", ordering="status")
    def state(self, strategy: Strategy) -> SafeString:
        if strategy.status == Strategy.Status.CLOSE_ONLY:
            return chip("close-only", "bad")
        return chip("active", "good") if strategy.takes_subscribers else chip("no new subscribers", "wait")

    @admin.action(description="Freeze: opens are refused, closes pass", permissions=["change"])
    def freeze(self, request: HttpRequest, chosen: QuerySet[Strategy]) -> HttpResponse | None:
        lead = "The desk refuses their opens from now on. Closes always pass."
        return self._with_reason(request, chosen, "freeze", lead, services.freeze)

    @admin.action(description="Thaw: opens are taken again", permissions=["change"])
    def thaw(self, request: HttpRequest, chosen: QuerySet[Strategy]) -> HttpResponse | None:
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


class SubscriptionForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean_strategy(self) -> Strategy:
        strategy: Strategy = self.cleaned_data["strategy"]
        if not strategy.takes_subscribers:
            raise forms.ValidationError(services.TakesNoSubscribers.detail)
        return strategy


@admin.register(Subscription)
class SubscriptionAdmin(NeverDeleted):
    form = SubscriptionForm
    list_display = ["sub_id", "state", "account", "strategy", "times", "created_at"]
    list_filter = ["status", "strategy"]
    list_select_related = ["account", "strategy"]
    search_fields = ["sub_id", "account__name", "strategy__name"]
    autocomplete_fields = ["account", "strategy"]
    ordering = ["-id"]
    search_help_text = "Subscription id, account or strategy"
    actions = ["pause", "resume", "end"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["ref", "state", "strategy", "account", "created_at"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ["strategy", "account", "multiplier"]
        return ["ref", "state", *asked, "created_at"] if obj else asked

    @admin.display(description="subscription id")
    def ref(self, one: Subscription) -> SafeString:
        return ref(one.sub_id)

    @admin.display(description="multiplier", ordering="multiplier")
    def times(self, one: Subscription) -> SafeString:
        return number(one.multiplier)

    @admin.display(description="state", ordering="status")
    def state(self, one: Subscription) -> SafeString:
        return chip(one.status.lower(), "good" if one.status == Subscription.Status.ACTIVE else "bad")

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        if change:
            services.resize(subscription=obj, multiplier=obj.multiplier, actor=actor_of(request))
            return
        made = services.subscribe(
            account=obj.account, strategy=obj.strategy, multiplier=obj.multiplier, actor=actor_of(request)
        )
        obj.pk = made.pk

    @admin.action(description="Pause: nothing new is copied, closes pass", permissions=["change"])
    def pause(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> None:
        self._each(request, chosen, services.pause)

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> None:
        self._each(request, chosen, services.resume)

    @admin.action(description="End: the stream is no longer shown to it", permissions=["change"])
    def end(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> None:
        self._each(request, chosen, services.end)

    def _each(self, request: HttpRequest, chosen: QuerySet[Subscription], verb: Callable[..., None]) -> None:
        for subscription in chosen:
            verb(subscription=subscription, actor=actor_of(request))
        self.message_user(request, f"{verb.__name__.capitalize()}: done for {_listed(chosen)}.")


def _listed(rows: Iterable[Any]) -> str:
    return ", ".join(str(row) for row in rows)
