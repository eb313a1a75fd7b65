"""Fee terms of strategies, and the fee agreements of subscribers."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models import Count, Exists, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.admin import AuditedAdmin
from core import formatting, money
from core.confirmed_actions import link
from wallets.admin.base import ROWS, LedgerAdmin
from wallets.models import FeeAcceptance, FeeAgreement, FeeNotice, FeeTerms, Settlement


@admin.register(FeeTerms)
class FeeTermsAdmin(AuditedAdmin):
    """Terms are added and never changed, because agreements refer to them."""

    audit_subject = "fee_terms"
    list_display = ["strategy", "state", "performance", "monthly", "platform", "accepted_by", "created_at"]
    list_filter = ["strategy"]
    list_select_related = ["strategy"]
    list_per_page = 50
    search_fields = ["strategy__name"]
    search_help_text = "Strategy"
    autocomplete_fields = ["strategy"]
    fields = ["strategy", "performance_bps", "subscription_fee", "platform_bps"]
    readonly_fields = ["accepted_by", "noticed"]
    ordering = ["strategy__name", "-id"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [*super().get_fields(request, obj), *(self.readonly_fields if obj else [])]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> Any:
        newer_terms = FeeTerms.objects.filter(strategy=OuterRef("strategy"), pk__gt=OuterRef("pk"))
        counted = Count("acceptances", distinct=True)
        return super().get_queryset(request).annotate(is_old=Exists(newer_terms), acceptance_count=counted)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        maximum = {"performance_bps": 5000, "platform_bps": 10_000}.get(db_field.name)
        bounds = {"max_value": maximum} if maximum else {}
        if db_field.name == "subscription_fee":
            bounds = {"min_value": 0}
        return super().formfield_for_dbfield(db_field, request, **kwargs, **bounds) if bounds else field

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return [(None, {"fields": self.get_fields(request, obj), "description": "" if obj else self._consequences()})]

    def _consequences(self) -> str:
        return (
            "Followers keep the fees that they agreed to until they accept these. Where these cost more, those who have"
            f" not accepted within {max(1, settings.FEE_NOTICE_DAYS)} days stop following. New followers copy nothing"
            " before they accept. The platform's share changes with the acceptance too."
        )

    @admin.display(description="state")
    def state(self, terms: Any) -> SafeString:
        return formatting.chip("replaced") if terms.is_old else formatting.chip("offered", "good")

    @admin.display(description="accepted by", ordering="acceptance_count")
    def accepted_by(self, terms: Any) -> SafeString:
        return _listed_link("feeacceptance", terms, str(terms.acceptance_count))

    @admin.display(description="notices")
    def noticed(self, terms: FeeTerms) -> SafeString:
        return _listed_link("feenotice", terms, "all notices of these terms")

    @admin.display(description="performance fee, %", ordering="performance_bps")
    def performance(self, terms: FeeTerms) -> SafeString:
        return percent(terms.performance_bps)

    @admin.display(description="fee per month", ordering="subscription_fee")
    def monthly(self, terms: FeeTerms) -> SafeString:
        return formatting.amount(terms.subscription_fee)

    @admin.display(description="platform's share, %", ordering="platform_bps")
    def platform(self, terms: FeeTerms) -> SafeString:
        return percent(terms.platform_bps)


def percent(bps: int) -> SafeString:
    return formatting.number(Decimal(bps) / 100)


def _listed_link(model: str, terms: FeeTerms, text: str) -> SafeString:
    """A link to the list of that model, filtered by these terms."""
    return format_html('<a href="{}?terms__id__exact={}">{}</a>', _list_of(model), terms.pk, text)


def _list_of(model: str) -> str:
    return reverse(f"admin:wallets_{model}_changelist")


@admin.register(FeeAcceptance)
class FeeAcceptanceAdmin(LedgerAdmin):
    """Who accepted which terms, and when. The rows are for ever."""

    list_display = ["accepted_at", "subscriber", "strategy", "currency", "terms_"]
    list_filter = ["accepted_at", "strategy", ("terms", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["subscriber", "strategy", "terms"]
    search_fields = ["subscriber__username", "strategy__name"]
    search_help_text = "Subscriber or strategy"
    ordering = ["-accepted_at", "-id"]
    fields = ["subscriber", "strategy", "currency", "terms_", "accepted_at", "agreement_"]
    readonly_fields = ["terms_", "agreement_"]

    @admin.display(description="terms", ordering="terms")
    def terms_(self, acceptance: FeeAcceptance) -> SafeString | str:
        return link(acceptance.terms, describe_terms(acceptance.terms))

    @admin.display(description="agreement")
    def agreement_(self, acceptance: FeeAcceptance) -> SafeString | str:
        parties = {name: getattr(acceptance, name) for name in ("subscriber", "strategy", "currency")}
        agreement = FeeAgreement.objects.filter(**parties).first()
        return link(agreement)


@admin.register(FeeNotice)
class FeeNoticeAdmin(LedgerAdmin):
    """New terms that existing followers have to answer."""

    list_display = ["given_at", "subscription_", "terms_", "ends_at", "answer"]
    list_filter = ["outcome", "ends_at", "terms__strategy", ("terms", admin.RelatedOnlyFieldListFilter)]
    list_select_related = ["subscription__account", "subscription__strategy", "terms"]
    search_fields = ["subscription__sub_id", "subscription__account__owner__username", "terms__strategy__name"]
    search_help_text = "Subscription, subscriber or strategy"
    ordering = ["-given_at", "-id"]
    fields = ["subscription_", "terms_", "given_at", "ends_at", "declined_at", "answer", "closed_at"]
    readonly_fields = ["subscription_", "terms_", "answer"]

    @admin.display(description="subscription", ordering="subscription__sub_id")
    def subscription_(self, notice: FeeNotice) -> SafeString | str:
        return link(notice.subscription)

    @admin.display(description="terms", ordering="terms")
    def terms_(self, notice: FeeNotice) -> SafeString | str:
        return link(notice.terms, describe_terms(notice.terms))

    @admin.display(description="answer", ordering="outcome")
    def answer(self, notice: FeeNotice) -> SafeString:
        if notice.outcome:
            return formatting.chip(notice.get_outcome_display(), _OUTCOME_CHIPS.get(notice.outcome, ""))
        return formatting.chip("declined", "bad") if notice.declined_at else formatting.chip("no answer yet", "wait")


_OUTCOME_CHIPS = {FeeNotice.Outcome.ACCEPTED.value: "good", FeeNotice.Outcome.STOPPED.value: "bad"}


class PostponedFilter(admin.SimpleListFilter):
    title = parameter_name = "postponed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Sequence[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[FeeAgreement]) -> QuerySet[FeeAgreement]:
        if self.value() == "yes":
            return queryset.exclude(postponed="")
        return queryset.filter(postponed="") if self.value() else queryset


@admin.register(FeeAgreement)
class FeeAgreementAdmin(LedgerAdmin):
    change_form_template = "admin/wallets/agreement.html"
    list_display = ["subscriber", "strategy", "agreed", "high_water_mark_", "currency", "due_at", "postponed_"]
    list_filter = [PostponedFilter, "due_at", "strategy"]
    list_select_related = ["subscriber", "strategy", "terms__strategy", "acceptance", "next_acceptance"]
    search_fields = ["subscriber__username", "strategy__name"]
    search_help_text = "Subscriber or strategy"
    ordering = ["due_at", "id"]
    fields = [
        "subscriber",
        "strategy",
        "currency",
        "agreed",
        "agreed_next",
        "high_water_mark_",
        "started_at",
        "due_at",
        "postponed",
    ]
    readonly_fields = ["agreed", "agreed_next", "high_water_mark_"]

    def get_queryset(self, request: HttpRequest) -> Any:
        settlements = Settlement.objects.filter(agreement=OuterRef("pk")).order_by("-period_no")
        return (
            super()
            .get_queryset(request)
            .annotate(latest_high_water_mark=Subquery(settlements.values("high_water_mark")[:1]))
        )

    @admin.display(description="terms")
    def agreed(self, agreement: FeeAgreement) -> SafeString | str:
        return _accepted(agreement.terms, agreement.acceptance)

    @admin.display(description="terms from the next period on")
    def agreed_next(self, agreement: FeeAgreement) -> SafeString | str:
        return _accepted(agreement.next_terms, agreement.next_acceptance)

    @admin.display(description="high-water mark", ordering="latest_high_water_mark")
    def high_water_mark_(self, agreement: Any) -> SafeString:
        return formatting.amount(agreement.latest_high_water_mark)

    @admin.display(description="postponed", ordering="postponed")
    def postponed_(self, agreement: FeeAgreement) -> SafeString | str:
        return formatting.chip(agreement.postponed, "wait") if agreement.postponed else "–"

    def page_context(self, request: HttpRequest, agreement: FeeAgreement) -> dict[str, Any]:
        claims = agreement.claims.order_by("-created_at")
        return {"settlements": agreement.settlements.order_by("-period_no")[:ROWS], "claims": claims[:ROWS]}


def _accepted(terms: FeeTerms, acceptance: FeeAcceptance | None) -> SafeString | str:
    """The terms, linked to their acceptance; terms that were not accepted charge nothing."""
    if acceptance is None:
        return f"{describe_terms(terms)}: not accepted, nothing is charged"
    return link(acceptance, describe_terms(terms))


def describe_terms(terms: FeeTerms) -> str:
    return f"{terms.performance_bps / 100:g} %, {money.grouped(terms.subscription_fee)} a month"
