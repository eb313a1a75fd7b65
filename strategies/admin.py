"""Who publishes and who copies; freezing, pausing, ending."""

from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.admin import Told
from audit.people import actor_of
from core.admin import NeverDeleted, chip, number, ref
from core.steps import ReasonForm
from strategies import services, telling
from strategies.forms import RotateForm, TermsForm
from strategies.models import Strategy, Subscription, Terms

_TERMS_LEAD = "What is opened from now on is copied like this, in a few seconds. Open copies stay as they are."
_ROTATE_LEAD = "The old secret signs until the bot has the new one, for a day at most."
_HOLD_INSTEAD = "Set a hold on that score, so that it stays open until a day. Nothing was done."


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
        if by_score := chosen.filter(frozen_for=Strategy.FrozenFor.TRUST):
            no = f"{_listed(by_score)}: closed by the owner's trust score, which would close it again. {_HOLD_INSTEAD}"
            self.message_user(request, no, messages.ERROR)
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


class SubscriptionForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean_strategy(self) -> Strategy:
        strategy: Strategy = self.cleaned_data["strategy"]
        if not strategy.takes_subscribers:
            raise forms.ValidationError(services.TakesNoSubscribers.detail)
        return strategy


class TermsInline(admin.TabularInline):  # type: ignore[type-arg]
    """What held when. Nobody edits these: new terms are set by a step."""

    model = Terms
    fields = ["since", "told", "equity", "master_equity"]
    readonly_fields = ["since", "told", "equity", "master_equity"]
    extra = 0
    max_num = 0
    can_delete = False
    ordering = ["-id"]
    verbose_name_plural = "terms, the latest first"

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="settings")
    def told(self, terms: Terms) -> str:
        return telling.terms(terms)


@admin.register(Subscription)
class SubscriptionAdmin(NeverDeleted):
    form = SubscriptionForm
    list_display = ["sub_id", "state", "account", "strategy", "copies_by", "created_at"]
    list_filter = ["status", "paused_for", "strategy"]
    list_select_related = ["account", "strategy"]
    search_fields = ["sub_id", "account__name", "strategy__name"]
    autocomplete_fields = ["account", "strategy"]
    ordering = ["-id"]
    search_help_text = "Subscription id, account or strategy"
    actions = ["set_terms", "pause", "resume", "rotate_secret", "end"]

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [TermsInline] if obj else []

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        last = Terms.objects.filter(subscription=OuterRef("pk")).order_by("-pk")
        rows: QuerySet[Any] = super().get_queryset(request)
        return rows.annotate(mode=Subquery(last.values("mode")[:1]), multiplier=Subquery(last.values("multiplier")[:1]))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return ["ref", "state", "strategy", "account", "packet_generation", "created_at"] if obj else []

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        asked = ["strategy", "account"]
        return ["ref", "state", *asked, "packet_generation", "created_at"] if obj else asked

    @admin.display(description="subscription id")
    def ref(self, one: Subscription) -> SafeString:
        return ref(one.sub_id)

    @admin.display(description="copies", ordering="mode")
    def copies_by(self, one: Any) -> SafeString | str:
        if one.mode == Terms.Mode.MULTIPLIER:
            return format_html("× {}", number(one.multiplier))
        return str(Terms.Mode(one.mode).name.lower())

    @admin.display(description="state", ordering="status")
    def state(self, one: Subscription) -> SafeString:
        why = f": {one.get_paused_for_display()}" if one.paused_for else ""
        return chip(f"{one.status.lower()}{why}", "good" if one.status == Subscription.Status.ACTIVE else "bad")

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        if not change:
            made = services.subscribe(account=obj.account, strategy=obj.strategy, actor=actor_of(request))
            obj.pk = made.pk

    @admin.action(description="Set the terms: how it copies", permissions=["change"])
    def set_terms(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        """One subscription's settings, on a page that shows what holds now."""
        found = list(chosen[:2])
        if len(found) != 1:
            self.message_user(request, "Choose one subscription, not several.", messages.ERROR)
            return None
        form = TermsForm(request.POST if "confirmed" in request.POST else None, instance=services.terms_of(found[0]))
        if not form.is_valid():
            return self._ask(request, "set_terms", f"How {found[0]} copies", _TERMS_LEAD, found, form)
        services.set_terms(subscription=found[0], actor=actor_of(request), **form.settings())
        self.message_user(request, f"{found[0]}: these terms hold for what is opened from now on, in a few seconds.")
        return None

    @admin.action(description="Rotate the packet secret: a new one, shown once", permissions=["change"])
    def rotate_secret(self, request: HttpRequest, chosen: QuerySet[Subscription]) -> HttpResponse | None:
        form = RotateForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            return self._ask(request, "rotate_secret", "Rotate packet secrets", _ROTATE_LEAD, list(chosen), form)
        at_once = form.cleaned_data["at_once"]
        made = [
            (one, services.rotate_packet_secret(subscription=one, actor=actor_of(request), at_once=at_once))
            for one in chosen
        ]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "New packet secrets",
            "made": made,
        }
        answer = TemplateResponse(request, "admin/packet_secrets.html", context)
        add_never_cache_headers(answer)
        return answer

    def _ask(
        self, request: HttpRequest, action: str, title: str, lead: str, chosen: list[Subscription], form: Any
    ) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "lead": lead,
            "back": reverse("admin:strategies_subscription_changelist"),
            "chosen": chosen,
            "action": action,
            "form": form,
        }
        return TemplateResponse(request, "admin/reason.html", context)

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
